"""Adds up what all peers of a relay are doing, some of them at a time.

For 10,000 peers that takes about 40 ms (``tests/admin/test_census.py`` counts the calls), for
which no other peer should wait. All that shows figures shares one census.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from acebase_ipc.admin.turns import Turns
from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.messages import MASTER
from acebase_ipc.relay.peers import Database, Peer, SessionState
from acebase_ipc.relay.registry import Registry
from acebase_ipc.relay.traffic import Traffic

PEERS: Final = 256
"""Peers that a step counts: 1 to 2 ms."""

DATABASES: Final = 128
"""Databases that a step adds up: 1 ms."""

SHARE: Final = 50
"""A census is taken again after so many times the time that it took: it may use 2 % of the time."""

MAX_AGE: Final = 5.0
"""Seconds after which another one is taken even so: it may have taken long because other processes
have used the processor."""

CONNECTED: Final = "connected"

STATES: Final = {
    SessionState.CONNECTED: CONNECTED,
    SessionState.SUSPENDED: "suspended",
    SessionState.ENDING: "ending",
    SessionState.RESTORED: "suspended",
    SessionState.GONE: "ending",
}
"""What the state of each session is called."""


class Figures:
    """What the peers of one database are doing, or of several.

    :ivar traffic: their messages, and those of peers that have left.
    :ivar peers: the number of peers by dialect and state.
    :ivar memory: bytes that the relay holds for them.
    :ivar queued: messages that wait for peers.
    :ivar queued_bytes: bytes of these.
    :ivar backlog: bytes that one peer at most has not read.
    :ivar locks: locks that are held.
    :ivar requests: open requests.
    :ivar has_master: whether there is a master, connected or not.
    :ivar awaiting: messages that wait for a master.
    :ivar absent: seconds for which the first of these has waited.
    :ivar master_lag: seconds that the slowest master takes to answer a ping, if it is known.
    """

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.peers: Counter[tuple[str, str]] = Counter()
        self.memory = self.queued = self.queued_bytes = self.backlog = 0
        self.locks = self.requests = self.awaiting = 0
        self.has_master = False
        self.absent = 0.0
        self.master_lag: float | None = None

    @property
    def connected(self) -> int:
        """The number of peers that are connected."""
        return sum(count for (_, state), count in self.peers.items() if state == CONNECTED)

    def count(self, peer: Peer) -> None:
        """Count a *peer*, or the messages of one that has left since the census began."""
        self.traffic.add(peer.traffic)
        state = peer.state
        if state is SessionState.GONE:
            return
        # An Enum's hash is slow, and nearly all peers are connected.
        name = CONNECTED if state is SessionState.CONNECTED else STATES[state]
        self.peers["acebase" if peer.dialect is ACEBASE else "documented", name] += 1
        connection, queue, account = peer.connection, peer.queue, peer.account
        held = 0 if connection is None else connection.memory
        if held or queue:
            self.memory += queue.memory + held
            self.queued += len(queue)
            self.queued_bytes += queue.memory
            unsent = 0 if connection is None else connection.unsent
            self.backlog = max(self.backlog, queue.memory + unsent)
        if account is not None:
            self.memory += account.memory
            self.locks += account.held_count
            self.requests += len(account.requests)

    def count_database(self, database: Database, now: float) -> None:
        """Count what belongs to a *database* itself, at *now* in monotonic seconds."""
        self.memory += database.memory
        waiting = len(database.awaiting_master)
        self.awaiting += waiting
        master = database.peers.get(MASTER)
        self.has_master |= master is not None
        if waiting and master is None:
            self.absent = max(self.absent, now - database.awaiting_since)
        if master is not None and master.connection is not None:
            self._note_lag(master.connection.lag)

    def _note_lag(self, lag: float | None) -> None:
        if lag is not None:
            self.master_lag = max(self.master_lag or 0.0, lag)

    def add(self, other: Figures) -> None:
        """Add the figures of *other* peers and databases."""
        self.traffic.add(other.traffic)
        for kind, count in other.peers.items():  # faster than Counter.update
            self.peers[kind] += count
        self.memory += other.memory
        self.queued += other.queued
        self.queued_bytes += other.queued_bytes
        self.backlog = max(self.backlog, other.backlog)
        self.locks += other.locks
        self.requests += other.requests
        self.has_master |= other.has_master
        self.awaiting += other.awaiting
        self.absent = max(self.absent, other.absent)
        self._note_lag(other.master_lag)


class Census:
    """The figures of some databases.

    They belong to the peers that there are when it begins. Messages count until a peer is
    counted, those of peers that leave meanwhile, too.

    :param databases: those that are counted.
    :param now: monotonic seconds.
    :ivar databases: the figures of each database with peers, by its name; complete when
        :meth:`step` returns ``False``.
    """

    def __init__(self, databases: Iterable[Database], now: float) -> None:
        counted = [(each, each.traffic) for each in databases]
        peers = [peer for each, _ in counted for peer in each.peers.values()]
        self._now = now
        self._peers, self._counted = iter(peers), iter(counted)
        self.databases: dict[str, Figures] = {}

    def step(self) -> bool:
        """Count some peers or databases; returns whether others are left."""
        peers = tuple(islice(self._peers, PEERS))
        for peer in peers:
            self._figures_of(peer.database).count(peer)
        if peers:
            return True
        counted = tuple(islice(self._counted, DATABASES))
        for database, former in counted:
            self._count_database(database, former)
        return len(counted) == DATABASES

    def _count_database(self, database: Database, former: Traffic) -> None:
        figures = self._figures_of(database)
        figures.count_database(database, self._now)
        self._note(database.name, figures)
        figures.traffic.add(former)
        if not figures.peers:
            del self.databases[database.name]  # all have left meanwhile

    def _figures_of(self, database: Database) -> Figures:
        figures = self.databases.get(database.name)
        if figures is None:
            figures = self.databases[database.name] = Figures()
        return figures

    def _note(self, name: str, figures: Figures) -> None:
        """Note *figures* of a database, without the messages of former peers."""


class RelayCensus(Census):
    """The figures of a relay.

    Traffic never decreases from one census to the next one.

    :param now: monotonic seconds.
    :ivar labels: the figures by the label of the databases.
    """

    def __init__(self, registry: Registry, now: float) -> None:
        super().__init__(registry.databases.values(), now)
        self._label = registry.departed.label
        self.labels: dict[str, Figures] = {}
        for label, traffic in registry.departed.copy().items():
            self._figures_of_label(label).traffic = traffic

    @property
    def total(self) -> Figures:
        """The figures of all databases, and of those that there were."""
        total = Figures()
        for each in self.labels.values():
            total.add(each)
        return total

    def _note(self, name: str, figures: Figures) -> None:
        self._figures_of_label(self._label(name)).add(figures)

    def _figures_of_label(self, label: str) -> Figures:
        return self.labels.setdefault(label, Figures())


class LatestCensus:
    """The latest census of a relay; another one is taken when that is needed.

    Its steps are done in turns with other work.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, registry: Registry, turns: Turns, clock: Callable[[], float]) -> None:
        self._registry = registry
        self._turns = turns
        self._clock = clock
        self._latest: RelayCensus | None = None
        self._next = -math.inf
        self._waiting: list[Deferred[RelayCensus]] = []

    @property
    def is_due(self) -> bool:
        """Whether another one may be taken, and none is being taken."""
        return not self._waiting and self._clock() >= self._next

    def get(self) -> Deferred[RelayCensus]:
        """Return a Deferred that fires with a complete census.

        That is the latest one, unless another one is due.
        """
        if self._latest is not None and self._clock() < self._next:
            return succeed(self._latest)
        waiting: Deferred[RelayCensus] = Deferred()
        self._waiting.append(waiting)
        if len(self._waiting) == 1:
            self._begin()
        return waiting

    def _begin(self) -> None:
        census: RelayCensus | None = None
        taken = 0.0

        def step() -> bool:
            nonlocal census, taken
            begun = self._clock()
            try:
                if census is None:
                    census = RelayCensus(self._registry, begun)
                more = census.step()
            except Exception:
                self._fire(Failure())
                return False
            ended = self._clock()
            taken += ended - begun
            if not more:
                self._latest = census
                self._next = ended + min(SHARE * taken, MAX_AGE)
                self._fire(census)
            return more

        self._turns.do(step)

    def _fire(self, result: RelayCensus | Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(result)
