"""A relay whose network and time are values in memory.

A :class:`World` runs an ``AceBaseIPCServer`` as it is: real Site, real
WebSockets, real Twisted TCP transports, on sockets that are not real. A
:class:`Wire` is the client's end of a connection to it, a :class:`Peer` a
WebSocket client on such a wire. Whoever sends waits until nothing is left to
do at that moment; time passes only in :meth:`World.pass_time`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any

import txaio
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, capturedLogs, eventAsText
from twisted.python.failure import Failure

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig, Limits

DATABASE = "shop_data"
PORT = 9163
START = 1_700_000_000
"""The time at which a World begins, in seconds since 1970."""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for the key; both from RFC 6455, section 1.3
MASK = bytes.fromhex("37fa213d")  # RFC 6455, section 5.7

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
"""The opcodes of RFC 6455."""


class MemorySocket:
    """A connected TCP socket, seen from the server's end.

    :ivar inbox: bytes that the client has sent and the server has not read.
    :ivar room: bytes that can be sent before the client reads; ``None``: any number.
    :ivar sent: what each ``send`` took.
    """

    _numbers = count(1000)

    def __init__(self) -> None:
        self.inbox = bytearray()
        self.room: int | None = None
        self.sent: list[bytes] = []
        self.ended: str | None = None  # by the server: "closed" or "reset"
        self.left: str | None = None  # by the client: "closed" or "reset"
        self._number = next(self._numbers)
        self._lingers = True

    @property
    def readable(self) -> bool:
        """Whether ``recv`` has something to tell."""
        return bool(self.inbox) or self.left is not None

    @property
    def writable(self) -> bool:
        """Whether ``send`` takes something, or fails."""
        return self.room != 0 or self.left == "reset"

    # What Twisted calls

    def recv(self, size: int) -> bytes:
        if self.inbox:
            data = bytes(self.inbox[:size])
            del self.inbox[:size]
            return data
        if self.left == "reset":
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        if self.left == "closed":
            return b""
        raise BlockingIOError(errno.EWOULDBLOCK, "nothing there")

    def send(self, data: bytes | memoryview) -> int:
        if self.left == "reset":
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        if self.room is not None:
            if not self.room:
                raise BlockingIOError(errno.EWOULDBLOCK, "full")
            data = data[: self.room]
            self.room -= len(data)
        self.sent.append(bytes(data))
        return len(data)

    def setsockopt(self, level: int, option: int, value: object) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self._lingers = False

    def close(self) -> None:
        self.ended = "closed" if self._lingers else "reset"

    def setblocking(self, flag: bool) -> None: ...

    def shutdown(self, how: int) -> None: ...

    def fileno(self) -> int:
        return self._number

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", PORT


class ListeningPort:
    """A port that the server listens on, until it stops."""

    _realPortNumber = PORT  # which Twisted's connections print

    def __init__(self, interface: str, port: int) -> None:
        self.listening = True
        self._address = (IPv6Address if ":" in interface else IPv4Address)(
            "TCP", interface or "0.0.0.0", port or PORT
        )

    def getHost(self) -> IPv4Address | IPv6Address:
        return self._address

    def stopListening(self) -> None:
        self.listening = False


class MemoryNetwork(MemoryReactorClock):
    """A reactor whose ports know where they listen.

    :ivar ports: each port it listens on, or has.
    :ivar taken: numbers of ports that others listen on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[ListeningPort] = []
        self.taken: set[int] = set()

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if port in self.taken:
            raise CannotListenError(interface, port, OSError("Address already in use"))
        super().listenTCP(port, factory, backlog, interface)
        self.ports.append(ListeningPort(interface, port))
        return self.ports[-1]


def make_config(**options: Any) -> AceBaseIPCServerConfig:
    """Return a configuration; *options* are its arguments and those of its limits."""
    limits = {each.name: options.pop(each.name) for each in fields(Limits) if each.name in options}
    return AceBaseIPCServerConfig(limits=Limits(**limits), **options)


