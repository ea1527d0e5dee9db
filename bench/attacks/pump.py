"""Many connections that send as fast as the relay reads."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from bench.attacks.peers import PING, PONG, RECEIVE, frame

PING_HEAD = bytes([0x80 | PING])

LINGER_AND_RESET = struct.pack("ii", 1, 0)
"""On, for no second: the system sends RST in the place of FIN."""

Connect = Callable[[int], socket.socket]
"""Opens the connection of a number."""


Refill = Callable[[int], bytes]
"""What the connection of a number sends again and again."""


def nothing(number: int) -> bytes:
    """No bytes: for connections that send only what they are fed."""
    return b""


@dataclass(slots=True)
class _Connection:
    number: int
    refill: memoryview
    unsent: memoryview


class Pump:
    """Connections that are written to, and read from, whenever that is possible.

    A connection that ends is opened again, as an attacker would.

    :param reads: whether it reads; what it reads is discarded.
    :ivar sent: bytes written in all.
    :ivar ended: how many connections have ended.
    """

    def __init__(self, connect: Connect, refill: Refill = nothing, *, reads: bool = True) -> None:
        self.sent = self.ended = 0
        self._connect = connect
        self._refill = refill
        self._reads = reads
        self._selector = selectors.DefaultSelector()
        self._sockets: dict[int, socket.socket] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._sockets.values():
            each.close()
        self._selector.close()

    def open(self, count: int) -> None:
        """Open *count* connections; what the first ones receive meanwhile is read."""
        for number in range(count):
            self._open(number)
            if number % 16 == 0:
                self._turn(0)

    def feed(self, number: int, data: bytes) -> None:
        """Send *data* once, on one connection."""
        each = self._sockets[number]
        connection: _Connection = self._selector.get_key(each).data
        connection.unsent = memoryview(bytes(connection.unsent) + data)
        self._watch(each, connection)

    def run(self, seconds: float) -> None:
        """Read and write for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._turn(left)

    def reset(self) -> None:
        """End all connections with a TCP reset, as the end of a process may do."""
        for each in self._sockets.values():
            self._selector.unregister(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
            each.close()
        self._sockets.clear()

    def _turn(self, seconds: float) -> None:
        if not self._sockets:
            time.sleep(seconds)  # an empty selector would return at once
            return
        for key, ready in self._selector.select(seconds):
            each: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                if ready & selectors.EVENT_READ:
                    self._read(each, key.data)
                if ready & selectors.EVENT_WRITE:
                    self._write(each, key.data)
            except BlockingIOError:
                pass
            except ConnectionError:
                self._reopen(each, key.data.number)

    def _read(self, each: socket.socket, connection: _Connection) -> None:
        data = each.recv(RECEIVE)
        if not data:
            raise ConnectionError
        if data.startswith(PING_HEAD):
            connection.unsent = memoryview(bytes(connection.unsent) + frame(b"", PONG))
            self._watch(each, connection)

    def _write(self, each: socket.socket, connection: _Connection) -> None:
        data = connection.unsent or connection.refill
        sent = each.send(data)
        self.sent += sent
        connection.unsent = data[sent:]
        self._watch(each, connection)

    def _open(self, number: int) -> None:
        each = self._connect(number)
        each.setblocking(False)
        self._sockets[number] = each
        refill = memoryview(self._refill(number))
        self._selector.register(each, self._events(refill), _Connection(number, refill, refill))

    def _reopen(self, each: socket.socket, number: int) -> None:
        self.ended += 1
        self._selector.unregister(each)
        self._sockets.pop(number).close()
        with suppress(OSError):  # refused: one attacker less
            self._open(number)

    def _watch(self, each: socket.socket, connection: _Connection) -> None:
        events = self._events(connection.unsent or connection.refill)
        if self._selector.get_key(each).events != events:
            self._selector.modify(each, events, connection)

    def _events(self, unsent: memoryview) -> int:
        writes = selectors.EVENT_WRITE if unsent else 0
        return writes | (selectors.EVENT_READ if self._reads or not writes else 0)
