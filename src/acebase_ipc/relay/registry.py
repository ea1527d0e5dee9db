"""Finds, lists and counts the databases and their peers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.connection import Connection
from acebase_ipc.relay.errors import AmbiguousPeer, NotAPeer, NotFound, Overloaded
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.peers import ConnectedPeer, Database, Peer
from acebase_ipc.relay.traffic import DepartedTraffic, Traffic

_LOCK_TIMEOUT: Final = 120.0
"""Seconds after which AceBase's lock master takes a lock for expired."""

_MAX_LEFT: Final = 1_000
"""Databases without peers of which the locks to release are kept."""


class Registry:
    """Knows which peers have opened which database.

    A database exists while it has a peer.

    :ivar databases: the databases by name.
    :ivar departed: the messages of all peers that have left.
    """

    def __init__(self, limits: Limits, budget: MemoryBudget) -> None:
        self.apply(limits)
        self._budget = budget
        self.databases: dict[str, Database] = {}
        self.departed = DepartedTraffic()
        self._left: dict[str, tuple[Database, float]] = {}

    def apply(self, limits: Limits) -> None:
        """Use these *limits* from now on."""
        self._max_databases = limits.max_databases
        self._max_database_connections = limits.max_database_connections

    def add(self, handshake: Handshake, connection: Connection | None, connected: int) -> Peer:
        """Make the client of *handshake* a peer of its database.

        :param connected: milliseconds since 1970.
        """
        database = self.open(handshake.database)
        peer = Peer(handshake, database, connection, connected, self._budget)
        database.peers[peer.id] = peer
        return peer

    def open(self, name: str) -> Database:
        """Return the database of that name, a new one if it has no peers."""
        database = self.databases.get(name)
        if database is None:
            left = self._left.pop(name, None)
            database = Database(name, self._budget) if left is None else left[0]
            self.databases[name] = database
        return database

    def remove(self, peer: Peer) -> None:
        """Forget *peer*, and its database if that has no other.

        Locks that have to be released wait for the master for as long as it would keep them.
        """
        database = peer.database
        del database.peers[peer.id]
        database.receivers.remove(peer)
        database.unsubscribed.pop(peer.id, None)
        self.leave(database)

    def left(self) -> Iterator[tuple[Database, float]]:
        """Yield the databases without peers of which locks have to be released, and until when."""
        yield from self._left.values()

    def adopt_left(self, database: Database, until: float) -> None:
        """Keep *database*, which has no peers, until then, in monotonic seconds."""
        self._left[database.name] = database, until

    def discard(self, name: str) -> None:
        """Forget a database with its peers."""
        self.databases.pop(name, None)
        self._left.pop(name, None)

    def clear(self) -> None:
        """Forget all databases."""
        self.databases.clear()
        self._left.clear()

    def leave(self, database: Database) -> None:
        """Forget *database* if it has no peers, except for what has to be released there."""
        if database.peers:
            return
        database.awaiting_master.clear()
        database.traffic = Traffic()
        del self.databases[database.name]
        if database.ledger is not None and (database.ledger.unwanted or database.ledger.lost):
            self._left[database.name] = database, math.inf
            if len(self._left) > _MAX_LEFT:
                del self._left[next(iter(self._left))]

    def expire(self, now: float) -> None:
        """Forget the locks that the masters of databases without peers have no more.

        :param now: monotonic seconds.
        """
        self._left = {
            name: (database, min(until, now + _LOCK_TIMEOUT))
            for name, (database, until) in self._left.items()
            if until > now
        }

    def find(self, database: str, client_id: str) -> Peer | None:
        """Return the peer of that database and id, if there is one."""
        found = self.databases.get(database)
        return None if found is None else found.peers.get(encode_id(client_id))

    def peer(self, database: str, client_id: str) -> Peer:
        """Return the peer of that database and id, connected or suspended.

        :raises NotAPeer: if there is none.
        """
        found = self.find(database, client_id)
        if found is None:
            raise NotAPeer
        return found

    def database_of(self, client_id: str, may_open: Callable[[str], bool]) -> str:
        """Return the name of the only database that has a peer of this id.

        :param may_open: tells whether a database may be searched.
        :raises NotFound: if no database has.
        :raises AmbiguousPeer: if several have.
        """
        found = [each for each in self.databases_of(client_id) if may_open(each)]
        if not found:
            raise NotFound("No database has a peer of this id")
        if len(found) > 1:
            raise AmbiguousPeer
        return found[0]

    def databases_of(self, client_id: str) -> list[str]:
        """Return the names of the databases that have a peer of this id."""
        peer_id = encode_id(client_id)
        return [each.name for each in self.databases.values() if peer_id in each.peers]

    def clients(self, database: str) -> list[ConnectedPeer]:
        """Return the peers of that database, in the order in which they joined.

        Those without a connection are left out, unless they may resume their session silently.
        """
        found = self.databases.get(database)
        return [
            ConnectedPeer(each.client_id, database, each.connected)
            for each in (found.peers.values() if found else ())
            if each.connection is not None or each.numbering is not None
        ]

    @property
    def memory(self) -> int:
        """The bytes that the ledgers of all databases hold."""
        ledgers = [each.ledger for each in self.all_databases()]
        return sum(each.memory for each in ledgers if each is not None)

    @property
    def memory_of_unsubscribed(self) -> int:
        """The bytes of what peers have unsubscribed from."""
        databases = self.databases.values()
        return sum(each.memory for database in databases for each in database.unsubscribed.values())

    def all_databases(self) -> list[Database]:
        """Return the databases, and those without peers of which locks have to be released."""
        return [*self.databases.values(), *(each for each, _ in self._left.values())]

    def peers(self) -> Iterator[Peer]:
        """Return all peers of all databases."""
        for database in self.databases.values():
            yield from database.peers.values()

    def check_room(self, handshake: Handshake) -> None:
        """Check that one more peer may join.

        :raises Overloaded: if there are too many databases, or peers of this one.
        """
        database = self.databases.get(handshake.database)
        if database is None:
            if len(self.databases) >= self._max_databases:
                raise Overloaded("Too many databases: try again later")
        elif (
            encode_id(handshake.client_id) not in database.peers
            and len(database.peers) >= self._max_database_connections
        ):
            raise Overloaded("Too many connections of this database: try again later")


def encode_id(client_id: str) -> bytes:
    """Return the key of a peer with this id, which may be any text of a request."""
    return client_id.encode("utf-8", "surrogateescape")
