"""A subclass of Autobahn's server protocol that is faster for the common cases.

**Receiving.** While Autobahn is between two messages, text messages in one frame, pings
and pongs are parsed here. Everything else goes to Autobahn unchanged, which decides what
conforms to RFC 6455. A connection that has received more than a slice of work continues in
a later turn (:mod:`acebase_ipc.rotation`), and is not read from in the meantime.

**Sending.** Messages are collected and written together, after the received data or at
the end of the reactor turn that caused them. Autobahn's own frames are written after all
messages that were sent before. Large frames are written in slices, by reference.

If a private name of Autobahn or Twisted is missing
(:mod:`acebase_ipc.websocket._autobahn`), public names are used, which is slower.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.util import encode_truncate
from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.addresses import format_address
from acebase_ipc.protocol.errors import MessageRefused
from acebase_ipc.protocol.frames import frame_payload, split, text_frame, text_frames
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.traffic import Traffic
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket.coalescing import BATCH, SharedBatch
from acebase_ipc.websocket.factory import WebSocketFactory
from acebase_ipc.websocket.incoming import FEED, MAX_FRAGMENTS, TEXT, Incoming, unmask_long
from acebase_ipc.websocket.slices import SLICE_BYTES, Slices
from acebase_ipc.websocket.tls import TLSSocket, tls_socket

REST = 4 * BATCH
"""Bytes that are received at most of a client that has not closed in time when the relay restarts:
a client that sends very much must not delay the restart."""

FRAME = 16
"""Units of work of a frame that Autobahn parses: it takes about 25 microseconds."""

CLOSE_TOO_LARGE = 1009
CLOSE_INTERNAL_ERROR = 1011
CLOSE_NO_STATUS = 1005  # stands for a close frame without a code

MORE_FOLLOWS = getattr(socket, "MSG_MORE", 0)
"""Lets the system send bytes together with those of the next call; not every system can."""

PING_FRAME = b"\x89\x00"
_PONG = 0x8A
_MAX_CLOSE_REASON = 123  # bytes: RFC 6455, section 5.5

STATE_OPEN = WebSocketServerProtocol.STATE_OPEN
STATE_CLOSED = WebSocketServerProtocol.STATE_CLOSED
_CLOSING = {WebSocketServerProtocol.STATE_CLOSING, STATE_CLOSED}

_NOBODY = Traffic()
"""Counts the messages to clients that are no peers."""

log = Logger()


class Listener(Protocol):
    """Receives what arrives over a WebSocket beside texts, and is told when it opens and ends."""

    def opened(self, connection: WebSocketConnection) -> None:
        """Note that the handshake is answered, and messages can be sent."""

    def refused(self, refusal: MessageRefused) -> None:
        """Close the connection, as a message was refused."""

    def received_binary(self) -> None:
        """Note that a binary message has arrived."""

    def received_pong(self, payload: bytes) -> None:
        """The other end has answered a ping."""

    def drained(self) -> None:
        """Note that the connection has room again."""

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Check whether the other end answers a ping within *timeout* seconds."""

    def closing(self, code: int | None, by_peer: bool) -> None:
        """Note that the connection is about to end.

        :param code: of the other end's close frame; ``None`` if it sent none, or has
            violated the WebSocket protocol.
        :param by_peer: whether it has ended although no end has sent a close frame, and this
            end has not aborted it.
        """

    def closed(self, code: int, reason: str, is_clean: bool) -> None:
        """Note that the connection has ended.

        :param code: of a close frame; 1006 if there was none.
        :param reason: the text of that frame, or why the connection has ended.
        :param is_clean: whether both ends have sent a close frame.
        """


