"""The locks and open requests of a database, as they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from acebase_ipc.protocol.locks import LOCK, LockDetails, read_details
from acebase_ipc.relay.ledger import Request
from acebase_ipc.relay.peers import Database, Peer

_MASTER: Final = "master"
_RELAY: Final = "relay"
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
    :ivar granted_by: ``master``, or ``relay`` in a lock session (see the protocol).
    :ivar is_kept: whether its holder has released it, and the master keeps it for the locks that
        the relay has granted because of it.
    """

    holder: str
    id: int
    path: str
    tid: str
    write: bool
    comment: str
    age: float
    granted_by: str
    is_kept: bool


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


class LockRecords:
    """The locks and open requests of some peers, of which each is read when it is shown.

    To collect one takes about 1 microsecond, to read it 10.

    :param now: monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._locks: list[tuple[float, str, int, bytes, str, bool]] = []
        self._requests: list[tuple[float, str, Request]] = []

    def collect(self, peer: Peer) -> int:
        """Collect those of *peer*; returns their number."""
        account = peer.account
        if account is None:
            return 0
        before = len(self._locks) + len(self._requests)
        name = peer.client_id
        kept = {each.lock_id for each in account.covers.values() if each.is_kept}
        self._locks += [
            (since, name, each, granted, _RELAY if each in account.own else _MASTER, each in kept)
            for each, granted, since in account.held()
        ]
        self._requests += [(each.since, name, each) for each in account.open_requests()]
        return len(self._locks) + len(self._requests) - before

    def locks(self) -> Iterator[HeldLock]:
        """Read the locks, the oldest first."""
        locks = sorted(self._locks, key=itemgetter(0))
        for since, holder, lock_id, granted, granted_by, is_kept in locks:
            details = read_details(granted)
            yield HeldLock(
                holder=holder,
                id=lock_id,
                path=details.path,
                tid=details.tid,
                write=details.write,
                comment=details.comment,
                age=self._now - since,
                granted_by=granted_by,
                is_kept=is_kept,
            )

    def requests(self) -> Iterator[OpenRequest]:
        """Read the open requests, the oldest first."""
        for since, worker, request in sorted(self._requests, key=itemgetter(0)):
            details = read_details(request.body) if request.kind is LOCK else _NONE
            yield OpenRequest(
                worker=worker,
                id=request.id.decode("utf-8", "replace"),
                kind=request.kind.value,
                path=details.path,
                tid=details.tid,
                write=details.write,
                comment=details.comment,
                age=self._now - since,
            )


def lock_table(database: Database, now: float) -> LockTable:
    """Return the locks and open requests of *database*.

    :param now: monotonic seconds.
    """
    records = LockRecords(now)
    for peer in database.peers.values():
        records.collect(peer)
    return LockTable(tuple(records.locks()), tuple(records.requests()))
