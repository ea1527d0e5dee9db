"""Every private name of Autobahn and Twisted that this package uses.

Each is checked once, when this module is imported, and has a public fallback that does
the same more slowly. The names that are missing, because a newer Autobahn or Twisted has
renamed them, are in :data:`MISSING`, which a server logs once.

The lean options are not private names: they are attributes that Autobahn looks up on each
connection, and that are set on the class here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from types import FunctionType
from typing import Any, Final, TypeVar

from autobahn.twisted.websocket import WebSocketClientProtocol, WebSocketServerProtocol
from autobahn.util import wildcards2patterns
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.utf8validator import Utf8Validator
from autobahn.websocket.xormasker import create_xor_masker
from twisted.internet.tcp import Server
from twisted.protocols import tls
from twisted.web.http import HTTPChannel

from acebase_ipc.protocol.frames import NO_MASK, header

P = TypeVar("P", bound=type[WebSocketServerProtocol])


class NullLogger:
    """A no-op logger for Autobahn.

    Autobahn logs 17 lines for each connection. They take a tenth of the time to open a
    connection, even if they are discarded. Errors of peers are reported elsewhere. A
    client's lines would contain the whole handshake, with its token.
    """

    def debug(self, *words: object, **values: object) -> None:
        """Log nothing."""

    info = warn = error = critical = failure = trace = debug


# Which names are there


def missing_names(kind: type, names: Iterable[str]) -> frozenset[str]:
    """Return those of *names* that *kind* neither defines nor uses in one of its methods."""
    known = {name for each in kind.__mro__ for name in vars(each)}
    for each in kind.__mro__:
        for member in vars(each).values():
            code = getattr(member, "__code__", None)
            if code is not None:
                known.update(code.co_names)
    return frozenset(names) - known


PARSER_NAMES: Final = (
    "_dataReceived",
    "control_frame_data",
    "current_frame",
    "data",
    "frame_data",
    "inside_message",
    "message_data",
    "message_is_binary",
)
"""Names that feed Autobahn without logging, and show what it has received of a message."""

TRANSPORT_NAMES: Final = ("dataBuffer", "_tempDataBuffer", "_tempDataLen", "offset")
"""Names that show how many bytes a Twisted transport has buffered."""

TLS_NAMES: Final = ("_aggregator", "_appSendBuffer", "_flushReceiveBIO")
"""Names that show whether a Twisted transport has to encrypt something, and let it go on."""

TLS_BUFFER_NAMES: Final = ("_buffer",)
"""The same of what collects the bytes to be encrypted."""

TLSTransport: Final[Any] = tls.TLSMemoryBIOFactory.protocol
"""The transport above TLS."""

MISSING: Final = (
    missing_names(WebSocketServerProtocol, PARSER_NAMES)
    | missing_names(Server, TRANSPORT_NAMES)
    | missing_names(TLSTransport, TLS_NAMES)
    | missing_names(getattr(tls, "_AggregateSmallWrites", type), TLS_BUFFER_NAMES)
)
"""The names that are missing."""

PARSER_IS_KNOWN: Final = not MISSING & set(PARSER_NAMES)
TRANSPORT_IS_KNOWN: Final = not MISSING & set(TRANSPORT_NAMES)
TLS_IS_KNOWN: Final = TRANSPORT_IS_KNOWN and not MISSING & {*TLS_NAMES, *TLS_BUFFER_NAMES}


def is_between_messages(protocol: Any) -> bool:
    """Return whether Autobahn's *protocol* holds no part of a message or frame.

    Only to be called if :data:`PARSER_IS_KNOWN`.
    """
    return not protocol.data and protocol.current_frame is None and not protocol.inside_message


def feed(protocol: Any, data: bytes) -> None:
    """Let Autobahn's *protocol* receive *data*, without logging.

    Only to be called if :data:`PARSER_IS_KNOWN`.
    """
    protocol._dataReceived(data)


_TEXT: Final = 1
_BINARY: Final = 2
_LAST_DATA: Final = 7
"""Opcodes: of the first frame of a message, and the last one that is no control frame's
(RFC 6455, section 5.2)."""


def received_in_part(protocol: Any) -> bytes:
    """Return what Autobahn's *protocol* has received since the last message, as a client's frames.

    The fragments of a message are one, and control frames that were processed are left out.
    Only to be called if :data:`PARSER_IS_KNOWN`.
    """
    parts: list[bytes] = []
    frame = protocol.current_frame
    if protocol.inside_message:
        is_first = frame is not None and frame.opcode in (_TEXT, _BINARY)
        if not is_first:
            payload = b"".join(protocol.message_data)
            opcode = _BINARY if protocol.message_is_binary else _TEXT
            parts.append(header(opcode, len(payload), NO_MASK))
            parts.append(payload)
    if frame is not None:
        is_control = frame.opcode > _LAST_DATA
        pieces = protocol.control_frame_data if is_control else protocol.frame_data
        parts.append(header(frame.fin << 7 | frame.opcode, frame.length, frame.mask))
        parts.append(create_xor_masker(frame.mask).process(b"".join(pieces)))
    return b"".join((*parts, protocol.data))


def is_empty(transport: Any) -> bool:
    """Return whether a Twisted TCP *transport* has nothing to send.

    Only to be called if :data:`TRANSPORT_IS_KNOWN`.
    """
    return not transport.dataBuffer and not transport._tempDataBuffer


def is_tls_empty(transport: Any) -> bool:
    """Return whether a Twisted *transport* has nothing to encrypt.

    Only to be called if :data:`TLS_IS_KNOWN`.
    """
    collected = getattr(transport._aggregator, "_buffer", ())  # nothing after the end
    return not transport._appSendBuffer and not collected


def flush_tls(transport: Any) -> None:
    """Let a Twisted *transport* notice what has arrived over TLS.

    Only to be called if :data:`TLS_IS_KNOWN`.
    """
    transport._flushReceiveBIO()


def buffered(transport: Any) -> int | None:
    """Return the bytes in the buffer of *transport*, or ``None`` if they cannot be counted."""
    transport = getattr(transport, "transport", transport)  # below TLS
    try:
        return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)
    except AttributeError:
        return None


def unwritten(transport: Any) -> bytes:
    """Return the bytes in the buffer of a Twisted TCP *transport*.

    Only to be called if :data:`TRANSPORT_IS_KNOWN`.
    """
    return b"".join((transport.dataBuffer[transport.offset :], *transport._tempDataBuffer))


def detach(transport: Any) -> None:
    """Close the descriptor of a Twisted socket *transport*, and nothing else of its connection.

    Its methods ``loseConnection`` and ``abortConnection`` end the connection, which another
    process may have, too.
    """
    transport.stopReading()
    transport.stopWriting()
    transport.connected = 0
    transport.disconnected = 1
    transport.producer = None
    transport.socket.close()


# Lean connections

CLOSE_TIMEOUT: Final = 2.0
"""Seconds that the other end has to answer the close frame and to end the connection. They
are enough to read what was sent before, and few enough that a restart takes less than 5 s:
then the npm package acebase, waiting for its connection, crashes."""


class _Unobserved:
    """A Deferred that no code waits for."""

    def callback(self, result: object) -> None:
        """Ignore that a connection has opened or closed."""


def _accept_no_compression(offers: object) -> None:
    """Accept no compression: CPU time is the scarcest resource of a relay."""


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
    "failByDrop": False,  # so that the close code tells a peer the reason
    "echoCloseCodeReason": True,
    "openHandshakeTimeout": 0,
    "closeHandshakeTimeout": 0,  # WebSocketConnection has its own deadlines
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
    # State that Autobahn sets when a handshake begins, and that most connections never change.
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
    "_perMessageCompress": None,
    "websocket_protocol_in_use": None,
    "websocket_version": 13,
    "is_open": _Unobserved(),
    "is_closed": _Unobserved(),
    "peer": "",
    "send_queue": (),
    "trafficStats": TrafficStats(),
}


def lean(kind: P) -> P:
    """Reduce the memory of each connection of *kind* to a third, and return *kind*.

    Autobahn copies 40 options to each connection when its handshake begins. Here the options, and
    state that rarely changes, are attributes of the class.
    """
    for name, value in _LEAN.items():
        setattr(kind, name, value)
    return kind


_HIGHLIGHTS: Final = frozenset({"hl", "hlid", "hltype", "hlval"})
"""Functions with which Autobahn colours the values of its log lines."""


def _ignore(value: object) -> None:
    """Format nothing."""


def without_highlights(kind: P) -> P:
    """Give *kind* copies of the inherited methods that colour values for a log, which do not.

    They do so even if nothing is logged, which takes a fiftieth of the time to open a connection.
    """
    base: type = kind
    members = {name: value for each in reversed(base.__mro__) for name, value in vars(each).items()}
    for name, member in members.items():
        if isinstance(member, FunctionType) and _HIGHLIGHTS & {*member.__code__.co_names}:
            known = {**member.__globals__, **dict.fromkeys(_HIGHLIGHTS, _ignore)}
            copy = FunctionType(
                member.__code__, known, name, member.__defaults__, member.__closure__
            )
            copy.__kwdefaults__ = member.__kwdefaults__
            setattr(kind, name, copy)
    return kind


@without_highlights
class ServerProtocol(WebSocketServerProtocol):
    """Autobahn's server protocol, without the cost of log lines that nobody reads."""

    @cached_property
    def utf8validator(self) -> Utf8Validator:
        """The validator of this connection, which few need."""
        return Utf8Validator()


