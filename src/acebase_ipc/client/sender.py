"""What is sent, in order: over the WebSocket, or by POST if it is too large for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from acebase_ipc.client.outbox import Outbox


class Wire(Protocol):
    """What messages are handed to."""

    @property
    def ready(self) -> bool:
        """Whether it takes messages: it is neither full nor closing."""

    @property
    def backlog(self) -> int:
        """Bytes that it has not sent yet."""

    def send(self, message: bytes) -> None:
        """Send a text message."""


class Sender:
    """Hands messages over, one after the other, while there is a connection.

    A message above *max_payload* is posted. As that is another path to the relay,
    the relay first has to tell, by a ``pong``, that it has read all before; and what
    comes after waits for the relay's answer.

    :param max_queue: bytes that may wait.
    :param post: sends a message by POST.
    :param ping: results when the relay has read what was sent.
    """

    def __init__(
        self,
        max_queue: int,
        post: Callable[[bytes], Deferred[None]],
        ping: Callable[[], Deferred[None]],
    ) -> None:
        self._outbox: Outbox[Deferred[None]] = Outbox(max_queue)
        self._post = post
        self._ping = ping
        self._wire: Wire | None = None
        self._max_payload = 0
        self._posting: tuple[Deferred[None], Deferred[None]] | None = None
        self._posting_bytes = 0
        self._pinging = False
        self._held = False
        self._unread = False  # whether the relay may not have read all that was sent

    def send(self, message: bytes) -> Deferred[None]:
        """Send *message* when it is its turn.

        :returns: a Deferred that fires when it was handed over, for a POST when the
            relay has relayed it. Cancelling it takes back what still waits.
        :raises QueueFull: if too much waits.
        """
        sent: Deferred[None] = Deferred(self._take_back)
        elsewhere = self._posting_bytes + (self._wire.backlog if self._wire else 0)
        self._outbox.put(message, sent, elsewhere)
        self.go_on()
        return sent

    def _take_back(self, sent: Deferred[None]) -> None:
        self._outbox.discard(sent)

    def connected(self, wire: Wire, max_payload: int, first: Callable[[], None]) -> None:
        """There is a connection; what *first* sends goes before what has waited."""
        self._wire = wire
        self._max_payload = max_payload
        self._unread = False
        self._held = True
        self._outbox.put_ahead(True)
        try:
            first()
        finally:
            self._outbox.put_ahead(False)
            self._held = False
        self.go_on()

    def disconnected(self) -> None:
        """There is no connection any more; what waits goes on waiting."""
        self._wire = None

    def fail(self, error: Exception) -> None:
        """Give up all that waits, and the POST that is under way."""
        while self._outbox:
            self._outbox.take().ticket.errback(Failure(error))
        if self._posting is not None:
            posting, ticket = self._posting
            if not ticket.called:
                ticket.errback(Failure(error))
            posting.cancel()

    def go_on(self) -> None:
        """Hand over what can be."""
        while (
            self._outbox
            and self._wire is not None
            and self._wire.ready
            and not self._held
            and self._posting is None
            and not self._pinging
        ):
            if self._outbox.peek().units <= self._max_payload:
                outgoing = self._outbox.take()
                self._unread = True
                self._wire.send(outgoing.message)
                outgoing.ticket.callback(None)
            elif self._unread:
                self._pinging = True
                self._ping().addBoth(self._pinged)
            else:
                self._begin_post()

    def _pinged(self, _: object) -> None:
        self._pinging = False
        self._unread = False  # or the connection is lost, with all that was sent
        self.go_on()

    def _begin_post(self) -> None:
        outgoing = self._outbox.take()
        self._posting_bytes = len(outgoing.message)
        posting = self._post(outgoing.message)
        self._posting = posting, outgoing.ticket
        posting.addBoth(self._posted, outgoing.ticket)

    def _posted(self, result: Failure | None, ticket: Deferred[None]) -> None:
        self._posting = None
        self._posting_bytes = 0
        if not ticket.called:
            ticket.callback(result)
        self.go_on()
