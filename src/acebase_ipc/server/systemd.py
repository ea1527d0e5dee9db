"""Notifies systemd of the service's state (sd_notify(3)); does nothing without systemd."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends states to the socket that the service manager has named.

    Opens its own socket once, when it is made: a relay that has run out of file descriptors
    still resets the watchdog.

    :ivar watchdog: the seconds of the watchdog's timeout; ``None`` if there is no watchdog.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """:param environ: the environment of the process."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = self._open() if address else None
        microseconds = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        is_number = re.fullmatch("[0-9]{1,18}", microseconds)
        self.watchdog = int(microseconds) / 1e6 if mine and is_number else None

    def ready(self) -> None:
        """Report that the service has started or reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the service reloads its configuration; :meth:`ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def main_process(self, pid: int) -> None:
        """Report that another process of the service serves from now on."""
        self._send(f"MAINPID={pid}\nREADY=1")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Reset the watchdog, if there is one."""
        if self.watchdog is not None:
            self._send("WATCHDOG=1")

    @staticmethod
    def _open() -> socket.socket | None:
        try:
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        except OSError:
            return None
        opened.setblocking(False)
        return opened

    def _send(self, state: str) -> None:
        # The relay goes on without its service manager.
        with suppress(OSError):
            if self._socket is not None:
                self._socket.sendto(state.encode(), self._address)
