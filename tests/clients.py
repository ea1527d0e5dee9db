"""Clients in memory: of a relay in memory, or of a server that a test plays."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any, Self

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc import IPCClient
from acebase_ipc.client.errors import ClientError
from acebase_ipc.testing import DATABASE, MemoryConnection, MemoryRelay, Opcode, close_payload
from acebase_ipc.testing.frames import apply_mask

URL = "ws://127.0.0.1:9163"


class Transport:
    """The client's transport.

    :ivar room: bytes that it takes before it pauses its producer.
    :ivar sent: all that was written.
    :ivar written: what was written, unless it is taken at once.
    :ivar reason: why it has ended, or ends in the next turn.
    """

    def __init__(self, protocol: Any, take: Callable[[bytes], object] | None = None) -> None:
        self.protocol = protocol
        self.take = take
        self.room: float = float("inf")
        self.sent = bytearray()
        self.written = bytearray()
        self.no_delay = False
        self.reason: Exception | None = None
        self.told = False
        self.reading = True
        self._unread = bytearray()
        self._producer: Any = None
        self.on_end: Callable[[Exception], object] = lambda reason: None

    # What protocols call

    def write(self, data: bytes) -> None:
        if self.reason is None:
            self.room -= len(data)
            self.sent += data
            if self.take is None:
                self.written += data
            else:
                self.take(data)
            if self.room < 0 and self._producer is not None:
                self._producer.pauseProducing()

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def loseConnection(self) -> None:
        self._end(ConnectionDone())

    def abortConnection(self) -> None:
        self._end(ConnectionAborted())

    def _end(self, reason: Exception) -> None:
        if self.reason is None:
            self.reason = reason
            self.on_end(reason)

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 9163)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 40000)

    # What tests call

    def belongs_to(self, connection: object) -> bool:
        """Whether it is the transport of *connection*."""
        return getattr(connection, "transport", None) is self

    def drain(self) -> None:
        """Let the other end read everything."""
        self.room = float("inf")
        if self._producer is not None:
            self._producer.resumeProducing()

    def receive(self, data: bytes) -> None:
        """Let the other end send *data*."""
        self._unread += data

    def lose(self, reason: Exception | None = None) -> None:
        """Let the other end, or the network, end the connection."""
        self.reason = self.reason or reason or ConnectionLost()

    def turn(self) -> bool:
        """Deliver what has arrived; returns whether there was anything."""
        if self._unread and self.reading and not self.told:
            data = bytes(self._unread)
            self._unread.clear()
            self.protocol.dataReceived(data)
            return True
        if self.reason is not None and not self.told:
            self.told = True
            self.protocol.connectionLost(Failure(self.reason))
            return True
        return False


@implementer(IStreamClientEndpoint)
class Network:
    """What clients connect to.

    :ivar refuses: whether connections are refused.
    :ivar transports: of all connections, in the order they were made.
    """

    def __init__(self, reactor: MemoryReactorClock) -> None:
        self.reactor = reactor
        self.refuses = False
        self.transports: list[Transport] = []
        self._connecting: list[tuple[Any, Deferred[Any]]] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        """Begin to connect."""
        if self.refuses:
            return fail(ConnectionRefusedError())
        made: Deferred[Any] = Deferred()
        self._connecting.append((factory, made))
        return made

    def client(self, client_id: str | None = None, **options: Any) -> IPCClient:
        """A client that is not started; it waits as many seconds as it has failed."""
        known: dict[str, Any] = {
            "url": URL,
            "dbname": DATABASE,
            "retry_policy": float,
            "endpoint": self,
        } | options
        return IPCClient(id=client_id, reactor=self.reactor, clock=self.reactor.seconds, **known)

    def start(self, *clients: IPCClient) -> None:
        """Start clients, and run everything that can happen now."""
        for each in clients:
            each.startService()
        self.settle()

    def started(self, client_id: str | None = None, **options: Any) -> IPCClient:
        """A client that is connected, if it can be."""
        client = self.client(client_id, **options)
        self.start(client)
        return client

    def settle(self) -> None:
        """Run everything that can happen without time passing."""
        busy = True
        while busy:
            busy = self.others_turn()
            busy = self.accept() or busy
            for each in tuple(self.transports):
                busy = each.turn() or busy

    def accept(self) -> bool:
        """Accept the pending connections; returns whether there were any."""
        connecting, self._connecting = self._connecting, []
        wanted = [(factory, made) for factory, made in connecting if not made.called]
        for factory, made in wanted:
            self._accept(factory, made)
        return bool(wanted)

    def others_turn(self) -> bool:
        """Run everything else; returns whether something was due."""
        due = any(c.getTime() <= self.reactor.seconds() for c in self.reactor.getDelayedCalls())
        self.reactor.advance(0)
        return due

    def _accept(self, factory: Any, made: Deferred[Any]) -> None:
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 9163))
        transport = Transport(protocol)
        self.prepare(transport)
        self.transports.append(transport)
        protocol.makeConnection(transport)
        made.callback(protocol)

    def prepare(self, transport: Transport) -> None:
        """Connect the other end of *transport*."""

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Let *seconds* pass."""
        self.settle()
        end = self.reactor.seconds() + seconds
        while self.reactor.seconds() < end:
            self.reactor.advance(min(step, end - self.reactor.seconds()))
            self.settle()

    @property
    def last(self) -> Transport:
        """The latest transport."""
        return self.transports[-1]


