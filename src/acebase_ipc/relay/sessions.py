"""Who is connected."""

from __future__ import annotations

from collections.abc import Callable

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.frames import text_frame
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.protocol.messages import connected, disconnected, welcome
from acebase_ipc.relay.conflicts import CHECK_TIMEOUT, IdConflicts
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.errors import AmbiguousPeer, NotAPeer, NotFound, Overloaded
from acebase_ipc.relay.events import (
    DropReason,
    ExpiryReason,
    IdConflict,
    MessageDropped,
    NullObserver,
    Observer,
    PeerJoined,
    PeerLeft,
    PeerReplaced,
    SessionSuspended,
)
from acebase_ipc.relay.introductions import hello, introductions
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.peers import Client, Connection, Database, Peer, State
from acebase_ipc.relay.queue import MessageQueue
from acebase_ipc.relay.recovery import Seats
from acebase_ipc.relay.store import MessageStore

CLOSE_REPLACED = 4001
"""Closes a connection whose id has connected again (RFC 6455: private use)."""


class Membership:
    """The databases and their peers: who joins, returns, is replaced, lost, or leaves.

    :param introduce: whether to greet acebase peers on each other's behalf.
    :ivar max_payload: UTF-16 code units that a WebSocket message may have.
    :ivar mailbox: the large messages that wait to be downloaded.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        observer: Observer | None = None,
        introduce: bool = True,
    ) -> None:
        limits = limits or Limits()
        self.max_payload = limits.payload_limit
        self.mailbox = MessageStore(limits.message_ttl)
        self._max_memory = limits.max_memory
        self._max_databases = limits.max_databases
        self._max_database_connections = limits.max_database_connections
        self._observer = observer or NullObserver()
        self._delivery = Delivery(limits, self._observer)
        self._send = self._delivery.send
        self._introduce = introduce
        self._seats = Seats(limits.session_timeout, limits.max_session_queue)
        self._conflicts = IdConflicts()
        self._databases: dict[str, Database] = {}
        self._welcome = text_frame(welcome(self.max_payload))

    def join(self, handshake: Handshake, connection: Connection, wall: int) -> Peer:
        """A client has connected: welcome it and tell the other peers.

        If a peer of this id is there already, or expected back, this is its
        return or its replacement; see :meth:`_return`.
        """
        previous = self._find(handshake.database, handshake.client_id.encode())
        if previous is not None:
            if self._is_same_member(previous, handshake):
                self._return(previous, connection, wall)
                return previous
            self._replace(previous)
            self._leave(previous)
        database = self._databases.get(handshake.database)
        if database is None:
            database = self._databases[handshake.database] = Database(handshake.database)
        peer = Peer(handshake, database, connection, wall)
        database.peers[peer.id] = peer
        connection.send(self._welcome)
        self._tell_others(peer, connected(peer.id))
        self._observer.report(PeerJoined(database.name, peer.client_id, peer.dialect.value))
        self._greet(peer)
        if peer.is_master:
            self._delivery.deliver_queued(database.awaiting_master, peer)
        return peer

    def check_room(self, handshake: Handshake) -> None:
        """Whether one more peer may join.

        :raises Overloaded: if there are too many databases, or peers of this one.
        """
        database = self._databases.get(handshake.database)
        if database is None:
            if len(self._databases) >= self._max_databases:
                raise Overloaded("Too many databases: try again later")
        elif (
            handshake.client_id.encode() not in database.peers
            and len(database.peers) >= self._max_database_connections
        ):
            raise Overloaded("Too many connections of this database: try again later")

    @staticmethod
    def _is_same_member(previous: Peer, handshake: Handshake) -> bool:
        """Whether a newcomer continues an acebase peer, for all that others need to know.

        A peer that was recognised by its envelopes is so again without any.
        """
        return (
            previous.is_introduced
            and previous.state is not State.CUT
            and (handshake.dialect is Dialect.ACEBASE or not handshake.dialect_settled)
        )

    def _return(self, peer: Peer, connection: Connection, wall: int) -> None:
        """An acebase peer is back, or has replaced its own connection.

        A worker returns silently. ``[master]`` may be a new process, so the
        others hear that it went and came, and all are introduced again.
        """
        self._replace(peer)
        peer.connection = connection
        peer.connected = wall
        peer.state = State.FLOWING
        held, peer.backlog = peer.backlog, MessageQueue()
        connection.send(self._welcome)
        if peer.is_master:
            self._tell_others(peer, disconnected(peer.id))
            self._tell_others(peer, connected(peer.id))
            self._greet(peer)
        self._delivery.deliver_queued(held, peer)

    def _replace(self, peer: Peer) -> None:
        """Take what *peer* has not been sent back from its connection, and close that."""
        self._seats.release(peer)
        if peer.connection is not None:
            self._observer.report(PeerReplaced(peer.database.name, peer.client_id))
            peer.backlog.prepend(peer.connection.reclaim())
            peer.connection.close(CLOSE_REPLACED, "replaced")

    def _greet(self, newcomer: Peer) -> None:
        """Greet acebase peers on each other's behalf."""
        if self._introduce:
            peers = newcomer.database.peers.values()
            for recipient, about in introductions(newcomer, peers):
                self._send(recipient, text_frame(hello(about)))

    def lost(self, peer: Peer, connection: Connection, close_code: int | None, now: float) -> None:
        """*connection* has ended; may be called more than once.

        :param close_code: what the other end said in a completed closing
            handshake; ``None`` if there was none.
        """
        if peer.state is State.GONE:
            return
        if peer.connection is not connection:
            if close_code is not None:
                self._conflicts.declare(peer, now)  # replaced, though it was alive
            return
        peer.backlog.prepend(connection.reclaim())
        if self._seats.deserves(peer, close_code):
            self._seat(peer, now)
        else:
            self._leave(peer)

    def _seat(self, peer: Peer, now: float) -> None:
        peer.connection = None
        peer.state = State.SEATED
        self._seats.keep(peer, now)
        self._delivery.forget_gone_senders(peer)
        self._observer.report(SessionSuspended(peer.database.name, peer.client_id))

    def _leave(self, peer: Peer) -> None:
        """*peer* is not a peer any more: forget it and tell the others."""
        database = peer.database
        del database.peers[peer.id]
        self._seats.release(peer)
        self._delivery.pass_to_successor(peer)
        peer.state = State.GONE
        undelivered = peer.backlog.clear() + self.mailbox.forget(database.name, peer.id)
        if undelivered:
            self._dropped(peer, DropReason.RECIPIENT_GONE, undelivered)
        self._delivery.forget_sender(peer)
        if not database.peers:
            del self._databases[database.name]
        self._tell_others(peer, disconnected(peer.id))
        self._observer.report(PeerLeft(database.name, peer.client_id))

    def challenge(
        self, handshake: Handshake, newcomer: str, now: float, decide: Callable[[bool], object]
    ) -> None:
        """Decide whether a newcomer may have the id it wants.

        *decide* is called with the answer: at once, unless the id is contested;
        then its holder is asked for a sign of life first.

        :param newcomer: the newcomer's address, for the log.
        """
        holder = self._find(handshake.database, handshake.client_id.encode())
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

        connection.probe(CHECK_TIMEOUT, answered)

    def close(self, code: int, reason: str) -> None:
        """Hand every peer all that waits for it and close its connection."""
        for database in tuple(self._databases.values()):
            for peer in tuple(database.peers.values()):
                if peer.connection is not None:
                    for frame in peer.backlog.take(peer.backlog.size):
                        peer.connection.send(frame)
                    peer.connection.close(code, reason)

    def _find(self, database: str, peer_id: bytes) -> Peer | None:
        found = self._databases.get(database)
        return None if found is None else found.peers.get(peer_id)

    def peer(self, database: str, client_id: str) -> Peer:
        """The peer of that database and id, connected or expected back.

        :raises NotAPeer: if there is none.
        """
        found = self._find(database, client_id.encode("utf-8", "surrogateescape"))
        if found is None:
            raise NotAPeer
        return found

    def database_of(self, client_id: str, may_open: Callable[[str], bool]) -> str:
        """The only database that has a peer of this id.

        :param may_open: tells which databases are searched, by their names.
        :raises NotFound: if no database has.
        :raises AmbiguousPeer: if several have.
        """
        peer_id = client_id.encode("utf-8", "surrogateescape")
        found = [
            each.name
            for each in self._databases.values()
            if peer_id in each.peers and may_open(each.name)
        ]
        if not found:
            raise NotFound("No database has a peer of this id")
        if len(found) > 1:
            raise AmbiguousPeer
        return found[0]

    def clients(self, database: str) -> list[Client]:
        """The connected peers of that database, in the order they came."""
        found = self._databases.get(database)
        return [
            Client(each.client_id, database, each.connected)
            for each in (found.peers.values() if found else ())
            if each.connection is not None
        ]

    def _tell_others(self, peer: Peer, message: bytes) -> None:
        frame = text_frame(message)
        for other in peer.database.peers.values():
            if other is not peer:
                self._send(other, frame)

    def _dropped(self, peer: Peer, reason: DropReason, messages: int) -> None:
        self._observer.report(MessageDropped(peer.database.name, peer.client_id, reason, messages))

    def congested(self, peer: Peer, connection: Connection) -> None:
        """*connection* has no room: what comes waits in the peer's backlog."""
        if peer.connection is connection and peer.state is State.FLOWING:
            peer.state = State.CONGESTED

    def drained(self, peer: Peer, connection: Connection) -> None:
        """*connection* has room again: hand it what waits, in order."""
        if peer.connection is connection and peer.state is State.CONGESTED:
            peer.state = State.FLOWING
            self._delivery.drain(peer)

    def expire(self, now: float) -> None:
        """End what has lasted too long; to be called about once a second."""
        for peer in self._seats.over(now):
            if peer.state is State.SEATED:
                self._delivery.report_seat_end(peer, ExpiryReason.TIME)
            self._leave(peer)
        self._conflicts.expire(now)
