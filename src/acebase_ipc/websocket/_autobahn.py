"""Every private name of Autobahn and Twisted that this package rests on.

Each is checked once, when this module is imported, and has a public fallback that is
slower and does the same. A name that is missing (a newer Autobahn or Twisted may rename
it) is told by :data:`MISSING`, which a server logs once.

The lean options are no private names: they are attributes that Autobahn looks up on each
connection, set on the class instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from autobahn.twisted.websocket import WebSocketClientProtocol, WebSocketServerProtocol
from autobahn.util import wildcards2patterns
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.tcp import Server
from twisted.web.http import HTTPChannel

P = TypeVar("P", bound=type[WebSocketServerProtocol])


class NullLogger:
    """A no-op logger for Autobahn.

    Its 17 lines for each connection cost a server a tenth of the time to open one, even
    if they are discarded later. What peers do wrong is reported elsewhere. A client's
    lines would hold the whole handshake, with the token in it.
    """

    def debug(self, *words: object, **values: object) -> None:
        """Log nothing."""

    info = warn = error = critical = failure = trace = debug


# Which names are there


def missing_names(kind: type, names: Iterable[str]) -> frozenset[str]:
    """Those of *names* that *kind* neither defines nor uses in one of its methods."""
    known = {name for each in kind.__mro__ for name in vars(each)}
    for each in kind.__mro__:
        for member in vars(each).values():
            code = getattr(member, "__code__", None)
            if code is not None:
                known.update(code.co_names)
    return frozenset(names) - known


PARSER_NAMES: Final = ("_dataReceived", "current_frame", "data", "inside_message")
"""Tell whether Autobahn is between two messages, and feed it without a line for its log."""

TRANSPORT_NAMES: Final = ("dataBuffer", "_tempDataBuffer", "_tempDataLen", "offset")
"""Tell how many bytes a Twisted transport has buffered."""

MISSING: Final = missing_names(WebSocketServerProtocol, PARSER_NAMES) | missing_names(
    Server, TRANSPORT_NAMES
)
"""The names that are not there."""

PARSER_IS_KNOWN: Final = not MISSING & set(PARSER_NAMES)
TRANSPORT_IS_KNOWN: Final = not MISSING & set(TRANSPORT_NAMES)


def is_between_messages(protocol: Any) -> bool:
    """Whether Autobahn's *protocol* has nothing of a message or frame.

    Only to be asked where :data:`PARSER_IS_KNOWN`.
    """
    return not protocol.data and protocol.current_frame is None and not protocol.inside_message


def feed(protocol: Any, data: bytes) -> None:
    """Let Autobahn's *protocol* receive *data*, without a line for its log.

    Only to be called where :data:`PARSER_IS_KNOWN`.
    """
    protocol._dataReceived(data)


def is_empty(transport: Any) -> bool:
    """Whether a Twisted TCP *transport* has nothing to send.

    Only to be asked where :data:`TRANSPORT_IS_KNOWN`.
    """
    return not transport.dataBuffer and not transport._tempDataBuffer


def buffered(transport: Any) -> int | None:
    """Bytes that *transport* has taken and the system has not; ``None`` if that is unknown."""
    transport = getattr(transport, "transport", transport)  # below TLS
    try:
        return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)
    except AttributeError:
        return None


# Lean connections

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that the other end has to answer our close frame, and to end the connection:
enough to read what was sent before, and so little that a restart is over within the 5 s
after which the npm package acebase, waiting for its connection, ends its process."""

_HANDSHAKE: Final = frozenset(
    {
        "_transport_details",
        "_wskey",
        "http_headers",
        "http_request_data",
        "http_request_host",
        "http_request_params",
        "http_request_path",
        "http_request_uri",
        "http_response_data",
        "http_status_line",
        "websocket_extensions",
        "websocket_extensions_in_use",
        "websocket_origin",
        "websocket_protocols",
    }
)
"""What Autobahn keeps of a handshake, and an open connection does not need."""

_SHARED: Final = frozenset(
    {"_results", "_valid_events", "is_closed", "is_open", "send_queue", "trafficStats"}
)
"""What no code of ours asks a connection for: one object in the class serves all."""


_ABSENT: Final = object()


class _Unobserved:
    """A Deferred that no code waits for."""

    def callback(self, result: object) -> None:
        """Ignore that a connection has opened or closed."""


class _SharedUtf8Validator:
    """Makes the validator of a connection when it is first needed: few need one.

    A descriptor, as ``__getattr__`` would make every access to an attribute slow.
    """

    def __get__(self, protocol: Any, owner: type) -> Utf8Validator:
        validator = protocol._utf8validator
        if validator is None:
            validator = protocol._utf8validator = Utf8Validator()
        return validator

    def __set__(self, protocol: Any, validator: Utf8Validator) -> None:
        """Discard the one that Autobahn makes for each connection."""


def _accept_no_compression(offers: object) -> None:
    """Compress nothing: the CPU is what a relay has least of."""


