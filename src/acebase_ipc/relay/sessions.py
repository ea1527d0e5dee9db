"""Sessions: join, resume, replace, suspend, expire, leave.

The npm package acebase reconnects at once with the same id, and its requests have no
timeouts: a worker that does not receive the reply to a lock request hangs indefinitely,
and peers that receive a ``disconnect:`` drop the lost peer's subscriptions. So an acebase peer
whose connection breaks keeps its session for some seconds: the others are not told, and
messages for it wait.

Measured with acebase 1.29.13: of 10 events written during a cut, 10 arrive when the
disconnect is deferred and none when it is sent at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from hmac import compare_digest

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.protocol.messages import (
    Message,
    connected,
    disconnected,
    welcome,
    welcome_to_session,
)
from acebase_ipc.relay.conflicts import CHECK_TIMEOUT, IdConflicts
from acebase_ipc.relay.connection import Connection
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.events import (
    DropReason,
    ExpiryReason,
    IdConflict,
    MessageDropped,
    Observer,
    PeerJoined,
    PeerKicked,
    PeerLeft,
    PeerReplaced,
    SessionSuspended,
)
from acebase_ipc.relay.fences import Fences
from acebase_ipc.relay.history import Histories
from acebase_ipc.relay.introductions import Introductions
from acebase_ipc.relay.journal import Journal, RestoredFence, RestoredWorker
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.numbering import Numbering, Window
from acebase_ipc.relay.peers import FILES, Database, Peer, SessionState
from acebase_ipc.relay.quiesce import Quiesce
from acebase_ipc.relay.recovery import LockRecovery
from acebase_ipc.relay.registry import Registry, encode_id
from acebase_ipc.relay.resumption import NumberedConnection
from acebase_ipc.relay.state import FenceState
from acebase_ipc.relay.store import MessageStore
from acebase_ipc.relay.warm_up import WarmUp
from acebase_ipc.relay.work import SLICE

Conflicts = tuple[tuple[str, bytes, float], ...]
"""The ids that are in conflict: the database, the id, and the time that is left."""

CLOSE_REPLACED = 4001
"""Closes a connection whose id has connected again (RFC 6455: private use)."""

CLOSE_KICKED = 4002
"""Closes a connection on an administrator's command (RFC 6455: private use)."""

LEAVING = frozenset({1000, 1001})
"""Close codes of a client that leaves (RFC 6455: normal closure, going away)."""

SESSION_BYTES = 24
"""Random bytes of the name of a resumable session: 192 bits cannot be guessed."""

EPOCH_BYTES = 9
"""Random bytes of an epoch, of which two must not be the same."""

END = 32
"""Units of work that ending a session counts, beside telling the others."""

_ENDED = frozenset({SessionState.ENDING, SessionState.RESTORED})
"""The states of a session that ends when its peer is back."""

_OVER = frozenset({SessionState.ENDING, SessionState.GONE})
"""The states of a session that cannot be resumed."""


