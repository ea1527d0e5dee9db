"""The relay is restarted under clusters at work: no worker hangs, and no transaction is lost.

``quiet_restart_figures.py`` repeats it, and prints how long the clusters have paused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acebase.cluster import Cluster, Peer, PeerError
from tests.acebase.quiet_restarts import (
    PATIENCE,
    Outcome,
    activated,
    alone,
    forwarded,
    restart_under_load,
)
from tests.certificates import Certificate

TIMES = 3

Record = Callable[[Outcome], None]


@pytest.fixture
def state(tmp_path: Path) -> tuple[str, str]:
    return "--state-dir", str(tmp_path / "state")


@pytest.fixture
def check(record_property: Callable[[str, object], None]) -> Callable[[Outcome, int], None]:
    """Record the outcome for the report, and see that nobody has suffered."""

    def check(outcome: Outcome, times: int) -> None:
        record_property("outcome", str(outcome))
        assert (outcome.hanging, outcome.failed, outcome.dead) == (0, 0, 0), outcome
        assert outcome.restarts == times
        assert outcome.account is not None
        assert outcome.account.wrong == [], outcome
        assert outcome.account.counted == outcome.account.uncounted == 0, outcome

    return check


Check = Callable[[Outcome, int], None]


def test_a_cluster_at_work_only_pauses(
    tmp_path: Path, state: tuple[str, str], check: Check
) -> None:
    with activated(*state) as place:
        check(restart_under_load(place, tmp_path, TIMES, stops_clocks=True), TIMES)


def test_a_cluster_behind_a_proxy_and_tls_only_pauses(
    tmp_path: Path, state: tuple[str, str], certificate: Certificate, check: Check
) -> None:
    with forwarded(certificate, *state) as place:
        check(restart_under_load(place, tmp_path, TIMES, stops_clocks=True), TIMES)


def test_clients_that_were_refused_resume_their_sessions(
    tmp_path: Path, state: tuple[str, str], check: Check
) -> None:
    """Ten seconds later a client is broken by its own timer, but that is not the relay's."""
    with alone(*state) as place:
        check(restart_under_load(place, tmp_path, 1, True, stops_clocks=True), 1)


def test_subscribers_receive_the_events_of_all_writes(
    tmp_path: Path, state: tuple[str, str]
) -> None:
    with activated(*state) as place, Cluster([place.address], tmp_path, "events") as cluster:
        master, workers = cluster.open("list", workers=2)
        writer, subscriber = workers
        subscriber.subscribe("list", "child_added", [master, writer])
        writes = [[f"list/n{number}", number] for number in range(100)]
        written = writer.begin("write", items=writes)
        subscriber.wait_values("child_added list", 10)
        for each in cluster.peers:
            each.call("stopClock")
        place.stop()
        place.start()
        assert written.result(PATIENCE) == len(writes)
        values = subscriber.wait_values("child_added list", len(writes))
    assert values == list(range(len(writes)))


def test_without_a_state_directory_writes_fail_and_do_not_hang(tmp_path: Path) -> None:
    with activated() as place, Cluster([place.address], tmp_path, "failing") as cluster:
        _, workers = cluster.open("list", "counters", workers=2)
        loads = [each.begin("load", path="counters/total") for each in workers]
        for each in workers:
            each.wait_acknowledged(3)
        for each in cluster.peers:
            each.call("stopClock")
        place.stop()
        place.start()
        for load in loads:
            with pytest.raises(PeerError, match="The relay has stopped"):
                load.result(PATIENCE)
        for each in workers:
            _wait_welcomed_again(each)
            each.set(f"list/{each.id}", 1)


def _wait_welcomed_again(peer: Peer) -> None:
    peer.wait_for("the next relay's welcome", lambda: peer.welcomes >= 2)
