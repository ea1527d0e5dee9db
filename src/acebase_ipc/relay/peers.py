"""Peers, the databases they have opened, and what the relay needs of a connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.protocol.messages import MASTER
from acebase_ipc.relay.queue import MessageQueue


class Connection(Protocol):
    """A peer's WebSocket; none of its methods may raise or call the relay back.

    A connection tells the relay when it is ``congested``, when it has room
    again (``drained``), and when it is ``lost``.
    """

    @property
    def address(self) -> str:
        """Where the other end is, for a log."""

    @property
    def backlog(self) -> int:
        """About how many bytes were taken by :meth:`send` and are unsent."""

    @property
    def unfinished(self) -> int:
        """Bytes of a message that has come in part."""

    def send(self, frame: bytes) -> None:
        """Send *frame* after all frames sent before, at the latest at the end of this turn."""

    def reclaim(self) -> list[bytes]:
        """Give back the last frames taken: those not yet handed to the transport."""

    def probe(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Ask the other end for a sign of life.

        *answer* is called once, later: with whether it came within *timeout* seconds.
        """

    def close(self, code: int, reason: str) -> None:
        """Send what was taken, then close the WebSocket with *code* and *reason*."""

    def abort(self) -> None:
        """End the connection at once; what was taken is lost."""


class State(Enum):
    """What becomes of a frame for a peer."""

    FLOWING = "it is handed to the connection"
    CONGESTED = "it waits until the connection has room"
    SEATED = "it waits until the peer is back"
    CUT = "it is dropped: the peer left too much unread and is about to leave"
    GONE = "it is dropped: this is not a peer any more"


FLOWING = State.FLOWING  # by itself, as Enum makes each look at one of its members slow


class Peer:
    """A process that has opened a database.

    :ivar id: its id in UTF-8, the key among its database's peers.
    :ivar client_id: its id as text.
    :ivar connection: its WebSocket; ``None`` while it is expected back.
    :ivar connected: when that was opened, in milliseconds since 1970.
    :ivar said_bye: whether it has told the others that it is leaving.
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
        "said_bye",
        "state",
    )

    def __init__(
        self, handshake: Handshake, database: Database, connection: Connection, connected: int
    ) -> None:
        self.id = handshake.client_id.encode()
        self.client_id = handshake.client_id
        self.database = database
        self.connection: Connection | None = connection
        self.connected = connected
        self.dialect = handshake.dialect
        self.dialect_settled = handshake.dialect_settled
        self.said_bye = False
        self.state = State.FLOWING
        self.backlog = MessageQueue()

    @property
    def is_master(self) -> bool:
        """Whether it is its cluster's lock master: a new process under the same id."""
        return self.id == MASTER

    @property
    def is_introduced(self) -> bool:
        """Whether other acebase peers should know it."""
        return self.dialect is Dialect.ACEBASE and not self.said_bye

    @property
    def weight(self) -> int:
        """Bytes that wait for it, or have come from it in part."""
        if self.connection is None:
            return self.backlog.size
        return self.backlog.size + self.connection.backlog + self.connection.unfinished


class Database:
    """The peers that have opened one database.

    :ivar peers: the peers by id, in the order they came.
    :ivar awaiting_master: what was addressed to the master while there was none.
    """

    __slots__ = ("awaiting_master", "name", "peers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.peers: dict[bytes, Peer] = {}
        self.awaiting_master = MessageQueue()


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