class Arrival(Enum):
    """The way in which a client has become a peer."""

    JOINED = "it is new"
    RESUMED = "its session goes on, and the others are not told"
    RESTARTED = "it is a master whose session goes on, but perhaps in a new process"


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client that was made a peer and has not been welcomed yet.

    :ivar peer: its session; its connection has to know it before :meth:`Sessions.welcome`.
    :ivar arrival: whether it is new.
    """

    peer: Peer
    arrival: Arrival


class Sessions:
    """Admits, suspends, resumes and ends sessions.

    :ivar epoch: names what this relay, and those before it whose state it has, know of sessions.
    :ivar window: how much the peers of resumable sessions may leave unacknowledged.
    """

    def __init__(
        self,
        limits: Limits,
        registry: Registry,
        delivery: Delivery,
        introductions: Introductions,
        store: MessageStore,
        recovery: LockRecovery,
        warm_up: WarmUp,
        quiesce: Quiesce,
        observer: Observer,
        end_soon: Callable[[], object],
        histories: Histories,
        journal: Journal | None = None,
    ) -> None:
        """:param end_soon: calls :meth:`end_some` until it returns that none is left."""
        self._fences = Fences(limits.fence, observer, journal)
        self.window = Window(0)
        self.epoch = secrets.token_urlsafe(EPOCH_BYTES)
        self.apply(limits)
        self._registry = registry
        self._delivery = delivery
        self._introductions = introductions
        self._store = store
        self._recovery = recovery
        self._warm_up = warm_up
        self._quiesce = quiesce
        self._observer = observer
        self._end_soon = end_soon
        self._histories = histories
        self._journal = journal
        self._conflicts = IdConflicts()
        self._expiries: dict[Peer, float] = {}
        self._farewell: tuple[int, str] | None = None
        self._max_payload = limits.payload_limit
        self._welcome = Message(welcome(limits.payload_limit))

    def apply(self, limits: Limits) -> None:
        """Use these *limits* from now on."""
        self._timeout = limits.session_timeout
        self._timeout_closed = min(limits.session_timeout_closed, limits.session_timeout)
        self._max_session_queue = limits.max_session_queue
        self.window.size = limits.max_session_queue // 2
        self._fences.seconds = limits.fence

    # Arriving

    def check_conflict(
        self, handshake: Handshake, newcomer: str, now: float, decide: Callable[[bool], object]
    ) -> None:
        """Check whether a newcomer may have the id that it asks for.

        Calls *decide* with the answer: at once, unless the id is in conflict. Then the
        holder of the id is pinged first.

        :param newcomer: the newcomer's address, for the log.
        :param now: monotonic seconds.
        """
        holder = self._registry.find(handshake.database, handshake.client_id)
        connection = None if holder is None else holder.connection
        if holder is None or connection is None or not self._conflicts.includes(holder, now):
            decide(True)
            return
        address = connection.address

        def answered(alive: bool) -> None:
            if alive:
                database, client_id = handshake.database, handshake.client_id
                self._observer.report(IdConflict(database, client_id, address, newcomer))
            decide(not alive)

        connection.check(CHECK_TIMEOUT, answered)

    def check_fence(self, handshake: Handshake, newcomer: str, now: float) -> None:
        """Refuse a client whose session ended while it held locks.

        :param newcomer: the client's address, for the log.
        :param now: monotonic seconds.
        :raises Fenced: with 500, which ends the process of a published client.
        """
        previous = self._registry.find(handshake.database, handshake.client_id)
        if previous is not None and previous.state in _ENDED:
            may_run = self._delivery.ending.get(previous, True)
            self.end({previous: now if may_run else None})
        self._fences.check(handshake, newcomer, now)

    def admit(self, handshake: Handshake, connection: Connection, connected_at: int) -> Admitted:
        """Make the client of *handshake* a peer; nothing is sent to it yet.

        If there is a peer of this id, its session is resumed or it is replaced.

        :param connected_at: milliseconds since 1970.
        """
        previous = self._registry.find(handshake.database, handshake.client_id)
        continues = previous is not None and self._continues(previous, handshake)
        if previous is not None:
            self._take_connection(previous)  # which may end its session: a close is written
        if previous is not None and continues and previous.state not in _OVER:
            self._expiries.pop(previous, None)
            if handshake.resume is not None and previous.numbering is not None:
                previous.numbering.resume(handshake.resume.last, previous.queue)
            attach(previous, connection)
            previous.connected = connected_at
            previous.state = SessionState.CONNECTED
            arrival = Arrival.RESTARTED if previous.is_master else Arrival.RESUMED
            return Admitted(previous, arrival)
        if previous is not None:
            self.end({previous: None})
        peer = self._registry.add(handshake, connection, connected_at)
        if handshake.resume is not None and self._timeout > 0 and not peer.is_master:
            session = secrets.token_urlsafe(SESSION_BYTES)
            peer.numbering = Numbering(session, self.window, self._delivery.budget)
            attach(peer, connection)
        if self._journal is not None and handshake.restarts and not peer.is_master:
            peer.number = self._journal.joined(peer.database.name, peer.client_id, restarts=True)
        return Admitted(peer, Arrival.JOINED)

    def welcome(self, admitted: Admitted) -> None:
        """Welcome a peer, tell the others if it is new, and deliver its queue."""
        peer, database = admitted.peer, admitted.peer.database
        if self._farewell is not None and peer.connection is not None:
            self._send_welcome(admitted)
            peer.connection.suspend(*self._farewell)
            if admitted.arrival is Arrival.JOINED:
                self._introduce(peer)
            return  # it receives its queue from the next relay, so that it can answer
        queued = peer.queue.take_all()
        self._send_welcome(admitted)
        if admitted.arrival is Arrival.JOINED:
            self._introduce(peer)
        elif admitted.arrival is Arrival.RESTARTED:
            self._delivery.tell(database, Message(disconnected(peer.id)), but=peer)
            self._delivery.tell(database, Message(connected(peer.id)), but=peer)
            self._introductions.introduce(peer)
        if peer.is_master:
            database.awaiting_master.move_to(queued)
            self._recovery.master_arrived(peer, queued)
            self._warm_up.begin(peer, queued)
            self._quiesce.take_back(peer, queued)
        is_back = admitted.arrival is not Arrival.JOINED
        if queued or is_back:
            self._delivery.deliver_queued(queued, peer, is_back)

    def _send_welcome(self, admitted: Admitted) -> None:
        peer, message = admitted.peer, self._welcome
        numbering = peer.numbering
        if numbering is not None:
            numbering.received.acknowledgement()
            is_resumed = admitted.arrival is not Arrival.JOINED
            last = numbering.received.last
            message = Message(
                welcome_to_session(
                    self._max_payload, numbering.session, self.epoch, is_resumed, last
                )
            )
        self._delivery.send(peer, message)

    def _introduce(self, newcomer: Peer) -> None:
        """Tell the others of a new peer, and introduce them to each other."""
        self._delivery.tell(newcomer.database, Message(connected(newcomer.id)), but=newcomer)
        name, dialect = newcomer.database.name, newcomer.dialect.value
        self._observer.report(PeerJoined(name, newcomer.client_id, dialect, newcomer.address))
        self._introductions.introduce(newcomer)

    def suspend_all(self, code: int, reason: str) -> None:
        """Close all connections, also those of peers that are welcomed from now on.

        What a client sends before it has closed its connection, too, is received.
        """
        self._farewell = code, reason
        for peer in tuple(self._registry.peers()):
            if peer.connection is not None:
                peer.connection.suspend(code, reason)

    @staticmethod
    def _continues(previous: Peer, handshake: Handshake) -> bool:
        """Return whether a newcomer resumes the session of *previous*.

        It has to name a resumable session. That of another acebase peer it need not: the handshake
        of a peer whose dialect was detected by an envelope does not even show the dialect.
        """
        resume, numbering = handshake.resume, previous.numbering
        if numbering is not None:
            return (
                resume is not None
                and compare_digest(encode_id(resume.session), numbering.session.encode())
                and numbering.sent.can_resume(resume.last)
                and previous.state is not SessionState.ENDING
            )
        return (
            resume is None
            and previous.is_introduced
            and previous.state is not SessionState.ENDING
            and (handshake.dialect is ACEBASE or not handshake.dialect_settled)
        )

    def _take_connection(self, peer: Peer) -> None:
        """Detach and close the connection of *peer*, which a new one replaces."""
        connection = peer.connection
        if connection is not None:
            self._observer.report(PeerReplaced(peer.database.name, peer.client_id, peer.address))
            self._histories.interrupted(peer)
            peer.queue.prepend(connection.reclaim())
            peer.detach()
            connection.close(CLOSE_REPLACED, "replaced")

    # In place of another relay

    def export(
        self, now: float
    ) -> tuple[tuple[tuple[str, str, float], ...], tuple[FenceState, ...], Conflicts]:
        """Return which sessions expire, which ids are refused, and which are in conflict."""
        expiries = tuple(
            (peer.database.name, peer.client_id, until - now)
            for peer, until in self._expiries.items()
        )
        return expiries, self._fences.export(now), self._conflicts.export(now)

    def adopt(
        self,
        expiries: Mapping[Peer, float],
        fences: tuple[FenceState, ...],
        conflicts: Conflicts,
        now: float,
    ) -> None:
        """Take over the sessions of another relay, which are in the registry.

        Those that had a connection there and have none here are suspended, or end.

        :param expiries: the seconds after which sessions expire.
        """
        self._fences.adopt(fences, now)
        self._conflicts.adopt(conflicts, now)
        for peer, left in expiries.items():
            self._expiries[peer] = now + left
        for peer in tuple(self._registry.peers()):
            if peer.state is SessionState.CONNECTED and peer.connection is None:
                if self._keeps_session(peer, None):
                    peer.state = SessionState.SUSPENDED
                    self._expiries[peer] = now + self._timeout
                else:
                    self._end_later(peer, may_run=True)
        self._end_soon()

    @property
    def refuses_any(self) -> bool:
        """Whether an id is refused."""
        return bool(self._fences)

    @property
    def fenced(self) -> set[str]:
        """The databases in which an id is refused."""
        return self._fences.databases

    def drop(self, peer: Peer) -> None:
        """Forget *peer*, whose session another relay goes on with."""
        peer.detach()
        peer.drop_messages()
        peer.database.awaiting_master.clear()
        peer.state = SessionState.GONE
        self._expiries.pop(peer, None)
        self._delivery.forget(peer)

    def clear(self) -> None:
        """Forget what is known beside the peers, and close no more connections."""
        self._expiries.clear()
        self._fences.clear()
        self._conflicts.clear()
        self._farewell = None

    # After a crash of the relay

    def restore(self, database: str, worker: RestoredWorker, now: float) -> Peer:
        """Restore the session of a worker that must not come back; returns its peer.

        It ends when the worker is refused, or has not come back in time.

        :param now: monotonic seconds.
        """
        handshake = Handshake(database, worker.client_id, ACEBASE, True, worker.restarts)
        peer = self._registry.add(handshake, None, 0)
        peer.state = SessionState.RESTORED
        self._expiries[peer] = now + self._timeout
        self._fences.add(database, worker.client_id, now, is_reported=True)
        return peer

    def restore_fence(self, fence: RestoredFence, now: float) -> None:
        """Refuse an id for as long as the relay before this one would have."""
        if fence.until > now:
            self._fences.restore(fence.database, fence.client_id, fence.until)

    # Leaving

    def lost(
        self,
        peer: Peer,
        connection: Connection,
        close_code: int | None,
        now: float,
        has_ended: bool = False,
    ) -> None:
        """Note that *connection* of *peer* has ended or is ending; may be called more than once.

        :param close_code: the code of the other end's close frame; ``None`` if it sent
            none.
        :param now: monotonic seconds.
        :param has_ended: whether the client's own host has closed the connection, without a
            close frame: then its process has ended, or is back within milliseconds.
        """
        if peer.state is SessionState.GONE:
            return
        if peer.state is SessionState.ENDING:
            self._end_soon()
        elif peer.connection is not connection:
            if close_code is not None and peer.numbering is None:
                self._conflicts.declare(peer, now)  # it was replaced although its process runs
        else:
            peer.queue.prepend(connection.reclaim())
            peer.detach()
            if close_code not in LEAVING and not peer.said_bye:
                self._histories.interrupted(peer)
            if self._keeps_session(peer, close_code):
                may_come_back = peer.is_master or peer.numbering is not None
                self._suspend(peer, now, has_ended and not may_come_back)
            else:
                self._end_later(peer, may_run=close_code not in LEAVING)
                self._end_soon()

    def _keeps_session(self, peer: Peer, close_code: int | None) -> bool:
        return (
            self._timeout > 0
            and (peer.dialect is ACEBASE or peer.numbering is not None)
            and close_code not in LEAVING
            and not peer.said_bye
            and peer.queue.fits(self._max_session_queue)
        )

    def _suspend(self, peer: Peer, now: float, is_short: bool) -> None:
        peer.state = SessionState.SUSPENDED
        self._expiries[peer] = now + (self._timeout_closed if is_short else self._timeout)
        self._observer.report(SessionSuspended(peer.database.name, peer.client_id, peer.address))

    def _end_later(self, peer: Peer, may_run: bool) -> None:
        self._delivery.pass_to_successor(peer)
        self._delivery.end(peer, may_run)

    def end(self, peers: Mapping[Peer, float | None]) -> None:
        """End the sessions of *peers*: remove all of them, then tell the others.

        None of them is suspended.

        :param peers: each with the time, in monotonic seconds, if its process may still run, and
            take locks for its own that are released now: then its id is refused for some time.
        """
        left: dict[Database, list[Peer]] = {}
        for peer, lost_at in peers.items():
            if peer.state is SessionState.GONE:
                continue
            self._delivery.pass_to_successor(peer)
            if lost_at is not None:
                self._histories.interrupted(peer)
            if self._recovery.worker_gone(peer) and lost_at is not None:
                self._fences.add(peer.database.name, peer.client_id, lost_at)
            self._forget(peer)
            left.setdefault(peer.database, []).append(peer)
        for database, gone in left.items():
            for peer in gone:
                self._delivery.tell(database, Message(disconnected(peer.id)))
                self._observer.report(PeerLeft(database.name, peer.client_id, peer.address))

    def kick(self, peer: Peer, now: float, end_process: bool) -> None:
        """Close the connection of *peer*: a published client comes back at once.

        :param now: monotonic seconds.
        :param end_process: end its session, too, and refuse its next handshake with 500, which
            ends the process of a published client. The id of a worker stays refused, as its
            process starts again under another one.
        """
        self._observer.report(PeerKicked(peer.database.name, peer.client_id, peer.address))
        connection = peer.connection
        if end_process or connection is None:
            self.end({peer: now})
        if end_process:
            once = peer.is_master or peer.dialect is not ACEBASE
            self._fences.add_kicked(peer.database.name, peer.client_id, now, once)
        if connection is not None:
            connection.close(CLOSE_KICKED, "closed by an administrator")

    def end_some(self, now: float) -> bool:
        """End about a slice of the sessions that are ending, the first ones first.

        :param now: monotonic seconds.
        :returns: whether others are left.
        """
        ending = self._delivery.ending
        units = 0
        some: dict[Peer, float | None] = {}
        for peer, may_run in ending.items():
            units += END + peer.database.receivers.units
            some[peer] = now if may_run else None
            if units >= SLICE:
                break
        try:
            self.end(some)
        except Exception:
            failed = next((each for each in some if each.state is not SessionState.GONE), None)
            if failed is not None:
                self._delivery.forget(failed)  # so that the others are ended in the next step
            raise
        self._delivery.work.units += END * len(some)
        return bool(ending)

    def _forget(self, peer: Peer) -> None:
        peer.database.part_with(peer)
        self._registry.departed.add(peer.database.name, peer.traffic)
        self._registry.remove(peer)
        self._expiries.pop(peer, None)
        self._delivery.forget(peer)
        peer.state = SessionState.GONE
        peer.detach()
        if peer.is_master:
            peer.database.withheld &= ~FILES
        if self._journal is not None and peer.number:
            self._journal.left(peer.number)
        name = peer.database.name
        undelivered = peer.drop_messages() + self._store.forget(name, peer.id)
        if undelivered:
            self._observer.report(
                MessageDropped(name, peer.client_id, DropReason.RECIPIENT_GONE, undelivered)
            )

    def expire(self, now: float) -> None:
        """End the sessions that have expired; to be called about once a second.

        :param now: monotonic seconds.
        """
        over = [peer for peer, until in self._expiries.items() if until <= now]
        for peer in over:
            del self._expiries[peer]
            if peer.state is SessionState.SUSPENDED:
                self._delivery.report_expiry(peer, ExpiryReason.TIME)
                self._end_later(peer, may_run=True)
            elif peer.state is SessionState.RESTORED:
                self._delivery.end_later(peer, may_run=True)
        self._end_soon()
        self._conflicts.expire(now)
        self._fences.expire(now)

    def end_all(self) -> None:
        """End all sessions without telling other peers, because all connections are closed next."""
        for peer in tuple(self._registry.peers()):
            self._forget(peer)
            self._observer.report(PeerLeft(peer.database.name, peer.client_id, peer.address))


def attach(peer: Peer, connection: Connection) -> None:
    """Let *peer* be sent messages over *connection*."""
    numbering = peer.numbering
    peer.attach(connection if numbering is None else NumberedConnection(connection, numbering))
