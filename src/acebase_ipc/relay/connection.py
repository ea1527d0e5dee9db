"""The interface of a peer's connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from acebase_ipc.protocol.messages import Message


def send_one_by_one(message: Message, connections: Sequence[Sender], but: Sender | None) -> None:
    """Send *message* to each of these *connections* but one."""
    for each in connections:
        if each is not but:
            each.send(message)


class Sender(Protocol):
    """What a message can be sent to."""

    def send(self, message: Message) -> None:
        """Send *message*."""


class Connection(Protocol):
    """A peer's WebSocket. None of its methods raises or calls the relay back.

    A connection tells the relay when it has room again (``Delivery.drain``), and when
    it is lost (``Sessions.lost``).
    """

    @property
    def is_full(self) -> bool:
        """Whether it accepts no more messages for now."""

    @property
    def address(self) -> str:
        """The address of the other end, for the log."""

    @property
    def silence(self) -> float:
        """Seconds since anything was received."""

    @property
    def lag(self) -> float | None:
        """Seconds that the other end's process takes to answer a ping; ``None``: not known."""

    @property
    def unsent(self) -> int:
        """Bytes that were sent here and that the system has not accepted yet."""

    @property
    def memory(self) -> int:
        """All bytes that it holds: unsent ones, and those of a message received in part."""

    def send(self, message: Message) -> None:
        """Send *message* after all earlier ones, at the end of this turn at the latest."""

    def send_text(self, text: bytes) -> None:
        """Send a message with this *text*, as :meth:`send` does, for this peer alone."""

    def send_texts(self, texts: Sequence[bytes]) -> None:
        """Send a message with each of these *texts*, as :meth:`send_text` does."""

    def send_each(
        self, message: Message, connections: Sequence[Connection], but: Connection | None
    ) -> None:
        """Send *message* to each of these *connections*, of which this is one.

        The next message takes less time if it has the same sequence, to which others may be added.

        :param but: one that is not sent it.
        """

    def reclaim(self) -> list[Message]:
        """Return the last messages, which were not yet handed to the transport."""

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Check whether the other end answers a ping within *timeout* seconds.

        *answer* is called once, later, with whether the other end has answered.
        """

    def close(self, code: int, reason: str) -> None:
        """Write what was sent, then close the WebSocket with *code* and *reason*."""

    def suspend(self, code: int, reason: str) -> None:
        """As :meth:`close`, but go on to receive until the other end has closed, too.

        From now on it is full.
        """

    def abort(self) -> None:
        """End the connection at once; what was not yet written is lost."""
