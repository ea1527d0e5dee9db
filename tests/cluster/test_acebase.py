"""Processes of the npm package acebase, spread over three relays, while their database moves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

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


class Member:
    """A relay of the cluster."""

    def __init__(self, relay: Relay, admin: str) -> None:
        self.relay = relay
        self._admin = admin

    def ask(self, *command: str) -> Any:
        """Run a command of ``acebase-ipc``; returns its answer."""
        done = subprocess.run(
            [sys.executable, "-m", "acebase_ipc", "--admin", self._admin, *command, "--json"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    def is_home(self) -> bool:
        """Whether it serves a database."""
        return bool(self.ask("cluster")["cluster"]["homes"])


@pytest.fixture
def members(redis: RedisServer, tmp_path: Path) -> Iterator[list[Member]]:
    """Three relays, each in a process of its own."""
    secret = write_secret(tmp_path)
    with ExitStack() as stack:
        made = []
        for number in range(3):
            admin = f"unix:{tmp_path}/admin{number}.sock"
            options = (
                *("--cluster", redis.url, "--cluster-address", "127.0.0.1:0"),
                *("--cluster-secret-file", secret, "--admin", admin),
            )
            relay = Relay(*options)
            while UNLUCKY_PORT.search(str(relay.address.port)):
                relay.kill()
                relay = Relay(*options)
            stack.callback(relay.kill)
            made.append(Member(relay, admin))
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
            home.ask("drain")
            while home.is_home():
                go_on(workers, 1)
            home.ask("drain", "--off")
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
        each.ask("drain")
    with Cluster(others_addresses, tmp_path, "killed") as cluster:
        master, workers = cluster.open("counters", workers=WORKERS)
        assert home.is_home()
        loads = [each.begin("load", path=PATH) for each in workers]
        go_on(workers, PROGRESS)
        for each in others:
            each.ask("drain", "--off")
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
