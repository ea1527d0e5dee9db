"""Messages that are posted: room for their bodies, and requests that stream them in.

Twisted reads a request body to its end before it asks a resource. Here a POST is
admitted as soon as its headers are complete: a client that may not send, or would
send too much, is refused at once, and the rest of the body is read and discarded.

Where memory is short, reading is paused rather than refused: the npm package acebase
ignores the status of a POST.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest
from twisted.web.resource import getChildForRequest
from twisted.web.server import Request

from acebase_ipc.http.admission import Caller
from acebase_ipc.http.errors import RequestTooLarge
from acebase_ipc.http.responses import Refusals
from acebase_ipc.http.rotation import Rotation
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import Observer, OversizedMessage
from acebase_ipc.relay.limits import KIB, MIB, Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.router import Relay
from acebase_ipc.relay.store import MessageStore

STORE_TIMEOUT: Final = 30.0
"""Seconds for which a POST is paused before it is refused: half the time after
which the messages that occupy the store expire."""

RECEIVING_SHARE: Final = 4
"""Bodies being received may use one fourth of ``max_memory``: messages that wait for
peers that do not read must not keep others from sending."""

DISCARD: Final = 64 * MIB
"""Bytes of a refused body that are read, so that the client sees the status:
most clients look at it only when they have sent everything."""


RESERVE_STEP: Final = 64 * KIB
"""Bytes that are reserved ahead for a chunked body, at most: not each chunk asks."""


class BodyUpload(Protocol):
    """A request whose body can be paused.

    :ivar reserved: bytes of memory that are reserved for its body.
    :ivar wanted: bytes that it waits for.
    :ivar stores: whether its message may have to be stored for a download.
    """

    reserved: int
    wanted: int
    stores: bool

    def pause(self) -> None:
        """Stop reading until :meth:`resume` or :meth:`expire`."""

    def resume(self) -> None:
        """Read on, soon: this must not call back."""

    def expire(self, refusal: RequestRefused) -> None:
        """Answer with *refusal* and discard the body, soon: this must not call back."""


@runtime_checkable
class UploadTarget(Protocol):
    """A resource that reads the body of a request."""

    def admit(self, request: Request) -> Caller:
        """Admit a request whose headers are complete.

        :raises RequestRefused: if it is refused.
        """


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a paused upload.

    :ivar number: counts up.
    :ivar deadline: when it is refused, in monotonic seconds.
    """

    number: int
    deadline: float


