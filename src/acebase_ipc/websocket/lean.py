"""Autobahn's server protocol, slimmer: an idle connection should cost little.

Autobahn copies 40 options to each connection and formats them for a log, 0.2 ms
in all, and each connection keeps what only its handshake has needed. Here the
options, and what nearly always is false, are attributes of the class.
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.util import wildcards2patterns
from autobahn.websocket.protocol import TrafficStats
from autobahn.websocket.utf8validator import Utf8Validator

from acebase_ipc.websocket._autobahn import NullLogger

CLOSE_TIMEOUT = 2.0
"""Seconds, rounded down by Autobahn to a full second of the clock, that a peer has to
answer our close frame: enough to read what was sent
before, and so little that a restart is over within the 5 s after which a published
client that waits for its connection dies."""

_HANDSHAKE = frozenset(
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
"""What Autobahn keeps of a handshake, and an open connection does without."""

_SHARED = frozenset(
    {"_results", "_valid_events", "is_closed", "is_open", "send_queue", "trafficStats"}
)
"""What nobody asks for in our connections: one for all, in the class, will do."""


class _Unheeded:
    """A Deferred that nobody waits for."""

    def callback(self, result: object) -> None:
        """Autobahn tells that a connection has opened or closed."""


class LeanServerProtocol(WebSocketServerProtocol):
    """A server's WebSocket that takes about a third of the memory."""

    log = NullLogger()

    # Options, as in WebSocketServerFactory.setProtocolOptions; none is copied.
    CONFIG_ATTRS: tuple[str, ...] = ()
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
    allowedOriginsPatterns = tuple(wildcards2patterns(["*"]))
    allowNullOrigin = True
    maxConnections = 0
    trustXForwardedFor = 0

    # What Autobahn sets in each connection, and most never change.
    autoPingPending = None
    autoPingPendingCall = None
    autoPingPendingSent = None
    autoPingPendingSeq = 0
    autoPingTimeoutCall = None
    closeHandshakeTimeoutCall = None
    closedByMe = False
    connected = 1
    current_frame = None
    data = b""
    droppedByMe = False
    failedByMe = False
    inside_message = False
    localCloseCode = None
    localCloseReason = None
    openHandshakeTimeoutCall = None
    remoteCloseCode = None
    remoteCloseReason = None
    send_state = WebSocketServerProtocol.SEND_STATE_GROUND
    trackedTimings = None
    triggered = False
    wasClean = False
    wasCloseHandshakeTimeout = False
    wasMaxFramePayloadSizeExceeded = False
    wasMaxMessagePayloadSizeExceeded = False
    wasNotCleanReason = None
    wasOpenHandshakeTimeout = False
    wasServerConnectionDropTimeout = False
    wasServingFlashSocketPolicyFile = False
    websocket_protocol_in_use = None
    websocket_version = 13
    _perMessageCompress = None
    _transport_details = None
    _utf8validator: Utf8Validator | None = None

    is_open = _Unheeded()
    is_closed = _Unheeded()
    send_queue = ()
    trafficStats = TrafficStats()
    _valid_events = ("message",)
    _results = {"message": None}  # noqa: RUF012

    @staticmethod
    def perMessageCompressionAccept(offers: Any) -> None:
        """Compress nothing: the CPU is what a relay has least of."""

    def drop_handshake_state(self) -> None:
        """Let go what an open connection does without, or finds in its class."""
        unneeded = _HANDSHAKE | _SHARED
        kind = type(self)
        self.__dict__ = {
            name: value
            for name, value in self.__dict__.items()
            if name not in unneeded and getattr(kind, name, self) is not value
        }

    @property
    def utf8validator(self) -> Utf8Validator:
        """What few connections need; it is made when one does.

        A property, as ``__getattr__`` would make every access to an attribute slow.
        """
        if self._utf8validator is None:
            self._utf8validator = Utf8Validator()
        return self._utf8validator

    @utf8validator.setter
    def utf8validator(self, validator: Utf8Validator) -> None:
        """Autobahn makes one for each connection: let it go."""

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """Autobahn refuses a malformed upgrade: answer with one line of text."""
        body = reason.encode("utf-8", "replace")
        headers = [*(responseHeaders or ()), ("Content-Type", "text/plain; charset=utf-8")]
        headers += [("Content-Length", len(body)), ("Connection", "close")]
        lines = [f"HTTP/1.1 {code} Refused", *(f"{name}: {value}" for name, value in headers)]
        self.sendData("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
