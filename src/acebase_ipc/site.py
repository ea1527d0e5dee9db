"""A Site for the relay: request bodies stream in bounded.

Twisted reads a request body to its end before it asks a resource. Here a POST
is checked as soon as its headers are complete: who may not send, or would send
too much, is told at once, and the rest of the body is read and discarded.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.web.resource import getChildForRequest
from twisted.web.server import Request, Site

from acebase_ipc.errors import RequestRefused, RequestTooLarge
from acebase_ipc.limits import MIB
from acebase_ipc.peers import Peer
from acebase_ipc.resources import Context, Root, Send, respond

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
    _sender: Peer | None = None
    _length: int | None = None
    _received = 0
    _refused = False
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
        if length is not None and self._context.intake.needs_room(self._sender, length):
            self._context.intake.reserve(self, length)

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
            if self._length is None:
                intake = self._context.intake
                missing = self._received - self.reserved - self.wanted
                if intake.needs_room(self._sender, self._received):
                    intake.reserve(self, missing)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        if self._refused:
            self.finish()
        elif self._timeout is not None:
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

    # Pausable

    def refuse(self, refusal: RequestRefused) -> None:
        """Answer at once and discard what comes of the body."""
        self._refused = True
        self._context.intake.release(self)
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"Expect")
        self.channel.persistent = False
        body = respond(self, refusal.status, str(refusal), Connection=b"close")
        self.setHeader(b"Content-Length", b"%d" % len(body))
        self.write(body)

    def pause(self, timeout: IDelayedCall) -> None:
        """Stop reading; the idle timeout of HTTP does not run meanwhile."""
        self._timeout = timeout
        self.channel.setTimeout(None)
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on, or go on with a body that has come to its end meanwhile."""
        self._stop_waiting()
        self.channel.setTimeout(self.channel.timeOut)
        self.transport.resumeProducing()
        if self._complete is not None:
            complete, self._complete = self._complete, None
            self.requestReceived(*complete)

    def _stop_waiting(self) -> None:
        if self._timeout is not None:
            if self._timeout.active():
                self._timeout.cancel()
            self._timeout = None


class RelaySite(Site):
    """Serves a relay, and nothing else, on any number of ports.

    It writes no access log: a URL holds the token.
    """

    requestFactory = RelayRequest

    def __init__(self, context: Context, idle: float) -> None:
        """:param idle: seconds after which an idle HTTP connection is closed."""
        super().__init__(
            Root(context),
            timeout=idle,
            reactor=context.reactor,
            parsePOSTFormSubmission=False,
        )
        self.context = context

    def log(self, request: Any) -> None:
        """Write nothing."""
