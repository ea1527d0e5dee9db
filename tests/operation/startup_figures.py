"""Print how long the relay takes from its start until it answers: median, least and most.

::

    .venv/bin/python -m tests.operation.startup_figures [times]
"""

from __future__ import annotations

import resource
import statistics
import sys

from tests.activation import ActivatedRelay, listening_socket

TIMES = 10


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    seconds = []
    for _ in range(times):
        with listening_socket() as listener, ActivatedRelay(listener) as relay:
            seconds.append(relay.seconds_to_serve)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(
        f"{times} starts: median {statistics.median(seconds):.2f} s, from {min(seconds):.2f} to"
        f" {max(seconds):.2f} s; CPU time of a start and an end"
        f" {(used.ru_utime + used.ru_stime) / times:.2f} s\n"
    )


if __name__ == "__main__":
    main()
