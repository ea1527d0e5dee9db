"""Workers and masters crash, or lose their connection, while locks are held or waited for.

Each test takes the time until the others go on. Without the relay's help they go on when the lock
expires, after 120 seconds, or never.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acebase.cluster import Peer, Relay, digest, running_relay
from tests.acebase.link import Link
from tests.acebase.recovery import (
    COUNTER,
    LIMIT,
    Counting,
    Outcome,
    add,
    complete,
    counting,
    hold,
    proceed,
)
from tests.certificates import Certificate

HASTY = ("--session-timeout=1",)
PATIENT = ("--session-timeout=60",)

POST = "--max-payload=350"
"""UTF-16 units: less than a lock request for the counter, more than the other messages."""

ROUNDS = 3
PROGRESS = 3  # transactions of each worker in a round
LARGE = "".join(f"{number:010}" for number in range(50_000))

ABOVE_FIRST_IDS = 30
"""Transactions after which the ids of locks are above 100: a lower one tells little about which
process of the master has granted it."""

Start = Callable[..., AbstractContextManager[Counting]]


@pytest.fixture(scope="module", params=["tcp", "post", "tls"])
def relay(request: pytest.FixtureRequest) -> Iterator[Relay]:
    """A relay with sessions of a second; lock requests are sent, posted, or sent over TLS."""
    if request.param == "tls":
        certificate: Certificate = request.getfixturevalue("certificate")
        endpoint = f"ssl:0:privateKey={certificate.pem}:interface=127.0.0.1"
        running = running_relay(*HASTY, endpoints=[endpoint], certificate=certificate.root)
    else:
        running = running_relay(*HASTY, *([POST] if request.param == "post" else []))
    with running as relay:
        yield relay


@pytest.fixture(scope="module")
def patient_relay() -> Iterator[Relay]:
    """A relay with sessions that outlast each of these tests."""
    with running_relay(*PATIENT) as relay:
        yield relay


@pytest.fixture(scope="module")
def hasty_relay() -> Iterator[Relay]:
    """A relay with short sessions that soon finds out about a silent connection."""
    with running_relay(*HASTY, "--keepalive-interval=1", "--keepalive-timeout=2") as relay:
        yield relay


@pytest.fixture
def outcome(record_property: Callable[[str, object], None]) -> Outcome:
    """Record the outcome of a scenario for the report, before anything is asserted."""
    return lambda text: record_property("outcome", text)


# -- a worker crashes


def test_a_worker_is_killed_while_it_holds_a_lock(
    relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(relay, tmp_path, workers=3) as cluster:
        victim, *others = cluster.workers
        hold(victim)
        running = [add(each, times=2) for each in others]
        cluster.wait_queued(4)

        began = time.monotonic()
        victim.kill()
        complete(running, began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.counted, account.uncounted) == (4, 0, 1)


def test_a_worker_is_killed_while_it_holds_a_lock_for_reading(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(hasty_relay, tmp_path, workers=2) as cluster:
        victim, other = cluster.workers
        reading = "{path: 'counters', tid: 'reader', write: false, comment: 'read'}"
        victim.evaluate(f"void ipc.lock({reading})")
        victim.until("ipc._locks.length === 1 && ipc._locks[0].granted")
        running = [add(other)]
        cluster.wait_queued(1)

        began = time.monotonic()
        victim.kill()
        complete(running, began, outcome)

        assert cluster.account().wrong == []


@pytest.mark.parametrize("lock_is", ["granted to the session", "granted after its end"])
def test_a_worker_is_killed_while_it_waits_for_a_lock(
    relay: Relay, tmp_path: Path, outcome: Outcome, lock_is: str
) -> None:
    with counting(relay, tmp_path, workers=3) as cluster:
        holder, victim, other = cluster.workers
        held = hold(holder)
        add(victim)
        cluster.wait_queued(1)
        waiting = add(other)
        cluster.wait_queued(2)

        victim.kill()
        if lock_is == "granted after its end":
            gone = f"wire.announced.some(([kind, id]) => kind + id === 'disconnect{victim.id}')"
            other.until(gone, LIMIT)
        began = time.monotonic()
        proceed(holder)
        complete([held, waiting, add(holder)], began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.uncounted) == (3, 0)


def test_a_large_value_is_written_after_a_crash(
    relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(relay, tmp_path, workers=3) as cluster:
        victim, writer, subscriber = cluster.workers
        cluster.master.set("large", {"seed": 0})
        subscriber.subscribe("large/value", "value", [cluster.master, writer, victim])
        hold(victim)
        writing = writer.begin("set", path="large/value", value=LARGE)
        cluster.wait_queued(1)

        began = time.monotonic()
        victim.kill()
        complete([writing], began, outcome)

        assert subscriber.wait_values("value large/value", 1) == [digest(LARGE)]
        assert subscriber.get("large/value", LIMIT) == digest(LARGE)


# -- the master crashes


def test_the_master_is_killed_under_load(relay: Relay, tmp_path: Path, outcome: Outcome) -> None:
    with counting(relay, tmp_path, workers=4) as cluster:

        def restart() -> None:
            cluster.master.kill()
            cluster.restart_master()

        run_under_load(cluster, restart, outcome)


@pytest.mark.parametrize("lock_is", ["held", "released without a master"])
def test_the_master_is_killed_while_a_worker_holds_a_lock(
    relay: Relay, tmp_path: Path, outcome: Outcome, lock_is: str
) -> None:
    with counting(relay, tmp_path, workers=3) as cluster:
        holder, queued, late = cluster.workers
        running = [hold(holder), queued.begin("hold", path=COUNTER)]
        cluster.wait_queued(1)

        cluster.master.kill()
        running.append(late.begin("hold", path=COUNTER))
        if lock_is == "released without a master":
            proceed(holder)
        cluster.restart_master()

        began = time.monotonic()
        if lock_is == "held":
            cluster.wait_queued(2)
            assert (queued.begun, late.begun) == ([], [])
            proceed(holder)
            running[0].result(LIMIT)
            holder.wait_idle()  # its releases do not release a lock that others hold now
        end_one_by_one([queued, late])
        complete(running, began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.uncounted) == (3, 0)


def test_a_new_master_whose_locks_have_higher_ids(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    """It has read much before it connects. Its answers look like those of the former master."""
    with counting(hasty_relay, tmp_path, workers=2) as cluster:
        holder, queued = cluster.workers
        add(holder, times=ABOVE_FIRST_IDS).result()
        running = [hold(holder), queued.begin("hold", path=COUNTER)]
        cluster.wait_queued(1)

        cluster.master.kill()
        cluster.master = cluster.start("master", away=True)
        cluster.master.wait_opened()
        for reading in [cluster.master.begin("get", path=COUNTER) for _ in range(300)]:
            reading.result()
        cluster.master.call("return")

        began = time.monotonic()
        cluster.wait_queued(1)
        assert queued.begun == []
        proceed(holder)
        end_one_by_one([queued])
        complete(running, began, outcome)

        assert cluster.account().wrong == []


# -- the master's connection is cut


def test_the_masters_connection_is_cut_under_load(
    relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(relay, tmp_path, workers=4) as cluster:
        add(cluster.workers[0], times=ABOVE_FIRST_IDS).result()

        def cut() -> None:
            cluster.master.call("cut")
            cluster.master.call("return")

        run_under_load(cluster, cut, outcome)


@pytest.mark.parametrize("lock_is", ["held", "released without a master"])
def test_the_masters_connection_is_cut_while_a_worker_holds_a_lock(
    relay: Relay, tmp_path: Path, outcome: Outcome, lock_is: str
) -> None:
    with counting(relay, tmp_path, workers=3) as cluster:
        holder, queued, late = cluster.workers
        add(holder, times=ABOVE_FIRST_IDS).result()
        running = [hold(holder), queued.begin("hold", path=COUNTER)]
        cluster.wait_queued(1)

        cluster.master.call("cut")
        running.append(late.begin("hold", path=COUNTER))
        if lock_is == "released without a master":
            proceed(holder)
        cluster.master.call("return")

        began = time.monotonic()
        if lock_is == "held":
            cluster.master.until("ipc._locks.filter((each) => !each.granted).length >= 2", LIMIT)
            assert (queued.begun, late.begun) == ([], [])
            proceed(holder)
        end_one_by_one([queued, late])
        complete(running, began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.uncounted) == (ABOVE_FIRST_IDS + 3, 0)


# -- a worker's connection is cut


@pytest.mark.parametrize("cut_is", ["closed", "silent"])
def test_a_worker_returns_before_its_session_ends(
    patient_relay: Relay, tmp_path: Path, outcome: Outcome, cut_is: str
) -> None:
    with (
        Link(patient_relay.address.port) as link,
        counting_through(link, patient_relay, tmp_path) as cluster,
    ):
        cut_off, *others = cluster.workers
        held = hold(cut_off)
        running = [add(each) for each in others]
        cluster.wait_queued(2)

        if cut_is == "silent":
            link.silence()
        cut_off.call("cut")
        cut_off.call("return")
        began = time.monotonic()
        proceed(cut_off)
        complete([held, *running], began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.uncounted) == (3, 0)


@pytest.mark.parametrize("cut_is", ["closed", "silent"])
def test_a_worker_returns_after_its_lock_was_freed(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome, cut_is: str
) -> None:
    """It is refused and ends, because others have written meanwhile."""
    with (
        Link(hasty_relay.address.port) as link,
        counting_through(link, hasty_relay, tmp_path) as cluster,
    ):
        cut_off, *others = cluster.workers
        hold(cut_off)
        running = [add(each) for each in others]
        cluster.wait_queued(2)

        if cut_is == "silent":
            link.silence()
        began = time.monotonic()
        cut_off.call("cut")
        complete(running, began, outcome)

        cut_off.begin("return")
        cut_off.wait_ended(LIMIT)
        cut_off.killed = True
        assert "server error" in (cut_off.fatal or "")  # the client's text for status 500
        (successor,) = cluster.join("worker")
        add(successor).result(LIMIT)
        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.counted, account.uncounted) == (3, 0, 1)


# -- steps of several tests


def counting_through(link: Link, relay: Relay, directory: Path) -> AbstractContextManager[Counting]:
    """A cluster of a master and three workers, the first of which connects through the link."""
    direct, through_link = relay.address, replace(relay.address, port=link.port)
    return counting(relay, directory, 3, [direct, through_link, direct, direct])


def run_under_load(cluster: Counting, disturb: Callable[[], None], outcome: Outcome) -> None:
    """Disturb a cluster at work several times. All workers go on, and nothing is lost."""
    loads = [each.begin("load", path=COUNTER) for each in cluster.workers]
    waits = []
    try:
        for _ in range(ROUNDS):
            for each in cluster.workers:
                each.wait_acknowledged(len(each.acknowledged) + PROGRESS, LIMIT)
            disturb()
            began = time.monotonic()
            for each in cluster.workers:
                # One may have been acknowledged without the master.
                each.wait_acknowledged(
                    len(each.acknowledged) + PROGRESS, began + LIMIT - time.monotonic()
                )
            waits.append(time.monotonic() - began)
    finally:
        outcome(f"{len(waits)} of {ROUNDS}, after {', '.join(f'{each:.1f}' for each in waits)} s")
    for each in cluster.workers:
        each.call("stop")
    done = sum(load.result(LIMIT) for load in loads)

    account = cluster.account()
    assert account.wrong == []
    assert account.counted == account.uncounted == 0
    assert account.acknowledged >= done


def end_one_by_one(peers: list[Peer]) -> None:
    """End the transactions of :func:`hold`, of which one at a time may have its lock."""
    waiting = list(peers)
    for _ in peers:
        Peer.changed.acquire()
        try:
            Peer.changed.wait_for(lambda: any(each.begun for each in waiting), LIMIT)
            begun = [each for each in waiting if each.begun]
        finally:
            Peer.changed.release()
        assert len(begun) == 1, f"{len(begun)} of {len(waiting)} have the lock"
        proceed(begun[0])
        waiting.remove(begun[0])
