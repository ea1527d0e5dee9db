"""What the workers of a database have asked of its master, and the locks that they hold.

A request is open from the moment in which it is handed to the master's connection or
queue until it is answered. A lock exists from the answer that grants it until its holder
asks to release it. Messages are kept as they came, and parsed only when a peer leaves or
somebody looks.
"""

from __future__ import annotations

from itertools import count
from typing import Final

from acebase_ipc.protocol.locks import LockDetails, RequestKind, read_details, with_lock_id
from acebase_ipc.relay.memory import MemoryBudget

RECORD_OVERHEAD: Final = 400
"""Bytes that an open request or a lock occupies beside its message: the record, its id, the
header of the message and an entry of a dictionary. Measured with CPython 3.11."""

MAX_RECORDS: Final = 10_000
"""Open requests and locks that one worker may have."""

_MAX_UNWANTED: Final = 10_000
"""Locks to release, and requests that nobody waits for, that are kept of one database."""

_REMEMBERED: Final = 32
"""The answered requests of a worker that are remembered at least."""


class Request:
    """A request of a worker that the master has not answered.

    :ivar number: its place among all requests.
    :ivar body: the envelope as it came.
    :ivar since: when it came, in monotonic seconds.
    :ivar lock: the lock that it releases or moves, if that is known.
    """

    __slots__ = ("body", "id", "kind", "lock", "number", "since")

    def __init__(
        self, kind: RequestKind, request_id: bytes, body: bytes, since: float, number: int
    ) -> None:
        self.kind = kind
        self.id = request_id
        self.body = body
        self.since = since
        self.number = number
        self.lock: Lock | None = None


class Lock:
    """A lock that the master has granted.

    :ivar id: its id, as its holder knows it.
    :ivar master_id: its id, as the present master knows it; ``None`` while it is not known.
    :ivar former_id: its id, as the last master knew it that is known to have granted it.
    :ivar holder: the client id of the worker.
    :ivar granted: the envelope that has granted it.
    :ivar since: when that came, in monotonic seconds.
    :ivar is_probed: whether the present master was asked for it once more.
    :ivar release: the holder's request to release it, until that is answered.
    :ivar is_unwanted: whether the relay has to release it, because nobody else will.
    """

    __slots__ = (
        "former_id",
        "granted",
        "holder",
        "id",
        "is_probed",
        "is_unwanted",
        "master_id",
        "release",
        "since",
    )

    def __init__(
        self, lock_id: int, master_id: int, holder: str, granted: bytes, since: float
    ) -> None:
        self.id = lock_id
        self.master_id: int | None = master_id
        self.former_id = master_id
        self.holder = holder
        self.granted = granted
        self.since = since
        self.is_probed = False
        self.release: Request | None = None
        self.is_unwanted = False

    @property
    def details(self) -> LockDetails:
        """What it is for."""
        return read_details(self.granted)

    def translate(self, body: bytes) -> bytes:
        """Return *body*, the holder's envelope about it, as the present master understands it."""
        if self.master_id is None or self.master_id == self.id:
            return body
        return with_lock_id(body, self.master_id)


