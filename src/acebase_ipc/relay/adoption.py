"""Lets a relay go on with the state of another one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.protocol.locks import is_lock_request, read_lock_id
from acebase_ipc.protocol.messages import Message
from acebase_ipc.protocol.numbers import SentNumbers
from acebase_ipc.relay.connection import Connection
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.journal import Journal
from acebase_ipc.relay.ledger import Account, Ledger
from acebase_ipc.relay.ledger_state import LedgerAdoption
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.numbering import Numbering, Window
from acebase_ipc.relay.peers import Database, Peer, SessionState
from acebase_ipc.relay.queue import MessageQueue
from acebase_ipc.relay.quiesce import Quiesce
from acebase_ipc.relay.recovery import LockRecovery
from acebase_ipc.relay.registry import Registry
from acebase_ipc.relay.sessions import Sessions, attach
from acebase_ipc.relay.state import (
    DatabaseState,
    NumberingState,
    PeerState,
    Queue,
    RelayState,
)
from acebase_ipc.relay.store import MessageStore
from acebase_ipc.relay.unsubscribed import Unsubscribed
from acebase_ipc.relay.warm_up import WarmUp


class Adoption:
    """Restores the parts of a relay, and notes in its journal what outlasts a crash.

    :param now: monotonic seconds.
    :param connections: the connections that live on, by database and client id.
    """

    def __init__(
        self,
        registry: Registry,
        delivery: Delivery,
        recovery: LockRecovery,
        warm_up: WarmUp,
        quiesce: Quiesce,
        budget: MemoryBudget,
        journal: Journal | None,
        now: float,
        connections: Mapping[tuple[str, str], Connection],
    ) -> None:
        self._registry = registry
        self._delivery = delivery
        self._recovery = recovery
        self._warm_up = warm_up
        self._quiesce = quiesce
        self._budget = budget
        self._journal = journal
        self._now = now
        self._connections = connections
        self._messages: list[Message] = []
        self._window = Window(0)

    def restore(self, state: RelayState, sessions: Sessions, store: MessageStore) -> None:
        """Restore all of *state*, in the place of the other relay."""
        recovery = self._recovery
        sessions.epoch = state.epoch
        recovery.own.go_on(state.own_prefix, state.own_number)
        recovery.sessions.next_id = state.own_lock
        self.add(state, sessions, store)

    def add(self, state: RelayState, sessions: Sessions, store: MessageStore) -> None:
        """Restore the databases of *state*, beside those that are there."""
        recovery = self._recovery
        self._window = sessions.window
        recovery.sessions.next_id = max(recovery.sessions.next_id, state.own_lock)
        recovery.sessions.answered += state.locks_answered
        recovery.lock_waits.adopt(state.lock_waits)
        recovery.answer_times.adopt(state.answer_times)
        self._registry.departed.adopt(state.departed)
        store.adopt(state.store, self._now)
        self._messages = list(map(Message, state.messages))
        for each in state.databases:
            self._database(each, self._registry.open(each.name))
        for each, left in state.left:
            database = Database(each.name, self._budget)
            self._database(each, database)
            until = math.inf if left is None else self._now + left
            self._registry.adopt_left(database, until)
        peer = self._registry.peer
        may_run = {
            (database.name, each.client_id): each.may_run
            for database in state.databases
            for each in database.peers
            if each.may_run is not None
        }
        for key in state.ending:
            self._delivery.end_later(peer(*key), may_run.get(key, False))
        expiries = {peer(name, client_id): left for name, client_id, left in state.expiries}
        sessions.adopt(expiries, state.fences, state.conflicts, self._now)

    def _database(self, state: DatabaseState, database: Database) -> None:
        now = self._now
        for each in state.peers:
            self._peer(each, database)
        for each in state.peers:
            peer = database.peers[each.client_id.encode()]
            if each.queue:
                self._fill(peer.queue, each.queue, database)
            if each.numbering is not None:
                self._number(peer, each.numbering, database)
        self._fill(database.awaiting_master, state.awaiting_master, database)
        database.awaiting_since = now - state.awaiting_age if state.awaiting_master else 0.0
        database.masters = state.masters
        database.traffic.adopt(state.traffic)
        self._warm_up.adopt(database, state.warm_up, now)
        if state.is_quiescing:
            self._quiesce.adopt(database, now)
        if state.ledger is not None:
            self._ledger(state, database)
            self._recovery.lost.adopt(database, state.ledger.search, now)

    def _peer(self, state: PeerState, database: Database) -> None:
        handshake = Handshake(
            database.name,
            state.client_id,
            Dialect(state.dialect),
            state.dialect_settled,
            state.restarts,
        )
        connection = self._connections.get((database.name, state.client_id))
        peer = Peer(handshake, database, connection, state.connected, self._budget)
        peer.last_address = state.address
        peer.said_bye = state.said_bye
        peer.state = SessionState[state.state]
        if peer.state is SessionState.ENDING:
            database.receivers.remove(peer)
        peer.traffic.adopt(state.traffic)
        database.peers[peer.id] = peer
        if state.unsubscribed:
            unsubscribed = database.unsubscribed[peer.id] = Unsubscribed(connection)
            for key in state.unsubscribed:
                unsubscribed.add(key)
        if self._journal is not None and peer.restarts and not peer.is_master:
            peer.number = self._journal.joined(database.name, peer.client_id, restarts=True)

    def _number(self, peer: Peer, state: NumberingState, database: Database) -> None:
        sent = SentNumbers(state.acknowledged, len(state.kept), state.highest)
        numbering = Numbering(state.session, self._window, self._budget, sent, state.received)
        numbering.received.told = 0  # the peer may have been told less
        peer.numbering = numbering
        self._fill(numbering.kept, state.kept, database)
        if peer.connection is None:
            peer.queue.prepend(numbering.take_back())
        else:
            attach(peer, peer.connection)

    def _fill(self, queue: MessageQueue, entries: Queue, database: Database) -> None:
        for index, sender in entries:
            peer = None if sender is None else database.peers[sender.encode()]
            queue.append(self._messages[index], peer)

    # The ledger, and the journal

    def _ledger(self, state: DatabaseState, database: Database) -> None:
        assert state.ledger is not None
        ledger = self._recovery.own.ledger(database)
        gone: dict[str, int] = {}

        def number(holder: str) -> int:
            """Return the number of a worker in the journal."""
            peer = database.peers.get(holder.encode())
            if self._journal is None:
                return 0
            if peer is None:
                if holder not in gone:
                    gone[holder] = self._journal.joined(database.name, holder, restarts=False)
                return gone[holder]
            if not peer.number:
                peer.number = self._journal.joined(database.name, holder, restarts=False)
            return peer.number

        enabled = self._recovery.sessions.enabled
        adoption = LedgerAdoption(state.ledger, ledger, number, enabled, self._now)
        for each in state.peers:
            if each.account is not None:
                peer = database.peers[each.client_id.encode()]
                worker = number(each.client_id)
                peer.account = adoption.account(each.account, each.client_id, worker)
        if self._journal is not None:
            self._note(self._journal, database, ledger)
            for worker in gone.values():
                self._journal.left(worker)

    @staticmethod
    def _note(journal: Journal, database: Database, ledger: Ledger) -> None:
        """Note the locks and the open requests for locks in the journal."""
        journal.counted(database.name, ledger.highest, ledger.former_highest)
        locks = [*ledger.own.values(), *ledger.unwanted]
        for account in ledger.accounts:
            locks += [*account.locks.values(), *account.about.values()]
            _note_account(journal, account)
        for lock in dict.fromkeys(locks):
            master_id = lock.former_id if lock.master_id is None else lock.master_id
            journal.locked(lock.worker, lock.id, master_id, lock.granted)


def _note_account(journal: Journal, account: Account) -> None:
    worker = account.worker
    for lock_id, (granted, _) in account.granted.items():
        journal.locked(worker, lock_id, lock_id, granted)
    for request_id, (body, _, released) in account.requests.items():
        if is_lock_request(body):
            journal.asked(worker, request_id, body)
        elif released is not None:
            lock_id = read_lock_id(body) or 0
            journal.locked(worker, lock_id, lock_id, released[0])
