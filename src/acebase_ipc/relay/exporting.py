"""Exports the state of a relay."""

from __future__ import annotations

import math

from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.ledger_state import LedgerExport
from acebase_ipc.relay.peers import Database, Peer, SessionState
from acebase_ipc.relay.queue import MessageQueue
from acebase_ipc.relay.quiesce import Quiesce
from acebase_ipc.relay.recovery import LockRecovery
from acebase_ipc.relay.registry import Registry
from acebase_ipc.relay.sessions import Sessions
from acebase_ipc.relay.state import DatabaseState, PeerState, Queue, RelayState
from acebase_ipc.relay.store import MessageStore
from acebase_ipc.relay.warm_up import WarmUp


class Export:
    """Exports the parts of a relay once, with each message once.

    :param now: monotonic seconds.
    """

    def __init__(
        self,
        delivery: Delivery,
        recovery: LockRecovery,
        warm_up: WarmUp,
        quiesce: Quiesce,
        now: float,
    ) -> None:
        self._delivery = delivery
        self._recovery = recovery
        self._warm_up = warm_up
        self._quiesce = quiesce
        self._now = now
        self._messages: dict[Message, int] = {}

    def state(self, registry: Registry, sessions: Sessions, store: MessageStore) -> RelayState:
        """Return the state of the whole relay."""
        databases = tuple(map(self._database, registry.databases.values()))
        left = tuple(
            (self._database(each), None if until == math.inf else until - self._now)
            for each, until in registry.left()
        )
        expiries, fences, conflicts = sessions.export(self._now)
        recovery = self._recovery
        return RelayState(
            messages=tuple(each.text for each in self._messages),
            databases=databases,
            left=left,
            expiries=expiries,
            ending=tuple((each.database.name, each.client_id) for each in self._delivery.ending),
            fences=fences,
            conflicts=conflicts,
            store=store.export(self._now),
            departed=tuple(
                (label, traffic.export()) for label, traffic in registry.departed.copy().items()
            ),
            lock_waits=recovery.lock_waits.export(),
            answer_times=recovery.answer_times.export(),
            locks_answered=recovery.sessions.answered,
            own_prefix=recovery.own.prefix,
            own_number=recovery.own.number,
            own_lock=recovery.sessions.next_id,
        )

    def _database(self, database: Database) -> DatabaseState:
        ledger = database.ledger
        locks = None if ledger is None else LedgerExport(ledger, self._now)
        peers = tuple(self._peer(each, locks) for each in database.peers.values())
        awaiting = self._queue(database.awaiting_master)
        search = self._recovery.lost.export(database, self._now)
        return DatabaseState(
            name=database.name,
            peers=peers,
            awaiting_master=awaiting,
            awaiting_age=self._now - database.awaiting_since if awaiting else 0.0,
            masters=database.masters,
            warm_up=self._warm_up.left(database, self._now),
            is_quiescing=self._quiesce.includes(database),
            traffic=database.traffic.export(),
            ledger=None if locks is None else locks.ledger(search),
        )

    def _peer(self, peer: Peer, locks: LedgerExport | None) -> PeerState:
        account = peer.account
        unsubscribed = peer.database.unsubscribed.get(peer.id)
        return PeerState(
            peer.client_id,
            peer.dialect.value,
            peer.dialect_settled,
            peer.restarts,
            peer.connected,
            peer.address,
            peer.said_bye,
            peer.state.name,
            self._delivery.ending.get(peer),
            peer.traffic.export(),
            self._queue(peer.queue) if peer.queue else (),
            None if account is None or locks is None else locks.account(account),
            () if unsubscribed is None else tuple(unsubscribed.states),
        )

    def _queue(self, queue: MessageQueue) -> Queue:
        """Return the messages of *queue*, except those of peers that have left."""
        entries: list[tuple[int, str | None]] = []
        for message, sender in queue.entries():
            if not isinstance(sender, Peer):
                entries.append((self._index(message), None))
            elif sender.state is not SessionState.GONE:
                entries.append((self._index(message), sender.client_id))
        return tuple(entries)

    def _index(self, message: Message) -> int:
        return self._messages.setdefault(message, len(self._messages))
