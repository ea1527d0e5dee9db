"""A service manager that only listens: sd_notify(3) from its other end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Self

from tests.integration.relay_process import DEADLINE


class ServiceManager:
    """A socket for the notifications of one service; a context manager.

    :ivar environment: what the service has to be started with.
    """

    def __init__(self, path: Path | str, watchdog: float | None = 30.0) -> None:
        """:param watchdog: seconds within which the service has to show watchdog messages.

        :param path: where the socket is; with ``@`` before it, not in the file system.
        """
        name = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(DEADLINE)
        self.environment = {"NOTIFY_SOCKET": name}
        if watchdog is not None:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog * 1e6))

    def receive(self) -> dict[str, str]:
        """The next notification."""
        lines = self._socket.recv(4096).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def next_state(self) -> dict[str, str]:
        """The next notification that is not a mere watchdog message."""
        while (state := self.receive()) == {"WATCHDOG": "1"}:
            pass
        return state

    def wait_for_ticks(self, count: int) -> None:
        """Wait for the next *count* watchdog messages, which come once a second."""
        self._discard()
        while count:
            count -= self.receive() == {"WATCHDOG": "1"}

    def _discard(self) -> None:
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(4096)
        except BlockingIOError:
            self._socket.settimeout(DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._socket.close()
