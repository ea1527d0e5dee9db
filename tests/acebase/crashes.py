"""The relay is killed under a cluster at work, and everything that ends is started again."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from tests.acebase.cluster import Cluster, Peer, Pending, Role
from tests.activation import ActivatedRelay, listening_socket

WORKERS = 4
WARM_UP = 20
"""Transactions of each worker before the crash."""

PATH = "counters/total"


@dataclass(slots=True)
class Outcome:
    """The effects of a crash on a cluster.

    :ivar seconds: from the moment in which the next relay served until all workers had written
        again, or until that was given up.
    :ivar hanging: workers that had not written again by then.
    :ivar restarted: workers that have ended and were started again.
    :ivar masters: the same of the master.
    :ivar acknowledged: transactions of which a worker knew that they had ended.
    :ivar value: the counter that each of them has incremented; ``None`` if it cannot be read.
    :ivar said: what the second relay has logged.
    """

    seconds: float = 0
    hanging: int = 0
    restarted: int = 0
    masters: int = 0
    acknowledged: int = 0
    value: int | None = None
    said: str = ""

    def __str__(self) -> str:
        return (
            f"{WORKERS - self.hanging} of {WORKERS} workers wrote again after {self.seconds:.1f} s;"
            f" started again: {self.restarted} workers, {self.masters} masters;"
            f" counter {self.value}, acknowledged {self.acknowledged}"
        )


class _Member:
    """A place in the cluster, which a supervisor fills again when its process ends."""

    def __init__(self, cluster: Cluster, peer: Peer, role: Role) -> None:
        self.peer = peer
        self.starts = 0
        self.written = 0
        """Transactions that its former processes have completed."""
        self._cluster = cluster
        self._role: Role = role
        self._load: Pending | None = None

    @property
    def completed(self) -> int:
        return self.written + len(self.peer.values("loading"))

    @property
    def needs_attention(self) -> bool:
        """Whether its process has ended, or can be told to work."""
        return self.peer.ended or (self._load is None and self._is_ready)

    @property
    def _is_ready(self) -> bool:
        return self._role == "worker" and self.peer.opened and self.peer.welcomes > 0

    def attend(self) -> None:
        """Start its process again if that has ended, and let it work."""
        if self.peer.ended:
            self.peer.killed = True  # so that the end of the cluster accepts it
            self.written = self.completed
            self.starts += 1
            self._load = None
            self.peer = self._cluster.start(self._role)
        elif self._load is None and self._is_ready:
            self._load = self.peer.begin("load", path=PATH)


def crash_relay(directory: Path, *options: str, patience: float) -> Outcome:
    """Kill the relay of a cluster at work once, and start it again with the same *options*.

    :param patience: seconds in which all workers have to write again.
    """
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening_socket())
        relay = stack.enter_context(ActivatedRelay(listener, *options))
        cluster = stack.enter_context(Cluster([relay.address], directory, "crash"))
        master, workers = cluster.open("counters", workers=WORKERS)
        members = [_Member(cluster, each, "worker") for each in workers]
        supervised = [_Member(cluster, master, "master"), *members]
        _supervise(supervised, members, [WARM_UP] * WORKERS, patience)

        relay.kill()
        successor = stack.enter_context(ActivatedRelay(listener, *options))
        served = time.monotonic()
        goals = [each.completed + 1 for each in members]
        outcome.hanging = _supervise(supervised, members, goals, patience)
        outcome.seconds = time.monotonic() - served

        outcome.restarted = sum(each.starts for each in members)
        outcome.masters = supervised[0].starts
        outcome.acknowledged = sum(each.completed for each in members)
        if not outcome.hanging:
            for each in members:
                each.peer.call("stop")
            for each in members:
                each.peer.wait_idle()
            outcome.acknowledged = sum(each.completed for each in members)
            outcome.value = members[0].peer.get(PATH)
        outcome.said = successor.text()
    return outcome


def _supervise(
    supervised: list[_Member], members: list[_Member], goals: list[int], patience: float
) -> int:
    """Start again what ends, until each of *members* has completed so many transactions.

    Returns how many of them have not within *patience* seconds.
    """
    deadline = time.monotonic() + patience

    def missing() -> int:
        return sum(each.completed < goal for each, goal in zip(members, goals, strict=True))

    while missing() and time.monotonic() < deadline:
        for each in supervised:
            each.attend()
        with Peer.changed:
            Peer.changed.wait_for(
                lambda: not missing() or any(each.needs_attention for each in supervised),
                max(0.0, deadline - time.monotonic()),
            )
    return missing()