class World:
    """A relay, its network and its time, all in memory.

    :param fails: whether errors may be logged; else they fail the test.
    :param taken: ports that others listen on.
    :param config: of the server.
    :ivar started: what the server's ``start`` resulted in.
    :ivar factory: makes the server's end of a connection.
    :ivar failures: errors in the log.
    :ivar events: what was logged.
    """

    def __init__(self, *, fails: bool = False, taken: Iterable[int] = (), **config: Any) -> None:
        self.reactor = MemoryNetwork()
        self.reactor.taken.update(taken)
        self.events: list[LogEvent] = []
        self.failures: list[str] = []
        self._fails = fails
        self._connections: list[tuple[Wire, Server]] = []
        self._ports = count(40_000)
        with self._running():
            self.server = AceBaseIPCServer(
                make_config(**config),
                self.reactor,
                clock=self.reactor.seconds,
                wall=lambda: START + self.reactor.seconds(),
            )
            self.started: list[object] = []
            self.server.start().addBoth(self.started.append)
        assert fails or self.started == [None]
        servers = self.reactor.tcpServers
        self.factory: IProtocolFactory | None = servers[0][1] if servers else None

    @contextmanager
    def _running(self) -> Iterator[None]:
        # Autobahn's timers follow txaio's loop, whatever reactor its factory was given.
        before, txaio.tx.config.loop = txaio.tx.config.loop, self.reactor
        try:
            with capturedLogs() as events:
                yield
        finally:
            txaio.tx.config.loop = before
        self.events += events
        critical = [each for each in events if each["log_level"] is LogLevel.critical]
        self.failures += map(eventAsText, critical)
        assert self._fails or not self.failures, "\n".join(self.failures)

    # Time

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.reactor.seconds()

    def settle(self) -> None:
        """Do all that can be done without time passing."""
        with self._running():
            while self._turn():
                pass

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Let *seconds* pass, in steps of at most *step*."""
        self.settle()
        end = self.now + seconds
        while self.now < end:
            with self._running():
                self.reactor.advance(min(step, end - self.now))
            self.settle()

    def _turn(self) -> bool:
        """One turn of the reactor: what is due, then what can be read or written."""
        busy = any(each.getTime() <= self.now for each in self.reactor.getDelayedCalls())
        self.reactor.advance(0)
        readers = [each for each in self._connections if each[1] in self.reactor.readers]
        writers = [each for each in self._connections if each[1] in self.reactor.writers]
        for wire, transport in readers:
            if wire.socket.readable and transport in self.reactor.readers:
                busy = True
                self._lose(transport, transport.doRead())
        for wire, transport in writers:
            if wire.socket.writable and transport in self.reactor.writers:
                busy = True
                self._lose(transport, transport.doWrite())
        for wire, _ in self._connections:
            busy = wire.look() or busy
        return busy

    def _lose(self, transport: Server, reason: Any) -> None:
        if reason is not None:
            self.reactor.removeReader(transport)
            self.reactor.removeWriter(transport)
            transport.connectionLost(Failure(reason))

    def stop(self) -> list[object]:
        """Begin to stop the server; the list is filled when it has stopped."""
        stopped: list[object] = []
        with self._running():
            stopping: Deferred[None] = self.server.stop()
            stopping.addBoth(stopped.append)
        self.settle()
        return stopped

    # Clients

    def connect(self, host: str = "127.0.0.1") -> Wire:
        """A new connection to the server, from *host*."""
        address = (host, next(self._ports))
        wire = Wire(self)
        assert self.factory is not None
        with self._running():
            protocol = self.factory.buildProtocol(IPv4Address("TCP", *address))
            assert protocol is not None
            sock: Any = wire.socket
            port: Any = ListeningPort("127.0.0.1", PORT)
            transport = Server(sock, protocol, address, port, len(self._connections), self.reactor)
            self._connections.append((wire, transport))
            protocol.makeConnection(transport)
        self.settle()
        return wire

    def request(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Response:
        """The answer to a request over a new connection."""
        wire = self.connect()
        wire.send(http_request(method, target, body, **headers))
        return wire.response()

    def get(self, target: str, **headers: str) -> Response:
        """The answer to a GET."""
        return self.request("GET", target, **headers)

    def post(self, target: str, body: bytes | str, **headers: str) -> Response:
        """The answer to a POST."""
        data = body.encode() if isinstance(body, str) else body
        return self.request("POST", target, data, **headers)

    def upgrade(self, target: str, **headers: str) -> Wire:
        """A connection that has asked for a WebSocket."""
        wire = self.connect()
        wire.send(upgrade_request(target, **headers))
        return wire

    def peer(self, client_id: str, database: str = DATABASE, query: str = "") -> Peer:
        """A peer that has just received its welcome."""
        target = f"/{database}/connect?id={client_id}&v=1.0.0&t=none{query}"
        peer = Peer(client_id, self.upgrade(target))
        assert peer.heard()[0].startswith("welcome:")
        return peer

    def peers(self, *client_ids: str, database: str = DATABASE, query: str = "") -> list[Peer]:
        """Peers of one database that have heard of each other."""
        peers = [self.peer(each, database, query) for each in client_ids]
        for each in peers:
            each.heard()
        return peers

    def logged(self, *words: str) -> list[str]:
        """The log lines that hold all *words*."""
        lines = map(eventAsText, self.events)
        return [line for line in lines if all(word in line for word in words)]


class Wire:
    """The client's end of a connection."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.socket = MemorySocket()
        self.reader: Callable[[bytes], object] | None = None
        self._received = bytearray()
        self._seen = 0

    def send(self, *pieces: bytes) -> None:
        """Send each piece, and let the server deal with it before the next."""
        for piece in pieces:
            if self.socket.ended is None:
                self.socket.inbox += piece
                self.world.settle()

    def take(self) -> bytes:
        """What has come since the last time."""
        data = bytes(self._received)
        self._received.clear()
        return data

    def response(self) -> Response:
        """The one response that has come since the last time."""
        (response,) = self.responses()
        return response

    def responses(self) -> list[Response]:
        """The responses that have come since the last time."""
        return list(parse_responses(self.take()))

    @property
    def ended(self) -> str | None:
        """How the server has ended the connection: ``closed``, ``reset`` or not."""
        return self.socket.ended

    def close(self) -> None:
        """End the connection; what was sent arrives before."""
        self.socket.left = "closed"
        self.world.settle()

    def reset(self) -> None:
        """End the connection as a process does that is killed."""
        self.socket.left = "reset"
        self.socket.inbox.clear()
        self.world.settle()

    def stop_reading(self, room: int = 0) -> None:
        """Read nothing after another *room* bytes."""
        self.socket.room = room

    def read_on(self, room: int | None = None) -> None:
        """Read another *room* bytes, or all that comes."""
        self.socket.room = room
        self.world.settle()

    def look(self) -> bool:
        """Take notice of what was sent; returns whether there was anything."""
        new = self.socket.sent[self._seen :]
        self._seen += len(new)
        for data in new:
            (self.reader or self._received.extend)(data)
        return bool(new)


