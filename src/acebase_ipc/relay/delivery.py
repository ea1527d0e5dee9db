"""How a message reaches one peer: at once, later, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop

from acebase_ipc.protocol.dialect import ACEBASE, DOCUMENTED, Dialect
from acebase_ipc.protocol.locks import is_about_files, is_lock_request
from acebase_ipc.protocol.messages import MASTER, Message, render
from acebase_ipc.relay.connection import Connection
from acebase_ipc.relay.events import (
    ARE_DROPPED,
    WAIT_FOR_MASTER,
    DropReason,
    EvictedForMemory,
    ExpiryReason,
    MessageDropped,
    Observer,
    QueueDelivered,
    SessionExpired,
    SessionResumed,
    SlowConsumer,
)
from acebase_ipc.relay.limits import KIB, Limits
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.peers import BEGINNINGS, FILES, Database, Peer, SessionState
from acebase_ipc.relay.queue import MessageQueue, memory_of
from acebase_ipc.relay.registry import Registry
from acebase_ipc.relay.work import Work

_DRAIN_STEP = 64 * KIB
"""Bytes that a connection with room is handed before it is asked again whether it is full."""

_MASTER = MASTER.decode()


def _is_from_gone(_message: Message, sender: object) -> bool:
    return isinstance(sender, Peer) and sender.state is SessionState.GONE


def is_kind(text: bytes, kinds: int) -> bool:
    """Return whether an envelope that waits for the master is a request of one of these *kinds*."""
    if kinds & FILES and is_about_files(text):
        return True
    return bool(kinds & BEGINNINGS) and is_lock_request(text)


def _render_documented(text: bytes) -> bytes:
    """Return *text*, rendered for an acebase peer, as a documented peer expects it."""
    return render(text, DOCUMENTED) if text.startswith(b"{") else text


class Delivery:
    """Hands messages to peers' connections, and queues what these cannot take yet.

    While a peer's connection has room, messages are handed to it. If the connection is
    full, or the peer has none, they wait in the peer's queue. A queue that exceeds its
    limit ends its peer's session: the peer receives nothing more, and leaves later
    (:attr:`ending`). It does not leave at once, because the message about this could
    exceed the limit of another peer's queue, and so on.

    :param clock: returns monotonic seconds.
    :ivar budget: counts the messages that wait.
    :ivar work: counts the work of delivering to many.
    :ivar ending: the peers whose session has to be ended, the first one first, each with
        whether its process may still run.
    """

    def __init__(
        self,
        limits: Limits,
        registry: Registry,
        budget: MemoryBudget,
        observer: Observer,
        work: Work,
        clock: Callable[[], float],
    ) -> None:
        self.apply(limits)
        self._registry = registry
        self.budget = budget
        self._observer = observer
        self._clock = clock
        self.work = work
        self.ending: dict[Peer, bool] = {}

    def apply(self, limits: Limits) -> None:
        """Use these *limits* from now on."""
        self._max_backlog = limits.max_backlog
        self._max_session_queue = limits.max_session_queue
        self._has_sessions = limits.session_timeout > 0

    # To a peer

    def send(self, peer: Peer, message: Message, sender: Peer | None = None) -> None:
        """Send *message* to *peer*, or queue it; *sender* is the peer that addressed it."""
        connection = peer.connection
        if connection is not None and not connection.is_full:
            connection.send(message)
        else:
            self.keep(peer, message, sender)

    def broadcast(self, sender: Peer, body: bytes) -> None:
        """Send *body* to all other peers of the *sender*'s database."""
        self.work.units += sender.database.receivers.broadcast(sender, body, self.keep)

    def tell(
        self,
        database: Database,
        message: Message,
        but: Peer | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        """Send a *message* of the relay to all peers of a *database*.

        :param but: is not sent it.
        :param dialect: of those that are sent it; ``None``: all.
        """
        self.work.units += database.receivers.tell(message, self.keep, but, dialect)

    def keep(self, peer: Peer, message: Message, sender: Peer | None) -> None:
        """Queue *message* for *peer*, which cannot receive it now, if the limits allow it."""
        connection = peer.connection
        if peer.numbering is not None:
            sender = None  # it is delivered even if its sender has left
        if connection is not None:
            unsent = peer.queue.memory + connection.unsent
            if unsent and unsent + memory_of(message.size) > self._max_backlog:
                self._end_slow_consumer(peer, connection, unsent)
            else:
                self._append(peer.queue, message, sender)
        elif peer.state is SessionState.SUSPENDED:
            if self._make_room(peer.queue, message.size):
                self._append(peer.queue, message, sender)
            else:
                self.report_expiry(peer, ExpiryReason.SIZE)
                self.end(peer, may_run=True)
                self._keep_for_successor(peer, message, sender)
        else:
            self._keep_for_successor(peer, message, sender)

    def _append(self, queue: MessageQueue, message: Message, sender: Peer | None) -> None:
        queue.append(message, sender)
        if self.budget.is_due:
            self.enforce_memory_limit()

    def _make_room(self, queue: MessageQueue, size: int) -> bool:
        """Return whether a message of *size* bytes fits into a session's queue.

        If not, messages whose senders have left are dropped first.
        """
        limit = self._max_session_queue
        if queue.fits(limit, size):
            return True
        if queue.swept_to > limit - limit // 16:
            return False  # otherwise each further message would cause a search
        queue.discard_if(_is_from_gone)
        queue.swept_to = queue.memory
        return queue.fits(limit, size)

    def _end_slow_consumer(self, peer: Peer, connection: Connection, unsent: int) -> None:
        name, messages = peer.database.name, len(peer.queue)
        self._observer.report(SlowConsumer(name, peer.client_id, unsent, messages, peer.address))
        self.cut(peer)

    def cut(self, peer: Peer) -> None:
        """End the connection of *peer* at once, and its session with it."""
        connection = peer.connection
        self.end(peer, may_run=True)
        if connection is not None:
            connection.abort()

    def end(self, peer: Peer, may_run: bool) -> None:
        """Deliver nothing more to *peer*, whose session has to be ended.

        :param may_run: whether its process may still run, and take locks for its own.
        """
        peer.detach()
        peer.state = SessionState.ENDING
        peer.database.receivers.remove(peer)
        self.end_later(peer, may_run)

    def end_later(self, peer: Peer, may_run: bool) -> None:
        """Note that the session of *peer* has to be ended."""
        self.ending[peer] = may_run

    def forget(self, peer: Peer) -> None:
        """Note that the session of *peer* is ended."""
        self.ending.pop(peer, None)

    def drain(self, peer: Peer) -> None:
        """Hand *peer* the messages of its queue, in order, while its connection has room."""
        connection = peer.connection
        while connection is not None and peer.queue and not connection.is_full:
            for message in peer.queue.take(_DRAIN_STEP):
                connection.send(message)

    def flush(self, peer: Peer) -> None:
        """Hand *peer* all messages of its queue, whether or not its connection has room."""
        if peer.connection is not None:
            for message in peer.queue.take(peer.queue.memory):
                peer.connection.send(message)

    def deliver_queued(self, queue: MessageQueue, peer: Peer, is_back: bool) -> None:
        """Deliver the messages of *queue* to *peer*, after all that was sent to it before.

        Messages whose senders have left are dropped: the lock request of a dead worker
        would be granted, and would block the others for up to 120 s.

        :param is_back: whether *peer* has resumed its session.
        """
        self._report_dropped(peer, queue.discard_if(_is_from_gone))
        if queue or is_back:
            name, kind = peer.database.name, SessionResumed if is_back else QueueDelivered
            self._observer.report(kind(name, peer.client_id, len(queue), peer.address))
        if peer.is_master and peer.dialect is DOCUMENTED:  # they were rendered for acebase
            queue.change_each(_render_documented)
        if queue is not peer.queue:
            queue.move_to(peer.queue)
        self.drain(peer)

    def release(self, database: Database, kind: int) -> None:
        """Withhold requests of this *kind* no longer, and deliver those that wait to the master."""
        if not database.withheld & kind:
            return
        database.withheld &= ~kind
        master = database.peers.get(MASTER)
        if master is None or master.connection is None:
            return  # it receives them when it is back, or the next one does
        still = database.withheld
        queue = database.awaiting_master.take_if(lambda message: not is_kind(message.text, still))
        self._report_dropped(master, queue.discard_if(_is_from_gone))
        if queue:
            self._observer.report(
                QueueDelivered(database.name, _MASTER, len(queue), master.address)
            )
        queue.move_to(master.queue)
        self.drain(master)

    # To an absent master

    def waits_for_master(self, sender: Peer) -> bool:
        """Return whether messages of *sender* to an absent master are queued."""
        return self._has_sessions and sender.dialect is ACEBASE

    def keep_for_master(self, database: Database, message: Message, sender: Peer) -> None:
        """Queue a *message* that is addressed to a master that is absent or warming up."""
        queue = self.awaiting(database)
        if not self._make_room(queue, message.size):
            self._drop_awaiting(database)
        self._append(queue, message, sender)

    def _keep_for_successor(self, peer: Peer, message: Message, sender: Peer | None) -> None:
        if sender is not None and self.has_successor(peer):
            self.keep_for_master(peer.database, message, sender)

    def has_successor(self, peer: Peer) -> bool:
        """Return whether messages to *peer* are kept for the next master when it has left."""
        return self._has_sessions and peer.is_master and peer.dialect is ACEBASE

    def pass_to_successor(self, gone: Peer) -> None:
        """Keep the messages that were addressed to the master *gone* for the next master."""
        queue = gone.queue
        if (
            self.has_successor(gone)
            and gone.state is not SessionState.ENDING
            and queue.fits(self._max_session_queue)
        ):
            queue.discard_if(
                lambda message, sender: sender is None or _is_from_gone(message, sender)
            )
            queue.move_to(self.awaiting(gone.database))

    def awaiting(self, database: Database) -> MessageQueue:
        """Return the queue for the next master; messages are about to be added to it."""
        if not database.awaiting_master:
            database.awaiting_since = self._clock()
        return database.awaiting_master

    def _drop_awaiting(self, database: Database) -> int:
        """Drop what waits for a master, and return the bytes that its locks occupied."""
        queue, ledger = database.awaiting_master, database.ledger
        self._observer.report(
            SessionExpired(database.name, _MASTER, ExpiryReason.SIZE, len(queue), queue.memory)
        )
        queue.clear()
        if ledger is None:
            return 0
        held = ledger.memory_of_unwanted
        ledger.drop_unwanted()
        return held

    # Memory

    def enforce_memory_limit(self) -> None:
        """End the sessions that hold most memory while the total exceeds ``max_memory``."""
        if not self.budget.check():
            return
        consumers: list[tuple[int, int, Peer | Database]] = []
        for database in self._registry.all_databases():
            if memory := database.memory:
                consumers.append((-memory, len(consumers), database))
            for peer in database.peers.values():
                if memory := peer.memory:
                    consumers.append((-memory, len(consumers), peer))
        heapify(consumers)
        budget = self.budget
        excess = budget.used - budget.limit  # computed once: it asks every connection
        while consumers and excess > 0:
            _, _, consumer = heappop(consumers)
            excess -= budget.in_queues
            if isinstance(consumer, Peer):
                excess -= self._evict(consumer)
            else:
                excess -= self._drop_awaiting(consumer)
            excess += budget.in_queues

    def _evict(self, peer: Peer) -> int:
        """End the session of *peer*, and return the bytes that are freed when it has ended."""
        self._observer.report(
            EvictedForMemory(peer.database.name, peer.client_id, peer.memory, peer.address)
        )
        peer.drop_messages()
        held = peer.memory
        self.cut(peer)
        return held

    # Reports

    def report_expiry(self, peer: Peer, reason: ExpiryReason) -> None:
        """Report that the suspended session of *peer* ends."""
        queue, name = peer.queue, peer.database.name
        is_kept = self.has_successor(peer) and queue.fits(self._max_session_queue)
        fate = WAIT_FOR_MASTER if is_kept and reason is ExpiryReason.TIME else ARE_DROPPED
        self._observer.report(
            SessionExpired(name, peer.client_id, reason, len(queue), queue.memory, fate)
        )

    def _report_dropped(self, peer: Peer, dropped: int) -> None:
        if dropped:
            self._observer.report(
                MessageDropped(peer.database.name, peer.client_id, DropReason.SENDER_GONE, dropped)
            )