class UploadAdmission:
    """Reserves memory for bodies before they are received, in the order of the requests.

    A body that is not stored does not wait for room in the store. A message of any
    legal size is accepted where nothing else is held. Each call costs the same,
    however many uploads are paused; these are resumed later, and never by a call.

    :ivar reserved: bytes that are reserved now.
    :ivar max_message: bytes that a body may have.
    """

    def __init__(
        self,
        relay: Relay,
        store: MessageStore,
        limits: Limits,
        reactor: IReactorTime,
        clock: Callable[[], float],
    ) -> None:
        self._relay = relay
        self._store = store
        self.max_message = limits.max_message
        self._max_stored = limits.max_stored
        self._max_reserved = limits.max_memory // RECEIVING_SHARE
        self._reactor = reactor
        self._clock = clock
        self.reserved = 0
        self._reserved_to_store = 0
        self._to_relay: OrderedDict[BodyUpload, Place] = OrderedDict()
        self._to_store: OrderedDict[BodyUpload, Place] = OrderedDict()
        self._numbers = count()
        self._scheduled = False

    def reserve(self, upload: BodyUpload, size: int) -> None:
        """Reserve *size* more bytes for *upload*, or pause it until they are free."""
        upload.wanted += size
        if upload in self._to_relay or upload in self._to_store:
            return
        waits = bool(self._to_relay) or (upload.stores and bool(self._to_store))
        if waits or not self._fits(upload.wanted, upload.stores):
            self._enqueue(upload)
            upload.pause()
        else:
            self._grant(upload)

    def store(self, upload: BodyUpload) -> None:
        """From now on *upload* is one whose message may have to be stored."""
        if not upload.stores:
            upload.stores = True
            self._reserved_to_store += upload.reserved
            if self._to_relay.pop(upload, None) is not None:
                self._enqueue(upload)

    def may_store(self, sender: Peer, size: int) -> bool:
        """Whether a message of *size* bytes may have to be stored for a download."""
        return size > self._relay.max_payload and self._relay.keeps_large_messages(sender)

    def release(self, upload: BodyUpload) -> None:
        """Release what is reserved for *upload*: its body was relayed or discarded."""
        self._to_relay.pop(upload, None)
        self._to_store.pop(upload, None)
        self._count(upload, -upload.reserved)
        upload.wanted = 0
        self.retry()

    def retry(self) -> None:
        """Resume later, but in this turn, the paused uploads for which there is room."""
        if (self._to_relay or self._to_store) and not self._scheduled:
            self._scheduled = True
            self._reactor.callLater(0, self._resume)

    def expire(self, now: float) -> None:
        """Refuse the uploads that were paused too long; to be called about once a second."""
        for queue in (self._to_relay, self._to_store):
            while queue:
                upload, place = next(iter(queue.items()))
                if place.deadline > now:
                    break
                del queue[upload]
                upload.expire(_overloaded())
        self.retry()

    def admit(self, request: IRequest, sender: Peer, size: int) -> None:
        """Accept a complete body whose request could not be paused, as in a foreign Site.

        :raises Overloaded: if there is no room for it.
        """
        is_reserved = getattr(request, "reserved", 0) > 0
        if not is_reserved and not self._fits(size, self.may_store(sender, size)):
            raise _overloaded()

    def _enqueue(self, upload: BodyUpload) -> None:
        place = Place(next(self._numbers), self._clock() + STORE_TIMEOUT)
        (self._to_store if upload.stores else self._to_relay)[upload] = place

    def _resume(self) -> None:
        self._scheduled = False
        while (upload := self._next()) is not None:
            self._grant(upload)
            upload.resume()

    def _next(self) -> BodyUpload | None:
        """Take the first paused upload for which there is room."""
        first = next(iter(self._to_relay.items()), None)
        if first is not None and self._fits(first[0].wanted, stores=False):
            return self._to_relay.popitem(last=False)[0]
        stored = next(iter(self._to_store.items()), None)
        if stored is None or (first is not None and first[1].number < stored[1].number):
            return None
        if self._fits(stored[0].wanted, stores=True):
            return self._to_store.popitem(last=False)[0]
        return None

    def _fits(self, size: int, stores: bool) -> bool:
        if self.reserved and self.reserved + size > self._max_reserved:
            return False
        if not stores:
            return True
        self._store.make_room(self._max_stored - self._reserved_to_store - size)
        stored = self._store.stored + self._reserved_to_store
        return stored == 0 or stored + size <= self._max_stored

    def _grant(self, upload: BodyUpload) -> None:
        self._count(upload, upload.wanted)
        upload.wanted = 0

    def _count(self, upload: BodyUpload, size: int) -> None:
        upload.reserved += size
        self.reserved += size
        if upload.stores:
            self._reserved_to_store += size


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
    _paused = False
    _expired: RequestRefused | None = None

    @property
    def _uploads(self) -> UploadAdmission:
        uploads: UploadAdmission = self.channel.site.context.uploads
        return uploads

    @property
    def _rotation(self) -> Rotation:
        rotation: Rotation = self.channel.site.rotation
        return rotation

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
            self._check_surplus()
            if length != 0:
                self._admit(length)
        except RequestRefused as refusal:
            self._fail(refusal)

    def _check_surplus(self) -> None:
        if self.channel.surplus:
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
            observer.report(OversizedMessage(database, client_id, limit))
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
            self.content.write(data)
            if self._length is None and self._received > self.reserved + self.wanted:
                self._reserve_ahead(self._sender)

    def _reserve_ahead(self, sender: Peer) -> None:
        """Reserve what a chunked body needs, and as much again for what may follow."""
        if not self.stores and self._uploads.may_store(sender, self._received):
            self._uploads.store(self)
        missing = self._received - self.reserved - self.wanted
        self._uploads.reserve(self, max(missing, min(self._received, RESERVE_STEP)))

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body is complete."""
        self._complete = True
        if self._answered:
            super().finish()
        elif not self._discards and not self._paused:
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
        self._rotation.discard(self)
        self._uploads.release(self)
        super().connectionLost(reason)

    def _fail(self, refusal: RequestRefused) -> None:
        """Answer with *refusal*, and discard what is still to come of the body."""
        self._discards = True
        self._uploads.release(self)
        self.content = BytesIO()
        self.requestHeaders.removeHeader(b"Expect")
        self._close_when_answered()
        refusals: Refusals = self.channel.site.context.refusals
        refusals.refuse(self, refusal)

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
        elif self._complete:
            self._process()
        return False

    def abort(self) -> None:
        """End the connection at once."""
        self.channel.abort()