# HTTP


@dataclass(frozen=True)
class Response:
    """An HTTP response; its headers have names in lower case."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes

    @property
    def text(self) -> str:
        """The body."""
        return self.body.decode()


def http_request(method: str, target: str, body: bytes = b"", /, **headers: str) -> bytes:
    """A request; the header ``content_type`` is called ``content-type``."""
    if body or method == "POST":
        headers.setdefault("content_length", str(len(body)))
    return http_head(method, target, **headers) + body


def http_head(method: str, target: str, **headers: str) -> bytes:
    """The head of a request; there are no headers but Host and these."""
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in ({"host": f"127.0.0.1:{PORT}"} | headers).items():
        lines.append(f"{name.replace('_', '-')}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; an empty one ends it."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def parse_responses(data: bytes) -> Iterator[Response]:
    """Read responses, one after the other; a 100 Continue is one, too."""
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        assert found, f"not a response: {head!r}"
        status_line, *lines = head.decode().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        status = int(status_line.split()[1])
        if headers.get("transfer-encoding") == "chunked":
            body, data = _dechunk(data)
        else:
            length = 0 if status in (100, 101, 204) else int(headers.get("content-length", 0))
            body, data = data[:length], data[length:]
            assert len(body) == length, "the body is cut off"
        yield Response(status, headers, body)
        if status == 101:
            return


def _dechunk(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body += data[:length]
        data = data[length + 2 :]
        if not length:
            return body, data


# WebSockets


@dataclass(frozen=True)
class Frame:
    """A frame from the server, whole and not masked."""

    opcode: int
    payload: bytes

    @property
    def close_code(self) -> int:
        """The code of a close frame."""
        return int.from_bytes(self.payload[:2], "big")


def text(message: str) -> Frame:
    """The frame with a text message."""
    return Frame(TEXT, message.encode())


def upgrade_request(target: str, **headers: str) -> bytes:
    """The request for a WebSocket; a header can be changed, or left out with ``""``."""
    usual = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_key": KEY,
        "sec_websocket_version": "13",
    }
    return http_head("GET", target, **{k: v for k, v in (usual | headers).items() if v})


def client_frame(payload: bytes, opcode: int = TEXT, *, final: bool = True) -> bytes:
    """A frame as a client sends it: masked."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    mask = (MASK * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return bytes([final << 7 | opcode]) + length + MASK + masked.to_bytes(size, "big")


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame."""
    return code.to_bytes(2, "big") + reason.encode()


class Peer:
    """A WebSocket client.

    :ivar id: its id.
    :ivar wire: its connection.
    :ivar answers: whether it answers a close frame or a ping, as clients do.
    """

    def __init__(self, client_id: str, wire: Wire) -> None:
        self.id = client_id
        self.wire = wire
        self.answers = True
        self._data = wire.take()
        head, found, self._data = self._data.partition(b"\r\n\r\n")
        assert found, head
        assert head.startswith(b"HTTP/1.1 101 "), head
        self._frames: list[Frame] = []
        self._close: Frame | None = None
        wire.reader = self._receive
        self._receive(b"")
        wire.world.settle()

    def say(self, *messages: str) -> None:
        """Send text messages, each in one frame, all at once."""
        self.wire.send(b"".join(client_frame(each.encode()) for each in messages))

    def send(self, payload: bytes, opcode: int, *, final: bool = True) -> None:
        """Send one frame."""
        self.wire.send(client_frame(payload, opcode, final=final))

    def leave(self, code: int = 1000) -> None:
        """Close the WebSocket in the regular way."""
        self.send(close_payload(code), CLOSE)

    def frames(self) -> list[Frame]:
        """All frames that have come since the last time."""
        frames, self._frames = self._frames, []
        return frames

    def heard(self) -> list[str]:
        """The text messages that have come since the last time."""
        return [each.payload.decode() for each in self.frames() if each.opcode == TEXT]

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that the server has sent, if it has."""
        return None if self._close is None else self._close.close_code

    @property
    def close_reason(self) -> str:
        """The reason that the server has given for closing."""
        return "" if self._close is None else self._close.payload[2:].decode()

    def _receive(self, data: bytes) -> None:
        self._data += data
        while (frame := self._next_frame()) is not None:
            self._frames.append(frame)
            answer = {CLOSE: CLOSE, PING: PONG}.get(frame.opcode)
            if frame.opcode == CLOSE:
                assert self._close is None, "a second close frame"
                self._close = frame
            if self.answers and answer is not None and self.wire.socket.ended is None:
                self.wire.socket.inbox += client_frame(frame.payload, answer)

    def _next_frame(self) -> Frame | None:
        data = self._data
        if len(data) < 2:
            return None
        assert data[0] & 0xF0 == 0x80, f"a fragment, or a reserved bit: {data[:2]!r}"
        assert data[1] < 0x80, "a masked frame"
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        if len(data) < start + length:
            return None
        self._data = data[start + length :]
        assert self._close is None, "a frame after the close frame"
        return Frame(data[0] & 0x0F, data[start : start + length])
