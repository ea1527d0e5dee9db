"""The relay of a cluster at work is stopped with SIGTERM and started again, several times."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from tests.acebase.accounts import Account, settle
from tests.acebase.cluster import UNLUCKY_PORT, Address, Cluster, Peer, PeerDied, PeerError, Relay
from tests.acebase.link import Link
from tests.activation import ActivatedRelay, listening_socket
from tests.certificates import Certificate
from tests.ports import free_port

WORKERS = 4
PROGRESS = 3
"""Transactions of each worker between two restarts."""

PATIENCE = 20.0
"""Seconds after which a worker hangs that has not written again."""

STOP_SECONDS = 12.0
"""Seconds in which a relay has to end: it waits 5 s for a quiet moment at most."""

PATH = "counters/total"


class Place(Protocol):
    """Where relays serve, one after the other, at an address that stays the same."""

    @property
    def address(self) -> Address:
        """The address that clients connect to."""

    def start(self) -> None:
        """Start a relay, and wait until it serves."""

    def stop(self) -> None:
        """Stop it with SIGTERM, and wait until it has ended."""

    def said(self) -> str:
        """What the last relay has logged."""


class Activated:
    """A port that another process holds, as with systemd's socket activation."""

    def __init__(self, listener: socket.socket, options: Sequence[str]) -> None:
        self._listener = listener
        self._options = options
        self.start()

    @property
    def address(self) -> Address:
        return self._relay.address

    def start(self) -> None:
        self._relay = ActivatedRelay(self._listener, *self._options)

    def stop(self) -> None:
        self._relay.stop(STOP_SECONDS)

    def said(self) -> str:
        return self._relay.text()


class Alone:
    """A port that is closed while no relay runs, so that connections are refused.

    :param certificate: serve TLS with it.
    """

    def __init__(self, options: Sequence[str], certificate: Certificate | None = None) -> None:
        self._port = _free_port()
        self._options = options
        self._certificate = certificate
        self.start()

    @property
    def address(self) -> Address:
        return self._relay.address

    def start(self) -> None:
        endpoint, root = f"tcp:{self._port}:interface=127.0.0.1", None
        if self._certificate is not None:
            root = self._certificate.root
            key = str(self._certificate.pem).replace(":", r"\:")
            endpoint = f"ssl:{self._port}:privateKey={key}:interface=127.0.0.1"
        self._relay = Relay(*self._options, endpoints=[endpoint], certificate=root)

    def stop(self) -> None:
        self._relay.stop(STOP_SECONDS)

    def said(self) -> str:
        return self._relay.text()


class Forwarded(Alone):
    """TLS behind a proxy that forwards TCP, and lets new connections wait for the next relay."""

    def __init__(self, options: Sequence[str], certificate: Certificate) -> None:
        super().__init__(options, certificate)
        self._link = Link(self._port, patience=PATIENCE)

    @property
    def address(self) -> Address:
        address = self._relay.address
        return Address(self._link.port, address.tls, address.token, address.certificate)

    def __enter__(self) -> Self:
        self._link.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._link.__exit__(*error)


def _free_port() -> int:
    while True:
        port = free_port()
        if not UNLUCKY_PORT.search(str(port)):
            return port


@dataclass(slots=True)
class Outcome:
    """The effects of several restarts on a cluster.

    :ivar restarts: how many there were.
    :ivar pauses: of each restart and worker, the seconds between its last transaction before the
        next relay served and the first one after that.
    :ivar gaps: of each restart, the seconds from SIGTERM until the next relay served.
    :ivar hanging: workers that did not write again.
    :ivar failed: workers of which a write failed.
    :ivar dead: processes that have ended.
    :ivar account: whether the counter is what the workers have counted.
    """

    restarts: int = 0
    pauses: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    hanging: int = 0
    failed: int = 0
    dead: int = 0
    account: Account | None = None

    def __str__(self) -> str:
        pauses = sorted(self.pauses)
        told = "none went on"
        if pauses:
            told = f"pause p50 {pauses[len(pauses) // 2]:.2f} s, max {pauses[-1]:.2f} s"
        gaps = sorted(self.gaps)
        return (
            f"{self.restarts} restarts: {self.hanging} hanging, {self.failed} failed,"
            f" {self.dead} dead; {told}; from SIGTERM to the next relay"
            f" p50 {gaps[len(gaps) // 2]:.2f} s, max {gaps[-1]:.2f} s; {self.account}"
        )


def restart_under_load(
    place: Place,
    directory: Path,
    times: int,
    survives: bool = False,
    stops_clocks: bool = False,
) -> Outcome:
    """Restart the relay of a cluster that many times; ends early if a worker hangs or fails.

    :param survives: whether the processes catch exceptions that nothing else catches.
    :param stops_clocks: whether the processes do not notice how long a restart takes: one that
        waits for its connection for 5 s ends.
    """
    outcome = Outcome()
    with Cluster([place.address], directory, "restart", survives) as cluster:
        master, workers = cluster.open("counters", workers=WORKERS)
        loads = [each.begin("load", path=PATH) for each in workers]
        for _ in range(times):
            if not _go_on(workers, PROGRESS):
                break
            for each in cluster.peers if stops_clocks else ():
                each.call("stopClock")
            began = time.monotonic()
            place.stop()
            place.start()
            served = time.monotonic()
            outcome.restarts += 1
            outcome.gaps.append(served - began)
            if not _go_on(workers, 1):
                break
            outcome.pauses += [_pause(each, served) for each in workers]
        for each in workers:
            with contextlib.suppress(PeerDied):
                each.call("stop")
        deadline = time.monotonic() + PATIENCE
        for load in loads:
            try:
                load.result(max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                outcome.hanging += 1
            except PeerError:
                outcome.failed += 1
            except PeerDied:
                pass
        outcome.dead = sum(each.ended for each in cluster.peers)
        for each in cluster.peers:
            each.killed = each.killed or each.ended
        with contextlib.suppress(PeerDied, PeerError, TimeoutError):
            outcome.account = settle(master.get(PATH), workers)
    return outcome


def _go_on(workers: list[Peer], times: int) -> bool:
    """Wait until each worker has completed so many further transactions; returns whether it has."""
    goals = [len(each.acknowledged) + times for each in workers]

    def all_have() -> bool:
        done = zip(workers, goals, strict=True)
        return all(len(each.acknowledged) >= goal for each, goal in done)

    def is_over() -> bool:
        return all_have() or any(each.ended for each in workers)

    with Peer.changed:
        Peer.changed.wait_for(is_over, PATIENCE)
    return all_have()


def _pause(worker: Peer, served: float) -> float:
    """The seconds between a worker's last transaction before *served* and its first one after."""
    before = [each for each in worker.acknowledged_at if each < served]
    after = [each for each in worker.acknowledged_at if each >= served]
    return after[0] - before[-1]


@contextlib.contextmanager
def activated(*options: str) -> Iterator[Place]:
    """A port that stays open while relays are restarted."""
    with listening_socket() as listener:
        place = Activated(listener, options)
        yield place
        place.stop()


@contextlib.contextmanager
def forwarded(certificate: Certificate, *options: str) -> Iterator[Place]:
    """A port with TLS behind a proxy that stays while relays are restarted."""
    with Forwarded(options, certificate) as place:
        yield place
        place.stop()


@contextlib.contextmanager
def alone(*options: str) -> Iterator[Place]:
    """A port that is closed while relays are restarted."""
    place = Alone(options)
    yield place
    place.stop()
