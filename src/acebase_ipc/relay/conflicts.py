"""Id conflicts: two running processes that connect with one id.

The npm package acebase reconnects at once when its connection is closed, so two processes
that are masters by mistake would replace each other indefinitely. A replaced connection
that answers the relay's close frame was alive: for a minute from then on, a newcomer gets
the id only if its holder does not answer a ping.
"""

from __future__ import annotations

from acebase_ipc.relay.peers import Peer

CONFLICT_PERIOD = 60.0
"""Seconds for which an id stays in conflict."""

CHECK_TIMEOUT = 2.0
"""Seconds within which the holder of an id in conflict has to answer a ping: fewer than
the 10 s after which the npm package acebase gives up a connection without an answer."""


class IdConflicts:
    """The ids that are in conflict, and until when."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bytes], float] = {}

    def declare(self, peer: Peer, now: float) -> None:
        """Note that two running processes use the id of *peer*."""
        self._until[peer.database.name, peer.id] = now + CONFLICT_PERIOD

    def includes(self, peer: Peer, now: float) -> bool:
        """Return whether the id of *peer* is in conflict."""
        return self._until.get((peer.database.name, peer.id), now) > now

    def clear(self) -> None:
        """Remove all conflicts."""
        self._until.clear()

    def export(self, now: float) -> tuple[tuple[str, bytes, float], ...]:
        """Return the database and id of each conflict that is not over, and the time left."""
        return tuple((*key, until - now) for key, until in self._until.items() if until > now)

    def adopt(self, conflicts: tuple[tuple[str, bytes, float], ...], now: float) -> None:
        """Note the conflicts that another relay has found."""
        for database, peer_id, left in conflicts:
            self._until[database, peer_id] = now + left

    def expire(self, now: float) -> None:
        """Remove the conflicts that are over."""
        self._until = {key: until for key, until in self._until.items() if until > now}
