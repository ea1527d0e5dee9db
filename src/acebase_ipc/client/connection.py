"""A client's WebSocket to the relay, on Autobahn."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from autobahn.websocket.types import ConnectingRequest
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectionLost as TransportLost
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.client.errors import (
    ClosedAsTooLarge,
    ConnectionFailed,
    ConnectionLost,
    ConnectionProblem,
    NotARelay,
    ProtocolError,
    TLSFailed,
    closed,
    refused,
)
from acebase_ipc.websocket._autobahn import NullLogger

HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a relay has to welcome us; the relay itself gives as much."""

CLOSE_TIMEOUT = 5.0
"""Seconds that a relay has to answer our close frame and end the connection."""

PING_AFTER = 25.0
"""Seconds of silence after which we ping; the relay's own default."""

PONG_WITHIN = 10.0
"""Seconds that a relay has to answer that ping."""

LAST_LOOK = 0.1
"""Seconds for which we look for an answer that came while this process stood still."""

MAX_OVERHEAD = 1024
"""Bytes that the protocol may add to a message, or need for one of its own."""

MAX_HEAD = 64 * 1024
"""Bytes that the head of an answer may have."""

MAX_STATUS = len(b"HTTP/1.1 101")

MAX_REFUSAL = 1024
"""Bytes of a refusal's text that are read: the relay says one line."""

CLOSE_NORMAL = 1000
CLOSE_NO_STATUS = 1005  # stands for a close frame without a code

_HTTP = b"HTTP/1."
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?:\r\n|\Z)", re.IGNORECASE)
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Owner(Protocol):
    """Whom a connection serves."""

    def made(self, connection: ClientConnection) -> None:
        """A transport is connected."""

    def received(self, connection: ClientConnection, text: str, size: int) -> None:
        """A text message of *size* bytes has come."""

    def drained(self, connection: ClientConnection) -> None:
        """The transport has room again."""

    def ended(self, connection: ClientConnection, problem: ConnectionProblem) -> None:
        """The connection has ended, or never was one."""


