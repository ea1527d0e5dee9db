"""Composes the core of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from acebase_ipc.relay.adoption import Adoption
from acebase_ipc.relay.connection import Connection
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import (
    DropReason,
    MessageDropped,
    NullObserver,
    Observer,
    StateRestored,
)
from acebase_ipc.relay.exporting import Export
from acebase_ipc.relay.history import Histories
from acebase_ipc.relay.interest import Interest
from acebase_ipc.relay.introductions import Introductions
from acebase_ipc.relay.journal import Journal, Restored
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.lock_table import LockTable, lock_table
from acebase_ipc.relay.lock_watch import LockWatch
from acebase_ipc.relay.master_watch import MasterWatch
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.quiesce import Quiesce
from acebase_ipc.relay.recovery import LockRecovery
from acebase_ipc.relay.registry import Registry
from acebase_ipc.relay.resumption import Resumption
from acebase_ipc.relay.router import Router
from acebase_ipc.relay.sessions import Sessions
from acebase_ipc.relay.state import RelayState
from acebase_ipc.relay.store import MessageStore
from acebase_ipc.relay.warm_up import WarmUp
from acebase_ipc.relay.work import Work, do_at_once


class Relay:
    """The core of a relay, without I/O.

    Input is a method call. Output goes to
    :class:`~acebase_ipc.relay.connection.Connection` and
    :class:`~acebase_ipc.relay.events.Observer`.

    :param clock: returns monotonic seconds.
    :param introduce: whether to greet acebase peers on each other's behalf.
    :param recover_locks: whether to release the locks of peers that are gone, and to tell a new
        master of locks and open requests.
    :param lock_sessions: whether to answer requests about locks where the answer is known, if
        locks are recovered.
    :param journal: receives what the next relay needs if this one ends without warning.
    :param work: counts the work.
    :param in_steps: calls a function until it returns that nothing is left to do; default: at
        once, as long as that takes.
    :param call_later: calls a function after so many seconds; without it, messages of resumable
        sessions are acknowledged with each 64, and by :meth:`expire`.
    :ivar memory: counts the bytes that all parts hold.
    :ivar registry: knows the databases and their peers.
    :ivar store: keeps large messages until they are downloaded.
    :ivar delivery: hands messages to peers' connections.
    :ivar histories: keep the last changes of the paths that somebody follows.
    :ivar sessions: admits, welcomes, suspends and ends peers.
    :ivar quiesce: waits for a moment in which nothing is under way.
    :ivar router: decides who receives what.
    :ivar lock_waits: how long peers have waited for locks.
    :ivar answer_times: how long they have waited for other answers of the master.
    :ivar lock_sessions: grants and releases locks in the place of masters.
    :ivar work: counts the work that broadcasts cause.
    :ivar gate: tells whether messages for a database are accepted at this moment; ``None``: always.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        limits: Limits | None = None,
        observer: Observer | None = None,
        introduce: bool = True,
        recover_locks: bool = True,
        lock_sessions: bool = True,
        journal: Journal | None = None,
        work: Work | None = None,
        in_steps: Callable[[Callable[[], bool]], object] = do_at_once,
        call_later: Callable[[float, Callable[[], object]], object] | None = None,
    ) -> None:
        limits = limits or Limits()
        self._observer = observer = observer or NullObserver()
        self.memory = MemoryBudget(limits.max_memory)
        self.registry = Registry(limits, self.memory)
        self.store = MessageStore(limits.message_ttl)
        self.memory.register("stored", lambda: self.store.stored)
        self.memory.register("ledger", lambda: self.registry.memory)
        self.memory.register("unsubscribed", lambda: self.registry.memory_of_unsubscribed)
        self.work = work = work or Work()
        self.delivery = Delivery(limits, self.registry, self.memory, observer, work, clock)
        self.histories = Histories(limits, self.registry, self.delivery, self.memory, clock)
        self.memory.register("history", lambda: self.histories.memory)
        self.memory.register_spare(self.histories.give_up)
        introductions = Introductions(self.delivery, self.histories, introduce)
        self._clock = clock
        self._master_watch = MasterWatch(observer)
        self._lock_watch = LockWatch(limits.lock_warning, observer)
        recovery = LockRecovery(
            limits.payload_limit,
            self.delivery,
            self.memory,
            observer,
            clock,
            recover_locks,
            lock_sessions,
            limits.lock_session_max,
            journal,
        )
        self._recovery = recovery
        self.lock_waits = recovery.lock_waits
        self.answer_times = recovery.answer_times
        self.lock_sessions = recovery.sessions
        self._warm_up = WarmUp(self.delivery, limits.master_warmup, clock)
        self.quiesce = Quiesce(self.delivery, limits.quiesce_timeout, observer)
        self._journal = journal
        self.sessions = Sessions(
            limits,
            self.registry,
            self.delivery,
            introductions,
            self.store,
            recovery,
            self._warm_up,
            self.quiesce,
            observer,
            lambda: in_steps(self._end_some),
            self.histories,
            journal,
        )
        self._interest = Interest(introductions, limits.payload_limit, observer, clock)
        self.router = Router(
            limits,
            self.delivery,
            introductions,
            self.store,
            recovery,
            self.quiesce,
            self._interest,
            self.histories,
            observer,
        )

        self._resumption = Resumption(self.router, self.delivery, call_later)
        self.gate: Callable[[str], bool] | None = None

    def receiver(self, peer: Peer) -> Callable[[list[bytes]], int]:
        """Return what receives the texts from the WebSocket of *peer*: see `Router.receive`."""
        if peer.numbering is None:
            receive = partial(self.router.receive, peer)
        else:
            receive = partial(self._resumption.receive, peer)
        return receive if self.gate is None else self._gated(peer.database.name, receive)

    def _gated(
        self, database: str, receive: Callable[[list[bytes]], int]
    ) -> Callable[[list[bytes]], int]:
        """Return what drops the texts that come while *database* is not served."""

        def receive_or_drop(texts: list[bytes]) -> int:
            is_open = self.gate is None or self.gate(database)
            return receive(texts) if is_open else len(texts)

        return receive_or_drop

    def post(self, peer: Peer, message: bytes, now: float) -> None:
        """Relay a message, valid UTF-8 of any size, that *peer* has posted.

        :param now: monotonic seconds.
        :raises MessageRefused: for a malformed ``to:``, or, in a resumable session, without a valid
            number.
        :raises Overloaded: while its database is not served.
        """
        if self.gate is not None and not self.gate(peer.database.name):
            raise Overloaded("The database is not served now: try again")
        post = self.router.post if peer.numbering is None else self._resumption.post
        post(peer, message, now)

    def apply(self, limits: Limits) -> None:
        """Use these *limits* from now on, except ``max_payload``, which peers were told."""
        self.memory.set_limit(limits.max_memory)
        self.registry.apply(limits)
        self.store.ttl = limits.message_ttl
        self.delivery.apply(limits)
        self.sessions.apply(limits)
        self._lock_watch.patience = limits.lock_warning
        self._recovery.sessions.seconds = limits.lock_session_max
        self._warm_up.seconds = limits.master_warmup
        self.quiesce.timeout = limits.quiesce_timeout
        self.histories.apply(limits)

    def _end_some(self) -> bool:
        return self.sessions.end_some(self._clock())

    def restore(self, restored: Restored, now: float) -> None:
        """Refuse the workers of a relay that has ended without warning, and free their locks.

        To be called before a peer joins.

        :param now: monotonic seconds.
        """
        databases = workers = locks = 0
        for each in restored.databases:
            database = self.registry.open(each.name)
            database.masters = 1  # the next one does not receive releases of unknown locks
            refused = 0
            for worker in each.workers:
                peer = None
                if not worker.is_gone and (worker.restarts or worker.locks):
                    peer = self.sessions.restore(each.name, worker, now)
                    refused += 1
                elif not worker.is_gone and self._journal is not None:
                    self._journal.left(worker.number)
                self._recovery.restore(database, worker, peer)
                locks += len(worker.locks)
            if database.ledger is not None:
                database.ledger.highest = each.highest
                database.ledger.former_highest = each.former_highest
            self.registry.leave(database)
            databases += refused > 0
            workers += refused
        for fence in restored.fences:
            self.sessions.restore_fence(fence, now)
        if workers or locks:
            self._observer.report(StateRestored(databases, workers, locks))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is lost with it."""
        return not self.registry.all_databases() and not self.sessions.refuses_any

    def clear(self) -> None:
        """Forget all, which another relay goes on with; nothing is told or reported."""
        for peer in tuple(self.registry.peers()):
            self.sessions.drop(peer)
        self.registry.clear()
        self.sessions.clear()
        self.quiesce.clear()
        self.store.clear()
        self.histories.clear()

    def connections(self, names: Iterable[str]) -> list[Connection]:
        """Return the connections of the peers of these databases."""
        databases = [self.registry.databases.get(each) for each in names]
        peers = [peer for each in databases if each is not None for peer in each.peers.values()]
        return [each.connection for each in peers if each.connection is not None]

    def suspend(self, code: int, reason: str, names: Iterable[str] | None = None) -> None:
        """Close the connections of these databases, by default of all; sessions may go on.

        What a client sends before it has closed its connection, too, is received.
        """
        chosen = tuple(self.registry.databases) if names is None else names
        for connection in self.connections(chosen):
            connection.suspend(code, reason)

    def forget(self, name: str, code: int, reason: str) -> None:
        """Forget a database, which another relay may serve, and close its connections."""
        database = self.registry.databases.get(name)
        peers = () if database is None else tuple(database.peers.values())
        for peer in peers:
            connection = peer.connection
            self.store.forget(name, peer.id)
            self.sessions.drop(peer)
            if connection is not None:
                connection.close(code, reason)
        self.histories.interrupt(name)
        self.registry.discard(name)
        self.quiesce.discard(name)

    def export(self, now: float) -> RelayState:
        """Return all that another relay has to know to go on in the place of this one.

        :param now: monotonic seconds.
        """
        export = Export(self.delivery, self._recovery, self._warm_up, self.quiesce, now)
        return export.state(self.registry, self.sessions, self.store)

    def adopt(
        self,
        state: RelayState,
        now: float,
        connections: Mapping[tuple[str, str], Connection],
    ) -> None:
        """Go on where another relay has ended; to be called before a peer joins.

        An acebase peer that was connected and is without a connection now has its session
        suspended. A documented one, which cannot resume a session, has left.

        :param now: monotonic seconds.
        :param connections: the connections that live on, by database and client id.
        """
        self._adoption(now, connections).restore(state, self.sessions, self.store)

    def add(self, state: RelayState, now: float) -> None:
        """Go on where another relay has ended to serve the databases of *state*.

        They are unknown here, and none of their peers is connected.

        :param now: monotonic seconds.
        """
        self._adoption(now, {}).add(state, self.sessions, self.store)
        for each in state.databases:
            database = self.registry.databases.get(each.name)
            if database is not None and database.ledger is not None:
                database.ledger.asks_who = True

    def _adoption(self, now: float, connections: Mapping[tuple[str, str], Connection]) -> Adoption:
        return Adoption(
            self.registry,
            self.delivery,
            self._recovery,
            self._warm_up,
            self.quiesce,
            self.memory,
            self._journal,
            now,
            connections,
        )

    def resume(self) -> None:
        """Go on after :meth:`adopt`: withhold nothing, and find out which masters are the same."""
        self.quiesce.end()
        for peer in self.registry.peers():
            if peer.numbering is not None and peer.connection is not None:
                self._resumption.acknowledge_soon(peer)
        for database in self.registry.all_databases():
            if database.ledger is not None:
                database.ledger.asks_who = True

    def expire(self, now: float) -> None:
        """End what has expired, and enforce the memory limit; to be called about once a second.

        :param now: monotonic seconds.
        """
        for database, recipient in self.store.expire(now):
            dropped = MessageDropped(database, recipient.decode(), DropReason.EXPIRED)
            self._observer.report(dropped)
        self.sessions.expire(now)
        self.registry.expire(now)
        self._resumption.acknowledge_all()
        self.delivery.enforce_memory_limit()
        self._interest.expire(self.registry.databases.values(), now)
        self.histories.expire(now)
        self._recovery.expire(now)
        self._warm_up.expire(now)
        self._master_watch.check(self.registry.databases.values(), now)
        self._lock_watch.check(self.registry.databases.values(), now)

    def locks(self, database: str) -> LockTable:
        """Return the locks and open requests of *database*; none if it has no peer."""
        found = self.registry.databases.get(database)
        return LockTable() if found is None else lock_table(found, self._clock())

    def close(self, code: int, reason: str) -> None:
        """End all sessions: send each peer its queue and close its connection."""
        connections = []
        for peer in self.registry.peers():
            if peer.connection is not None:
                self.delivery.flush(peer)
                connections.append(peer.connection)
        self.sessions.end_all()
        self.quiesce.clear()
        for connection in connections:
            connection.close(code, reason)
