"""The process of a relay: its signals, descriptors and memory, the pid file of ``twistd``."""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn

from twisted.logger import Logger

from acebase_ipc.errors import ConfigError
from acebase_ipc.relay.limits import MIB

OTHER_FILES = 100
"""File descriptors beside those of connections: ports, the log, the reactor, modules."""

KEPT_FREE: Final = 8 * MIB
"""Bytes of freed memory at the end of the heap that a process keeps."""

OWN_MAPPING: Final = 2 * MIB
"""Blocks of at least so many bytes go back to the system as soon as they are freed."""

_M_TRIM_THRESHOLD: Final = -1  # of glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3

_SUCCEEDED: Final = b"0"
_FAILED: Final = b"1"

log = Logger()


class Signals:
    """Receives SIGHUP, SIGUSR1 and SIGUSR2 from the moment it is made; others with a handler.

    They would end the process by default. A signal that arrives before it has a handler, for
    example while modules are still imported, is handled later.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[], object]] = {}
        self._pending: set[int] = set()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._receive)

    def handle(self, number: int, handler: Callable[[], object]) -> None:
        """Call *handler* for each signal of that *number*; it must be safe in a signal handler."""
        self._handlers[number] = handler
        signal.signal(number, self._receive)
        if number in self._pending:
            self._pending.discard(number)
            handler()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        handler = self._handlers.get(number)
        if handler is None:
            self._pending.add(number)
        else:
            handler()


class Launch:
    """Tells the process that has started this one whether that has succeeded.

    ``twistd`` tells it before the reactor runs, and it cannot be told of a failure at all unless
    that is an exception: a daemon that calls ``sys.exit`` lets it wait indefinitely. So the process
    that ``twistd`` forks waits here before it waits there.

    :param forks: whether ``twistd`` is about to fork, and to close standard error.
    """

    def __init__(self, forks: bool = False) -> None:
        self._stderr = 2
        self._outcome: int | None = None
        if forks:
            parent = os.getpid()
            self._stderr = os.dup(2)
            outcome, self._outcome = os.pipe()

            def wait() -> None:
                if os.getpid() == parent:
                    self._wait(outcome)

            def crashed(
                kind: type[BaseException], error: BaseException, traceback: TracebackType | None
            ) -> None:
                self._complain(f"acebase-ipc: {error}")
                self._tell(_FAILED)
                sys.__excepthook__(kind, error, traceback)

            os.register_at_fork(after_in_parent=wait)
            sys.excepthook = crashed  # such as of a pid file that ``twistd`` cannot write

    def _wait(self, outcome: int) -> None:
        """Wait in the first process until the daemon has told its outcome, or has ended."""
        assert self._outcome is not None
        os.close(self._outcome)
        told = os.read(outcome, 1)
        if told == _SUCCEEDED:
            return
        if told != _FAILED:
            self._complain("acebase-ipc: the process has ended while it was starting")
        os._exit(1)

    def succeeded(self) -> None:
        """Tell that the process serves."""
        self._tell(_SUCCEEDED)

    def failed(self, text: str) -> None:
        """Let the process end with status 1, and *text* on standard error, when its reactor stops.

        ``twistd`` ends with status 0, whatever the reason for which its reactor stops.
        """

        def exit_now() -> None:
            self._complain(text)
            self._tell(_FAILED)
            os._exit(1)

        atexit.register(exit_now)

    def end_now(self, text: str) -> NoReturn:
        """End the process with status 1 at once, and with *text* on standard error.

        Nothing is closed in an orderly way: connections that another process has stay open.
        """
        self._complain(text)
        self._tell(_FAILED)
        os._exit(1)

    def _complain(self, text: str) -> None:
        with suppress(OSError):
            os.write(self._stderr, f"{text}\n".encode("utf-8", "backslashreplace"))

    def _tell(self, outcome: bytes) -> None:
        if self._outcome is not None:
            with suppress(OSError):
                os.write(self._outcome, outcome)
            os.close(self._outcome)
            os.close(self._stderr)
            self._outcome, self._stderr = None, 2


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


def keep_freed_memory() -> None:
    """Let the process use memory again that it has freed, where the C library is glibc's.

    By default glibc returns the end of the heap to the system as soon as 128 KiB are free, and
    has to get it back for the next large message. That took more than half of the time of a
    message of 200 KB. What the environment sets (mallopt(3)) is not changed.
    """
    if {"GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)
        mallopt(_M_MMAP_THRESHOLD, OWN_MAPPING)


class PidFile:
    """The pid file of ``twistd``, which knows no successor.

    It would refuse to start one while the predecessor runs, and the predecessor would remove the
    file of its successor.

    :param runner: the options of ``twistd``.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._path = os.path.abspath(runner["pidfile"])
        self._is_managed = False

    def manage(self) -> None:
        """Let ``twistd`` do nothing about the file from now on."""
        self._runner["pidfile"] = ""
        self._is_managed = True

    def check(self) -> None:
        """Check that no process has a file that ``twistd`` does not look at.

        :raises ConfigError: if one has.
        """
        if not self._is_managed:
            return
        try:
            pid = int(Path(self._path).read_text())
            os.kill(pid, 0)
        except (OSError, ValueError):
            return
        raise ConfigError(f"another relay is running, with the process id {pid} ({self._path})")

    def write(self) -> None:
        """Write the id of this process, in place of that of a predecessor."""
        if not self._is_managed:
            return
        temporary = f"{self._path}.{os.getpid()}"
        try:
            Path(temporary).write_text(str(os.getpid()))
            os.replace(temporary, self._path)
        except OSError as error:
            log.error("{path} is not written: {reason}", path=self._path, reason=error.strerror)

    def remove(self) -> None:
        """Remove the file, unless it is that of a successor."""
        if self._is_managed:
            with suppress(OSError):
                if Path(self._path).read_text() == str(os.getpid()):
                    os.remove(self._path)

    def leave(self) -> None:
        """Leave the file to a successor."""
        self.manage()


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
