"""The errors of a client, and what to do about each.

::

    IPCError
    └── ClientError
        ├── ClientStopped          stopService was called
        ├── NotConnected           there is no connection now
        ├── QueueFull              more waits to be sent than max_queue bytes
        ├── PingTimeout            no pong in time
        ├── SlowReader             an iterator of messages was not read
        ├── HistoryGap             changes of the database may be missing
        ├── ConnectionProblem      why there is no connection
        │   ├── ConnectionFailed        no connection could be made
        │   ├── TLSFailed (*)           TLS could not be set up
        │   ├── NotARelay (*)           what answered speaks something else
        │   ├── HandshakeRefused        .status, from the relay
        │   │   ├── TokenRejected !         403
        │   │   ├── VersionRejected !       409
        │   │   ├── IdInUse             409
        │   │   ├── IdRejected !            500
        │   │   ├── RequestRejected !       400
        │   │   └── RelayBusy               503, and what proxies say
        │   └── ConnectionClosed        .code, after it was open
        │       ├── ConnectionLost          1006, without a close frame
        │       ├── RelayShutDown           1001, 1012
        │       ├── ProtocolError        1002, 1003, 1007
        │       ├── PolicyViolated          1008
        │       ├── ClosedAsTooLarge        1009
        │       ├── RelayFailed             1011
        │       └── Replaced !              4001
        └── RequestFailed          a message, or another request, over HTTP
            ├── RequestUnanswered       no answer: it may have arrived
            └── RequestDenied           .status
                ├── NotAPeerNow             401, 403
                ├── TooLargeForRelay        413
                └── RelayOverloaded         503

An error marked ``!`` is final: the client ends. An error marked ``(*)`` is final as
long as the relay has not welcomed the client since it was started: a mistake in the URL
or the certificates must be seen, but later the cause may be at the relay, and pass. After
any other error the client connects again by itself.

No text holds a token, a message or a whole URL.
"""

from __future__ import annotations

from enum import Enum

from acebase_ipc.errors import IPCError


class Finality(Enum):
    """Whether a problem ends a client."""

    NEVER = "connect again"
    AT_FIRST = "end, if there never was a connection"
    ALWAYS = "end"


class ClientError(IPCError):
    """The base of every error of a client."""


class ClientStopped(ClientError):
    """The client was stopped. Call ``startService`` to use it again."""

    def __init__(self) -> None:
        super().__init__("the client is stopped")


class NotConnected(ClientError):
    """There is no connection now. Wait for ``when_connected``."""

    def __init__(self) -> None:
        super().__init__("the client is not connected: wait for when_connected()")


class QueueFull(ClientError):
    """Too much waits to be sent. Wait for the Deferreds of earlier messages."""

    def __init__(self, max_queue: int) -> None:
        super().__init__(
            f"more than {max_queue} bytes, or too many messages, wait to be sent: wait until"
            " earlier messages are sent, or raise max_queue"
        )


class PingTimeout(ClientError):
    """The relay did not answer a ``ping`` in time. It may be busy; the connection stays."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"the relay did not answer a ping within {timeout:g} s")


class SlowReader(ClientError):
    """Messages arrived faster than they were read from an iterator."""

    def __init__(self, max_queue: int) -> None:
        super().__init__(
            f"more than {max_queue} bytes, or too many messages, wait to be read: messages were"
            " lost. Read faster, or raise max_queue"
        )


class HistoryGap(ClientError):
    """Changes of the database may be missing: read it, and begin without a cursor."""

    def __init__(self) -> None:
        super().__init__("changes may be missing: read the database, and begin without a cursor")


class ConnectionProblem(ClientError):
    """Why there is no connection.

    :cvar finality: whether it ends the client.
    """

    finality = Finality.NEVER


class ConnectionFailed(ConnectionProblem):
    """No connection could be made. Is the relay running, at this address?"""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot connect to the relay: {reason}")


class TLSFailed(ConnectionProblem):
    """TLS failed: the relay's certificate is not trusted, or not for this host."""

    finality = Finality.AT_FIRST

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"TLS failed: {reason}. The certificate must be valid for the host in the URL;"
            " trust_root names the certificates to trust"
        )


class NotARelay(ConnectionProblem):
    """The server that answered is no relay: check host, port, scheme and path of the URL."""

    finality = Finality.AT_FIRST

    def __init__(self, answer: str) -> None:
        super().__init__(f"this is no relay ({answer}): check host, port, scheme and path")


class HandshakeRefused(ConnectionProblem):
    """The relay does not accept the client.

    :ivar status: the HTTP status.
    """

    advice = "see the relay's log"

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the relay answered {status} {text!r}: {self.advice}")
        self.status = status


class TokenRejected(HandshakeRefused):
    """The token is wrong, or the relay does not accept this host."""

    finality = Finality.ALWAYS
    advice = "check the token, and that it opens this database"


class VersionRejected(HandshakeRefused):
    """The relay speaks another version of the protocol."""

    finality = Finality.ALWAYS
    advice = "relay and client are of incompatible versions: upgrade the older"