class RelayNetwork(Network):
    """The network of the relay in a :class:`~acebase_ipc.testing.MemoryRelay`."""

    def __init__(self, relay: MemoryRelay | None = None, **config: Any) -> None:
        self.relay = relay or MemoryRelay(**config)
        super().__init__(self.relay.reactor)
        self.wires: list[MemoryConnection] = []

    def prepare(self, transport: Transport) -> None:
        """Connect it to the relay."""
        wire = self.relay.connect()
        self.wires.append(wire)
        wire.on_data = transport.receive
        transport.take = lambda data: wire.send(bytes(data), settle=False)

        def left(reason: Exception) -> None:
            (wire.close if isinstance(reason, ConnectionDone) else wire.cut)()

        transport.on_end = left

    def others_turn(self) -> bool:
        """Let the relay do what it can."""
        self.relay.settle()
        for wire, transport in zip(self.wires, self.transports, strict=True):
            if wire.ended is not None:
                transport.lose(ConnectionDone() if wire.ended == "closed" else ConnectionLost())
        return False

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Let *seconds* pass, for the relay and for its clients."""
        self.settle()
        end = self.relay.now + seconds
        while self.relay.now < end:
            self.relay.pass_time(min(step, end - self.relay.now))
            self.settle()

    def websocket(self, client: IPCClient) -> Transport:
        """The transport of the client's WebSocket."""
        connection = client._link.connection
        (transport,) = (each for each in self.transports if each.belongs_to(connection))
        return transport

    def cut(self, client: IPCClient) -> None:
        """Let the network lose the client's WebSocket; both ends notice."""
        transport = self.websocket(client)
        self.wires[self.transports.index(transport)].cut()
        transport.lose()
        self.settle()


class PlayedServer:
    """The server's end of a :class:`Transport`, played by a test."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @property
    def request(self) -> str:
        """The handshake that was asked for."""
        return self.transport.written.partition(b"\r\n\r\n")[0].decode()

    def accept(self, accept: str | None = None) -> Self:
        """Answer the handshake."""
        (key,) = (
            line.partition(": ")[2]
            for line in self.request.split("\r\n")
            if line.startswith("Sec-WebSocket-Key")
        )
        magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
        digest = hashlib.sha1((key + magic).encode()).digest()
        self.say_http(
            "101 Switching Protocols",
            f"Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept or base64.b64encode(digest).decode()}\r\n",
        )
        self.transport.written.clear()
        return self

    def say_http(self, status: str, headers: str = "", body: str = "") -> None:
        """Send an answer."""
        self.transport.receive(f"HTTP/1.1 {status}\r\n{headers}\r\n{body}".encode())

    def say(self, *texts: str) -> None:
        """Send text messages."""
        for each in texts:
            self.send(each.encode())

    def send(self, payload: bytes, opcode: int = Opcode.TEXT, fin: bool = True) -> None:
        """Send a frame."""
        size = len(payload)
        head = bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
        if size >= 1 << 16:
            head = b"\x7f" + size.to_bytes(8, "big")
        self.transport.receive(bytes([(0x80 if fin else 0) | opcode]) + head + payload)

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame."""
        self.send(close_payload(code, reason), Opcode.CLOSE)

    def frames(self) -> list[tuple[int, bytes]]:
        """Opcode and payload of each frame that has come since the last time."""
        data, frames = bytes(self.transport.written), []
        self.transport.written.clear()
        while data:
            size, start = data[1] & 0x7F, 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(data[2:start], "big")
            key, payload = data[start : start + 4], data[start + 4 : start + 4 + size]
            assert len(payload) == size, "a frame is cut off"
            frames.append((data[0] & 0x0F, apply_mask(payload, key)))
            data = data[start + 4 + size :]
        return frames

    def received(self) -> list[str]:
        """The texts that have come since the last time."""
        return [payload.decode() for opcode, payload in self.frames() if opcode == Opcode.TEXT]


class UserCode:
    """Code that acts in the callbacks of a client or a peer, and the Deferreds it was given.

    :ivar errors: those with which the Deferreds may fail.
    :ivar pending: the Deferreds.
    :ivar calls: how often a callback was called.
    :ivar cancels: whether it cancels the Deferreds, which calls their callbacks at once.
    """

    errors: tuple[type[BaseException], ...] = (ClientError, CancelledError)

    def __init__(self) -> None:
        self.pending: list[Deferred[Any]] = []
        self.calls = 0
        self.cancels = False
        self._within = False
        self._act: Callable[[Any], object] = lambda scene: None

    def watch(self, deferred: Deferred[Any]) -> Deferred[Any]:
        """Expect *deferred* to fire in the end, with a result or an error of ours."""
        self.pending.append(deferred)
        deferred.addErrback(lambda failure: failure.trap(*self.errors))
        return deferred

    def react(self, *_: object) -> None:
        """Act as user code would, the first three times."""
        assert self.cancels or not self._within, "a call is made within another one"
        self.calls += 1
        if self.calls <= 3:
            self._within = True
            try:
                self._act(self)
            finally:
                self._within = False

    def act(self, act: Callable[[Any], object]) -> None:
        """From now on, do *act* in callbacks."""
        self._act = act
