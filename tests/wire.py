"""WebSocket frames as clients send them, and connections of a server in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure

from acebase_ipc.protocol.errors import MessageRefused
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.work import SLICE, Work
from acebase_ipc.rotation import Rotation
from acebase_ipc.testing import Frame, Opcode, close_payload, server_frames
from acebase_ipc.websocket.factory import WebSocketFactory
from acebase_ipc.websocket.fastpath import WebSocketConnection

# RFC 6455, section 5.7

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
"""The response to a handshake, as far as it matters here."""

BIG = 1 << 20
"""Bytes that a message may have where no limit is tested."""


class MemoryTransport:
    """A transport that keeps what is written to it.

    :ivar writes: the data of each call.
    :ivar room: bytes that the other end takes before the producer is paused.
    :ivar reading: whether it passes on what arrives.
    :ivar ended: whether it has closed the connection after all was read.
    """

    dataBuffer = b""  # the names by which a Twisted transport tells what it has buffered
    offset = 0

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.room: float = float("inf")
        self.disconnecting = False
        self.aborted = False
        self.reading = True
        self.producer: IPushProducer | None = None

    @property
    def written(self) -> bytes:
        """All that was written."""
        return b"".join(self.writes)

    @property
    def _tempDataLen(self) -> int:
        return int(max(0, -self.room))

    @property
    def ended(self) -> bool:
        return self.disconnecting and self.producer is None and self.room >= 0

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if (self.disconnecting and self.producer is None) or self.aborted:
            return
        self.writes.append(data)
        self.room -= len(data)
        if self.room < 0 and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Let the other end read everything that is buffered, and what follows."""
        self.drain_to(float("inf"))

    def drain_to(self, room: float) -> None:
        """Let the other end read everything that is buffered, and *room* bytes more."""
        self.room = room
        if self.producer is not None:
            self.producer.resumeProducing()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        assert streaming
        assert self.producer is None
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True

    def loseConnection(self) -> None:
        self.disconnecting = True

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 50000)


class Recorder(WebSocketConnection):
    """Keeps what it hears, and does what a test says; it is its own listener.

    :ivar heard: the messages; texts as ``str``.
    :ivar calls: what else it was told, in order.
    :ivar on_open: called when the handshake is answered.
    :ivar on_text: called with each text.
    """

    transport: MemoryTransport
    on_open: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, factory: RecorderFactory) -> None:
        super().__init__(factory, self)
        self.heard: list[str | bytes] = []
        self.calls: list[Any] = []
        self.on_text: Callable[[bytes], object] = lambda text: None

    def opened(self, connection: WebSocketConnection) -> None:
        self.receive = self.take_texts
        self.on_open()

    def take_texts(self, texts: list[bytes]) -> int:
        """Receive texts as the relay does: up to a slice of work, or to the end."""
        end = self.factory.work.units + SLICE
        for count, text in enumerate(texts, 1):
            self.received(text)
            if self.state != self.STATE_OPEN or self.factory.work.units >= end:
                return count
        return len(texts)

    def received(self, text: bytes) -> None:
        self.heard.append(text.decode())
        self.on_text(text)

    def refused(self, refusal: MessageRefused) -> None:
        self.close(refusal.close_code, str(refusal))

    def received_binary(self) -> None:
        self.heard.append(b"binary")

    def drained(self) -> None:
        self.calls.append("drained")

    def received_pong(self, payload: bytes) -> None:
        self.calls.append(("pong", payload))

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        self.calls.append(("check", timeout))

    def closing(self, code: int | None, by_peer: bool) -> None:
        self.calls.append(("closing", code))

    def closed(self, code: int, reason: str, is_clean: bool) -> None:
        pass

    @property
    def frames(self) -> list[Frame]:
        """What it has written since the handshake."""
        return server_frames(self.transport.written)


class RecorderFactory(WebSocketFactory[WebSocketConnection]):
    """Makes recorders; the time by which they are busy stands still, unless given."""

    protocol = Recorder

    def __init__(
        self,
        max_message_bytes: int,
        reactor: Any,
        clock: Callable[[], float] = lambda: 100.0,
        max_memory: int = 1 << 60,
    ) -> None:
        self.enforced = 0
        self.budget = MemoryBudget(max_memory)
        super().__init__(
            max_message_bytes,
            self.budget,
            self.enforce,
            _Nobody(),
            Rotation(reactor, Work()),
            reactor,
            clock,
        )

    def enforce(self) -> None:
        """Count that the limit of memory was checked."""
        self.budget.check()
        self.enforced += 1


class _Nobody:
    """Keeps no account of connections."""

    def opened(self, connection: WebSocketConnection) -> None: ...

    def closed(self, connection: WebSocketConnection) -> None: ...


def connect(factory: Any) -> Any:
    """Open a WebSocket of *factory* in memory; what that writes is not kept."""
    protocol = factory.protocol(factory)
    protocol.open(MemoryTransport(), ANSWER, b"")
    assert protocol.transport.written.startswith(ANSWER)
    protocol.transport.writes.clear()
    return protocol


def lose(protocol: Any) -> None:
    """Let the connection of *protocol* end."""
    protocol.connectionLost(Failure(ConnectionDone()))


def closed_with(code: int, reason: bytes) -> Frame:
    """A server's close frame."""
    return Frame(Opcode.CLOSE, close_payload(code, reason))
