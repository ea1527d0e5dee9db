"""The records of a journal, and what they add up to. Pure: bytes in, values out.

Each record is its payload's CRC-32, the payload's length, and the payload, which begins with
one byte for its kind. Of a record that a crash has cut, the CRC does not match: it and all that
follows is ignored. A length of 0 is the end.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from acebase_ipc.relay.journal import (
    Restored,
    RestoredDatabase,
    RestoredFence,
    RestoredLock,
    RestoredRequest,
    RestoredWorker,
)

_HEAD: Final = struct.Struct("<II")
_DATABASE: Final = struct.Struct("<BQQ")
_JOINED: Final = struct.Struct("<BI?H")
_WORKER: Final = struct.Struct("<BI")
_FENCED: Final = struct.Struct("<BdH")
_ASKED: Final = struct.Struct("<BIQB")
_LOCK: Final = struct.Struct("<BIQ")
_LOCKED: Final = struct.Struct("<BIQQ")


def frame(payload: bytes) -> bytes:
    """Return the record with this payload."""
    return _HEAD.pack(crc32(payload), len(payload)) + payload


def payloads(journal: bytes, start: int) -> Iterator[bytes]:
    """Yield the payloads of the records from *start* on, up to the end or to one that was cut."""
    while start + _HEAD.size <= len(journal):
        checksum, length = _HEAD.unpack_from(journal, start)
        start += _HEAD.size
        payload = journal[start : start + length]
        if not length or len(payload) < length or crc32(payload) != checksum:
            return
        yield payload
        start += length


# One function for each kind of record; the first byte of the result is the kind.


def database(name: str, highest: int, former_highest: int) -> bytes:
    """A database, and the highest ids of locks there."""
    return _DATABASE.pack(0, highest, former_highest) + name.encode()


def joined(worker: int, database: str, client_id: str, restarts: bool) -> bytes:
    """A worker has joined, or has asked for something first."""
    name = database.encode()
    return _JOINED.pack(1, worker, restarts, len(name)) + name + client_id.encode()


def left(worker: int) -> bytes:
    """A worker is gone."""
    return _WORKER.pack(2, worker)


def fenced(database: str, client_id: str, until: float) -> bytes:
    """An id is refused until then."""
    name = database.encode()
    return _FENCED.pack(3, until, len(name)) + name + client_id.encode()


def master_arrived(database: str) -> bytes:
    """A master has joined."""
    return b"\4" + database.encode()


def asked(worker: int, above: int, request_id: bytes, body: bytes) -> bytes:
    """A request for a lock is open."""
    return _ASKED.pack(5, worker, above, len(request_id)) + request_id + body


def closed(worker: int, request_id: bytes) -> bytes:
    """A request is answered."""
    return _WORKER.pack(6, worker) + request_id


def granted(worker: int, request_id: bytes, lock_id: int) -> bytes:
    """The lock of an open request is granted."""
    return _LOCK.pack(7, worker, lock_id) + request_id


def locked(worker: int, lock_id: int, master_id: int, body: bytes) -> bytes:
    """A worker has a lock."""
    return _LOCKED.pack(8, worker, lock_id, master_id) + body


def confirmed(worker: int, lock_id: int, master_id: int) -> bytes:
    """A new master knows a lock under this id."""
    return _LOCKED.pack(9, worker, lock_id, master_id)


def released(worker: int, lock_id: int) -> bytes:
    """A lock is no more."""
    return _LOCK.pack(10, worker, lock_id)


@dataclass(slots=True)
class _Database:
    highest: int = 0
    former_highest: int = 0

    def granted(self, lock_id: int) -> None:
        self.highest = max(self.highest, lock_id)


@dataclass(slots=True)
class _Worker:
    database: str
    client_id: str
    restarts: bool
    is_gone: bool = False
    locks: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    requests: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether nothing needs to be known of it any more."""
        return self.is_gone and not self.locks and not self.requests


