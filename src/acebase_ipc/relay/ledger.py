"""What the workers of a database have asked of its master, and the locks that they hold.

A request is open from the moment in which it is handed to the master's connection or
queue until it is answered. A lock exists from the answer that grants it until its holder
asks to release it. Messages are kept as they came, and parsed only when a peer leaves, a
master arrives or somebody looks. Until then a record is a tuple, because one is made of
nearly every message of a cluster.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from acebase_ipc.protocol.locks import (
    OTHER,
    LockDetails,
    RequestKind,
    answer_layouts,
    read_details,
    read_lock_id,
    read_request,
    request_layouts,
    with_lock_id,
)
from acebase_ipc.relay.journal import Journal
from acebase_ipc.relay.memory import MemoryBudget

SMALL: Final = 1024
"""Bytes of a message for which the memory of its record is not counted but estimated."""

_RECORD: Final = SMALL + 400
"""Bytes that the record of a small message occupies at most: with the tuple, the id, the header
of the message and the entry of a dictionary. Measured with CPython 3.11."""

MAX_RECORDS: Final = 10_000
"""Open requests and locks that one worker may have."""

MAX_OWN: Final = 20_000
"""Own requests to one master that it may leave unanswered; then it is not asked any more for the
locks to release."""

_MAX_UNWANTED: Final = 10_000
"""Locks to release, and requests that nobody waits for, that are kept of one database."""

_REMEMBERED: Final = 32
"""The last answered requests of a worker that are remembered."""

_U: Final = ord("u")

Granted = tuple[bytes, float]
"""The record of a lock: the envelope that has granted it, and when that came."""

Asked = tuple[bytes, float, Granted | None]
"""The record of an open request: its envelope, when it came in monotonic seconds, and the lock
that it releases, if the present master has granted that."""


class Cover:
    """A lock of the master's that covers locks of the relay's own: see
    :mod:`acebase_ipc.relay.lock_sessions`.

    :ivar lock_id: its id, as its holder knows it.
    :ivar tid: the transaction.
    :ivar is_write: whether it is a lock to write.
    :ivar expires: when it expires, as the master has written it.
    :ivar since: when it was granted, in monotonic seconds.
    :ivar open: how many locks of the relay's own are covered by it and held.
    :ivar is_kept: whether its holder has released it, and it is kept for these.
    """

    __slots__ = ("expires", "is_kept", "is_write", "lock_id", "open", "since", "tid")

    def __init__(
        self, lock_id: int, tid: bytes, is_write: bool, expires: bytes, since: float
    ) -> None:
        self.lock_id = lock_id
        self.tid = tid
        self.is_write = is_write
        self.expires = expires
        self.since = since
        self.open = 0
        self.is_kept = False


Own = tuple[bytes, float, Cover]
"""The record of a lock of the relay's own: the envelope that has granted it, when that was, and
the lock of the master's that covers it."""


class Request(NamedTuple):
    """A request of a worker that the master has not answered.

    :ivar body: the envelope as it came.
    :ivar since: when it came, in monotonic seconds.
    """

    id: bytes
    kind: RequestKind
    body: bytes
    since: float


