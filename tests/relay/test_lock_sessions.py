"""What the relay answers itself about locks, and what it leaves to the master."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acebase_ipc.relay.events import LockHeldLong, LocksFreed, ReleaseFailed, TooManyRequests
from acebase_ipc.relay.fences import Fenced
from acebase_ipc.relay.ledger import MAX_RECORDS
from acebase_ipc.relay.lock_sessions import OWN_LOCK_IDS
from tests.relay.core import DATABASE, MASTER, Core, bye
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

W1, W2 = map(worker_id, range(1, 3))
EXPIRES = 1795756965599
"""When all locks expire, as the master says."""

Envelope = dict[str, Any]


class Cluster:
    """A master and two workers."""

    def __init__(self, **options: Any) -> None:
        self.core = Core(introduce=False, **{"master_warmup": 0, **options})
        self.master = self.core.join_acebase(MASTER)
        self.workers = {each: self.core.join_acebase(each) for each in (W1, W2)}
        self.core.hush()

    def asks(self, worker: str, *messages: str) -> list[Envelope]:
        """The answers of the relay to what a worker asks in one go."""
        self.workers[worker].says(*messages)
        return self.hears(worker)

    def hears(self, worker: str) -> list[Envelope]:
        return [json.loads(each) for each in self.workers[worker].hears() if each.startswith("{")]

    def asked(self) -> list[Envelope]:
        """The requests that have reached the master."""
        envelopes = [json.loads(each) for each in self.master.hears() if each.startswith("{")]
        return [each for each in envelopes if each["type"].endswith("request")]

    def holds(self, worker: str, lock_id: int, **details: Any) -> None:
        """Let the master grant a worker a lock."""
        request = lock(worker, new_id(), **details)
        assert self.asks(worker, request) == []
        self.master.says(grant(body_of(request), lock_id))
        assert [each["data"]["id"] for each in self.hears(worker)] == [lock_id]
        self.master.hears()

    def own(self, worker: str, **details: Any) -> int:
        """The id of a lock that the relay grants itself."""
        (given,) = self.asks(worker, lock(worker, new_id(), **details))
        assert self.asked() == []
        lock_id: int = given["data"]["id"]
        assert OWN_LOCK_IDS <= lock_id < 2**53
        return lock_id

    def table(self) -> list[tuple[str, int, str, bool]]:
        locks = self.core.relay.locks(DATABASE).locks
        return [(each.holder, each.id, each.granted_by, each.is_kept) for each in locks]

    def changes_master(self) -> list[Envelope]:
        """What a new master is asked."""
        self.master.is_lost()
        self.master = self.core.join_acebase(MASTER)
        for each in self.workers.values():
            each.hears()
        return self.asked()


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# Rule 7: what is granted


def test_the_lock_is_the_one_that_was_asked_for_and_expires_with_its_cover(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 7)
    request_id = new_id()
    path = 'users/ä "b"/c[0]'
    (given,) = cluster.asks(W1, lock(W1, request_id, write=False, path=path))
    lock_id = given["data"].pop("id")
    assert OWN_LOCK_IDS <= lock_id < 2**53
    assert given == {
        "type": "lock-result",
        "id": request_id,
        "from": MASTER,
        "to": W1,
        "ok": True,
        "data": {
            "path": path,
            "tid": "t1",
            "write": False,
            "expires": EXPIRES,
            "comment": "transactNode",
        },
    }
    assert list(given["data"]) == ["path", "tid", "write", "expires", "comment"]
    assert cluster.asked() == []
    assert cluster.own(W1) != lock_id


@pytest.mark.parametrize(
    ("has", "wants", "is_covered"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_a_lock_to_write_covers_both_and_one_to_read_covers_reading(
    cluster: Cluster, has: bool, wants: bool, is_covered: bool
) -> None:
    cluster.holds(W1, 7, write=has)
    assert bool(cluster.asks(W1, lock(W1, new_id(), write=wants))) is is_covered
    assert bool(cluster.asked()) is not is_covered


def test_the_best_lock_of_a_transaction_covers(cluster: Cluster) -> None:
    cluster.holds(W1, 7, write=False)
    reading = cluster.own(W1, write=False)
    cluster.holds(W1, 8, write=True)
    cluster.own(W1, write=True)
    cluster.asks(W1, unlock(W1, new_id(), 7), unlock(W1, new_id(), reading))
    assert [each["data"]["id"] for each in cluster.asked()] == [7], "8 covers the other one"
    cluster.own(W1, write=True)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: lock(W1, new_id(), "t2"),
        lambda: lock(W2, new_id(), "t1"),  # no process has a transaction of another one
        lambda: lock(W1, new_id(), path="p" * 2000),
        lambda: lock(W1, "short"),
        lambda: lock(W1, new_id()).replace('"path"', ' "path"'),
        lambda: lock(W1, new_id(), 't\\"1'),
        lambda: lock(W1, new_id()).replace('"write":true', '"write":1'),
        lambda: lock(W1, new_id()).replace('"comment"', '"more":1,"comment"'),
    ],
)
def test_the_master_is_asked_for_anything_else(cluster: Cluster, request_of: Any) -> None:
    cluster.holds(W1, 7)
    request = request_of()
    worker = json.loads(body_of(request))["from"]
    assert cluster.asks(worker, request) == []
    assert cluster.master.hears() == [body_of(request)]


def test_a_transaction_whose_id_begins_like_another_one_is_not_covered(cluster: Cluster) -> None:
    cluster.holds(W1, 7, tid='a"b')
    assert cluster.asks(W1, lock(W1, new_id(), 'a"c')) == []
    assert cluster.asks(W1, lock(W1, new_id(), "a")) == []
    assert len(cluster.asked()) == 2


def test_a_lock_covers_for_some_time_only() -> None:
    cluster = Cluster(lock_session_max=20)
    cluster.holds(W1, 7)
    cluster.core.wait(19.5)
    cluster.own(W1)
    cluster.core.wait(0.5)
    request = lock(W1, new_id())
    assert cluster.asks(W1, request) == []
    cluster.master.says(grant(body_of(request), 8))
    cluster.core.hush()
    cluster.own(W1)


def test_a_lock_that_has_not_been_granted_covers_nothing(cluster: Cluster) -> None:
    first, second = lock(W1, new_id()), lock(W1, new_id())
    assert cluster.asks(W1, first, second) == []
    assert len(cluster.asked()) == 2
    cluster.master.says(answer(body_of(first), reason="it has expired"))
    cluster.core.hush()
    assert cluster.asks(W1, lock(W1, new_id())) == []


def test_nothing_is_granted_while_the_master_is_away(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.master.is_lost()
    assert cluster.asks(W1, lock(W1, new_id())) == []


@pytest.mark.parametrize("off", [{"lock_sessions": False}, {"lock_recovery": False}])
def test_it_can_be_turned_off(off: dict[str, bool]) -> None:
    cluster = Cluster(**off)
    cluster.holds(W1, 7)
    requests = [lock(W1, new_id()), move(W1, new_id(), 7), unlock(W1, new_id(), 7)]
    for each in requests:
        assert cluster.asks(W1, each) == []
    assert cluster.master.hears() == list(map(body_of, requests))


# Rule 8: what is released


def test_a_release_is_answered_at_once_and_reaches_the_master_before_the_next_request(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 7)
    request_id, next_one = new_id(), lock(W1, new_id(), "t2")
    (given,) = cluster.asks(W1, unlock(W1, request_id, 7), next_one)
    assert given == {
        "type": "unlock-result",
        "id": request_id,
        "from": MASTER,
        "to": W1,
        "ok": True,
        "data": {"id": 7},
    }
    first, second = cluster.asked()
    assert (first["type"], first["from"], first["data"]) == ("unlock-request", W1, {"id": 7})
    assert first["id"].startswith("relay-")
    assert second["data"]["tid"] == "t2"
    cluster.master.says(released(json.dumps(first)))
    assert cluster.core.is_quiet()
    assert cluster.table() == []


def test_a_lock_of_the_relays_own_is_released_without_the_master(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    own = cluster.own(W1)
    (given,) = cluster.asks(W1, unlock(W1, new_id(), own))
    assert given["data"] == {"id": own}
    assert cluster.asked() == []
    assert cluster.table() == [(W1, 7, "master", False)]


def test_a_lock_is_kept_until_the_last_one_that_it_covers_is_released(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    first, second = cluster.own(W1), cluster.own(W1, write=False)
    (given,) = cluster.asks(W1, unlock(W1, new_id(), 7))
    assert given["data"] == {"id": 7}
    assert cluster.table() == [
        (W1, 7, "master", True),
        (W1, first, "relay", False),
        (W1, second, "relay", False),
    ]
    cluster.asks(W1, unlock(W1, new_id(), first))
    third = cluster.own(W1)
    cluster.asks(W1, unlock(W1, new_id(), second))
    assert cluster.asked() == []
    cluster.asks(W1, unlock(W1, new_id(), third), lock(W1, new_id(), "t2"))
    assert [each["data"].get("id") for each in cluster.asked()] == [7, None]
    assert cluster.asks(W1, lock(W1, new_id())) == [], "it covers nothing any more"


def test_a_release_is_done_when_there_is_a_master_again(cluster: Cluster) -> None:
    cluster.holds(W1, 200)
    cluster.master.is_lost()
    assert [each["type"] for each in cluster.asks(W1, unlock(W1, new_id(), 200))] == [
        "unlock-result"
    ]
    cluster.master = cluster.core.join_acebase(MASTER)
    question, again = cluster.asked()
    cluster.master.says(grant(json.dumps(question), 200, tid="t1"))
    (release,) = cluster.asked()
    assert (release["type"], release["data"]) == ("unlock-request", {"id": 200})
    cluster.master.says(released(json.dumps(release)), grant(json.dumps(again), 201))
    assert [each["data"] for each in cluster.asked()] == [{"id": 201}]


def test_an_id_of_the_relays_own_never_reaches_the_master(cluster: Cluster) -> None:
    unknown = OWN_LOCK_IDS + 5
    assert cluster.asks(W1, to_master(W1, "request", {"type": "x"}, new_id())) == []
    cluster.asked()
    (let_go,) = cluster.asks(W1, unlock(W1, new_id(), unknown))
    assert (let_go["ok"], let_go["data"]) == (True, {"id": unknown})
    (moved,) = cluster.asks(W1, move(W1, new_id(), unknown))
    assert moved["ok"] is False
    assert cluster.asked() == []


def test_an_id_of_the_relays_own_never_reaches_the_master_in_a_second_request_of_one_id(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 7)
    own = cluster.own(W1)
    request_id = new_id()
    cluster.asks(W1, to_master(W1, "request", {"type": "x"}, request_id))
    cluster.master.hears()
    assert len(cluster.asks(W1, move(W1, request_id, own), unlock(W1, request_id, own))) == 2
    assert cluster.asked() == []


def test_the_release_of_a_lock_that_nobody_knows_is_left_to_the_master(cluster: Cluster) -> None:
    request = unlock(W1, new_id(), 3)
    assert cluster.asks(W1, request) == []
    assert cluster.master.hears() == [body_of(request)]


@pytest.mark.parametrize("reason", ["Cannot read properties of undefined", None])
def test_a_release_that_fails_is_reported(cluster: Cluster, reason: str | None) -> None:
    cluster.holds(W1, 7)
    cluster.asks(W1, unlock(W1, new_id(), 7))
    (release,) = cluster.master.hears()
    cluster.master.says(answer(release, {"id": 7}, reason))
    expected = [ReleaseFailed(DATABASE, W1, "a/b", "transactNode")] if reason else []
    assert cluster.core.reported(ReleaseFailed) == expected


def test_answers_wait_for_a_worker_that_reads_slowly_in_order(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    worker = cluster.workers[W1]
    worker.stops_reading()
    event = f'to:{W1};{{"type":"event","from":"{W2}","to":"{W1}"}}'
    cluster.workers[W2].says(event)
    assert cluster.asks(W1, lock(W1, new_id()), unlock(W1, new_id(), 7)) == []
    worker.reads_on()
    assert [each["type"] for each in cluster.hears(W1)] == [
        "event",
        "lock-result",
        "unlock-result",
    ]


# Rule 9: what is moved


@pytest.mark.parametrize(
    ("path", "parent"),
    [("a/b", "a"), ("a[0]", "a"), ("a", ""), ("a/b[1]", "a/b"), ('ä/"b"/c', 'ä/"b"'), ("ä/b", "ä")],
)
@pytest.mark.parametrize("is_own", [True, False])
def test_a_lock_is_moved_to_the_parent_and_keeps_its_id(
    cluster: Cluster, path: str, parent: str, is_own: bool
) -> None:
    cluster.holds(W1, 7, path=path)
    lock_id = cluster.own(W1, path=path, write=False) if is_own else 7
    request_id = new_id()
    (given,) = cluster.asks(W1, move(W1, request_id, lock_id))
    assert (given["type"], given["id"], given["ok"]) == ("lock-result", request_id, True)
    assert given["data"] == {
        "id": lock_id,
        "path": parent,
        "tid": "t1",
        "write": not is_own,
        "expires": EXPIRES,
        "comment": "transactNode",
    }
    assert cluster.asked() == []
    shown = {each.id: each.path for each in cluster.core.relay.locks(DATABASE).locks}
    assert shown[lock_id] == parent


def test_a_lock_to_read_is_moved_by_the_master(cluster: Cluster) -> None:
    cluster.holds(W1, 7, write=False)
    request = move(W1, new_id(), 7)
    assert cluster.asks(W1, request) == []
    assert cluster.master.hears() == [body_of(request)]


def test_a_lock_to_read_that_covers_another_one_stays(cluster: Cluster) -> None:
    cluster.holds(W1, 7, write=False)
    own = cluster.own(W1, write=False)
    (given,) = cluster.asks(W1, move(W1, new_id(), 7))
    assert given["data"]["id"] == 7
    cluster.asks(W1, unlock(W1, new_id(), own), unlock(W1, new_id(), 7))
    assert [each["data"] for each in cluster.asked()] == [{"id": 7}]


def test_a_lock_that_has_expired_cannot_be_moved_and_is_released(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    own = cluster.own(W1)
    cluster.asks(W1, unlock(W1, new_id(), 7))
    cluster.core.wait(120)
    (given,) = cluster.asks(W1, move(W1, new_id(), own))
    assert given["ok"] is False
    assert [each["data"] for each in cluster.asked()] == [{"id": 7}], "its client forgets it"
    assert cluster.table() == []


# Rule 10: the ledger


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_lock_that_covers_is_freed_when_its_holder_is_gone(
    cluster: Cluster, is_kept: bool
) -> None:
    cluster.holds(W1, 7)
    cluster.own(W1)
    if is_kept:
        cluster.asks(W1, unlock(W1, new_id(), 7))
    cluster.workers[W1].is_lost()
    cluster.core.wait(15)
    assert [each["data"] for each in cluster.asked()] == [{"id": 7}]
    assert cluster.core.reported(LocksFreed)[0].locks == 1
    assert cluster.table() == []
    with pytest.raises(Fenced):
        cluster.core.join_acebase(W1)


def test_a_worker_that_says_bye_has_no_locks_any_more(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    own = cluster.own(W1)
    cluster.workers[W1].says(bye(W1))
    assert [each["data"] for each in cluster.asked()] == [{"id": 7}]
    assert [each["ok"] for each in cluster.asks(W1, unlock(W1, new_id(), own))] == [True]
    assert cluster.asked() == []


def test_a_new_master_is_asked_for_the_lock_that_covers_and_the_others_live_on(
    cluster: Cluster,
) -> None:
    cluster.holds(W1, 200)
    own = cluster.own(W1)
    cluster.asks(W1, unlock(W1, new_id(), 200))
    question, again = cluster.changes_master()
    assert question["data"] == {"id": 200, "move_to": "parent"}
    assert again["data"]["tid"] == "t1"
    cluster.master.says(answer(json.dumps(question), reason="reading 'lock'"))
    cluster.master.says(answer(json.dumps(question), reason="(reading 'lock')"))
    cluster.master.says(grant(json.dumps(again), 3))
    assert cluster.asked() == []
    assert (W1, own, "relay", False) in cluster.table()
    (moved,) = cluster.asks(W1, move(W1, new_id(), own))
    assert moved["data"]["path"] == "a"
    request = lock(W1, new_id())
    assert cluster.asks(W1, request) == [], "the former lock covers nothing new"
    assert cluster.master.hears() == [body_of(request)]
    (let_go,) = cluster.asks(W1, unlock(W1, new_id(), own))
    assert let_go["data"] == {"id": own}
    assert [each["data"] for each in cluster.asked()] == [{"id": 3}]


@pytest.mark.parametrize("lock_sessions", [True, False])
def test_the_next_relay_goes_on(lock_sessions: bool) -> None:
    cluster = Cluster()
    cluster.holds(W1, 7)
    cluster.holds(W1, 9, tid="t2")
    own, other = cluster.own(W1), cluster.own(W1, tid="t2")
    cluster.asks(W1, unlock(W1, new_id(), 7))
    following = Core(introduce=False, lock_sessions=lock_sessions, master_warmup=0)
    following.now = cluster.core.now
    state = cluster.core.relay.export(cluster.core.now)
    connections = {
        (DATABASE, name): each.connection
        for name, each in [*cluster.workers.items(), (MASTER, cluster.master)]
    }
    following.relay.adopt(state, following.now, connections)
    for each in (cluster.master, *cluster.workers.values()):
        each.follow({(DATABASE, each.peer.client_id): each.peer}, following.relay)
    cluster.core = following
    assert following.relay.lock_sessions.answered == 2
    assert [each["ok"] for each in cluster.asks(W1, unlock(W1, new_id(), own))] == [True]
    assert [each["data"] for each in cluster.asked()] == [{"id": 7}]
    request = lock(W1, new_id(), "t2")
    assert bool(cluster.asks(W1, request)) is lock_sessions
    cluster.master.hears()
    assert [each["ok"] for each in cluster.asks(W1, unlock(W1, new_id(), other))] == [True]
    assert cluster.asked() == []
    assert own in range(OWN_LOCK_IDS, following.relay.lock_sessions.next_id)


def test_two_relays_do_not_begin_with_the_same_id() -> None:
    ids = [Core().relay.lock_sessions.next_id for _ in range(2)]
    assert ids[0] != ids[1]


def test_locks_of_the_relays_own_count_among_the_records_of_a_worker(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    for _ in range(MAX_RECORDS - 1):
        cluster.workers[W1].says(lock(W1, new_id()))
    assert cluster.core.reported(TooManyRequests) == []
    assert cluster.workers[W1].peer.memory > MAX_RECORDS * 1000
    cluster.workers[W1].says(lock(W1, new_id()))
    assert len(cluster.core.reported(TooManyRequests)) == 1
    cluster.core.wait(0)
    assert [each["data"] for each in cluster.asked()] == [{"id": 7}]


def test_a_kept_lock_for_which_others_wait_is_reported(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    cluster.own(W1)
    cluster.asks(W1, unlock(W1, new_id(), 7))
    cluster.asks(W2, lock(W2, new_id(), "t2"))
    cluster.core.wait(10)
    assert {each.waiting for each in cluster.core.reported(LockHeldLong)} == {W2}


def test_a_transaction_with_a_lock_of_the_relays_own_is_not_over(cluster: Cluster) -> None:
    cluster.holds(W1, 7)
    own = cluster.own(W1)
    cluster.asks(W1, unlock(W1, new_id(), 7))
    quiesce = cluster.core.relay.quiesce
    quiesce.begin(cluster.core.relay.registry.databases.values(), cluster.core.now)

    def is_quiet() -> bool:
        cluster.core.now += 1
        return quiesce.is_quiet(cluster.core.now)

    quiesce.is_quiet(cluster.core.now)
    assert not is_quiet()
    cluster.core.now -= 2
    assert len(cluster.asks(W1, lock(W1, new_id()))) == 1, "it goes on"
    cluster.asks(W1, lock(W1, new_id(), "t2"))
    cluster.asks(W2, lock(W2, new_id(), "t3"))
    assert cluster.asked() == [], "others wait"
    cluster.asks(W1, unlock(W1, new_id(), own))
    assert not is_quiet()
