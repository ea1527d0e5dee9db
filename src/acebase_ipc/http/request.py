"""Requests whose bodies stream in, bounded.

Twisted reads a request body to its end before it asks a resource. Here a POST is
admitted as soon as its headers are complete: a client that may not send, or would
send too much, is refused at once, and the rest of the body is read and discarded.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

from twisted.python.failure import Failure
from twisted.web.resource import getChildForRequest
from twisted.web.server import Request

from acebase_ipc.addresses import format_address
from acebase_ipc.http.admission import Caller
from acebase_ipc.http.errors import RequestTooLarge
from acebase_ipc.http.proxies import TrustedProxies
from acebase_ipc.http.responses import Refusals
from acebase_ipc.http.upload import UploadAdmission
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import Observer, OversizedMessage
from acebase_ipc.relay.limits import KIB, MIB
from acebase_ipc.relay.peers import Peer
from acebase_ipc.rotation import Rotation

DISCARD: Final = 64 * MIB
"""Bytes of a refused body that are read, so that the client sees the status:
most clients look at it only when they have sent everything."""


UNIT: Final = KIB
"""Bytes of a body that count as a unit of work when it is complete: they are scanned and copied
several times."""

RESERVE_STEP: Final = 64 * KIB
"""Bytes that are reserved ahead for a chunked body, at most: not each chunk asks."""


@runtime_checkable
class UploadTarget(Protocol):
    """A resource that reads the body of a request."""

    def admit(self, request: Request) -> Caller:
        """Admit a request whose headers are complete.

        :raises RequestRefused: if it is refused.
        """


class RelayRequest(Request):
    """A request that can be refused, or paused, before its body is complete.

    :ivar caller: the peer that makes the request, if it was admitted by its headers.
    """

    channel: Any
    content: BytesIO
    transport: Any
    caller: Caller | None = None
    reserved = 0
    wanted = 0
    stores = False
    _sender: Peer | None = None
    _length: int | None = None
    _received = 0
    _discards = False
    _complete = False
    _answered = False
    _paused = False
    _may_be_passed_on = False
    _expired: RequestRefused | None = None

    @property
    def _uploads(self) -> UploadAdmission:
        uploads: UploadAdmission = self.channel.site.context.uploads
        return uploads

    @property
    def _rotation(self) -> Rotation:
        rotation: Rotation = self.channel.site.rotation
        return rotation

    @property
    def missing(self) -> int:
        """Bytes of the body that are still to come, if its length was announced."""
        return (self._length or 0) - self._received

    # Called by the HTTPChannel

    def begin(self, method: bytes, uri: bytes, version: bytes) -> None:
        """The request line was received."""
        self.method = method
        self.uri = uri
        self.clientproto = version
        self.path = uri.partition(b"?")[0]
        self.args = {}  # resources read the query as the protocol defines it

    def gotLength(self, length: int | None) -> None:
        """The headers are complete; *length* is the body's, ``None`` if chunked."""
        self.content = BytesIO()
        self._length = length
        try:
            self._check_room()
            passage = self.channel.site.context.passage
            if passage is not None and passage.takes(self):
                self._may_be_passed_on = True
            elif length != 0:
                self._admit(length)
        except RequestRefused as refusal:
            self._fail(refusal)

    def _check_room(self) -> None:
        """Count the connection for the client that makes the request.

        :raises Overloaded: if there are too many, except for a health check.
        """
        proxies: TrustedProxies = self.channel.site.context.proxies
        has_room = True
        if proxies:
            proxies.identify(self)
            has_room = self.channel.serve(self.client)
        if self.channel.surplus or not has_room:
            self._close_when_answered()
            if self.path != b"/healthz":
                raise Overloaded("Too many connections: try again later")

    def _close_when_answered(self) -> None:
        self.channel.persistent = False
        self.setHeader(b"Connection", b"close")

    def _admit(self, length: int | None) -> None:
        self.prepath = []
        self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
        endpoint = getChildForRequest(self.channel.site.resource, self)
        if not isinstance(endpoint, UploadTarget):
            return  # no other endpoint reads a body
        caller = endpoint.admit(self)
        self.caller = caller
        if length is not None and length > self._uploads.max_message:
            raise self._too_large()
        self._sender = self.channel.site.context.admission.peer(caller)
        if length is not None:
            if self._uploads.may_store(self._sender, length):
                self._uploads.store(self)
            self._uploads.reserve(self, length)

    def _too_large(self) -> RequestTooLarge:
        """Report that a message is lost, because the npm package ignores the refusal."""
        observer: Observer = self.channel.site.observer
        limit = self._uploads.max_message
        if self.caller is not None:
            database, client_id = self.caller.database, self.caller.client_id
            address = format_address(self.getClientAddress())
            observer.report(OversizedMessage(database, client_id, limit, address))
        return RequestTooLarge(limit)

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body was received."""
        self._received += len(data)
        if self._discards:
            if self._received > DISCARD:
                self.channel.close()
        elif self._sender is not None:
            if self._received > self._uploads.max_message:
                self._fail(self._too_large())
                return
            if self._length is not None and self._received == len(data):
                self.content = _buffer(self._length)
            self.content.write(data)
            if self._length is None and self._received > self.reserved + self.wanted:
                self._reserve_ahead(self._sender)

    def _reserve_ahead(self, sender: Peer) -> None:
        """Reserve what a chunked body needs, and room for what may follow."""
        if not self.stores and self._uploads.may_store(sender, self._received):
            self._uploads.store(self)
        missing = self._received - self.reserved - self.wanted
        self._uploads.reserve(self, missing, ahead=min(self._received, RESERVE_STEP))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        self._complete = True
        if self._answered:
            super().finish()
        elif not self._discards and not self._paused:
            self._process()

    def _process(self) -> None:
        uploads = None if self._sender is None else self._uploads
        self._rotation.work.units += self._received // UNIT
        self.content.seek(0)
        self.process()
        if uploads is not None:
            uploads.release(self)

    def finish(self) -> None:
        """End the response: at once, or when the rest of a refused body was read."""
        self._answered = True
        if self._complete:
            super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone; of a body that is not complete nothing is relayed."""
        if self._sender is not None and not self._complete and not self._discards:
            self.channel.site.context.relay.histories.interrupted(self._sender)
        self._rotation.discard(self)
        self._uploads.release(self)
        super().connectionLost(reason)

    def _fail(self, refusal: RequestRefused) -> None:
        """Answer with *refusal*, and discard what is still to come of the body."""
        self._discards = True
        self._note_loss(refusal)
        self._uploads.release(self)
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"Expect")
        self._close_when_answered()
        refusals: Refusals = self.channel.site.context.refusals
        refusals.refuse(self, refusal)

    def _note_loss(self, refusal: RequestRefused) -> None:
        """Note that a message is lost, if it is one that a peer may have sent."""
        if isinstance(refusal, Overloaded | RequestTooLarge) and self.path.endswith(b"/send"):
            database = unquote_to_bytes(self.path).rsplit(b"/", 2)[-2].decode(errors="replace")
            self.channel.site.context.relay.histories.interrupt(database)

    # BodyUpload

    def pause(self) -> None:
        """Stop reading; no deadline of the connection applies meanwhile."""
        self._paused = True
        self.channel.hold()

    def resume(self) -> None:
        """Read on, or process a body that was completed meanwhile, in rotation."""
        self._rotation.add(self)

    def expire(self, refusal: RequestRefused) -> None:
        """Answer with *refusal*, in rotation."""
        self._expired = refusal
        self._rotation.add(self)

    def step(self) -> bool:
        """Go on after a pause."""
        self._paused = False
        self.channel.release(self._complete)
        if self._expired is not None:
            self._fail(self._expired)
        elif self._may_be_passed_on:
            self._is_answered_here()
        elif self._complete:
            self._process()
        return False

    def _is_answered_here(self) -> None:
        self._may_be_passed_on = False
        try:
            if self._length != 0:
                self._admit(self._length)
        except RequestRefused as refusal:
            self._fail(refusal)
        if self._complete and not (self._paused or self._discards):
            self._process()

    def abort(self) -> None:
        """End the connection at once."""
        self.channel.abort()


def _buffer(size: int) -> BytesIO:
    """Return a buffer of exactly *size* bytes, at least one, to write to from its beginning.

    One that grows as it is written to takes up to an eighth more.
    """
    buffer = BytesIO()
    buffer.seek(size - 1)
    buffer.write(b"\0")
    buffer.seek(0)
    return buffer