class Lock:
    """A lock of a worker that is gone, or that a master may not know.

    :ivar id: its id, as its holder knows it.
    :ivar master_id: its id, as the present master knows it; ``None`` while it is not known.
    :ivar former_id: its id, as the last master knew it that is known to have granted it.
    :ivar holder: the client id of the worker.
    :ivar granted: the envelope that has granted it.
    :ivar since: when that came, in monotonic seconds.
    :ivar probe: the id of the last request that asks a master for it once more.
    :ivar is_probed: whether the present master was asked for it, and has not answered.
    :ivar release: the id of the holder's request to release it, until that is answered.
    :ivar is_unwanted: whether the relay has to release it, because nobody else will.
    :ivar is_unknown: whether the present master has said that it has no such lock.
    :ivar worker: its holder's number in the journal; 0 if it is not there.
    """

    __slots__ = (
        "former_id",
        "granted",
        "holder",
        "id",
        "is_probed",
        "is_unknown",
        "is_unwanted",
        "master_id",
        "probe",
        "release",
        "since",
        "worker",
    )

    def __init__(
        self, lock_id: int, holder: str, granted: bytes, since: float, worker: int = 0
    ) -> None:
        """:param lock_id: the id by which the master knows it, and the holder, too."""
        self.id = lock_id
        self.master_id: int | None = lock_id
        self.former_id = lock_id
        self.holder = holder
        self.granted = granted
        self.since = since
        self.probe: bytes | None = None
        self.is_probed = False
        self.release: bytes | None = None
        self.is_unwanted = False
        self.is_unknown = False
        self.worker = worker

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

    :ivar request_layouts: how its requests are laid out, by the byte at ``FIRST``.
    :ivar answer_layouts: how the answers are laid out.
    :ivar requests: its open requests by id, the first one first.
    :ivar answered: the ids of the last requests that were answered.
    :ivar granted: the locks that the present master has granted, by id.
    :ivar locks: the locks that a former master has granted, by the id that the worker knows.
    :ivar about: the locks of a former master that open requests are about, by the request's id.
    :ivar own: the locks that the relay has granted itself, by id.
    :ivar covers: what the locks of :attr:`granted` and :attr:`locks` cover, by id.
    :ivar current: the covers by tid under which the relay grants locks itself.
    :ivar large: how many messages of :attr:`requests` and :attr:`granted` are not small.
    :ivar resent: ids of requests that more than one connection of a master was handed.
    :ivar worker: the worker's number in the journal.
    """

    __slots__ = (
        "about",
        "answer_layouts",
        "answered",
        "covers",
        "current",
        "granted",
        "holder",
        "large",
        "ledger",
        "locks",
        "own",
        "request_layouts",
        "requests",
        "resent",
        "worker",
    )

    def __init__(self, ledger: Ledger, holder: str, worker: int) -> None:
        self.ledger = ledger
        self.holder = holder
        self.request_layouts = request_layouts(holder)
        self.answer_layouts = answer_layouts(holder)
        self.requests: dict[bytes, Asked] = {}
        self.answered: deque[bytes] = deque(maxlen=_REMEMBERED)
        self.granted: dict[int, Granted] = {}
        self.locks: dict[int, Lock] = {}
        self.about: dict[bytes, Lock] = {}
        self.own: dict[int, Own] = {}
        self.covers: dict[int, Cover] = {}
        self.current: dict[bytes, Cover] = {}
        self.large = 0
        self.resent: set[bytes] = set()
        self.worker = worker
        ledger.accounts.add(self)

    def released(self, request_id: bytes, lock_id: int) -> bytes:
        """Return the master's answer that a lock is released."""
        _, _, start, end, _ = self.answer_layouts[_U]
        return b'%b%b%btrue,"data":{"id":%d}}' % (start, request_id, end, lock_id)

    def open_requests(self, until: float = math.inf) -> Iterator[Request]:
        """Yield the open requests that came at *until*, in monotonic seconds, or before."""
        for request_id, (body, since, _) in self.requests.items():
            if since <= until:
                found = read_request(body)
                kind = OTHER if found is None else found[0]
                yield Request(request_id, kind, body, since)

    def held(self) -> Iterator[tuple[int, bytes, float]]:
        """Yield of each lock its id, the envelope that has granted it, and when that came."""
        for lock_id, (granted, since) in self.granted.items():
            yield lock_id, granted, since
        for lock in self.locks.values():
            yield lock.id, lock.granted, lock.since
        for lock_id, (granted, since, _) in self.own.items():
            yield lock_id, granted, since

    @property
    def held_count(self) -> int:
        """The number of its locks."""
        return len(self.granted) + len(self.locks) + len(self.own)

    def settle_locks(self) -> None:
        """Make all locks, released ones, too, those of a former master: the relay's own stay."""
        self.current.clear()
        for lock_id, record in self.granted.items():
            self.locks[lock_id] = self._lock(lock_id, record)
            self._count_large(record[0], -1)
        self.granted.clear()
        for request_id, (body, since, released) in self.requests.items():
            if released is not None:
                lock = self.about[request_id] = self._lock(read_lock_id(body) or 0, released)
                lock.release = request_id
                self._count_large(released[0], -1)
                self.requests[request_id] = body, since, None

    def _lock(self, lock_id: int, granted: Granted) -> Lock:
        return Lock(lock_id, self.holder, *granted, self.worker)

    def count_large(self) -> None:
        """Count the messages that are not small, as requests and locks were added together."""
        self.large = sum(len(each) > SMALL for each in self._messages())

    def _count_large(self, message: bytes, change: int) -> None:
        if len(message) > SMALL:
            self.large += change

    # What needs more than a short look; what does not is in acebase_ipc.relay.short_way.

    def open(self, request_id: bytes, body: bytes, now: float) -> None:
        """Note a request."""
        self.requests[request_id] = body, now, None
        self._count_large(body, +1)
        self.ledger.count(body)

    def grant(self, lock_id: int, body: bytes, now: float) -> None:
        """Note a lock that the present master has granted, in place of one with the same id."""
        cover = self.covers.get(lock_id)
        if cover is not None and not cover.open:
            self.uncover(lock_id)
        self.forget_lock(lock_id)
        self.granted[lock_id] = body, now
        self._count_large(body, +1)
        self.ledger.count(body)

    def release(self, request_id: bytes, lock_id: int) -> None:
        """Note that an open request releases a lock of the present master."""
        self.uncover(lock_id)
        body, since, _ = self.requests[request_id]
        self.requests[request_id] = body, since, self.granted.pop(lock_id)

    def take(self, lock_id: int) -> Lock | None:
        """Remove and return a lock of a master's, which the relay has to release."""
        self.uncover(lock_id)
        record = self.granted.pop(lock_id, None)
        if record is None:
            return self.locks.pop(lock_id, None)
        self._count_large(record[0], -1)
        return self._lock(lock_id, record)

    def uncover(self, lock_id: int) -> None:
        """Let a lock, under which the relay has none of its own, cover no others any more."""
        cover = self.covers.pop(lock_id, None)
        if cover is not None and self.current.get(cover.tid) is cover:
            del self.current[cover.tid]

    def regrant(self, lock_id: int, granted: bytes) -> None:
        """Note the envelope that has granted a lock of a master's in place of the one before."""
        record = self.granted.get(lock_id)
        if record is None:
            self.ledger.regrant(self.locks[lock_id], granted)
            return
        self._discount(record[0])
        self.granted[lock_id] = granted, record[1]
        self._count_large(granted, +1)
        self.ledger.count(granted)

    def forget_lock(self, lock_id: int) -> None:
        """Forget the lock that the present master has granted under this id, if there is one."""
        granted = self.granted.pop(lock_id, None)
        if granted is not None:
            self._discount(granted[0])

    def close(self, request_id: bytes) -> Lock | None:
        """Note that an open request is answered; returns the former master's lock in question."""
        journal = self.ledger.journal
        if journal is not None:
            journal.closed(self.worker, request_id)
            self.note_release(request_id)
        body, _, released = self.requests.pop(request_id)
        self.answered.append(request_id)
        self._discount(body)
        if released is not None:
            self._discount(released[0])
        return self.about.pop(request_id, None)

    def _discount(self, message: bytes) -> None:
        self._count_large(message, -1)
        self.ledger.discount(message)

    def note_release(self, request_id: bytes) -> None:
        """Tell the journal that an open request is answered, if it is one to release a lock."""
        (body, _, released), journal = self.requests[request_id], self.ledger.journal
        if journal is not None and released is not None:
            journal.released(self.worker, read_lock_id(body) or 0)

    def has_answered(self, request_id: bytes) -> bool:
        """Return whether a request that is not open is known: as a recent or a resent one."""
        return request_id in self.answered or request_id in self.resent

    def forget_resent(self) -> None:
        """Expect no further answers to requests that were answered although they were resent."""
        for request_id in list(self.resent):
            if request_id not in self.requests:
                self.resent.remove(request_id)
                self.ledger.abandon(request_id, self.worker)

    def holds(self, master_id: int) -> bool:
        """Return whether a lock that it holds has this id at the present master."""
        return master_id in self.granted or any(
            master_id == each.master_id for each in self.locks.values()
        )

    @property
    def records(self) -> int:
        """The number of its open requests and locks."""
        return len(self.requests) + len(self.about) + self.held_count

    @property
    def memory(self) -> int:
        """The bytes that it occupies; small records are estimated."""
        return _size_of_large(self._messages()) + _RECORD * self.records

    def _messages(self) -> Iterator[bytes]:
        for body, _, released in self.requests.values():
            yield body
            if released is not None:
                yield released[0]
        for granted, _ in self.granted.values():
            yield granted


