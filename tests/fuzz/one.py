"""Fuzz one target with atheris; the other arguments are libFuzzer's.

::

    python -m tests.fuzz.one http -max_total_time=60 corpus
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["acebase_ipc"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz until time is up, or something is found."""
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
