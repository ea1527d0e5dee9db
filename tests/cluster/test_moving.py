"""Databases move to another relay at a quiet moment: nothing is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from acebase_ipc import AceBaseIPCServer
from acebase_ipc.relay.limits import Limits
from tests.cluster.redis_server import RedisServer
from tests.cluster.relays import Peer, cluster_of, peers, reactor, relays, until, within


@pytest_twisted.async_yield_fixture
async def servers(redis: RedisServer, tmp_path: Path) -> AsyncIterator[list[AceBaseIPCServer]]:
    """Three relays."""
    async with relays(redis, tmp_path) as running:
        yield running


def home_of(database: str, servers: list[AceBaseIPCServer]) -> AceBaseIPCServer | None:
    """The relay that serves a database."""
    found = [each for each in servers if cluster_of(each).node.may_serve(database)]
    assert len(found) <= 1
    return found[0] if found else None


async def exchange_while_it_moves(servers: list[AceBaseIPCServer], is_stopped: bool) -> None:
    made = [Peer(each.url, "shop_data") for each in servers]
    async with peers(*made):
        home = home_of("shop_data", servers)
        assert home is not None
        if is_stopped:  # its port is closed: its client has another address
            made = [each for each, server in zip(made, servers, strict=True) if server is not home]
        sender, receiver = made[:2]
        gaps: list[object] = []
        for each in (sender, receiver):
            each.client.on_gap(gaps.append)
        sent = 0

        async def send(count: int) -> None:
            nonlocal sent
            for _ in range(count):
                sent += 1
                await within(sender.client.send(f"message {sent}"))

        await send(50)
        stopping = None
        if is_stopped:
            stopping = home.stop()
        else:
            cluster_of(home).drain(True)
        while home_of("shop_data", servers) in (home, None):
            await send(1)
            await deferLater(reactor, 0.002)
        await send(50)
        await receiver.receives(f"message {sent}")
        assert gaps == []
        assert receiver.bodies == [f"message {number}" for number in range(1, sent + 1)]
        if stopping is not None:
            await within(stopping)


@pytest_twisted.ensureDeferred
async def test_a_relay_that_drains_gives_its_databases_to_others(
    servers: list[AceBaseIPCServer],
) -> None:
    await exchange_while_it_moves(servers, is_stopped=False)


@pytest_twisted.ensureDeferred
async def test_a_relay_that_stops_gives_its_databases_to_others(
    servers: list[AceBaseIPCServer],
) -> None:
    await exchange_while_it_moves(servers, is_stopped=True)


@pytest_twisted.ensureDeferred
async def test_the_last_relay_has_nobody_to_give_to(redis: RedisServer, tmp_path: Path) -> None:
    async with relays(redis, tmp_path, 1) as (only,):
        peer = Peer(only.url, "shop_data")
        async with peers(peer):
            await cluster_of(only).move_away()
            assert home_of("shop_data", [only]) is only
            await within(peer.client.ping())


@pytest_twisted.ensureDeferred
async def test_a_relay_leaves_when_nothing_is_left_that_it_accepts(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with relays(redis, tmp_path, 1) as (only,):
        peer = Peer(only.url, "shop_data")
        async with peers(peer):
            relay, left = only._parts.relay, list[int]()
            leave = cluster_of(only).leave

            def note_peers() -> Deferred[object]:
                left.append(len(list(relay.registry.peers())))
                return leave()

            monkeypatch.setattr(cluster_of(only), "leave", note_peers)
            await within(only.stop())
            assert left == [0]


@pytest_twisted.ensureDeferred
async def test_a_relay_stays_the_home_of_a_database_that_refuses_a_worker(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with relays(redis, tmp_path, 1) as (only,):
        peer = Peer(only.url, "shop_data")
        async with peers(peer):
            sessions, registry = only._parts.relay.sessions, only._parts.relay.registry
            kicked = registry.find("shop_data", peer.client.id)
            assert kicked is not None
            sessions.kick(kicked, reactor.seconds(), end_process=True)
        await until(lambda: "shop_data" not in registry.databases)
        for _ in range(3):
            cluster_of(only).tick()
        assert home_of("shop_data", [only]) is only


@pytest_twisted.ensureDeferred
async def test_a_reader_of_changes_gives_its_database_a_home_and_follows_it(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with relays(redis, tmp_path, limits=Limits(history_messages=100)) as servers:
        url = servers[0].url.replace("ws", "http", 1) + "/read_data/changes?path=orders"
        response = await within(treq.get(url, unbuffered=True))
        assert response.code == 200
        ended = treq.content(response)
        home = home_of("read_data", servers)
        assert home is not None
        for _ in range(3):
            cluster_of(home).tick()
        assert home_of("read_data", servers) is home, "it is used, although it has no peer"
        cluster_of(home).drain(True)
        await within(ended)
        assert home_of("read_data", servers) is not home
