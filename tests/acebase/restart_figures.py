"""Print the effects of restarts of the relay: idle, under load, and without a kept port.

::

    .venv/bin/python -m tests.acebase.restart_figures [times]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.acebase.test_restart import FATAL_TIMER, Outcome, restart_relay

TIMES = 10


def repeat(title: str, times: int, *, under_load: bool = False, kept: bool = True) -> None:
    """Restart a relay that many times, each time with a new cluster, and print the sums."""
    outcomes: list[Outcome] = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as directory:
            outcome = restart_relay(
                Path(directory), under_load=under_load, kept=kept, watch=FATAL_TIMER + 3
            )
        sys.stdout.write(f"{title}: {outcome}\n")
        sys.stdout.flush()
        outcomes.append(outcome)
    gaps = sorted(each.gap for each in outcomes)
    sums = (
        sum(getattr(each, name) for each in outcomes)
        for name in ("processes", "refused", "dead", "workers", "hanging", "failed")
    )
    processes, refused, dead, workers, hanging, failed = sums
    sys.stdout.write(
        f"| {title} | {times} restarts, gap {gaps[0]:.2f} to {gaps[-1]:.2f} s"
        f" | {refused} refused | {dead} of {processes} processes dead"
        f" | {hanging} of {workers} workers hanging, {failed} failed"
        f" | {sum(each.done for each in outcomes)} of {sum(each.wanted for each in outcomes)}"
        f" writes afterwards, {sum(each.events for each in outcomes)} events |\n"
    )


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    repeat("idle", times)
    repeat("under load", times, under_load=True)
    repeat("idle, port not kept", times, kept=False)


if __name__ == "__main__":
    main()
