"""Room for large messages that are still coming in.

While the mailbox has no room for a message, reading it is paused rather than
refused: published clients do not look at the status of a POST.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.web.iweb import IRequest

from acebase_ipc.errors import Overloaded, RequestRefused
from acebase_ipc.peers import Peer
from acebase_ipc.relay import Relay

STORE_TIMEOUT = 30.0
"""Seconds for which a POST is paused before it is refused: half the time after
which the messages that occupy the mailbox expire."""


class Pausable(Protocol):
    """A request whose body can be made to wait.

    :ivar reserved: bytes of the mailbox that are kept free for its body.
    :ivar wanted: bytes that it waits for.
    """

    reserved: int
    wanted: int

    def pause(self, timeout: IDelayedCall) -> None:
        """Stop reading until :meth:`resume`; *timeout* is active until then."""

    def resume(self) -> None:
        """Read on."""

    def refuse(self, refusal: RequestRefused) -> None:
        """Answer with *refusal* and discard the body."""


class Intake:
    """Reserves room in the mailbox. Who asks first is served first.

    A message of any legal size is let into an empty mailbox.
    """

    def __init__(self, relay: Relay, max_stored: int, reactor: IReactorTime) -> None:
        self._relay = relay
        self._max_stored = max_stored
        self._reactor = reactor
        self._reserved = 0
        self._waiting: deque[Pausable] = deque()

    def needs_room(self, sender: Peer, size: int) -> bool:
        """Whether a body of *size* bytes may have to be stored."""
        return size > self._relay.max_payload and self._relay.keeps_large_messages(sender)

    def reserve(self, request: Pausable, size: int) -> None:
        """Reserve *size* more bytes for *request*, or pause it until they are free."""
        request.wanted += size
        if request in self._waiting:
            return
        if self._waiting or not self._fits(request.wanted):
            self._waiting.append(request)
            request.pause(self._reactor.callLater(STORE_TIMEOUT, self._give_up, request))
        else:
            self._grant(request)

    def release(self, request: Pausable) -> None:
        """*request* is done: its body is stored by now, or given up."""
        if request in self._waiting:
            self._waiting.remove(request)
        self._reserved -= request.reserved
        request.reserved = request.wanted = 0
        self.retry()

    def retry(self) -> None:
        """Let those read on for whom there is room now."""
        while self._waiting and self._fits(self._waiting[0].wanted):
            request = self._waiting.popleft()
            self._grant(request)
            request.resume()

    def admit(self, request: IRequest, sender: Peer, size: int) -> None:
        """Let a complete body in, whether or not its request could be paused.

        :raises Overloaded: if it has no reservation and there is no room.
        """
        if (
            not getattr(request, "reserved", 0)
            and self.needs_room(sender, size)
            and not self._fits(size)
        ):
            raise _overloaded()

    def _fits(self, size: int) -> bool:
        used = self._relay.mailbox.stored + self._reserved
        return used == 0 or used + size <= self._max_stored

    def _grant(self, request: Pausable) -> None:
        self._reserved += request.wanted
        request.reserved += request.wanted
        request.wanted = 0

    def _give_up(self, request: Pausable) -> None:
        self._waiting.remove(request)
        request.refuse(_overloaded())
        request.resume()
        self.retry()


def _overloaded() -> Overloaded:
    return Overloaded("Too many large messages wait: try again later")
