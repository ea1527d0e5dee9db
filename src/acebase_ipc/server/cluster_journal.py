"""The journal of a relay of a cluster, which its Redis keeps for the next home of a database.

It has the same records as the file of ``--state-dir`` (``journal_records.py``). What is noted in
one turn of the reactor is sent together, for each database, and is not waited for: a relay that is
killed takes the records of its last turn with it. Redis accepts them from the home of the database
only, so that nothing comes late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from acebase_ipc.relay.journal import RestoredDatabase
from acebase_ipc.server import journal_records as records
from acebase_ipc.server.record_journal import RecordJournal

COMPACTED: Final = 2_000
"""Records of a database from which on they may be replaced by what is still needed."""

SLACK: Final = 4
"""They are replaced when there are so many times more than are needed."""

Append = Callable[[str, list[bytes], bool], object]
"""Sends records of a database; the last argument tells whether they replace all others."""


@dataclass(slots=True)
class _Part:
    """The journal of one database.

    :ivar mark: called when there is something to send.
    :ivar pending: what has not been sent yet.
    :ivar begins_anew: whether what is sent next replaces what Redis has.
    :ivar limit: how many records Redis may have before they are replaced.
    """

    mark: Callable[[], object]
    state: records.State = field(default_factory=records.State)
    pending: list[bytes] = field(default_factory=list)
    begins_anew: bool = True
    written: int = 0
    limit: int = COMPACTED

    def write(self, payload: bytes) -> None:
        """Send *payload* at the end of the turn."""
        self.pending.append(payload)
        self.mark()


class ClusterJournal(RecordJournal):
    """A :class:`~acebase_ipc.relay.journal.Journal` for all databases of a relay.

    :param soon: calls a function once at the end of the turn.
    :param clock: returns monotonic seconds.
    :ivar append: sends records; to be set before anything is noted.
    """

    def __init__(
        self, soon: Callable[[Callable[[], object]], object], clock: Callable[[], float]
    ) -> None:
        super().__init__()
        self._soon = soon
        self._clock = clock
        self._parts: dict[str, _Part] = {}
        self._databases: dict[int, str] = {}
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

    def part_of(self, key: str | int) -> _Part | None:
        """Return the part of a database, or of the database of a worker."""
        if isinstance(key, int):
            database = self._databases.get(key)
            return None if database is None else self._parts[database]
        part = self._parts.get(key)
        if part is None:
            part = self._parts[key] = _Part(partial(self._mark, key))
        return part

    def joined(self, database: str, client_id: str, restarts: bool) -> int:
        """Note a new worker; returns its number."""
        worker = super().joined(database, client_id, restarts)
        self._databases[worker] = database
        return worker

    def fenced(self, database: str, client_id: str, until: float) -> None:
        """Note nothing: the clock of another relay is another one."""
