"""Measure how fast clusters of real AceBase processes write, with and without lock sessions.

    python -m bench.acebase             # everything, 15 minutes
    python -m bench.acebase --quick     # 4 workers, two delays, one short run: half a minute
    python -m bench.acebase --workers 4 --delay 1 --kind set

All workers of a cluster do one operation after the other: transactions on one counter, sets of
objects with a text of 80 characters, or gets of them. They connect to the relay directly, or
through a proxy that delivers everything later, in each direction. Each repeat starts new
processes, and each measurement with one relay is followed by the same with the other.

A complete run in which nothing fails writes bench/acebase/results.json and the tables in
docs/performance.rst; any other only prints, unless --json is given.

With --against, the acebase-ipc of another Python environment is the other relay, with
--against-options this one with these options, and with --against-url a relay that runs already,
on this machine and for no other purpose.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.acebase.delay import build_proxy, measure_exactness
from bench.acebase.results import BEGIN, END, Results, rst_table, text_table
from bench.acebase.site import KINDS, Sample, Site, running_site
from bench.processes import BenchError
from bench.report import BUSY, replace_between
from bench.run import BUILD, DOCUMENT, environment
from bench.servers import THIS_PYTHON, Program, Server, distributions, relay, require_equal
from tests.acebase.cluster import HERE, node

RESULTS = Path(__file__).with_name("results.json")

WORKERS = (1, 4, 8)
DELAYS = (0.0, 0.5, 1.0, 3.0)
REPEATS = 5
SECONDS = 2.0
WARM_UP = 0.5
"""Seconds of each operation before the first measurement of a cluster."""

Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    :ivar sources: the relays by their names in the results.
    :ivar proxy: the program that stands for the network.
    """

    sources: dict[str, Program | Server]
    proxy: Path
    workers: Sequence[int]
    delays: Sequence[float]
    kinds: Sequence[str]
    repeats: int
    seconds: float
    directory: Path


class Bench:
    """Runs a plan.

    :ivar runs: the samples so far.
    :ivar lateness: what the proxies have said of themselves, by delay.
    :ivar lost: transactions that were acknowledged and not counted.
    """

    def __init__(self, plan: Plan, tell: Tell) -> None:
        self.runs: list[Sample] = []
        self.lateness: dict[str, list[dict[str, Any]]] = {}
        self.lost = 0
        self._plan = plan
        self._tell = tell
        self._clusters = 0

    def run(self) -> None:
        """Measure everything: each repeat with new processes."""
        for repeat in range(self._plan.repeats):
            names = list(self._plan.sources)[:: -1 if repeat % 2 else 1]
            for workers in self._plan.workers:
                for delays in ([0.0], [each for each in self._plan.delays if each]):
                    if wanted := [each for each in delays if each in self._plan.delays]:
                        self._tell(f"{repeat + 1}/{self._plan.repeats} {workers} workers")
                        self._measure(names, workers, wanted)

    def _measure(self, names: list[str], workers: int, delays: list[float]) -> None:
        with ExitStack() as stack:
            sites = {}
            for name in names:
                self._clusters += 1
                directory = self._plan.directory / f"bench{self._clusters}"
                directory.mkdir()
                proxy = self._plan.proxy if any(delays) else None
                source = self._plan.sources[name]
                sites[name] = stack.enter_context(running_site(source, directory, workers, proxy))
            for site in sites.values():
                for kind in self._plan.kinds:
                    site.measure(kind, WARM_UP)
            for delay in delays:
                for kind in self._plan.kinds:
                    for name, site in sites.items():
                        sample = self._sample(site, kind, delay)
                        about = {"variant": name, "kind": kind, "workers": workers, "delay": delay}
                        self.runs.append(about | sample)
            for site in sites.values():
                self.lost += site.lost()

    def _sample(self, site: Site, kind: str, delay: float) -> Sample:
        if site.proxy is None:
            return site.measure(kind, self._plan.seconds)
        site.proxy.delay(delay)
        site.proxy.lateness()
        sample = site.measure(kind, self._plan.seconds)
        self.lateness.setdefault(f"{delay:g}", []).append(site.proxy.lateness())
        site.proxy.delay(0)
        return sample


