"""Workers and masters are killed while locks are held or waited for.

Each test takes the time until the others go on. Without the relay's help they go on when the lock
expires, after 120 seconds, or never.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.acebase.cluster import Relay, digest, running_relay
from tests.acebase.recovery import (
    ABOVE_FIRST_IDS,
    COUNTER,
    LIMIT,
    Outcome,
    add,
    complete,
    counting,
    end_one_by_one,
    hold,
    proceed,
    run_under_load,
)

LARGE = "".join(f"{number:010}" for number in range(50_000))
READS = 300
"""More locks of a new master's own than the former master has granted in a test."""


# -- a worker crashes


def test_a_worker_is_killed_while_it_holds_a_lock(
    each_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(each_relay, tmp_path, workers=3) as cluster:
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
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome, lock_is: str
) -> None:
    with counting(hasty_relay, tmp_path, workers=3) as cluster:
        holder, victim, other = cluster.workers
        held = hold(holder)
        add(victim)
        cluster.wait_queued(1)
        waiting = add(other)
        cluster.wait_queued(2)

        victim.kill()
        if lock_is == "granted after its end":
            other.wait_gone(victim, LIMIT)
        began = time.monotonic()
        proceed(holder)
        complete([held, waiting, add(holder)], began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.uncounted) == (3, 0)


def test_a_large_value_is_written_after_a_crash(
    each_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(each_relay, tmp_path, workers=3) as cluster:
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


def test_a_worker_is_killed_while_it_moves_a_node(hasty_relay: Relay, tmp_path: Path) -> None:
    """It has told the others of the new place, but not yet written it to the file.

    The others have to write at the old place, where every process will look for the node.
    """
    with counting(hasty_relay, tmp_path, workers=2) as cluster:
        victim, survivor = cluster.workers
        cluster.master.set("list", {"seed": 0})
        assert survivor.get("list") == {"seed": 0}
        victim.evaluate(
            "void (ipc.request = ((request) => (message) => message.type === 'move-lock-request'"
            " ? new Promise(() => { wire.stopped = true; }) : request.call(ipc, message)"
            ")(ipc.request))"
        )
        victim.begin("set", path="list", value={"of the victim": "x" * 300})
        victim.until("wire.stopped", LIMIT)

        victim.kill()
        survivor.set("list/survivor", 1, deadline=LIMIT)

        (successor,) = cluster.join("worker")
        for peer in (survivor, cluster.master, successor):
            assert peer.get("list", LIMIT) == {"seed": 0, "survivor": 1}


def test_a_lock_that_is_held_for_long_is_logged(tmp_path: Path) -> None:
    with (
        running_relay("--lock-warning=1") as relay,
        counting(relay, tmp_path, workers=2) as cluster,
    ):
        holder, waiting = cluster.workers
        running = [hold(holder), add(waiting)]
        parts = (f"{cluster.database}_data", holder.id, COUNTER)
        relay.wait_for(
            "the warning",
            lambda: any(
                "#warn" in line and all(part in line for part in parts) for line in relay.output
            ),
        )

        proceed(holder)
        for each in running:
            each.result(LIMIT)


# -- the master crashes


def test_the_master_is_killed_under_load(
    each_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(each_relay, tmp_path, workers=4) as cluster:

        def restart() -> None:
            cluster.master.kill()
            cluster.restart_master()

        run_under_load(cluster, restart, outcome)


def test_a_master_is_killed_as_soon_as_it_has_joined(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with counting(hasty_relay, tmp_path, workers=4) as cluster:

        def restart_twice() -> None:
            cluster.master.kill()
            cluster.restart_master()
            cluster.master.kill()
            cluster.restart_master()

        run_under_load(cluster, restart_twice, outcome)


def test_a_new_master_is_asked_for_free_space_only_when_it_has_read_its_file(
    hasty_relay: Relay, tmp_path: Path
) -> None:
    with counting(hasty_relay, tmp_path, workers=2) as cluster:
        writer, reader = cluster.workers
        cluster.master.set("large", {"seed": 0})
        cluster.master.kill()
        writing = writer.begin("set", path="large/value", value=LARGE)
        cluster.master = cluster.start("master", opens_after=0.7)
        cluster.master.wait_ready()
        writing.result(LIMIT)
        for peer in (reader, cluster.master, *cluster.join("worker")):
            assert peer.get("large/value") == digest(LARGE)
            assert peer.get(COUNTER) == 0


@pytest.mark.parametrize("lock_is", ["held", "released without a master"])
def test_the_master_is_killed_while_a_worker_holds_a_lock(
    each_relay: Relay, tmp_path: Path, outcome: Outcome, lock_is: str
) -> None:
    with counting(each_relay, tmp_path, workers=3) as cluster:
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
        for reading in [cluster.master.begin("get", path=COUNTER) for _ in range(READS)]:
            reading.result()
        cluster.master.call("return")

        began = time.monotonic()
        cluster.wait_queued(1)
        assert queued.begun == []
        proceed(holder)
        end_one_by_one([queued])
        complete(running, began, outcome)

        assert cluster.account().wrong == []


@pytest.mark.parametrize("first", ["worker", "master"])
def test_the_master_is_killed_and_so_is_the_holder_of_a_lock(
    hasty_relay: Relay, tmp_path: Path, outcome: Outcome, first: str
) -> None:
    with counting(hasty_relay, tmp_path, workers=2) as cluster:
        victim, other = cluster.workers
        hold(victim)
        running = [add(other)]
        cluster.wait_queued(1)

        for each in (victim, cluster.master) if first == "worker" else (cluster.master, victim):
            each.kill()
        cluster.restart_master()
        began = time.monotonic()
        complete(running, began, outcome)

        account = cluster.account()
        assert account.wrong == []
        assert (account.acknowledged, account.counted, account.uncounted) == (1, 0, 1)
