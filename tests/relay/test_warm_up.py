"""A master that arrives is asked about its files only when it has had time to open them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from acebase_ipc.relay.events import MasterAbsent, SessionExpired
from tests.relay.core import MASTER, Core, Process
from tests.relay.locks import answer, body_of, grant, lock, new_id, to_master, worker_id

W1, W2 = worker_id(1), worker_id(2)
WARM_UP = 3


def allocate(worker: str, size: int = 0) -> str:
    """A request for records of the master's file."""
    return to_master(
        worker, "request", {"type": "fst.allocate", "records": 1, "x": "x" * size}, new_id()
    )


class Cluster:
    """Two workers, and perhaps a master."""

    def __init__(self, lock_recovery: bool = True, **limits: Any) -> None:
        limits.setdefault("master_warmup", WARM_UP)
        self.core = Core(introduce=False, lock_recovery=lock_recovery, **limits)
        self.workers = {each: self.core.join_acebase(each) for each in (W1, W2)}

    def asks(self, *requests: str) -> None:
        """Let W1 send requests."""
        for each in requests:
            self.workers[W1].says(each)

    def master(self) -> Process:
        """A master that has just connected."""
        master = self.core.join_acebase(MASTER)
        master.hears()
        return master


def bodies(*requests: str) -> list[str]:
    return [body_of(each) for each in requests]


@pytest.mark.parametrize("lock_recovery", [False, True])
def test_what_has_waited_for_a_master_waits_until_its_files_are_open(lock_recovery: bool) -> None:
    cluster = Cluster(lock_recovery)
    before, locks, after = allocate(W1), lock(W1, new_id()), allocate(W1)
    cluster.asks(before, locks)
    master = cluster.core.join_acebase(MASTER)
    assert body_of(locks) in master.hears()
    cluster.asks(after)
    cluster.core.wait(WARM_UP - 0.1)
    assert master.hears() == []
    cluster.core.wait(0.1)
    assert master.hears() == bodies(before, after)
    late = allocate(W1)
    cluster.asks(late)
    assert master.hears() == bodies(late)


def test_a_request_to_a_master_that_has_just_connected_waits() -> None:
    cluster = Cluster()
    master = cluster.master()
    asked, posted = allocate(W1), allocate(W1, size=20_000)
    cluster.asks(asked)
    cluster.workers[W1].posts(posted)
    assert master.hears() == []
    assert cluster.core.reported(MasterAbsent) == []
    cluster.core.wait(WARM_UP)
    assert master.hears() == bodies(asked, posted)


def test_locks_and_other_messages_do_not_wait() -> None:
    cluster = Cluster()
    master = cluster.master()
    locks = lock(W1, new_id())
    notification = f'{{"type":"notification","from":"{W1}","data":{{}}}}'
    cluster.asks(locks, f"to:{MASTER};{notification}", notification)
    assert master.hears() == [body_of(locks), notification, notification]


def test_what_was_asked_of_the_former_master_is_asked_again_when_the_files_are_open() -> None:
    cluster = Cluster()
    master = cluster.master()
    cluster.core.wait(WARM_UP)
    asked = allocate(W1)
    cluster.asks(asked)
    assert master.hears() == bodies(asked)
    master.is_lost()
    successor = cluster.master()
    assert successor.hears() == []
    cluster.core.wait(WARM_UP)
    assert successor.hears() == bodies(asked)


@pytest.mark.parametrize("times", [1, 3])
def test_each_master_has_its_time_and_is_asked_once(times: int) -> None:
    cluster = Cluster()
    asked = allocate(W1)
    cluster.asks(asked)
    for _ in range(times):
        master = cluster.master()
        cluster.core.wait(WARM_UP - 1)
        assert master.hears() == []
        master.is_lost()
    last = cluster.master()
    cluster.core.wait(WARM_UP - 1)
    assert last.hears() == []
    cluster.core.wait(1)
    assert last.hears() == bodies(asked)


@pytest.mark.parametrize("close_code", [None, 1001])
def test_what_waits_outlasts_the_master(close_code: int | None) -> None:
    cluster = Cluster(session_timeout=15)
    master = cluster.master()
    asked = allocate(W1)
    cluster.asks(asked)
    master.is_lost(close_code)
    cluster.core.wait(20)
    successor = cluster.master()
    cluster.core.wait(WARM_UP)
    assert successor.hears() == bodies(asked)


def test_what_waits_outlasts_a_master_whose_session_ends_in_the_same_moment() -> None:
    left: list[Callable[[], bool]] = []  # as while other connections have their turns
    cluster = Cluster(lock_recovery=False, session_timeout=2, in_steps=left.append)
    master = cluster.master()
    asked = allocate(W1)
    cluster.asks(asked)
    cluster.core.wait(WARM_UP - 2)
    master.is_lost()
    cluster.core.wait(2)
    while left:
        left.pop()()
    successor = cluster.master()
    cluster.core.wait(WARM_UP)
    assert successor.hears() == bodies(asked)


@pytest.mark.parametrize("shown_by", ["its answer to a question", "the number of a lock"])
def test_the_same_process_with_a_new_connection_needs_no_time(shown_by: str) -> None:
    cluster = Cluster(master_warmup=60)
    master = cluster.master()
    cluster.core.wait(60)
    request = lock(W1, new_id())
    cluster.asks(request)
    master.says(grant(body_of(request), 1_000_000))
    master.is_lost()
    back = cluster.core.join_acebase(MASTER)
    asked = allocate(W1)
    cluster.asks(asked)
    question, probe = (json.loads(each) for each in back.hears() if "request" in each)
    if shown_by == "the number of a lock":
        back.says(answer(json.dumps(question), reason="Cannot move a lock"))
        back.says(grant(json.dumps(probe), 1_000_001))
    else:
        back.says(grant(json.dumps(question), 1_000_000, tid="t1"))
    assert body_of(asked) in back.hears()


def test_a_request_of_a_worker_that_has_gone_is_dropped() -> None:
    cluster = Cluster()
    master = cluster.master()
    cluster.asks(allocate(W1))
    cluster.workers[W1].is_lost(1001)
    master.hears()
    cluster.core.wait(WARM_UP)
    assert master.hears() == []


def test_what_waits_is_bounded() -> None:
    cluster = Cluster(max_session_queue=100_000)
    cluster.master()
    for _ in range(10):
        cluster.asks(allocate(W1, size=15_000))
    assert len(cluster.core.reported(SessionExpired)) == 1
    assert cluster.core.relay.memory.in_queues <= 100_000


def test_a_documented_master_is_asked_at_once() -> None:
    cluster = Cluster()
    master = cluster.core.join(MASTER)
    master.hears()
    asked = allocate(W1)
    cluster.asks(asked)
    assert [each.removeprefix("msg:") for each in master.hears()] == bodies(asked)


def test_without_a_time_nothing_waits() -> None:
    cluster = Cluster(master_warmup=0)
    asked = allocate(W1)
    cluster.asks(asked)
    master = cluster.core.join_acebase(MASTER)
    assert body_of(asked) in master.hears()
