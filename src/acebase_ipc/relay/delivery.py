"""How a message reaches one peer: at once, later, or not at all."""

from __future__ import annotations

from heapq import heapify, heappop

from acebase_ipc.protocol.dialect import ACEBASE, DOCUMENTED
from acebase_ipc.protocol.messages import MASTER, Message, render
from acebase_ipc.relay.events import (
    DropReason,
    EvictedForMemory,
    ExpiryReason,
    MasterAbsent,
    MessageDropped,
    Observer,
    SessionExpired,
    SessionResumed,
    SlowConsumer,
)
from acebase_ipc.relay.limits import KIB, Limits
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.peers import Connection, Database, Peer, SessionState
from acebase_ipc.relay.queue import MessageQueue, memory_of
from acebase_ipc.relay.registry import Registry

_DRAIN_STEP = 64 * KIB
"""Bytes handed to a connection that has room again before asking it once more."""

_MASTER = MASTER.decode()


def _is_gone(sender: object) -> bool:
    return isinstance(sender, Peer) and sender.state is SessionState.GONE


def _render_documented(text: bytes) -> bytes:
    """A *text* for an acebase peer, as a documented one expects it."""
    return render(text, DOCUMENTED) if text.startswith(b"{") else text


class Delivery:
    """Hands messages to peers' connections, and keeps what these cannot take yet.

    One rule for all: a message is handed over while the peer's connection has room;
    otherwise it waits in the peer's queue, whether the connection is full or the peer
    has none. A queue that grows too large ends its peer's session: the peer receives
    nothing more, and leaves at the next opportunity (:attr:`ending`). Not at once,
    because telling the others could be one message too many for the next of them.

    :ivar ending: the peers whose session has to be ended.
    """

    def __init__(
        self, limits: Limits, registry: Registry, budget: MemoryBudget, observer: Observer
    ) -> None:
        self._max_backlog = limits.max_backlog
        self._max_session_queue = limits.max_session_queue
        self._has_sessions = limits.session_timeout > 0
        self._registry = registry
        self._budget = budget
        self._observer = observer
        self.ending: set[Peer] = set()

    # To a peer

    def send(self, peer: Peer, message: Message, sender: Peer | None = None) -> None:
        """Let *message* reach *peer*; *sender* is the peer that addressed it."""
        connection = peer.connection
        if connection is not None and not connection.is_full:
            connection.send(message)
        else:
            self.keep(peer, message, sender)

    def keep(self, peer: Peer, message: Message, sender: Peer | None) -> None:
        """Let *message* wait for *peer*, which cannot take it now, if it may."""
        connection = peer.connection
        if connection is not None:
            unsent = peer.queue.memory + connection.unsent
            if unsent and unsent + memory_of(message.size) > self._max_backlog:
                self._end_slow_consumer(peer, connection, unsent)
            else:
                self._wait(peer, message, sender)
        elif peer.state is SessionState.SUSPENDED:
            if self._make_room(peer.queue, message.size):
                self._wait(peer, message, sender)
            else:
                self.report_expiry(peer, ExpiryReason.SIZE)
                self._end(peer)
                self._keep_for_successor(peer, message, sender)
        else:
            self._keep_for_successor(peer, message, sender)

    def _wait(self, peer: Peer, message: Message, sender: Peer | None) -> None:
        peer.queue.append(message, sender)
        if self._budget.is_due:
            self.enforce_memory_limit()

    def _make_room(self, queue: MessageQueue, size: int) -> bool:
        """Whether a message of *size* bytes fits a session's queue.

        What senders that are gone have addressed is dropped first.
        """
        limit = self._max_session_queue
        if queue.fits(limit, size):
            return True
        if queue.swept_to > limit - limit // 16:
            return False  # or else each message would be searched for again
        queue.discard_if(_is_gone)
        queue.swept_to = queue.memory
        return queue.fits(limit, size)

    def _end_slow_consumer(self, peer: Peer, connection: Connection, unsent: int) -> None:
        name, messages = peer.database.name, len(peer.queue)
        self._observer.report(SlowConsumer(name, peer.client_id, unsent, messages))
        self._end(peer)
        connection.abort()

    def _end(self, peer: Peer) -> None:
        peer.connection = None
        peer.state = SessionState.ENDING
        self.ending.add(peer)

    def drain(self, peer: Peer) -> None:
        """Hand *peer* what waits for it, in order, while its connection has room."""
        connection = peer.connection
        while connection is not None and peer.queue and not connection.is_full:
            for message in peer.queue.take(_DRAIN_STEP):
                connection.send(message)

    def flush(self, peer: Peer) -> None:
        """Hand *peer* all that waits for it, whether its connection has room or not."""
        if peer.connection is not None:
            for message in peer.queue.take(peer.queue.memory):
                peer.connection.send(message)

    def deliver_queued(self, queue: MessageQueue, peer: Peer) -> None:
        """Deliver what waits in *queue* to *peer*, after all that it was sent before.

        What was addressed by senders that are gone is dropped: a dead worker's lock
        request would be granted and block the others for up to 120 s.
        """
        self._report_dropped(peer, queue.discard_if(_is_gone))
        if queue:
            name = peer.database.name
            self._observer.report(SessionResumed(name, peer.client_id, len(queue)))
        if peer.dialect is DOCUMENTED:  # a master, which was awaited as an acebase peer
            queue.change_each(_render_documented)
        if queue is not peer.queue:
            queue.move_to(peer.queue)
        self.drain(peer)

    # To a master that is not there

    def waits_for_master(self, sender: Peer) -> bool:
        """Whether messages of *sender* to an absent master wait for it."""
        return self._has_sessions and sender.dialect is ACEBASE

    def keep_for_master(self, database: Database, message: Message, sender: Peer) -> None:
        """Keep a *message* addressed to a master that is not there, until one comes."""
        queue = database.awaiting_master
        if not self._make_room(queue, message.size):
            self._drop_awaiting(database)
        if not queue:
            self._observer.report(MasterAbsent(database.name, _MASTER))
        queue.append(message, sender)
        if self._budget.is_due:
            self.enforce_memory_limit()

    def _keep_for_successor(self, peer: Peer, message: Message, sender: Peer | None) -> None:
        if sender is not None and self.has_successor(peer):
            self.keep_for_master(peer.database, message, sender)

    def has_successor(self, peer: Peer) -> bool:
        """Whether what is addressed to *peer* waits for its successor when it is gone."""
        return self._has_sessions and peer.is_master and peer.dialect is ACEBASE

    def pass_to_successor(self, gone: Peer) -> None:
        """Keep what was addressed to a master that is *gone* for its successor."""
        queue = gone.queue
        if (
            self.has_successor(gone)
            and gone.state is not SessionState.ENDING
            and queue.fits(self._max_session_queue)
        ):
            queue.discard_if(lambda sender: sender is None or _is_gone(sender))
            queue.move_to(gone.database.awaiting_master)

    def _drop_awaiting(self, database: Database) -> None:
        queue = database.awaiting_master
        self._observer.report(
            SessionExpired(database.name, _MASTER, ExpiryReason.SIZE, len(queue), queue.memory)
        )
        queue.clear()

    # Memory

    def enforce_memory_limit(self) -> None:
        """End the sessions of those that need most while all together exceed ``max_memory``."""
        if not self._budget.check():
            return
        consumers: list[tuple[int, int, Peer | Database]] = []
        for database in self._registry.databases.values():
            if database.awaiting_master:
                consumers.append((-database.awaiting_master.memory, len(consumers), database))
            for peer in database.peers.values():
                if memory := peer.memory:
                    consumers.append((-memory, len(consumers), peer))
        heapify(consumers)
        budget = self._budget
        excess = budget.used - budget.limit  # asked once: it asks every connection
        while consumers and excess > 0:
            _, _, consumer = heappop(consumers)
            excess -= budget.in_queues
            if isinstance(consumer, Peer):
                excess -= self._evict(consumer)
            else:
                self._drop_awaiting(consumer)
            excess += budget.in_queues

    def _evict(self, peer: Peer) -> int:
        """End the session of *peer*; returns the bytes that its connection held."""
        self._observer.report(EvictedForMemory(peer.database.name, peer.client_id, peer.memory))
        connection = peer.connection
        peer.queue.clear()
        self._end(peer)
        if connection is None:
            return 0
        held = connection.memory
        connection.abort()
        return held

    # Reports

    def report_expiry(self, peer: Peer, reason: ExpiryReason) -> None:
        """Report that the suspended session of *peer* ends."""
        queue = peer.queue
        self._observer.report(
            SessionExpired(peer.database.name, peer.client_id, reason, len(queue), queue.memory)
        )

    def _report_dropped(self, peer: Peer, dropped: int) -> None:
        if dropped:
            self._observer.report(
                MessageDropped(peer.database.name, peer.client_id, DropReason.SENDER_GONE, dropped)
            )