class Ledger:
    """The accounts of a database's workers, and the locks that none of them has any more.

    :ivar accounts: the accounts.
    :ivar own: the locks that the relay has asked the present master for, or asked it to
        release, by the id of that request.
    :ivar questions: the locks that the present master was asked whether it has, by the id of that
        request.
    :ivar unwanted: the locks that have to be released when there is a master again.
    :ivar abandoned: the ids of requests whose answer nobody waits for, with the worker's number
        in the journal. A lock that it grants has to be released.
    :ivar moves: the ids of requests to move a lock whose answer nobody waits for. The lock that
        it names is not a new one.
    :ivar highest: the highest id of a lock that the present master has granted; 0 if it has
        granted none.
    :ivar former_highest: the same of the master before it.
    :ivar is_same_process: whether the present master is the process that was the master
        before; ``None`` while that is not known.
    :ivar asks_who: whether the next master is asked for a lock that shows which process it is.
    :ivar lost: the lock requests, each with its worker, whose answers were perhaps lost with the
        relay before this one.
    :ivar journal: receives what has to outlast the relay.
    """

    __slots__ = (
        "_budget",
        "abandoned",
        "accounts",
        "asks_who",
        "former_highest",
        "highest",
        "is_same_process",
        "journal",
        "large",
        "lost",
        "moves",
        "own",
        "questions",
        "unwanted",
    )

    def __init__(self, budget: MemoryBudget, journal: Journal | None) -> None:
        self._budget = budget
        self.journal = journal
        self.large = 0
        self.accounts: set[Account] = set()
        self.own: dict[bytes, Lock] = {}
        self.questions: dict[bytes, Lock] = {}
        self.unwanted: dict[Lock, None] = {}
        self.abandoned: dict[bytes, int] = {}
        self.moves: dict[bytes, int] = {}
        self.lost: list[tuple[str, bytes]] = []
        self.asks_who = False
        self.highest = 0
        self.former_highest = 0
        self.is_same_process: bool | None = None

    @property
    def memory(self) -> int:
        """The bytes that all its records occupy; small ones are estimated."""
        records = sum(each.records for each in self.accounts)
        return self.large + _RECORD * (records + len(self.own) + len(self.unwanted))

    @property
    def memory_of_unwanted(self) -> int:
        """The bytes that the locks occupy which have to be released; small ones are estimated."""
        locks = self._unwanted()
        return _size_of_large(each.granted for each in locks) + _RECORD * len(locks)

    def _unwanted(self) -> list[Lock]:
        own = (each for each in self.own.values() if each.is_unwanted)
        return list(dict.fromkeys((*own, *self.unwanted)))

    def count(self, message: bytes) -> None:
        """Count the memory of a record with this message, if it is not small."""
        size = len(message)
        if size > SMALL:
            self.large += size
            self._budget.growth += size

    def discount(self, message: bytes) -> None:
        """Count the memory of a record with this message no longer."""
        size = len(message)
        if size > SMALL:
            self.large -= size
            self._budget.growth -= size

    def abandon(self, request_id: bytes, worker: int = 0) -> None:
        """Note that nobody waits for the answer to this request.

        :param worker: the number in the journal of the worker that has waited for it.
        """
        _add(self.abandoned, request_id, worker)

    def note_move(self, request_id: bytes) -> None:
        """Note that nobody waits for the answer to this request to move a lock."""
        _add(self.moves, request_id, 0)

    def keep_unwanted(self, lock: Lock) -> None:
        """Keep *lock* until there is a master that can release it."""
        self.unwanted[lock] = None
        if len(self.unwanted) > _MAX_UNWANTED:
            self.forget(next(iter(self.unwanted)))

    def regrant(self, lock: Lock, granted: bytes) -> None:
        """Note the envelope that has granted *lock* in place of the one before."""
        self.discount(lock.granted)
        lock.granted = granted
        self.count(granted)

    def forget_released(self, lock: Lock) -> None:
        """Forget *lock*, which its holder has released at the master."""
        lock.release = None
        if lock.probe is not None and self.own.pop(lock.probe, None) is not None:
            self.abandon(lock.probe)
        self.forget(lock)

    def forget(self, lock: Lock) -> None:
        """Forget *lock*, which no account has."""
        self.unwanted.pop(lock, None)
        self.discount(lock.granted)
        if self.journal is not None and lock.worker:
            self.journal.released(lock.worker, lock.id)

    def take_unsettled(self) -> list[Lock]:
        """Return the locks of the relay's own requests, whose answers are no longer awaited."""
        for request_id in self.own:
            self.abandon(request_id)
        for request_id in self.questions:
            self.note_move(request_id)
        self.questions.clear()
        locks = [*self.own.values(), *self.unwanted]
        self.own.clear()
        self.unwanted.clear()
        return locks

    def drop_unwanted(self) -> None:
        """Forget the locks that have to be released, for lack of memory."""
        for lock in self._unwanted():
            self.forget(lock)
        for request_id in [each for each, lock in self.own.items() if lock.is_unwanted]:
            del self.own[request_id]
            self.abandon(request_id)


def _size_of_large(messages: Iterable[bytes]) -> int:
    """Return the bytes of the messages that are not small."""
    return sum(len(each) for each in messages if len(each) > SMALL)


def _add(request_ids: dict[bytes, int], request_id: bytes, worker: int) -> None:
    """Add to the ids of requests, and forget the first of them if there are too many."""
    request_ids[request_id] = worker
    if len(request_ids) > _MAX_UNWANTED:
        del request_ids[next(iter(request_ids))]
