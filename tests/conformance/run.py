"""Runs the Autobahn TestSuite against the relay's WebSocket, for ``make conformance``.

The suite's fuzzing client needs Python 2.7; without one, this module says so
and exits with 77. ``build/conformance`` holds the suite and its reports, from
which ``docs/conformance.rst`` is generated.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.conformance.echo_server import KINDS
from tests.conformance.table import read_reports, render, worse_than

SUITE = "autobahntestsuite==0.8.2"
VIRTUALENV = "virtualenv==20.15.1"  # the last that runs on Python 2.7
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
"""All but 8, which does not exist, and 12 and 13: the relay compresses nothing."""

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "conformance"
TABLE = ROOT / "docs" / "conformance.rst"

NOT_POSSIBLE = 77
"""The exit status that stands for a skipped test."""

INSTALL_TIMEOUT = 600.0
SUITE_TIMEOUT = 3600.0
"""Seconds for all cases of one agent."""


def find_python27() -> str | None:
    """Return a Python 2.7: ``$PYTHON27``, or one on the ``PATH``, or one of pyenv's."""
    candidates = [os.environ.get("PYTHON27"), shutil.which("python2.7")]
    if pyenv := shutil.which("pyenv"):
        found = subprocess.run(
            [pyenv, "prefix", "2.7.18"], capture_output=True, text=True, check=False
        )
        if not found.returncode:
            candidates.append(f"{found.stdout.strip()}/bin/python2.7")
    for each in candidates:
        if (
            each
            and not subprocess.run([each, "-c", ""], capture_output=True, check=False).returncode
        ):
            return each
    return None


def install_suite(python27: str) -> Path:
    """Return the suite's program; install it if it is missing."""
    environment = WORK / "python2.7"
    program = environment / "bin" / "wstest"
    if not program.exists():
        bootstrap = WORK / "virtualenv"
        install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        for command, extra in (
            ([python27, *install, "--target", str(bootstrap), VIRTUALENV], {}),
            (
                [python27, "-m", "virtualenv", "--quiet", str(environment)],
                {"PYTHONPATH": str(bootstrap)},
            ),
            ([str(environment / "bin" / "python"), *install, SUITE], {}),
        ):
            subprocess.run(
                command, check=True, timeout=INSTALL_TIMEOUT, env={**os.environ, **extra}
            )
    return program


@contextmanager
def echo_server(kind: str) -> Iterator[str]:
    """Start an echo server in a process of its own; yield its URL."""
    command = [sys.executable, "-m", "tests.conformance.echo_server", "--port=0", f"--kind={kind}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()


def run_suite(program: Path, kind: str) -> None:
    """Run all cases against one agent; write the reports into a folder with its name."""
    reports = WORK / kind
    shutil.rmtree(reports, ignore_errors=True)
    with echo_server(kind) as url:
        specification = {
            "outdir": str(reports),
            "servers": [{"agent": kind, "url": url}],
            "cases": CASES,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        path = WORK / f"{kind}.json"
        path.write_text(json.dumps(specification))
        log = WORK / f"{kind}.log"
        with log.open("w") as output:
            subprocess.run(
                [program, "-m", "fuzzingclient", "-s", path],
                check=True,
                timeout=SUITE_TIMEOUT,
                stdout=output,
                stderr=output,
            )


def main() -> int:
    """Run the suite against each kind of echo server; return the exit status."""
    python27 = find_python27()
    if python27 is None:
        print("The Autobahn TestSuite needs Python 2.7, and none is found: name it in PYTHON27.")
        return NOT_POSSIBLE
    WORK.mkdir(parents=True, exist_ok=True)
    program = install_suite(python27)
    for kind in KINDS:
        print(f"{kind} ...", flush=True)
        run_suite(program, kind)
    reports = {kind: read_reports(WORK / kind / "index.json", kind) for kind in KINDS}
    TABLE.write_text(render(reports, {"suite": SUITE, "autobahn": version("autobahn")}))
    worse = {kind: worse_than(reports["stock"], reports[kind]) for kind in KINDS}
    for kind, cases in worse.items():
        counts = ", ".join(f"{count} {name}" for name, count in reports[kind].counts.items())
        print(f"{kind}: {counts}")
        for case in cases:
            print(f"  {case}: {reports[kind].behaviour[case]}")
    return 1 if any(worse.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
