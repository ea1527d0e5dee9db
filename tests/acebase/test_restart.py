"""The relay is restarted under a running cluster, on a socket that somebody else holds.

``restart_figures.py`` repeats it and prints what each restart did.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acebase.cluster import Cluster, Peer, PeerDied, PeerError, Pending, exchange
from tests.activation import ActivatedRelay, listening_socket

WORKERS = 3
TRANSACTIONS = 5  # of each worker, after the restart
SUBSCRIPTION = "child_added list"

PATIENCE = 5.0
"""Seconds after which a write that has not ended is taken to hang."""

FATAL_TIMER = 10.0
"""Seconds after which a client that was refused once ends (client bug 3)."""

CONNECT_SECONDS = 5.0
"""How long a client may wait to be accepted: then it sends a ping on the socket that
is not open yet, which ends the process."""


@dataclass(slots=True)
class Outcome:
    """What a restart did to a cluster.

    :ivar gap: seconds from SIGTERM until the next relay served.
    :ivar refused: failed attempts to connect, of all processes.
    :ivar dead: processes that ended.
    :ivar hanging: workers whose write under way neither ended nor failed.
    :ivar failed: workers whose write under way failed.
    :ivar done: writes of the workers after the restart, of *wanted*.
    :ivar events: how many of these a subscriber heard of.
    """

    wanted: int
    workers: int = WORKERS
    processes: int = WORKERS + 1
    gap: float = 0
    refused: int = 0
    dead: int = 0
    hanging: int = 0
    failed: int = 0
    done: int = 0
    events: int = 0

    def __str__(self) -> str:
        return (
            f"served again after {self.gap:.2f} s: {self.refused} refused, {self.dead} dead,"
            f" {self.hanging} hanging, {self.failed} failed; afterwards"
            f" {self.done} of {self.wanted} writes, {self.events} events"
        )


def restart_relay(
    directory: Path, *, under_load: bool, held: bool = True, watch: float = 0
) -> Outcome:
    """Restart the relay of a cluster once.

    :param under_load: whether every worker is always in the middle of a transaction.
    :param held: whether the port listens all the time.
    :param watch: seconds after the restart until the dead are counted, at least.
    """
    outcome = Outcome(wanted=WORKERS * TRANSACTIONS)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening_socket())
        relay = stack.enter_context(ActivatedRelay(listener))
        cluster = stack.enter_context(Cluster([relay.address], directory, "restart"))
        master, workers = cluster.open("list", "counters", workers=WORKERS)
        subscriber = workers[0]
        subscriber.subscribe("list", "child_added", [master, *workers[1:]])
        exchange(*cluster.peers)
        loads = begin_load(workers) if under_load else []
        for peer in () if under_load else cluster.peers:
            peer.wait_idle()

        began = time.monotonic()
        if not held:
            listener.close()
        relay.stop()
        if not held:
            listener = stack.enter_context(listening_socket(relay.address.port))
        with ActivatedRelay(listener):
            served = time.monotonic()
            outcome.gap = served - began
            for peer in cluster.peers:
                wait_welcomed(peer, 2)
            end_load(workers, loads, outcome)
            exchange(*living(cluster))
            write(living(cluster), outcome)
            exchange(*living(cluster))
            outcome.events = len(subscriber.values(SUBSCRIPTION))
            let_pass(cluster, served + watch - time.monotonic())
            count_losses(cluster, outcome)
    return outcome


def wait_welcomed(peer: Peer, times: int) -> None:
    """Wait until a relay has welcomed *peer* so often, or it has died."""
    with contextlib.suppress(PeerDied):
        peer.wait_for("the next relay's welcome", lambda: peer.welcomes >= times)


def begin_load(workers: list[Peer]) -> list[Pending]:
    """Let every worker make transactions, one after the other, until :func:`end_load`."""
    loads = [each.begin("load", path="counters/total") for each in workers]
    for each in workers:
        each.wait_values("loading", 1)
    return loads


def end_load(workers: list[Peer], loads: list[Pending], outcome: Outcome) -> None:
    """End it, and count whose last transaction does not end."""
    for worker in workers if loads else ():
        with contextlib.suppress(PeerDied):
            worker.call("stop")
    deadline = time.monotonic() + PATIENCE
    for load in loads:
        try:
            load.result(deadline - time.monotonic())
        except TimeoutError:
            outcome.hanging += 1
        except PeerError:
            outcome.failed += 1
        except PeerDied:
            pass  # it is counted among the dead


def living(cluster: Cluster) -> list[Peer]:
    """The processes that have not ended."""
    return [each for each in cluster.peers if not each.ended]


def write(peers: list[Peer], outcome: Outcome) -> None:
    """Let all workers write at the same time, and count what has been written."""
    running = [
        each.begin("set", path=f"list/{each.id}-{number}", value=number)
        for number in range(TRANSACTIONS)
        for each in peers
        if each.id != "[master]"
    ]
    deadline = time.monotonic() + PATIENCE
    for each in running:
        with contextlib.suppress(TimeoutError, PeerError, PeerDied):
            each.result(max(0.0, deadline - time.monotonic()))
            outcome.done += 1


def let_pass(cluster: Cluster, seconds: float) -> None:
    """Wait for so long, or until all processes have died."""
    with Peer.changed:
        Peer.changed.wait_for(lambda: not living(cluster), max(0.0, seconds))


def count_losses(cluster: Cluster, outcome: Outcome) -> None:
    """Count who has died, and how often somebody was refused."""
    for peer in cluster.peers:
        outcome.refused += peer.text().count("Unable to connect to remote IPC server")
        if peer.ended:
            outcome.dead += 1
            peer.killed = True  # it is counted: the cluster need not complain


def assert_nobody_lost(outcome: Outcome) -> None:
    """Nobody was refused, and nobody died."""
    if outcome.gap >= CONNECT_SECONDS:
        pytest.skip(f"this machine is too slow for published clients: {outcome}")
    assert (outcome.refused, outcome.dead) == (0, 0)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[Outcome], None]:
    """Note what a restart did, and show it where the test fails."""
    return lambda outcome: record_property("outcome", str(outcome))


def test_an_idle_cluster_notices_nothing(tmp_path: Path, tell: Callable[[Outcome], None]) -> None:
    outcome = restart_relay(tmp_path, under_load=False)

    tell(outcome)
    assert_nobody_lost(outcome)
    assert outcome.done == outcome.events == outcome.wanted


def test_a_cluster_at_work_loses_no_process(
    tmp_path: Path, tell: Callable[[Outcome], None]
) -> None:
    """What a client sends while it is disconnected is lost in the client: its write may hang."""
    outcome = restart_relay(tmp_path, under_load=True)

    tell(outcome)
    assert_nobody_lost(outcome)
    assert outcome.hanging + outcome.failed <= WORKERS
