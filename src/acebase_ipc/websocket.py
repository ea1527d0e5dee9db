"""The WebSocket side: each connection is a peer's connection to the relay.

Autobahn speaks RFC 6455. Beyond it, a connection batches what it sends: the
frames of one reactor turn leave in one write. While the transport is full, the
connection tells the relay so and receives nothing more until it has room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.util import encode_truncate
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from acebase_ipc.addresses import format_address
from acebase_ipc.errors import MessageRefused
from acebase_ipc.handshake import Handshake
from acebase_ipc.limits import KIB, MAX_UTF8_PER_UNIT, Limits
from acebase_ipc.peers import Peer
from acebase_ipc.relay import Relay

BATCH = 64 * KIB
"""Bytes collected for one write; as much as Twisted's transports buffer before
they pause a producer (``FileDescriptor.bufferSize``)."""

CLOSE_TIMEOUT = 3.0
"""Seconds that a peer has to answer our close frame; less than the 5 s in which
the server has to end, enough to read what was sent before."""

CLOSE_INTERNAL_ERROR = 1011
CLOSE_NO_STATUS = 1005  # stands for a close frame without a code
PROBE = b"probe"
"""The payload of a ping that asks whether the holder of a contested id lives."""

_MAX_CLOSE_REASON = 123  # bytes: RFC 6455, section 5.5

log = Logger()


@provider(ILogObserver)
def _ignore(event: object) -> None:
    """Autobahn logs what each peer does wrong; we report it through the relay's observer."""


