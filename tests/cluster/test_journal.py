"""The journal that Redis keeps for the next home of a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from acebase_ipc.relay.journal import RestoredDatabase
from acebase_ipc.server.cluster_journal import COMPACTED, ClusterJournal

DATABASE = "shop_data"


class Turns:
    """Calls what is to be called at the end of a turn, and keeps the records as Redis does."""

    def __init__(self) -> None:
        self._due: list[Callable[[], object]] = []
        self.kept: dict[str, list[bytes]] = {}
        self.sent = 0

    def journal(self) -> ClusterJournal:
        made = ClusterJournal(lambda function: self._due.append(function), lambda: 0.0)
        made.append = self._append
        return made

    def _append(self, database: str, payloads: list[bytes], anew: bool) -> None:
        self.sent += 1
        if anew:
            self.kept[database] = []
        self.kept[database] += payloads

    def turn(self) -> None:
        due, self._due = self._due, []
        for each in due:
            each()


def restored(turns: Turns, database: str = DATABASE) -> RestoredDatabase:
    """What the next home finds, with the workers numbered from 1."""
    found = Turns().journal().restore(database, turns.kept[database])
    assert found is not None
    return found


def work(journal: ClusterJournal, database: str = DATABASE) -> None:
    """Note a worker with a lock, one with an open request, and one that has left."""
    journal.master_arrived(database)
    holder, waiting, gone = (
        journal.joined(database, f"worker{number}", restarts=True) for number in range(3)
    )
    journal.asked(holder, b"r1", b"body 1")
    journal.granted(holder, b"r1", 7)
    journal.asked(waiting, b"r2", b"body 2")
    journal.left(gone)


def test_the_next_home_finds_workers_locks_and_requests() -> None:
    turns = Turns()
    journal = turns.journal()
    work(journal)
    work(journal, "blog_data")
    turns.turn()
    assert turns.sent == 2, "what is noted in a turn is sent together"

    found = restored(turns)
    holder, waiting = found.workers
    assert (found.name, found.highest) == (DATABASE, 7)
    assert [(each.id, each.master_id, each.body) for each in holder.locks] == [(7, 7, b"body 1")]
    assert [(each.id, each.body) for each in waiting.requests] == [(b"r2", b"body 2")]
    assert [each.number for each in found.workers] == [1, 2]


def test_the_home_after_the_next_one_finds_the_same() -> None:
    turns = Turns()
    work(turns.journal())
    turns.turn()
    first = restored(turns)
    next_home = Turns()
    next_home.journal().restore(DATABASE, turns.kept[DATABASE])
    next_home.turn()
    assert restored(next_home) == first


def test_a_journal_that_grows_is_replaced_by_what_is_needed() -> None:
    turns = Turns()
    journal = turns.journal()
    work(journal)
    worker = journal.joined(DATABASE, "busy", restarts=True)
    for number in range(COMPACTED):
        request = b"q%d" % number
        journal.asked(worker, request, b"body")
        journal.granted(worker, request, number + 100)
        journal.released(worker, number + 100)
        turns.turn()
        assert len(turns.kept[DATABASE]) <= COMPACTED + 3
    found = restored(turns)
    assert [each.client_id for each in found.workers] == ["worker0", "worker1", "busy"]
    assert found.workers[2] == replace(found.workers[2], locks=(), requests=())


def test_what_is_forgotten_is_begun_anew() -> None:
    turns = Turns()
    journal = turns.journal()
    work(journal)
    turns.turn()
    journal.forget(DATABASE)
    journal.joined(DATABASE, "another", restarts=True)
    turns.turn()
    assert [each.client_id for each in restored(turns).workers] == ["another"]


def test_all_is_sent_again_if_redis_has_forgotten_it() -> None:
    turns = Turns()
    journal = turns.journal()
    work(journal)
    turns.turn()
    before = restored(turns)
    turns.kept.clear()
    journal.begin_anew()
    turns.turn()
    assert restored(turns) == before


def test_nothing_is_found_where_nothing_was_noted() -> None:
    assert Turns().journal().restore(DATABASE, ()) is None
