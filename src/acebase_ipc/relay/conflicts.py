"""IdConflict ids: two living processes that connect under one id.

Published clients reconnect at once when their connection is closed, so two
masters by mistake would replace each other for ever. A replaced connection
that answers our close frame was alive: for a while from then on a newcomer
gets the id only if its holder is silent.
"""

from __future__ import annotations

from acebase_ipc.relay.peers import Peer

CONFLICT_PERIOD = 60.0
"""Seconds for which an id stays contested."""

CHECK_TIMEOUT = 2.0
"""Seconds within which the holder of a contested id has to answer a ping; far
below the 10 s after which a published client gives up an unanswered connection."""


class IdConflicts:
    """Which ids are contested, and until when."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bytes], float] = {}

    def declare(self, peer: Peer, now: float) -> None:
        """Two living processes have claimed the id of *peer*."""
        self._until[peer.database.name, peer.id] = now + CONFLICT_PERIOD

    def includes(self, peer: Peer, now: float) -> bool:
        """Whether the id of *peer* is contested."""
        return self._until.get((peer.database.name, peer.id), now) > now

    def expire(self, now: float) -> None:
        """Forget what is over."""
        self._until = {key: until for key, until in self._until.items() if until > now}
