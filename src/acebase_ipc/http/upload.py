"""Messages that are posted: room for their bodies, and requests that stream them in.

Twisted reads a request body to its end before it asks a resource. Here a POST is
admitted as soon as its headers are complete: a client that may not send, or would
send too much, is told at once, and the rest of the body is read and discarded.

Where memory is short, reading is paused rather than refused: the npm package acebase
ignores the status of a POST.
"""

from __future__ import annotations

from collections import deque
from io import BytesIO
from itertools import takewhile
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import getChildForRequest
from twisted.web.server import Request

from acebase_ipc.http.admission import Caller
from acebase_ipc.http.errors import RequestTooLarge
from acebase_ipc.http.responses import Refusals
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.limits import MIB, Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.router import Relay
from acebase_ipc.relay.store import MessageStore

STORE_TIMEOUT = 30.0
"""Seconds for which a POST is paused before it is refused: half the time after
which the messages that occupy the store expire."""

RECEIVING_SHARE = 4
"""Bodies being received may use one fourth of ``max_memory``: messages that wait for
peers that do not read must not keep others from sending."""

DISCARD = 64 * MIB
"""Bytes of a refused body that are read, so that the client sees the status:
most clients look at it only when they have sent everything."""


class BodyUpload(Protocol):
    """A request whose body can be paused.

    :ivar reserved: bytes of memory that are reserved for its body.
    :ivar wanted: bytes that it waits for.
    :ivar stores: whether its message may have to be stored for a download.
    """

    reserved: int
    wanted: int
    stores: bool

    def pause(self, timeout: IDelayedCall) -> None:
        """Stop reading until :meth:`resume`; *timeout* is active until then."""

    def resume(self) -> None:
        """Read on."""

    def fail(self, refusal: RequestRefused) -> None:
        """Answer with *refusal* and discard the body."""


@runtime_checkable
class UploadTarget(Protocol):
    """A resource that reads the body of a request."""

    def admit(self, request: Request) -> Caller:
        """Admit a request whose headers are complete.

        :raises RequestRefused: if it is refused.
        """


class UploadAdmission:
    """Reserves memory for bodies before they are received, in the order of the requests.

    A message of any legal size is accepted where nothing else is held.

    :ivar reserved: bytes that are reserved now.
    :ivar max_message: bytes that a body may have.
    """

    def __init__(
        self, relay: Relay, store: MessageStore, limits: Limits, reactor: IReactorTime
    ) -> None:
        self._relay = relay
        self._store = store
        self.max_message = limits.max_message
        self._max_stored = limits.max_stored
        self._max_reserved = limits.max_memory // RECEIVING_SHARE
        self._reactor = reactor
        self.reserved = 0
        self._reserved_to_store = 0
        self._waiting: deque[BodyUpload] = deque()

    def reserve(self, request: BodyUpload, sender: Peer, size: int) -> None:
        """Reserve *size* more bytes for *request*, or pause it until they are free."""
        request.wanted += size
        if not request.stores and self._may_store(sender, request.reserved + request.wanted):
            request.stores = True
            self._reserved_to_store += request.reserved
        if request in self._waiting:
            return
        if self._is_behind(request) or not self._fits(request.wanted, request.stores):
            self._waiting.append(request)
            request.pause(self._reactor.callLater(STORE_TIMEOUT, self._give_up, request))
        else:
            self._grant(request)

    def release(self, request: BodyUpload) -> None:
        """Release what is reserved for *request*: its body was relayed or discarded."""
        if request in self._waiting:
            self._waiting.remove(request)
        self._count(request, -request.reserved)
        request.wanted = 0
        self.retry()

    def retry(self) -> None:
        """Resume the paused requests for which there is room now."""
        for request in tuple(self._waiting):
            may_go = request in self._waiting and not self._is_behind(request)
            if may_go and self._fits(request.wanted, request.stores):
                self._waiting.remove(request)
                self._grant(request)
                request.resume()

    def _is_behind(self, request: BodyUpload) -> bool:
        """Whether earlier requests wait for the same; a body that is not stored does not
        wait for the store."""
        ahead = takewhile(lambda each: each is not request, self._waiting)
        return any(request.stores or not each.stores for each in ahead)

    def admit(self, request: IRequest, sender: Peer, size: int) -> None:
        """Accept a complete body whose request could not be paused, as in a foreign Site.

        :raises Overloaded: if there is no room for it.
        """
        is_reserved = getattr(request, "reserved", 0) > 0
        if not is_reserved and not self._fits(size, self._may_store(sender, size)):
            raise _overloaded()

    def _may_store(self, sender: Peer, size: int) -> bool:
        return size > self._relay.max_payload and self._relay.keeps_large_messages(sender)

    def _fits(self, size: int, stores: bool) -> bool:
        if self.reserved and self.reserved + size > self._max_reserved:
            return False
        stored = self._store.stored + self._reserved_to_store
        return not stores or stored == 0 or stored + size <= self._max_stored

    def _grant(self, request: BodyUpload) -> None:
        self._count(request, request.wanted)
        request.wanted = 0

    def _count(self, request: BodyUpload, size: int) -> None:
        request.reserved += size
        self.reserved += size
        if request.stores:
            self._reserved_to_store += size

    def _give_up(self, request: BodyUpload) -> None:
        self._waiting.remove(request)
        request.fail(_overloaded())
        request.resume()


