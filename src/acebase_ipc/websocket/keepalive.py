"""Finds the connections that have to be pinged, and those that are dead.

Time is counted in ticks of about a second. Checking thousands of connections at every
tick would cost more than all other work for idle connections. So each connection only
notes when it last received something, and is checked at the first tick at which it may be
due.

Connections that are not silent are pinged, too, to measure how fast their processes answer.
This changes nothing about silence, and causes no ping beside those that silence causes anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Checked(Protocol):
    """A connection that is checked for silence.

    :ivar last_received: the tick at which something last arrived.
    :ivar last_ping: the tick at which it was last to be pinged.
    :ivar next_check: the tick at which it is checked next.
    """

    last_received: int
    last_ping: int
    next_check: int


C = TypeVar("C", bound=Checked)


class Keepalive(Generic[C]):
    """Returns at each tick the connections to ping or to end, and for how long each was silent.

    :param ping_after: ticks of silence after which a connection is pinged, and pinged
        again each time as many more have passed; one that is not silent is pinged after about as
        many ticks.
    :param dead_after: ticks of silence after which it is dead; more than *ping_after*.
    """

    def __init__(self, ping_after: int, dead_after: int) -> None:
        self.ping_after = ping_after
        self.dead_after = dead_after
        # It is checked that long after it last sent something: a little less after the last ping.
        self._again_after = ping_after * 4 // 5
        self._due: dict[int, set[C]] = {}

    def add(self, connection: C, now: int) -> None:
        """Check *connection*, which was opened at the tick *now*."""
        connection.last_received = now
        connection.last_ping = now
        self._schedule(connection, now + self.ping_after)

    def adopt(self, connection: C, now: int, silence: int, since_ping: int) -> None:
        """Check *connection* as the process would have done that has opened it.

        :param silence: ticks since something last arrived.
        :param since_ping: ticks since it was last to be pinged.
        """
        connection.last_received = now - silence
        connection.last_ping = now - since_ping
        wait = self.ping_after - silence
        if wait <= 0:
            wait = min(self.ping_after - since_ping, self.dead_after - silence)
        self._schedule(connection, now + max(1, wait))

    def discard(self, connection: C) -> None:
        """Remove *connection*, if it was added."""
        self._due.get(connection.next_check, set()).discard(connection)

    def due(self, now: int) -> Iterator[tuple[C, int]]:
        """Yield the connections to ping or to end; to be called at each tick.

        :returns: each connection with the number of ticks for which it was silent.
        """
        for connection in self._due.pop(now, ()):
            silent = now - connection.last_received
            if silent < self.ping_after:
                self._schedule(connection, connection.last_received + self.ping_after)
                if now - connection.last_ping < self._again_after:
                    continue
            elif silent < self.dead_after:
                dead_at = connection.last_received + self.dead_after
                self._schedule(connection, min(now + self.ping_after, dead_at))
            connection.last_ping = now
            yield connection, silent

    def _schedule(self, connection: C, at: int) -> None:
        connection.next_check = at
        self._due.setdefault(at, set()).add(connection)
