"""The client and a relay in a process of its own, over every kind of socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from acebase_ipc import IPCClient
from acebase_ipc.client.errors import ConnectionFailed, TLSFailed, TokenRejected
from tests.certificates import Certificate
from tests.integration.relay_process import (
    DEADLINE,
    Address,
    RelayProcess,
    endpoint,
    on_loopback,
    running_relay,
)

reactor: Any = _reactor

KIB = 1024
MIB = 1024 * KIB

KINDS = ("tcp", "ssl", "unix", "tcp6")


@pytest.fixture(scope="module")
def relays(
    certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Address]]:
    """A relay that listens in every way, and of which 1 KiB fits a message."""
    key = {"privateKey": certificate.key, "certKey": certificate.certificate}
    ports = (
        on_loopback(),
        on_loopback("ssl", **key, extraCertChain=certificate.chain),
        endpoint("unix", str(tmp_path_factory.mktemp("a%b") / "relay:1.sock")),
        endpoint("tcp6", 0, interface="::1"),
    )
    with running_relay(*ports, options=("--max-payload=1KiB",)) as relay:
        yield dict(zip(KINDS, relay.addresses, strict=True))


def url_of(address: Address) -> str:
    """The URL of a relay."""
    if address.path is not None:
        return "ws+unix:" + address.path.replace("%", "%25").replace(":", "%3A")
    host = "localhost" if address.secure else address.host
    scheme = "wss" if address.secure else "ws"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address.port}"


@asynccontextmanager
async def connected(*clients: IPCClient) -> AsyncIterator[None]:
    """Connect clients until the end of the block."""
    for each in clients:
        each.startService()
    try:
        await within(gatherResults([each.when_connected() for each in clients]))
        yield
    finally:
        await within(gatherResults([each.stopService() for each in clients]))


def within(deferred: Deferred[Any], seconds: float = DEADLINE) -> Deferred[Any]:
    """Wait no longer."""
    return deferred.addTimeout(seconds, reactor)


def seen(subscribe: Callable[[Callable[[str], object]], object], wanted: str) -> Deferred[str]:
    """Wait until a callback has been called with what is wanted."""
    deferred: Deferred[str] = Deferred()

    def look(text: str) -> None:
        if text == wanted and not deferred.called:
            deferred.callback(text)

    subscribe(look)
    return within(deferred)


@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_clients_talk_over_any_kind_of_socket(
    relays: dict[str, Address], certificate: Certificate, kind: str
) -> None:
    url, trust = url_of(relays[kind]), certificate.root
    alice = IPCClient(url, "library", "alice", trust_root=trust)
    bobby = IPCClient(url, "library", "bobby", trust_root=trust)
    messages = bobby.messages()
    async with connected(alice, bobby):
        assert await alice.fetch_peers() == {"bobby"}
        large = "漢" * MIB
        bodies = ["1", large, "2", "x" * 1025, "3"]
        for each in bodies:
            alice.send(each, to="bobby")
        assert [await within(messages.__anext__()) for _ in bodies] == bodies
        assert 0 < await alice.ping() < DEADLINE
        left = seen(alice.on_peer_left, "bobby")
        await bobby.stopService()
        await left
        assert alice.peers == frozenset()


@pytest_twisted.ensureDeferred
async def test_large_messages_fit_the_websocket_of_a_relay_with_tls(
    certificate: Certificate,
) -> None:
    port = on_loopback("ssl", privateKey=certificate.key, certKey=certificate.certificate)
    with running_relay(port, options=("--max-message=17MiB",)) as relay:
        url = url_of(relay.address)
        # It does not get the chain, and trusts the certificate itself.
        trust = certificate.certificate.parent / "all.pem"
        trust.write_bytes(certificate.root.read_bytes() + certificate.chain.read_bytes())
        alice = IPCClient(url, "library", trust_root=trust)
        messages = alice.messages()
        async with connected(alice):
            body = "x" * (16 * MIB - len(f"to:{alice.id};"))
            await within(alice.send(body, to=alice.id))
            assert await within(messages.__anext__()) == body
            body += "世"
            await within(alice.send(body, to=alice.id))
            assert await within(messages.__anext__()) == body


@pytest_twisted.ensureDeferred
async def test_who_is_not_trusted_is_not_told_the_token(
    relays: dict[str, Address], self_signed: Certificate
) -> None:
    url = url_of(relays["ssl"])
    for trust_root, host in ((self_signed.root, "localhost"), (None, "localhost")):
        client = IPCClient(
            url.replace("localhost", host), "library", token="s3cret", trust_root=trust_root
        )
        client.startService()
        with pytest.raises(TLSFailed, match="certificate verify failed"):
            await within(client.when_connected())
        assert client.failed
        await client.stopService()


@pytest_twisted.ensureDeferred
async def test_the_certificate_must_be_for_the_host(
    relays: dict[str, Address], certificate: Certificate
) -> None:
    url = url_of(relays["ssl"]).replace("localhost", "localhost.")
    client = IPCClient(url, "library", trust_root=certificate.root)
    client.startService()
    try:
        await within(client.when_connected(fail_after_failures=1))
    except (TLSFailed, ConnectionFailed):
        pass  # a name that is not resolved is no proof, but no harm
    else:
        pytest.fail("another name was accepted")
    finally:
        await client.stopService()


@pytest_twisted.ensureDeferred
async def test_the_wrong_kind_of_port_is_noticed(relays: dict[str, Address]) -> None:
    client = IPCClient(url_of(relays["ssl"]).replace("wss:", "ws:"), "library")
    client.startService()
    with pytest.raises(ConnectionFailed, match="scheme"):
        await within(client.when_connected(fail_after_failures=1))
    await client.stopService()


@pytest_twisted.ensureDeferred
async def test_it_returns_when_the_relay_is_restarted(tmp_path: Path) -> None:
    path = str(tmp_path / "relay.sock")
    port = endpoint("unix", path)
    clients = [
        IPCClient(f"ws+unix:{path}", "library", name, retry_policy=lambda _: 0.1)
        for name in ("alice", "bobby")
    ]
    alice, bobby = clients
    messages = bobby.messages()
    relay = await deferToThread(RelayProcess, port)
    try:
        async with connected(*clients):
            lost = [seen_problem(each) for each in clients]
            await deferToThread(relay.stop)
            assert [await each for each in lost] == ["RelayShutDown"] * 2
            waits = alice.send("sent while nobody listened")
            relay = await deferToThread(RelayProcess, port)
            await within(gatherResults([each.when_connected() for each in clients]))
            await within(waits)
            # Who is back first may be alone: so all say it again.
            await within(alice.send("and after"))
            heard = await within(messages.__anext__())
            assert heard in ("sent while nobody listened", "and after")
            assert await alice.fetch_peers() == {"bobby"}
    finally:
        with relay:
            pass


def seen_problem(client: IPCClient) -> Deferred[str]:
    """Wait for the end of a connection."""
    ended: Deferred[str] = Deferred()
    client.on_disconnected(
        lambda problem: None if ended.called else ended.callback(type(problem).__name__)
    )
    return within(ended)


@pytest_twisted.ensureDeferred
async def test_a_wrong_token_ends_it() -> None:
    environment = {"ACEBASE_IPC_TOKEN": "s3cret"}
    with running_relay(environment=environment) as relay:
        client = IPCClient(url_of(relay.address), "library", token="guess")
        client.startService()
        with pytest.raises(TokenRejected):
            await within(client.when_connected())
        await client.stopService()
        right = IPCClient(url_of(relay.address), "library", token="s3cret")
        async with connected(right):
            assert await right.fetch_peers() == frozenset()
