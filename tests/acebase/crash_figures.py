"""Print the effects of a crash of the relay, with a state directory and without.

::

    .venv/bin/python -m tests.acebase.crash_figures [times]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from tests.acebase.crashes import WORKERS, Outcome, crash_relay

TIMES = 10

PATIENCE = 30.0
"""Seconds after which a worker hangs that has not written again."""


def repeat(title: str, times: int, has_state: bool) -> None:
    """Kill a relay that many times, each time with a new cluster, and print the sums."""
    outcomes: list[Outcome] = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory)
            options = ("--state-dir", str(path / "state")) if has_state else ()
            outcome = crash_relay(path, *options, patience=PATIENCE)
        sys.stdout.write(f"{title}: {outcome}\n")
        sys.stdout.flush()
        outcomes.append(outcome)
    hanging = sum(each.hanging for each in outcomes)
    seconds = [each.seconds for each in outcomes if not each.hanging]
    sys.stdout.write(f"| {title} | {times} crashes | {hanging} of {WORKERS * times} workers hang")
    if seconds:
        median = statistics.median(seconds)
        sys.stdout.write(
            f" | all write again after {min(seconds):.1f} to {max(seconds):.1f} s,"
            f" median {median:.1f} s"
        )
    sys.stdout.write(" |\n")


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    repeat("with --state-dir", times, has_state=True)
    repeat("without", times, has_state=False)


if __name__ == "__main__":
    main()
