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
_ASKED: Final = struct.Struct("<BIB")
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


def asked(worker: int, request_id: bytes, body: bytes) -> bytes:
    """A request for a lock is open."""
    return _ASKED.pack(5, worker, len(request_id)) + request_id + body


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


@dataclass(slots=True)
class _Worker:
    database: str
    client_id: str
    restarts: bool
    is_gone: bool = False
    locks: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    requests: dict[bytes, bytes] = field(default_factory=dict)


class State:
    """What the records of a journal add up to; each kind of record has a method of its name.

    :ivar last_worker: the highest number of a worker.
    """

    def __init__(self) -> None:
        self.last_worker = 0
        self._databases: dict[str, _Database] = {}
        self._workers: dict[int, _Worker] = {}
        self._fences: dict[tuple[str, str], float] = {}

    def records(self, now: float) -> Iterator[bytes]:
        """Yield the payloads of the fewest records that add up to this state.

        What these leave out is forgotten.

        :param now: monotonic seconds; fences that are over are left out.
        """
        names = {each.database for each in self._workers.values()}
        self._databases = {name: self._databases[name] for name in names}
        self._fences = {key: until for key, until in self._fences.items() if until > now}
        for name, known in self._databases.items():
            yield database(name, known.highest, known.former_highest)
        for number, worker in self._workers.items():
            yield joined(number, worker.database, worker.client_id, worker.restarts)
            for request_id, body in worker.requests.items():
                yield asked(number, request_id, body)
            for lock_id, (master_id, body) in worker.locks.items():
                yield locked(number, lock_id, master_id, body)
            if worker.is_gone:
                yield left(number)
        for key, until in self._fences.items():
            yield fenced(*key, until)

    def restored(self) -> Restored:
        """Return it as the core needs it."""
        workers: dict[str, list[RestoredWorker]] = {}
        for number, each in self._workers.items():
            locks = tuple(RestoredLock(key, *lock) for key, lock in each.locks.items())
            requests = tuple(RestoredRequest(key, body) for key, body in each.requests.items())
            worker = RestoredWorker(
                number, each.client_id, each.restarts, each.is_gone, locks, requests
            )
            workers.setdefault(each.database, []).append(worker)
        return Restored(
            tuple(
                RestoredDatabase(name, known.highest, known.former_highest, tuple(workers[name]))
                for name, known in self._databases.items()
                if name in workers
            ),
            tuple(RestoredFence(*key, until) for key, until in self._fences.items()),
        )

    def database(self, name: str, highest: int, former_highest: int) -> None:
        self._databases[name] = _Database(highest, former_highest)

    def joined(self, worker: int, database: str, client_id: str, restarts: bool) -> None:
        self._databases.setdefault(database, _Database())
        self._workers[worker] = _Worker(database, client_id, restarts)
        self._fences.pop((database, client_id), None)  # it was admitted
        self.last_worker = max(self.last_worker, worker)

    def left(self, worker: int) -> None:
        known = self._workers.get(worker)
        if known is not None:
            known.is_gone = True
            self._drop_if_over(worker, known)

    def fenced(self, database: str, client_id: str, until: float) -> None:
        self._fences[database, client_id] = until

    def master_arrived(self, database: str) -> None:
        known = self._databases.get(database)
        if known is not None and known.highest:
            known.former_highest, known.highest = known.highest, 0
        for number, worker in list(self._workers.items()):
            if worker.is_gone and worker.database == database:
                worker.requests.clear()  # the core does not ask for them again, either
                self._drop_if_over(number, worker)

    def asked(self, worker: int, request_id: bytes, body: bytes) -> None:
        known = self._workers.get(worker)
        if known is not None:
            known.requests[request_id] = body

    def closed(self, worker: int, request_id: bytes) -> None:
        known = self._workers.get(worker)
        if known is not None:
            known.requests.pop(request_id, None)
            if known.is_gone:
                self._drop_if_over(worker, known)

    def granted(self, worker: int, request_id: bytes, lock_id: int) -> None:
        known = self._workers.get(worker)
        request = None if known is None else known.requests.pop(request_id, None)
        if known is not None and request is not None:
            known.locks[lock_id] = lock_id, request
            self._note_id(known, lock_id)

    def locked(self, worker: int, lock_id: int, master_id: int, body: bytes) -> None:
        known = self._workers.get(worker)
        if known is not None:
            known.locks[lock_id] = master_id, body
            self._note_id(known, master_id)

    def confirmed(self, worker: int, lock_id: int, master_id: int) -> None:
        known = self._workers.get(worker)
        if known is not None and lock_id in known.locks:
            known.locks[lock_id] = master_id, known.locks[lock_id][1]
            self._note_id(known, master_id)

    def released(self, worker: int, lock_id: int) -> None:
        known = self._workers.get(worker)
        if known is not None:
            known.locks.pop(lock_id, None)
            if known.is_gone:
                self._drop_if_over(worker, known)

    def _note_id(self, worker: _Worker, lock_id: int) -> None:
        known = self._databases[worker.database]
        if lock_id > known.highest:
            known.highest = lock_id

    def _drop_if_over(self, number: int, worker: _Worker) -> None:
        """Forget a worker that is gone, if nothing needs to be known of it any more."""
        if not worker.locks and not worker.requests:
            del self._workers[number]