def _overloaded() -> Overloaded:
    return Overloaded("Too many large messages wait: try again later")


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
    _timeout: IDelayedCall | None = None

    @property
    def _uploads(self) -> UploadAdmission:
        uploads: UploadAdmission = self.channel.site.context.uploads
        return uploads

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
        if length == 0:
            return
        self.prepath = []
        self.postpath = list(map(unquote_to_bytes, self.path[1:].split(b"/")))
        endpoint = getChildForRequest(self.channel.site.resource, self)
        if not isinstance(endpoint, UploadTarget):
            return  # no other endpoint reads a body
        try:
            caller = endpoint.admit(self)
            if length is not None and length > self._uploads.max_message:
                raise RequestTooLarge(self._uploads.max_message)
            self._sender = self.channel.site.context.admission.peer(caller)
        except RequestRefused as refusal:
            self.fail(refusal)
            return
        self.caller = caller
        if length is not None:
            self._uploads.reserve(self, self._sender, length)

    def handleContentChunk(self, data: bytes) -> None:
        """A piece of the body was received."""
        self._received += len(data)
        if self._discards:
            if self._received > DISCARD:
                self.channel.loseConnection()
        elif self._sender is not None:
            if self._received > self._uploads.max_message:
                self.fail(RequestTooLarge(self._uploads.max_message))
                return
            self.content.write(data)
            if self._length is None:  # of a chunked body only what has come is known
                missing = self._received - self.reserved - self.wanted
                self._uploads.reserve(self, self._sender, missing)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        self.channel.deadline = None
        self._complete = True
        if self._answered:
            super().finish()
        elif not self._discards and self._timeout is None:
            self._process()

    def _process(self) -> None:
        uploads = self._uploads
        self.content.seek(0)
        self.process()
        uploads.release(self)

    def finish(self) -> None:
        """End the response: at once, or when the rest of a refused body was read."""
        self._answered = True
        if self._complete:
            super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone; of a body that is not complete nothing is relayed."""
        self._stop_waiting()
        self._uploads.release(self)
        super().connectionLost(reason)

    # BodyUpload

    def fail(self, refusal: RequestRefused) -> None:
        """Answer with *refusal*, and discard what is still to come of the body."""
        self._discards = True
        self._uploads.release(self)
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"Expect")
        self.channel.persistent = False
        self.setHeader(b"Connection", b"close")
        refusals: Refusals = self.channel.site.context.refusals
        refusals.refuse(self, refusal)

    def pause(self, timeout: IDelayedCall) -> None:
        """Stop reading; the idle timeout of HTTP does not run meanwhile."""
        self._timeout = timeout
        self.channel.setTimeout(None)
        self.channel.deadline = None
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read on, or process a body that was completed meanwhile."""
        self._stop_waiting()
        if self.finished:
            return  # it was refused when all of it had come
        self.channel.setTimeout(self.channel.timeOut)
        self.channel.deadline = self.channel.site.request_deadline()
        self.transport.resumeProducing()
        if self._complete and not self._discards:
            self.channel.deadline = None
            self._process()

    def _stop_waiting(self) -> None:
        if self._timeout is not None:
            if self._timeout.active():
                self._timeout.cancel()
            self._timeout = None