_LEAN: Final[dict[str, Any]] = {
    "log": NullLogger(),
    "perMessageCompressionAccept": staticmethod(_accept_no_compression),
    # Options, as in WebSocketServerFactory.setProtocolOptions; none is copied.
    "CONFIG_ATTRS": (),
    "logOctets": False,
    "logFrames": False,
    "trackTimings": False,
    "utf8validateIncoming": True,
    "applyMask": True,
    "maxFramePayloadSize": 0,
    "autoFragmentSize": 0,
    "failByDrop": False,  # so that a peer learns by the close code what it did wrong
    "echoCloseCodeReason": True,
    "openHandshakeTimeout": 0,  # the request has arrived as a whole before we exist
    "closeHandshakeTimeout": 0,  # the factory has deadlines of its own
    "tcpNoDelay": True,
    "autoPingInterval": 0,
    "autoPingTimeout": 0,
    "autoPingSize": 12,
    "autoPingRestartOnAnyTraffic": True,
    "versions": (13,),
    "webStatus": False,
    "requireMaskedClientFrames": True,
    "maskServerFrames": False,
    "serveFlashSocketPolicy": False,
    "flashSocketPolicy": "",
    "allowedOrigins": ("*",),  # checked for each path before the upgrade
    "allowedOriginsPatterns": tuple(wildcards2patterns(["*"])),
    "allowNullOrigin": True,
    "maxConnections": 0,
    "trustXForwardedFor": 0,
    # What Autobahn sets in each connection, and most never change.
    "autoPingPending": None,
    "autoPingPendingCall": None,
    "autoPingPendingSent": None,
    "autoPingPendingSeq": 0,
    "autoPingTimeoutCall": None,
    "closeHandshakeTimeoutCall": None,
    "closedByMe": False,
    "connected": 1,
    "current_frame": None,
    "data": b"",
    "droppedByMe": False,
    "failedByMe": False,
    "inside_message": False,
    "localCloseCode": None,
    "localCloseReason": None,
    "openHandshakeTimeoutCall": None,
    "remoteCloseCode": None,
    "remoteCloseReason": None,
    "send_state": WebSocketServerProtocol.SEND_STATE_GROUND,
    "trackedTimings": None,
    "triggered": False,
    "wasClean": False,
    "wasCloseHandshakeTimeout": False,
    "wasMaxFramePayloadSizeExceeded": False,
    "wasMaxMessagePayloadSizeExceeded": False,
    "wasNotCleanReason": None,
    "wasOpenHandshakeTimeout": False,
    "wasServerConnectionDropTimeout": False,
    "wasServingFlashSocketPolicyFile": False,
    "websocket_protocol_in_use": None,
    "websocket_version": 13,
    "_perMessageCompress": None,
    "_transport_details": None,
    "_utf8validator": None,
    "utf8validator": _SharedUtf8Validator(),
    "is_open": _Unobserved(),
    "is_closed": _Unobserved(),
    "send_queue": (),
    "trafficStats": TrafficStats(),
    "_valid_events": ("message",),
    "_results": {"message": None},
}


def lean(kind: P) -> P:
    """Make each connection of *kind* take a third of the memory.

    Autobahn copies 40 options to each connection and formats them for a log, 0.2 ms in
    all. Here the options, and what is nearly always false, are attributes of the class.
    """
    for name, value in _LEAN.items():
        setattr(kind, name, value)
    return kind


def drop_handshake_state(protocol: Any) -> None:
    """Drop from an open *protocol* what it does not need, or finds in its class."""
    unneeded = _HANDSHAKE | _SHARED
    kind = type(protocol)
    protocol.__dict__ = {
        name: value
        for name, value in protocol.__dict__.items()
        if name not in unneeded and getattr(kind, name, _ABSENT) is not value
    }


# The client's side

MESSAGE_SIZE_FLAG: Final = "wasMaxMessagePayloadSizeExceeded"
"""What Autobahn sets in a connection that it fails for the size of a message."""

_CLIENT_MISSING: Final = missing_names(WebSocketClientProtocol, (MESSAGE_SIZE_FLAG, "onCloseFrame"))

TELLS_MESSAGE_SIZE: Final = MESSAGE_SIZE_FLAG not in _CLIENT_MISSING
"""Whether it does; else a message that is too large counts as a protocol error."""

TELLS_CLOSE_FRAMES: Final = "onCloseFrame" not in _CLIENT_MISSING
"""Whether a connection is told that the relay closes; else only its keepalive ends it
when the relay sends a close frame and leaves the TCP connection open."""


def exceeded_message_size(connection: WebSocketClientProtocol) -> bool:
    """Whether Autobahn has failed *connection* because a message was too large."""
    return TELLS_MESSAGE_SIZE and bool(getattr(connection, MESSAGE_SIZE_FLAG, False))


# twisted.web

REFUSES_BAD_REQUESTS = hasattr(HTTPChannel, "_respondToBadRequestAndDisconnect")
"""Whether Twisted refuses what it cannot parse in the method that is replaced here.
If not, its own answer remains: a status of 400 without a text."""


class BadRequestChannel(HTTPChannel):
    """An HTTP connection that decides itself how to answer what Twisted cannot parse."""

    def bad_request(self) -> None:
        """Answer a request that cannot be parsed, and close the connection."""
        raise NotImplementedError

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.bad_request()
