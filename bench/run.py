"""Measure acebase-ipc against a plain Autobahn relay, and print one table.

Both are measured in turn, each run with a fresh server process. A whole run in
which nothing fails writes bench/results.json, docs/performance.svg and the
table in docs/performance.rst; any other only prints, unless --json is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autobahn import websocket

from bench.processes import (
    ROOT,
    BenchError,
    Generator,
    Sample,
    Server,
    build_generator,
    raise_file_limit,
    running_server,
    two_cores,
)
from bench.report import BUSY, Results, is_sound, text_table, update_document
from bench.workloads import WORKLOADS, Workload, find_workloads
from tests.certificates import make_certificate

RESULTS = ROOT / "bench" / "results.json"
PLOT = ROOT / "docs" / "performance.svg"
DOCUMENT = ROOT / "docs" / "performance.rst"
BUILD = ROOT / "build" / "bench"

SERVERS = ("ours", "baseline")
THE_URL = "url"
"""What is measured instead of the two, where a URL was given."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long, how often, and against what.

    :ivar seconds: measured in each run.
    :ivar warm_up: seconds before that.
    :ivar url: a server that runs already, which is measured alone.
    """

    repeats: int = 3
    seconds: float = 2.0
    warm_up: float = 0.5
    url: str | None = None
    anywhere: bool = False
    token: str | None = None


class Bench:
    """Runs the generator against servers.

    :param directory: for logs and a certificate.
    """

    def __init__(self, generator: Generator, directory: Path, settings: Settings) -> None:
        self._generator = generator
        self._directory = directory
        self._settings = settings
        self._server_core, self._generator_core = two_cores()
        self._pem = make_certificate(directory).pem

    @property
    def servers(self) -> tuple[str, ...]:
        """What is measured."""
        return SERVERS if self._settings.url is None else (THE_URL,)

    def can_run(self, workload: Workload) -> bool:
        """Whether TLS is there if it is needed; a given URL decides it by itself."""
        if self._settings.url is not None:
            return not workload.secure
        return self._generator.tls or not workload.secure

    def run(self, workload: Workload, kind: str) -> Sample:
        """One run against a fresh server."""
        log = self._directory / f"{kind}.log"
        log.write_bytes(b"")
        try:
            with self._server(workload, kind, log) as server:
                arguments = self._arguments(workload, server)
                sample = self._generator.run(arguments, self._generator_core)
        except BenchError as error:
            sample = {"failure": str(error)}
        if "Traceback" in log.read_text(errors="replace"):
            sample["failure"] = log.read_text(errors="replace")
        return sample

    @contextmanager
    def _server(self, workload: Workload, kind: str, log: Path) -> Iterator[Server]:
        running: Any
        if self._settings.url is not None:
            running = nullcontext(Server(self._settings.url))
        else:
            pem = self._pem if workload.secure else None
            running = running_server(kind, log, pem, self._server_core)
        with running as server:
            yield server

    def _arguments(self, workload: Workload, server: Server) -> list[str]:
        settings = self._settings
        arguments = [*workload.arguments, f"url={server.url}", f"pid={server.pid}"]
        arguments += [f"secs={settings.seconds}", f"warm={settings.warm_up}"]
        arguments += ["anywhere=1"] if settings.anywhere else []
        arguments += [f"token={settings.token}"] if settings.token is not None else []
        return arguments


def environment() -> dict[str, Any]:
    """What the figures depend on, as far as it can be told in a few words."""
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


def measure(
    bench: Bench, workloads: list[Workload], settings: Settings, tell: Callable[[str], object]
) -> Results:
    """Run everything, so that what is compared was measured shortly after another."""
    workloads = [each for each in workloads if bench.can_run(each)]
    samples: dict[str, dict[str, list[Sample]]] = {
        each.name: {kind: [] for kind in bench.servers} for each in workloads
    }
    load_before = os.getloadavg()[0]
    if load_before > BUSY:
        tell(f"this machine is busy (load {load_before:.1f}): expect noise")
    for repeat in range(settings.repeats):
        for workload in workloads:
            for kind in bench.servers:
                tell(f"{repeat + 1}/{settings.repeats} {workload.name} {kind}")
                samples[workload.name][kind].append(bench.run(workload, kind))
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


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    names = [each.name for each in WORKLOADS]
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="1 repeat of 1 s each")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=names,
        metavar="NAME",
        help=f"measure this workload; may be repeated: {', '.join(names)}",
    )
    parser.add_argument("--repeats", type=int, help="default: 3")
    parser.add_argument("--seconds", type=float, help="measured in each run; default: 2")
    parser.add_argument(
        "--url",
        help="measure the server at ws[s]://HOST:PORT alone, and start none; over TLS, all of it",
    )
    parser.add_argument("--token", help="the token that it wants")
    parser.add_argument(
        "--anywhere", action="store_true", help="let the URL be another machine's than this"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: draw bench/results.json again"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says.

    :returns: 0 if nothing was lost, duplicated or reordered and no run failed.
    """
    given = parse_arguments(arguments)
    if given.redraw:
        results = Results.from_json(json.loads(RESULTS.read_text()))
        draw(results)
        print(text_table(results))
        return 0
    settings = Settings(
        repeats=given.repeats or (1 if given.quick else 3),
        seconds=given.seconds or (1.0 if given.quick else 2.0),
        warm_up=0.3 if given.quick else 0.5,
        url=given.url,
        anywhere=given.anywhere,
        token=given.token,
    )
    whole = not (given.only or given.quick or given.url)
    raise_file_limit()
    try:
        generator = build_generator(BUILD)
        if not generator.tls:
            print("OpenSSL's headers are missing: the TLS workloads are left out", file=sys.stderr)
        with tempfile.TemporaryDirectory() as directory:
            results = measure(
                Bench(generator, Path(directory), settings),
                find_workloads(given.only, given.quick),
                settings,
                lambda text: print(text, file=sys.stderr),
            )
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(text_table(results))
    if whole and is_sound(results):
        RESULTS.write_text(results.to_json())
        draw(results)
    if given.json is not None:
        given.json.write_text(results.to_json())
    return 0 if is_sound(results) else 1


if __name__ == "__main__":
    sys.exit(main())
