"""Unmodified AceBase clusters on the relay: locks, events, large values, several databases, TLS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acebase.cluster import Cluster, Peer, Relay, digest

WORKERS = 3
TRANSACTIONS = 50  # of each worker, at the same time
WRITES = 25  # of each writer and kind of event

LARGE = {
    "50 KB": "".join(f"{number:010}" for number in range(5_000)),
    "1 MB": "".join(f"{number:010}" for number in range(100_000)),
    "CJK": "".join(chr(0x4E00 + number % 20_000) for number in range(10_000)),
}


class Running(Cluster):
    """A cluster with its master and workers, all of them ready."""

    master: Peer
    workers: list[Peer]


@pytest.fixture(scope="module", params=["tcp", "tls"])
def relay(request: pytest.FixtureRequest) -> Relay:
    """A relay without TLS and token, or one with both.

    The latter has a ``ssl:`` and a ``pfx:`` port, which the processes of a cluster use in turn.
    """
    relay: Relay = request.getfixturevalue(f"{request.param}_relay")
    return relay


@pytest.fixture(scope="module")
def cluster(relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(relay.addresses, tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.master, cluster.workers = cluster.open(
            "counters", "added", "watched", "mutated", "large", workers=WORKERS
        )
        yield cluster


def test_concurrent_transactions_of_all_workers_add_up(cluster: Running) -> None:
    running = [
        worker.begin("increment", path="counters/total", times=TRANSACTIONS)
        for worker in cluster.workers
    ]

    assert [each.result() for each in running] == [{"done": TRANSACTIONS, "failed": []}] * WORKERS
    assert [peer.get("counters/total") for peer in cluster.peers] == (
        [WORKERS * TRANSACTIONS] * (WORKERS + 1)
    )


def test_a_subscriber_receives_every_event_of_every_writer_in_order(cluster: Running) -> None:
    subscriber, *writers = cluster.workers
    writers.append(cluster.master)
    subscriber.subscribe("added", "child_added", writers)
    subscriber.subscribe("mutated", "mutated", writers)
    for number, _ in enumerate(writers):
        subscriber.subscribe(f"watched/{number}", "value", writers)

    running = [
        writer.begin(
            "write",
            items=[
                item
                for step in range(WRITES)
                for item in (
                    (f"added/{number}-{step:02}", step),
                    (f"watched/{number}", step),
                    (f"mutated/{number}", step),
                )
            ],
        )
        for number, writer in enumerate(writers)
    ]
    for each in running:
        each.result()
    expected = len(writers) * WRITES * 3
    subscriber.wait_for(f"{expected} events", lambda: len(subscriber.events) >= expected)

    assert len(subscriber.events) == expected
    for number, writer in enumerate(writers):
        for subscription in ("child_added added", f"value watched/{number}", "mutated mutated"):
            assert subscriber.values(subscription, writer) == list(range(WRITES))


@pytest.mark.parametrize("size", LARGE)
def test_a_large_value_reaches_two_subscribers(cluster: Running, size: str) -> None:
    writer, *subscribers = cluster.workers
    path = f"large/{size.replace(' ', '-')}"
    for subscriber in subscribers:
        subscriber.subscribe(path, "value", [writer])

    writer.set(path, LARGE[size])

    for subscriber in subscribers:
        assert subscriber.wait_values(f"value {path}", 1) == [digest(LARGE[size])]
        assert subscriber.get(path) == digest(LARGE[size])


def test_a_notification_reaches_all_others_and_a_request_is_answered(cluster: Running) -> None:
    sender, *others = cluster.workers
    others.append(cluster.master)

    sender.call("notify", value="a note")
    answer = sender.call("request", value={"type": "kit.add", "key": "surname"})

    for other in others:
        assert other.wait_values("notification", 1) == ["a note"]
    assert answer["ok"]


def test_two_databases_are_separate(relay: Relay, tmp_path: Path) -> None:
    with (
        Cluster(relay.addresses, tmp_path, "one") as one,
        Cluster(relay.addresses, tmp_path, "two") as two,
    ):
        (one_master, one_workers), (two_master, two_workers) = (
            each.open("shared", workers=1) for each in (one, two)
        )
        (one_worker,), (two_worker,) = one_workers, two_workers
        two_worker.subscribe("shared", "child_added", [two_master])

        one_worker.set("shared/a", 1)
        one_master.kill()
        two_master.set("shared/b", 2)
        two_worker.set("shared/c", 3)

        assert two_worker.wait_values("child_added shared", 2) == [2, 3]
        assert two_worker.get("shared") == {"seed": 0, "b": 2, "c": 3}
        for peer in (two_master, two_worker):
            announced = {id for _, id in peer.evaluate("wire.announced")}
            assert announced <= {two_master.id, two_worker.id}
            assert "disconnect" not in peer.evaluate("wire.received")
        # Without a master a worker of the npm package acebase waits for the next one.
        assert not one_worker.ended


@pytest.mark.parametrize("port", [0, 1], ids=["ssl", "pfx"])
def test_a_wrong_token_is_refused(tls_relay: Relay, tmp_path: Path, port: int) -> None:
    address = replace(tls_relay.addresses[port], token="wrong")
    with Cluster([address], tmp_path) as cluster:
        refused = cluster.start("worker")

        # The client's text for status 403.
        unauthorized = "Cannot connect to IPC server: unauthorized"
        refused.wait_for("the refusal", lambda: unauthorized in refused.text())
        refused.wait_for("the end of its IPC", lambda: refused.ipc_exit is not None)
        assert refused.welcomes == 0
