"""Relays and Redis that are killed and suspended: what goes on, and what is refused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted
import treq

from acebase_ipc.client.errors import NotConnected
from tests.cluster.processes import RelayProcess, relay_processes
from tests.cluster.redis_server import RedisServer, redis_server
from tests.cluster.relays import Peer, cluster_config, until, within

LEASE = 1.5
"""Seconds: nothing else is done in these processes."""


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of one test."""
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def relays(own_redis: RedisServer, tmp_path: Path) -> Iterator[list[RelayProcess]]:
    """Three relays, of which only the first one runs: it is the home of what is opened first."""
    with relay_processes([cluster_config(own_redis, tmp_path, LEASE)] * 3, begun=1) as running:
        yield running


class Gang:
    """A peer at each relay, in one database whose home is the first relay."""

    def __init__(self, made: list[Peer]) -> None:
        self.peers = made
        self._sent = 0
        self.cuts: list[Peer] = []
        for each in made:
            each.client.on_disconnected(lambda *_, peer=each: self.cuts.append(peer))

    async def exchange(self, *peers: Peer) -> None:
        """Send a message between each two of *peers*, or of all; wait until all have arrived."""
        chosen = peers or tuple(self.peers)
        for sender in chosen:
            self._sent += 1
            body = f"message {self._sent}"
            await within(sender.client.send(body))
            for each in chosen:
                if each is not sender:
                    await each.receives(body)


@asynccontextmanager
async def gang(relays: list[RelayProcess]) -> AsyncIterator[Gang]:
    """Open a database at the first relay, then start the others, with a peer at each."""
    made = [Peer(relays[0].url, "shop_data")]
    try:
        await made[0].connect()
        for each in relays[1:]:
            each.begin()
        for each in relays[1:]:
            each.wait_listening()
            made.append(await Peer(each.url, "shop_data").connect())
        yield Gang(made)
    finally:
        for peer in made:
            await peer.client.stopService()


@pytest_twisted.ensureDeferred
async def test_the_databases_of_a_relay_that_was_killed_are_served_by_another_one(
    relays: list[RelayProcess],
) -> None:
    async with gang(relays) as all_peers:
        _, second, third = all_peers.peers
        await all_peers.exchange()
        killed = relays[0].kill()
        await until(lambda: {second, third} <= set(all_peers.cuts))
        await within(second.client.when_connected())
        await within(third.client.when_connected())
        await all_peers.exchange(second, third)
        took = time.monotonic() - killed
        assert took < 2 * LEASE, took
        clients = await within(treq.get(f"{relays[1].http}/shop_data/clients"))
        assert {each["id"] for each in await clients.json()} == {
            second.client.id,
            third.client.id,
        }


@pytest_twisted.ensureDeferred
async def test_a_home_that_was_suspended_accepts_nothing_when_it_goes_on(
    relays: list[RelayProcess],
) -> None:
    async with gang(relays) as all_peers:
        first, second, third = all_peers.peers
        relays[0].freeze()
        asked = first.client.ping(timeout=60.0)  # what a home answers at once
        # The connections of the others end only with the relay: other peers find the new home.
        others = [Peer(each.url, "shop_data") for each in relays[1:]]
        try:
            for each in others:
                await each.connect()
            await others[0].client.send("at the new home")
            await others[1].receives("at the new home")
            relays[0].thaw()
            with pytest.raises(NotConnected):
                await within(asked)
            for peer in (first, second, third):
                await until(lambda: peer in all_peers.cuts)  # noqa: B023
                await within(peer.client.when_connected())
            await all_peers.exchange(first, second, third, *others)
        finally:
            for each in others:
                await each.client.stopService()


@pytest_twisted.ensureDeferred
async def test_homes_go_on_while_redis_is_down_and_stop_while_it_does_not_answer(
    relays: list[RelayProcess], own_redis: RedisServer
) -> None:
    async with gang(relays) as all_peers:
        gaps: list[object] = []
        for each in all_peers.peers:
            each.client.on_gap(gaps.append)
        await all_peers.exchange()

        own_redis.kill()  # nobody can claim anything
        refused = treq.get(f"{relays[1].http}/new_data/connect?id=12345&v=1.0")
        end = time.monotonic() + 1.2 * LEASE
        while time.monotonic() < end:
            await all_peers.exchange()
        response = await within(refused)
        assert response.code == 503
        assert "store does not answer" in await response.text()
        own_redis.start()
        new = Peer(relays[1].url, "new_data")
        await new.connect()
        await new.client.stopService()
        await all_peers.exchange()
        assert all_peers.cuts == []

        own_redis.freeze()  # others may reach it
        await until(lambda: len(set(all_peers.cuts)) == 3)
        own_redis.thaw()
        for each in all_peers.peers:
            await within(each.client.when_connected())
        await all_peers.exchange()
        assert gaps == [], "the sessions go on: nobody else was the home meanwhile"
