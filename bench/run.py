"""Measure acebase-ipc against other relays, and print two tables.

The others are acebase-ipc without its C extension, a plain Autobahn relay, and
a bare relay on picows and uvloop. All are measured in turn, each run with a
fresh server process. A complete run in which nothing fails writes
bench/results.json, docs/performance.svg and the tables in
docs/performance.rst; any other only prints, unless --json is given.

With --against, the acebase-ipc of another Python environment takes the place
of the plain relay, and the table shows the ratio new/old of each figure. With
--against-options, this acebase-ipc with further options takes it: "old" is the
relay with these options, "new" the relay without them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autobahn import websocket

from bench import report
from bench.comparison import NEW, OLD, comparison_table
from bench.processes import (
    ROOT,
    BenchError,
    Generator,
    Sample,
    build_generator,
    raise_file_limit,
    two_cores,
)
from bench.report import BUSY, Results, is_sound, text_table, update_document
from bench.servers import (
    BASELINE,
    PICOWS,
    THIS_PYTHON,
    Program,
    Server,
    distributions,
    relay,
    require_equal,
    running_server,
)
from bench.workloads import WORKLOADS, Workload, find_workloads
from tests.certificates import make_certificate

RESULTS = ROOT / "bench" / "results.json"
PLOT = ROOT / "docs" / "performance.svg"
DOCUMENT = ROOT / "docs" / "performance.rst"
BUILD = ROOT / "build" / "bench"

REPEATS = 3
REPEATS_OF_A_COMPARISON = 5

Source = Program | Server
"""A program that is started for each run, or a server that accepts connections already."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The length and number of the runs.

    :ivar seconds: measured in each run.
    :ivar warm_up: seconds before that.
    :ivar anywhere: whether the server may be on another machine.
    """

    repeats: int = REPEATS
    seconds: float = 2.0
    warm_up: float = 0.5
    anywhere: bool = False
    token: str | None = None


class Bench:
    """Runs the generator against servers.

    :ivar sources: the servers by their names in the results.
    :param directory: for logs and a certificate.
    """

    def __init__(
        self,
        generator: Generator,
        directory: Path,
        settings: Settings,
        sources: Mapping[str, Source],
    ) -> None:
        self.sources = sources
        self.settings = settings
        self._generator = generator
        self._directory = directory
        self._server_core, self._generator_core = two_cores()
        self._pem = make_certificate(directory).pem

    def can_run(self, workload: Workload) -> bool:
        """Whether TLS is there if *workload* needs it; a given URL decides on TLS by itself."""
        if any(isinstance(each, Server) for each in self.sources.values()):
            return not workload.secure
        return self._generator.tls or not workload.secure

    def sources_of(self, workload: Workload) -> list[str]:
        """The names of the servers that can be measured with *workload*."""
        return [
            name
            for name, source in self.sources.items()
            if not workload.uses_http or isinstance(source, Server) or source.has_http
        ]

    def run(self, workload: Workload, name: str) -> Sample:
        """One run against a fresh server."""
        log = self._directory / f"{name}.log"
        log.write_bytes(b"")
        try:
            with self._server(workload, self.sources[name], log) as server:
                arguments = self._arguments(workload, server)
                sample = self._generator.run(arguments, self._generator_core)
        except BenchError as error:
            sample = {"failure": str(error)}
        if "Traceback" in log.read_text(errors="replace"):
            sample["failure"] = log.read_text(errors="replace")
        return sample

    @contextmanager
    def _server(self, workload: Workload, source: Source, log: Path) -> Iterator[Server]:
        if isinstance(source, Server):
            yield source
            return
        pem = self._pem if workload.secure else None
        with running_server(source, log, pem, self._server_core, workload.options) as server:
            yield server

    def _arguments(self, workload: Workload, server: Server) -> list[str]:
        settings = self.settings
        arguments = [*workload.arguments, f"url={server.url}", f"pid={server.pid}"]
        arguments += [f"secs={settings.seconds}", f"warm={settings.warm_up}"]
        arguments += ["anywhere=1"] if settings.anywhere else []
        arguments += [f"token={settings.token}"] if settings.token is not None else []
        return arguments


def environment() -> dict[str, Any]:
    """The system and the versions that the figures depend on."""
    uses_nvx = getattr(websocket, "USES_NVX", False)  # older releases do not name it
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "acebase-ipc": version("acebase-ipc"),
        "Twisted": version("Twisted"),
        "autobahn": f"{version('autobahn')} {'with' if uses_nvx else 'without'} NVX",
        "pyOpenSSL": version("pyOpenSSL"),
    }


def measure(bench: Bench, workloads: list[Workload], tell: Callable[[str], object]) -> Results:
    """Run each workload against each server in turn, and that again for each repeat.

    Every other repeat takes the servers in reverse, so that none is always the first.
    """
    workloads = [each for each in workloads if bench.can_run(each)]
    samples: dict[str, dict[str, list[Sample]]] = {
        each.name: {name: [] for name in bench.sources_of(each)} for each in workloads
    }
    settings = bench.settings
    load_before = os.getloadavg()[0]
    if load_before > BUSY:
        tell(f"this machine is busy (load {load_before:.1f}): expect noise")
    for repeat in range(settings.repeats):
        for workload in workloads:
            for name in bench.sources_of(workload)[:: -1 if repeat % 2 else 1]:
                tell(f"{repeat + 1}/{settings.repeats} {workload.name} {name}")
                samples[workload.name][name].append(bench.run(workload, name))
    return Results(
        environment=environment() | {"load before": round(load_before, 1)},
        settings={
            "repeats": settings.repeats,
            "seconds": settings.seconds,
            "warm_up": settings.warm_up,
        },
        arguments={each.name: list(each.arguments) for each in workloads},
        samples=samples,
    )


def draw(results: Results) -> None:
    """Write the plot and the table of the documentation."""
    from bench.plot import write_plot  # here, because only this needs matplotlib

    write_plot(results, PLOT)
    DOCUMENT.write_text(update_document(DOCUMENT.read_text(), results))


def choose_sources(given: argparse.Namespace) -> dict[str, Source]:
    """The servers that a command line wants measured, by name.

    :raises BenchError: if the environment of ``--against`` differs in more than acebase-ipc.
    """
    if given.url is not None:
        return {"url": Server(given.url)}
    if given.against is not None:
        require_equal(distributions(THIS_PYTHON), distributions(given.against))
        return {NEW: relay(), OLD: relay(given.against.absolute())}
    if given.against_options is not None:
        return {NEW: relay(), OLD: relay(THIS_PYTHON, *given.against_options)}
    pure = replace(relay(), environment={"ACEBASE_IPC_PURE": "1"})
    return {
        report.OURS: relay(),
        report.PURE: pure,
        report.AUTOBAHN: BASELINE,
        report.PICOWS: PICOWS,
    }


def is_comparison(given: argparse.Namespace) -> bool:
    """Whether acebase-ipc is measured against acebase-ipc."""
    return given.against is not None or given.against_options is not None


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    names = [each.name for each in WORKLOADS]
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="1 repeat of 1 s each")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=names,
        metavar="NAME",
        help=f"measure this workload; may be repeated: {', '.join(names)}",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        help=f"default: {REPEATS}, of a comparison {REPEATS_OF_A_COMPARISON}",
    )
    parser.add_argument("--seconds", type=float, help="measured in each run; default: 2")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--url",
        help="measure only the server at ws[s]://HOST:PORT, which runs already (for wss: over TLS)",
    )
    other.add_argument(
        "--against",
        type=Path,
        metavar="PYTHON",
        help="compare with the acebase-ipc installed for this interpreter, and print new/old",
    )
    other.add_argument(
        "--against-options",
        type=shlex.split,
        metavar="OPTIONS",
        help="compare with the relay with these options, for example"
        " --against-options='--no-introductions', and print new/old",
    )
    parser.add_argument("--token", help="the token for the server of --url")
    parser.add_argument(
        "--anywhere", action="store_true", help="allow a URL of another machine than this"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: draw bench/results.json again"
    )
    return parser.parse_args(arguments)


def make_settings(given: argparse.Namespace) -> Settings:
    """The settings for a command line."""
    repeats = REPEATS_OF_A_COMPARISON if is_comparison(given) else REPEATS
    return Settings(
        repeats=given.repeats or (1 if given.quick else repeats),
        seconds=given.seconds or (1.0 if given.quick else 2.0),
        warm_up=0.3 if given.quick else 0.5,
        anywhere=given.anywhere,
        token=given.token,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print the table.

    :returns: 0 if nothing was lost, duplicated or reordered and no run failed.
    """
    given = parse_arguments(arguments)
    if given.redraw:
        results = Results.from_json(json.loads(RESULTS.read_text()))
        draw(results)
        print(text_table(results))
        return 0
    raise_file_limit()
    try:
        sources = choose_sources(given)
        generator = build_generator(BUILD)
        if not generator.tls:
            print("OpenSSL's headers are missing: the TLS workloads are left out", file=sys.stderr)
        with tempfile.TemporaryDirectory() as directory:
            results = measure(
                Bench(generator, Path(directory), make_settings(given), sources),
                find_workloads(given.only, given.quick),
                lambda text: print(text, file=sys.stderr),
            )
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    compared = is_comparison(given)
    print(comparison_table(results) if compared else text_table(results))
    if not (given.only or given.quick or given.url or compared) and is_sound(results):
        RESULTS.write_text(results.to_json())
        draw(results)
    if given.json is not None:
        given.json.write_text(results.to_json())
    return 0 if is_sound(results) else 1


if __name__ == "__main__":
    sys.exit(main())