@implementer(IPushProducer)
class ClientConnection(WebSocketClientProtocol):
    """One connection to the relay."""

    log = NullLogger()

    # Autobahn's own timers depend on a reactor that is global to txaio.
    openHandshakeTimeout = 0
    closeHandshakeTimeout = 0
    serverConnectionDropTimeout = 0
    autoPingInterval = 0

    factory: ClientConnectionFactory
    _paused = False
    _problem: ConnectionProblem | None = None
    _timer: IDelayedCall | None = None
    _opened = False
    _leaving = False
    _holding = False
    _unsent = 0
    _heard_at = 0.0
    _lost: BaseException | None = None

    @property
    def maxMessagePayloadSize(self) -> int:
        """Bytes that an incoming message may have."""
        return self.factory.max_message + MAX_OVERHEAD

    # Opening

    def connectionMade(self) -> None:
        """Ask for a WebSocket."""
        self.factory.owner.made(self)
        self._wait(HANDSHAKE_TIMEOUT, self._too_late)
        super().connectionMade()

    def onConnecting(self, transport_details: object) -> ConnectingRequest:
        """The request."""
        return self.factory.request

    def processHandshake(self) -> None:
        """Read the answer; of a refusal the text, too, which tells one 409 from another."""
        if not self._read_refusal(complete=False):
            super().processHandshake()

    def _read_refusal(self, complete: bool) -> bool:
        """Whether the answer is no upgrade, and is dealt with or incomplete."""
        head, found, body = self.data.partition(b"\r\n\r\n")
        status = _STATUS.match(head)
        if status is None:
            if found or not _HTTP.startswith(head[: len(_HTTP)]) or len(head) > MAX_STATUS:
                self.fail(NotARelay("it does not speak HTTP"))
            return True
        if not found:
            if len(head) > MAX_HEAD:
                self.fail(NotARelay("its answer is too long"))
            return True
        if status[1] == b"101":
            return False
        length = _LENGTH.search(head)
        wanted = min(int(length[1]), MAX_REFUSAL) if length else 0
        if complete or len(body) >= wanted:
            text = body[:wanted].decode("utf-8", "replace").partition("\n")[0]
            self.fail(refused(int(status[1]), _CONTROLS.sub(" ", text).strip()))
        return True

    def failHandshake(self, reason: str) -> None:
        """The answer is an upgrade, but a wrong one."""
        self.fail(NotARelay(reason))

    def onOpen(self) -> None:
        """The WebSocket is open; the welcome comes next."""
        self._opened = True
        self.transport.registerProducer(self, True)

    def _too_late(self) -> None:
        self.fail(ConnectionFailed(f"it did not welcome us within {HANDSHAKE_TIMEOUT:g} s"))

    # Being alive

    def watch(self) -> None:
        """End the connection if the relay does not answer pings, from now on."""
        remaining = PING_AFTER - (self.factory.clock() - self._heard_at)
        if remaining > 0:
            self._wait(remaining, self.watch)
        else:
            self.sendPing()
            self._wait(PONG_WITHIN, self._look_again)

    def _look_again(self) -> None:
        self._wait(LAST_LOOK, self._judge)

    def _judge(self) -> None:
        if self._holding or self.factory.clock() - self._heard_at < PING_AFTER:
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
        """Bytes have come: the relay lives."""
        self._heard_at = self.factory.clock()
        super().dataReceived(data)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A whole message has come; the relay sends no binary ones."""
        if not isBinary:
            self.factory.owner.received(self, payload.decode(), len(payload))

    def hold(self) -> None:
        """Read nothing until :meth:`go_on`."""
        if not self._holding:
            self._holding = True
            self.transport.pauseProducing()

    def go_on(self) -> None:
        """Read on."""
        if self._holding:
            self._holding = False
            self.transport.resumeProducing()

    # Sending

    def send(self, message: bytes) -> None:
        """Hand a text message to the transport."""
        if not self._paused:
            self._unsent = len(message)
        self.sendFrame(opcode=1, payload=message)

    @property
    def established(self) -> bool:
        """Whether neither side has begun to close."""
        return bool(self.state == self.STATE_OPEN)

    @property
    def ready(self) -> bool:
        """Whether messages can be handed over now."""
        return self.established and not self._paused

    @property
    def backlog(self) -> int:
        """About how many bytes the transport has not yet sent."""
        return self._unsent if self._paused else 0

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport has sent everything."""
        self._paused = False
        self.factory.owner.drained(self)

    def stopProducing(self) -> None:
        """The transport has ended; ``onClose`` follows."""

    # Ending

    def leave(self) -> None:
        """Say goodbye, if there is somebody to say it to, and end the connection."""
        if self._leaving:
            return
        self._leaving = True
        self.go_on()
        if self._opened:
            self.sendClose(CLOSE_NORMAL)
            self._wait(CLOSE_TIMEOUT, self.abort)
        else:
            self.abort()

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        """The relay closes, or answers that we do: now it has to end the connection."""
        self._wait(CLOSE_TIMEOUT, self.abort)
        ended: bool | None = super().onCloseFrame(code, reasonRaw)
        return ended

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abortConnection()

    def fail(self, problem: ConnectionProblem) -> None:
        """End the connection at once, because of *problem*."""
        self._problem = self._problem or problem
        self.dropConnection(abort=True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The transport has ended."""
        self._stop_waiting()
        self._lost = reason.value
        if not self._opened and self._problem is None:
            self._read_refusal(complete=True)
        if isinstance(reason.value, SSL.Error):
            reason = Failure(TransportLost())  # Autobahn does not understand all of these
        super().connectionLost(reason)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell why the connection has ended."""
        problem = self._problem
        if problem is None and wasClean:
            problem = closed(code or CLOSE_NO_STATUS, reason or "")
        self.factory.owner.ended(self, problem or self._what_happened(reason or ""))

    def _what_happened(self, reason: str) -> ConnectionProblem:
        if self.wasMaxMessagePayloadSizeExceeded:
            return ClosedAsTooLarge(1009, f"a message exceeds {self.factory.max_message} bytes")
        if self.failedByMe:
            return ProtocolError(1002, reason)
        if self._opened:
            return ConnectionLost(1006, str(self._lost))
        if isinstance(self._lost, SSL.Error | VerificationError):
            return TLSFailed(_explain(self._lost))
        return ConnectionFailed(
            "it ended the connection during the handshake;"
            f" is the URL's scheme right, ws: or wss:? ({self._lost})"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def _explain(error: BaseException) -> str:
    """One line about a TLS error; OpenSSL tells a list of tuples."""
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(str(each[-1]) for each in error.args[0]) or "no reason given"
    return str(error) or type(error).__name__


class ClientConnectionFactory(WebSocketClientFactory):
    """Makes the connections of one client.

    :param owner: the client.
    :param request: what every handshake asks for.
    :param max_message: bytes that an incoming message may have.
    :param clock: seconds of a clock that never jumps.
    """

    protocol = ClientConnection
    noisy = False
    log = NullLogger()

    def __init__(
        self,
        owner: Owner,
        request: ConnectingRequest,
        max_message: int,
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(reactor=reactor)
        self.owner = owner
        self.request = request
        self.max_message = max_message
        self.clock = clock

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
