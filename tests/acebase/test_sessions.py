"""AceBase clusters with the relay's introductions, sessions and id conflicts.

With ``TEST_WITHOUT_SESSIONS`` set in the environment the relay runs with
``--no-introductions --session-timeout 0``, and most of these tests fail:
``compare.py`` runs them both ways and prints the outcomes.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acebase.cluster import Cluster, Peer, Relay, exchange, running_relay

WITHOUT_SESSIONS = bool(os.environ.get("TEST_WITHOUT_SESSIONS"))

PATIENCE = 6.0
"""Seconds after which an operation counts as hanging."""

WRITES = 5  # of each writer, at a time
TRANSACTIONS = 10  # of each worker
SUBSCRIPTION = "child_added list"

Outcome = Callable[[str], None]


def options(session_timeout: float) -> tuple[str, ...]:
    """The relay's options."""
    return (
        ("--no-introductions", "--session-timeout=0")
        if WITHOUT_SESSIONS
        else (f"--session-timeout={session_timeout:g}",)
    )


@pytest.fixture(scope="module")
def relay_with_long_sessions() -> Iterator[Relay]:
    """A relay with sessions that outlast each of these tests."""
    with running_relay(*options(session_timeout=60)) as relay:
        yield relay


@pytest.fixture(scope="module")
def relay_with_short_sessions() -> Iterator[Relay]:
    """A relay whose sessions expire after a second."""
    with running_relay(*options(session_timeout=1)) as relay:
        yield relay


def write(*writers: Peer, first: int = 0) -> None:
    """Write with all writers at the same time; each writes its values one after the other."""
    running = [
        writer.begin(
            "write",
            items=[
                (f"list/{writer.id.strip('[]')}-{number:02}", number)
                for number in range(first, first + WRITES)
            ],
        )
        for writer in writers
    ]
    for each in running:
        each.result(PATIENCE)


def wait_lost(relay: Relay, cluster: Cluster, peer: Peer) -> None:
    """Wait until the relay has noticed the end of the peer's connection."""
    noticed = re.compile(
        rf"\b{cluster.database}_data: (the connection of )?{re.escape(peer.id)} "
        r"(from \S+ is lost|left)"
    )
    relay.wait_for("the loss", lambda: any(noticed.search(line) for line in relay.output))


def lock_requests(peer: Peer) -> int:
    """The number of lock requests that the peer has sent."""
    sent: int = peer.evaluate("wire.sent['lock-request'] || 0")
    return sent


