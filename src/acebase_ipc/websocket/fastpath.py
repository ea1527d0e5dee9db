"""Autobahn's server protocol, quicker on the common case.

**Receiving.** While Autobahn is between two messages, whole text messages in
one frame are recognised here. Everything else goes to it untouched, so that it
stays the judge of RFC 6455. Sockets are read from together with others (see
:mod:`acebase_ipc.websocket.epoll`).

**Sending.** Frames are collected and leave in one write, at the end of the
data or of the reactor turn that caused them. What is sent by Autobahn itself
(close, ping, pong) goes after all frames that were sent before.

This rests on a few private attributes of Autobahn and Twisted. Where one is
missing, the public way is taken: slower, and said once in the log.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.util import encode_truncate
from autobahn.websocket.xormasker import create_xor_masker
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.protocol.frames import PartialText, may_become_text, split
from acebase_ipc.relay.limits import KIB
from acebase_ipc.websocket.coalescing import WriteCoalescer
from acebase_ipc.websocket.epoll import EpollReader, can_use_epoll
from acebase_ipc.websocket.lean import LeanServerProtocol

BATCH = 64 * KIB
"""Bytes collected for one write; as much as Twisted's transports buffer before
they pause a producer (``FileDescriptor.bufferSize``)."""

log = Logger()

STATE_OPEN = LeanServerProtocol.STATE_OPEN

_MAX_CLOSE_REASON = 123  # bytes: RFC 6455, section 5.5

PING_FRAME = b"\x89\x00"
_EMPTY_PONG = b"\x8a\x80"

_NEEDED = ("data", "current_frame", "inside_message")
"""Attributes that tell whether Autobahn is between two messages."""


def unmask_long(payload: bytes, key: bytes) -> bytes:
    """Remove the mask *key* from a *payload* above 1 KiB, natively where that is possible."""
    unmasked: bytes = create_xor_masker(key, len(payload)).process(payload)
    return unmasked


@implementer(IPushProducer)
class FastServerProtocol(LeanServerProtocol):
    """A WebSocket whose texts and frames take the short way.

    Subclasses override :meth:`opened`, :meth:`textReceived`,
    :meth:`binaryReceived`, :meth:`congested` and :meth:`drained`.

    :cvar use_private: whether to rest on private attributes, if they are there.
    :ivar last_received: at which of the factory's ticks the other end was heard last.
    :ivar next_check: see :class:`~acebase_ipc.websocket.keepalive.Audible`.
    """

    use_private = True

    factory: FastServerFactory
    last_received = 0
    next_check = 0

    last_flush = 0.0
    _crashed = False
    _paused = False
    _between_messages = False
    _gathered: int | None = None
    _batched_bytes = 0
    _unsent_bytes = 0
    _partial: PartialText | None = None
    _head = b""
    _socket: socket.socket | None = None

    def __init__(self) -> None:
        super().__init__()
        self._batch: list[bytes] = []

    @property
    def maxMessagePayloadSize(self) -> int:
        """Bytes that a message may have."""
        return self.factory.max_message_bytes

    # What subclasses do

    def opened(self) -> None:
        """The handshake is answered."""

    def textReceived(self, text: bytes) -> None:
        """A text message has come; it is valid UTF-8."""

    def binaryReceived(self, data: bytes) -> None:
        """A binary message has come."""

    def congested(self) -> None:
        """The transport is full; send no more than necessary until it is :meth:`drained`."""

    def drained(self) -> None:
        """The transport has written everything."""

    # Opening

    def onOpen(self) -> None:
        """Take over from Twisted's HTTP channel and let go what only a handshake needs."""
        try:
            self.transport.unregisterProducer()
            self.transport.registerProducer(self, True)
            if self.factory.knows_internals(self):
                if type(self.transport) is Server and not self.transport.TLS:
                    self._socket = self.transport.getHandle()
                    self._gathered = self.factory.gather(self)
                self.drop_handshake_state()
            self.factory.opened(self)
            self.opened()
        except Exception:
            self._crash("opening a connection")
        self.flush()  # so that the first message leaves in one write with the 101

    # Receiving

    def dataReceived(self, data: bytes) -> None:
        """Bytes have come: the other end lives."""
        self.last_received = self.factory.ticks
        flushing = self.factory.flushing
        flushing.receiving = True
        try:
            if self._between_messages:
                self._take_texts(data)
            else:
                self._resume(data)
        except Exception:
            self._crash("receiving")
        flushing.receiving = False
        flushing.flush_idle()
        if self._crashed:
            self.close(1011, "internal error")

    def _take_texts(self, data: bytes) -> None:
        """Take the texts that *data* begins with, and leave the rest to Autobahn."""
        texts, rest, partial = split(data, self.factory.max_message_bytes, unmask_long)
        for text in texts:
            if self.state == STATE_OPEN:
                try:
                    self.textReceived(text)
                except Exception:
                    self._crash("receiving a message")
        if rest:
            if len(rest) == 6 and rest.startswith(_EMPTY_PONG) and self.state == STATE_OPEN:
                self.onPong(b"")  # as thousands of idle connections answer our pings
            elif may_become_text(rest):
                self._head = rest
                self._between_messages = False
            else:
                self._leave_to_autobahn(rest)
        elif partial is not None:
            self._partial = partial
            self._between_messages = False
            self.factory.half_received.add(self)

    def _resume(self, data: bytes) -> None:
        """Go on with what has come in part, here or at Autobahn."""
        partial = self._partial
        if partial is not None:
            data, rest = data[: partial.missing], data[partial.missing :]
            if not partial.feed(data):
                self._partial = None
                self._leave_to_autobahn(partial.raw + rest)
            elif not partial.missing:
                self._partial = None
                self._between_messages = True
                self.factory.half_received.discard(self)
                self.onMessage(partial.payload, False)
                self._take_texts(rest)
        elif self._head:
            data, self._head = self._head + data, b""
            self._between_messages = True
            self._take_texts(data)
        else:
            self._leave_to_autobahn(data)

    def _leave_to_autobahn(self, data: bytes) -> None:
        self._between_messages = False
        if self.factory.fast:
            self._dataReceived(data)  # all but a line for a log that is formatted in vain
            self._between_messages = (
                self.factory.fast
                and self.state == STATE_OPEN
                and not self.data
                and self.current_frame is None
                and not self.inside_message
            )
        else:
            super().dataReceived(data)
        if self.inside_message:
            self.factory.half_received.add(self)
        else:
            self.factory.half_received.discard(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole message has come."""
        if self.state != STATE_OPEN:
            return  # what comes after we began to close is of no interest
        try:
            if isBinary:
                self.binaryReceived(payload)
            else:
                self.textReceived(payload)
        except Exception:
            self._crash("receiving a message")

    def _crash(self, doing: str) -> None:
        """Our own mistake: log it; close when the data that has come is done with."""
        log.failure("{doing} failed", doing=doing)
        self._crashed = True

    # Sending

    def send(self, frame: bytes) -> None:
        """Send *frame* with the others of this turn."""
        if not self._batch:
            self.factory.flushing.flush_soon(self)
        self._batch.append(frame)
        self._batched_bytes += len(frame)
        if self._batched_bytes >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what was sent, or keep it to be reclaimed if the connection is closing."""
        batch = self._batch
        if not batch or self.state != STATE_OPEN:
            return
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        batch.clear()
        self._batched_bytes = 0
        if self._socket is not None:
            transport = self.transport
            if not transport.dataBuffer and not transport._tempDataBuffer:
                try:
                    sent = self._socket.send(data)
                except OSError:
                    sent = 0  # it is full, or broken: the transport finds out
                if sent == len(data):
                    return
                data = data[sent:]
        self._unsent_bytes = len(data) + (self._unsent_bytes if self._paused else 0)
        self.transport.write(data)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Autobahn writes: all that was sent before goes first."""
        self.flush()
        self.transport.write(data)

    def reclaim(self) -> list[bytes]:
        """Give back what was sent but not yet written."""
        batch, self._batch = self._batch, []
        self._batched_bytes = 0
        return batch

    @property
    def backlog(self) -> int:
        """About how many bytes were sent and are not yet on their way."""
        return self._batched_bytes + (self._unsent_bytes if self._paused else 0)

    @property
    def unfinished(self) -> int:
        """Bytes of a message that has come in part."""
        if self._partial is not None:
            return self._partial.received
        return self.message_data_total_length if self.inside_message else 0

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._paused = True
        try:
            self.congested()
        except Exception:
            self._crash("holding back")

    def resumeProducing(self) -> None:
        """The transport has written everything."""
        self._paused = False
        self._unsent_bytes = 0
        try:
            self.drained()
        except Exception:
            self._crash("going on")

    def stopProducing(self) -> None:
        """The transport ends; ``onClose`` follows."""
        self._stop_gathering()

    # Closing

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport has ended."""
        self.factory.half_received.discard(self)
        super().connectionLost(reason)

    def _closeConnection(self, abort: bool = False) -> None:
        self._stop_gathering()
        super()._closeConnection(abort)

    def _stop_gathering(self) -> None:
        gathered, self._gathered = self._gathered, None
        self.factory.forget(gathered)

    def close(self, code: int, reason: str) -> None:
        """Write what was sent, then begin the closing handshake."""
        if self.state == STATE_OPEN:
            self.sendCloseFrame(code, encode_truncate(reason, _MAX_CLOSE_REASON), isReply=False)

    def abort(self) -> None:
        """End the connection at once; what was not yet written can be reclaimed."""
        self.dropConnection(abort=True)
        self.transport.abortConnection()  # if it closes already, and the other end reads nothing


class FastServerFactory(WebSocketServerFactory):
    """Makes such WebSockets, knows which are open, and reads for them.

    :param max_message_bytes: bytes that a message may have.
    :param clock: seconds of a clock that never jumps.
    :ivar fast: whether what Autobahn keeps private is as expected.
    :ivar ticks: about how many seconds the factory counts.
    :ivar half_received: the connections on which a message has come in part.
    :ivar flushing: when the connections write what they send.
    """

    protocol = FastServerProtocol

    def __init__(
        self, max_message_bytes: int, reactor: IReactorTime, clock: Callable[[], float]
    ) -> None:
        super().__init__(server=None, reactor=reactor)
        self.max_message_bytes = max_message_bytes
        self.connections: set[Any] = set()
        self.half_received: set[Any] = set()
        self.ticks = 0
        self.fast = self.protocol.use_private
        self.flushing = flushing = WriteCoalescer(reactor, clock)
        self._reader = (
            EpollReader(reactor, flushing.begin_turn, flushing.end_turn)
            if can_use_epoll(reactor)
            else None
        )

    def opened(self, connection: FastServerProtocol) -> None:
        """*connection* is open."""
        self.connections.add(connection)

    def knows_internals(self, connection: FastServerProtocol) -> bool:
        """Whether *connection* has what the short ways need; else says so, once."""
        transport = connection.transport
        if self.fast:
            missing = [each for each in _NEEDED if each not in connection.__dict__]
            if type(transport) is Server:
                buffers = ("dataBuffer", "_tempDataBuffer")
                missing += [each for each in buffers if not hasattr(transport, each)]
            if missing:
                self.fast = False
                log.warn("slower than possible: {missing} is not there", missing=missing)
        return self.fast

    def gather(self, connection: FastServerProtocol) -> int | None:
        """Read for *connection* together with others, if that is possible.

        :returns: what to :meth:`forget` when it is lost.
        """
        handle = connection.transport.getHandle()
        if self._reader is None or not isinstance(handle, socket.socket):
            return None
        return self._reader.add(connection.transport, connection.dataReceived)

    def forget(self, gathered: int | None) -> None:
        """Do not read for a connection any more."""
        if self._reader is not None and gathered is not None:
            self._reader.discard(gathered)
