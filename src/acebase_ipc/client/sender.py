"""What is sent, in order: over the WebSocket, or by POST if it is too large for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callouts
from acebase_ipc.client.errors import PingTimeout, RequestUnanswered
from acebase_ipc.client.outbox import Outbox, Outgoing

HOLD_AFTER_UNANSWERED = 10.0
"""Seconds that later messages wait after a POST whose connection broke when its body had
left: a relay or proxy that has the body in a buffer may still relay it."""


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
    :param ping: its Deferred fires when the relay has read what was sent, and fails with
        :class:`~acebase_ipc.client.errors.PingTimeout` or ``NotConnected``.
    :param wait: its Deferred fires after so many seconds.
    """

    def __init__(
        self,
        callouts: Callouts,
        max_queue: int,
        post: Callable[[bytes], Deferred[None]],
        ping: Callable[[], Deferred[None]],
        wait: Callable[[float], Deferred[None]],
    ) -> None:
        self._callouts = callouts
        self._outbox: Outbox[Deferred[None]] = Outbox(max_queue)
        self._post = post
        self._ping = ping
        self._wait = wait
        self._wire: Wire | None = None
        self._max_payload = 0
        self._step: Deferred[Any] | None = None  # what the next message waits for
        self._posting: Outgoing[Deferred[None]] | None = None
        self._held = False
        self._pumping = False
        self._unread = False  # whether the relay may not have read all that was sent

    def send(self, message: bytes) -> Deferred[None]:
        """Send *message* when it is its turn.

        :returns: a Deferred that fires when it was handed over, for a POST when the
            relay has relayed it. Cancelling it takes back what still waits.
        :raises QueueFull: if too much waits.
        """
        sent: Deferred[None] = Deferred(self._take_back)
        posting = len(self._posting.message) if self._posting else 0
        self._outbox.put(message, sent, posting + (self._wire.backlog if self._wire else 0))
        self.pump()
        return sent

    def _take_back(self, sent: Deferred[None]) -> None:
        self._outbox.discard(sent)

    def connect(self, wire: Wire, max_payload: int) -> None:
        """There is a connection; what is sent before :meth:`release` goes first."""
        self._wire = wire
        self._max_payload = max_payload
        self._unread = False
        self._held = True
        self._outbox.put_ahead(True)

    def release(self) -> None:
        """Hand over what waits."""
        self._outbox.put_ahead(False)
        self._held = False
        self.pump()

    def disconnect(self) -> None:
        """There is no connection any more; what waits goes on waiting."""
        self._wire = None

    def fail(self, error: Exception) -> None:
        """Give up all that waits, and the POST that is under way."""
        given_up = self._outbox.take_all()
        posting, self._posting = self._posting, None
        if posting is not None:
            given_up.insert(0, posting)
        step, self._step = self._step, None
        with self._callouts:
            if step is not None:
                step.cancel()
            self._callouts.settle_all((each.ticket for each in given_up), Failure(error))

    def pump(self) -> None:
        """Hand over what can be handed over now."""
        if self._pumping:
            return
        with self._callouts:  # whose calls send, too: the pump has to be done by then
            self._pumping = True
            try:
                while self._can_hand_over():
                    self._hand_over()
            finally:
                self._pumping = False

    def _can_hand_over(self) -> bool:
        idle = self._step is None and not self._held
        return idle and len(self._outbox) > 0 and self._wire is not None and self._wire.ready

    def _hand_over(self) -> None:
        assert self._wire is not None
        if self._outbox.peek().units <= self._max_payload:
            outgoing = self._outbox.take()
            self._unread = True
            self._wire.send(outgoing.message)
            self._callouts.settle(outgoing.ticket)
        elif self._unread:
            self._begin(self._ping(), self._pinged)
        else:
            self._posting = self._outbox.take()
            self._begin(self._post(self._posting.message), self._posted)

    def _begin(self, step: Deferred[Any], done: Callable[[Any], None]) -> None:
        """Let messages wait for *step*, and call *done* with its result."""
        self._step = step

        def ended(result: Any) -> None:
            if self._step is step:
                self._step = None
                with self._callouts:
                    done(result)
                    self.pump()

        step.addBoth(ended)

    def _pinged(self, result: object) -> None:
        late = isinstance(result, Failure) and result.check(PingTimeout)
        self._unread = bool(late)  # or the connection is lost, with all that was sent
        if late and len(self._outbox) and self._outbox.peek().units > self._max_payload:
            self._callouts.settle(self._outbox.take().ticket, result)

    def _posted(self, result: object) -> None:
        posting, self._posting = self._posting, None
        if posting is not None:
            self._callouts.settle(posting.ticket, result)
        if isinstance(result, Failure):
            error = result.value
            if isinstance(error, RequestUnanswered) and error.sent:
                self._begin(self._wait(HOLD_AFTER_UNANSWERED), lambda _: None)
