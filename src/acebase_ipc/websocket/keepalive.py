"""Finds the connections that have been silent for too long.

Time is counted in ticks of about a second. Checking each of thousands of connections
at every tick costs more than all else that idle ones need. So each only notes when it
received something last, and is checked when it could be due at the earliest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Checked(Protocol):
    """A connection that is checked for silence.

    :ivar last_received: at which tick something arrived last.
    :ivar next_check: the tick at which it is checked next.
    """

    last_received: int
    next_check: int


C = TypeVar("C", bound=Checked)


class Keepalive(Generic[C]):
    """Tells at each tick which connections have been silent, and for how long.

    :param ping_after: ticks of silence after which a connection is pinged, and
        each time that so many more have passed.
    :param dead_after: ticks of silence, more than that, after which it is dead.
    """

    def __init__(self, ping_after: int, dead_after: int) -> None:
        self._ping_after = ping_after
        self.dead_after = dead_after
        self._due: dict[int, set[C]] = {}

    def add(self, connection: C, now: int) -> None:
        """Check *connection*, which was just opened, from *now* on."""
        connection.last_received = now
        self._schedule(connection, now + self._ping_after)

    def discard(self, connection: C) -> None:
        """Forget a *connection*, added or not."""
        self._due.get(connection.next_check, set()).discard(connection)

    def due(self, now: int) -> Iterator[tuple[C, int]]:
        """The connections to ping or to end; to be asked at each tick.

        :returns: each with the ticks for which it was silent.
        """
        for connection in self._due.pop(now, ()):
            silent = now - connection.last_received
            if silent < self._ping_after:
                self._schedule(connection, connection.last_received + self._ping_after)
                continue
            if silent < self.dead_after:
                dead_at = connection.last_received + self.dead_after
                self._schedule(connection, min(now + self._ping_after, dead_at))
            yield connection, silent

    def _schedule(self, connection: C, at: int) -> None:
        connection.next_check = at
        self._due.setdefault(at, set()).add(connection)
