"""Peers, databases, and the interface of a peer's connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from acebase_ipc.protocol.dialect import ACEBASE, Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.protocol.messages import MASTER, Message
from acebase_ipc.relay.ledger import Account, Ledger
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.numbering import Numbering
from acebase_ipc.relay.queue import MessageQueue
from acebase_ipc.relay.receivers import Receivers
from acebase_ipc.relay.traffic import Traffic
from acebase_ipc.relay.unsubscribed import Unsubscribed

FILES: Final = 1
"""Requests about files: the master may not have opened them yet."""

BEGINNINGS: Final = 2
"""Requests that begin something new: the relay is about to be restarted."""


class Connection(Protocol):
    """A peer's WebSocket. None of its methods raises or calls the relay back.

    A connection tells the relay when it has room again (``Delivery.drain``), and when
    it is lost (``Sessions.lost``).
    """

    @property
    def is_full(self) -> bool:
        """Whether it accepts no more messages for now."""

    @property
    def address(self) -> str:
        """The address of the other end, for the log."""

    @property
    def silence(self) -> float:
        """Seconds since anything was received."""

    @property
    def lag(self) -> float | None:
        """Seconds that the other end's process takes to answer a ping; ``None``: not known."""

    @property
    def unsent(self) -> int:
        """Bytes that were sent here and that the system has not accepted yet."""

    @property
    def memory(self) -> int:
        """All bytes that it holds: unsent ones, and those of a message received in part."""

    def send(self, message: Message) -> None:
        """Send *message* after all earlier ones, at the end of this turn at the latest."""

    def send_text(self, text: bytes) -> None:
        """Send a message with this *text*, as :meth:`send` does, for this peer alone."""

    def send_texts(self, texts: Sequence[bytes]) -> None:
        """Send a message with each of these *texts*, as :meth:`send_text` does."""

    def send_each(
        self, message: Message, connections: Sequence[Connection], but: Connection | None
    ) -> None:
        """Send *message* to each of these *connections*, of which this is one.

        The next message takes less time if it has the same sequence, to which others may be added.

        :param but: one that is not sent it.
        """

    def reclaim(self) -> list[Message]:
        """Return the last messages, which were not yet handed to the transport."""

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Check whether the other end answers a ping within *timeout* seconds.

        *answer* is called once, later, with whether the other end has answered.
        """

    def close(self, code: int, reason: str) -> None:
        """Write what was sent, then close the WebSocket with *code* and *reason*."""

    def suspend(self, code: int, reason: str) -> None:
        """As :meth:`close`, but go on to receive until the other end has closed, too.

        From now on it is full.
        """

    def abort(self) -> None:
        """End the connection at once; what was not yet written is lost."""


class SessionState(Enum):
    """The state of a session, described by what happens to a message for its peer."""

    CONNECTED = "it is handed to the connection, or waits until that has room"
    SUSPENDED = "it waits until the peer is back"
    ENDING = "it is dropped: the session ends at the next opportunity"
    RESTORED = "it is dropped: the relay has crashed, and the peer must not come back"
    GONE = "it is dropped: this is not a peer any more"


class Peer:
    """The session of a client that has joined a database.

    The session may outlast its connection. The connection knows whether it is full
    (:attr:`Connection.is_full`); as long as it is not, :attr:`queue` is empty.

    :ivar id: its id in UTF-8, the key among its database's peers.
    :ivar client_id: its id as text.
    :ivar connection: its WebSocket; ``None`` while it has none.
    :ivar last_address: the address of its last connection, while it has none.
    :ivar connected: when that was opened, in milliseconds since 1970.
    :ivar traffic: the messages of all its connections.
    :ivar said_bye: whether it has broadcast that it is leaving.
    :ivar queue: the messages that wait for it.
    :ivar introduction: the message that introduces it to others; ``None`` until one was made.
    :ivar account: its open requests and locks; ``None`` until it asks the master for something.
    :ivar number: its number in the journal; 0 if it is not there.
    :ivar numbering: the numbers of its resumable session; ``None`` if it has not asked for one.
    :ivar restarts: see :attr:`~acebase_ipc.protocol.handshake.Handshake.restarts`.
    """

    __slots__ = (
        "account",
        "client_id",
        "connected",
        "connection",
        "database",
        "dialect",
        "dialect_settled",
        "id",
        "introduction",
        "last_address",
        "number",
        "numbering",
        "queue",
        "restarts",
        "said_bye",
        "state",
        "traffic",
    )

    def __init__(
        self,
        handshake: Handshake,
        database: Database,
        connection: Connection | None,
        connected: int,
        budget: MemoryBudget,
    ) -> None:
        self.id = handshake.client_id.encode()
        self.client_id = handshake.client_id
        self.database = database
        self.connection = connection
        self.connected = connected
        self.last_address = ""
        self.traffic = Traffic()
        self.dialect = handshake.dialect
        self.dialect_settled = handshake.dialect_settled
        self.said_bye = False
        self.state = SessionState.CONNECTED
        self.queue = MessageQueue(budget)
        self.introduction: Message | None = None
        self.account: Account | None = None
        self.number = 0
        self.numbering: Numbering | None = None
        self.restarts = handshake.restarts
        database.receivers.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.client_id} of {self.database.name}>"

    @property
    def address(self) -> str:
        """The address of its connection's other end, or of its last connection's."""
        return self.last_address if self.connection is None else self.connection.address

    def speak(self, dialect: Dialect, *, settled: bool) -> None:
        """Note the dialect that it speaks.

        :param settled: whether nothing that it sends can show that it speaks another one.
        """
        receivers = self.database.receivers
        is_receiver = receivers.remove(self)
        self.dialect = dialect
        self.dialect_settled = settled
        if is_receiver:
            receivers.add(self)

    def attach(self, connection: Connection | None) -> None:
        """Note its connection."""
        receivers = self.database.receivers
        is_receiver = receivers.remove(self)
        self.connection = connection
        if is_receiver:
            receivers.add(self)

    def detach(self) -> None:
        """Note that it has no connection any more."""
        self.last_address = self.address
        self.attach(None)

    def drop_messages(self) -> int:
        """Drop all messages that wait for it, and return how many there were."""
        kept = 0 if self.numbering is None else self.numbering.kept.clear()
        return kept + self.queue.clear()

    @property
    def is_master(self) -> bool:
        """Whether it has the id of the cluster's lock master."""
        return self.id == MASTER

    @property
    def is_introduced(self) -> bool:
        """Whether it is introduced to other acebase peers."""
        return self.dialect is ACEBASE and not self.said_bye

    @property
    def memory(self) -> int:
        """The bytes that the relay holds for it."""
        connection, account, numbering = self.connection, self.account, self.numbering
        unsubscribed = self.database.unsubscribed.get(self.id)
        return (
            self.queue.memory
            + (0 if numbering is None else numbering.kept.memory)
            + (0 if connection is None else connection.memory)
            + (0 if account is None else account.memory)
            + (0 if unsubscribed is None else unsubscribed.memory)
        )


