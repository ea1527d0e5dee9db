"""A relay that was killed, and the one after it: workers, locks and masters of the former."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.events import LocksFreed, ReturnRefused, StateRestored
from acebase_ipc.relay.fences import Fenced
from acebase_ipc.relay.journal import Restored, RestoredWorker
from acebase_ipc.server.journal_records import State, replay
from acebase_ipc.server.record_journal import RecordJournal
from tests.relay.core import DATABASE, MASTER, Core
from tests.relay.locks import (
    answer,
    body_of,
    grant,
    lock,
    move,
    new_id,
    released,
    to_master,
    unlock,
    worker_id,
)

W1, W2, FRESH = map(worker_id, range(1, 4))
PYTHON = "python-peer"


class MemoryJournal(RecordJournal):
    """A journal whose records are kept in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.records: list[bytes] = []

    def part_of(self, key: str | int) -> MemoryJournal:
        return self

    def write(self, payload: bytes) -> None:
        self.records.append(payload)

    @property
    def restored(self) -> Restored:
        """What the next relay learns."""
        return replay(self.records).restored()


class Scene:
    """A master and two workers, on a relay and on the one after it.

    :ivar core: the present relay.
    """

    def __init__(self, **limits: Any) -> None:
        self._limits = limits
        self._waiting: list[dict[str, Any]] = []
        self.journal = MemoryJournal()
        self.core = Core(introduce=False, journal=self.journal, **limits)
        self.master = self.core.join_acebase(MASTER)
        self.workers = {each: self.core.join_acebase(each) for each in (W1, W2)}
        self.core.hush()

    def crash(self) -> None:
        """Kill the relay, and start the next."""
        restored = self.journal.restored
        now = self.core.now
        self._waiting.clear()
        self.core = Core(introduce=False, journal=self.journal, **self._limits)
        self.core.now = now
        self.core.relay.restore(restored, now)

    def asks(self, worker: str, message: str) -> str:
        self.workers[worker].says(message)
        return body_of(message)

    def holds(self, worker: str, lock_id: int, **details: Any) -> None:
        self.master.says(grant(self.asks(worker, lock(worker, new_id(), **details)), lock_id))

    def master_returns(self) -> None:
        self.master = self.core.join_acebase(MASTER)

    def asked(self) -> list[dict[str, Any]]:
        """The requests that have reached the master since it was last asked."""
        envelopes = [json.loads(each) for each in self.master.hears() if each.startswith("{")]
        return [each for each in envelopes if each["type"].endswith("request")]

    def serve(self, locks: dict[int, str], last_id: int) -> dict[int, str]:
        """Let the master answer as AceBase does, until there is nothing more to answer.

        :param locks: the transactions of the locks that it has.
        :param last_id: the last id of a lock that it has given.
        :returns: the locks that it has then.
        """
        locks = dict(locks)
        waiting = self._waiting
        while True:
            waiting += self.asked()
            for each in waiting:
                data, lock_id = each["data"], each["data"].get("id")
                text = json.dumps(each)
                if each["type"] == "lock-request":
                    if any(tid != data["tid"] for tid in locks.values()):
                        continue
                    last_id += 1
                    locks[last_id] = data["tid"]
                    self.master.says(grant(text, last_id))
                elif lock_id not in locks:
                    self.master.says(answer(text, reason="not found"))
                elif each["type"] == "unlock-request":
                    del locks[lock_id]
                    self.master.says(released(text))
                else:
                    details = {"id": lock_id, "path": "a", "tid": locks[lock_id], "write": True}
                    self.master.says(answer(text, details))
                waiting.remove(each)
                break
            else:
                return locks

    def left_workers(self) -> list[RestoredWorker]:
        """The workers of which the next relay would learn."""
        return [each for base in self.journal.restored.databases for each in base.workers]

    def returns(self, worker: str) -> None:
        with pytest.raises(Fenced):
            self.core.join_acebase(worker)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_survivor_is_refused_and_a_fresh_worker_is_not(scene: Scene) -> None:
    scene.crash()
    scene.returns(W1)
    scene.core.join_acebase(FRESH)
    scene.returns(W1)
    scene.core.wait(3600)
    scene.core.join_acebase(W1)


