"""Locks that a master has granted in answers that were lost with its connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from acebase_ipc.relay.events import LostLockReleased
from acebase_ipc.relay.lost_locks import BATCH, BELOW, INTERVAL, LIFETIME, MAX_TRANSACTIONS
from tests.relay.core import DATABASE, MASTER, Core
from tests.relay.locks import (
    answer,
    body_of,
    grant,
    lock,
    new_id,
    released,
    to_master,
    unlock,
    worker_id,
)
from tests.relay.test_cost import admitted, check_linear
from tests.relay.test_recovery import W1, W2, W3, Cluster, is_question

Envelope = dict[str, Any]

FORMER = 700
"""The highest lock id that is known when the master's connection is cut."""

LOST, SECOND = FORMER + 1, FORMER + 2
UNKNOWN = "TypeError: Cannot read properties of undefined (reading 'lock')"


class Losing(Cluster):
    """A cluster whose master has granted W1 a lock, :data:`LOST`, that nobody knows."""

    def __init__(self, former: int = FORMER, waits: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.has(W1, former, tid="t0")
        request = lock(W1, new_id(), tid="t1")
        self.asks(W1, request)
        self.master_is_replaced()
        self.grants(request, former + 2)
        self.releases(W1, former + 2)
        if waits:
            self.asks(W2, lock(W2, new_id(), tid="t2"))
        self.core.hush()

    def has(self, worker: str, lock_id: int, **details: Any) -> None:
        """Let a worker have had a lock."""
        self.holds(worker, lock_id, **details)
        self.releases(worker, lock_id)

    def grants(self, request: str, lock_id: int) -> None:
        self.master.says(grant(body_of(request), lock_id))

    def releases(self, worker: str, lock_id: int) -> None:
        request = unlock(worker, new_id(), lock_id)
        self.asks(worker, request)
        self.master.says(released(body_of(request)))

    def searched(self, seconds: int) -> list[Envelope]:
        """The questions that reach the master in so many seconds."""
        questions = []
        for _ in range(seconds):
            self.core.wait(1)
            assert self.asked() == []
            questions += self.questions
        return questions

    def question(self, lock_id: int = LOST, seconds: int = 3) -> str:
        """The question about a lock that reaches the master in so many seconds."""
        found = [each for each in self.searched(seconds) if each["data"]["id"] == lock_id]
        assert len(found) == 1
        return json.dumps(found[0])

    def found(self) -> list[LostLockReleased]:
        return self.core.reported(LostLockReleased)


@pytest.fixture
def losing() -> Losing:
    return Losing()


def lock_ids(envelopes: list[Envelope]) -> list[int]:
    return [each["data"]["id"] for each in envelopes]


@pytest.mark.parametrize("former", [5, FORMER])
def test_a_lost_lock_is_found_and_released(former: int) -> None:
    losing = Losing(former)
    losing.core.wait(1)
    losing.core.wait(1)
    assert losing.master.hears() == []
    losing.core.wait(1)
    assert losing.asked() == []
    first, *others = losing.questions
    assert (first["type"], first["data"]) == (
        "move-lock-request",
        {"id": former + 1, "move_to": "parent"},
    )
    assert (first["from"], first["to"], len(first["id"])) == (W1, MASTER, 24)
    losing.master.says(grant(json.dumps(first), former + 1, tid="t1", path="a"))
    (request,) = losing.asked()
    assert (request["type"], request["from"], request["data"]) == (
        "unlock-request",
        W1,
        {"id": former + 1},
    )
    for each in others:
        losing.master.says(answer(json.dumps(each), reason=UNKNOWN))
    losing.master.says(released(json.dumps(request)))
    assert losing.core.is_quiet()
    assert losing.found() == [LostLockReleased(DATABASE, W1, "a", "transactNode")]


def test_a_lock_that_was_requested_before_others_is_found_below_the_former_ids(
    losing: Losing,
) -> None:
    asked = lock_ids(losing.searched(3))
    assert asked == [LOST, SECOND, *range(FORMER, FORMER + 2 - BATCH, -1)]
    asked = lock_ids(losing.searched(2))
    assert asked[-1] == FORMER - BELOW + 1


def test_a_lock_of_a_worker_that_is_gone_is_found(losing: Losing) -> None:
    losing.workers[W1].is_lost(1000)
    question = losing.question()
    losing.master.says(grant(question, LOST, tid="t1"))
    assert [(each["from"], each["data"]) for each in losing.asked()] == [(W1, {"id": LOST})]


def test_all_lost_locks_are_found() -> None:
    losing = Losing(waits=False)
    second = lock(W3, new_id(), tid="t3", write=False)
    losing.asks(W3, second)
    losing.master_is_replaced()
    losing.grants(second, 710)
    losing.releases(W3, 710)
    losing.asks(W2, lock(W2, new_id(), tid="t2"))
    losing.core.hush()
    questions = {each["data"]["id"]: json.dumps(each) for each in losing.searched(3)}
    losing.master.says(grant(questions[LOST], LOST, tid="t1"))
    losing.master.says(grant(questions[705], 705, tid="t3"))
    assert [(each["from"], each["data"]["id"]) for each in losing.asked()] == [
        (W1, LOST),
        (W3, 705),
    ]


def test_a_lock_is_found_that_the_relay_has_asked_for(cluster: Cluster) -> None:
    cluster.holds(W1, FORMER, tid="t1")
    for _ in range(2):
        cluster.master_is_replaced()
    (probe,) = cluster.asked()
    cluster.master.says(grant(json.dumps(cluster.questions[0]), FORMER, tid="t1"))
    cluster.master.says(grant(json.dumps(probe), SECOND))
    cluster.asks(W1, unlock(W1, new_id(), FORMER))
    for each in cluster.requests():
        cluster.master.says(released(json.dumps(each)))
    cluster.asks(W2, lock(W2, new_id(), tid="t2"))
    cluster.core.hush()
    for _ in range(3):
        cluster.core.wait(1)
    assert cluster.asked() == []
    question = json.dumps(cluster.questions[0])
    assert json.loads(question)["data"]["id"] == LOST
    cluster.master.says(grant(question, LOST, tid="t1"))
    assert [each["data"] for each in cluster.asked()] == [{"id": LOST}]


# When nothing is searched


def test_nothing_is_searched_while_a_worker_holds_a_lock(losing: Losing) -> None:
    losing.holds(W3, 705, tid="t3")
    assert losing.searched(60) == []
    losing.releases(W3, 705)
    losing.core.hush()
    assert lock_ids(losing.searched(1))[0] == LOST


def test_nothing_is_searched_while_nobody_waits() -> None:
    losing = Losing(waits=False)
    assert losing.searched(60) == []
    losing.asks(W2, lock(W2, new_id(), tid="t2"))
    losing.core.hush()
    assert losing.searched(1) == []
    assert lock_ids(losing.searched(1))[0] == LOST


def test_nothing_is_searched_while_there_is_no_master(losing: Losing) -> None:
    losing.master.is_lost()
    losing.core.wait(10)
    assert losing.master.hears() == []


def test_nothing_is_searched_where_no_lock_request_was_sent_again(cluster: Cluster) -> None:
    cluster.holds(W1, FORMER)
    release = unlock(W1, new_id(), FORMER)
    cluster.asks(W1, release)
    cluster.master.says(released(body_of(release)))
    cluster.asks(W1, to_master(W1, "request", {"type": "x"}, new_id()))
    cluster.master_is_replaced()
    cluster.holds(W1, FORMER + 9)
    cluster.asks(W1, unlock(W1, new_id(), FORMER + 9))
    cluster.asks(W2, lock(W2, new_id(), tid="t2"))
    cluster.core.wait(1)
    cluster.core.hush()
    for _ in range(60):
        cluster.core.wait(1)
    assert cluster.master.hears() == []


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_new_process_has_lost_no_locks(cluster: Cluster) -> None:
    cluster.holds(W3, FORMER, tid="t3")
    cluster.asks(W1, lock(W1, new_id(), tid="t1"))
    cluster.master_is_replaced()
    probe, _ = cluster.asked()
    (question,) = cluster.questions
    cluster.master.says(answer(json.dumps(question), reason=UNKNOWN))
    cluster.master.says(grant(json.dumps(probe), FORMER + 9))
    cluster.asks(W3, unlock(W3, new_id(), FORMER))
    (request,) = cluster.asked()
    cluster.master.says(released(json.dumps(request)))
    for _ in range(60):
        cluster.core.wait(1)
    assert cluster.master.hears() == []


def test_a_lock_that_the_master_has_released_does_not_make_it_a_new_process() -> None:
    losing = Losing(waits=False)
    losing.holds(W3, 710, tid="t3")
    losing.asks(W3, unlock(W3, new_id(), 710))
    losing.asks(W2, lock(W2, new_id(), tid="t2"))
    losing.master_is_replaced()
    probe, *_ = losing.asked()
    losing.master.says(answer(json.dumps(losing.questions[0]), reason=UNKNOWN))
    losing.master.says(grant(json.dumps(probe), 720))
    losing.core.hush()
    assert LOST in lock_ids(losing.searched(3))


def test_nothing_is_searched_when_locks_have_expired(losing: Losing) -> None:
    losing.holds(W3, 705, tid="t3")
    losing.searched(round(LIFETIME) + 1)
    losing.releases(W3, 705)
    losing.core.hush()
    assert losing.searched(10) == []


def test_nothing_is_searched_without_recovery() -> None:
    assert Losing(lock_recovery=False).searched(60) == []


# What is not released


def test_a_lock_of_the_masters_own_stays_and_is_moved_once(losing: Losing) -> None:
    for question in losing.searched(3):
        lock_id = question["data"]["id"]
        if lock_id == LOST:
            losing.master.says(grant(json.dumps(question), lock_id, tid="of the master"))
        else:
            losing.master.says(answer(json.dumps(question), reason=UNKNOWN))
    assert losing.asked() == []
    again = lock_ids(losing.searched(round(INTERVAL)))
    assert SECOND in again
    assert LOST not in again


def test_a_lock_that_its_worker_has_received_meanwhile_stays(losing: Losing) -> None:
    question = losing.question()
    request = lock(W1, new_id(), tid="t1")
    losing.asks(W1, request)
    losing.grants(request, LOST)
    losing.core.hush()
    losing.master.says(grant(question, LOST, tid="t1"))
    assert losing.asked() == []


def test_a_lock_stays_while_its_worker_may_still_receive_it(losing: Losing) -> None:
    losing.asks(W1, lock(W1, new_id(), tid="t1"))
    losing.core.hush()
    losing.master.says(grant(losing.question(), LOST, tid="t1"))
    assert losing.asked() == []
    assert losing.found() == []


def test_a_lock_that_its_worker_is_releasing_is_not_released_twice(losing: Losing) -> None:
    question = losing.question()
    losing.holds(W1, LOST, tid="t1")
    losing.asks(W1, unlock(W1, new_id(), LOST))
    losing.core.hush()
    losing.master.says(grant(question, LOST, tid="t1"))
    assert losing.asked() == []


def test_a_lock_that_has_replaced_an_expired_one_is_released(losing: Losing) -> None:
    losing.master.says(grant(losing.question(), 900, tid="of the master"))
    assert [each["data"] for each in losing.asked()] == [{"id": 900}]


def test_a_lock_that_the_relay_is_releasing_is_not_asked_about(losing: Losing) -> None:
    losing.holds(W3, LOST, tid="t3")
    losing.workers[W3].is_lost(1000)
    losing.core.hush()
    assert lock_ids(losing.searched(3))[0] == SECOND


# Bounds


def test_a_master_that_answers_nothing_is_asked_about_each_lock_once(losing: Losing) -> None:
    seconds = [lock_ids(losing.searched(1)) for _ in range(90)]
    asked = [each for second in seconds for each in second]
    assert len(asked) == len({*asked}) == BELOW + 2
    assert max(map(len, seconds)) == BATCH


def test_an_unknown_lock_is_asked_about_again_after_a_while(losing: Losing) -> None:
    for question in losing.searched(3):
        losing.master.says(answer(json.dumps(question), reason=UNKNOWN))
    losing.searched(round(INTERVAL) - 1)
    losing.master.says(grant(losing.question(seconds=1), LOST, tid="t1"))
    assert [each["data"] for each in losing.asked()] == [{"id": LOST}]


def test_late_answers_are_ignored(losing: Losing) -> None:
    question = losing.question()
    losing.master_is_replaced()
    losing.core.hush()
    losing.master.says(grant(question, LOST, tid="t1"))
    losing.master.says(grant(question.replace(f'"{W1}"', f'"{worker_id(99)}"'), LOST))
    assert losing.core.is_quiet()


def test_the_transactions_that_were_sent_last_are_remembered() -> None:
    cluster = Cluster()
    requests = [lock(W1, new_id(), tid=f"tid{each}") for each in range(MAX_TRANSACTIONS + 1)]
    for each in requests:
        cluster.asks(W1, each)
    cluster.master_is_replaced()
    for number, each in enumerate(requests):
        cluster.master.says(grant(body_of(each), FORMER + number))
        release = unlock(W1, new_id(), FORMER + number)
        cluster.asks(W1, release)
        cluster.master.says(released(body_of(release)))
    cluster.asks(W2, lock(W2, new_id(), tid="t2"))
    cluster.core.hush()
    for _ in range(3):
        cluster.core.wait(1)
    assert cluster.asked() == []
    first, second, *_ = map(json.dumps, cluster.questions)
    for question, tid in ((first, "tid0"), (second, "tid1")):
        cluster.master.says(grant(question, json.loads(question)["data"]["id"], tid=tid))
    assert [each["data"] for each in cluster.asked()] == [{"id": json.loads(second)["data"]["id"]}]


def test_a_search_costs_each_worker_the_same() -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False)
        core.join_acebase(MASTER)
        first, *_ = workers = admitted(core, count)
        requests = [lock(each.peer.client_id, new_id()) for each in workers]
        for worker, request in zip(workers, requests, strict=True):
            worker.says(request)
        master = core.join_acebase(MASTER)
        master.says(grant(body_of(requests[0]), FORMER))
        first.says(unlock(first.peer.client_id, new_id(), FORMER))
        core.wait(1)
        master.hears()

        def search() -> None:
            core.wait(2)
            assert is_question(json.loads(master.hears()[0]))

        return search

    check_linear(prepare)
