"""Tells systemd how the service is (sd_notify(3)); without systemd it does nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that the service manager has named.

    :ivar watchdog: seconds within which a sign of life is expected; ``None`` if
        none is.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        """:param environ: the environment that the service manager has made."""
        self._address = environ.get("NOTIFY_SOCKET", "")
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

    def _send(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.setblocking(False)
                manager.sendto(state.encode(), address)
        except OSError:
            pass  # a service manager that does not listen is no reason to end
