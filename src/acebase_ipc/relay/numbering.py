"""The numbers of one resumable session, and the messages that wait to be acknowledged."""

from __future__ import annotations

from dataclasses import dataclass

from acebase_ipc.protocol.messages import PONG, Message
from acebase_ipc.protocol.numbers import ReceivedNumbers, SentNumbers, numbered
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.queue import MessageQueue


@dataclass(slots=True)
class Window:
    """How much the peers may leave unacknowledged.

    :ivar size: bytes of memory for each peer.
    """

    size: int


class Numbering:
    """The numbers of a resumable session, and the messages that its peer has not acknowledged.

    :ivar session: the name of the session, which cannot be guessed.
    :ivar sent: the numbers of the messages to the peer.
    :ivar received: those of the messages from it.
    :ivar kept: the messages that were sent on the present connection and are not acknowledged.
    """

    __slots__ = ("_window", "kept", "received", "sent", "session")

    def __init__(
        self,
        session: str,
        window: Window,
        budget: MemoryBudget,
        sent: SentNumbers | None = None,
        received: int = 0,
    ) -> None:
        self.session = session
        self.sent = sent or SentNumbers()
        self.received = ReceivedNumbers(received)
        self.kept = MessageQueue(budget)
        self._window = window

    @property
    def is_full(self) -> bool:
        """Whether the peer has to acknowledge before it is sent more."""
        return self.kept.memory > self._window.size

    def number(self, message: Message) -> bytes:
        """Keep *message*, and return it with its number."""
        self.kept.append(message)
        return numbered(self.sent.take(), message.text)

    def acknowledge(self, number: int) -> None:
        """Drop the messages up to *number*.

        :raises InvalidNumber: if no message of that number was sent.
        """
        self.kept.drop(self.sent.acknowledge(number))

    def take_back(self) -> list[Message]:
        """Return the kept messages, which are to be sent again on another connection."""
        self.sent.kept = 0
        return self.kept.take(self.kept.memory)

    def resume(self, last: int, queue: MessageQueue) -> None:
        """Drop from *queue*, to which all was taken back, what its peer does not need any more.

        :param last: the number of the last message that the peer has received.
        """
        queue.drop(self.sent.resume(last))
        queue.discard_if(lambda message, _: message.text == PONG)
