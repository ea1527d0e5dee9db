"""Relays of one cluster, on loopback: what reaches another relay than the home is passed on."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from acebase_ipc import AceBaseIPCServer
from acebase_ipc.client.errors import TokenRejected
from acebase_ipc.cluster.handshake import Ticket
from acebase_ipc.cluster.links import LinkFailed, Links, Tls
from acebase_ipc.errors import ConfigError
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.limits import Limits
from acebase_ipc.server.handover.server import ReplaceableServer
from acebase_ipc.server.handover.wire import HandOverError
from acebase_ipc.testing.certificate import self_signed_pem
from tests.cluster.redis_server import RedisServer
from tests.cluster.relays import (
    Peer,
    cluster_config,
    cluster_of,
    peers,
    reactor,
    relays,
    until,
    within,
)


@pytest_twisted.async_yield_fixture
async def servers(redis: RedisServer, tmp_path: Path) -> AsyncIterator[list[AceBaseIPCServer]]:
    """Three relays."""
    async with relays(redis, tmp_path) as running:
        yield running


class Probe(Protocol):
    """Sends something, and notes the end of its connection."""

    def __init__(self, gone: list[object], sent: bytes) -> None:
        self._gone = gone
        self._sent = sent

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._sent)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone.append(reason)


def homes(servers: list[AceBaseIPCServer], database: str) -> list[AceBaseIPCServer]:
    """The relays that take themselves for the home of a database."""
    return [each for each in servers if cluster_of(each).node.may_serve(database)]


@pytest_twisted.ensureDeferred
async def test_peers_at_different_relays_exchange_messages(servers: list[AceBaseIPCServer]) -> None:
    first, second, third = (Peer(each.url, "shop_data") for each in servers)
    async with peers(first, second, third):
        assert len(homes(servers, "shop_data")) == 1
        (home,) = homes(servers, "shop_data")
        assert {each.id for each in home.get_clients("shop_data")} == {
            each.client.id for each in (first, second, third)
        }
        await first.client.send("to all")
        for each in (second, third):
            await each.receives("to all")
        await second.client.send("to one", to=third.client.id)
        await third.receives("to one")
        assert "to one" not in first.bodies
        large = "x" * 100_000  # posted, and downloaded
        await third.client.send(large)
        for each in (first, second):
            await each.receives(large)
        assert sum(len(cluster_of(each).links) for each in servers) == 2
        for each in (first, second, third):
            others = {first.client.id, second.client.id, third.client.id} - {each.client.id}
            assert await each.client.fetch_peers() >= others
    await until(lambda: not any(len(cluster_of(each).links) for each in servers))


def other_than(home: AceBaseIPCServer, servers: list[AceBaseIPCServer]) -> AceBaseIPCServer:
    """A relay that is not the home."""
    return next(each for each in servers if each is not home)


@pytest_twisted.ensureDeferred
async def test_a_request_that_is_no_websocket_is_passed_on(servers: list[AceBaseIPCServer]) -> None:
    listener = Peer(servers[0].url, "shop_data", resume=False)
    async with peers(listener):
        (home,) = homes(servers, "shop_data")
        there = other_than(home, servers).url.replace("ws", "http", 1) + "/shop_data"
        for body in ("small", "y" * 200_000):
            response = await within(
                treq.post(f"{there}/send?id={listener.client.id}", body.encode())
            )
            assert (response.code, await response.text()) == (200, "ok")
        response = await within(treq.get(f"{there}/clients"))
        assert [each["id"] for each in await response.json()] == [listener.client.id]
        response = await within(treq.post(f"{there}/send?id=nobody", b"x" * 100))
        assert response.code == 401
        # A database without a home is not given one by a question.
        response = await within(treq.get(f"{there.replace('shop', 'blog')}/clients"))
        assert await response.json() == []
        assert homes(servers, "blog_data") == []


@pytest_twisted.ensureDeferred
async def test_a_request_without_a_database_asks_all_relays(
    servers: list[AceBaseIPCServer],
) -> None:
    first, second = (
        Peer(servers[0].url, f"{name}_data", resume=False) for name in ("shop", "bl/og")
    )
    async with peers(first, second, Peer(servers[0].url, "bl/og_data", id="twice")):
        for server in servers:
            url = server.url.replace("ws", "http", 1)
            for peer in (first, second):
                response = await within(treq.post(f"{url}/send?id={peer.client.id}", b"ping"))
                assert (response.code, await response.text()) == (200, "ok")
            for peer_id in ("nobody", "x" * 10_000, "", "%F0%9F%92%A9" * 1_000):
                assert (await within(treq.post(f"{url}/send?id={peer_id}", b"ping"))).code == 404
        async with peers(Peer(servers[1].url, "shop_data", id="twice")):
            for server in servers:
                url = server.url.replace("ws", "http", 1)
                assert (await within(treq.post(f"{url}/send?id=twice", b"ping"))).code == 409


@pytest_twisted.ensureDeferred
async def test_a_database_that_nobody_uses_is_given_up(servers: list[AceBaseIPCServer]) -> None:
    async with peers(Peer(servers[0].url, "shop_data")):
        assert len(homes(servers, "shop_data")) == 1
    await until(lambda: not homes(servers, "shop_data"))


@pytest_twisted.ensureDeferred
async def test_databases_have_different_homes(servers: list[AceBaseIPCServer]) -> None:
    made = [Peer(servers[0].url, f"db{number}_data") for number in range(12)]
    async with peers(*made):
        serving = [each for name in range(12) for each in homes(servers, f"db{name}_data")]
        assert len(serving) == 12
        assert len(set(serving)) > 1


@pytest_twisted.ensureDeferred
async def test_the_home_enforces_tokens_and_limits(redis: RedisServer, tmp_path: Path) -> None:
    limits = Limits(max_address_connections=2)
    async with relays(redis, tmp_path, 2, token="right", limits=limits) as servers:
        first, second = (Peer(servers[0].url, "shop_data", token="right") for _ in range(2))
        async with peers(first, second):
            (home,) = homes(servers, "shop_data")
            there = other_than(home, servers)
            wrong = Peer(there.url, "shop_data", token="wrong").client
            wrong.startService()
            with pytest.raises(TokenRejected):
                await within(wrong.when_connected())
            response = await within(
                treq.get(there.url.replace("ws", "http", 1) + "/shop_data/clients?t=right")
            )
            assert response.code == 503, "two connections of this address are open at the home"


@pytest_twisted.ensureDeferred
async def test_a_link_of_another_epoch_is_refused(servers: list[AceBaseIPCServer]) -> None:
    listener = Peer(servers[0].url, "shop_data")
    async with peers(listener):
        (home,) = homes(servers, "shop_data")
        epoch = cluster_of(home).node.member.homes["shop_data"]
        links = cluster_of(other_than(home, servers)).links
        address, peer = cluster_of(home).address, home.listeners[0].address
        assert peer is not None
        with pytest.raises(LinkFailed, match="does not serve"):
            await links.open(address, Ticket("shop_data", epoch - 1), peer, peer, b"")
        link = await links.open(address, Ticket("shop_data", epoch), peer, peer, b"")
        link.transport.abortConnection()
        # That of a higher epoch tells the home that it is none any more.
        with pytest.raises(LinkFailed, match="does not serve"):
            await links.open(address, Ticket("shop_data", epoch + 1), peer, peer, b"")
        await until(lambda: home.get_clients("shop_data") == () or listener.client.connected)
        await within(listener.client.when_connected())
        await until(lambda: sum(len(each.get_clients("shop_data")) for each in servers) == 1)
        (home,) = homes(servers, "shop_data")
        assert cluster_of(home).node.member.homes["shop_data"] > epoch


@pytest_twisted.ensureDeferred
async def test_a_relay_without_the_secret_is_refused(servers: list[AceBaseIPCServer]) -> None:
    address, peer = cluster_of(servers[0]).address, servers[0].listeners[0].address
    assert peer is not None
    links = Links(b"another secret, as long", reactor, None)
    with pytest.raises(LinkFailed, match="another secret"):
        await links.open(address, Ticket("shop_data", 0), peer, peer, b"")
    host, port = address.split(":")
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"acebase-ipc link 1\n" + bytes(32) + bytes(60)):
        gone: list[object] = []
        probe = Probe(gone, sent)
        await connectProtocol(HostnameEndpoint(reactor, host, int(port)), probe)
        await until(lambda: gone)  # noqa: B023
    assert servers[0].counts["Refused"] >= 2


@pytest_twisted.ensureDeferred
async def test_links_with_tls(redis: RedisServer, tmp_path: Path) -> None:
    pem = tmp_path / "cluster.pem"
    pem.write_bytes(self_signed_pem())
    pem.chmod(0o600)
    async with relays(redis, tmp_path, 2, cluster_certificate=str(pem)) as servers:
        first, second = (Peer(each.url, "shop_data") for each in servers)
        async with peers(first, second):
            await first.client.send("over TLS")
            await second.receives("over TLS")
            large = "z" * 500_000
            await second.client.send(large)
            await first.receives(large)
        address, peer = cluster_of(servers[0]).address, servers[0].listeners[0].address
        assert peer is not None
        pem.write_bytes(self_signed_pem.__wrapped__())
        secret = (tmp_path / "secret").read_bytes()
        for tls in (None, Tls(str(pem))):
            with pytest.raises(LinkFailed):
                await Links(secret, reactor, tls).open(
                    address, Ticket("shop_data", 0), peer, peer, b""
                )


@pytest_twisted.ensureDeferred
async def test_a_slow_receiver_fills_no_memory(servers: list[AceBaseIPCServer]) -> None:
    first, second = (Peer(each.url, "shop_data") for each in servers[:2])
    async with peers(first, second):
        await gatherResults([first.client.send("m" * 10_000) for _ in range(500)])
        await until(lambda: len(second.bodies) == 500)
        assert all(cluster_of(each).links.memory == 0 for each in servers)


def test_what_a_cluster_needs(redis: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs cluster_address"):
        cluster_config(redis, tmp_path, cluster_address=None)
    with pytest.raises(ConfigError, match="takes no state_dir"):
        cluster_config(redis, tmp_path, state_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"cluster_certificate .* needs cluster"):
        cluster_config(
            redis,
            tmp_path,
            cluster=None,
            cluster_address=None,
            cluster_secret_file=None,
            cluster_certificate="x",
        )
    for address in ("relay", "relay:70000", "a b:1"):
        with pytest.raises(ConfigError, match="not HOST:PORT"):
            cluster_config(redis, tmp_path, cluster_address=address)
    for lease in (0.1, 100.0, float("nan")):
        with pytest.raises(ConfigError, match="cluster_lease"):
            cluster_config(redis, tmp_path, cluster_lease=lease)
    short = cluster_config(redis, tmp_path)
    (tmp_path / "secret").write_text("short")
    with pytest.raises(ConfigError, match="must have 16"):
        AceBaseIPCServer(short, reactor)
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="cannot read the secret file"):
        AceBaseIPCServer(short, reactor)


def test_a_relay_of_a_cluster_neither_hands_over_nor_takes_over(
    redis: RedisServer, tmp_path: Path
) -> None:
    server = ReplaceableServer(cluster_config(redis, tmp_path), reactor)
    with pytest.raises(HandOverError, match="is restarted"):
        server.listening_sockets()
    with pytest.raises(HandOverError, match="is restarted"):
        server.arrive()


def test_a_cluster_without_its_client_says_what_to_install(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "txredisapi", None)
    with pytest.raises(ConfigError, match="pip install"):
        AceBaseIPCServer(cluster_config(redis, tmp_path), reactor)


@pytest_twisted.ensureDeferred
async def test_a_message_after_the_end_of_the_lease_is_not_accepted(
    redis: RedisServer, tmp_path: Path
) -> None:
    """As when a process goes on that was suspended: nothing but the message tells the time."""
    ahead = [0.0]
    config = cluster_config(redis, tmp_path)
    server = AceBaseIPCServer(config, reactor, lambda: time.monotonic() + ahead[0])
    await server.start()
    sender, receiver = (Peer(server.url, "shop_data", resume=False) for _ in range(2))
    cuts: list[object] = []
    receiver.client.on_disconnected(lambda *_: cuts.append(True))
    try:
        async with peers(sender, receiver):
            relay = server._parts.relay
            peer = relay.registry.peer("shop_data", sender.client.id)
            receive = relay.receiver(peer)
            assert receive([b"in time"]) == 1
            await receiver.receives("in time")
            ahead[0] = config.cluster_lease
            assert receive([b"too late"]) == 1
            with pytest.raises(Overloaded):
                relay.post(peer, b"too late", time.monotonic() + ahead[0])
            await until(lambda: cuts)
            await within(receiver.client.when_connected())
            await within(sender.client.when_connected())
            await sender.client.send("at the next lease")
            await receiver.receives("at the next lease")
            assert "too late" not in receiver.bodies
    finally:
        await server.stop()


@pytest_twisted.ensureDeferred
async def test_a_home_that_cannot_be_reached_keeps_its_databases_and_gets_no_more(
    redis: RedisServer, tmp_path: Path
) -> None:
    async with relays(redis, tmp_path, 2) as servers:
        keeper = Peer(servers[0].url, "shop_data")
        async with peers(keeper):
            (home,) = homes(servers, "shop_data")
            there = other_than(home, servers)
            at_home, away = (Peer(each.url, "shop_data") for each in (home, there))
            async with peers(at_home, away):
                # As if the network between the two was cut.
                port = cluster_of(home)._port
                assert port is not None
                await maybeDeferred(port.stopListening)
                cluster_of(there).links.close()
                cluster_of(home).links.close()
                response = await within(
                    treq.get(there.url.replace("ws", "http", 1) + "/shop_data/clients")
                )
                assert response.code == 503
                assert await response.text() == "The relay of this database does not answer"
                await within(at_home.client.when_connected())
                await within(at_home.client.ping())
                assert homes(servers, "shop_data") == [home]
                new = [Peer(there.url, f"new{number}_data") for number in range(6)]
                async with peers(*new):
                    for number in range(6):
                        assert homes(servers, f"new{number}_data") == [there]
