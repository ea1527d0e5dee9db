"""Notes what the core tells a journal, as records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from acebase_ipc.server import journal_records as records
from acebase_ipc.server.journal_records import State


class Part(Protocol):
    """A journal, or the part of it that is about one database.

    :ivar state: what its records add up to.
    """

    state: State

    def write(self, payload: bytes) -> None:
        """Write a record with this payload; the state has it already."""


class RecordJournal(ABC):
    """A :class:`~acebase_ipc.relay.journal.Journal` of records; where they go, a subclass knows."""

    def __init__(self) -> None:
        self._last_worker = 0

    @abstractmethod
    def part_of(self, key: str | int) -> Part | None:
        """Return the part that is about a database, or about a worker of that number.

        ``None`` if nothing is to be noted of it.
        """

    def joined(self, database: str, client_id: str, restarts: bool) -> int:
        """Note a new worker; returns its number."""
        self._last_worker += 1
        worker = self._last_worker
        part = self.part_of(database)
        if part is not None:
            part.state.joined(worker, database, client_id, restarts)
            part.write(records.joined(worker, database, client_id, restarts))
        return worker

    def left(self, worker: int) -> None:
        """Note that a worker is gone."""
        part = self.part_of(worker)
        if part is not None:
            part.state.left(worker)
            part.write(records.left(worker))

    def fenced(self, database: str, client_id: str, until: float) -> None:
        """Note that an id is refused until then."""
        part = self.part_of(database)
        if part is not None:
            part.state.fenced(database, client_id, until)
            part.write(records.fenced(database, client_id, until))

    def master_arrived(self, database: str) -> None:
        """Note that a master has joined."""
        part = self.part_of(database)
        if part is not None:
            part.state.master_arrived(database)
            part.write(records.master_arrived(database))

    def counted(self, database: str, highest: int, former_highest: int) -> None:
        """Note the highest ids of locks that the masters of a database have granted."""
        part = self.part_of(database)
        if part is not None:
            part.state.database(database, highest, former_highest)
            part.write(records.database(database, highest, former_highest))

    def asked(self, worker: int, request_id: bytes, body: bytes) -> None:
        """Note an open request for a lock."""
        part = self.part_of(worker)
        if part is not None:
            part.state.asked(worker, request_id, body)
            part.write(records.asked(worker, request_id, body))

    def closed(self, worker: int, request_id: bytes) -> None:
        """Note that a request is answered."""
        part = self.part_of(worker)
        if part is not None:
            part.state.closed(worker, request_id)
            part.write(records.closed(worker, request_id))

    def granted(self, worker: int, request_id: bytes, lock_id: int) -> None:
        """Note that the lock of an open request is granted."""
        part = self.part_of(worker)
        if part is not None:
            part.state.granted(worker, request_id, lock_id)
            part.write(records.granted(worker, request_id, lock_id))

    def locked(self, worker: int, lock_id: int, master_id: int, body: bytes) -> None:
        """Note a lock."""
        part = self.part_of(worker)
        if part is not None:
            part.state.locked(worker, lock_id, master_id, body)
            part.write(records.locked(worker, lock_id, master_id, body))

    def confirmed(self, worker: int, lock_id: int, master_id: int) -> None:
        """Note under which id a new master knows a lock."""
        part = self.part_of(worker)
        if part is not None:
            part.state.confirmed(worker, lock_id, master_id)
            part.write(records.confirmed(worker, lock_id, master_id))

    def released(self, worker: int, lock_id: int) -> None:
        """Note that a lock is no more."""
        part = self.part_of(worker)
        if part is not None:
            part.state.released(worker, lock_id)
            part.write(records.released(worker, lock_id))
