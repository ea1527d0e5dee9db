"""Counts all memory that the relay holds for its peers, in one budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.limits import KIB

MESSAGE_OVERHEAD: Final = 112
"""Bytes that a message occupies beside its text, measured with CPython 3.11: the
:class:`~acebase_ipc.protocol.messages.Message` and the header of its text."""

ENTRY_OVERHEAD: Final = 72
"""Bytes that one place in a queue occupies: a tuple and its reference."""

_SMALLEST_STEP: Final = 64 * KIB
"""The total may grow by at least this many bytes before the limit is checked again."""

_STEPS: Final = 256
"""The limit is checked each time the total has grown by this fraction of it: a 256th."""


class MemoryBudget:
    """Counts the bytes that the relay holds, and tells when they exceed ``max_memory``.

    A message that waits in several queues is counted once, but each of its entries is
    counted. The other holders (transport buffers, messages received in part, uploads,
    stored messages) are asked how many bytes they hold when the limit is checked.

    :ivar limit: bytes that may be held in total.
    :ivar in_queues: bytes of the messages that wait in queues.
    :ivar growth: by how many bytes the total has grown since the limit was checked last.
    :ivar step: by how many bytes it may grow before the limit is to be checked.
    """

    def __init__(self, limit: int) -> None:
        self.in_queues = 0
        self.growth = 0
        self.set_limit(limit)
        self._holders: list[tuple[str, Callable[[], int]]] = []
        self._spare: list[Callable[[], object]] = []

    def set_limit(self, limit: int) -> None:
        """Hold at most *limit* bytes from the next check on."""
        self.limit = limit
        self.step = max(_SMALLEST_STEP, limit // _STEPS)

    def register(self, part: str, holder: Callable[[], int]) -> None:
        """Add *holder*, which returns the number of bytes that it holds now.

        :param part: what it is called in :meth:`parts`.
        """
        self._holders.append((part, holder))

    def register_spare(self, give_up: Callable[[], object]) -> None:
        """Call *give_up* first when the limit is exceeded: it frees what nobody has to have."""
        self._spare.append(give_up)

    def queued(self, message: Message) -> None:
        """Count *message*, which was added to a queue."""
        taken = ENTRY_OVERHEAD
        if not message.waiting:
            taken += message.size + MESSAGE_OVERHEAD
        message.waiting += 1
        self.in_queues += taken
        self.growth += taken

    def unqueued(self, message: Message) -> None:
        """Count *message* no longer in a queue from which it was removed."""
        message.waiting -= 1
        self.in_queues -= ENTRY_OVERHEAD
        if not message.waiting:
            self.in_queues -= message.size + MESSAGE_OVERHEAD

    @property
    def used(self) -> int:
        """The bytes that are held in total now."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Return the bytes that each part holds now: ``queues``, and those that registered."""
        parts = Counter(queues=self.in_queues)
        for part, holder in self._holders:
            parts[part] += holder()
        return parts

    @property
    def is_exceeded(self) -> bool:
        """Whether the total exceeds the limit."""
        return self.used > self.limit

    @property
    def is_due(self) -> bool:
        """Whether the total has grown so much since the last check that another one is due."""
        return self.growth >= self.step

    def check(self) -> bool:
        """Check the limit; returns whether it is exceeded."""
        self.growth = 0
        if self.is_exceeded:
            for give_up in self._spare:
                give_up()
        return self.is_exceeded
