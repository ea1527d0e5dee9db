"""Real AceBase processes that write, and a Python program that misses none of it."""

from __future__ import annotations

from pathlib import Path

from tests.acebase.cluster import Cluster, Peer, PythonPeer, exchange, running_relay

WRITES = 20


def write(writers: list[Peer], begin: int) -> None:
    """Let all write at the same time."""
    running = [
        writer.begin(
            "write",
            items=[
                [f"orders/{name}-{number:03}", number] for number in range(begin, begin + WRITES)
            ],
        )
        for name, writer in zip("abc", writers, strict=False)
    ]
    for each in running:
        each.result()
    exchange(*writers)


def targets(python: Peer, writer: Peer) -> list[str]:
    """What the Python program has been told of the changes of one writer, in order."""
    found = python.values("changes orders", writer)
    return [target for mutations in found for target, _ in mutations]


def test_a_program_that_was_away_misses_nothing_and_is_told_of_a_gap(tmp_path: Path) -> None:
    with (
        running_relay("--history-messages", "1000") as relay,
        Cluster(relay.addresses, tmp_path) as cluster,
    ):
        master, workers = cluster.open("orders", workers=2)
        writers = [*workers, master]

        python = cluster.start(kind=PythonPeer)
        python.wait_ready()
        python.call("follow", path="orders")
        write(writers, 0)
        python.wait_values("changes orders", 3 * WRITES)
        for name, writer in zip("abc", writers, strict=True):
            assert targets(python, writer) == [f"{name}-{number:03}" for number in range(WRITES)]
        (*_, cursor) = (each.path for each in python.events if each.subscription != "notification")
        python.kill()

        write(writers, WRITES)  # nobody but the relay is there

        python = cluster.start(kind=PythonPeer)
        python.wait_ready()
        python.call("follow", path="orders", since=cursor)
        python.wait_values("changes orders", 3 * WRITES)
        for name, writer in zip("abc", writers, strict=True):
            expected = [f"{name}-{number:03}" for number in range(WRITES, 2 * WRITES)]
            assert targets(python, writer) == expected

        workers[0].kill()
        python.wait_values("gap orders", 1)
        assert len(python.values("changes orders")) == 3 * WRITES
