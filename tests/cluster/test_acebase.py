"""Processes of the npm package acebase, spread over three relays, while their database moves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.acebase.accounts import settle
from tests.acebase.cluster import UNLUCKY_PORT, Cluster, Peer, PeerDied, Relay, exchange
from tests.cluster.redis_server import RedisServer
from tests.cluster.relays import write_secret

WORKERS = 2
MOVES = 2
PROGRESS = 2
"""Transactions of each worker between two moves."""

PATIENCE = 20.0
"""Seconds after which a worker hangs that has not written again."""

PATH = "counters/total"

ADMIN = re.compile(r"the admin endpoint is (http://[0-9.:]+)")


class Member:
    """A relay of the cluster."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        relay.wait_for("the admin endpoint", lambda: ADMIN.search(relay.text()) is not None)
        found = ADMIN.search(relay.text())
        assert found is not None
        self._api = f"{found[1]}/api/v1"

    def drain(self, draining: bool) -> None:
        """Let it move its databases to others, or accept some again."""
        request = Request(
            f"{self._api}/drain",
            json.dumps({"drain": draining}).encode(),
            {"X-AceBase-IPC": "1", "Content-Type": "application/json"},
        )
        urlopen(request, timeout=60).close()

    def is_home(self) -> bool:
        """Whether it serves a database."""
        with urlopen(f"{self._api}/cluster", timeout=60) as answer:
            return bool(json.load(answer)["cluster"]["homes"])


@pytest.fixture
def members(redis: RedisServer, tmp_path: Path) -> Iterator[list[Member]]:
    """Three relays, each in a process of its own."""
    secret = write_secret(tmp_path)
    with ExitStack() as stack:
        made = []
        options = (
            *("--cluster", redis.url, "--cluster-address", "127.0.0.1:0"),
            *("--cluster-secret-file", secret, "--admin", "tcp:0:interface=127.0.0.1"),
        )
        for _ in range(3):
            relay = Relay(*options)
            while UNLUCKY_PORT.search(str(relay.address.port)):
                relay.kill()
                relay = Relay(*options)
            stack.callback(relay.kill)
            made.append(Member(relay))
        yield made


def go_on(workers: list[Peer], times: int) -> None:
    """Wait until each worker has completed so many further transactions."""
    goals = [len(each.acknowledged) + times for each in workers]
    for worker, goal in zip(workers, goals, strict=True):
        worker.wait_acknowledged(goal, PATIENCE)


def test_a_cluster_at_work_over_three_relays_only_pauses_when_its_database_moves(
    members: list[Member], tmp_path: Path
) -> None:
    addresses = [each.relay.address for each in members]
    with Cluster(addresses, tmp_path, "spread") as cluster:
        master, workers = cluster.open("counters", workers=WORKERS)
        exchange(master, *workers)
        loads = [each.begin("load", path=PATH) for each in workers]
        homes = []
        for _ in range(MOVES):
            go_on(workers, PROGRESS)
            for each in cluster.peers:
                each.call("stopClock")
            (home,) = [each for each in members if each.is_home()]
            homes.append(home)
            home.drain(True)
            while home.is_home():
                go_on(workers, 1)
            home.drain(False)
            go_on(workers, PROGRESS)
        for each in workers:
            each.call("stop")
        for load in loads:
            load.result(PATIENCE)
        account = settle(master.get(PATH), workers)
    assert account.wrong == [], account
    assert account.acknowledged >= WORKERS * MOVES * PROGRESS
    assert all(now is not before for before, now in pairwise(homes))


def test_workers_of_a_home_that_was_killed_have_to_start_afresh_and_lock_nothing(
    members: list[Member], tmp_path: Path
) -> None:
    home, *others = members
    others_addresses = [each.relay.address for each in others]
    # The first peer to come makes its relay the home: let that be the one that is killed.
    for each in others:
        each.drain(True)
    with Cluster(others_addresses, tmp_path, "killed") as cluster:
        master, workers = cluster.open("counters", workers=WORKERS)
        assert home.is_home()
        loads = [each.begin("load", path=PATH) for each in workers]
        go_on(workers, PROGRESS)
        for each in others:
            each.drain(False)
        for peer in cluster.peers:
            peer.call("stopClock")
        home.relay.kill()
        for worker, load in zip(workers, loads, strict=True):
            with pytest.raises(PeerDied):
                load.result(PATIENCE)
            worker.killed = True
        (fresh,) = cluster.join("worker")
        fresh.set("counters/after", 1, PATIENCE)
        assert master.get("counters/after") == 1
