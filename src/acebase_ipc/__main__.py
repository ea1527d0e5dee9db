"""``python -m acebase_ipc``: the command ``acebase-ipc``."""

from __future__ import annotations

import gc
import signal
import sys
from importlib.util import find_spec
from typing import NoReturn

from acebase_ipc.cli import INTERRUPTED

REQUIRED = ("click", "rich", "psutil")
"""What the extra ``cli`` installs; a relay does not need it."""


def main() -> None:
    """Run the command; ends the process with one of the statuses that ``--help`` lists.

    A relay is served and supervised without the modules that the other commands need.
    """
    if sys.argv[1:2] == ["serve"]:
        _serve()
    if sys.argv[1:2] == ["supervise"]:
        from acebase_ipc.supervise import supervise

        sys.exit(supervise(sys.argv[2:]))
    missing = [each for each in REQUIRED if find_spec(each) is None]
    if missing:
        sys.exit(
            f"acebase-ipc: the command needs {' and '.join(missing)}:"
            " run  pip install 'acebase-ipc[cli]'"
        )
    try:
        from acebase_ipc.cli.main import cli

        cli(prog_name="acebase-ipc")
    except KeyboardInterrupt:  # while modules are imported
        sys.exit(INTERRUPTED)


def _serve() -> NoReturn:
    gc.disable()  # of what is imported nothing is garbage; the daemon enables it when it is ready
    # They would end the process. Nothing is missed: neither the configuration has been read yet,
    # nor has a log been written.
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    try:
        from acebase_ipc.serve import serve

        sys.exit(serve(sys.argv[2:]))
    except KeyboardInterrupt:  # while modules are imported
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
