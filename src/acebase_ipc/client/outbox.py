"""Messages that wait to be sent, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from acebase_ipc.client.errors import QueueFull
from acebase_ipc.protocol.messages import utf16_units

T = TypeVar("T", bound=Hashable)

MAX_MESSAGES = 65_536
"""Messages that may wait in one queue, however short: each takes some 300 bytes of
memory beside its own."""


@dataclass(frozen=True, slots=True)
class Outgoing(Generic[T]):
    """A message as it goes over the wire.

    :ivar message: in UTF-8.
    :ivar units: its length in UTF-16 code units.
    :ivar ticket: identifies it; for a client the Deferred that its user holds.
    :ivar confirm: whether its user wants to know when it was relayed.
    """

    message: bytes
    units: int
    ticket: T
    confirm: bool = False


class Outbox(Generic[T]):
    """A queue of outgoing messages.

    :param max_bytes: bytes that may wait.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._first: OrderedDict[T, Outgoing[T]] = OrderedDict()
        self._waiting: OrderedDict[T, Outgoing[T]] = OrderedDict()
        self._ahead = False

    def __len__(self) -> int:
        return len(self._first) + len(self._waiting)

    def put(self, message: bytes, ticket: T, elsewhere: int = 0, confirm: bool = False) -> None:
        """Add *message* behind the others.

        A message of any size may wait alone.

        :param ticket: unique among those that wait.
        :param elsewhere: bytes that count, too, but do not wait here.
        :raises QueueFull: if there is no room; nothing has changed then.
        """
        waiting = self._bytes + elsewhere
        too_large = waiting and waiting + len(message) > self._max_bytes
        if too_large or len(self) >= MAX_MESSAGES:
            raise QueueFull(self._max_bytes)
        self._bytes += len(message)
        queue = self._first if self._ahead else self._waiting
        queue[ticket] = Outgoing(message, utf16_units(message), ticket, confirm)

    def put_ahead(self, ahead: bool) -> None:
        """From now on, add messages before those that wait now (in order), or behind."""
        if ahead and self._first:
            self._first.update(self._waiting)
            self._first, self._waiting = OrderedDict(), self._first
        self._ahead = ahead

    def peek(self) -> Outgoing[T]:
        """The next message, which stays."""
        return next(iter((self._first or self._waiting).values()))

    def take(self) -> Outgoing[T]:
        """Remove the next message and return it."""
        _, outgoing = (self._first or self._waiting).popitem(last=False)
        self._bytes -= len(outgoing.message)
        return outgoing

    def take_all(self) -> list[Outgoing[T]]:
        """Remove all messages and return them."""
        taken = [*self._first.values(), *self._waiting.values()]
        self._first, self._waiting, self._bytes = OrderedDict(), OrderedDict(), 0
        return taken

    def discard(self, ticket: T) -> bool:
        """Remove the message with *ticket*; returns whether it still waited."""
        outgoing = self._first.pop(ticket, None) or self._waiting.pop(ticket, None)
        if outgoing is None:
            return False
        self._bytes -= len(outgoing.message)
        return True
