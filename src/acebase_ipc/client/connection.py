"""A client's WebSocket to the relay, on Autobahn.

Only what Autobahn and Twisted document is used here; the two names beside that are in
:mod:`acebase_ipc.websocket._autobahn`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.types import ConnectingRequest
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectionAborted
from twisted.internet.error import ConnectionLost as TransportLost
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.client.answer import Answer, read_answer
from acebase_ipc.client.errors import (
    ClosedAsTooLarge,
    ConnectionFailed,
    ConnectionLost,
    ConnectionProblem,
    NotARelay,
    ProtocolError,
    TLSFailed,
    closed,
)
from acebase_ipc.websocket._autobahn import NullLogger, exceeded_message_size

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a relay has to welcome us; the relay itself gives as much."""

CLOSE_TIMEOUT = 5.0
"""Seconds that a relay has to answer our close frame and end the connection."""

PING_AFTER = 25.0
"""Seconds of silence after which we ping; the relay's own default."""

PONG_WITHIN = 10.0
"""Seconds that a relay has to answer that ping."""

EARLY = 0.001
"""Seconds that a timer may fire too early, by rounding, without being set again."""

LAST_LOOK = 0.1
"""Seconds for which we look for an answer that came while this process stood still."""

MAX_OVERHEAD = 1024
"""Bytes that the protocol may add to a message, or need for one of its own."""

MAX_FRAGMENTS = 65_536
"""Frames that a message may have: each takes some 50 bytes beside its payload, and an empty
one counts as nothing. Relays send a message in one frame, proxies split it at some KiB."""

CLOSE_NORMAL = 1000
CLOSE_NO_STATUS = 1005  # stands for a close frame without a code

_QUOTED = re.compile(r'.*?\("(.*)"\)', re.DOTALL)

log = Logger()


class ConnectionObserver(Protocol):
    """What a connection reports to."""

    def connection_made(self, connection: ClientConnection) -> None:
        """The transport is connected."""

    def text_received(self, connection: ClientConnection, text: str, size: int) -> None:
        """A text message of *size* bytes has arrived."""

    def drained(self, connection: ClientConnection) -> None:
        """The transport has room again."""

    def connection_lost(self, connection: ClientConnection, problem: ConnectionProblem) -> None:
        """The connection has ended, or the handshake has failed. Reported once, and last."""