def replay(records: Iterable[bytes]) -> State:
    """Return what records with these payloads add up to."""
    state = State()
    for payload in records:
        _KINDS[payload[0]](state, payload)
    return state


def _replay_database(state: State, payload: bytes) -> None:
    _, highest, former_highest = _DATABASE.unpack_from(payload)
    state.database(payload[_DATABASE.size :].decode(), highest, former_highest)


def _replay_joined(state: State, payload: bytes) -> None:
    _, worker, restarts, length = _JOINED.unpack_from(payload)
    state.joined(worker, *_split(payload, _JOINED.size, length), restarts)


def _replay_left(state: State, payload: bytes) -> None:
    state.left(*_WORKER.unpack(payload)[1:])


def _replay_fenced(state: State, payload: bytes) -> None:
    _, until, length = _FENCED.unpack_from(payload)
    state.fenced(*_split(payload, _FENCED.size, length), until)


def _replay_master(state: State, payload: bytes) -> None:
    state.master_arrived(payload[1:].decode())


def _replay_asked(state: State, payload: bytes) -> None:
    _, worker, length = _ASKED.unpack_from(payload)
    end = _ASKED.size + length
    state.asked(worker, payload[_ASKED.size : end], payload[end:])


def _replay_closed(state: State, payload: bytes) -> None:
    _, worker = _WORKER.unpack_from(payload)
    state.closed(worker, payload[_WORKER.size :])


def _replay_granted(state: State, payload: bytes) -> None:
    _, worker, lock_id = _LOCK.unpack_from(payload)
    state.granted(worker, payload[_LOCK.size :], lock_id)


def _replay_locked(state: State, payload: bytes) -> None:
    _, worker, lock_id, master_id = _LOCKED.unpack_from(payload)
    state.locked(worker, lock_id, master_id, payload[_LOCKED.size :])


def _replay_confirmed(state: State, payload: bytes) -> None:
    state.confirmed(*_LOCKED.unpack(payload)[1:])


def _replay_released(state: State, payload: bytes) -> None:
    state.released(*_LOCK.unpack(payload)[1:])


_KINDS: Final[tuple[Callable[[State, bytes], None], ...]] = (
    _replay_database,
    _replay_joined,
    _replay_left,
    _replay_fenced,
    _replay_master,
    _replay_asked,
    _replay_closed,
    _replay_granted,
    _replay_locked,
    _replay_confirmed,
    _replay_released,
)


def _split(payload: bytes, start: int, length: int) -> tuple[str, str]:
    return payload[start : start + length].decode(), payload[start + length :].decode()
