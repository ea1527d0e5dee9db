"""Messages that wait for one peer, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.memory import ENTRY_OVERHEAD, MESSAGE_OVERHEAD, MemoryBudget

Entry = tuple[Message, object]
_NOTHING: Final[deque[Entry]] = deque(maxlen=0)
"""The entries of all empty queues: a deque of its own would take 0.6 KB of each idle peer."""


class MessageQueue:
    """The queue of one peer: messages that it has to receive before any later one.

    A message waits here while the peer's connection is full, or while the peer has
    none. An addressed message is kept together with its sender.

    :ivar memory: bytes that the messages use, as if no other queue shared them.
    :ivar swept_to: the value of :attr:`memory` after messages were last discarded because
        the queue was full; 0 if messages were taken since then.
    """

    __slots__ = ("_budget", "_entries", "memory", "swept_to")

    def __init__(self, budget: MemoryBudget) -> None:
        """:param budget: counts the messages; one in several queues counts once there."""
        self._budget = budget
        self._entries = _NOTHING
        self.memory = 0
        self.swept_to = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Message]:
        """The messages, in order."""
        return (message for message, _ in self._entries)

    def fits(self, limit: int, more: int = 0) -> bool:
        """Return whether the messages, and another one of *more* bytes, use at most *limit* bytes.

        A single message always fits.
        """
        if not more:
            return len(self._entries) <= 1 or self.memory <= limit
        return not self._entries or self.memory + memory_of(more) <= limit

    def append(self, message: Message, sender: object = None) -> None:
        """Add *message*; *sender* is the peer that addressed it."""
        self._add(message)
        self._open().append((message, sender))

    def prepend(self, messages: list[Message]) -> None:
        """Add *messages* before all others; their senders are not known."""
        for message in messages:
            self._add(message)
        if messages:
            self._open().extendleft((message, None) for message in reversed(messages))

    def take(self, enough: int) -> list[Message]:
        """Remove and return the first messages, until their texts have *enough* bytes."""
        messages = []
        taken = 0
        while self._entries and taken < enough:
            message, _ = self._entries.popleft()
            self._remove(message)
            messages.append(message)
            taken += message.size
        self.swept_to = 0
        return messages

    def drop(self, count: int) -> None:
        """Remove the first *count* messages."""
        for _ in range(count):
            message, _ = self._entries.popleft()
            self._remove(message)
        self.swept_to = 0

    def discard_if(self, unwanted: Callable[[Message, object], bool]) -> int:
        """Drop the messages that are *unwanted*, each with its sender.

        The sender of a broadcast is ``None``.

        :returns: how many were dropped.
        """
        kept: deque[Entry] = deque()
        dropped = []
        for message, sender in self._entries:
            if unwanted(message, sender):
                dropped.append(message)
            else:
                kept.append((message, sender))
        if dropped:
            self._entries = kept or _NOTHING
            for message in dropped:
                self._remove(message)
        return len(dropped)

    def take_if(self, wanted: Callable[[Message], bool]) -> MessageQueue:
        """Move the *wanted* messages to a new queue, and return that."""
        taken = MessageQueue(self._budget)
        for message, sender in self._entries:
            if wanted(message):
                taken.append(message, sender)
        if taken:
            self.discard_if(lambda message, sender: wanted(message))
        return taken

    def change_each(self, change: Callable[[bytes], bytes]) -> None:
        """Replace the text of each message by the result of *change*."""
        entries, self._entries = self._entries, _NOTHING
        for message, sender in entries:
            self._remove(message)
            self.append(Message(change(message.text)), sender)

    def entries(self) -> Iterator[Entry]:
        """Yield the messages, each with the peer that has addressed it."""
        yield from self._entries

    def take_all(self) -> MessageQueue:
        """Move all messages to a new queue, and return that."""
        taken = MessageQueue(self._budget)
        self.move_to(taken)
        return taken

    def move_to(self, other: MessageQueue) -> None:
        """Append all messages to *other*, with their senders."""
        if self._entries:
            other._open().extend(self._entries)
            other.memory += self.memory
            self._entries = _NOTHING
            self.memory = 0
        self.swept_to = 0

    def clear(self) -> int:
        """Drop all messages, and return how many there were."""
        entries, self._entries = self._entries, _NOTHING
        for message, _ in entries:
            self._remove(message)
        self.swept_to = 0
        return len(entries)

    def _open(self) -> deque[Entry]:
        """Return the entries, as a deque that can be added to."""
        if self._entries is _NOTHING:
            self._entries = deque()
        return self._entries

    def _add(self, message: Message) -> None:
        self.memory += memory_of(message.size)
        self._budget.queued(message)

    def _remove(self, message: Message) -> None:
        self.memory -= memory_of(message.size)
        self._budget.unqueued(message)


def memory_of(size: int) -> int:
    """Return the bytes of memory that a message of *size* bytes uses in a queue."""
    return size + MESSAGE_OVERHEAD + ENTRY_OVERHEAD