class Database:
    """The peers that have opened one database.

    :ivar peers: the peers by id, in the order in which they joined.
    :ivar awaiting_master: messages addressed to the master while there is none, and requests that
        are withheld from it.
    :ivar awaiting_since: since when the first of these has waited, in monotonic seconds.
    :ivar withheld: which requests wait although there may be a master: the sum of ``FILES`` and
        ``BEGINNINGS``, or 0.
    :ivar pings: how many pings its peers have sent to the relay.
    :ivar masters: how many masters have arrived.
    :ivar traffic: the messages of the peers that have left; another object after each departure.
    :ivar ledger: what the peers have asked of the master; ``None`` until one asks.
    :ivar unsubscribed: what peers have unsubscribed from, by id, if they have.
    :ivar receivers: of what is sent to all peers: those whose sessions do not end.
    """

    __slots__ = (
        "awaiting_master",
        "awaiting_since",
        "ledger",
        "masters",
        "name",
        "peers",
        "pings",
        "receivers",
        "traffic",
        "unsubscribed",
        "withheld",
    )

    def __init__(self, name: str, budget: MemoryBudget) -> None:
        self.name = name
        self.peers: dict[bytes, Peer] = {}
        self.awaiting_master = MessageQueue(budget)
        self.awaiting_since = 0.0
        self.withheld = 0
        self.pings = 0
        self.masters = 0
        self.traffic = Traffic()
        self.ledger: Ledger | None = None
        self.unsubscribed: dict[bytes, Unsubscribed] = {}
        self.receivers = Receivers()

    @property
    def memory(self) -> int:
        """The bytes that it holds for a master that is not there."""
        return self.awaiting_master.memory + (
            0 if self.ledger is None else self.ledger.memory_of_unwanted
        )

    def part_with(self, peer: Peer) -> None:
        """Count the messages of *peer*, which leaves."""
        former, self.traffic = self.traffic, Traffic()
        self.traffic.add(former)
        self.traffic.add(peer.traffic)


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    """What others may know of a connected peer.

    :ivar id: its id.
    :ivar dbname: the wire name of its database.
    :ivar connected: when it connected, in milliseconds since 1970.
    """

    id: str
    dbname: str
    connected: int
