"""A quiet moment: what begins something new waits, everything else goes on until it has ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acebase_ipc.relay.events import NotQuiet
from acebase_ipc.relay.peers import SessionState
from acebase_ipc.relay.quiesce import SILENCE
from tests.relay.core import MASTER, Core, Process
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

W1, W2 = worker_id(1), worker_id(2)
TIMEOUT = 5.0


class Cluster:
    """A master and two workers, of a relay that is about to be restarted."""

    def __init__(self, **limits: Any) -> None:
        self.core = Core(introduce=False, master_warmup=0, **limits)
        self.master = self.core.join_acebase(MASTER)
        self.workers = {each: self.core.join_acebase(each) for each in (W1, W2)}
        self.core.hush()

    def begins(self) -> None:
        """Let the relay wait for a quiet moment."""
        relay = self.core.relay
        relay.quiesce.begin(relay.registry.databases.values(), self.core.now)

    def is_quiet(self, after: float = 0) -> bool:
        """Whether nothing is under way *after* some seconds."""
        self.core.now += after
        return self.core.relay.quiesce.is_quiet(self.core.now)

    def becomes_quiet(self) -> bool:
        """Whether nothing is under way when there was silence for long enough."""
        self.is_quiet()
        return self.is_quiet(SILENCE)

    def holds(self, worker: str, lock_id: int, tid: str) -> None:
        """Let a worker have a lock."""
        request = lock(worker, new_id(), tid)
        self.workers[worker].says(request)
        assert self.master.hears() == [body_of(request)]
        self.master.says(grant(body_of(request), lock_id))
        self.core.hush()

    def releases(self, worker: str, lock_id: int) -> None:
        """Let a worker release a lock."""
        self.workers[worker].says(unlock(worker, new_id(), lock_id))
        for each in self.master.hears():
            if "unlock-request" in each:
                self.master.says(released(each))
        self.core.hush()


def hears(process: Process) -> list[str]:
    """The types of the envelopes that have come."""
    return [json.loads(each)["type"] for each in process.hears() if each.startswith("{")]


def test_it_is_quiet_after_a_moment_of_silence() -> None:
    cluster = Cluster()
    cluster.begins()
    assert not cluster.is_quiet()
    assert not cluster.is_quiet(SILENCE * 0.9)
    cluster.workers[W1].says(f'{{"type":"notification","from":"{W1}"}}')
    assert not cluster.is_quiet(SILENCE * 0.9)
    assert cluster.is_quiet(SILENCE * 1.01)


def test_it_is_quiet_after_a_while_even_if_somebody_is_never_silent() -> None:
    cluster = Cluster()
    cluster.holds(W1, 7, "t1")
    cluster.begins()
    moments = 0
    while not cluster.is_quiet(SILENCE / 2):
        cluster.workers[W2].says(f'{{"type":"notification","from":"{W2}"}}')
        moments += 1
        if moments == 20:
            cluster.releases(W1, 7)
    assert 20 + 10 <= moments <= 20 + 12


def test_pings_do_not_count() -> None:
    cluster = Cluster()
    cluster.begins()
    for _ in range(3):
        cluster.workers[W1].says("ping")
        is_quiet = cluster.is_quiet(SILENCE / 2)
    assert is_quiet


@pytest.mark.parametrize("join", [Core.join, Core.join_acebase])
def test_where_nobody_is_connected_there_is_nothing_to_wait_for(join: Any) -> None:
    core = Core()
    process = join(core, W1)
    if join is Core.join_acebase:
        process.is_lost()
    core.relay.quiesce.begin(core.relay.registry.databases.values(), core.now)
    assert core.relay.quiesce.is_quiet(core.now)


def test_a_new_transaction_waits_and_one_that_has_begun_goes_on() -> None:
    cluster = Cluster(lock_sessions=False)
    cluster.holds(W1, 7, "t1")
    cluster.begins()
    first, second = lock(W2, new_id(), "t2"), lock(W2, new_id(), "t2")
    more = [
        lock(W1, new_id(), "t1"),
        move(W1, new_id(), 7),
        to_master(W1, "request", {"type": "fst.allocate", "records": 1}, new_id()),
        unlock(W1, new_id(), 7),
    ]
    cluster.workers[W2].says(first)
    for each in more:
        cluster.workers[W1].says(each)
    cluster.workers[W2].says(second)
    assert cluster.master.hears() == list(map(body_of, more))
    assert not cluster.becomes_quiet()


def test_a_transaction_whose_first_request_was_under_way_goes_on() -> None:
    cluster = Cluster()
    first = lock(W1, new_id(), "t1")
    cluster.workers[W1].says(first)
    cluster.begins()
    second = lock(W1, new_id(), "t1")
    cluster.workers[W1].says(second)
    assert cluster.master.hears() == [body_of(first), body_of(second)]


def test_it_is_quiet_when_all_locks_are_released_and_all_is_answered() -> None:
    cluster = Cluster()
    cluster.holds(W1, 7, "t1")
    asked = to_master(W2, "request", {"type": "x"}, new_id())
    cluster.workers[W2].says(asked)
    cluster.begins()
    cluster.workers[W2].says(lock(W2, new_id(), "t2"))
    assert not cluster.becomes_quiet()
    cluster.releases(W1, 7)
    assert not cluster.becomes_quiet()
    cluster.master.says(answer(body_of(asked), {}))
    assert cluster.becomes_quiet()
    cluster.core.relay.quiesce.report_unfinished(cluster.core.now)
    assert cluster.core.reported(NotQuiet) == []


def test_what_has_waited_is_delivered_in_the_end_in_order() -> None:
    cluster = Cluster()
    cluster.begins()
    requests = [lock(each, new_id(), f"t{each}") for each in (W1, W2)]
    for worker, each in zip((W1, W2), requests, strict=True):
        cluster.workers[worker].says(each)
    assert cluster.master.hears() == []
    cluster.core.relay.quiesce.end()
    assert cluster.master.hears() == list(map(body_of, requests))
    direct = lock(W1, new_id(), "t3")
    cluster.workers[W1].says(direct)
    assert cluster.master.hears() == [body_of(direct)]


def test_what_a_worker_has_asked_that_has_left_is_dropped() -> None:
    cluster = Cluster()
    cluster.begins()
    cluster.workers[W1].says(lock(W1, new_id()))
    cluster.workers[W1].is_lost(1000)
    cluster.core.relay.quiesce.end()
    assert [each for each in hears(cluster.master) if each == "lock-request"] == []


def test_it_waits_no_longer_than_allowed_and_names_what_is_under_way() -> None:
    cluster = Cluster(quiesce_timeout=TIMEOUT)
    cluster.holds(W1, 7, "t1")
    cluster.core.now += 3
    cluster.begins()
    assert not cluster.is_quiet(TIMEOUT - 0.01)
    assert cluster.is_quiet(0.01)
    cluster.core.relay.quiesce.report_unfinished(cluster.core.now)
    (event,) = cluster.core.reported(NotQuiet)
    assert (event.peer, event.locks, event.requests) == (W1, 1, 0)
    assert (event.path, event.comment, event.seconds) == ("a/b", "transactNode", 8)


def test_it_does_not_wait_if_that_is_not_allowed() -> None:
    cluster = Cluster(quiesce_timeout=0)
    cluster.holds(W1, 7, "t1")
    cluster.begins()
    assert cluster.is_quiet()


def test_a_master_that_arrives_meanwhile_does_not_receive_what_waits() -> None:
    cluster = Cluster()
    cluster.holds(W1, 7, "t1")
    cluster.begins()
    waits = lock(W2, new_id(), "t2")
    cluster.workers[W2].says(waits)
    cluster.master.is_lost()
    goes_on, begins = lock(W1, new_id(), "t1"), lock(W2, new_id(), "t3")
    cluster.workers[W1].says(goes_on)
    cluster.workers[W2].says(begins)
    cluster.master = cluster.core.join_acebase(MASTER)
    heard = cluster.master.hears()
    assert body_of(goes_on) in heard
    assert not {body_of(waits), body_of(begins)} & set(heard)
    cluster.core.relay.quiesce.end()
    assert cluster.master.hears() == [body_of(waits), body_of(begins)]


def test_requests_about_files_do_not_wait_longer_for_a_quiet_moment() -> None:
    cluster = Cluster()
    cluster.core = Core(introduce=False, master_warmup=1)
    cluster.workers = {each: cluster.core.join_acebase(each) for each in (W1, W2)}
    cluster.master = cluster.core.join_acebase(MASTER)
    cluster.core.hush()
    cluster.begins()
    files = to_master(W1, "request", {"type": "fst.allocate", "records": 1}, new_id())
    begins = lock(W2, new_id(), "t2")
    cluster.workers[W1].says(files)
    cluster.workers[W2].says(begins)
    assert cluster.master.hears() == []
    cluster.core.wait(1)
    assert cluster.master.hears() == [body_of(files)]
    cluster.core.relay.quiesce.end()
    assert cluster.master.hears() == [body_of(begins)]


def test_a_relay_without_a_successor_answers_what_has_waited_with_a_failure() -> None:
    cluster = Cluster()
    cluster.begins()
    request = lock(W1, new_id())
    cluster.workers[W1].says(request)
    cluster.core.relay.quiesce.refuse("the relay has stopped")
    (text,) = cluster.workers[W1].hears()
    failed = json.loads(text)
    asked = json.loads(body_of(request))
    assert (failed["type"], failed["id"], failed["ok"]) == ("lock-result", asked["id"], False)
    assert failed["reason"] == "the relay has stopped"
    assert cluster.core.relay.locks("shop_data").requests == ()
    cluster.core.relay.quiesce.end()
    assert cluster.master.hears() == []


def test_after_a_restart_workers_resume_silently_and_what_has_waited_reaches_the_master() -> None:
    cluster = Cluster()
    cluster.begins()
    request = lock(W1, new_id())
    cluster.workers[W1].says(request)
    assert cluster.becomes_quiet()
    for process in (cluster.master, *cluster.workers.values()):
        process.is_lost(1012)
    cluster.core.restart()
    workers = [cluster.core.join_acebase(each) for each in (W1, W2)]
    assert [each.hears()[0][:7] for each in workers] == ["welcome"] * 2
    assert cluster.core.is_quiet()
    master = cluster.core.join_acebase(MASTER)
    assert master.hears()[-1] == body_of(request)
    master.says(grant(body_of(request), 8))
    assert hears(workers[0])[-1] == "lock-result"


def test_a_peer_that_is_not_back_after_a_restart_has_left_when_its_session_has_expired() -> None:
    cluster = Cluster(session_timeout=15)
    reader = cluster.core.join("reader")
    state = cluster.core.relay.export(cluster.core.now)
    other = Core(introduce=False, session_timeout=15)
    other.relay.adopt(state, other.now, {})
    peer = other.relay.registry.peer("shop_data", W1)
    assert peer.state is SessionState.SUSPENDED
    assert other.relay.registry.find("shop_data", "reader") is None, "it cannot resume a session"
    worker = other.join_acebase(W2)
    assert worker.hears() == ['welcome:{"maxPayload":16384}', f"disconnect:{reader.peer.client_id}"]
    other.wait(15)
    assert f"disconnect:{W1}" in worker.hears()


@pytest.mark.parametrize(("highest", "is_same"), [(150, True), (150, False), (99, True)])
def test_a_master_that_is_the_same_process_is_asked_about_its_files_at_once(
    highest: int, is_same: bool
) -> None:
    cluster = Cluster()
    cluster.holds(W1, highest, "t1")
    cluster.releases(W1, highest)
    for process in (cluster.master, *cluster.workers.values()):
        process.is_lost(1012)
    cluster.core.restart()
    cluster.core.relay._warm_up.seconds = 1
    worker, master = cluster.core.join_acebase(W1), cluster.core.join_acebase(MASTER)
    asked = master.hears()[-1]
    if highest < 100:
        assert "lock-request" not in asked, "it would show nothing"
        return
    assert '"write":false' in asked
    master.says(grant(asked, highest + 1 if is_same else 1))
    assert hears(master) == ["unlock-request"], "nobody needs it"
    files = to_master(W1, "request", {"type": "fst.allocate", "records": 1}, new_id())
    worker.says(files)
    assert (master.hears() == [body_of(files)]) is is_same
    cluster.core.wait(1)
    assert (master.hears() == [body_of(files)]) is not is_same
