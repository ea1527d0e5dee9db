"""The relay is restarted under a running cluster, on a socket that another process keeps open.

``restart_figures.py`` repeats it and prints the outcome of each restart.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.acebase.cluster import Cluster, Peer, PeerDied, PeerError, Pending, exchange
from tests.activation import ActivatedRelay, listening_socket

WORKERS = 3
TRANSACTIONS = 5  # of each worker, after the restart
SUBSCRIPTION = "child_added list"

PATIENCE = 5.0
"""Seconds after which a write counts as hanging."""

FATAL_TIMER = 10.0
"""Seconds after which a client ends that was refused once (client bug 3)."""

CONNECT_SECONDS = 5.0
"""Seconds that a client may wait to be accepted. After them it sends a ping on the socket,
which is not open yet, and that ends the process. The tests stop the clients' clocks meanwhile, and
compare this with the CPU time that the next relay needs, however slow the machine is."""


@dataclass(slots=True)
class Outcome:
    """The effects of a restart on a cluster.

    :ivar gap: seconds from SIGTERM until the next relay accepted connections.
    :ivar cpu: seconds of CPU time that this one had used by then.
    :ivar refused: failed attempts to connect, of all processes.
    :ivar dead: processes that have ended.
    :ivar hanging: workers whose write under way neither completed nor failed.
    :ivar failed: workers whose write under way failed.
    :ivar done: writes of the workers after the restart, of *wanted*.
    :ivar events: how many of these reached a subscriber.
    """

    wanted: int
    workers: int = WORKERS
    processes: int = WORKERS + 1
    gap: float = 0
    cpu: float = 0
    refused: int = 0
    dead: int = 0
    hanging: int = 0
    failed: int = 0
    done: int = 0
    events: int = 0

    def __str__(self) -> str:
        return (
            f"restarted in {self.gap:.2f} s, {self.cpu:.2f} s of CPU: {self.refused} refused,"
            f" {self.dead} dead, {self.hanging} hanging, {self.failed} failed; afterwards"
            f" {self.done} of {self.wanted} writes, {self.events} events"
        )


def restart_relay(
    directory: Path,
    *,
    under_load: bool,
    kept: bool = True,
    watch: float = 0,
    stops_clocks: bool = False,
) -> Outcome:
    """Restart the relay of a cluster once.

    :param under_load: whether each worker has a transaction under way.
    :param kept: whether the socket stays open during the restart.
    :param watch: least number of seconds from the restart to the count of ended processes.
    :param stops_clocks: whether the clients do not notice how long the restart takes.
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
        for peer in cluster.peers if stops_clocks else ():
            peer.call("stopClock")

        began = time.monotonic()
        if not kept:
            listener.close()
        relay.stop()
        if not kept:
            listener = stack.enter_context(listening_socket(relay.address.port))
        with ActivatedRelay(listener) as following:
            served = time.monotonic()
            outcome.gap = served - began
            used = psutil.Process(following.pid).cpu_times()
            outcome.cpu = used.user + used.system
            for peer in cluster.peers:
                wait_welcomed(peer, 2)
            end_load(workers, loads, outcome)
            exchange(*living(cluster))
            write(living(cluster), outcome)
            exchange(*living(cluster))
            outcome.events = len(subscriber.values(SUBSCRIPTION))
            wait_for_ends(cluster, served + watch - time.monotonic())
            count_losses(cluster, outcome)
    return outcome


def wait_welcomed(peer: Peer, times: int) -> None:
    """Wait until *peer* was welcomed that many times, or has ended."""
    with contextlib.suppress(PeerDied):
        peer.wait_for("the next relay's welcome", lambda: peer.welcomes >= times)


def begin_load(workers: list[Peer]) -> list[Pending]:
    """Make transactions in every worker, one after the other, until :func:`end_load`."""
    loads = [each.begin("load", path="counters/total") for each in workers]
    for each in workers:
        each.wait_acknowledged(1)
    return loads


def end_load(workers: list[Peer], loads: list[Pending], outcome: Outcome) -> None:
    """End the load, and count the workers whose last transaction does not end."""
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
            pass  # counted by count_losses


def living(cluster: Cluster) -> list[Peer]:
    """The processes that have not ended."""
    return [each for each in cluster.peers if not each.ended]


def write(peers: list[Peer], outcome: Outcome) -> None:
    """Write with all workers at the same time, and count the completed writes."""
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


def wait_for_ends(cluster: Cluster, seconds: float) -> None:
    """Wait that many seconds, or until all processes have ended."""
    with Peer.changed:
        Peer.changed.wait_for(lambda: not living(cluster), max(0.0, seconds))


def count_losses(cluster: Cluster, outcome: Outcome) -> None:
    """Count the processes that have ended, and refused attempts to connect."""
    for peer in cluster.peers:
        outcome.refused += peer.text().count("Unable to connect to remote IPC server")
        if peer.ended:
            outcome.dead += 1
            peer.killed = True  # so that the end of the cluster accepts it


def assert_no_losses(outcome: Outcome) -> None:
    """No process was refused, none has ended, and none would have on a machine that is not busy."""
    assert (outcome.refused, outcome.dead) == (0, 0)
    assert 0 < outcome.cpu < CONNECT_SECONDS


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Callable[[Outcome], None]:
    """Record the outcome of a restart, for the report."""
    return lambda outcome: record_property("outcome", str(outcome))


def test_an_idle_cluster_is_not_affected(tmp_path: Path, record: Callable[[Outcome], None]) -> None:
    outcome = restart_relay(tmp_path, under_load=False, stops_clocks=True)

    record(outcome)
    assert_no_losses(outcome)
    assert outcome.done == outcome.events == outcome.wanted


def test_a_cluster_at_work_loses_no_process(
    tmp_path: Path, record: Callable[[Outcome], None]
) -> None:
    """A client loses messages that it sends while disconnected, so its write may hang."""
    outcome = restart_relay(tmp_path, under_load=True, stops_clocks=True)

    record(outcome)
    assert_no_losses(outcome)
    assert outcome.hanging + outcome.failed <= WORKERS