class IdInUse(HandshakeRefused):
    """Another living process is connected with this id."""

    advice = "give each process an id of its own, or stop the other one"


class IdRejected(HandshakeRefused):
    """The relay does not accept the client's id."""

    finality = Finality.ALWAYS
    advice = "an id has 5 to 128 characters, without ';' and control characters"


class RequestRejected(HandshakeRefused):
    """The relay does not accept the name of the database, or the dialect."""

    finality = Finality.ALWAYS
    advice = "check the name of the database"


class RelayBusy(HandshakeRefused):
    """The relay, or a proxy before it, cannot take another client now."""

    advice = "the client tries again; if it lasts, raise the relay's limits"


class ConnectionClosed(ConnectionProblem):
    """The connection has ended.

    :ivar code: the close code (RFC 6455, section 7.4).
    :ivar reason: the relay's text, or what has happened.
    """

    advice = "the client connects again"

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection was closed ({code} {reason!r}): {self.advice}")
        self.code = code
        self.reason = reason


class ConnectionLost(ConnectionClosed):
    """The connection has ended without a close frame."""


class RelayShutDown(ConnectionClosed):
    """The relay is shutting down, or restarts."""

    advice = "the client connects again as soon as the relay is back"


class ProtocolError(ConnectionClosed):
    """One side has broken the rules of WebSocket."""

    advice = "a defect of client, relay or proxy: report it; the client connects again"


class PolicyViolated(ConnectionClosed):
    """A message had no valid address, or the token is not valid any more."""

    advice = "the client connects again; the answer tells whether the token is valid"


class ClosedAsTooLarge(ConnectionClosed):
    """A message was larger than the client or the relay accepts."""

    advice = "raise max_message if the message was incoming; the client connects again"


class RelayFailed(ConnectionClosed):
    """A defect of the relay, which has logged it."""

    advice = "see the relay's log; the client connects again"


class Replaced(ConnectionClosed):
    """Another connection has taken the client's id."""

    finality = Finality.ALWAYS
    advice = "another process has connected with this id: give each process an id of its own"


class RequestFailed(ClientError):
    """A large message, or another request over HTTP, has failed."""


class RequestUnanswered(RequestFailed):
    """There was no answer.

    :ivar sent: whether the request had left: then the message may have been relayed.
        Else nothing was relayed, and sending it again does no harm.
    """

    def __init__(self, reason: str, sent: bool = True) -> None:
        effect = "the message may have been relayed" if sent else "nothing was relayed"
        super().__init__(f"the relay did not answer ({reason}): {effect}")
        self.sent = sent


class RequestDenied(RequestFailed):
    """The relay has refused a request; nothing was relayed.

    :ivar status: the HTTP status.
    """

    advice = "see the relay's log"

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the relay answered {status} {text!r}: {self.advice}")
        self.status = status


class NotAPeerNow(RequestDenied):
    """The relay does not know the client as a peer, or its token is not valid."""

    advice = "the connection has just ended; send the message again when connected"


class TooLargeForRelay(RequestDenied):
    """A message is larger than the relay accepts."""

    advice = "send less at a time, or raise the relay's max_message"


class RelayOverloaded(RequestDenied):
    """The relay has no room for a large message."""

    advice = "try again later"


_CLOSED: dict[int, type[ConnectionClosed]] = {
    1001: RelayShutDown,
    1002: ProtocolError,
    1003: ProtocolError,
    1006: ConnectionLost,
    1007: ProtocolError,
    1008: PolicyViolated,
    1009: ClosedAsTooLarge,
    1011: RelayFailed,
    1012: RelayShutDown,
    4001: Replaced,
}

_DENIED: dict[int, type[RequestDenied]] = {
    401: NotAPeerNow,
    403: NotAPeerNow,
    413: TooLargeForRelay,
    429: RelayOverloaded,
    502: RelayOverloaded,
    503: RelayOverloaded,
    504: RelayOverloaded,
}

_BUSY = frozenset({408, 425, 429})


def closed(code: int, reason: str) -> ConnectionClosed:
    """The error for a connection that was closed with *code*."""
    return _CLOSED.get(code, ConnectionClosed)(code, reason)


def denied(status: int, text: str) -> RequestDenied:
    """The error for a request that was answered with *status*."""
    return _DENIED.get(status, RequestDenied)(status, text)


def refused(status: int, text: str) -> ConnectionProblem:
    """The error for a handshake that was answered with *status* and *text*."""
    if status == 403:
        return TokenRejected(status, text)
    if status == 409:
        conflict = "version" not in text
        return IdInUse(status, text) if conflict else VersionRejected(status, text)
    if status == 500 and "client id" in text:
        return IdRejected(status, text)
    if status == 400:
        return RequestRejected(status, text)
    if status in _BUSY or status >= 500:
        return RelayBusy(status, text)
    return NotARelay(f"it answered {status} {text!r}")
