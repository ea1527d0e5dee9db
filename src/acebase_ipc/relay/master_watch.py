"""Tells of databases whose workers have no master.

A worker of the npm package acebase without a master waits indefinitely, and says nothing. It may
not even send anything: the first worker of a new database waits for the files, which only a master
makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.messages import MASTER
from acebase_ipc.relay.events import MasterAbsent, Observer
from acebase_ipc.relay.peers import Database, Peer

PATIENCE: Final = 5.0
"""Seconds without a master until that is told: a restart takes less."""

INTERVAL: Final = 60.0
"""Seconds until it is told again."""


class MasterWatch:
    """Looks about once a second for workers without a master."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._due: dict[Database, float] = {}

    def check(self, databases: Iterable[Database], now: float) -> None:
        """Report each database whose workers have had no master for some time.

        :param now: monotonic seconds.
        """
        before, self._due = self._due, {}
        for database in databases:
            master = database.peers.get(MASTER)
            if master is not None and master.connection is not None:
                continue
            if not any(_is_worker(peer) for peer in database.peers.values()):
                continue
            due = before.get(database, now + PATIENCE)
            if now >= due:
                due = now + INTERVAL
                messages = len(database.awaiting_master)
                if master is not None:
                    messages += len(master.queue)
                workers = sum(map(_is_worker, database.peers.values()))
                self._observer.report(MasterAbsent(database.name, workers, messages))
            self._due[database] = due


def _is_worker(peer: Peer) -> bool:
    return peer.dialect is ACEBASE and not peer.is_master and peer.connection is not None
