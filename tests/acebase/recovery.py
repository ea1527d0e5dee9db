"""What the tests of crashes share: transactions on one counter, held and waiting."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.acebase.accounts import Account, settle
from tests.acebase.cluster import Address, Cluster, Peer, Pending, Relay, Role

KEY = "total" * 24
COUNTER = f"counters/{KEY}"
"""A long path, so that lock messages are longer than the other messages of a transaction."""

LIMIT = 20.0
"""Seconds in which a cluster has to go on after a crash. A lock of AceBase expires after 120."""

ABOVE_FIRST_IDS = 30
"""Transactions after which the ids of locks are above 100: a lower one tells little about which
process of the master has granted it."""

ROUNDS = 3
PROGRESS = 3
"""Transactions of each worker after a disturbance that show that it has gone on."""

Outcome = Callable[[str], None]


class Counting(Cluster):
    """A cluster whose workers add to :data:`COUNTER`."""

    master: Peer
    workers: list[Peer]

    def restart_master(self) -> None:
        """Start a master in place of one that was killed, and wait until it has joined."""
        (self.master,) = self.join("master")

    def wait_queued(self, count: int) -> None:
        """Wait until that many lock requests wait in the master."""
        self.master.until(f"ipc._locks.filter((each) => !each.granted).length === {count}", LIMIT)

    def account(self) -> Account:
        """Compare the counter, as the master reads it, with the transactions."""
        for peer in self.peers:
            if peer.killed:
                peer.wait_ended()
        return settle(self.master.get(COUNTER, LIMIT), self.peers)


@contextlib.contextmanager
def counting(
    relay: Relay, directory: Path, workers: int, addresses: Sequence[Address] = ()
) -> Iterator[Counting]:
    """Run a cluster whose counter is at zero."""
    database = directory.name.replace("_", "-")
    with Counting(addresses or relay.addresses, directory, database) as cluster:
        (cluster.master,) = cluster.join("master")
        cluster.master.set("counters", {KEY: 0})
        roles: list[Role] = ["worker"] * workers
        cluster.workers = cluster.join(*roles)
        yield cluster


def hold(peer: Peer) -> Pending:
    """Begin a transaction that keeps its lock until :func:`proceed`."""
    count = len(peer.begun)
    held = peer.begin("hold", path=COUNTER)
    peer.wait_for("the lock", lambda: len(peer.begun) > count)
    return held


def proceed(peer: Peer) -> None:
    """Let the transaction of :func:`hold` write its value."""
    peer.call("proceed")


def add(peer: Peer, times: int = 1) -> Pending:
    """Begin so many transactions at once that add one, without waiting for their locks."""
    before: int = peer.evaluate("wire.sent['lock-request'] || 0")
    added = peer.begin("increment", path=COUNTER, times=times)
    peer.until(f"wire.sent['lock-request'] >= {before + times}")
    return added


def complete(running: Sequence[Pending], began: float, outcome: Outcome) -> None:
    """Wait until all have been answered, at most :data:`LIMIT` seconds after ``began``."""
    hanging = 0
    for each in running:
        try:
            each.result(max(0.0, began + LIMIT - time.monotonic()))
        except TimeoutError:
            hanging += 1
    took = time.monotonic() - began
    outcome(f"{hanging} of {len(running)} hang after {took:.1f} s" if hanging else f"{took:.1f} s")
    assert not hanging


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
        with Peer.changed:
            Peer.changed.wait_for(lambda: any(each.begun for each in waiting), LIMIT)
            begun = [each for each in waiting if each.begun]
        assert len(begun) == 1, f"{len(begun)} of {len(waiting)} have the lock"
        proceed(begun[0])
        waiting.remove(begun[0])
