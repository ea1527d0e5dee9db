"""Who is connected, and who receives what."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from acebase_ipc.backlog import Backlog
from acebase_ipc.dialect import ENVELOPE_START, Dialect, is_envelope
from acebase_ipc.errors import AmbiguousPeer, MessageTooLarge, NotAPeer, NotFound
from acebase_ipc.framing import text_frame
from acebase_ipc.handshake import Handshake
from acebase_ipc.limits import KIB, Limits
from acebase_ipc.mailbox import Mailbox
from acebase_ipc.observer import (
    Cut,
    Drop,
    Dropped,
    Joined,
    Left,
    NullObserver,
    Observer,
    Recognised,
    Replaced,
)
from acebase_ipc.protocol import (
    PONG,
    Audience,
    announcement,
    connected,
    disconnected,
    parse,
    render,
    utf16_units,
    welcome,
)

CLOSE_REPLACED = 4001
"""Closes a connection whose id has connected again (RFC 6455: private use)."""

_PONG_FRAME = text_frame(PONG)
_DRAIN_STEP = 64 * KIB
"""Bytes handed to a connection that has room again before asking it once more."""


class Connection(Protocol):
    """What the relay needs of a peer's connection; none of it may raise.

    A connection tells the relay when it is :meth:`~Relay.congested`, when it
    has room again (:meth:`~Relay.drained`), and when it is :meth:`~Relay.lost`.
    """

    @property
    def backlog(self) -> int:
        """At most this many bytes were taken by :meth:`send` and are unsent."""

    def send(self, frame: bytes) -> None:
        """Send *frame* after all frames sent before, at the latest at the end of this turn."""

    def close(self, code: int, reason: str) -> None:
        """Send what was taken, then close the WebSocket with *code* and *reason*."""

    def abort(self) -> None:
        """End the connection at once; what was taken is lost."""


class State(Enum):
    """What becomes of a frame for a peer."""

    FLOWING = "handed to its connection"
    CONGESTED = "waits until its connection has room"
    CUT = "dropped: its connection is being ended because it did not read"
    GONE = "not its peer any more"


class Peer:
    """A process that has opened a database.

    :ivar id: its id in UTF-8, the key among its database's peers.
    :ivar client_id: its id as text.
    :ivar connected: when it connected, in milliseconds since 1970.
    :ivar backlog: what waits for it.
    """

    __slots__ = (
        "backlog",
        "client_id",
        "connected",
        "connection",
        "database",
        "dialect",
        "dialect_settled",
        "id",
        "state",
    )

    def __init__(
        self, handshake: Handshake, database: Database, connection: Connection, connected: int
    ) -> None:
        self.id = handshake.client_id.encode()
        self.client_id = handshake.client_id
        self.database = database
        self.connection = connection
        self.connected = connected
        self.dialect = handshake.dialect
        self.dialect_settled = handshake.dialect_settled
        self.state = State.FLOWING
        self.backlog = Backlog()


class Database:
    """The peers that have opened one database, by id."""

    __slots__ = ("name", "peers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.peers: dict[bytes, Peer] = {}


@dataclass(frozen=True, slots=True)
class Client:
    """A connected client, as told to the outside.

    :ivar id: the client's id.
    :ivar dbname: the wire name of its database.
    :ivar connected: when it connected, in milliseconds since 1970.
    """

    id: str
    dbname: str
    connected: int


class Relay:
    """Relays messages between the peers of each database, and never between databases.

    Every change enters through a method, with the time as an argument where it
    matters: *now* is in seconds of a monotonic clock, *wall* in milliseconds
    since 1970. The relay does no I/O beyond the methods of :class:`Connection`.
    """

    def __init__(self, limits: Limits | None = None, observer: Observer | None = None) -> None:
        limits = limits or Limits()
        self.max_payload = limits.payload_limit
        self.mailbox = Mailbox(limits.message_ttl)
        self._max_backlog = limits.max_backlog
        self._observer = observer or NullObserver()
        self._databases: dict[str, Database] = {}
        self._welcome = text_frame(welcome(self.max_payload))

    # Who is connected

    def join(self, handshake: Handshake, connection: Connection, wall: int) -> Peer:
        """A client has connected: welcome it and tell the other peers.

        A peer that already has this id is replaced: its connection is closed
        first, and the others hear that it went before they hear that it came.
        """
        previous = self._find(handshake.database, handshake.client_id.encode())
        if previous is not None:
            self._observer.report(Replaced(handshake.database, handshake.client_id))
            previous.connection.close(CLOSE_REPLACED, "replaced")
            self._leave(previous)
        database = self._databases.get(handshake.database)
        if database is None:
            database = self._databases[handshake.database] = Database(handshake.database)
        peer = Peer(handshake, database, connection, wall)
        database.peers[peer.id] = peer
        connection.send(self._welcome)
        self._tell_others(peer, connected(peer.id))
        self._observer.report(Joined(database.name, peer.client_id, peer.dialect.value))
        return peer

    def lost(self, peer: Peer, connection: Connection) -> None:
        """*connection* has ended, for whatever reason; may be called more than once."""
        if peer.connection is connection and peer.state is not State.GONE:
            self._leave(peer)

    def close(self, code: int, reason: str) -> None:
        """Hand every peer all that waits for it and close its connection."""
        for database in tuple(self._databases.values()):
            for peer in tuple(database.peers.values()):
                for frame in peer.backlog.take(peer.backlog.size):
                    peer.connection.send(frame)
                peer.connection.close(code, reason)

    def _leave(self, peer: Peer) -> None:
        database = peer.database
        del database.peers[peer.id]
        peer.state = State.GONE
        undelivered = peer.backlog.clear() + self.mailbox.forget(database.name, peer.id)
        if undelivered:
            self._dropped(peer, Drop.RECIPIENT_GONE, undelivered)
        if not database.peers:
            del self._databases[database.name]
        self._tell_others(peer, disconnected(peer.id))
        self._observer.report(Left(database.name, peer.client_id))

    def _find(self, database: str, peer_id: bytes) -> Peer | None:
        found = self._databases.get(database)
        return None if found is None else found.peers.get(peer_id)

    def peer(self, database: str, client_id: str) -> Peer:
        """The peer of that database and id.

        :raises NotAPeer: if there is none.
        """
        found = self._find(database, client_id.encode("utf-8", "surrogateescape"))
        if found is None:
            raise NotAPeer
        return found

    def database_of(self, client_id: str) -> str:
        """The only database that has a peer of this id.

        :raises NotFound: if no database has.
        :raises AmbiguousPeer: if several have.
        """
        peer_id = client_id.encode("utf-8", "surrogateescape")
        found = [each.name for each in self._databases.values() if peer_id in each.peers]
        if not found:
            raise NotFound("No database has a peer of this id")
        if len(found) > 1:
            raise AmbiguousPeer
        return found[0]

    def clients(self, database: str) -> list[Client]:
        """The peers of that database, in the order they came."""
        found = self._databases.get(database)
        peers = found.peers.values() if found else ()
        return [Client(each.client_id, database, each.connected) for each in peers]

    # Who receives what

    def receive(self, sender: Peer, message: bytes) -> None:
        """Relay a text message, valid UTF-8, that came over *sender*'s WebSocket.

        :raises MessageTooLarge: above maxPayload UTF-16 code units.
        :raises InvalidAddress: for a malformed ``to:``.
        """
        if self._is_large(message):
            raise MessageTooLarge(self.max_payload)
        addressee, body = parse(message)
        if not sender.dialect_settled:
            self._recognise(sender, body)
        self._deliver(sender, addressee, body)

    def post(self, sender: Peer, message: bytes, now: float) -> None:
        """Relay a message, valid UTF-8 of any size, that *sender* has posted.

        :raises InvalidAddress: for a malformed ``to:``.
        """
        addressee, body = parse(message)
        if not sender.dialect_settled:
            self._recognise(sender, body)
        if self._is_large(body):
            self._deliver_large(sender, addressee, body, now)
        else:
            self._deliver(sender, addressee, body)

    def keeps_large_messages(self, sender: Peer) -> bool:
        """Whether a large message of *sender* may have to be kept for a download."""
        return any(each.dialect is Dialect.DOCUMENTED for each in sender.database.peers.values())

    def _is_large(self, text: bytes) -> bool:
        return len(text) > self.max_payload and utf16_units(text) > self.max_payload

    def _recognise(self, sender: Peer, body: bytes) -> None:
        if body.startswith(ENVELOPE_START) and is_envelope(body, sender.client_id):
            sender.dialect = Dialect.ACEBASE
            sender.dialect_settled = True
            self._observer.report(Recognised(sender.database.name, sender.client_id))

    def _deliver(self, sender: Peer, addressee: bytes | Audience, body: bytes) -> None:
        if addressee is Audience.OTHERS:
            self._broadcast(sender, body)
        elif addressee is Audience.RELAY:
            self._send(sender, _PONG_FRAME)
        else:
            peer = sender.database.peers.get(addressee)
            if peer is None:
                self._report_unknown(sender, addressee)
            else:
                self._send(peer, text_frame(render(body, peer.dialect)), sender.id)

    def _broadcast(self, sender: Peer, body: bytes) -> None:
        documented = acebase = None  # each rendering is built once, if anybody needs it
        for peer in sender.database.peers.values():
            if peer is sender:
                continue
            if peer.dialect is Dialect.ACEBASE:
                if acebase is None:
                    acebase = text_frame(render(body, Dialect.ACEBASE))
                self._send(peer, acebase)
            else:
                if documented is None:
                    documented = text_frame(render(body, Dialect.DOCUMENTED))
                self._send(peer, documented)

    def _deliver_large(
        self, sender: Peer, addressee: bytes | Audience, body: bytes, now: float
    ) -> None:
        """Announce *body* to documented recipients; send it inline to acebase peers,
        which cannot download and accept any size."""
        database = sender.database
        if isinstance(addressee, Audience):
            recipients = [each for each in database.peers.values() if each is not sender]
        elif addressee in database.peers:
            recipients = [database.peers[addressee]]
        else:
            self._report_unknown(sender, addressee)
            return
        downloads = [each for each in recipients if each.dialect is Dialect.DOCUMENTED]
        inline = [each for each in recipients if each.dialect is Dialect.ACEBASE]
        by = None if isinstance(addressee, Audience) else sender.id
        if downloads:
            waiting = self.mailbox.put(database.name, body, [each.id for each in downloads], now)
            frame = text_frame(announcement(waiting))
            for peer in downloads:
                self._send(peer, frame, by)
        if inline:
            frame = text_frame(render(body, Dialect.ACEBASE))
            for peer in inline:
                self._send(peer, frame, by)

    def _tell_others(self, peer: Peer, message: bytes) -> None:
        frame = text_frame(message)
        for other in peer.database.peers.values():
            if other is not peer:
                self._send(other, frame)

    def _send(self, peer: Peer, frame: bytes, sender: bytes | None = None) -> None:
        """Let *frame* reach *peer*; *sender* is the id of the peer that addressed it."""
        if peer.state is State.FLOWING:
            peer.connection.send(frame)
        elif peer.state is State.CONGESTED:
            unsent = peer.backlog.size + peer.connection.backlog
            if unsent and unsent + len(frame) > self._max_backlog:
                self._cut(peer, unsent)
            else:
                peer.backlog.append(frame, sender)

    def _cut(self, peer: Peer, unsent: int) -> None:
        # The peer leaves when its connection reports the loss: telling the
        # others from here could overflow, and cut, one congested peer after another.
        self._observer.report(Cut(peer.database.name, peer.client_id, unsent, len(peer.backlog)))
        peer.state = State.CUT
        peer.connection.abort()

    def _report_unknown(self, sender: Peer, addressee: bytes) -> None:
        name = addressee.decode()
        self._observer.report(Dropped(sender.database.name, name, Drop.UNKNOWN_ADDRESSEE))

    def _dropped(self, peer: Peer, reason: Drop, messages: int) -> None:
        self._observer.report(Dropped(peer.database.name, peer.client_id, reason, messages))

    # What connections and the clock tell

    def congested(self, peer: Peer, connection: Connection) -> None:
        """*connection* has no room: what comes waits in the peer's backlog."""
        if peer.connection is connection and peer.state is State.FLOWING:
            peer.state = State.CONGESTED

    def drained(self, peer: Peer, connection: Connection) -> None:
        """*connection* has room again: hand it what waits, in order."""
        if peer.connection is not connection or peer.state is not State.CONGESTED:
            return
        peer.state = State.FLOWING
        while peer.backlog and peer.state is State.FLOWING:
            for frame in peer.backlog.take(_DRAIN_STEP):
                connection.send(frame)

    def binary_ignored(self, peer: Peer) -> None:
        """*peer* has sent a binary message: these are not relayed."""
        self._dropped(peer, Drop.BINARY, 1)

    def expire(self, now: float) -> None:
        """Drop what has waited too long; to be called about once a second."""
        for database, recipient in self.mailbox.expire(now):
            self._observer.report(Dropped(database, recipient.decode(), Drop.EXPIRED))
