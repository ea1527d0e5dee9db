"""A minimal client's connection: WebSocket and HTTP on asyncio.

It shares no code with the relay, which it tests.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acebase_ipc.testing import FrameReader, client_frame

TIMEOUT = 30.0
"""Deadline in seconds for one answer on a busy machine."""

RECEIVE_BUFFER = 128 * 1024  # bytes

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

_UPGRADE = (
    "GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the relay."""

    port: int
    tls: ssl.SSLContext | None = None


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A frame with a random mask."""
    return client_frame(payload, opcode, mask=os.urandom(4))


class Link(asyncio.Protocol):
    """A WebSocket connection.

    :ivar on_text: called with each text message.
    :ivar answers: whether it answers ping and close frames.
    :ivar status: HTTP status of the handshake's answer; 0 without one.
    :ivar close_code: code of the relay's close frame.
    :ivar opened: set when the handshake is answered or the connection has ended.
    :ivar ended: set when the connection has ended.
    :ivar has_rest: whether all has come that had waited for the peer.
    :ivar pings: number of ``ping`` messages sent.
    :ivar pongs: number of ``pong`` messages received.
    """

    def __init__(self, target: str, on_text: Callable[[Link, str], None]) -> None:
        self.on_text = on_text
        self.answers = True
        self.status = 0
        self.close_code: int | None = None
        self.opened = asyncio.Event()
        self.ended = asyncio.Event()
        self.has_rest = False
        self.pings = self.pongs = 0
        self._target = target
        self._data = bytearray()
        self._reader = FrameReader()
        self._transport: Any = None

    @classmethod
    async def open(
        cls, port: Port, target: str, on_text: Callable[[Link, str], None], source: str
    ) -> Link:
        """Connect from the loopback address *source* and wait for the handshake's answer.

        :raises OSError: if there is no answer.
        """
        loop = asyncio.get_running_loop()
        # Small, so that the relay soon notices a client that does not read.
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.setblocking(False)
        try:
            sock.bind((source, 0))
            await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", port.port)), TIMEOUT)
        except BaseException:
            sock.close()
            raise
        connecting = loop.create_connection(
            lambda: cls(target, on_text),
            sock=sock,
            ssl=port.tls,
            server_hostname="localhost" if port.tls else None,
        )
        _, link = await asyncio.wait_for(connecting, TIMEOUT)
        await asyncio.wait_for(link.opened.wait(), TIMEOUT)
        if not link.status:
            raise ConnectionResetError("the handshake was not answered")
        return link

    # Called by asyncio

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(_UPGRADE.format(target=self._target).encode())

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.opened.is_set():
            head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
            if not found:
                return
            self.status = int(head.split()[1])
            self._data = bytearray(rest)
            self.opened.set()
        if self.status == 101:
            self._take_frames()

    def connection_lost(self, error: Exception | None) -> None:
        self.opened.set()
        self.ended.set()

    def _take_frames(self) -> None:
        data, self._data = bytes(self._data), bytearray()
        for opcode, payload in self._reader.feed(data):
            self._take(opcode, payload)

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT:
            self.on_text(self, payload.decode())
        elif opcode == PING and self.answers:
            self.write(frame(payload, PONG))
        elif opcode == CLOSE:
            self.close_code = int.from_bytes(payload[:2], "big")
            if self.answers:
                self.write(frame(payload, CLOSE))

    # For members

    def send(self, *messages: str) -> None:
        """Send text messages."""
        self.write(b"".join(frame(each.encode()) for each in messages))

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def stop_reading(self) -> None:
        """Stop reading: data waits in the system's buffers, then in the relay."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read the data that has waited, and go on."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def cut(self) -> None:
        """Abort the connection, as the end of a killed process does."""
        self._transport.abort()

    async def leave(self, code: int = 1000) -> None:
        """Close with a handshake."""
        self.write(frame(code.to_bytes(2, "big"), CLOSE))
        try:
            await asyncio.wait_for(self.ended.wait(), TIMEOUT)
        except TimeoutError:
            self.cut()
            raise

    @property
    def alive(self) -> bool:
        """Whether the connection has not ended."""
        return not self.ended.is_set()


async def ask(
    port: Port, method: str, target: str, body: bytes = b"", *, source: str, take: int = -1
) -> tuple[int, bytes]:
    """Send a request; returns the status and body of the answer.

    :param take: read at most that many bytes, and abort the connection.
    :raises OSError: if there is no answer.
    """
    connecting = asyncio.open_connection(
        "127.0.0.1",
        port.port,
        ssl=port.tls,
        server_hostname="localhost" if port.tls else None,
        local_addr=(source, 0),
    )
    reader, writer = await asyncio.wait_for(connecting, TIMEOUT)
    try:
        head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        if method == "POST":
            head += f"Content-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        data = await asyncio.wait_for(reader.read(take) if take >= 0 else reader.read(), TIMEOUT)
    finally:
        writer.transport.abort()
    answer, _, content = data.partition(b"\r\n\r\n")
    if not answer:
        raise ConnectionResetError("the request was not answered")
    return int(answer.split()[1]), content


async def ask_in_part(port: Port, data: bytes, *, source: str, wait: float) -> None:
    """Send an incomplete request; abort after *wait* seconds unless the relay ends it earlier."""
    connecting = asyncio.open_connection(
        "127.0.0.1",
        port.port,
        ssl=port.tls,
        server_hostname="localhost" if port.tls else None,
        local_addr=(source, 0),
    )
    reader, writer = await asyncio.wait_for(connecting, TIMEOUT)
    writer.write(data)
    try:
        await asyncio.wait_for(reader.read(), wait)
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
