"""The journal of a relay of a cluster, which its Redis keeps for the next home of a database.

It has the same records as the file of ``--state-dir`` (``journal_records.py``). What is noted in
one turn of the reactor is sent together, for each database, and is not waited for: a relay that is
killed takes the records of its last turn with it. Redis accepts them from the home of the database
only, so that nothing comes late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from acebase_ipc.relay.journal import RestoredDatabase
from acebase_ipc.server import journal_records as records

COMPACTED: Final = 2_000
"""Records of a database from which on they may be replaced by what is still needed."""

SLACK: Final = 4
"""They are replaced when there are so many times more than are needed."""

Append = Callable[[str, list[bytes], bool], object]
"""Sends records of a database; the last argument tells whether they replace all others."""


@dataclass(slots=True)
class _Part:
    """The journal of one database.

    :ivar pending: what has not been sent yet.
    :ivar begins_anew: whether what is sent next replaces what Redis has.
    :ivar limit: how many records Redis may have before they are replaced.
    """

    state: records.State = field(default_factory=records.State)
    pending: list[bytes] = field(default_factory=list)
    begins_anew: bool = True
    written: int = 0
    limit: int = COMPACTED


class ClusterJournal:
    """A :class:`~acebase_ipc.relay.journal.Journal` for all databases of a relay.

    :param soon: calls a function once at the end of the turn.
    :param clock: returns monotonic seconds.
    :ivar append: sends records; to be set before anything is noted.
    """

    def __init__(
        self, soon: Callable[[Callable[[], object]], object], clock: Callable[[], float]
    ) -> None:
        self._soon = soon
        self._clock = clock
        self._parts: dict[str, _Part] = {}
        self._databases: dict[int, str] = {}
        self._last_worker = 0
        self._dirty: set[str] = set()
        self.append: Append = lambda database, payloads, anew: None

    # For the cluster

    def restore(self, database: str, payloads: Iterable[bytes]) -> RestoredDatabase | None:
        """Return what another relay has noted of *database*, with numbers of this journal."""
        found = [
            each for each in records.replay(payloads).restored().databases if each.name == database
        ]
        if not found:
            return None
        self.forget(database)
        (state,) = found
        self.counted(database, state.highest, state.former_highest)
        workers = []
        for each in state.workers:
            number = self.joined(database, each.client_id, each.restarts)
            for lock in each.locks:
                self.locked(number, lock.id, lock.master_id, lock.body)
            for request in each.requests:
                self.asked(number, request.id, request.body)
            if each.is_gone:
                self.left(number)
            workers.append(replace(each, number=number))
        return replace(state, workers=tuple(workers))

    def forget(self, database: str) -> None:
        """Forget *database*, which this relay does not serve any more."""
        if self._parts.pop(database, None) is not None:
            self._dirty.discard(database)
            self._databases = {
                worker: name for worker, name in self._databases.items() if name != database
            }

    def begin_anew(self, databases: Iterable[str] | None = None) -> None:
        """Send all of *databases*, by default of all, as Redis may have forgotten it."""
        for database in tuple(self._parts) if databases is None else databases:
            part = self._parts.get(database)
            if part is not None:
                part.begins_anew = True
                self._mark(database)

    def _mark(self, database: str) -> None:
        if not self._dirty:
            self._soon(self._flush)
        self._dirty.add(database)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for database in dirty:
            part = self._parts[database]
            anew = part.begins_anew or part.written + len(part.pending) > part.limit
            if anew:
                part.pending = list(part.state.records(self._clock()))
                part.begins_anew = False
                part.written = 0
                part.limit = max(COMPACTED, SLACK * len(part.pending))
                self._drop_workers(database, part)
            payloads, part.pending = part.pending, []
            part.written += len(payloads)
            self.append(database, payloads, anew)

    def _drop_workers(self, database: str, part: _Part) -> None:
        """Forget the numbers of workers of which nothing needs to be known any more."""
        needed = {
            each.number for found in part.state.restored().databases for each in found.workers
        }
        self._databases = {
            worker: name
            for worker, name in self._databases.items()
            if name != database or worker in needed
        }

    # What the core notes

    def _note(self, database: str, payload: bytes) -> None:
        self._parts[database].pending.append(payload)
        self._mark(database)

    def _part(self, database: str) -> records.State:
        part = self._parts.get(database)
        if part is None:
            part = self._parts[database] = _Part()
        return part.state

    def joined(self, database: str, client_id: str, restarts: bool) -> int:
        """Note a new worker; returns its number."""
        self._last_worker += 1
        worker = self._last_worker
        self._databases[worker] = database
        self._part(database).joined(worker, database, client_id, restarts)
        self._note(database, records.joined(worker, database, client_id, restarts))
        return worker

    def left(self, worker: int) -> None:
        """Note that a worker is gone."""
        database = self._databases.get(worker)
        if database is not None:
            self._part(database).left(worker)
            self._note(database, records.left(worker))

    def fenced(self, database: str, client_id: str, until: float) -> None:
        """Note nothing: the clock of another relay is another one."""

    def master_arrived(self, database: str) -> None:
        """Note that a master has joined."""
        self._part(database).master_arrived(database)
        self._note(database, records.master_arrived(database))

    def counted(self, database: str, highest: int, former_highest: int) -> None:
        """Note the highest ids of locks that the masters of a database have granted."""
        self._part(database).database(database, highest, former_highest)
        self._note(database, records.database(database, highest, former_highest))

    def asked(self, worker: int, request_id: bytes, body: bytes) -> None:
        """Note an open request for a lock."""
        database = self._databases.get(worker)
        if database is not None:
            self._part(database).asked(worker, request_id, body)
            self._note(database, records.asked(worker, request_id, body))

    def closed(self, worker: int, request_id: bytes) -> None:
        """Note that a request is answered."""
        database = self._databases.get(worker)
        if database is not None:
            self._part(database).closed(worker, request_id)
            self._note(database, records.closed(worker, request_id))

    def granted(self, worker: int, request_id: bytes, lock_id: int) -> None:
        """Note that the lock of an open request is granted."""
        database = self._databases.get(worker)
        if database is not None:
            self._part(database).granted(worker, request_id, lock_id)
            self._note(database, records.granted(worker, request_id, lock_id))

    def locked(self, worker: int, lock_id: int, master_id: int, body: bytes) -> None:
        """Note a lock."""
        database = self._databases.get(worker)
        if database is not None:
            self._part(database).locked(worker, lock_id, master_id, body)
            self._note(database, records.locked(worker, lock_id, master_id, body))

    def confirmed(self, worker: int, lock_id: int, master_id: int) -> None:
        """Note under which id a new master knows a lock."""
        database = self._databases.get(worker)
        if database is not None:
            self._part(database).confirmed(worker, lock_id, master_id)
            self._note(database, records.confirmed(worker, lock_id, master_id))

    def released(self, worker: int, lock_id: int) -> None:
        """Note that a lock is no more."""
        database = self._databases.get(worker)
        if database is not None:
            self._part(database).released(worker, lock_id)
            self._note(database, records.released(worker, lock_id))
