"""``acebase-ipc supervise``: a parent that stays while relays take over from each other.

A container ends with its first process, and PM2 starts a program again when the process that it
has started ends. So a relay that hands over and ends needs a parent that does neither. It passes
signals on to the process that is the relay now, which it learns as a service manager does
(sd_notify(3): ``MAINPID=``), and ends when that ends.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

WRONG_USAGE: Final = 2
NOT_FOUND: Final = 127
"""The status of a shell for a command that cannot be started."""

PASSED_ON: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

USAGE: Final = """\
Usage: acebase-ipc supervise COMMAND [ARGUMENT]...

Run a relay, and stay while other processes take over from it. For the first
process of a container, and for PM2; with systemd it is not needed.

Example:
  acebase-ipc supervise acebase-ipc serve --port 9163
"""

_PR_SET_CHILD_SUBREAPER: Final = 36  # prctl(2)
_MAIN: Final = b"MAINPID="


def supervise(command: Sequence[str]) -> int:
    """Run *command* and its successors; returns the exit status of the last one."""
    if not command or command[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0 if command else WRONG_USAGE
    return Supervisor().run(command)


class Supervisor:
    """Runs a relay and its successors, one after the other."""

    def __init__(self) -> None:
        self._wakes, wakes = socket.socketpair()
        for each in (self._wakes, wakes):
            each.setblocking(False)
        self._wakeup = wakes
        name = f"acebase-ipc-{os.getpid()}-{secrets.token_hex(8)}"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notified.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notified.bind(f"\0{name}")  # no file that would stay
        self._notified.setblocking(False)
        self._environment = {**os.environ, "NOTIFY_SOCKET": f"@{name}"}
        self._main = 0

    def run(self, command: Sequence[str]) -> int:
        """Run *command* until the last of its successors ends; returns that one's status."""
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        # Otherwise the parent of a successor is the first process, when the relay has ended.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self._main = subprocess.Popen(command, env=self._environment).pid
        except OSError as error:
            sys.stderr.write(f"acebase-ipc: cannot run {command[0]}: {error.strerror}\n")
            return NOT_FOUND
        selector = selectors.DefaultSelector()
        selector.register(self._wakes, selectors.EVENT_READ)
        selector.register(self._notified, selectors.EVENT_READ)
        while True:
            selector.select()
            signals = self._signals()
            self._receive()  # first, as a relay tells of its successor before it ends
            for received in signals:
                if received in PASSED_ON:
                    with suppress(ProcessLookupError):
                        os.kill(self._main, received)
            status = self._reap()
            if status is not None:
                return status

    def _signals(self) -> bytes:
        try:
            return self._wakes.recv(4096)
        except BlockingIOError:
            return b""

    def _receive(self) -> None:
        """Note which process is the relay now."""
        size = socket.CMSG_SPACE(3 * 4)
        while True:
            try:
                state, ancillary, _, _ = self._notified.recvmsg(4096, size)
            except BlockingIOError:
                return
            users = [int.from_bytes(data[4:8], sys.byteorder) for _, _, data in ancillary]
            for line in state.splitlines():
                if line.startswith(_MAIN) and users == [os.getuid()]:
                    self._main = int(line.removeprefix(_MAIN))

    def _reap(self) -> int | None:
        """Take note of children that have ended; returns the status of the relay, if it has."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None
            if pid == 0:
                return None
            if pid == self._main:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else _end_by(-code)


def _end_by(number: int) -> int:
    """End by a signal, as the relay has; returns the status of a shell for that, if it is ignored.

    The first process of a container ignores signals that it does not handle.
    """
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