class Account:
    """The open requests and the locks of one worker.

    :ivar requests: the open requests by id.
    :ivar locks: the locks that it holds, by the id that it knows.
    :ivar resent: ids of requests that more than one connection of a master was handed.
    """

    __slots__ = ("_answered", "_answered_before", "ledger", "locks", "requests", "resent")

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.requests: dict[bytes, Request] = {}
        self.locks: dict[int, Lock] = {}
        self.resent: set[bytes] = set()
        self._answered: set[bytes] = set()
        self._answered_before: set[bytes] = set()

    @property
    def memory(self) -> int:
        """The bytes that it occupies."""
        requests = sum(len(each.body) for each in self.requests.values())
        locks = sum(len(each.granted) for each in self.locks.values())
        return requests + locks + RECORD_OVERHEAD * (len(self.requests) + len(self.locks))

    def remember(self, request_id: bytes) -> None:
        """Note that a request has been answered."""
        answered = self._answered
        answered.add(request_id)
        if len(answered) >= _REMEMBERED:
            self._answered_before = answered
            self._answered = set()

    def has_answered(self, request_id: bytes) -> bool:
        """Return whether the request is known to be answered: it was resent, or is recent."""
        return (
            request_id in self._answered
            or request_id in self._answered_before
            or request_id in self.resent
        )

    def close(self, request: Request) -> None:
        """Note that *request* is answered."""
        del self.requests[request.id]
        self.ledger.discount(request.body)
        self.remember(request.id)

    def forget_resent(self) -> None:
        """Expect no further answers to requests that were answered although they were resent."""
        for request_id in self.resent - self.requests.keys():
            self.ledger.abandon(request_id)
        self.resent &= self.requests.keys()

    def holds(self, master_id: int) -> bool:
        """Return whether a lock that it holds has this id at a master."""
        return any(master_id in (each.master_id, each.former_id) for each in self.locks.values())


class Ledger:
    """The requests and locks of one database that no worker's account has.

    :ivar own: the locks that the relay has asked the present master for, or asked it to
        release, by the id of that request.
    :ivar unwanted: the locks that have to be released when there is a master again.
    :ivar abandoned: the ids of requests whose answer nobody waits for. A lock that it grants
        has to be released.
    :ivar highest: the highest id of a lock that the present master has granted; 0 if it has
        granted none.
    :ivar former_highest: the same of the master before it.
    :ivar is_same_process: whether the present master is the process that was the master
        before; ``None`` while that is not known.
    """

    __slots__ = (
        "_budget",
        "abandoned",
        "former_highest",
        "highest",
        "is_same_process",
        "next_number",
        "own",
        "unwanted",
    )

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.own: dict[bytes, Lock] = {}
        self.unwanted: dict[Lock, None] = {}
        self.abandoned: dict[bytes, None] = {}
        self.highest = 0
        self.former_highest = 0
        self.is_same_process: bool | None = None
        self.next_number = count(1).__next__

    def count(self, message: bytes) -> None:
        """Count the memory of a record with this message."""
        size = len(message) + RECORD_OVERHEAD
        self._budget.in_ledgers += size
        self._budget.growth += size

    def discount(self, message: bytes) -> None:
        """Count the memory of a record with this message no longer."""
        size = len(message) + RECORD_OVERHEAD
        self._budget.in_ledgers -= size
        self._budget.growth -= size

    def abandon(self, request_id: bytes) -> None:
        """Note that nobody waits for the answer to this request."""
        self.abandoned[request_id] = None
        if len(self.abandoned) > _MAX_UNWANTED:
            del self.abandoned[next(iter(self.abandoned))]

    def keep_unwanted(self, lock: Lock) -> None:
        """Keep *lock* until there is a master that can release it."""
        lock.is_unwanted = True
        self.unwanted[lock] = None
        if len(self.unwanted) > _MAX_UNWANTED:
            self.forget(next(iter(self.unwanted)))

    def regrant(self, lock: Lock, granted: bytes) -> None:
        """Note the envelope that has granted *lock* in place of the one before."""
        self.discount(lock.granted)
        lock.granted = granted
        self.count(granted)

    def forget(self, lock: Lock) -> None:
        """Forget *lock*, which no account has."""
        self.unwanted.pop(lock, None)
        self.discount(lock.granted)

    @property
    def memory(self) -> int:
        """The bytes that the locks occupy which wait for a master."""
        return sum(len(each.granted) + RECORD_OVERHEAD for each in self.unwanted)

    def take_unsettled(self) -> list[Lock]:
        """Return the locks of the relay's own requests, whose answers are no longer awaited."""
        for request_id in self.own:
            self.abandon(request_id)
        locks = [*self.own.values(), *self.unwanted]
        self.own.clear()
        self.unwanted.clear()
        return locks

    def clear(self) -> None:
        """Forget all locks that no account has."""
        for lock in dict.fromkeys(self.take_unsettled()):
            if lock.is_unwanted:
                self.discount(lock.granted)
