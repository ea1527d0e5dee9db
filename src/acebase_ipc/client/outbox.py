"""Messages that wait to be sent, up to a number of bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from acebase_ipc.client.errors import QueueFull
from acebase_ipc.protocol.messages import utf16_units

T = TypeVar("T")

MAX_MESSAGES = 65_536
"""Messages that may wait in one queue, however short: each takes some 300 bytes of
memory beside its own."""


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[T]):
    """A message as it goes over the wire.

    :ivar message: in UTF-8.
    :ivar units: its length in UTF-16 code units.
    :ivar ticket: what the sender waits for.
    """

    message: bytes
    units: int
    ticket: T


class Outbox(Generic[T]):
    """A queue of outgoing messages.

    :param max_bytes: how many bytes may wait.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: deque[Outgoing[T]] = deque()
        self._first = 0
        self._ahead = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Outgoing[T]]:
        return iter(tuple(self._waiting))

    def put(self, message: bytes, ticket: T, elsewhere: int = 0) -> None:
        """Let *message* wait behind the others.

        A message of any size may wait alone.

        :param elsewhere: bytes that count, too, but do not wait here.
        :raises QueueFull: if there is no room; nothing has changed then.
        """
        waiting = self._bytes + elsewhere
        too_large = waiting and waiting + len(message) > self._max_bytes
        if too_large or len(self._waiting) >= MAX_MESSAGES:
            raise QueueFull(self._max_bytes)
        outgoing = Outgoing(message, utf16_units(message), ticket)
        self._bytes += len(message)
        if self._ahead:
            self._waiting.insert(self._first, outgoing)
            self._first += 1
        else:
            self._waiting.append(outgoing)

    def put_ahead(self, ahead: bool) -> None:
        """From now on, put messages before those that wait now (in order), or behind."""
        self._ahead = ahead
        self._first = 0

    def take(self) -> Outgoing[T]:
        """The next message."""
        outgoing = self._waiting.popleft()
        self._bytes -= len(outgoing.message)
        self._first = max(0, self._first - 1)
        return outgoing

    def peek(self) -> Outgoing[T]:
        """The next message, which stays."""
        return self._waiting[0]

    def discard(self, ticket: T) -> bool:
        """Forget the message with *ticket*; returns whether it still waited."""
        for index, outgoing in enumerate(self._waiting):
            if outgoing.ticket is ticket:
                del self._waiting[index]
                self._bytes -= len(outgoing.message)
                if index < self._first:
                    self._first -= 1
                return True
        return False
