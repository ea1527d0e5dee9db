"""Tells systemd how the service is (sd_notify(3)); without systemd it does nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends states to the socket that the service manager has named.

    Its own socket is opened once, at the start: a relay that has run out of file
    descriptors still shows that it is alive.

    :ivar watchdog: seconds within which a sign of life is expected; ``None`` if
        none is.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """:param environ: the environment that the service manager has made."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = self._open() if address else None
        microseconds = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self.watchdog = int(microseconds) / 1e6 if mine and microseconds.isdigit() else None

    def ready(self) -> None:
        """The service has started, or has reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The service reads its configuration again; :meth:`ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is about to end."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The service is at work, if anybody wants to know."""
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
        # A service manager that does not listen is no reason to end.
        with suppress(OSError):
            if self._socket is not None:
                self._socket.sendto(state.encode(), self._address)
