"""Clients made of bare sockets: a few honest peers, and swarms that mean no good."""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
DEADLINE = 30.0
"""Seconds after which a client that waits gives up."""

Address = tuple[str, int]


def raise_file_limit() -> int:
    """Let this process and its children open as many files as they may; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def http(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request; it has the *headers* and a Host."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode() + body


def upgrade(target: str, *headers: str) -> bytes:
    """The request for a WebSocket."""
    usual = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    return http(f"GET {target}", *usual, f"Sec-WebSocket-Key: {KEY}", *headers)


def frame(payload: bytes, opcode: int = TEXT, length: int | None = None) -> bytes:
    """A client's frame, masked with zeros, which change nothing.

    :param length: what it says of its length, if that is not the payload's.
    """
    size = len(payload) if length is None else length
    if size < 126:
        head = bytes([0x80 | size])
    elif size < 1 << 16:
        head = b"\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + head + bytes(4) + payload


class Peer:
    """An honest documented peer. It blocks, with a deadline.

    :param receive_buffer: bytes that the system keeps for it, if it shall be few.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        database: str,
        token: str = "",
        receive_buffer: int | None = None,
    ) -> None:
        self.id = client_id
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(address)
        self._data = b""
        self.socket.sendall(upgrade(f"/{database}/connect?id={client_id}&v=1.0.0&t={token}"))
        while b"\r\n\r\n" not in self._data:
            self._read()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"{client_id} is refused: {head.split(maxsplit=2)[1]!r}")
        self.hear()  # the welcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def say(self, message: bytes) -> None:
        """Send a text message."""
        self.socket.sendall(frame(message))

    def hear(self) -> bytes:
        """Wait for the next text message."""
        while True:
            opcode, payload = self._next_frame()
            if opcode == TEXT:
                return payload
            if opcode == PING:
                self.socket.sendall(frame(payload, PONG))
            elif opcode == CLOSE:
                raise ConnectionError(f"{self.id} is closed: {payload!r}")

    def hear_until(self, message: bytes) -> int:
        """Wait for *message*; returns how many others came before."""
        others = 0
        while self.hear() != message:
            others += 1
        return others

    def _next_frame(self) -> tuple[int, bytes]:
        while True:
            data = self._data
            if len(data) >= 2:
                start = {126: 4, 127: 10}.get(data[1], 2)
                size = int.from_bytes(data[2:start], "big") if start > 2 else data[1]
                if len(data) >= start + size:
                    self._data = data[start + size :]
                    return data[0] & 0x0F, data[start : start + size]
            self._read()

    def _read(self) -> None:
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError(f"{self.id} is cut")
        self._data += data


@dataclass(frozen=True, slots=True)
class Latency:
    """How long messages took: in microseconds."""

    median: float
    p99: float
    count: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latency:
        """The figures of at least one measurement."""
        times = sorted(seconds)
        middle, late = len(times) // 2, min(len(times) - 1, len(times) * 99 // 100)
        return cls(times[middle] * 1e6, times[late] * 1e6, len(times))

    def __str__(self) -> str:
        return f"p50 {self.median:,.0f} µs, p99 {self.p99:,.0f} µs"


class Pair:
    """Two honest peers, whose messages have to get through."""

    def __init__(self, address: Address, token: str = "", database: str = "honest") -> None:
        self.one = Peer(address, "honest-one", database, token)
        self.other = Peer(address, "honest-other", database, token)
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.one.socket.close()
        self.other.socket.close()

    def talk(self, count: int) -> list[float]:
        """Send *count* messages, one after the other; returns how long each took, in seconds."""
        times = []
        for _ in range(count):
            self._sent += 1
            body = b"%d" % self._sent
            begin = time.perf_counter()
            self.one.say(b"to:honest-other;" + body)
            self.other.hear_until(b"msg:" + body)
            times.append(time.perf_counter() - begin)
        return times


@dataclass
class Swarm:
    """Many connections that the relay should survive.

    :ivar ended: how many of them the relay has ended.
    """

    address: Address
    sockets: dict[int, socket.socket] = field(default_factory=dict)
    ended: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for each in self.sockets.values():
            each.close()

    def open(self, count: int, opening: Callable[[int], bytes]) -> None:
        """Open *count* connections, and send each of them what *opening* says."""
        for number in range(count):
            each = socket.socket()
            each.settimeout(DEADLINE)
            each.connect(self.address)
            each.setblocking(False)
            self.sockets[number] = each
            self._send(number, opening(number))

    def send(self, data: bytes) -> None:
        """Send *data*, or what there is room for, on every connection; discard what has come."""
        for number in tuple(self.sockets):
            self._receive(number)
            self._send(number, data)

    def _receive(self, number: int) -> None:
        with suppress(BlockingIOError):
            try:
                if self.sockets[number].recv(1 << 16):
                    return
            except ConnectionError:
                pass
            self._drop(number)

    def _send(self, number: int, data: bytes) -> None:
        if data and number in self.sockets:
            with suppress(BlockingIOError):
                try:
                    self.sockets[number].send(data)
                except ConnectionError:
                    self._drop(number)

    def _drop(self, number: int) -> None:
        self.sockets.pop(number).close()
        self.ended += 1


def answer_pings(peers: Iterable[Peer], seconds: float) -> int:
    """Let *peers* be idle: all they do is answer pings; returns how many these were."""
    answered = 0
    with selectors.DefaultSelector() as selector:
        for each in peers:
            selector.register(each.socket, selectors.EVENT_READ, each)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                peer: Peer = key.data
                data = peer.socket.recv(1 << 16)
                if not data:
                    raise ConnectionError(f"{peer.id} is cut")
                if data[0] & 0x0F == PING:
                    answered += 1
                    peer.socket.sendall(frame(data[2:], PONG))
    return answered
