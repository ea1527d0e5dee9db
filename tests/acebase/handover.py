"""Hands the relay of a cluster at work over to its successor, again and again.

::

    python -m tests.acebase.handover --times 20 --workers 4 [--tls]

prints what became of the cluster: hanging and ended workers, the counter that all of them have
counted up, and the events of their writes.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.acebase.cluster import Cluster, Peer, PeerDied, PeerError, Relay, exchange
from tests.certificates import make_certificate

WRITES = 3
"""Writes of each worker after the last hand-over."""

PATIENCE = 10.0
"""Seconds after which a write counts as hanging."""

TAKEN_OVER = re.compile(r"the process (\d+) has taken over")


class UpgradedRelay(Relay):
    """A relay and its successors, which write to the same output.

    :ivar present: the id of the present process.
    """

    present: int
    hand_overs = 0

    def hand_over(self) -> None:
        """Let a new process take over, and wait until it serves."""
        self.present = getattr(self, "present", self.pid)
        self.hand_overs += 1
        os.kill(self.present, signal.SIGUSR2)
        self.wait_for("a hand-over", lambda: self._count("has taken over") == self.hand_overs)
        self.present = int(TAKEN_OVER.findall(self.text())[-1])
        self.wait_for("readiness", lambda: self._count("#info] ready") > self.hand_overs)

    def _count(self, words: str) -> int:
        return self.text().count(words)

    def pauses(self) -> list[int]:
        """The milliseconds that each hand-over has taken."""
        return [int(each) for each in re.findall(r"taken over, in (\d+) ms", self.text())]

    def signal(self, number: signal.Signals) -> None:
        os.kill(getattr(self, "present", self.pid), number)

    def kill(self) -> None:
        """SIGKILL the present process, too."""
        with suppress(psutil.NoSuchProcess):
            psutil.Process(getattr(self, "present", self.pid)).kill()
        super().kill()


@dataclass(slots=True)
class Outcome:
    """What became of a cluster.

    :ivar hanging: workers whose write neither completed nor failed.
    :ivar failed: workers whose write failed.
    :ivar dead: processes that have ended.
    :ivar acknowledged: transactions that were completed.
    :ivar counter: the value that they have counted up.
    :ivar events: events that arrived, of *wanted*.
    :ivar reconnected: connections beyond the first one of each process.
    :ivar pauses: the milliseconds of each hand-over.
    """

    hanging: int = 0
    failed: int = 0
    dead: int = 0
    acknowledged: int = 0
    counter: int = 0
    wanted: int = 0
    events: int = 0
    reconnected: int = 0
    pauses: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.pauses)} hand-overs (p50 {median(self.pauses):.0f}, max"
            f" {max(self.pauses)} ms): {self.hanging} hanging, {self.failed} failed,"
            f" {self.dead} dead, {self.reconnected} reconnected; counter {self.counter} of"
            f" {self.acknowledged}, {self.events} of {self.wanted} events"
        )


def hand_over_cluster(directory: Path, times: int, workers: int, tls: bool = False) -> Outcome:
    """Hand over the relay of a cluster that many times, while all workers count."""
    outcome = Outcome()
    certificate = make_certificate(directory) if tls else None
    endpoint = (
        f"ssl:0:interface=127.0.0.1:privateKey={certificate.pem}"
        if certificate
        else "tcp:0:interface=127.0.0.1"
    )
    root = certificate.root if certificate else None
    relay = UpgradedRelay(endpoints=(endpoint,), certificate=root)
    try:
        relay.wait_for("readiness", lambda: "#info] ready" in relay.text())
        with Cluster([relay.address], directory, "handover") as cluster:
            master, peers = cluster.open("list", "counters", workers=workers)
            subscriber = peers[0]
            subscriber.subscribe("list", "child_added", [master, *peers[1:]])
            exchange(*cluster.peers)
            loads = [each.begin("load", path="counters/total") for each in peers]
            for _ in range(times):
                for each in peers:
                    each.wait_acknowledged(len(each.acknowledged) + 1)
                relay.hand_over()
            for each in peers:
                each.call("stop")
            for load in loads:
                _settle(load, outcome)
            exchange(*cluster.peers)
            _write(peers, outcome)
            exchange(*cluster.peers)
            outcome.acknowledged = sum(len(each.acknowledged) for each in peers)
            outcome.counter = master.get("counters/total")
            outcome.events = len(subscriber.values("child_added list"))
            outcome.dead = sum(each.ended for each in cluster.peers)
            outcome.reconnected = sum(each.welcomes - 1 for each in cluster.peers)
            outcome.pauses = relay.pauses()
        relay.signal(signal.SIGTERM)
        relay.wait_for("its end", lambda: relay.ended)
        assert "Traceback" not in relay.text(), relay.text()
    finally:
        relay.kill()
    return outcome


def _settle(pending: Any, outcome: Outcome) -> None:
    try:
        pending.result(PATIENCE)
    except TimeoutError:
        outcome.hanging += 1
    except PeerError:
        outcome.failed += 1
    except PeerDied:
        pass  # counted by its end


def _write(peers: list[Peer], outcome: Outcome) -> None:
    writes = [
        each.begin("set", path=f"list/{each.id}-{number}", value=number)
        for number in range(WRITES)
        for each in peers
    ]
    outcome.wanted = len(writes)
    for each in writes:
        _settle(each, outcome)


def main() -> None:
    """Print the outcome."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome = hand_over_cluster(Path(directory), options.times, options.workers, options.tls)
        sys.stdout.write(f"{outcome}\n")


if __name__ == "__main__":
    main()
