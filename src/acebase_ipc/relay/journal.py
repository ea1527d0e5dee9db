"""What a relay writes down so that a crash of its own does not stop a cluster.

A relay that is killed forgets which locks were granted, and to whom. The masters still have
these locks, and their holders go on as if they had them: the next relay would neither free
them nor know which process must not go on. What a relay needs to know of its predecessor is
little: who was connected, which locks were granted, and which lock requests were open,
because an answer that was on its way is lost with the relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Journal(Protocol):
    """Receives what the next relay has to know if this one ends without warning.

    A worker is known by the number that :meth:`joined` has returned, a lock by its holder and
    its id. Nothing raises: a journal that cannot be written any more says so, and ignores the
    rest.
    """

    def joined(self, database: str, client_id: str, restarts: bool) -> int:
        """Note a new worker; returns its number, above 0.

        :param restarts: whether it must not come back after a crash of the relay: see
            :attr:`~acebase_ipc.protocol.handshake.Handshake.restarts`.
        """

    def left(self, worker: int) -> None:
        """Note that a worker is gone; its locks and open requests are closed one by one."""

    def fenced(self, database: str, client_id: str, until: float) -> None:
        """Note that this id is refused until then, in monotonic seconds."""

    def master_arrived(self, database: str) -> None:
        """Note that a master has joined."""

    def counted(self, database: str, highest: int, former_highest: int) -> None:
        """Note the highest ids of locks of a database's master, and of the one before it."""

    def asked(self, worker: int, request_id: bytes, body: bytes) -> None:
        """Note an open request for a lock."""

    def closed(self, worker: int, request_id: bytes) -> None:
        """Note that a request is answered; it may be one that is no request for a lock."""

    def granted(self, worker: int, request_id: bytes, lock_id: int) -> None:
        """Note that the master has granted the lock of an open request, which is answered."""

    def locked(self, worker: int, lock_id: int, master_id: int, body: bytes) -> None:
        """Note a lock.

        :param master_id: its id as the master knows it.
        :param body: an envelope with its details.
        """

    def confirmed(self, worker: int, lock_id: int, master_id: int) -> None:
        """Note under which id a new master knows a lock."""

    def released(self, worker: int, lock_id: int) -> None:
        """Note that the master does not have a lock any more, if it had it."""


@dataclass(frozen=True, slots=True)
class RestoredLock:
    """A lock that a master may still have.

    :ivar id: its id as its holder knows it.
    :ivar master_id: its id as the master knows it.
    :ivar body: an envelope with its details.
    """

    id: int
    master_id: int
    body: bytes


@dataclass(frozen=True, slots=True)
class RestoredRequest:
    """A request for a lock whose answer may have been lost.

    :ivar body: the envelope.
    """

    id: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class RestoredWorker:
    """A worker of the former relay.

    :ivar number: its number in the journal.
    :ivar restarts: as :meth:`Journal.joined` has it.
    :ivar is_gone: whether its session has ended before the crash.
    """

    number: int
    client_id: str
    restarts: bool
    is_gone: bool
    locks: tuple[RestoredLock, ...] = ()
    requests: tuple[RestoredRequest, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoredDatabase:
    """A database of the former relay.

    :ivar highest: the highest id of a lock that its last master has granted; 0 if none.
    :ivar former_highest: the same of the master before it.
    """

    name: str
    highest: int
    former_highest: int
    workers: tuple[RestoredWorker, ...]


@dataclass(frozen=True, slots=True)
class RestoredFence:
    """An id that is refused until then, in monotonic seconds."""

    database: str
    client_id: str
    until: float


@dataclass(frozen=True, slots=True)
class Restored:
    """What a relay that has ended without warning has left."""

    databases: tuple[RestoredDatabase, ...] = ()
    fences: tuple[RestoredFence, ...] = ()