def compact(transport: Any) -> None:
    """Reduce the memory of an open *transport*, whose dictionary has room for more attributes."""
    transport.__dict__ = dict(transport.__dict__.items())


# The client's side

MESSAGE_SIZE_FLAG: Final = "wasMaxMessagePayloadSizeExceeded"
"""The attribute that Autobahn sets when a message is too large."""

_CLIENT_MISSING: Final = missing_names(WebSocketClientProtocol, (MESSAGE_SIZE_FLAG, "onCloseFrame"))

TELLS_MESSAGE_SIZE: Final = MESSAGE_SIZE_FLAG not in _CLIENT_MISSING
"""Whether Autobahn sets it; otherwise a message that is too large is a protocol error."""

TELLS_CLOSE_FRAMES: Final = "onCloseFrame" not in _CLIENT_MISSING
"""Whether a connection is told of the relay's close frame; otherwise only its keepalive ends a
connection that the relay leaves open after that."""


def exceeded_message_size(connection: WebSocketClientProtocol) -> bool:
    """Return whether Autobahn has failed *connection* because a message was too large."""
    return TELLS_MESSAGE_SIZE and bool(getattr(connection, MESSAGE_SIZE_FLAG, False))


# twisted.web

REFUSES_BAD_REQUESTS = hasattr(HTTPChannel, "_respondToBadRequestAndDisconnect")
"""Whether Twisted refuses an invalid request in the method that is replaced here. Otherwise
its own answer remains: the status 400 without a text."""


class BadRequestChannel(HTTPChannel):
    """An HTTP connection that answers requests which Twisted cannot parse by itself."""

    def bad_request(self) -> None:
        """Answer a request that cannot be parsed, and close the connection."""
        raise NotImplementedError

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.bad_request()
