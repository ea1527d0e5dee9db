"""The process of a relay: its signals, its file descriptors, the pid file of ``twistd``."""

from __future__ import annotations

import atexit
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from twisted.logger import Logger

OTHER_FILES = 100
"""File descriptors beside those of connections: ports, the log, the reactor, modules."""

log = Logger()


class Signals:
    """Receives SIGHUP and SIGUSR1 from the moment it is made.

    Both would end the process by default. A signal that arrives before it has a handler, for
    example while modules are still imported, is handled later.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[], object]] = {}
        self._pending: set[int] = set()
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def handle(self, number: int, handler: Callable[[], object]) -> None:
        """Call *handler* for each signal of that *number*; it must be safe in a signal handler."""
        self._handlers[number] = handler
        if number in self._pending:
            self._pending.discard(number)
            handler()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers.get(number)
        if handler is None:
            self._pending.add(number)
        else:
            handler()


def exit_with_failure(text: str) -> None:
    """Let the process end with status 1, and *text* on standard error, when its reactor stops.

    ``twistd`` ends with status 0, whatever the reason for which its reactor stops.
    """

    def exit_now() -> None:
        with suppress(OSError):
            os.write(2, f"{text}\n".encode("utf-8", "backslashreplace"))
        os._exit(1)

    atexit.register(exit_now)


def allow_files(connections: int) -> None:
    """Raise the limit of open files as far as *connections* need it; warn if it is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
        except (OSError, ValueError):
            allowed = soft
        if allowed < needed:
            log.warn(
                "max_connections is {connections}, but the process may open only {files} files"
                " (ulimit -n, LimitNOFILE=)",
                connections=connections,
                files=allowed,
            )


def remove_stale_pid_file(path: str) -> None:
    """Remove a pid file that a killed ``twistd`` has left, although its number is in use.

    In a container processes get the same few numbers at each start. The number is then that
    of this process, or of one that is not ``twistd``; ``twistd`` would refuse to start. A file
    whose number is not in use is removed by ``twistd`` itself.
    """
    try:
        pid = int(Path(path).read_text())
        if pid != os.getpid() and b"twistd" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return
        os.remove(path)
    except (OSError, ValueError):
        return  # there is none, or nothing is known of the process
