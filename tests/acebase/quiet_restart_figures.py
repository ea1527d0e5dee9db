"""Print the effects of restarts of the relay on clusters at work: plain, TLS, without a state.

::

    .venv/bin/python -m tests.acebase.quiet_restart_figures [times]
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from tests.acebase.quiet_restarts import (
    Place,
    activated,
    forwarded,
    restart_under_load,
)
from tests.certificates import make_certificate

TIMES = 20


def place(kind: str, directory: Path) -> AbstractContextManager[Place]:
    """Where the relays serve."""
    state = ("--state-dir", str(directory / "state"))
    if kind == "TLS":
        directory.joinpath("certificate").mkdir()
        return forwarded(make_certificate(directory / "certificate"), *state)
    return activated(*state) if kind == "plain" else activated()


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    for kind in ("plain", "TLS", "without --state-dir"):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            with place(kind, directory) as relays:
                outcome = restart_under_load(relays, directory, times)
            sys.stdout.write(f"| {kind} | {outcome} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
