"""Bytes of requests and frames, and a peer made of a bare socket."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Self
from urllib.parse import quote

from acebase_ipc.testing import client_frame
from acebase_ipc.testing.frames import NO_MASK

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455, section 1.3
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10

DEADLINE = 30.0
"""Seconds after which a blocking client fails."""

RECEIVE = 1 << 18
"""Bytes to read at a time."""

Address = tuple[str, int]


def http(line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request with a Host and these *headers*."""
    return "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode() + body


def upgrade(target: str, *headers: str) -> bytes:
    """The request for a WebSocket."""
    usual = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    return http(f"GET {target}", *usual, f"Sec-WebSocket-Key: {KEY}", *headers)


def frame(payload: bytes, opcode: int = TEXT, length: int | None = None) -> bytes:
    """A client's frame, masked with zeros, which leave the payload as it is.

    :param length: the length to announce, if that is not the payload's.
    """
    return client_frame(payload, opcode, length=length, mask=NO_MASK)


def insecure_tls() -> ssl.SSLContext:
    """A client's TLS that does not check the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Peer:
    """An honest peer, connected over a blocking socket with a deadline.

    :param dialect: ``documented`` or ``acebase``.
    :param receive_buffer: bytes that the system may keep for it; default: the system's choice.
    :param secure: whether to use TLS.
    :raises ConnectionError: if the relay refuses it.
    """

    def __init__(
        self,
        address: Address,
        client_id: str,
        database: str,
        token: str = "",
        *,
        dialect: str = "documented",
        receive_buffer: int | None = None,
        secure: bool = False,
    ) -> None:
        self.id = client_id
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(address)
        if secure:
            self.socket = insecure_tls().wrap_socket(self.socket)
        self._data = b""
        query = f"id={quote(client_id)}&v=1.0.0&t={token}&dialect={dialect}"
        self.socket.sendall(upgrade(f"/{database}/connect?{query}"))
        while b"\r\n\r\n" not in self._data:
            self._read()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"{client_id} is refused: {head.split(maxsplit=2)[1]!r}")
        self.receive()  # welcome

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, message: bytes) -> None:
        """Send a text message."""
        self.socket.sendall(frame(message))

    def receive(self) -> bytes:
        """Wait for the next text message."""
        while (message := next(self._messages(), None)) is None:
            self._read()
        return message

    def receive_until(self, message: bytes) -> int:
        """Wait for *message*; returns how many others came before."""
        others = 0
        while self.receive() != message:
            others += 1
        return others

    def receive_available(self) -> list[bytes]:
        """All complete text messages that have arrived, without waiting."""
        self.socket.setblocking(False)
        try:
            while True:
                self._read()
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self.socket.settimeout(DEADLINE)
        return list(self._messages())

    def _messages(self) -> Iterator[bytes]:
        while (found := self._next_frame()) is not None:
            opcode, payload = found
            if opcode == TEXT:
                yield payload
            elif opcode == PING:
                self.socket.sendall(frame(payload, PONG))
            elif opcode == CLOSE:
                raise ConnectionError(f"the relay closed {self.id}: {payload!r}")

    def _next_frame(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        start = {126: 4, 127: 10}.get(data[1], 2)
        size = int.from_bytes(data[2:start], "big") if start > 2 else data[1]
        if len(data) < start + size:
            return None
        self._data = data[start + size :]
        return data[0] & 0x0F, data[start : start + size]

    def _read(self) -> None:
        data = self.socket.recv(RECEIVE)
        if not data:
            raise ConnectionError(f"the connection of {self.id} ended")
        self._data += data


def answer_pings(peers: Iterable[Peer], seconds: float) -> int:
    """Answer the pings that *peers* receive in this time, and nothing else; returns how many."""
    answered = 0
    with selectors.DefaultSelector() as selector:
        for each in peers:
            selector.register(each.socket, selectors.EVENT_READ, each)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                peer: Peer = key.data
                data = peer.socket.recv(RECEIVE)
                if not data:
                    raise ConnectionError(f"the connection of {peer.id} ended")
                if data[0] & 0x0F == PING:
                    answered += 1
                    peer.socket.sendall(frame(data[2:], PONG))
    return answered
