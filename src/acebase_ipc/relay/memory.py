"""The one memory budget: everything that holds bytes for peers is registered here."""

from __future__ import annotations

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
"""Bytes by which all together may grow before the limit is checked again, at least."""

_STEPS: Final = 256
"""Checks between nothing and the limit: it is exceeded by a 256th at most."""


class MemoryBudget:
    """Counts the bytes that the relay holds, and tells when they exceed ``max_memory``.

    A message that waits in several queues is counted once, each place in a queue by
    itself. What others hold (transport buffers, half-received messages, uploads, stored
    messages) is asked of them when it matters.

    :ivar limit: bytes that all together may hold.
    :ivar in_queues: bytes of the messages that wait in queues.
    :ivar growth: bytes that were taken since the limit was checked last.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_queues = 0
        self.growth = 0
        self._step = max(_SMALLEST_STEP, limit // _STEPS)
        self._holders: list[Callable[[], int]] = []

    def register(self, holder: Callable[[], int]) -> None:
        """Count what *holder* returns: the bytes it holds now."""
        self._holders.append(holder)

    def queued(self, message: Message) -> None:
        """A queue has taken *message*."""
        taken = ENTRY_OVERHEAD
        if not message.waiting:
            taken += message.size + MESSAGE_OVERHEAD
        message.waiting += 1
        self.in_queues += taken
        self.growth += taken

    def unqueued(self, message: Message) -> None:
        """A queue has given *message* up."""
        message.waiting -= 1
        self.in_queues -= ENTRY_OVERHEAD
        if not message.waiting:
            self.in_queues -= message.size + MESSAGE_OVERHEAD

    @property
    def used(self) -> int:
        """The bytes that all together hold now."""
        return self.in_queues + sum(holder() for holder in self._holders)

    @property
    def is_exceeded(self) -> bool:
        """Whether all together hold more than the limit."""
        return self.used > self.limit

    @property
    def is_due(self) -> bool:
        """Whether so much was taken since the last check that another one is due."""
        return self.growth >= self._step

    def check(self) -> bool:
        """Check the limit; returns whether it is exceeded."""
        self.growth = 0
        return self.is_exceeded
