"""A TCP proxy on loopback whose connections can fall silent, as when a cable is pulled.

It can also wait for its target, as a proxy does that stays while a relay is restarted, and cut
connections after any number of bytes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Self

from tests.acebase.cluster import UNLUCKY_PORT

CHUNK = 64 * 1024  # bytes
RETRY = 0.02
"""Seconds between two attempts to connect."""

NEVER = 1 << 60
"""Bytes that no connection carries."""

_RESET = struct.pack("ii", 1, 0)
"""The value of ``SO_LINGER`` with which a socket is reset when it is closed."""


class Link:
    """Passes on connections to a port of loopback; a context manager.

    :ivar port: the port to connect to.
    :ivar limits: returns the bytes that a new connection passes on, to the target and back, before
        it is cut.
    """

    def __init__(self, target: int, patience: float = 0) -> None:
        """:param patience: seconds for which a new connection waits for the target."""
        self._target = target
        self._patience = patience
        self.limits: Callable[[], tuple[int, int]] = lambda: (NEVER, NEVER)
        self._connections: list[_Connection] = []
        while True:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port: int = self._listener.getsockname()[1]
            if not UNLUCKY_PORT.search(str(self.port)):
                break
            self._listener.close()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                if time.monotonic() >= deadline:
                    near.close()
                    return
                time.sleep(RETRY)
            else:
                self._connections.append(_Connection(near, far, self.limits()))
                return

    def silence(self) -> None:
        """Pass on nothing more of the connections there are, not even their end."""
        for each in self._connections:
            each.silent = True

    @property
    def cuts(self) -> int:
        """How many connections were cut."""
        return sum(each.is_cut for each in self._connections)

    def cut(self) -> None:
        """Cut the connections there are."""
        for each in tuple(self._connections):
            each.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Only a shutdown ends the accept of another thread.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._connections:
            each.close()


class _Connection:
    """Two sockets, and a thread for each direction."""

    def __init__(self, near: socket.socket, far: socket.socket, limits: tuple[int, int]) -> None:
        self.silent = False
        self.is_cut = False
        self._sockets = (near, far)
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, sink, limit in ((near, far, limits[0]), (far, near, limits[1])):
            threading.Thread(target=self._pass_on, args=(source, sink, limit), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, limit: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                if not self.silent:
                    sink.sendall(data[:limit])
                limit -= len(data)
                if limit < 0:
                    self.cut()
                    return
        if not self.silent:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Reset both sockets; what is on its way is lost."""
        self.is_cut = True
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
