"""The locks and open requests of a database, as they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from acebase_ipc.protocol.locks import LOCK, LockDetails, read_details
from acebase_ipc.relay.peers import Database

_NONE = LockDetails("", "", False, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLock:
    """A lock that a peer holds.

    :ivar holder: the client id of the peer.
    :ivar id: the lock's id, as the holder knows it.
    :ivar path: the node that is locked; locks of all paths exclude each other.
    :ivar tid: the transaction; its requests pass its own locks.
    :ivar write: whether it excludes all other transactions, not only writing ones.
    :ivar comment: what AceBase calls the operation.
    :ivar age: seconds since it was granted.
    """

    holder: str
    id: int
    path: str
    tid: str
    write: bool
    comment: str
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRequest:
    """A request of a peer that the master has not answered.

    :ivar worker: the client id of the peer.
    :ivar id: the request's id.
    :ivar kind: the type of its envelope, such as ``lock-request``.
    :ivar path: the node that a ``lock-request`` is about; empty for other kinds.
    :ivar tid: the transaction of a ``lock-request``.
    :ivar write: whether a ``lock-request`` is about a lock to write.
    :ivar comment: what AceBase calls the operation of a ``lock-request``.
    :ivar age: seconds since it was made.
    """

    worker: str
    id: str
    kind: str
    path: str
    tid: str
    write: bool
    comment: str
    age: float


@dataclass(frozen=True, slots=True)
class LockTable:
    """The locks and open requests of one database, the oldest first.

    :ivar locks: the locks that its peers hold.
    :ivar requests: what its peers wait for.
    """

    locks: tuple[HeldLock, ...] = ()
    requests: tuple[OpenRequest, ...] = ()


def lock_table(database: Database, now: float) -> LockTable:
    """Return the locks and open requests of *database*.

    :param now: monotonic seconds.
    """
    locks, requests = [], []
    for peer in database.peers.values():
        if peer.account is None:
            continue
        for lock_id, granted, since in peer.account.held():
            details = read_details(granted)
            locks.append(
                HeldLock(
                    holder=peer.client_id,
                    id=lock_id,
                    path=details.path,
                    tid=details.tid,
                    write=details.write,
                    comment=details.comment,
                    age=now - since,
                )
            )
        for request in peer.account.open_requests():
            details = read_details(request.body) if request.kind is LOCK else _NONE
            requests.append(
                OpenRequest(
                    worker=peer.client_id,
                    id=request.id.decode("utf-8", "replace"),
                    kind=request.kind.value,
                    path=details.path,
                    tid=details.tid,
                    write=details.write,
                    comment=details.comment,
                    age=now - request.since,
                )
            )
    oldest_first = attrgetter("age")
    return LockTable(
        tuple(sorted(locks, key=oldest_first, reverse=True)),
        tuple(sorted(requests, key=oldest_first, reverse=True)),
    )