def measure(plan: Plan, tell: Tell) -> Results:
    """Run a plan; the exactness of the proxy is measured first."""
    load_before = os.getloadavg()[0]
    if load_before > BUSY:
        tell(f"this machine is busy (load {load_before:.1f}): expect noise")
    exactness = {
        f"{delay:g}": measure_exactness(plan.proxy, delay) for delay in plan.delays if delay
    }
    bench = Bench(plan, tell)
    bench.run()
    versions = {
        "acebase": json.loads((HERE / "node_modules/acebase/package.json").read_text())["version"],
        "node": f"Node.js {subprocess.check_output([node(), '--version'], text=True).strip()}",
    }
    return Results(
        environment=environment() | versions | {"load before": round(load_before, 1)},
        settings={"repeats": plan.repeats, "seconds": plan.seconds},
        variants=list(plan.sources),
        exactness={delay: [each.median, each.p99] for delay, each in exactness.items()},
        lateness=bench.lateness,
        runs=bench.runs,
        lost=bench.lost,
    )


def choose_sources(given: argparse.Namespace) -> dict[str, Program | Server]:
    """The relays that a command line wants compared, by name.

    :raises BenchError: if the environment of ``--against`` differs in more than acebase-ipc.
    """
    if given.against is not None:
        require_equal(distributions(THIS_PYTHON), distributions(given.against))
        return {"new": relay(), "old": relay(given.against.absolute())}
    if given.against_options is not None:
        return {"new": relay(), "old": relay(THIS_PYTHON, *given.against_options)}
    if given.against_url is not None:
        return {"ours": relay(), "other": Server(given.against_url)}
    return {"with": relay(), "without": relay(THIS_PYTHON, "--no-lock-sessions")}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench.acebase",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a short run of 4 workers")
    parser.add_argument(
        "--workers", type=int, action="append", help="may be repeated; default: 1, 4 and 8"
    )
    parser.add_argument(
        "--delay",
        type=float,
        action="append",
        help="milliseconds added each way; may be repeated; default: 0, 0.5, 1 and 3",
    )
    parser.add_argument(
        "--kind", choices=KINDS, action="append", help="may be repeated; default: all"
    )
    parser.add_argument("--repeats", type=int, help=f"default: {REPEATS}")
    parser.add_argument("--seconds", type=float, help=f"of each run; default: {SECONDS:g}")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--against", type=Path, metavar="PYTHON", help="the relay that is installed for it"
    )
    other.add_argument(
        "--against-options", type=shlex.split, metavar="OPTIONS", help="this relay with options"
    )
    other.add_argument(
        "--against-url", metavar="URL", help="a relay that runs already: ws://127.0.0.1:PORT"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: write the tables again"
    )
    return parser.parse_args(arguments)


def is_complete(given: argparse.Namespace) -> bool:
    """Whether a command line asks for everything that the documentation shows."""
    parts = (given.quick, given.workers, given.delay, given.kind, given.repeats, given.seconds)
    others = (given.against, given.against_options, given.against_url)
    return not any(parts) and all(each is None for each in others)


def write_document(results: Results) -> None:
    """Write the tables of the documentation."""
    text = replace_between(DOCUMENT.read_text(), BEGIN, END, rst_table(results))
    DOCUMENT.write_text(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables.

    :returns: 0 if no transaction was lost and nothing failed.
    """
    given = parse_arguments(arguments)
    if given.redraw:
        results = Results.from_json(RESULTS.read_text())
        write_document(results)
        print(text_table(results))
        return 0
    try:
        node()
        with tempfile.TemporaryDirectory() as directory:
            plan = Plan(
                sources=choose_sources(given),
                proxy=build_proxy(BUILD),
                workers=given.workers or ((4,) if given.quick else WORKERS),
                delays=given.delay or ((0.0, 1.0) if given.quick else DELAYS),
                kinds=given.kind or KINDS,
                repeats=given.repeats or (1 if given.quick else REPEATS),
                seconds=given.seconds or (1.0 if given.quick else SECONDS),
                directory=Path(directory),
            )
            results = measure(plan, lambda text: print(text, file=sys.stderr))
    except (BenchError, pytest.skip.Exception) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(text_table(results))
    if is_complete(given) and not results.lost:
        RESULTS.write_text(results.to_json())
        write_document(results)
    if given.json is not None:
        given.json.write_text(results.to_json())
    return 1 if results.lost else 0


if __name__ == "__main__":
    sys.exit(main())