class State:
    """What the records of a journal add up to.

    :ivar last_worker: the highest number of a worker.
    """

    def __init__(self, records: Iterable[bytes]) -> None:
        self.last_worker = 0
        self._databases: dict[str, _Database] = {}
        self._workers: dict[int, _Worker] = {}
        self._fences: dict[tuple[str, str], float] = {}
        kinds: tuple[Callable[[bytes], None], ...] = (
            self._database,
            self._joined,
            self._left,
            self._fenced,
            self._master_arrived,
            self._asked,
            self._closed,
            self._granted,
            self._locked,
            self._confirmed,
            self._released,
        )
        for payload in records:
            kinds[payload[0]](payload)

    def records(self, now: float) -> Iterator[bytes]:
        """Yield the payloads of the fewest records that add up to this state.

        :param now: monotonic seconds; fences that are over are left out.
        """
        names = {each.database for each in self._workers.values()}
        for name in names:
            known = self._databases[name]
            yield database(name, known.highest, known.former_highest)
        for number, worker in self._workers.items():
            yield joined(number, worker.database, worker.client_id, worker.restarts)
            for request_id, (above, body) in worker.requests.items():
                yield asked(number, above, request_id, body)
            for lock_id, (master_id, body) in worker.locks.items():
                yield locked(number, lock_id, master_id, body)
            if worker.is_gone:
                yield left(number)
        for key, until in self._fences.items():
            if until > now:
                yield fenced(*key, until)

    def restored(self) -> Restored:
        """Return it as the core needs it."""
        workers: dict[str, list[RestoredWorker]] = {}
        for number, each in self._workers.items():
            worker = RestoredWorker(
                number,
                each.client_id,
                each.restarts,
                each.is_gone,
                tuple(RestoredLock(key, *lock) for key, lock in each.locks.items()),
                tuple(
                    RestoredRequest(key, body, above)
                    for key, (above, body) in each.requests.items()
                ),
            )
            workers.setdefault(each.database, []).append(worker)
        return Restored(
            tuple(
                RestoredDatabase(
                    name,
                    self._databases[name].highest,
                    self._databases[name].former_highest,
                    tuple(found),
                )
                for name, found in workers.items()
            ),
            tuple(RestoredFence(*key, until) for key, until in self._fences.items()),
        )

    def _database(self, payload: bytes) -> None:
        _, highest, former_highest = _DATABASE.unpack_from(payload)
        self._databases[payload[_DATABASE.size :].decode()] = _Database(highest, former_highest)

    def _joined(self, payload: bytes) -> None:
        _, number, restarts, length = _JOINED.unpack_from(payload)
        name, client_id = _split(payload, _JOINED.size, length)
        self._databases.setdefault(name, _Database())
        self._workers[number] = _Worker(name, client_id, restarts)
        self._fences.pop((name, client_id), None)  # it was admitted
        self.last_worker = max(self.last_worker, number)

    def _left(self, payload: bytes) -> None:
        _, number = _WORKER.unpack_from(payload)
        worker = self._workers.get(number)
        if worker is not None:
            worker.is_gone = True
            self._drop_if_over(number, worker)

    def _fenced(self, payload: bytes) -> None:
        _, until, length = _FENCED.unpack_from(payload)
        self._fences[_split(payload, _FENCED.size, length)] = until

    def _master_arrived(self, payload: bytes) -> None:
        known = self._databases.get(payload[1:].decode())
        if known is not None and known.highest:
            known.former_highest, known.highest = known.highest, 0
        gone = [
            (number, each)
            for number, each in self._workers.items()
            if each.is_gone and self._databases[each.database] is known
        ]
        for number, worker in gone:
            worker.requests.clear()  # the core does not ask for them again, either
            self._drop_if_over(number, worker)

    def _asked(self, payload: bytes) -> None:
        _, number, above, length = _ASKED.unpack_from(payload)
        end = _ASKED.size + length
        if number in self._workers:
            requests = self._workers[number].requests
            requests[payload[_ASKED.size : end]] = above, payload[end:]

    def _closed(self, payload: bytes) -> None:
        _, number = _WORKER.unpack_from(payload)
        worker = self._workers.get(number)
        if worker is not None:
            worker.requests.pop(payload[_WORKER.size :], None)
            self._drop_if_over(number, worker)

    def _granted(self, payload: bytes) -> None:
        _, number, lock_id = _LOCK.unpack_from(payload)
        worker = self._workers.get(number)
        request = None if worker is None else worker.requests.pop(payload[_LOCK.size :], None)
        if worker is not None and request is not None:
            worker.locks[lock_id] = lock_id, request[1]
            self._databases[worker.database].granted(lock_id)

    def _locked(self, payload: bytes) -> None:
        _, number, lock_id, master_id = _LOCKED.unpack_from(payload)
        worker = self._workers.get(number)
        if worker is not None:
            worker.locks[lock_id] = master_id, payload[_LOCKED.size :]
            self._databases[worker.database].granted(master_id)

    def _confirmed(self, payload: bytes) -> None:
        _, number, lock_id, master_id = _LOCKED.unpack_from(payload)
        worker = self._workers.get(number)
        if worker is not None and lock_id in worker.locks:
            worker.locks[lock_id] = master_id, worker.locks[lock_id][1]
            self._databases[worker.database].granted(master_id)

    def _released(self, payload: bytes) -> None:
        _, number, lock_id = _LOCK.unpack_from(payload)
        worker = self._workers.get(number)
        if worker is not None:
            worker.locks.pop(lock_id, None)
            self._drop_if_over(number, worker)

    def _drop_if_over(self, number: int, worker: _Worker) -> None:
        if worker.is_over:
            del self._workers[number]


def _split(payload: bytes, start: int, length: int) -> tuple[str, str]:
    return payload[start : start + length].decode(), payload[start + length :].decode()
