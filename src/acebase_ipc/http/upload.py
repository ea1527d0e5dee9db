"""Room for large messages that are coming in by POST.

Where memory is short, reading is paused rather than refused: published clients
do not look at the status of a POST.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.iweb import IRequest

from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.relay import Relay

STORE_TIMEOUT = 30.0
"""Seconds for which a POST is paused before it is refused: half the time after
which the messages that occupy the mailbox expire."""

RECEIVING_SHARE = 4
"""Bodies that are coming in may use one fourth of ``max_memory``: what waits for
peers that do not read must not keep others from sending."""


class BodyUpload(Protocol):
    """A request whose body can be made to wait.

    :ivar reserved: bytes of memory that are kept free for its body.
    :ivar wanted: bytes that it waits for.
    :ivar stores: whether its message may have to be kept for a download.
    """

    reserved: int
    wanted: int
    stores: bool

    def pause(self, timeout: IDelayedCall) -> None:
        """Stop reading until :meth:`resume`; *timeout* is active until then."""

    def resume(self) -> None:
        """Read on."""

    def refuse(self, refusal: RequestRefused) -> None:
        """Answer with *refusal* and discard the body."""


class UploadAdmission:
    """Reserves memory for bodies before they come. Who asks first is served first.

    A message of any legal size is let in where there is nothing else.

    :ivar reserved: bytes that are reserved now.
    """

    def __init__(self, relay: Relay, limits: Limits, reactor: IReactorTime) -> None:
        self._relay = relay
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
        """*request* is done: its body is relayed by now, or given up."""
        if request in self._waiting:
            self._waiting.remove(request)
        self._count(request, -request.reserved)
        request.wanted = 0
        self.retry()

    def retry(self) -> None:
        """Let those read on for whom there is room now."""
        for request in tuple(self._waiting):
            may_go = request in self._waiting and not self._is_behind(request)
            if may_go and self._fits(request.wanted, request.stores):
                self._waiting.remove(request)
                self._grant(request)
                request.resume()

    def _is_behind(self, request: BodyUpload) -> bool:
        """Whether others ask for the same and were first: what is not to be stored
        does not wait for the mailbox."""
        ahead = takewhile(lambda each: each is not request, self._waiting)
        return any(request.stores or not each.stores for each in ahead)

    def admit(self, request: IRequest, sender: Peer, size: int) -> None:
        """Let a complete body in whose request could not be paused, as in a foreign Site.

        :raises Overloaded: if there is no room for it.
        """
        is_reserved = getattr(request, "reserved", 0) > 0
        if not is_reserved and not self._fits(size, self._may_store(sender, size)):
            raise _overloaded()

    def _may_store(self, sender: Peer, size: int) -> bool:
        return size > self._relay.router.max_payload and self._relay.router.stores_large_messages(
            sender
        )

    def _fits(self, size: int, stores: bool) -> bool:
        if self.reserved and self.reserved + size > self._max_reserved:
            return False
        stored = self._relay.store.stored + self._reserved_to_store
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
        request.refuse(_overloaded())
        request.resume()


def _overloaded() -> Overloaded:
    return Overloaded("Too many large messages wait: try again later")