def test_a_late_joiner_learns_the_subscriptions_of_others(
    relay_with_long_sessions: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with Cluster(relay_with_long_sessions.addresses, tmp_path, "late") as cluster:
        _, (subscriber,) = cluster.open("list", workers=1)
        subscriber.subscribe("list", "child_added")

        (joiner,) = cluster.join("worker")
        exchange(subscriber, joiner)
        write(joiner)
        exchange(subscriber, joiner)

        seen = subscriber.values(SUBSCRIPTION)
        outcome(f"{len(seen)} of {WRITES} events")
        assert seen == list(range(WRITES))


@pytest.mark.parametrize("bystander_is", ["idle", "blocked"])
def test_a_cut_connection_loses_no_event(
    relay_with_long_sessions: Relay, tmp_path: Path, outcome: Outcome, bystander_is: str
) -> None:
    with Cluster(relay_with_long_sessions.addresses, tmp_path, f"cut-{bystander_is}") as cluster:
        master, (subscriber, writer, bystander) = cluster.open("list", workers=3)
        writers = (master, writer)
        subscriber.subscribe("list", "child_added", cluster.peers[:1] + cluster.peers[2:])
        exchange(*cluster.peers)
        blocked = None
        if bystander_is == "blocked":
            blocked = bystander.begin("block", ms=800)
            bystander.wait_values("blocked", 1)

        subscriber.call("cut")
        wait_lost(relay_with_long_sessions, cluster, subscriber)
        write(*writers)
        subscriber.call("return")
        if blocked is not None:
            blocked.result()
        # Late messages of a bystander, like a bye for the subscriber, have then arrived.
        exchange(*cluster.peers)
        write(*writers, first=WRITES)
        exchange(*cluster.peers)

        seen = subscriber.values(SUBSCRIPTION)
        announced = Counter(
            kind for peer in cluster.peers for kind, _ in peer.evaluate("wire.announced")
        )
        outcome(f"{len(seen)} of {4 * WRITES} events, {announced['disconnect']} disconnects")
        for each in writers:
            assert subscriber.values(SUBSCRIPTION, each) == list(range(2 * WRITES))
        assert len(seen) == 4 * WRITES
        assert announced["disconnect"] == announced["bye"] == 0


def test_subscriptions_of_a_killed_worker_are_dropped(tmp_path: Path, outcome: Outcome) -> None:
    with (
        running_relay(*options(session_timeout=2)) as relay,
        Cluster(relay.addresses, tmp_path, "killed") as cluster,
    ):
        master, (victim, survivor, other) = cluster.open("list", workers=3)
        victim.subscribe("list", "child_added", [master, survivor, other])
        survivor.subscribe("list", "child_added", [master, victim, other])

        began = time.monotonic()
        victim.kill()
        of_victim = f"ipc.remoteSubscriptions.filter((each) => each.for === '{victim.id}').length"
        waiting = [
            each.begin("until", expression=f"{of_victim} === 0")
            for each in (master, survivor, other)
        ]
        with contextlib.suppress(TimeoutError):
            for each in waiting:
                each.result(began + 4 - time.monotonic())
        took = time.monotonic() - began

        kept = sum(peer.evaluate(of_victim) for peer in (master, survivor, other))
        outcome(f"{kept} of 3 subscriptions kept after {took:.1f} s")
        assert kept == 0
        for peer in (master, other):
            assert peer.evaluate("ipc.remoteSubscriptions.map((each) => each.for)") == [survivor.id]


@pytest.mark.parametrize("session_is", ["suspended", "expired"])
def test_transactions_wait_for_the_next_master(
    request: pytest.FixtureRequest, tmp_path: Path, outcome: Outcome, session_is: str
) -> None:
    relay: Relay = request.getfixturevalue(
        "relay_with_long_sessions" if session_is == "suspended" else "relay_with_short_sessions"
    )
    with Cluster(relay.addresses, tmp_path, f"restart-{session_is}") as cluster:
        master, workers = cluster.open("counters", workers=2)
        for peer in cluster.peers:
            peer.wait_idle()
        master.kill()
        wait_lost(relay, cluster, master)

        running = []
        for worker in workers:
            before = lock_requests(worker)
            running.append(worker.begin("increment", path="counters/total", times=TRANSACTIONS))
            worker.until(f"wire.sent['lock-request'] === {before + TRANSACTIONS}")
            if session_is == "expired":  # after the first worker's requests, before the second's
                worker.wait_gone(master, PATIENCE)
        (successor,) = cluster.join("master")
        done = 0
        with contextlib.suppress(TimeoutError):
            for each in running:
                done += each.result(PATIENCE)["done"]

        outcome(f"{done} of {2 * TRANSACTIONS} transactions")
        assert done == successor.get("counters/total") == 2 * TRANSACTIONS


def test_the_queued_lock_request_of_a_killed_worker_is_dropped(
    relay_with_short_sessions: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with Cluster(relay_with_short_sessions.addresses, tmp_path, "dropped") as cluster:
        master, (victim, survivor) = cluster.open("list", workers=2)
        for peer in cluster.peers:
            peer.wait_idle()
        master.kill()
        wait_lost(relay_with_short_sessions, cluster, master)
        before = lock_requests(victim)
        victim.begin("set", path="list/victim", value=1)
        victim.until(f"wire.sent['lock-request'] === {before + 1}")
        exchange(victim, survivor)  # the relay has the lock request
        victim.kill()
        survivor.wait_gone(victim, PATIENCE)

        cluster.join("master")
        began = time.monotonic()
        done = False
        with contextlib.suppress(TimeoutError):
            survivor.set("list/survivor", 2, deadline=2)
            done = True

        took = time.monotonic() - began
        outcome(f"the write {'took' if done else 'hangs after'} {took:.1f} s")
        assert done


def test_workers_wait_for_their_first_master(
    relay_with_short_sessions: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with Cluster(relay_with_short_sessions.addresses, tmp_path, "first") as earlier:
        previous, _ = earlier.open("list", workers=0)
        previous.call("close")
        previous.kill()
        wait_lost(relay_with_short_sessions, earlier, previous)
    with Cluster(relay_with_short_sessions.addresses, tmp_path, "first") as cluster:
        *workers, clock = cluster.join("worker", "worker", "worker")
        writing = [
            worker.begin("set", path=f"list/{number}", value=number)
            for number, worker in enumerate(workers)
        ]
        for worker in workers:
            worker.until("wire.sent['lock-request'] === 1")
        # Its session expires after they began to wait: so they have waited longer than a session.
        clock.kill()
        for worker in workers:
            worker.wait_gone(clock, PATIENCE)

        (master,) = cluster.join("master")
        done = 0
        with contextlib.suppress(TimeoutError):
            for each in writing:
                each.result(PATIENCE)
                done += 1

        outcome(f"{done} of 2 writes")
        assert done == 2
        assert [master.get(f"list/{number}") for number in range(2)] == [0, 1]


def test_many_that_join_at_once_send_few_messages(
    relay_with_short_sessions: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with Cluster(relay_with_short_sessions.addresses, tmp_path, "many") as cluster:
        master, _ = cluster.open("list", workers=0)
        workers = [cluster.start(away=True) for _ in range(12)]
        for worker in workers:
            worker.wait_opened()
            worker.subscribe("list", "child_added")
        began = time.monotonic()
        for joining in [worker.begin("return") for worker in workers]:
            joining.result()
        took = time.monotonic() - began
        exchange(*cluster.peers)

        ids = {peer.id for peer in cluster.peers}
        known = {
            peer.id: peer.evaluate("ipc.peers.map((each) => each.id)") for peer in cluster.peers
        }
        pairs = len(ids) * (len(ids) - 1) // 2
        introduced = sum(len(each) for each in known.values()) // 2
        received = total_received(cluster.peers)
        outcome(
            f"{introduced} of {pairs} pairs introduced in {took:.1f} s,"
            f" {received['hello']} hellos and {received['subscribe']} subscribes"
        )
        for peer in cluster.peers:
            assert sorted(known[peer.id]) == sorted(ids - {peer.id})
        assert received["connect"] == pairs
        # One from the relay to each of a pair, and the answers of both.
        assert received["hello"] == 4 * pairs
        # To every other process: in answer to its hello, and to those that joined later.
        announced = len(workers) * (len(ids) - 1)
        assert announced <= received["subscribe"] <= 2 * announced

        killed, survivors = workers[:6], [master, *workers[6:]]
        for worker in killed:
            worker.kill()
        for peer in survivors:
            peer.until(f"wire.received.disconnect === {len(killed)}", PATIENCE)
        before = total_received(survivors)
        exchange(*survivors)

        after = total_received(survivors) - before
        assert after.total() - after["pong"] == after["notification"]
        assert after["notification"] == 2 * len(survivors) * (len(survivors) - 1)
        assert after["bye"] + before["bye"] == 0
        alive = {worker.id for worker in workers[6:]}
        for peer in survivors:
            kept = peer.evaluate("ipc.remoteSubscriptions.map((each) => each.for)")
            assert sorted(kept) == sorted(alive - {peer.id})


def total_received(peers: list[Peer]) -> Counter[str]:
    """Number of messages by kind, received by all the peers together."""
    return sum((Counter(peer.evaluate("wire.received")) for peer in peers), Counter())


def test_workers_join_under_load(
    relay_with_long_sessions: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with Cluster(relay_with_long_sessions.addresses, tmp_path, "load") as cluster:
        master, workers = cluster.open("counters", "list", workers=3)
        subscriber = workers[0]
        subscriber.subscribe("list", "child_added", [master, *workers[1:]])
        loads = [worker.begin("load", path="counters/total") for worker in workers]
        for worker in workers:
            worker.wait_acknowledged(1)

        joiners = cluster.join("worker", "worker", "worker")
        exchange(subscriber, *joiners)
        write(*joiners)
        for worker in workers:
            worker.call("stop")
        done = sum(load.result() for load in loads)
        exchange(subscriber, *joiners)

        seen = subscriber.values(SUBSCRIPTION)
        counter = master.get("counters/total")
        outcome(
            f"{len(seen)} of {len(joiners) * WRITES} events,"
            f" counter at {counter} after {done} transactions"
        )
        for joiner in joiners:
            assert subscriber.values(SUBSCRIPTION, joiner) == list(range(WRITES))
        assert len(seen) == len(joiners) * WRITES
        assert counter == done


def test_of_two_masters_one_ends(
    relay_with_long_sessions: Relay, tmp_path: Path, outcome: Outcome
) -> None:
    with Cluster(relay_with_long_sessions.addresses, tmp_path, "masters") as cluster:
        _, (worker,) = cluster.open("list", workers=1)
        worker.wait_idle()
        cluster.start("master")
        masters = [peer for peer in cluster.peers if peer is not worker]
        with Peer.changed:
            Peer.changed.wait_for(lambda: any(each.ended for each in masters), PATIENCE)
        ended = [each for each in masters if each.ended]
        joins = sum(each.welcomes for each in masters)
        outcome(f"{len(ended)} of 2 masters ended after {joins - 1} replacements")

        assert len(ended) == 1
        assert joins - 1 <= 3
        # The client's text for status 409.
        assert "unsupported client version" in (ended[0].fatal or "")
        ended[0].kill()
        worker.set("list/served", 1, deadline=PATIENCE)
        errors = [
            line
            for line in relay_with_long_sessions.output
            if "[master]" in line and "#error" in line
        ]
        assert len(errors) == 1
        assert len(set(re.findall(r"127\.0\.0\.1:\d+", errors[0]))) == 2
