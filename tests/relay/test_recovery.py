"""Open requests and locks when workers and masters are lost: each rule of the contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.events import (
    LockHeldLong,
    LocksFreed,
    MasterAbsent,
    MasterRecovered,
    RequestOpenLong,
    ReturnRefused,
    TooManyRequests,
)
from acebase_ipc.relay.fences import Fenced
from acebase_ipc.relay.ledger import MAX_RECORDS
from tests.relay.core import AT, DATABASE, MASTER, Core, Process, bye
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

W1, W2, W3 = map(worker_id, range(1, 4))


class Cluster:
    """A master and workers on a relay that leaves all requests about locks to the master."""

    def __init__(self, **limits: Any) -> None:
        self.core = Core(introduce=False, lock_sessions=False, **limits)
        self.master = self.core.join_acebase(MASTER)
        self.workers = {each: self.core.join_acebase(each) for each in (W1, W2, W3)}
        self.core.hush()

    def asks(self, worker: str, message: str) -> None:
        self.workers[worker].says(message)

    def asked(self) -> list[dict[str, Any]]:
        """The envelopes that have reached the master since it was last asked.

        The relay's questions whether the master has a lock are in :attr:`questions`.
        """
        envelopes = [json.loads(each) for each in self.master.hears() if each.startswith("{")]
        self.questions = [each for each in envelopes if is_question(each)]
        return [each for each in envelopes if not is_question(each)]

    def requests(self) -> list[dict[str, Any]]:
        """The requests among them."""
        return [each for each in self.asked() if each["type"].endswith("request")]

    def hears(self, worker: str) -> list[dict[str, Any]]:
        """The envelopes that have reached a worker since it was last asked."""
        return [json.loads(each) for each in self.workers[worker].hears() if each.startswith("{")]

    def holds(self, worker: str, lock_id: int, **details: Any) -> None:
        """Let a worker have a lock."""
        request = lock(worker, new_id(), **details)
        self.asks(worker, request)
        self.master.says(grant(body_of(request), lock_id))
        assert [each["data"]["id"] for each in self.hears(worker)] == [lock_id]
        self.master.hears()

    def master_is_replaced(self) -> None:
        """Let a master connect again: whether it is a new process, its answers show."""
        self.master.is_lost()
        self.master = self.core.join_acebase(MASTER)
        for each in self.workers.values():
            each.hears()

    def session_ends(self, worker: str) -> None:
        self.workers[worker].is_lost()
        self.core.wait(15)


def is_question(envelope: dict[str, Any]) -> bool:
    """Whether the relay asks whether the master has a lock."""
    is_own: bool = envelope["id"].startswith("relay-") if "id" in envelope else False
    return is_own and envelope["type"] == "move-lock-request"


def ids(envelopes: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in envelopes]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# Rule 1: a worker is gone


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006])
def test_the_locks_of_a_worker_that_is_gone_are_released(
    cluster: Cluster, code: int | None
) -> None:
    cluster.holds(W1, 7)
    cluster.holds(W1, 8)
    cluster.workers[W1].is_lost(code)
    cluster.core.wait(15)
    first, *requests = cluster.asked()
    assert (first["type"], first["from"], first["data"]["type"]) == (
        "notification",
        W1,
        "cache.invalidate",
    ), "before the locks are released"
    assert [(each["type"], each["from"], each["to"], each["data"]) for each in requests] == [
        ("unlock-request", W1, MASTER, {"id": lock_id}) for lock_id in (7, 8)
    ]
    assert all(len(each["id"]) == 24 for each in requests)
    assert len({*ids(requests)}) == 2
    freed = cluster.core.reported(LocksFreed)
    assert freed == [LocksFreed(DATABASE, W1, 2, "a/b", "transactNode")]
    cluster.core.hush()
    for each in requests:
        cluster.master.says(released(json.dumps(each)))
    assert cluster.core.is_quiet()


def test_a_worker_that_says_bye_is_gone(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.asks(W1, bye(W1))
    assert [each["data"] for each in cluster.requests()] == [{"id": 7}]


def test_no_lock_is_released_while_the_session_lasts(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.workers[W1].is_lost()
    cluster.core.wait(14)
    assert cluster.asked() == []
    cluster.workers[W1] = cluster.core.join_acebase(W1)
    cluster.core.wait(60)
    assert cluster.asked() == []
    assert [each.id for each in cluster.core.relay.locks(DATABASE).locks] == [7]


def test_a_lock_that_is_granted_to_a_worker_that_is_gone_is_released(cluster: Cluster) -> None:
    request = lock(W1, new_id())
    cluster.asks(W1, request)
    cluster.master.hears()
    cluster.session_ends(W1)
    assert cluster.asked() == []
    cluster.master.says(grant(body_of(request), 9))
    assert [(each["type"], each["data"]) for each in cluster.asked()] == [
        ("unlock-request", {"id": 9})
    ]


def test_a_lock_that_is_granted_to_a_worker_never_heard_of_is_released(cluster: Cluster) -> None:
    stranger = worker_id(99)
    cluster.master.says(grant(body_of(lock(stranger, new_id())), 9))
    assert [(each["from"], each["data"]) for each in cluster.asked()] == [(stranger, {"id": 9})]


def test_a_release_that_is_under_way_is_not_repeated_when_the_worker_leaves(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 7)
    request = unlock(W1, new_id(), 7)
    cluster.asks(W1, request)
    assert len(cluster.asked()) == 1
    cluster.session_ends(W1)
    assert cluster.asked() == []
    cluster.master.says(released(body_of(request)))
    cluster.master_is_replaced()
    assert cluster.asked() == []


def test_a_request_waiting_for_the_master_is_dropped_when_its_worker_is_gone(
    cluster: Cluster,
) -> None:
    cluster.master.is_lost()
    cluster.asks(W1, lock(W1, new_id()))
    kept = lock(W2, new_id())
    cluster.asks(W2, kept)
    cluster.workers[W1].is_lost(1000)
    cluster.master_is_replaced()
    assert ids(cluster.asked()) == [json.loads(body_of(kept))["id"]]


def test_a_lock_is_released_when_a_master_is_there_again(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master.is_lost()
    cluster.workers[W1].is_lost(1000)
    cluster.master_is_replaced()
    (probe,) = cluster.requests()
    assert (probe["type"], probe["from"]) == ("lock-request", W1)
    cluster.master.says(grant(json.dumps(probe), 701))
    assert [each["data"] for each in cluster.asked()] == [{"id": 700}, {"id": 701}]


@pytest.mark.parametrize("absence", [60, 200])
def test_a_lock_waits_for_a_master_that_all_peers_have_left_with(
    cluster: Cluster, absence: float
) -> None:
    cluster.holds(W1, 700)
    cluster.master.is_lost()
    for worker in cluster.workers.values():
        worker.is_lost()
    cluster.core.wait(15)
    assert cluster.core.relay.registry.databases == {}
    for _ in range(2):
        cluster.core.wait(absence / 2)
    cluster.core.wait(0)
    cluster.master = cluster.core.join_acebase(MASTER)
    probes = cluster.requests()
    assert [each["from"] for each in probes] == ([W1] if absence < 120 else [])
    assert (cluster.core.relay.memory.used > 0) == (absence < 120)


def test_a_thousand_workers_that_leave_together_cost_one_release_each() -> None:
    core = Core(introduce=False)
    master = core.join_acebase(MASTER)
    workers = [core.join_acebase(worker_id(number)) for number in range(1000)]
    for number, worker in enumerate(workers):
        request = lock(worker.peer.client_id, new_id(), tid=f"t{number}", write=False)
        worker.says(request)
        master.says(grant(body_of(request), number + 1))
    core.hush()
    for worker in workers:
        worker.is_lost()
    core.wait(15)
    heard = [each for each in master.hears() if each.startswith("{")]
    assert len(heard) == 1000
    assert core.relay.memory.used > 0
    for each in heard:
        master.says(released(each))
    assert core.relay.memory.used == 0


@pytest.mark.parametrize("write", [False, True])
def test_caches_are_dropped_before_a_lock_to_write_is_released(write: bool) -> None:
    cluster = Cluster()
    tool = cluster.core.join("a-tool")
    cluster.holds(W1, 7, write=write)
    tool.hears()
    cluster.session_ends(W1)
    heard = [each["data"] for each in cluster.hears(W2)]
    assert [(each["type"], each["path"], each["recursive"]) for each in heard] == (
        [("cache.invalidate", "", True)] if write else []
    )
    assert tool.hears() == [f"disconnect:{W1}"]


# Rule 2: its return is refused


def test_a_worker_whose_locks_were_released_is_refused(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.session_ends(W1)
    for _ in range(2):
        with pytest.raises(Fenced) as refusal:
            cluster.core.join_acebase(W1)
        assert refusal.value.status == 500
    assert cluster.core.reported(ReturnRefused) == [ReturnRefused(DATABASE, W1, AT)]
    cluster.core.wait(600)
    cluster.core.join_acebase(W1)


@pytest.mark.parametrize("kind", ["lock-request", "unlock-request", "move-lock-request"])
def test_a_worker_that_waits_for_an_answer_about_a_lock_is_refused(
    cluster: Cluster, kind: str
) -> None:
    cluster.asks(W1, to_master(W1, kind, {"id": 5, "path": "a", "tid": "t"}, new_id()))
    cluster.session_ends(W1)
    with pytest.raises(Fenced):
        cluster.core.join_acebase(W1)


@pytest.mark.parametrize("code", [1000, 1001])
def test_a_worker_that_has_closed_is_not_refused(cluster: Cluster, code: int) -> None:
    cluster.holds(W1, 7)
    cluster.workers[W1].is_lost(code)
    cluster.core.join_acebase(W1)


def test_a_worker_that_waits_for_something_else_is_not_refused(cluster: Cluster) -> None:
    cluster.asks(W1, to_master(W1, "request", {"type": "x"}, new_id()))
    cluster.session_ends(W1)
    cluster.core.join_acebase(W1)


def test_a_fence_of_zero_refuses_nobody() -> None:
    cluster = Cluster(fence=0)
    cluster.holds(W1, 7)
    cluster.session_ends(W1)
    cluster.core.join_acebase(W1)


def test_the_session_of_a_process_that_has_ended_is_shorter(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.workers[W1].is_lost(has_ended=True)
    cluster.core.wait(4)
    assert cluster.asked() == []
    cluster.core.wait(1)
    assert [each["data"] for each in cluster.requests()] == [{"id": 7}]


def test_the_session_of_a_master_that_has_ended_is_not_shorter(cluster: Cluster) -> None:
    cluster.master.is_lost(has_ended=True)
    cluster.core.wait(14)
    assert not any("disconnect:" in each for each in cluster.workers[W1].hears())


def test_a_worker_that_was_cut_is_refused_before_its_session_has_ended() -> None:
    cluster = Cluster(max_backlog=1000)
    cluster.holds(W1, 7)
    cluster.workers[W1].stops_reading(900)
    cluster.master.says(f"to:{W1};" + "x" * 500)
    assert cluster.workers[W1].connection.aborted
    with pytest.raises(Fenced):
        cluster.core.join_acebase(W1)


# Rule 3: a master arrives


def test_a_new_master_is_asked_for_the_locks_before_all_else(cluster: Cluster) -> None:
    cluster.holds(W1, 700, path="a/é\n", write=False)
    handed = lock(W2, new_id(), tid="t2")
    cluster.asks(W2, handed)
    cluster.master.is_lost()
    queued = lock(W3, new_id(), tid="t3")
    cluster.asks(W3, queued)
    cluster.master_is_replaced()
    asked = cluster.asked()
    assert [each["from"] for each in asked] == [W1, W2, W3]
    assert asked[0]["type"] == "lock-request"
    assert asked[0]["data"] == {
        "path": "a/é\n",
        "tid": "t1",
        "write": False,
        "comment": "transactNode",
    }
    assert asked[1] == json.loads(body_of(handed))
    assert asked[2] == json.loads(body_of(queued))
    assert cluster.core.reported(MasterRecovered) == [MasterRecovered(DATABASE, MASTER, 1, 1)]


def test_a_new_process_knows_the_lock_by_another_id(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    cluster.master.says(grant(json.dumps(probe), 3))
    assert cluster.hears(W1) == []
    moved = move(W1, new_id(), 700)
    cluster.asks(W1, moved)
    (result,) = cluster.hears(W1)
    assert (result["type"], result["ok"], result["id"]) == (
        "lock-result",
        True,
        json.loads(body_of(moved))["id"],
    )
    assert (result["data"]["id"], result["data"]["path"]) == (700, "a")
    request = unlock(W1, new_id(), 700)
    cluster.asks(W1, request)
    (asked,) = cluster.asked()
    assert asked["data"] == {"id": 3}
    cluster.master.says(released(json.dumps(asked)))
    (result,) = cluster.hears(W1)
    assert (result["id"], result["ok"], result["data"]) == (asked["id"], True, {"id": 700})
    assert cluster.core.relay.locks(DATABASE).locks == ()


def test_the_same_process_keeps_the_lock_and_releases_the_second(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    cluster.master.says(grant(json.dumps(probe), 701))
    (second,) = cluster.asked()
    assert (second["type"], second["data"]) == ("unlock-request", {"id": 701})
    cluster.master.says(released(json.dumps(second)))
    request = unlock(W1, new_id(), 700)
    cluster.asks(W1, request)
    assert [each["data"] for each in cluster.asked()] == [{"id": 700}]


def test_a_low_highest_id_proves_nothing(cluster: Cluster) -> None:
    cluster.holds(W1, 99)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    cluster.master.says(grant(json.dumps(probe), 100))
    assert cluster.asked() == []
    cluster.asks(W1, unlock(W1, new_id(), 99))
    assert [each["data"] for each in cluster.asked()] == [{"id": 100}]


def test_a_master_is_asked_whether_it_has_the_locks_before_it_is_asked_for_any(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 1, write=False)
    cluster.holds(W1, 2)
    cluster.master_is_replaced()
    heard = [json.loads(each) for each in cluster.master.hears() if each.startswith("{")]
    assert [(each["type"], each["data"].get("id")) for each in heard] == [
        ("move-lock-request", 1),
        ("move-lock-request", 2),
        ("lock-request", None),
        ("lock-request", None),
    ]


@pytest.mark.parametrize("highest", [5, 700])
def test_a_master_that_has_the_lock_is_the_same_process(cluster: Cluster, highest: int) -> None:
    cluster.holds(W1, highest)
    cluster.master.is_lost()
    request = unlock(W1, new_id(), highest)
    cluster.asks(W1, request)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    (question,) = cluster.questions
    cluster.master.says(grant(json.dumps(question), highest, tid="t1"))
    assert cluster.asked() == [json.loads(body_of(request))]
    cluster.master.says(grant(json.dumps(probe), highest + 1))
    assert [each["data"] for each in cluster.asked()] == [{"id": highest + 1}]
    assert cluster.hears(W1) == []


@pytest.mark.parametrize("reason", [None, "Cannot read properties of undefined (reading 'lock')"])
def test_a_master_that_does_not_have_the_lock_is_a_new_process_whatever_its_ids(
    cluster: Cluster, reason: str | None
) -> None:
    cluster.holds(W1, 700)
    cluster.master.is_lost()
    cluster.asks(W1, unlock(W1, new_id(), 700))
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    (question,) = cluster.questions
    if reason is None:
        cluster.master.says(grant(json.dumps(question), 700, tid="another"))
    else:
        cluster.master.says(answer(json.dumps(question), reason=reason))
    assert [each["ok"] for each in cluster.hears(W1)] == [True]
    assert cluster.asked() == []
    cluster.master.says(grant(json.dumps(probe), 900))
    assert [each["data"] for each in cluster.asked()] == [{"id": 900}]


def test_a_master_that_grants_the_id_in_question_is_a_new_process(cluster: Cluster) -> None:
    cluster.holds(W1, 17)
    cluster.master_is_replaced()
    (first,) = cluster.asked()
    cluster.master_is_replaced()
    (second,) = cluster.asked()
    (question,) = cluster.questions
    cluster.master.says(grant(json.dumps(first), 17))
    cluster.master.says(grant(json.dumps(question), 17, tid="t1"))
    cluster.master.says(grant(json.dumps(second), 18))
    assert [each["data"] for each in cluster.asked()] == [{"id": 17}]
    cluster.asks(W1, unlock(W1, new_id(), 17))
    assert [each["data"] for each in cluster.asked()] == [{"id": 18}]


def test_a_late_answer_does_not_reach_a_worker_that_has_returned_since(cluster: Cluster) -> None:
    request = to_master(W1, "request", {"type": "fst.release", "ranges": []}, new_id())
    cluster.asks(W1, request)
    cluster.master_is_replaced()
    cluster.session_ends(W1)
    cluster.workers[W1] = cluster.core.join_acebase(W1)
    cluster.hears(W1)
    cluster.master.says(answer(body_of(request), {"ok": True}))
    assert cluster.hears(W1) == []


def test_a_release_is_answered_once_although_the_master_is_replaced_again(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 700)
    unknown = "Cannot read properties of undefined (reading 'lock')"
    cluster.master_is_replaced()
    cluster.asked()
    cluster.master.says(answer(json.dumps(cluster.questions[0]), reason=unknown))
    cluster.asks(W1, unlock(W1, new_id(), 700))
    assert [each["ok"] for each in cluster.hears(W1)] == [True]
    cluster.master_is_replaced()
    cluster.asked()
    cluster.master.says(answer(json.dumps(cluster.questions[0]), reason=unknown))
    assert cluster.hears(W1) == []


def test_an_answer_that_shows_nothing_leaves_it_to_the_ids(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    (question,) = cluster.questions
    cluster.master.says(answer(json.dumps(question), reason="another failure"))
    cluster.master.says(grant(json.dumps(probe), 701))
    assert [each["data"] for each in cluster.asked()] == [{"id": 701}]
    cluster.master_is_replaced()
    cluster.master.says(grant(json.dumps(question), 700, tid="t1"))
    assert cluster.hears(W1) == []


def test_what_a_master_has_answered_outlasts_it(cluster: Cluster) -> None:
    request = lock(W1, new_id())
    cluster.asks(W1, request)
    cluster.workers[W1].is_lost()
    cluster.master.says(grant(body_of(request), 700))
    cluster.master.is_lost(1000)
    cluster.master = cluster.core.join_acebase(MASTER)
    cluster.workers[W1] = cluster.core.join_acebase(W1)
    assert [each["data"]["id"] for each in cluster.hears(W1) if "data" in each] == [700]


def test_a_release_waits_until_the_master_is_known_the_same_process(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master.is_lost()
    request = unlock(W1, new_id(), 700)
    cluster.asks(W1, request)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    assert probe["type"] == "lock-request"
    assert cluster.hears(W1) == []
    cluster.master.says(grant(json.dumps(probe), 701))
    first, second = cluster.asked()
    assert first == json.loads(body_of(request))
    assert (second["type"], second["data"]) == ("unlock-request", {"id": 701})
    cluster.master.says(answer(json.dumps(first), reason="lock is not found"))
    (result,) = cluster.hears(W1)
    assert (result["type"], result["ok"], result["data"]) == ("unlock-result", True, {"id": 700})


@pytest.mark.parametrize("when", ["handed to the former master", "while there is none", "after"])
def test_a_release_never_reaches_a_new_process_by_the_former_id(
    cluster: Cluster, when: str
) -> None:
    cluster.holds(W1, 700)
    request = unlock(W1, new_id(), 700)
    if when == "handed to the former master":
        cluster.asks(W1, request)
        cluster.asked()
    cluster.master.is_lost()
    if when == "while there is none":
        cluster.asks(W1, request)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    if when == "after":
        cluster.asks(W1, request)
    assert cluster.asked() == []
    cluster.master.says(grant(json.dumps(probe), 1))
    (result,) = cluster.hears(W1)
    assert (result["type"], result["ok"], result["data"]) == ("unlock-result", True, {"id": 700})
    assert result["id"] == json.loads(body_of(request))["id"]
    assert [each["data"] for each in cluster.asked()] == [{"id": 1}]


def test_a_release_that_waits_in_the_masters_queue_never_reaches_a_new_process(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 700)
    cluster.master.stops_reading()
    cluster.asks(W1, unlock(W1, new_id(), 700))
    cluster.asks(W1, move(W1, new_id(), 700))
    cluster.asks(W1, lock(W1, new_id()))
    cluster.master_is_replaced()
    assert [each["type"] for each in cluster.asked()] == ["lock-request", "lock-request"]


def test_the_relays_own_release_never_reaches_a_new_process_by_the_former_id(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 700)
    cluster.master.stops_reading()
    cluster.session_ends(W1)
    cluster.master_is_replaced()
    (probe,) = cluster.requests()
    assert probe["type"] == "lock-request"
    cluster.master.says(grant(json.dumps(probe), 1))
    assert [each["data"] for each in cluster.asked()] == [{"id": 1}]


def test_the_release_of_a_lock_of_a_former_master_is_answered_by_the_relay(
    cluster: Cluster,
) -> None:
    cluster.master_is_replaced()
    cluster.asks(W1, unlock(W1, new_id(), 5))
    assert cluster.asked() == []
    assert [(each["ok"], each["data"]) for each in cluster.hears(W1)] == [(True, {"id": 5})]
    cluster.asks(W1, move(W1, new_id(), 5))
    assert cluster.asked() == []
    assert [each["ok"] for each in cluster.hears(W1)] == [False]


def test_the_release_of_a_lock_that_is_older_than_the_relay_is_relayed(cluster: Cluster) -> None:
    request = unlock(W1, new_id(), 5)
    cluster.asks(W1, request)
    assert cluster.asked() == [json.loads(body_of(request))]
    cluster.master.says(answer(body_of(request), reason="unknown"))
    assert [each["ok"] for each in cluster.hears(W1)] == [False]


def test_open_requests_are_sent_again_in_their_order(cluster: Cluster) -> None:
    cluster.core.wait(1)
    sent = [
        lock(W2, new_id(), tid="t2"),
        to_master(W1, "request", {"type": "fst.allocate"}, new_id()),
        lock(W1, new_id(), tid="t1"),
    ]
    for message in sent:
        cluster.asks(json.loads(body_of(message))["from"], message)
        cluster.core.wait(0.001)
    answered = to_master(W3, "request", {"type": "x"}, new_id())
    cluster.asks(W3, answered)
    cluster.master.says(answer(body_of(answered), 1))
    cluster.asked()
    locks, other = [sent[0], sent[2]], sent[1]
    for _ in range(2):
        cluster.master_is_replaced()
        assert cluster.asked() == [json.loads(body_of(each)) for each in locks]
        cluster.core.wait(1)
        assert cluster.asked() == [json.loads(body_of(other))]


def test_space_is_not_freed_twice(cluster: Cluster) -> None:
    cluster.core.wait(1)
    free = {"type": "fst.release", "ranges": [[0, 1]]}
    handed = to_master(W1, "request", free, new_id())
    cluster.asks(W1, handed)
    assert len(cluster.asked()) == 1
    cluster.master.is_lost()
    queued = to_master(W2, "request", free, new_id())
    cluster.asks(W2, queued)
    cluster.master = cluster.core.join_acebase(MASTER)
    cluster.core.wait(1)
    assert cluster.asked() == [json.loads(body_of(queued))]
    (result,) = cluster.hears(W1)
    assert (result["type"], result["id"], result["ok"], result["data"]) == (
        "result",
        json.loads(body_of(handed))["id"],
        True,
        {"ok": True},
    )
    cluster.master.says(answer(body_of(handed), {"ok": True}))
    assert cluster.hears(W1) == []


def test_a_move_that_the_former_master_has_not_answered_is_answered(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    request = move(W1, new_id(), 700)
    cluster.asks(W1, request)
    cluster.asked()
    cluster.master.is_lost()
    cluster.master = cluster.core.join_acebase(MASTER)
    (result,) = cluster.hears(W1)
    assert (result["data"]["id"], result["data"]["path"]) == (700, "a")
    (probe,) = cluster.asked()
    assert probe["data"]["path"] == "a"
    cluster.master.says(grant(body_of(request), 700, path="a"))
    assert cluster.hears(W1) == []
    assert cluster.asked() == []


def test_a_lock_that_the_relay_has_moved_is_not_moved_by_its_holder(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master_is_replaced()
    cluster.asked()
    (question,) = cluster.questions
    cluster.master.says(grant(json.dumps(question), 700, tid="t1", path="a"))
    cluster.asks(W1, move(W1, new_id(), 700))
    assert cluster.asked() == []
    assert [each["data"]["path"] for each in cluster.hears(W1)] == ["a"]


def test_a_lock_that_a_new_process_refuses_is_given_up(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    cluster.master.says(answer(json.dumps(probe), reason="lock on tid t1 has expired"))
    assert cluster.hears(W1) == []
    cluster.asks(W1, unlock(W1, new_id(), 700))
    assert cluster.asked() == []
    assert [each["ok"] for each in cluster.hears(W1)] == [True]
    assert cluster.core.relay.memory.used == 0


def test_a_lock_of_the_new_master_with_an_id_that_its_holder_knows_gets_another(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 1)
    cluster.master_is_replaced()
    (probe,) = cluster.asked()
    request = lock(W1, new_id(), tid="t9")
    cluster.asks(W1, request)
    cluster.asked()
    cluster.master.says(grant(json.dumps(probe), 2))
    cluster.master.says(grant(body_of(request), 1))
    (result,) = cluster.hears(W1)
    assert result["data"]["id"] >= 2**40
    cluster.asks(W1, unlock(W1, new_id(), result["data"]["id"]))
    cluster.asks(W1, unlock(W1, new_id(), 1))
    releases = [each["data"] for each in cluster.asked() if each["type"] == "unlock-request"]
    assert releases == [{"id": 1}, {"id": 2}]


def test_the_queue_goes_on_without_what_was_settled(cluster: Cluster) -> None:
    cluster.master.is_lost()
    other = f"to:{MASTER};" + json.dumps({"type": "notification", "from": W1, "data": 1})
    cluster.asks(W1, other)
    request = lock(W1, new_id())
    cluster.asks(W1, request)
    cluster.master_is_replaced()
    assert [each["type"] for each in cluster.asked()] == ["notification", "lock-request"]


# Rule 4: an answer is delivered once


def test_a_second_answer_is_not_delivered_and_its_lock_is_released(cluster: Cluster) -> None:
    request = lock(W1, new_id())
    cluster.asks(W1, request)
    cluster.master_is_replaced()
    cluster.asked()
    cluster.master.says(grant(body_of(request), 5))
    cluster.master.says(grant(body_of(request), 6))
    assert [each["data"]["id"] for each in cluster.hears(W1)] == [5]
    assert [each["data"] for each in cluster.asked()] == [{"id": 6}]
    cluster.master.says(grant(body_of(request), 5))
    assert cluster.hears(W1) == []
    assert cluster.asked() == [], "the lock is held"


@pytest.mark.parametrize("kind", ["request", "unlock-request"])
def test_no_answer_is_delivered_twice(cluster: Cluster, kind: str) -> None:
    cluster.holds(W1, 7)
    request = to_master(W1, kind, {"id": 7}, new_id())
    cluster.asks(W1, request)
    for _ in range(3):
        cluster.master.says(answer(body_of(request), {"id": 7}))
    assert len(cluster.hears(W1)) == 1


def test_a_late_answer_to_a_request_of_the_relay_ends_in_the_relay(cluster: Cluster) -> None:
    cluster.holds(W1, 700)
    cluster.master_is_replaced()
    (first,) = cluster.asked()
    cluster.master_is_replaced()
    (second,) = cluster.asked()
    cluster.master.says(grant(json.dumps(first), 3))
    cluster.master.says(grant(json.dumps(second), 4))
    assert cluster.hears(W1) == []
    assert [each["data"] for each in cluster.asked()] == [{"id": 3}]


def test_a_lock_that_the_same_master_grants_late_is_released_although_its_id_was_another_lock(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 12)
    cluster.master_is_replaced()
    (first,) = cluster.asked()
    cluster.master_is_replaced()
    cluster.asked()
    cluster.master.says(grant(json.dumps(first), 12))
    assert [each["data"] for each in cluster.asked()] == [{"id": 12}]


def test_a_lock_that_is_released_while_its_probe_waits_is_not_asked_for_again(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 700)
    request = unlock(W1, new_id(), 700)
    cluster.asks(W1, request)
    cluster.holds(W2, 701, tid="t2")
    cluster.master_is_replaced()
    second, first = cluster.asked()
    assert (first["from"], second["from"]) == (W1, W2)
    cluster.master.says(grant(json.dumps(second), 703))
    cluster.master.says(answer(body_of(request), reason="not found"))
    assert [each["ok"] for each in cluster.hears(W1)] == [True]
    cluster.master_is_replaced()
    assert [each["from"] for each in cluster.requests()] == [W2, W2]
    cluster.master.says(grant(json.dumps(first), 704))
    assert [each["data"] for each in cluster.asked()] == [{"id": 704}]
    assert cluster.hears(W1) == []


def test_an_answer_to_a_request_that_is_older_than_the_relay_is_delivered(
    cluster: Cluster,
) -> None:
    cluster.master.says(grant(body_of(lock(W1, new_id())), 5))
    assert [each["data"]["id"] for each in cluster.hears(W1)] == [5]
    assert [each.id for each in cluster.core.relay.locks(DATABASE).locks] == [5]


# Bounds


def test_a_worker_with_too_many_open_requests_is_cut(cluster: Cluster) -> None:
    for _ in range(MAX_RECORDS):
        cluster.asks(W1, to_master(W1, "request", {}, new_id()))
    assert not cluster.workers[W1].connection.aborted
    cluster.asks(W1, to_master(W1, "request", {}, new_id()))
    assert cluster.workers[W1].connection.aborted
    assert [each.peer for each in cluster.core.reported(TooManyRequests)] == [W1]
    cluster.core.wait(1)
    assert cluster.core.relay.memory.used == 0


def test_open_requests_count_towards_the_memory() -> None:
    cluster = Cluster(max_memory=2**20)
    sent = 0
    while not cluster.workers[W1].connection.aborted and sent < 100:
        cluster.asks(W1, lock(W1, new_id(), path="x" * 16_000))
        sent += 1
    assert 55 < sent < 65
    cluster.core.wait(1)
    assert cluster.core.relay.memory.used == 0


def test_locks_that_wait_for_a_master_count_towards_the_memory() -> None:
    cluster = Cluster(max_memory=2**20)
    for worker in (W1, W2):
        for number in range(28):
            cluster.holds(worker, number + 1, path="x" * 16_000, tid=worker, write=False)
    cluster.master.is_lost()
    for worker in (W1, W2):
        cluster.workers[worker].is_lost(1000)
    assert cluster.core.relay.memory.used > 900_000
    for _ in range(20):
        cluster.asks(W3, lock(W3, new_id(), path="x" * 16_000))
    cluster.core.wait(1)
    assert cluster.core.relay.memory.used < 900_000
    assert not cluster.workers[W3].connection.aborted


@pytest.mark.parametrize("leaves", [False, True])
def test_locks_that_no_master_releases_cost_no_other_database_anything(leaves: bool) -> None:
    core = Core(introduce=False, max_memory=2**20)
    innocent = core.join_acebase(W3, "innocent_data")
    master, idle = core.join_acebase(MASTER), core.join_acebase(W2)
    for number in range(1, 401):
        worker = core.join_acebase(worker_id(1000 + number))
        request = lock(worker.peer.client_id, new_id(), path="x" * 3000, write=False)
        worker.says(request)
        master.says(grant(body_of(request), number))
        worker.is_lost(1000)
        core.hush()
    if leaves:
        for each in (master, idle):
            each.is_lost(1000)
    innocent.stops_reading()
    innocent.peer.queue.append(Message(b"x" * 100))
    core.wait(1)
    assert core.relay.memory.used <= 2**20
    assert not innocent.connection.aborted


def test_nothing_is_left_when_all_is_answered_and_released(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    request = unlock(W1, new_id(), 7)
    cluster.asks(W1, request)
    cluster.master.says(released(body_of(request)))
    assert cluster.core.relay.memory.used == 0
    table = cluster.core.relay.locks(DATABASE)
    assert (table.locks, table.requests) == ((), ())


def test_the_memory_of_a_database_is_free_when_its_last_peer_has_left(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.holds(W2, 8)
    cluster.asks(W1, lock(W1, new_id()))
    cluster.master_is_replaced()
    for each in (cluster.workers[W1], cluster.master, *cluster.workers.values()):
        each.is_lost(1000)
    assert cluster.core.relay.registry.databases == {}
    for _ in range(2):
        cluster.core.wait(121)
    assert cluster.core.relay.memory.used == 0


# Rule 5: the table and the warnings


def test_the_table_shows_locks_and_requests(cluster: Cluster) -> None:
    cluster.holds(W1, 7, path="val/c", tid="t7")
    cluster.core.now += 3
    request = lock(W2, new_id(), tid="t8", write=False, path="val/d")
    cluster.asks(W2, request)
    cluster.core.now += 2
    table = cluster.core.relay.locks(DATABASE)
    (held,) = table.locks
    assert (held.holder, held.id, held.path, held.tid, held.write, held.comment, held.age) == (
        W1, 7, "val/c", "t7", True, "transactNode", 5,
    )  # fmt: skip
    (asked,) = table.requests
    assert (asked.worker, asked.kind, asked.path, asked.tid, asked.write, asked.age) == (
        W2, "lock-request", "val/d", "t8", False, 2,
    )  # fmt: skip
    assert asked.id == json.loads(body_of(request))["id"]
    assert cluster.core.relay.locks("another").locks == ()


def test_a_lock_that_is_held_for_long_while_others_wait_is_told_once_a_minute(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 7, path="val/c", tid="t1")
    for worker in (W2, W3):
        cluster.asks(worker, lock(worker, new_id(), tid=worker))
    cluster.core.wait(9)
    assert cluster.core.reported(LockHeldLong) == []
    for _ in range(59):
        cluster.core.wait(1)
    (told,) = cluster.core.reported(LockHeldLong)
    assert told == LockHeldLong(DATABASE, W1, "write", "val/c", "transactNode", 10, f"{W2}, {W3}")
    cluster.core.wait(3)
    assert len(cluster.core.reported(LockHeldLong)) == 2
    assert cluster.core.reported(RequestOpenLong) == []


def test_a_lock_that_nobody_waits_for_is_not_told(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.asks(W1, lock(W1, new_id()))
    cluster.core.wait(100)
    assert cluster.core.reported(LockHeldLong) == []


def test_a_request_that_is_open_for_long_is_told(cluster: Cluster) -> None:
    cluster.asks(W1, to_master(W1, "request", {"type": "x"}, new_id()))
    cluster.asks(W2, lock(W2, new_id()))
    cluster.core.wait(10)
    assert [
        (each.peer, each.request, each.path) for each in cluster.core.reported(RequestOpenLong)
    ] == [
        (W1, "request", ""),
        (W2, "lock-request", "a/b"),
    ]


def test_a_request_that_waits_for_an_absent_master_is_not_told(cluster: Cluster) -> None:
    cluster.master.is_lost()
    cluster.core.wait(15)
    cluster.asks(W1, lock(W1, new_id()))
    for _ in range(70):
        cluster.core.wait(1)
    assert {each.messages for each in cluster.core.reported(MasterAbsent)} == {1}
    assert cluster.core.reported(RequestOpenLong) == []


# Rule 6: without recovery


def test_without_recovery_nothing_is_done_but_the_table_is_kept() -> None:
    cluster = Cluster(lock_recovery=False)
    cluster.holds(W1, 7)
    assert [each.id for each in cluster.core.relay.locks(DATABASE).locks] == [7]
    request = lock(W2, new_id(), tid="t2")
    cluster.asks(W2, request)
    cluster.asked()
    cluster.master_is_replaced()
    assert cluster.asked() == []
    release = unlock(W1, new_id(), 7)
    cluster.asks(W1, release)
    assert cluster.asked() == [json.loads(body_of(release))]
    for _ in range(2):
        cluster.master.says(grant(body_of(request), 8))
    assert len(cluster.hears(W2)) == 2
    cluster.session_ends(W2)
    assert cluster.asked() == []
    cluster.workers[W2] = cluster.core.join_acebase(W2)
    cluster.session_ends(W1)
    assert cluster.core.relay.memory.used == 0


# Others


def test_a_master_that_asks_itself_is_no_worker(cluster: Cluster) -> None:
    cluster.master.says(lock(MASTER, new_id()))
    assert cluster.core.relay.locks(DATABASE).requests == ()


def test_documented_peers_are_not_in_the_ledger(cluster: Cluster) -> None:
    tool: Process = cluster.core.join("a-tool")
    tool.says(lock("a-tool", new_id()).replace('{"type"', '{ "type"'))
    assert cluster.core.relay.locks(DATABASE).requests == ()


def test_a_second_request_of_one_id_does_not_take_the_place_of_an_open_one(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 7)
    cluster.holds(W1, 8)
    release = unlock(W1, new_id(), 7)
    request_id = json.loads(body_of(release))["id"]
    cluster.asks(W1, release)
    cluster.asks(W1, unlock(W1, request_id, 8))
    assert len(cluster.requests()) == 2
    assert [each.id for each in cluster.core.relay.locks(DATABASE).locks] == [8]
    assert len(cluster.core.relay.locks(DATABASE).requests) == 1
    cluster.session_ends(W1)
    assert [each["data"] for each in cluster.requests()] == [{"id": 8}]


def test_the_memory_of_a_large_request_is_not_lost_to_a_second_one_of_its_id(
    cluster: Cluster,
) -> None:
    before = cluster.core.relay.memory.used
    request_id = new_id()
    cluster.asks(W1, lock(W1, request_id, path="a" * 9000))
    small = lock(W1, request_id)
    cluster.asks(W1, small)
    cluster.master.says(answer(body_of(small), reason="unknown"))
    cluster.session_ends(W1)
    assert cluster.core.relay.memory.used == before