@_autobahn.lean
@implementer(IPushProducer)
class WebSocketConnection(_autobahn.ServerProtocol):
    """A WebSocket with a fast path for whole text messages.

    It implements :class:`acebase_ipc.relay.peers.Connection`.

    :ivar listener: receives what arrives.
    :ivar receive: receives text messages, valid UTF-8, up to a slice of work, and returns how many
        it has processed; the others follow in a later turn. It may raise ``MessageRefused``.
    :ivar is_full: whether it accepts no more messages for now.
    :ivar traffic: counts the messages that are sent.
    :ivar lag: seconds that the other end's process has taken to answer the last ping.
    :ivar last_received: the tick of the factory at which bytes last arrived.
    :ivar last_ping: see :class:`~acebase_ipc.websocket.keepalive.Checked`.
    :ivar next_check: see there.
    :ivar last_flush: see :class:`~acebase_ipc.websocket.coalescing.Flushable`.
    """

    # Autobahn's protocols have a dictionary each; an attribute that has a slot takes less memory
    # and less time.
    __slots__ = (
        "_batch",
        "_batched_bytes",
        "_client",
        "_close_code",
        "_deadline",
        "_direct",
        "_incoming",
        "_is_ended_by_peer",
        "_is_suspended",
        "_paused",
        "_pong",
        "_shared",
        "_slices",
        "_socket",
        "_source",
        "factory",
        "feed_size",
        "is_full",
        "lag",
        "last_flush",
        "last_ping",
        "last_received",
        "listener",
        "next_check",
        "receive",
        "state",
        "traffic",
        "transport",
    )

    factory: WebSocketFactory[WebSocketConnection]

    def __init__(
        self,
        factory: WebSocketFactory[Any],
        listener: Listener,
        client: IAddress | None = None,
    ) -> None:
        """Autobahn's own attributes are in the class: it takes no part in the handshake.

        :param client: the address of the client behind a trusted proxy.
        """
        self.factory = factory
        self.listener = listener
        self.transport: Any = None
        self.state = WebSocketServerProtocol.STATE_CONNECTING
        self.receive: Callable[[list[bytes]], int] = len  # until it is open, there are none
        self.is_full = False
        self.traffic = _NOBODY
        self.lag: float | None = None
        self.last_received = 0
        self.last_ping = 0
        self.next_check = 0
        self.last_flush = 0.0
        self.feed_size = FEED  # bytes that Autobahn is fed at a time
        self._client = client
        self._paused = False  # whether the transport has told us to pause
        self._batch: list[bytes] = []
        self._batched_bytes = 0
        self._shared: SharedBatch | None = None  # then _batch is empty
        self._direct: socket.socket | TLSSocket | None = (
            None  # the socket, while the transport is empty
        )
        self._incoming: Incoming | None = None
        self._pong: bytes | None = None  # the payload of a ping to answer when there is room
        self._slices: Slices | None = None
        self._socket: socket.socket | TLSSocket | None = None  # if it can be used directly
        self._source: int | None = None  # identifies the transport to the factory's reader
        self._deadline: IDelayedCall | None = None
        self._close_code: int | None = None
        self._is_ended_by_peer = False
        self._is_suspended = False  # whether it receives until the other end has closed, too

    @property
    def maxMessagePayloadSize(self) -> int:
        """The bytes that a message may have."""
        return self.factory.max_message_bytes

    # Opening

    def open(self, transport: Any, answer: bytes, rest: bytes) -> None:
        """Open on *transport*, from which the handshake was received and accepted.

        :param answer: the response to it.
        :param rest: what has arrived after it.
        """
        self.transport = transport
        if not self.factory.knows_parser:
            self._incoming = Incoming(self, between_messages=False)  # for good
        try:
            self.begin()
            self.state = STATE_OPEN
            self.factory.opened(self)
            if isinstance(self._socket, TLSSocket):
                self.transport.write(answer)  # Twisted collects what leaves in one record
            else:
                self._write(answer, MORE_FOLLOWS)  # the first message leaves together with it
            self.listener.opened(self)
        except Exception:
            self.crash("opening a connection")
        self.flush()
        if rest:
            self.dataReceived(rest)

    def begin(self) -> None:
        """Read from the transport, and write to it, as fast as that is possible."""
        transport = self.transport
        transport.registerProducer(self, True)
        if self.factory.knows_transport and type(transport) is Server and not transport.TLS:
            self._socket = transport.getHandle()
            self._source = self.factory.read_for(self, self._socket, transport)
            _autobahn.compact(transport)
        else:
            self.factory.hold(self, 0)
            if self.factory.knows_transport:
                self._begin_tls()
        if self._source is None:
            transport.resumeProducing()

    def _begin_tls(self) -> None:
        self._socket = tls = tls_socket(self.transport, self._end_tls)
        if tls is not None:
            self._source = self.factory.read_for(self, tls, tls.transport)

    def _end_tls(self) -> None:
        """Let Twisted notice that TLS has ended."""
        self._stop_reading()
        if isinstance(self._socket, TLSSocket):
            self._socket.end()

    # Receiving

    def dataReceived(self, data: bytes) -> None:
        """Process *data*, and note that the other end is alive."""
        factory = self.factory
        self.last_received = factory.ticks
        coalescer = factory.coalescer
        coalescer.receiving = True
        try:
            incoming = self._incoming
            if incoming is not None:
                incoming.receive(data)
            else:
                texts, rest, partial = split(data, factory.max_message_bytes, unmask_long)
                if not rest and partial is None and len(texts) == 1 and self.state == STATE_OPEN:
                    self.receive(texts)  # as nearly always
                else:
                    left = self.relay(texts)
                    if left or rest or partial is not None:
                        incoming = self._incoming = Incoming(self, between_messages=True)
                        incoming.go_on(left, rest, partial)
        except MessageRefused as refusal:
            self._refuse(refusal)
        except Exception:
            self.crash("receiving")
        finally:
            coalescer.receiving = False
        coalescer.flush_idle()

    def relay(self, texts: list[bytes]) -> list[bytes]:
        """Process *texts*, and return those that exceed a slice of work."""
        if not texts or (self.state != STATE_OPEN and not self._is_suspended):
            return []
        self.factory.work.units += TEXT * len(texts)
        try:
            taken = self.receive(texts)
        except MessageRefused as refusal:
            self._refuse(refusal)
            return []
        except Exception:
            self.crash("receiving a message")
            return []
        return texts[taken:] if self.state == STATE_OPEN or self._is_suspended else []

    def step(self) -> bool:
        """Continue with what was postponed, and return whether more remains."""
        incoming = self._incoming
        if incoming is None or not incoming.is_postponed:
            return False
        coalescer = self.factory.coalescer
        coalescer.receiving = True
        try:
            incoming.resume()
        except Exception:
            self.crash("receiving")
        finally:
            coalescer.receiving = False
        coalescer.flush_idle()
        if incoming.is_postponed:
            return True
        if self.state != STATE_CLOSED:
            self.factory.resume_reading(self, self._source)
        return False

    def postpone(self, size: int) -> None:
        """Continue with *size* bytes in a later turn of the reactor; read nothing until then."""
        self.factory.hold(self, size)
        self.factory.pause_reading(self, self._source)
        self.factory.rotation.add(self)

    def is_within_message(self) -> bool:
        """Return whether a message was received in part."""
        return self._incoming is not None

    @property
    def is_open_now(self) -> bool:
        """Whether neither side has begun to close."""
        return bool(self.state == STATE_OPEN)

    @property
    def is_closed_down(self) -> bool:
        """Whether the connection is being dropped; what still arrives is ignored."""
        return bool(self.state == STATE_CLOSED)

    def feed_publicly(self, data: bytes) -> None:
        """Feed *data* to Autobahn through its public method."""
        super().dataReceived(data)

    def check_closing(self) -> None:
        """Begin to close if Autobahn has begun to, because of what was fed to it."""
        if self.state in _CLOSING and not (self._is_suspended and not self.is_closed_down):
            self.begin_closing()

    def received_all(self) -> None:
        """Note that nothing is left of what was received: the next bytes begin with a frame."""
        self._incoming = None

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Receive a message that did not take the fast path."""
        if self.state != STATE_OPEN and not self._is_suspended:
            return  # messages after the close frame of this end are ignored
        try:
            if isBinary:
                self.listener.received_binary()
            else:
                self.receive([payload])
        except MessageRefused as refusal:
            self._refuse(refusal)
        except Exception:
            self.crash("receiving a message")

    def onMessageFrameBegin(self, length: int) -> None:
        """Count the frames of a message: each uses memory, even if it is empty."""
        self.factory.work.units += FRAME
        if self._incoming is not None and not self._incoming.count_fragment():
            self.close(CLOSE_TOO_LARGE, f"The message has more than {MAX_FRAGMENTS} fragments")
        super().onMessageFrameBegin(length)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Count the bytes that have arrived of a message; its frames may announce more."""
        if self._incoming is not None:
            self._incoming.fragment_bytes += len(payload)
        super().onMessageFrameData(payload)

    def onPing(self, payload: bytes) -> None:
        """Answer a ping; while the connection is full, only the last one (RFC 6455, 5.5.3)."""
        self.factory.work.units += FRAME
        if self.state == STATE_OPEN:
            if self.is_full:
                self._pong = payload
            else:
                self.sendData(bytes((_PONG, len(payload))) + payload)

    def onPong(self, payload: bytes) -> None:
        """Tell the listener that the other end has answered a ping."""
        self.factory.work.units += FRAME
        if payload:  # it answers a ping of ours
            self.listener.received_pong(payload)

    def _refuse(self, refusal: MessageRefused) -> None:
        try:
            self.listener.refused(refusal)
        except Exception:
            self.crash("refusing a message")

    def crash(self, doing: str) -> None:
        """Log a defect of the relay and end the connection; no later message is relayed."""
        log.failure("{doing} failed", doing=doing)
        if self.state == STATE_OPEN:
            self.close(CLOSE_INTERNAL_ERROR, "internal error")
        elif self.state not in _CLOSING:
            self.abort()

    # Sending

    def send(self, message: Message) -> None:
        """Send *message*, together with the others of this turn."""
        batch = self._batch
        if not batch:
            self._begin_batch()
        frame = message.frame or message.make_frame()
        batch.append(frame)
        self._batched_bytes += len(frame)
        if self._batched_bytes >= BATCH:
            self.flush()

    def send_text(self, text: bytes) -> None:
        """Send a message for this peer alone."""
        batch = self._batch
        if not batch:
            self._begin_batch()
        frame = text_frame(text)
        batch.append(frame)
        self._batched_bytes += len(frame)
        if self._batched_bytes >= BATCH:
            self.flush()

    def send_texts(self, texts: Sequence[bytes]) -> None:
        """Send a message with each of these *texts*, for this peer alone."""
        batch = self._batch
        if not batch:
            self._begin_batch()
        frames = text_frames(texts)
        batch += frames
        self._batched_bytes += sum(map(len, frames))
        if self._batched_bytes >= BATCH:
            self.flush()

    def send_each(self, message: Message, connections: Sequence[Any], but: Any) -> None:
        """Send *message* to each of these *connections*.

        :param but: one that is not sent it.
        """
        self.factory.coalescer.send_each(message, connections, but)

    def share(self, batch: SharedBatch) -> bool:
        """Take part in *batch* if nothing is collected; returns whether it does."""
        if self._batch or self._shared is not None:
            return False
        self._shared = batch
        return True

    def part_from(self, batch: SharedBatch) -> None:
        """Leave *batch*, if it takes part, and go on to collect by itself."""
        if self._shared is batch:
            self._leave(batch)
            if self._batch:
                self.factory.coalescer.flush_soon(self)

    def _begin_batch(self) -> None:
        if self._shared is not None:
            self._leave(self._shared)
        self.factory.coalescer.flush_soon(self)

    def _leave(self, shared: SharedBatch) -> None:
        """Go on to collect messages by itself."""
        frames, size = shared.leave(self)
        self._shared = None
        self._batch += frames
        self._batched_bytes += size

    def flush(self) -> None:
        """Write the collected messages, or keep them for :meth:`reclaim` while it is closing."""
        if self._shared is not None:
            self._leave(self._shared)
        batch = self._batch
        if not batch or self.state != STATE_OPEN:
            return
        data, count = batch[0] if len(batch) == 1 else b"".join(batch), len(batch)
        batch.clear()
        self._batched_bytes = 0
        self._write_batch(data, count)

    def write_shared(self, batch: SharedBatch, data: bytes, count: int) -> None:
        """Write *data*, all *count* messages of *batch*, unless it has left."""
        if self._shared is not batch:
            return
        if self.state != STATE_OPEN:
            self._leave(batch)
            return
        self._shared = None
        self.last_flush = batch.last_flush
        self._write_batch(data, count)

    def _write_batch(self, data: bytes, count: int) -> None:
        traffic = self.traffic
        traffic.sent += count
        traffic.sent_bytes += len(data)
        direct = self._direct
        if direct is None:
            self._write(data)
            return
        try:  # as in _write_directly, but without a call
            sent = direct.send(data)
        except OSError:
            sent = 0
        if sent < len(data):
            self._write_later(memoryview(data)[sent:])

    def send_ping(self, payload: bytes = b"") -> None:
        """Ping the other end, unless the connection is closing."""
        if self.state == STATE_OPEN:
            self.sendData(bytes((PING_FRAME[0], len(payload))) + payload)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write a frame of Autobahn, after all that was sent before."""
        self.flush()
        self._write(data)

    def _write(self, data: bytes, flags: int = 0) -> None:
        """Write *data* after all that was written before.

        :param flags: for the system, if the data can be handed to it now.
        """
        if self._direct is None and self._slices is None and self._may_write_directly():
            self._direct = self._socket
        if self._direct is not None:
            self._write_directly(self._direct, data, flags)
        else:
            self._write_later(data)

    def _may_write_directly(self) -> bool:
        """Return whether the transport has nothing to write, and can be passed by."""
        handle = self._socket
        if isinstance(handle, TLSSocket):
            return handle.is_empty
        return handle is not None and _autobahn.is_empty(self.transport)

    def _write_directly(self, direct: socket.socket | TLSSocket, data: bytes, flags: int) -> None:
        try:
            sent = direct.send(data, flags)
        except OSError:
            sent = 0  # it is full or broken, which the transport notices
        if sent < len(data):
            self._write_later(memoryview(data)[sent:])

    def _write_later(self, data: bytes | memoryview) -> None:
        """Let the transport write *data*, which the system does not accept now."""
        self._direct = None
        self.factory.hold(self, min(len(data), SLICE_BYTES))
        if self._slices is not None:
            self._slices.append(data)
        elif len(data) <= SLICE_BYTES:
            self.transport.write(bytes(data))
        else:
            self._slices = Slices(data)
            self.is_full = True
            self._write_slices()

    def _write_slices(self) -> None:
        """Write slices until the transport is full or all are written."""
        while self._slices is not None and not self._paused:
            self.transport.write(self._slices.take())
            if not self._slices.size:
                self._slices = None
                self.is_full = self._paused
                if self.state == STATE_CLOSED:
                    self.unregisterProducer()  # nothing else follows

    def reclaim(self) -> list[Message]:
        """Return the messages that were sent but not yet written."""
        if self._shared is not None:
            self._leave(self._shared)
        batch, self._batch = self._batch, []
        self._batched_bytes = 0
        return [Message(frame_payload(each)) for each in batch]

    @property
    def unsent(self) -> int:
        """Bytes that were sent and that the system has not accepted yet."""
        waiting = 0 if self._slices is None else self._slices.size
        shared = 0 if self._shared is None else self._shared.size
        return self._batched_bytes + shared + waiting + (_autobahn.buffered(self.transport) or 0)

    @property
    def memory(self) -> int:
        """Bytes that this connection holds: unsent ones, and received ones that wait here."""
        held = 0 if self._incoming is None else self._incoming.memory
        return held + self.unsent

    @property
    def may_hold(self) -> bool:
        """Whether it may hold bytes without notice: what its transport has buffered."""
        return not isinstance(self._socket, socket.socket)

    def collect_slices(self, frames: dict[int, int]) -> int:
        """Note the frames that are written in slices; see :meth:`Slices.collect`."""
        return 0 if self._slices is None else self._slices.collect(frames)

    def pauseProducing(self) -> None:
        """Note that the transport is full."""
        self._paused = True
        self.is_full = True

    def resumeProducing(self) -> None:
        """Continue to send, because the transport has written everything."""
        self._paused = False
        try:
            self._write_slices()
            if self._slices is not None:
                return
            self.is_full = False
            pong, self._pong = self._pong, None
            if pong is not None:
                self.onPing(pong)
            self.listener.drained()
        except Exception:
            self.crash("sending")

    def stopProducing(self) -> None:
        """Stop reading, because the transport ends; ``connectionLost`` follows."""
        self._stop_reading()

    # Closing

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        """Answer the close frame of the other end, and note its code for the listener."""
        is_over: bool | None = super().onCloseFrame(code, reasonRaw)
        if self.wasClean and not self.failedByMe:
            self._close_code = code or CLOSE_NO_STATUS
            if self._is_suspended:
                self._close_code = self.localCloseCode  # some answer with 1000 to any code
        return is_over

    @property
    def client(self) -> IAddress:
        """The address of the other end, or, behind a trusted proxy, of its client."""
        if self._client is not None:
            return self._client
        address: IAddress = self.transport.getPeer()
        return address

    @property
    def address(self) -> str:
        """The address of the client, for the log."""
        return format_address(self.client)

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Check whether the other end answers a ping within *timeout* seconds."""
        self.listener.check(timeout, answer)

    def close(self, code: int, reason: str) -> None:
        """Write what was sent, then begin the closing handshake."""
        if self.state == STATE_OPEN:
            self.sendCloseFrame(code, encode_truncate(reason, _MAX_CLOSE_REASON), isReply=False)
            self.begin_closing()

    def suspend(self, code: int, reason: str) -> None:
        """As :meth:`close`, but receive until the other end has closed, too; now it is full."""
        if self.state == STATE_OPEN:
            self._is_suspended = True
            self.sendCloseFrame(code, encode_truncate(reason, _MAX_CLOSE_REASON), isReply=False)
            self.is_full = True
            self._set_deadline(_autobahn.CLOSE_TIMEOUT)

    @property
    def silence(self) -> int:
        """The seconds since bytes last arrived, approximately."""
        return self.factory.ticks - self.last_received

    def abort(self) -> None:
        """End the connection at once; messages that were not yet written can be reclaimed."""
        self._drop_received()
        self.factory.release(self)
        self.dropConnection(abort=True)
        self.transport.abortConnection()  # it may be closing, while the other end reads nothing

    def dropConnection(self, abort: bool = False) -> None:
        """End the connection: at once, or when everything is written."""
        self._stop_reading()
        # Autobahn treats an invalid close frame as the answer to the close frame with 1002,
        # which the other end still has to read.
        super().dropConnection(abort and not (self.wasClean and self.failedByMe))

    def unregisterProducer(self) -> None:
        """Unregister from the transport, unless slices remain to be written before it ends."""
        if self._slices is None:
            super().unregisterProducer()

    def _stop_reading(self) -> None:
        source, self._source = self._source, None
        self.factory.stop_reading(source)
        if source is not None and isinstance(self._socket, TLSSocket):
            self._socket.transport.resumeProducing()  # TLS ends when both ends have ended it

    def begin_closing(self) -> None:
        """Set a deadline for the other end to close, and tell the listener."""
        if self._deadline is None:
            self._set_deadline(_autobahn.CLOSE_TIMEOUT)
        self._tell_closing()

    def _tell_closing(self, by_peer: bool = False) -> None:
        try:
            self.listener.closing(self._close_code, by_peer)
        except Exception:
            log.failure("{doing} failed", doing="closing a connection")

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = self.factory.reactor.callLater(seconds, self.expire)

    def _cancel_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def expire(self) -> None:
        """End the connection, whose other end has not closed in time; receive the rest before.

        A relay with thousands of connections may not have found the time to read that.
        """
        self._deadline = None
        if self._is_suspended and isinstance(self._socket, socket.socket):
            self._receive_rest(self._socket)
        self.abort()

    def _receive_rest(self, handle: socket.socket) -> None:
        """Receive what has arrived, but not more than :data:`REST` bytes."""
        left = REST
        with suppress(OSError):  # also that nothing else has arrived
            while left > 0 and not self.is_closed_down:
                while self.step():
                    pass
                data = handle.recv(BATCH)
                if not data:
                    return
                left -= len(data)
                self.dataReceived(data)
        while self.step():
            pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Clean up after the transport, which has ended."""
        self._cancel_deadline()
        self._drop_received()
        self._is_ended_by_peer = self.is_open_now
        super().connectionLost(reason)
        self._direct = self._socket = None

    def _drop_received(self) -> None:
        """Drop what was received in part or postponed, and slices that are not written."""
        self._slices = None
        if self._incoming is not None:
            self._incoming.drop()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the listener and the factory that the connection has ended."""
        self._tell_closing(self._is_ended_by_peer)
        if self.localCloseCode is not None and not (wasClean and reason):
            code = self.localCloseCode
            reason = (self.localCloseReason or b"").decode("utf-8", "replace")
        try:
            self.listener.closed(code or CLOSE_NO_STATUS, reason or "", wasClean)
        except Exception:
            log.failure("{doing} failed", doing="reporting the end of a connection")
        self.factory.closed(self)
