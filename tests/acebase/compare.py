"""Print the outcomes of ``test_sessions.py`` with and without introductions and sessions.

::

    .venv/bin/python -m tests.acebase.compare
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

SCENARIOS = Path(__file__).with_name("test_sessions.py")


def run(with_sessions: bool) -> Iterator[tuple[str, str]]:
    """Run the scenarios, and yield the name and the outcome of each."""
    environment = {**os.environ, "TEST_WITHOUT_SESSIONS": "" if with_sessions else "1"}
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        options = [f"--junitxml={report}", "--override-ini=junit_family=xunit1", str(SCENARIOS)]
        subprocess.run([*command, *options], env=environment, stdout=subprocess.DEVNULL)
        if not report.exists():
            raise SystemExit(f"pytest could not run {SCENARIOS}")
        cases = ElementTree.parse(report).iter("testcase")
        for case in cases:
            seen = case.find(".//property[@name='outcome']")
            failed = case.find("failure") is not None or case.find("error") is not None
            text = "nothing" if seen is None else seen.get("value", "")
            yield case.get("name", ""), f"{'FAILED' if failed else 'passed'}: {text}"


def main() -> None:
    sessions, none = dict(run(with_sessions=True)), dict(run(with_sessions=False))
    titles = {name: name.removeprefix("test_").replace("_", " ") for name in sessions}
    rows = [
        ("scenario", "with", "--no-introductions --session-timeout 0"),
        *((titles[name], seen, none.get(name, "")) for name, seen in sessions.items()),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


if __name__ == "__main__":
    main()
