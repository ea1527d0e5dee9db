"""A Site for the relay: request bodies stream in bounded.

Twisted reads a request body to its end before it asks a resource. Here a POST
is checked as soon as its headers are complete: who may not send, or would send
too much, is told at once, and the rest of the body is read and discarded.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import getChildForRequest
from twisted.web.server import Request, Site

from acebase_ipc.addresses import format_address
from acebase_ipc.http.endpoint import Context, respond
from acebase_ipc.http.errors import RequestTooLarge
from acebase_ipc.http.resources import Root, Send
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.events import Observer, Refused, RequestTimeout
from acebase_ipc.relay.limits import MIB, Limits
from acebase_ipc.relay.peers import Peer

DISCARD = 64 * MIB
"""Bytes of a refused body that are read, so that the client sees the status:
most clients look at it only when they have sent everything."""


class RelayRequest(Request):
    """A request that can be refused, or paused, before its body is complete."""

    channel: Any
    content: BytesIO
    transport: Any
    reserved = 0
    wanted = 0
    stores = False
    _sender: Peer | None = None
    _length: int | None = None
    _received = 0
    _refused = False
    _answered = False
    _timeout: IDelayedCall | None = None
    _complete: tuple[bytes, bytes, bytes] | None = None

    @property
    def _context(self) -> Context:
        context: Context = self.channel.site.context
        return context

    # Called by the HTTPChannel

    def gotLength(self, length: int | None) -> None:
        """The headers are complete; *length* is the body's, ``None`` if chunked."""
        self.content = BytesIO()
        self._length = length
        if length == 0:
            return
        # The channel tells the request line only with the complete body.
        self.method = self.channel._command
        self.uri = self.channel._path
        self.clientproto = self.channel._version
        self.path = self.uri.partition(b"?")[0]
        self.prepath = []
        self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
        endpoint = getChildForRequest(self.channel.site.resource, self)
        if not isinstance(endpoint, Send):
            return  # no other endpoint reads a body
        try:
            endpoint.check(self)
            if length is not None and length > self._context.max_message:
                raise RequestTooLarge(self._context.max_message)
        except RequestRefused as refusal:
            self.refuse(refusal)
            return
        self._sender, _ = endpoint.sender(self)
        if length is not None:
            self._context.intake.reserve(self, self._sender, length)

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body has come."""
        self._received += len(data)
        if self._refused:
            if self._received > DISCARD:
                self.channel.loseConnection()
        elif self._sender is not None:
            if self._received > self._context.max_message:
                self.refuse(RequestTooLarge(self._context.max_message))
                return
            self.content.write(data)
            if self._length is None:  # of a chunked body no more is known than what has come
                missing = self._received - self.reserved - self.wanted
                self._context.intake.reserve(self, self._sender, missing)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        self.channel.deadline = None
        if self._refused and self._answered:
            self.finish()
        elif self._refused or self._timeout is not None:
            self._complete = command, path, version
        else:
            context = self._context
            super().requestReceived(command, path, version)
            context.intake.release(self)

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone; of a body that is not complete nothing is relayed."""
        context = self._context
        self._stop_waiting()
        context.intake.release(self)
        super().connectionLost(reason)

    # BodyUpload

    def refuse(self, refusal: RequestRefused) -> None:
        """Answer before the body is complete, and discard what comes of it."""
        self._refused = True
        self._context.intake.release(self)
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"Expect")
        self.channel.persistent = False

        def answer() -> None:
            if self._disconnected:
                return
            body = respond(self, refusal.status, str(refusal))
            self.setHeader(b"Connection", b"close")
            self.setHeader(b"Content-Length", b"%d" % len(body))
            self.write(body)
            self._answered = True
            if self._complete is not None:
                self.finish()

        self._context.access.refuse(self, refusal, answer)

    def pause(self, timeout: IDelayedCall) -> None:
        """Stop reading; the idle timeout of HTTP does not run meanwhile."""
        self._timeout = timeout
        self.channel.setTimeout(None)
        self.channel.deadline = None
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on, or go on with a body that has come to its end meanwhile."""
        self._stop_waiting()
        if self.finished:
            return  # it was refused when all of it had come
        self.channel.setTimeout(self.channel.timeOut)
        self.channel.deadline = self._context.clock() + self.channel.site.request_timeout
        self.transport.resumeProducing()
        if self._complete is not None and not self._refused:
            complete, self._complete = self._complete, None
            self.requestReceived(*complete)

    def _stop_waiting(self) -> None:
        if self._timeout is not None:
            if self._timeout.active():
                self._timeout.cancel()
            self._timeout = None


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

    def connectionMade(self) -> None:
        """The first request has to come soon: half-open handshakes must not stay."""
        self.site.channels.add(self)
        self.deadline = self.site.context.clock() + self.site.handshake_timeout
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Something has come, perhaps the beginning of another request."""
        if self.deadline is None and not self.requests:
            self.deadline = self.site.context.clock() + self.site.request_timeout
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Accept a request line as Node.js writes it: its HTTP client, unlike its
        WebSocket client, sends ``/café`` as raw Latin-1, which Twisted refuses."""
        if not line.isascii() and line.endswith(b" HTTP/1.1"):
            line = _percent_encoded(line)
        super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        """The body may take longer than a handshake."""
        self.deadline = self.site.context.clock() + self.site.request_timeout
        super().allHeadersReceived()

    def pauseProducing(self) -> None:
        """The transport is full: a client that reads nothing must not keep its response."""
        self.read_deadline = self.site.context.clock() + self.site.request_timeout
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
        self.site.discard(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection has ended."""
        self.site.discard(self)
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
        super().__init__(
            Root(context),
            timeout=limits.http_idle,
            reactor=context.reactor,
            parsePOSTFormSubmission=False,
        )
        self.context = context
        self.handshake_timeout = limits.handshake_timeout
        self.request_timeout = limits.request_timeout
        self.channels: set[RelayChannel] = set()
        self._when_closed: list[Deferred[None]] = []
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

    def sweep(self, now: float) -> None:
        """End the connections whose client is late; once a second."""
        for channel in tuple(self.channels):
            if channel.is_late(now):
                self._observer.report(RequestTimeout(format_address(channel.getPeer())))
                channel.transport.abortConnection()

    def discard(self, channel: RelayChannel) -> None:
        """*channel* has ended, or is not one of HTTP any more."""
        self.channels.discard(channel)
        if not self.channels:
            when_closed, self._when_closed = self._when_closed, []
            for each in when_closed:
                each.callback(None)

    def close(self, timeout: float) -> Deferred[None]:
        """Close idle connections now, others after their answer, all within *timeout* seconds.

        Fires when none is open.
        """
        for channel in tuple(self.channels):
            if channel.requests:
                channel.persistent = False
            else:
                channel.loseConnection()
        closed: Deferred[None] = Deferred()
        if not self.channels:
            closed.callback(None)
            return closed
        deadline = self.context.reactor.callLater(timeout, self._abort)
        closed.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        self._when_closed.append(closed)
        return closed

    def _abort(self) -> None:
        for channel in tuple(self.channels):
            channel.transport.abortConnection()

    def log(self, request: Any) -> None:
        """Write nothing."""
