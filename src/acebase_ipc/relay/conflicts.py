"""Id conflicts: two living processes that connect under one id.

The npm package acebase reconnects at once when its connection is closed, so two masters
by mistake would replace each other indefinitely. A replaced connection that answers our
close frame was alive: for a while from then on a newcomer gets the id only if its holder
does not answer a ping.
"""

from __future__ import annotations

from acebase_ipc.relay.peers import Peer

CONFLICT_PERIOD = 60.0
"""Seconds for which an id stays in conflict."""

CHECK_TIMEOUT = 2.0
"""Seconds within which the holder of an id in conflict has to answer a ping; far below
the 10 s after which the npm package acebase gives up a connection without an answer."""


class IdConflicts:
    """Which ids are in conflict, and until when."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bytes], float] = {}

    def declare(self, peer: Peer, now: float) -> None:
        """Declare that two living processes have claimed the id of *peer*."""
        self._until[peer.database.name, peer.id] = now + CONFLICT_PERIOD

    def includes(self, peer: Peer, now: float) -> bool:
        """Whether the id of *peer* is in conflict."""
        return self._until.get((peer.database.name, peer.id), now) > now

    def expire(self, now: float) -> None:
        """Forget the conflicts that are over."""
        self._until = {key: until for key, until in self._until.items() if until > now}