def test_one_warning_says_what_is_done(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.core.reported(StateRestored) == [StateRestored(1, 2, 1)]
    assert not scene.core.reported(ReturnRefused)
    assert not scene.core.reported(LocksFreed)


def test_where_nothing_was_left_nothing_is_said() -> None:
    journal = MemoryJournal()
    Core(journal=journal).join_acebase(MASTER)
    core = Core(journal=journal)
    core.relay.restore(journal.restored, 0)
    assert core.reports == []


def test_the_master_is_not_refused(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.crash()
    scene.master_returns()


@pytest.mark.parametrize("returns", ["worker", "master"])
@pytest.mark.parametrize("lock_id", [200])
def test_its_locks_are_freed_at_the_same_master(scene: Scene, returns: str, lock_id: int) -> None:
    scene.holds(W1, lock_id)
    scene.crash()
    locks = {lock_id: "t1"}
    if returns == "worker":
        scene.returns(W1)
        scene.master_returns()
    else:
        scene.master_returns()
        locks = scene.serve(locks, lock_id)
        assert [*locks.values()] == ["t1"], "its process has perhaps not ended yet"
        scene.returns(W1)
    assert scene.serve(locks, lock_id + 1) == {}


def test_a_lock_of_a_worker_that_does_not_return_is_freed_like_that_of_any_other(
    scene: Scene,
) -> None:
    scene.holds(W1, 200)
    scene.crash()
    scene.master_returns()
    scene.core.wait(15)
    assert scene.serve({200: "t1"}, 200) == {}
    scene.returns(W1)


def test_a_new_master_keeps_no_lock(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.serve({}, 0) == {}


def test_a_lock_that_is_about_to_be_released_is_freed_once_more(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.asks(W1, unlock(W1, new_id(), 200))
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.serve({200: "t1"}, 200) == {}


def test_a_lock_that_was_released_is_not_asked_for(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.master.hears()
    scene.asks(W1, unlock(W1, new_id(), 200))
    (release,) = scene.master.hears()
    scene.master.says(released(release))
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.asked() == []


def test_a_lock_that_is_about_to_be_released_is_not_mistaken_for_a_later_one(
    scene: Scene,
) -> None:
    scene.holds(W1, 200)
    scene.asks(W1, unlock(W1, new_id(), 200))
    scene.master.is_lost()
    scene.master_returns()
    (question, again) = scene.asked()
    scene.holds(W1, 200, tid="t2")  # a new process counts from 1
    scene.master.says(answer(json.dumps(question), reason="reading 'lock'"))
    scene.asked()
    scene.master.says(grant(json.dumps(again), 3))
    (release,) = scene.asked()
    assert release["data"] == {"id": 3}
    scene.master.says(released(json.dumps(release)))
    (worker,) = (each for each in scene.left_workers() if each.client_id == W1)
    assert [(each.id, each.master_id) for each in worker.locks] == [(200, 200)]


def test_locks_of_the_relays_own_need_no_journal(scene: Scene) -> None:
    scene.holds(W1, 200)
    noted = list(scene.journal.records)
    scene.asks(W1, lock(W1, new_id()))
    own = scene.core.relay.locks(DATABASE).locks[-1].id
    scene.asks(W1, unlock(W1, new_id(), 200))
    assert scene.journal.records == noted, "the master keeps the lock"
    scene.asks(W1, unlock(W1, new_id(), own))
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.serve({200: "t1"}, 200) == {}


@pytest.mark.parametrize("lost", [201, 207])
def test_a_lock_whose_grant_was_lost_with_the_relay_is_found(scene: Scene, lost: int) -> None:
    scene.holds(W1, 200)
    scene.asks(W2, lock(W2, new_id(), tid="t2"))
    scene.holds(W1, 203)
    for each in (200, 203):
        scene.master.says(released(scene.asks(W1, unlock(W1, new_id(), each))))
    scene.crash()
    scene.returns(W1)
    scene.returns(W2)
    scene.master_returns()
    scene.core.join_acebase(FRESH).says(lock(FRESH, new_id(), tid="t3"))
    locks = scene.serve({lost: "t2"}, 210)
    for _ in range(5):
        scene.core.wait(1)
        locks = scene.serve(locks, 220)
    assert list(locks.values()) == ["t3"]


def test_no_lock_of_a_process_that_may_live_is_released_in_the_search(scene: Scene) -> None:
    scene.holds(W2, 150, tid="t0")
    scene.asks(W2, lock(W2, new_id(), tid="t2"))
    scene.holds(W1, 200)
    scene.asks(W1, lock(W1, new_id()))
    scene.crash()
    scene.master_returns()
    assert scene.serve({200: "t1"}, 200) == {200: "t1"}


@pytest.mark.parametrize("lock_id", [200])
def test_a_master_that_is_lost_in_between_is_asked_again(scene: Scene, lock_id: int) -> None:
    scene.holds(W1, lock_id)
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    _, probe = scene.asked()
    scene.master.says(grant(json.dumps(probe), lock_id + 1))
    scene.master.is_lost()  # with all that it was sent since
    scene.master_returns()
    assert scene.serve({lock_id: "t1", lock_id + 1: "t1"}, lock_id + 1) == {}


def test_a_lock_that_was_granted_to_a_worker_that_is_gone_is_freed(scene: Scene) -> None:
    request = scene.asks(W2, lock(W2, new_id(), tid="t2"))
    scene.workers[W2].is_lost(1000)
    scene.master.says(grant(request, 201))
    scene.crash()
    scene.master_returns()
    assert scene.serve({201: "t2"}, 201) == {}


def test_a_request_of_a_worker_that_is_gone_is_forgotten_when_it_is_answered(
    scene: Scene,
) -> None:
    request = scene.asks(W2, lock(W2, new_id(), tid="t2"))
    scene.workers[W2].is_lost(1000)
    assert [each.client_id for each in scene.left_workers()] == [W1, W2]
    scene.master.says(grant(request, 201))
    scene.master.says(released(json.dumps(scene.asked()[-1])))
    assert [each.client_id for each in scene.left_workers()] == [W1]


def test_a_request_of_a_worker_that_is_gone_is_forgotten_with_its_master(scene: Scene) -> None:
    scene.asks(W2, lock(W2, new_id(), tid="t2"))
    scene.workers[W2].is_lost(1000)
    scene.master.is_lost(1000)
    scene.master_returns()
    assert [each.client_id for each in scene.left_workers()] == [W1]


def test_the_highest_id_of_the_master_before_is_restored(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.master.is_lost()
    scene.master_returns()
    scene.crash()
    ledger = scene.core.relay.registry.databases[DATABASE].ledger
    assert ledger is not None
    assert (ledger.former_highest, ledger.highest) == (200, 0)


def test_a_request_that_still_waits_at_the_master_is_granted_to_nobody(scene: Scene) -> None:
    scene.holds(W1, 200)
    waiting = scene.asks(W2, lock(W2, new_id(), tid="t2"))
    scene.crash()
    scene.returns(W1)
    scene.returns(W2)
    scene.master_returns()
    assert scene.serve({200: "t1"}, 201) == {}
    scene.master.says(grant(waiting, 202))
    assert scene.serve({202: "t2"}, 210) == {}


def test_a_request_that_was_refused_is_not_asked_for_again(scene: Scene) -> None:
    scene.master.says(answer(scene.asks(W1, lock(W1, new_id())), reason="quitting"))
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.asked() == []


def test_locks_that_wait_for_a_master_wait_on(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.master.is_lost(1000)
    scene.workers[W1].is_lost(1000)
    scene.crash()
    scene.core.join_acebase(W1)  # it had left: it may come back
    scene.master_returns()
    assert scene.serve({200: "t1"}, 200) == {}


def test_the_ids_of_a_new_master_are_restored(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.master.is_lost(1000)
    scene.master = scene.core.join_acebase(MASTER)
    _, probe = scene.asked()
    scene.master.says(grant(json.dumps(probe), 105))
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.serve({105: "t1"}, 105) == {}


def test_a_lock_under_an_id_of_the_relay_is_restored(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.master.is_lost(1000)
    scene.master = scene.core.join_acebase(MASTER)
    _, probe = scene.asked()
    scene.master.says(grant(json.dumps(probe), 3))
    scene.holds(W1, 200)
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.serve({3: "t1", 200: "t1"}, 200) == {}


def test_a_lock_that_was_moved_is_restored(scene: Scene) -> None:
    scene.holds(W1, 200)
    moved = scene.asks(W1, move(W1, new_id(), 200))
    details = {"id": 201, "path": "a", "tid": "t1", "write": True}
    scene.master.says(answer(moved, details))
    scene.crash()
    scene.returns(W1)
    scene.master_returns()
    assert scene.serve({201: "t1"}, 202) == {}


def test_a_release_of_a_former_lock_does_not_reach_the_next_master(scene: Scene) -> None:
    scene.holds(W1, 200)
    python = scene.core.join(PYTHON, Dialect.ACEBASE)
    python.says(to_master(PYTHON, "request", {"type": "x"}, new_id()))
    scene.crash()
    python = scene.core.join(PYTHON, Dialect.ACEBASE)
    scene.master_returns()
    scene.asked()
    python.says(unlock(PYTHON, new_id(), 9))
    assert scene.asked() == []
    assert json.loads(python.hears()[-1])["type"] == "unlock-result"


def test_a_python_peer_is_refused_only_if_it_has_a_lock(scene: Scene) -> None:
    for each in (PYTHON, f"{PYTHON}2"):
        scene.workers[each] = scene.core.join(each, Dialect.ACEBASE)
        scene.asks(each, to_master(each, "request", {"type": "x"}, new_id()))
    scene.holds(PYTHON, 200)
    scene.crash()
    assert [each.client_id for each in scene.left_workers()] == [W1, W2, PYTHON]
    scene.core.join(f"{PYTHON}2", Dialect.ACEBASE)
    with pytest.raises(Fenced):
        scene.core.join(PYTHON, Dialect.ACEBASE)


def test_a_database_whose_peers_come_back_is_not_restored(scene: Scene) -> None:
    python = scene.core.join(PYTHON, Dialect.ACEBASE, database="other")
    python.says(to_master(PYTHON, "request", {"type": "x"}, new_id()))
    scene.crash()
    assert [*scene.core.relay.registry.databases] == [DATABASE]


def test_documented_peers_come_back(scene: Scene) -> None:
    scene.core.join("reader1")
    scene.crash()
    scene.core.join("reader1")


def test_who_was_refused_before_the_crash_is_refused_after_it(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.workers[W1].is_lost()
    scene.core.wait(15)
    scene.master.says(released(json.dumps(scene.asked()[-1])))
    scene.crash()
    scene.returns(W1)
    scene.core.wait(601)
    scene.core.join_acebase(W1)


def test_who_has_left_may_come_back(scene: Scene) -> None:
    scene.workers[W1].is_lost(1000)
    scene.crash()
    scene.core.join_acebase(W1)
    assert scene.core.reported(StateRestored) == [StateRestored(1, 1, 0)]


def test_others_are_told_that_a_survivor_is_gone(scene: Scene) -> None:
    scene.crash()
    scene.master_returns()
    scene.returns(W1)
    assert f"disconnect:{W1}" in scene.master.hears()


def test_a_second_crash_changes_nothing(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.crash()
    scene.crash()
    scene.returns(W1)
    scene.returns(W2)
    scene.master_returns()
    assert scene.serve({200: "t1"}, 200) == {}
    scene.crash()
    scene.master_returns()
    assert scene.asked() == [], "it was freed"
    scene.returns(W1)


def test_after_all_have_left_nothing_is_restored(scene: Scene) -> None:
    scene.holds(W1, 200)
    scene.workers[W1].is_lost(1000)
    scene.master.says(released(json.dumps(scene.asked()[-1])))
    scene.workers[W2].is_lost(1000)
    assert scene.journal.restored == Restored()


def test_restored_sessions_are_no_clients(scene: Scene) -> None:
    scene.crash()
    assert scene.core.relay.registry.clients(DATABASE) == []


def test_a_large_request_is_restored(scene: Scene) -> None:
    scene.holds(W1, 200, path="p" * 2000)
    scene.crash()
    assert scene.core.relay.memory.used > 2000
    scene.returns(W1)
    scene.master_returns()
    assert scene.serve({200: "t1"}, 200) == {}
    scene.core.relay.memory.check()
    assert scene.core.relay.memory.used < 2000
