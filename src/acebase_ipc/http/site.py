"""A Site for the relay, and its HTTP connections."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Site

from acebase_ipc.addresses import format_address
from acebase_ipc.http.endpoint import Context
from acebase_ipc.http.resources import Root
from acebase_ipc.http.upload import RelayRequest
from acebase_ipc.relay.events import Observer, Refused, RequestTimeout
from acebase_ipc.relay.limits import Limits


def _percent_encoded(line: bytes) -> bytes:
    """*line* in ASCII: what is not becomes percent-encoded UTF-8."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    return "".join(c if c.isascii() else quote(c) for c in text).encode("ascii")


class RelayChannel(HTTPChannel):
    """An HTTP connection that has to complete its requests in time.

    :ivar deadline: when the request that is coming in has to be complete.
    :ivar read_deadline: when the client has to have read what is written so far.
    """

    site: RelaySite
    transport: Any
    deadline: float | None = None
    read_deadline: float | None = None
    _in_head = False

    def connectionMade(self) -> None:
        """The first request has to come soon: half-open handshakes must not stay."""
        self.site.channels.add(self)
        self.deadline = self.site.context.clock() + self.site.handshake_timeout
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Something has come, perhaps the beginning of another request."""
        if self.deadline is None and not self.requests:
            self.deadline = self.site.request_deadline()
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Take the request line, which Twisted tells only with the complete body.

        Node.js' HTTP client, unlike its WebSocket client, sends ``/café`` as raw
        Latin-1, which Twisted refuses: such a line is percent-encoded.
        """
        if self._in_head or not line:
            super().lineReceived(line)
            return
        if not line.isascii() and line.endswith(b" HTTP/1.1"):
            line = _percent_encoded(line)
        super().lineReceived(line)
        self._in_head = True
        words = line.split(b" ")
        if len(words) == 3 and self.requests:  # else Twisted has refused it
            self.requests[-1].begin(*words)

    def allHeadersReceived(self) -> None:
        """The body may take longer than a handshake."""
        self._in_head = False
        self.deadline = self.site.request_deadline()
        super().allHeadersReceived()

    def pauseProducing(self) -> None:
        """The transport is full: a client that reads nothing must not keep its response."""
        self.read_deadline = self.site.request_deadline()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The client has read all that was written."""
        self.read_deadline = None
        super().resumeProducing()

    def is_late(self, now: float) -> bool:
        """Whether the client has not done its part in time."""
        deadlines = (self.deadline, self.read_deadline)
        return any(each is not None and each <= now for each in deadlines)

    def timeoutConnection(self) -> None:
        """It was idle: close it, and abort it if the other end does not take note."""
        self.deadline = self.site.context.clock() + self.abortTimeout
        self.loseConnection()

    def upgraded(self) -> None:
        """The connection is not one of HTTP any more."""
        self.site.channels.discard(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        self.site.channels.discard(self)
        super().connectionLost(reason)


class RelaySite(Site):
    """Serves a relay, and nothing else, on any number of ports.

    It writes no access log: a URL holds the token. It speaks HTTP/1.1 only, as
    a WebSocket needs it.

    :ivar channels: the open HTTP connections.
    """

    protocol = RelayChannel  # type: ignore[assignment]  # no HTTP/2, so no wrapper for it
    requestFactory = RelayRequest

    def __init__(self, context: Context, limits: Limits, observer: Observer) -> None:
        super().__init__(Root(context), timeout=limits.http_idle, reactor=context.reactor)
        self.context = context
        self.handshake_timeout = limits.handshake_timeout
        self.request_timeout = limits.request_timeout
        self.channels: set[RelayChannel] = set()
        self._max_channels = limits.max_connections
        self._observer = observer

    def acceptableProtocols(self) -> list[bytes]:
        """What may be negotiated over TLS."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection, unless there are too many: then it is closed at once."""
        if len(self.channels) >= self._max_channels:
            self._observer.report(Refused(format_address(addr), 503, "Too many connections"))
            return None
        return super().buildProtocol(addr)

    def request_deadline(self) -> float:
        """When a request that begins now has to be complete."""
        return self.context.clock() + self.request_timeout

    def sweep(self, now: float) -> None:
        """End the connections whose client is late; once a second."""
        for channel in tuple(self.channels):
            if channel.is_late(now):
                self._observer.report(RequestTimeout(format_address(channel.getPeer())))
                channel.transport.abortConnection()

    def log(self, request: Any) -> None:
        """Write nothing."""