@implementer(IPushProducer)
class ClientConnection(WebSocketClientProtocol):
    """One connection to the relay."""

    log = NullLogger()

    factory: ClientConnectionFactory
    _head: bytearray | None = None  # of the handshake's answer, until it is complete
    _opened = False
    _closing = False
    _aborted = False
    _ended = False
    _problem: ConnectionProblem | None = None
    _closed_with: ConnectionProblem | None = None
    _reason = ""
    _lost: BaseException | None = None
    _timer: IDelayedCall | None = None
    _holding = False
    _paused = False
    _unsent = 0
    _fragments = 0
    _unanswered_ping: bytes | None = None
    _last_received = 0.0

    # Opening

    def connectionMade(self) -> None:
        """Send the handshake."""
        self._head = bytearray()
        with suppress(AttributeError, OSError):  # it is not TCP
            self.transport.setTcpNoDelay(True)  # otherwise a message may wait 40 ms for another
        self._wait(HANDSHAKE_TIMEOUT, self._handshake_timed_out)
        self.factory.observer.connection_made(self)
        super().connectionMade()

    def onConnecting(self, transport_details: object) -> ConnectingRequest:
        """Return the request of the handshake."""
        return self.factory.request

    def _read_head(self, head: bytearray, data: bytes) -> None:
        head += data
        answer = read_answer(bytes(head))
        if isinstance(answer, ConnectionProblem):
            self.fail(answer)
        elif answer is Answer.UPGRADE:
            self._head = None
            super().dataReceived(bytes(head))

    def onOpen(self) -> None:
        """The WebSocket is open; the welcome comes next."""
        self._opened = True
        self.transport.registerProducer(self, True)

    def _handshake_timed_out(self) -> None:
        self.fail(ConnectionFailed(f"it did not welcome us within {HANDSHAKE_TIMEOUT:g} s"))

    # Keepalive

    def watch(self) -> None:
        """From now on, end the connection if the relay does not answer pings."""
        remaining = PING_AFTER - (self.factory.clock() - self._last_received)
        if remaining > EARLY:
            self._wait(remaining, self.watch)
        else:
            self.sendPing()
            self._wait(PONG_WITHIN, self._look_again)

    def _look_again(self) -> None:
        self._wait(LAST_LOOK, self._judge)

    def _judge(self) -> None:
        if self._holding or self.factory.clock() - self._last_received < PING_AFTER:
            self.watch()
        else:
            silence = f"the relay was silent for {PING_AFTER + PONG_WITHIN:g} s"
            self.fail(ConnectionLost(1006, silence))

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_waiting()
        self._timer = self.factory.reactor.callLater(seconds, then)

    def _stop_waiting(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # Receiving

    def dataReceived(self, data: bytes) -> None:
        """Read bytes; any of them shows that the relay lives."""
        self._last_received = self.factory.clock()
        if self._aborted:
            return
        try:
            if self._head is not None:
                self._read_head(self._head, data)
            else:
                super().dataReceived(data)
        except Exception:
            log.failure("cannot read what the relay sent")
            self.fail(ProtocolError(1002, "what the relay sent cannot be read; see the log"))

    def onMessageBegin(self, isBinary: bool) -> None:
        """A message begins."""
        self._fragments = 0
        super().onMessageBegin(isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        """A frame of a message begins."""
        self._fragments += 1
        if self._fragments > MAX_FRAGMENTS:
            self.fail(ClosedAsTooLarge(1009, f"a message has more than {MAX_FRAGMENTS} frames"))
        super().onMessageFrameBegin(length)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole message has arrived; the relay sends no binary ones."""
        if not isBinary and not self._aborted:
            self.factory.observer.text_received(self, payload.decode(), len(payload))

    def onPing(self, payload: bytes) -> None:
        """Answer a ping; while the transport is full only the last one (RFC 6455, 5.5.3)."""
        if self._paused:
            self._unanswered_ping = payload
        elif self.established:
            self.sendPong(payload)

    def pause_reading(self) -> None:
        """Read nothing until :meth:`resume_reading`."""
        if not self._holding and not self._closing:
            self._holding = True
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Continue to read."""
        if self._holding:
            self._holding = False
            self.transport.resumeProducing()

    # Sending

    def send(self, message: bytes) -> None:
        """Hand a text message to the transport."""
        if not self._paused:
            self._unsent = len(message)
        # Unlike sendMessage it does not apply the limit of incoming messages.
        self.sendPreparedMessage(self.factory.prepareMessage(message))

    @property
    def established(self) -> bool:
        """Whether the WebSocket is open and neither side has begun to close it."""
        return self._opened and not self._closing and not self._aborted

    @property
    def ready(self) -> bool:
        """Whether messages can be handed over now."""
        return self.established and not self._paused

    @property
    def backlog(self) -> int:
        """About how many bytes the transport has not sent yet."""
        return self._unsent if self._paused else 0

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport has sent everything."""
        self._paused = False
        ping, self._unanswered_ping = self._unanswered_ping, None
        if ping is not None:
            self.onPing(ping)
        self.factory.observer.drained(self)

    def stopProducing(self) -> None:
        """The transport has ended; ``connectionLost`` follows."""

    # Ending

    def close(self) -> None:
        """Close with 1000 if the WebSocket is open, and end the connection."""
        if self._closing or self._ended:
            return
        self.resume_reading()
        self._closing = True
        if self._opened:
            self.sendClose(CLOSE_NORMAL)
            self._wait(CLOSE_TIMEOUT, self.abort)
        else:
            self.abort()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        """The relay closes, or answers our close frame: now it has to end the connection.

        If Autobahn does not call this any more, the keepalive ends the connection.
        """
        self._closing = True
        self._wait(CLOSE_TIMEOUT, self.abort)
        ended: bool | None = super().onCloseFrame(code, reasonRaw)
        return ended

    def abort(self) -> None:
        """End the connection at once."""
        if not self._aborted and not self._ended:
            self._aborted = True
            self.transport.abortConnection()

    def fail(self, problem: ConnectionProblem) -> None:
        """End the connection at once, because of *problem*."""
        self._problem = self._problem or problem
        self.abort()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Note how the WebSocket has ended."""
        if wasClean:
            self._closed_with = closed(code or CLOSE_NO_STATUS, reason or "")
        quoted = _QUOTED.fullmatch(reason or "")
        self._reason = quoted[1] if quoted else reason or ""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report why the connection has ended."""
        if self._ended:
            return
        self._ended = True
        self._stop_waiting()
        self._lost = reason.value
        if self._head is not None and self._problem is None:
            answer = read_answer(bytes(self._head), complete=True)
            self._problem = answer if isinstance(answer, ConnectionProblem) else None
        if isinstance(reason.value, SSL.Error):
            reason = Failure(TransportLost())  # Autobahn does not understand all of these
        try:
            super().connectionLost(reason)
        except Exception:
            log.failure("a connection did not end properly")
        problem = self._problem or self._closed_with or self._what_happened()
        self.factory.observer.connection_lost(self, problem)

    def _what_happened(self) -> ConnectionProblem:
        if exceeded_message_size(self):
            return ClosedAsTooLarge(1009, f"a message exceeds {self.factory.max_message} bytes")
        failed_by_autobahn = isinstance(self._lost, ConnectionAborted) and not self._aborted
        if self._opened:
            if failed_by_autobahn:
                return ProtocolError(1002, self._reason)
            return ConnectionLost(1006, str(self._lost))
        if failed_by_autobahn:
            return NotARelay(self._reason)
        if isinstance(self._lost, SSL.Error | VerificationError):
            return TLSFailed(_explain(self._lost))
        return ConnectionFailed(
            "it ended the connection during the handshake;"
            f" is the URL's scheme right, ws: or wss:? ({self._lost})"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _explain(error: BaseException) -> str:
    """One line about a TLS error; OpenSSL gives a list of tuples."""
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(str(each[-1]) for each in error.args[0]) or "no reason given"
    return str(error) or type(error).__name__


class ClientConnectionFactory(WebSocketClientFactory):
    """Makes the connections of one client.

    :param observer: what the connections report to.
    :param request: the request of every handshake.
    :param max_message: bytes that an incoming message may have.
    :param clock: returns monotonic seconds.
    """

    protocol = ClientConnection
    noisy = False
    log = NullLogger()

    def __init__(
        self,
        observer: ConnectionObserver,
        request: ConnectingRequest,
        max_message: int,
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(reactor=reactor)
        self.observer = observer
        self.request = request
        self.max_message = max_message
        self.clock = clock
        # Autobahn's own timers depend on a reactor that is global to txaio.
        self.setProtocolOptions(
            maxMessagePayloadSize=max_message + MAX_OVERHEAD,
            failByDrop=True,
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
            serverConnectionDropTimeout=0,
            autoPingInterval=0,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
