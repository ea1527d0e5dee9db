"""Connections are cut while locks are held or waited for; the processes live on."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acebase.cluster import Relay
from tests.acebase.link import Link
from tests.acebase.recovery import (
    ABOVE_FIRST_IDS,
    COUNTER,
    LIMIT,
    Counting,
    Outcome,
    add,
    complete,
    counting,
    end_one_by_one,
    hold,
    proceed,
    run_under_load,
)

# -- the master's connection is cut


def test_the_masters_connection_is_cut_under_load(
    each_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(each_relay, tmp_path, workers=4) as cluster:
        add(cluster.workers[0], times=ABOVE_FIRST_IDS).result()

        def cut() -> None:
            cluster.master.call("cut")
            cluster.master.call("return")

        run_under_load(cluster, cut, outcome)


@pytest.mark.parametrize("lock_is", ["held", "released without a master"])
def test_the_masters_connection_is_cut_while_a_worker_holds_a_lock(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome, lock_is: str
) -> None:
    with counting(hasty_relay, tmp_path, workers=3) as cluster:
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


def test_a_worker_is_killed_while_the_masters_connection_is_cut(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(hasty_relay, tmp_path, workers=2) as cluster:
        victim, other = cluster.workers
        add(victim, times=ABOVE_FIRST_IDS).result()
        hold(victim)
        running = [add(other)]
        cluster.wait_queued(1)

        cluster.master.call("cut")
        victim.kill()
        other.wait_gone(victim, LIMIT)
        cluster.master.call("return")
        began = time.monotonic()
        complete(running, began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.counted, account.uncounted) == (0, 1)


def test_a_lock_is_granted_but_the_answer_is_lost(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    """The master is asked again and grants a second lock; it has to release both."""
    with counting(hasty_relay, tmp_path, workers=2) as cluster:
        worker, other = cluster.workers
        add(worker, times=ABOVE_FIRST_IDS).result()
        worker.wait_idle()
        cluster.master.evaluate("void (ipc.ws.send = () => {})")
        running = [add(worker)]
        cluster.master.until("ipc._locks.some((each) => each.granted)")

        cluster.master.call("cut")
        cluster.master.call("return")
        began = time.monotonic()
        running.append(add(other))
        complete(running, began, outcome)

        assert cluster.account().wrong == []


def test_records_are_released_once(hasty_relay: Relay, tmp_path: Path) -> None:
    """A master that has released records, but whose answer is lost, is not asked again.

    Records that are released twice are allocated twice, to two nodes.
    """
    with counting(hasty_relay, tmp_path, workers=1) as cluster:
        (worker,) = cluster.workers
        allocate = {"type": "fst.allocate", "records": 5}
        ranges = worker.call("request", value=allocate)["allocation"]
        cluster.master.evaluate("void (ipc.ws.send = () => {})")
        received = cluster.master.evaluate("wire.received.request")
        releasing = worker.begin("request", value={"type": "fst.release", "ranges": ranges})
        cluster.master.until(f"wire.received.request > {received}")

        cluster.master.call("cut")
        cluster.master.call("return")
        assert releasing.result(LIMIT) == {"ok": True}

        first, second = (worker.call("request", value=allocate)["allocation"] for _ in range(2))
        assert first != second


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


def test_a_lock_is_granted_while_a_worker_is_away(
    patient_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(patient_relay, tmp_path, workers=3) as cluster:
        holder, cut_off, other = cluster.workers
        running = [hold(holder), add(cut_off)]
        cluster.wait_queued(1)
        running.append(add(other))

        cut_off.call("cut")
        proceed(holder)
        running[0].result(LIMIT)
        cluster.wait_queued(1)
        cut_off.call("return")
        complete(running, time.monotonic(), outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.uncounted) == (3, 0)


def test_a_worker_returns_after_its_lock_request_was_dropped(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    """It would wait for the answer indefinitely, so it is refused and ends."""
    with counting(hasty_relay, tmp_path, workers=3) as cluster:
        holder, cut_off, other = cluster.workers
        held = hold(holder)
        add(cut_off)
        cluster.wait_queued(1)

        cut_off.call("cut")
        other.wait_gone(cut_off, LIMIT)
        cut_off.begin("return")
        cut_off.wait_ended(LIMIT)
        cut_off.killed = True
        assert "server error" in (cut_off.fatal or "")  # the client's text for status 500

        proceed(holder)
        complete([held, add(other)], time.monotonic(), outcome)
        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.uncounted) == (2, 0)


def counting_through(link: Link, relay: Relay, directory: Path) -> AbstractContextManager[Counting]:
    """A cluster of a master and three workers, the first of which connects through the link."""
    direct, through_link = relay.address, replace(relay.address, port=link.port)
    return counting(relay, directory, 3, [direct, through_link, direct, direct])
