"""Adds up what all peers of a relay are doing, some of them at a time.

For 10,000 peers that takes about 20 ms (``tests/admin/test_census.py`` counts the calls), for
which no other peer should wait.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.messages import MASTER
from acebase_ipc.relay.peers import Database, Peer, SessionState
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.status import STATES
from acebase_ipc.relay.traffic import Traffic

PEERS: Final = 256
"""Peers, or databases, that a step counts: 0.5 ms."""


class Figures:
    """What the peers of one database are doing, or of all that share a label.

    :ivar traffic: their messages, and those of peers that have left.
    :ivar peers: the number of peers by dialect and state.
    :ivar queued: messages that wait for peers.
    :ivar queued_bytes: bytes of these.
    :ivar backlog: bytes that one peer at most has not read.
    :ivar locks: locks that are held.
    :ivar requests: open requests.
    :ivar awaiting: messages that wait for a master.
    :ivar absent: seconds for which the first of these has waited.
    :ivar master_lag: seconds that the slowest master takes to answer a ping, if it is known.
    """

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.peers: Counter[tuple[str, str]] = Counter()
        self.queued = self.queued_bytes = self.backlog = 0
        self.locks = self.requests = self.awaiting = 0
        self.absent = 0.0
        self.master_lag: float | None = None


class Census:
    """The figures of a relay, by the label of the databases.

    Traffic never decreases from one census to the next one: each counts the peers that there
    are when it begins, with all that they have sent and received until they are counted.

    :param now: monotonic seconds.
    :ivar figures: the figures; complete when :meth:`step` returns ``False``.
    :ivar databases: the number of databases.
    """

    def __init__(self, relay: Relay, now: float) -> None:
        registry = relay.registry
        self._now = now
        self._label = registry.departed.label
        self.figures = {
            label: Figures(traffic) for label, traffic in registry.departed.copy().items()
        }
        self.databases = len(registry.databases)
        peers, databases = list(registry.peers()), list(registry.databases.values())
        self._left = chain(map(self._count_peer, peers), map(self._count_database, databases))

    def step(self) -> bool:
        """Count some peers or databases; returns whether others are left."""
        return sum(1 for _ in islice(self._left, PEERS)) == PEERS

    def _figures_of(self, database: Database) -> Figures:
        label = self._label(database.name)
        figures = self.figures.get(label)
        if figures is None:
            figures = self.figures[label] = Figures(Traffic())
        return figures

    def _count_peer(self, peer: Peer) -> None:
        figures = self._figures_of(peer.database)
        figures.traffic.add(peer.traffic)
        state = peer.state
        if state is SessionState.GONE:
            return  # it has left since the census began
        # An Enum's hash is slow, and nearly all peers are connected.
        name = "connected" if state is SessionState.CONNECTED else STATES[state]
        figures.peers["acebase" if peer.dialect is ACEBASE else "documented", name] += 1
        connection, queue, account = peer.connection, peer.queue, peer.account
        backlog = queue.memory + (0 if connection is None else connection.unsent)
        if backlog:
            figures.queued += len(queue)
            figures.queued_bytes += queue.memory
            figures.backlog = max(figures.backlog, backlog)
        if account is not None:
            figures.locks += len(account.granted) + len(account.locks)
            figures.requests += account.open

    def _count_database(self, database: Database) -> None:
        figures = self._figures_of(database)
        waiting = len(database.awaiting_master)
        figures.awaiting += waiting
        master = database.peers.get(MASTER)
        if waiting and master is None:
            figures.absent = max(figures.absent, self._now - database.awaiting_since)
        lag = None if master is None or master.connection is None else master.connection.lag
        if lag is not None:
            figures.master_lag = max(figures.master_lag or 0.0, lag)
