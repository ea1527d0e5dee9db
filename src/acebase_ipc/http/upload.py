"""Room for the bodies of messages that are posted.

Where memory is short, reading is paused rather than refused: the npm package acebase
ignores the status of a POST.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.router import Router
from acebase_ipc.relay.store import MessageStore

STORE_TIMEOUT: Final = 30.0
"""Seconds for which a POST is paused before it is refused: half the time after
which the messages that occupy the store expire."""

RECEIVING_SHARE: Final = 4
"""Bodies being received may use one fourth of ``max_memory``: messages that wait for
peers that do not read must not keep others from sending."""


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
        router: Router,
        store: MessageStore,
        limits: Limits,
        reactor: IReactorTime,
        clock: Callable[[], float],
    ) -> None:
        self._router = router
        self._store = store
        self.apply(limits)
        self._reactor = reactor
        self._clock = clock
        self.reserved = 0
        self._reserved_to_store = 0
        self._to_relay: OrderedDict[BodyUpload, Place] = OrderedDict()
        self._to_store: OrderedDict[BodyUpload, Place] = OrderedDict()
        self._numbers = count()
        self._scheduled = False

    def apply(self, limits: Limits) -> None:
        """Use these *limits* from now on."""
        self.max_message = limits.max_message
        self._max_stored = limits.max_stored
        self._max_reserved = limits.max_memory // RECEIVING_SHARE

    def reserve(self, upload: BodyUpload, size: int, ahead: int = 0) -> None:
        """Reserve *size* more bytes for *upload*, or pause it until they are free.

        :param ahead: bytes that are reserved, too, if they are free now.
        """
        upload.wanted += size
        if upload in self._to_relay or upload in self._to_store:
            return
        waits = bool(self._to_relay) or (upload.stores and bool(self._to_store))
        if waits or not self._has_room(upload):
            self._enqueue(upload)
            upload.pause()
        else:
            self._grant(upload)
            if ahead and self._fits(ahead, upload.stores):
                self._count(upload, ahead)

    def store(self, upload: BodyUpload) -> None:
        """From now on *upload* is one whose message may have to be stored."""
        if not upload.stores:
            upload.stores = True
            self._reserved_to_store += upload.reserved
            if self._to_relay.pop(upload, None) is not None:
                self._enqueue(upload)

    def may_store(self, sender: Peer, size: int) -> bool:
        """Whether a message of *size* bytes may have to be stored for a download."""
        return size > self._router.max_payload and self._router.stores_large_messages(sender)

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
        if not getattr(request, "reserved", 0) > 0:
            self.check_room(size, self.may_store(sender, size))

    def check_room(self, size: int, stores: bool) -> None:
        """Check that a message of *size* bytes that is complete already may be relayed.

        :param stores: whether it may have to be stored for a download.
        :raises Overloaded: if there is no room for it.
        """
        if not self._fits(size, stores):
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
        if first is not None and self._has_room(first[0]):
            return self._to_relay.popitem(last=False)[0]
        stored = next(iter(self._to_store.items()), None)
        if stored is None or (first is not None and first[1].number < stored[1].number):
            return None
        if self._has_room(stored[0]):
            return self._to_store.popitem(last=False)[0]
        return None

    def _has_room(self, upload: BodyUpload) -> bool:
        return self._fits(upload.wanted, upload.stores, upload.reserved)

    def _fits(self, size: int, stores: bool, own: int = 0) -> bool:
        """Whether *size* more bytes fit, or nothing is held but the *own* of an upload."""
        if self.reserved > own and self.reserved + size > self._max_reserved:
            return False
        if not stores:
            return True
        self._store.make_room(self._max_stored - self._reserved_to_store - size)
        stored = self._store.stored + self._reserved_to_store
        return stored == own or stored + size <= self._max_stored

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