@implementer(IPushProducer)
class RelayServerProtocol(WebSocketServerProtocol):
    """One peer's WebSocket.

    Autobahn copies every option that the class lacks to each connection and
    formats them all for a log, 0.2 ms in all; so they are given here.
    """

    CONFIG_ATTRS: tuple[str, ...] = ()
    log = Logger(namespace="autobahn", observer=_ignore)

    logOctets = False
    logFrames = False
    trackTimings = False
    utf8validateIncoming = True
    applyMask = True
    maxFramePayloadSize = 0
    autoFragmentSize = 0
    failByDrop = False  # so that a peer learns by the close code what it did wrong
    echoCloseCodeReason = True
    openHandshakeTimeout = 0  # the request has arrived as a whole before we exist
    closeHandshakeTimeout = CLOSE_TIMEOUT
    tcpNoDelay = True
    autoPingInterval = 0
    autoPingTimeout = 0
    autoPingSize = 12
    autoPingRestartOnAnyTraffic = True
    versions = (13,)
    webStatus = False
    requireMaskedClientFrames = True
    maskServerFrames = False
    serveFlashSocketPolicy = False
    flashSocketPolicy = ""
    allowedOrigins = ("*",)  # checked for every path before the upgrade
    allowedOriginsPatterns = ()
    allowNullOrigin = True
    maxConnections = 0
    trustXForwardedFor = 0

    factory: RelayServerFactory
    handshake: Handshake
    member: Peer | None = None
    silent_for = 0
    """Sweeps since the peer was last heard."""

    _probe_timeout: IDelayedCall | None = None
    _unsent_bytes = 0
    _paused = False

    @property
    def maxMessagePayloadSize(self) -> int:
        """Bytes that a message may have before its UTF-16 units are counted."""
        return self.factory.max_message_bytes

    @staticmethod
    def perMessageCompressionAccept(offers: Any) -> None:
        """Compress nothing: the CPU is the relay's scarcest resource."""

    def __init__(self) -> None:
        super().__init__()
        self._batch: list[bytes] = []
        self._batched_bytes = 0
        self._probes: list[Callable[[bool], object]] = []

    # Called by Autobahn

    def onOpen(self) -> None:
        """The handshake is answered: the client becomes a peer."""
        try:
            # This frees the HTTP channel and request that brought us here.
            self.transport.unregisterProducer()
            self.transport.registerProducer(self, True)
            self.factory.connections.add(self)
            self.member = self.factory.relay.join(self.handshake, self, self.factory.wall())
            self.flush()  # so that welcome leaves in one write with the 101
        except Exception:
            self._fail("joining")

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole message has come; Autobahn has checked that a text is UTF-8."""
        if self.member is None or self.state != self.STATE_OPEN:
            return  # what comes after we began to close is not relayed
        try:
            if isBinary:
                self.factory.relay.binary_ignored(self.member)
            else:
                self.factory.relay.receive(self.member, payload)
        except MessageRefused as refusal:
            self.close(refusal.close_code, str(refusal))
        except Exception:
            self._fail("relaying a message")

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection has ended."""
        if self.member is not None:
            try:
                close_code = (code or CLOSE_NO_STATUS) if wasClean else None
                self.factory.relay.lost(self.member, self, close_code, self.factory.clock())
            except Exception:
                log.failure("telling the relay that a connection is lost")
        self._answer_probe(False)
        self.factory.closed(self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come: the peer lives."""
        self.silent_for = 0
        try:
            super().dataReceived(data)
        except Exception:
            self._fail("receiving")

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn sends a close, ping or pong: all frames before it go first."""
        self.flush()
        super().sendData(data, sync, chopsize)

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """Autobahn refuses a malformed upgrade: answer with one line of text."""
        body = reason.encode("utf-8", "replace")
        headers = [*(responseHeaders or ()), ("Content-Type", "text/plain; charset=utf-8")]
        headers += [("Content-Length", len(body)), ("Connection", "close")]
        lines = [f"HTTP/1.1 {code} Refused", *(f"{name}: {value}" for name, value in headers)]
        self.sendData("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def _fail(self, doing: str) -> None:
        log.failure("{doing} failed", Failure(), doing=doing)
        self.close(CLOSE_INTERNAL_ERROR, "internal error")

    # The relay's Connection

    @property
    def address(self) -> str:
        """Where the other end is."""
        return format_address(self.transport.getPeer())

    @property
    def backlog(self) -> int:
        """At most this many bytes were taken by :meth:`send` and are unsent."""
        return self._batched_bytes + self._unsent_bytes

    def send(self, frame: bytes) -> None:
        """Send *frame* with the others of this turn."""
        if not self._batch:
            self.factory.flush_later(self)
        self._batch.append(frame)
        self._batched_bytes += len(frame)
        if self._batched_bytes >= BATCH:
            self.flush()

    def reclaim(self) -> list[bytes]:
        """Give back the frames of this turn."""
        batch, self._batch = self._batch, []
        self._batched_bytes = 0
        return batch

    def probe(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Ping the other end and wait for its pong."""
        self._probes.append(answer)
        if self._probe_timeout is None:
            self._probe_timeout = self.factory.reactor.callLater(timeout, self._answer_probe, False)
            self.sendPing(PROBE)

    def onPong(self, payload: bytes) -> None:
        """The other end lives."""
        if payload == PROBE:
            self._answer_probe(True)

    def _answer_probe(self, alive: bool) -> None:
        if self._probe_timeout is not None and self._probe_timeout.active():
            self._probe_timeout.cancel()
        self._probe_timeout = None
        probes, self._probes = self._probes, []
        for answer in probes:
            answer(alive)

    def close(self, code: int, reason: str) -> None:
        """Send what was taken, then begin the closing handshake."""
        if self.state == self.STATE_OPEN:
            self.sendCloseFrame(code, encode_truncate(reason, _MAX_CLOSE_REASON), isReply=False)
        elif self.state == self.STATE_CONNECTING:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._batch.clear()
        self._batched_bytes = 0
        self.dropConnection(abort=True)

    def flush(self) -> None:
        """Write the frames of this turn."""
        if not self._batch:
            return
        data = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
        self._batch.clear()
        self._batched_bytes = 0
        if self.state == self.STATE_OPEN:
            self._unsent_bytes = len(data) + (self._unsent_bytes if self._paused else 0)
            self.transport.write(data)

    # The transport's producer

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._paused = True
        if self.member is not None:
            self.factory.relay.congested(self.member, self)

    def resumeProducing(self) -> None:
        """The transport has written everything."""
        self._paused = False
        self._unsent_bytes = 0
        if self.member is not None:
            self.factory.relay.drained(self.member, self)
            self.flush()

    def stopProducing(self) -> None:
        """The transport has ended; :meth:`onClose` follows."""


class RelayServerFactory(WebSocketServerFactory):
    """Makes the connections of one relay, and knows which are open.

    :param relay: what the connections belong to.
    :param clock: seconds of a clock that never jumps.
    :param wall: the current time in milliseconds since 1970.
    """

    protocol = RelayServerProtocol

    def __init__(
        self,
        relay: Relay,
        limits: Limits,
        reactor: IReactorTime,
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        super().__init__(server=None, reactor=reactor)
        self.relay = relay
        self.clock = clock
        self.wall = wall
        self.connections: set[RelayServerProtocol] = set()
        self._ping_after = round(limits.keepalive_interval)
        self._cut_after = round(limits.keepalive_interval + limits.keepalive_timeout)
        self._unflushed: list[RelayServerProtocol] = []
        self._when_closed: list[Deferred[None]] = []
        self.max_message_bytes = relay.max_payload * MAX_UTF8_PER_UNIT

    def build(self, handshake: Handshake, address: IAddress) -> RelayServerProtocol:
        """A connection for an accepted *handshake*."""
        protocol: RelayServerProtocol = self.buildProtocol(address)
        protocol.handshake = handshake
        return protocol

    def flush_later(self, connection: RelayServerProtocol) -> None:
        """Flush *connection* at the end of this reactor turn."""
        if not self._unflushed:
            self.reactor.callLater(0, self._flush)
        self._unflushed.append(connection)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for connection in unflushed:
            try:
                connection.flush()
            except Exception:
                log.failure("writing to a connection")
                connection.abort()

    def closed(self, connection: RelayServerProtocol) -> None:
        """*connection* has ended."""
        self.connections.discard(connection)
        if not self.connections:
            when_closed, self._when_closed = self._when_closed, []
            for each in when_closed:
                each.callback(None)

    def wait_closed(self, timeout: float) -> Deferred[None]:
        """Wait until every connection has ended, and after *timeout* seconds end them."""
        if not self.connections:
            return succeed(None)
        closed: Deferred[None] = Deferred()

        def abort() -> None:
            for connection in tuple(self.connections):
                connection.abort()

        deadline = self.reactor.callLater(timeout, abort)
        closed.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        self._when_closed.append(closed)
        return closed

    def sweep(self) -> None:
        """Ping silent peers and cut those that do not answer; once a second."""
        for connection in tuple(self.connections):
            connection.silent_for += 1
            if connection.silent_for == self._ping_after:
                connection.sendPing()
            elif connection.silent_for >= self._cut_after:
                connection.abort()
