"""What the relay is doing, as it is shown: frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from acebase_ipc.relay.lock_table import LockTable, lock_table
from acebase_ipc.relay.peers import Database, Peer, SessionState
from acebase_ipc.relay.store import MessageStore
from acebase_ipc.relay.traffic import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficStatus:
    """Messages and bytes so far; see :class:`~acebase_ipc.relay.traffic.Traffic`."""

    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """A peer of a database.

    :ivar id: its id.
    :ivar dialect: ``documented`` or ``acebase``.
    :ivar state: ``connected``, ``suspended`` or ``ending``.
    :ivar is_master: whether it has the id of the lock master.
    :ivar address: where its last connection came from.
    :ivar connected: when that was opened, in milliseconds since 1970.
    :ivar silent: seconds since anything was received; ``None`` without a connection.
    :ivar lag: seconds for which its process takes to answer a ping, without the network;
        ``None`` if that is not known.
    :ivar is_full: whether its connection accepts no more for now.
    :ivar queued: messages that wait for it in the relay.
    :ivar queued_bytes: bytes of these.
    :ivar memory: all bytes that the relay holds for it.
    :ivar locks: the locks that it holds.
    :ivar requests: its open requests.
    :ivar traffic: its messages so far.
    """

    id: str
    dialect: str
    state: str
    is_master: bool
    address: str
    connected: int
    silent: float | None
    lag: float | None
    is_full: bool
    queued: int
    queued_bytes: int
    memory: int
    locks: int
    requests: int
    traffic: TrafficStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeMessage:
    """A large message that waits to be downloaded.

    :ivar size: its bytes.
    :ivar recipients: the client ids of all recipients.
    :ivar unfetched: how many of them have not downloaded it yet.
    :ivar expires: seconds until it is dropped.
    """

    size: int
    recipients: tuple[str, ...]
    unfetched: int
    expires: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSummary:
    """A database in a list.

    :ivar name: its wire name.
    :ivar peers: the number of its peers.
    :ivar connected: the number of those that are connected.
    :ivar has_master: whether its lock master is connected or its session suspended.
    :ivar awaiting_master: messages that wait for a master.
    :ivar locks: the number of locks that are held.
    :ivar requests: the number of open requests.
    :ivar memory: bytes that are held for it and its peers.
    :ivar traffic: the messages of all peers that it has had.
    """

    name: str
    peers: int
    connected: int
    has_master: bool
    awaiting_master: int
    locks: int
    requests: int
    memory: int
    traffic: TrafficStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseStatus:
    """One database with what belongs to it, except for its peers, which may be thousands.

    :ivar summary: its figures.
    :ivar table: its locks and open requests.
    :ivar large: large messages that wait to be downloaded.
    """

    summary: DatabaseSummary
    table: LockTable
    large: tuple[LargeMessage, ...]


def traffic_status(*counted: Traffic) -> TrafficStatus:
    """Return the sum of what was *counted*."""
    total = Traffic()
    for each in counted:
        total.add(each)
    return TrafficStatus(
        received=total.received,
        received_bytes=total.received_bytes,
        sent=total.sent,
        sent_bytes=total.sent_bytes,
    )


def peer_status(peer: Peer) -> PeerStatus:
    """Return the status of *peer*."""
    connection, account = peer.connection, peer.account
    return PeerStatus(
        id=peer.client_id,
        dialect=peer.dialect.value,
        state=_STATES[peer.state],
        is_master=peer.is_master,
        address=peer.address,
        connected=peer.connected,
        silent=None if connection is None else connection.silence,
        lag=None if connection is None else connection.lag,
        is_full=connection is not None and connection.is_full,
        queued=len(peer.queue),
        queued_bytes=peer.queue.memory,
        memory=peer.memory,
        locks=0 if account is None else len(account.granted) + len(account.locks),
        requests=0 if account is None else account.open,
        traffic=traffic_status(peer.traffic),
    )


_STATES = {
    SessionState.CONNECTED: "connected",
    SessionState.SUSPENDED: "suspended",
    SessionState.ENDING: "ending",
    SessionState.RESTORED: "suspended",
    SessionState.GONE: "ending",
}


def database_summary(database: Database) -> DatabaseSummary:
    """Return the figures of *database*."""
    peers = tuple(database.peers.values())
    accounts = [each.account for each in peers if each.account is not None]
    return DatabaseSummary(
        name=database.name,
        peers=len(peers),
        connected=sum(each.connection is not None for each in peers),
        has_master=any(each.is_master for each in peers),
        awaiting_master=len(database.awaiting_master),
        locks=sum(len(each.granted) + len(each.locks) for each in accounts),
        requests=sum(each.open for each in accounts),
        memory=database.memory + sum(each.memory for each in peers),
        traffic=traffic_status(database.traffic, *(each.traffic for each in peers)),
    )


def database_status(database: Database, store: MessageStore, now: float) -> DatabaseStatus:
    """Return *database* with what belongs to it, except for its peers.

    :param now: monotonic seconds.
    """
    return DatabaseStatus(
        summary=database_summary(database),
        table=lock_table(database, now),
        large=tuple(
            LargeMessage(
                size=len(each.body),
                recipients=tuple(name.decode("utf-8", "replace") for name in each.recipients),
                unfetched=each.unfetched,
                expires=each.expires - now,
            )
            for each in store.messages_of(database.name)
        ),
    )
