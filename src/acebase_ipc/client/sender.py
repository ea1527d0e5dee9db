"""What is sent, in order: over the WebSocket, or by POST if it is too large for that.

In a resumable session each message has a number, and is kept until the relay has acknowledged it.
After a reconnect, what is kept is sent again; the relay drops what it has relayed before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callouts
from acebase_ipc.client.errors import (
    PingTimeout,
    RequestDenied,
    RequestUnanswered,
    Unconfirmed,
)
from acebase_ipc.client.outbox import MAX_MESSAGES, Outbox
from acebase_ipc.protocol.numbers import SKIP, SentNumbers, numbered

HOLD_AFTER_UNANSWERED: Final = 10.0
"""Seconds that later messages wait after a POST whose connection broke when its body had
left: a relay or proxy that has the body in a buffer may still relay it. In a resumable session they
need not wait, because the relay would drop it."""

REPEAT_AFTER: Final = (1.0, 4.0)
"""Seconds after which a POST that was not answered is repeated, in a resumable session."""

_CONFLICT: Final = 409
"""The status for a message before which others are missing: they are on their way."""


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


@dataclass(slots=True, eq=False)
class _Sending:
    """A message that is being sent.

    :ivar units: its length in UTF-16 code units.
    :ivar ticket: what its user holds; ``None`` if that has fired.
    :ivar is_confirmed: whether that fires only when the message is known to be relayed.
    :ivar number: its number in the session; 0 without one.
    :ivar attempts: how often it was posted without an answer.
    """

    message: bytes
    units: int
    ticket: Deferred[None] | None
    is_confirmed: bool
    number: int = 0
    attempts: int = 0


class Sender:
    """Hands messages over, one after the other, while there is a connection.

    A message above *max_payload* is posted. As that is another path to the relay,
    the relay first has to tell, by a ``pong``, that it has read all before; and what
    comes after waits for the relay's answer.

    :param max_queue: bytes that may wait; also, that may be unacknowledged.
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
        self._max_kept = max_queue
        self._outbox: Outbox[Deferred[None]] = Outbox(max_queue)
        self._post = post
        self._ping = ping
        self._wait = wait
        self._wire: Wire | None = None
        self._max_payload = 0
        self._numbers: SentNumbers | None = None  # in a session
        self._kept: deque[_Sending] = deque()  # not acknowledged, in order
        self._kept_bytes = 0
        self._again: deque[_Sending] = deque()  # of these, those to send again
        self._handed_over = 0  # the number of the last one on this connection
        self._to_confirm: list[_Sending] = []  # since the last ping
        self._step: Deferred[Any] | None = None  # what the next message waits for
        self._posting: _Sending | None = None
        self._held = False
        self._pumping = False
        self._unread = False  # whether the relay may not have read all that was sent

    def send(self, message: bytes, confirm: bool = False) -> Deferred[None]:
        """Send *message* when it is its turn.

        :param confirm: fire when the relay has relayed it.
        :returns: a Deferred that fires when it was handed over, for a POST when the
            relay has relayed it. Cancelling it takes back what still waits.
        :raises QueueFull: if too much waits.
        """
        sent: Deferred[None] = Deferred(self._take_back)
        posting = len(self._posting.message) if self._posting else 0
        elsewhere = posting + (self._wire.backlog if self._wire else 0)
        self._outbox.put(message, sent, elsewhere, confirm)
        self.pump()
        return sent

    def _take_back(self, sent: Deferred[None]) -> None:
        self._outbox.discard(sent)

    def connect(self, wire: Wire, max_payload: int) -> None:
        """There is a connection; what is sent before :meth:`release` goes first."""
        self._wire = wire
        self._max_payload = max_payload
        self._unread = False
        self._handed_over = 0
        self._held = True
        self._outbox.put_ahead(True)

    def begin(self, is_session: bool) -> int:
        """Begin a new session, or none: what was not acknowledged is not sent again.

        To be called after :meth:`connect`.

        :returns: how many messages may or may not have been relayed.
        """
        unconfirmed = len(self._kept)
        with self._callouts:
            self._drop_kept(Unconfirmed())
            self._numbers = SentNumbers() if is_session else None
        return unconfirmed

    def resume(self, received: int) -> None:
        """Send again what the relay has not received, after :meth:`connect`.

        :param received: the number of the last message that the relay has received.
        :raises InvalidNumber: if no message of that number was sent.
        """
        self._stop_posting()
        self.acknowledge(received)
        self._again = self._kept.copy()

    def acknowledge(self, number: int) -> None:
        """Note that all messages up to *number* are relayed.

        :raises InvalidNumber: if no message of that number was sent.
        """
        if self._numbers is None:
            return
        with self._callouts:
            for _ in range(self._numbers.acknowledge(number)):
                sending = self._kept.popleft()
                self._kept_bytes -= len(sending.message)
                self._settle(sending)
            while self._again and self._again[0].number <= number:
                self._again.popleft()
            self.pump()

    def release(self) -> None:
        """Hand over what waits."""
        self._outbox.put_ahead(False)
        self._held = False
        self.pump()

    def disconnect(self) -> None:
        """There is no connection any more; what waits goes on waiting."""
        self._wire = None

    def fail(self, error: Exception) -> None:
        """Give up all that waits or is not acknowledged, and the POST that is under way."""
        with self._callouts:
            posting = self._stop_posting()
            if posting is not None:
                self._settle(posting, Failure(error))
            self._drop_kept(error)
            given_up = self._outbox.take_all()
            self._callouts.settle_all((each.ticket for each in given_up), Failure(error))

    def _drop_kept(self, error: Exception) -> None:
        if self._numbers is not None:
            self._stop_posting()  # it is one of these
            self._numbers = None
        kept, self._kept = self._kept, deque()
        self._kept_bytes = 0
        self._again.clear()
        for each in kept:
            self._settle(each, Failure(error))

    def _stop_posting(self) -> _Sending | None:
        """Wait no longer for the answer to a POST, or for what else comes before a message."""
        posting, self._posting = self._posting, None
        step, self._step = self._step, None
        if step is not None:
            step.cancel()
        return posting

    def _settle(self, sending: _Sending, outcome: object = None) -> None:
        ticket, sending.ticket = sending.ticket, None
        if ticket is not None:
            self._callouts.settle(ticket, outcome)

    def pump(self) -> None:
        """Hand over what can be handed over now."""
        if self._pumping:
            return
        with self._callouts:  # whose calls send, too: the pump has to be done by then
            self._pumping = True
            try:
                while self._can_hand_over():
                    self._hand_over()
                self._ask_to_confirm()
            finally:
                self._pumping = False

    def _can_hand_over(self) -> bool:
        idle = self._step is None and not self._held
        if not idle or self._wire is None or not self._wire.ready:
            return False
        if self._again:
            return True
        has_room = self._kept_bytes <= self._max_kept and len(self._kept) < MAX_MESSAGES
        return has_room and len(self._outbox) > 0

    def _hand_over(self) -> None:
        assert self._wire is not None
        if self._next_units() <= self._max_payload:
            sending = self._next()
            self._unread = True
            self._handed_over = sending.number
            self._wire.send(sending.message)
            if not sending.is_confirmed:
                self._settle(sending)
            elif sending.ticket is not None:
                self._to_confirm.append(sending)
        elif self._unread:
            self._begin(self._ping(), self._pinged)
        else:
            self._posting = self._next()
            self._begin(self._post(self._posting.message), self._posted)

    def _next_units(self) -> int:
        if self._again:
            return self._again[0].units
        units = self._outbox.peek().units
        if self._numbers is not None:
            units += len(numbered(self._numbers.highest + 1, b""))
        return units

    def _next(self) -> _Sending:
        """Take the next message, and keep it if it has a number."""
        if self._again:
            return self._again.popleft()
        outgoing = self._outbox.take()
        sending = _Sending(outgoing.message, outgoing.units, outgoing.ticket, outgoing.confirm)
        if self._numbers is not None:
            sending.number = number = self._numbers.take()
            sending.message = numbered(number, outgoing.message)
            sending.units += len(sending.message) - len(outgoing.message)
            self._kept.append(sending)
            self._kept_bytes += len(sending.message)
        return sending

    def _ask_to_confirm(self) -> None:
        """Find out when the relay has read those that were handed over and are to be confirmed."""
        if not self._to_confirm:
            return
        asked, self._to_confirm = self._to_confirm, []
        in_session, number = self._numbers, self._handed_over

        def answered(result: object) -> None:
            with self._callouts:
                if in_session is not None:
                    if not isinstance(result, Failure) and in_session is self._numbers:
                        self.acknowledge(number)
                    return  # else it is acknowledged later
                outcome = Failure(Unconfirmed()) if isinstance(result, Failure) else None
                for each in asked:
                    self._settle(each, outcome)

        self._ping().addBoth(answered)

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
        if not isinstance(result, Failure):
            self.acknowledge(self._handed_over)
        elif (
            late
            and not self._again
            and len(self._outbox)
            and self._next_units() > self._max_payload
        ):
            self._callouts.settle(self._outbox.take().ticket, result)

    def _posted(self, result: object) -> None:
        posting, self._posting = self._posting, None
        if posting is None:
            return
        error = result.value if isinstance(result, Failure) else None
        if self._numbers is not None:
            self._posted_in_session(posting, error)
            return
        self._settle(posting, result)
        if isinstance(error, RequestUnanswered) and error.sent:
            self._begin(self._wait(HOLD_AFTER_UNANSWERED), lambda _: None)

    def _posted_in_session(self, posting: _Sending, error: BaseException | None) -> None:
        if error is None:
            self.acknowledge(posting.number)
            return
        self._again.appendleft(posting)
        is_unanswered = isinstance(error, RequestUnanswered) or (
            isinstance(error, RequestDenied) and error.status == _CONFLICT
        )
        if is_unanswered and posting.attempts < len(REPEAT_AFTER):
            self._begin(self._wait(REPEAT_AFTER[posting.attempts]), lambda _: None)
            posting.attempts += 1
            return
        # A proxy may have answered in place of the relay: the number must not be used again.
        self._kept_bytes -= len(posting.message)
        posting.message = SKIP + b"%d" % posting.number
        posting.units = len(posting.message)
        self._kept_bytes += posting.units
        self._settle(posting, Failure(error))
