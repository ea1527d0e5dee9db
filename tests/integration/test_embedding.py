"""An embedded relay: in a ``.tac`` file, and without an Application."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.threads import deferToThread

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig, Client, ConfigError, SSLConfig
from tests.certificates import Certificate
from tests.integration.conftest import PASSPHRASE
from tests.integration.peers import Closed, DocumentedPeer, Peers, Refused
from tests.integration.relay_process import Address, Twistd
from tests.integration.web import Answer, Web

EXAMPLE = Path(__file__).parents[2] / "examples" / "embedded.tac"

BELOW_A_PATH = """
from twisted.application import service, strports
from twisted.web import resource, server, static

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig

application = service.Application("pages, and a relay among them")
relay = AceBaseIPCServer(AceBaseIPCServerConfig(port=None, token="change me"))
relay.setServiceParent(application)

root = resource.Resource()
root.putChild(b"hello", static.Data(b"Hello!\\n", "text/plain"))
root.putChild(b"ipc", relay.resource())
site = server.Site(root)
site.log = lambda request: None
strports.service("tcp:0:interface=127.0.0.1", site).setServiceParent(application)
"""

FAREWELL = Closed(1001, "the server is shutting down")


def on_any_port(tac: str) -> str:
    """An example that names its port, on a free one."""
    changed, ports = re.subn(r"tcp:\d+:", "tcp:0:", tac)
    assert ports == 1
    return changed


@pytest.mark.parametrize(
    ("tac", "below"),
    [
        pytest.param(EXAMPLE.read_text(), "", id="examples/embedded.tac"),
        pytest.param(BELOW_A_PATH, "/ipc", id="below a path"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_relay_in_a_tac_file_beside_other_pages(
    peers: Peers, tmp_path: Path, tac: str, below: str
) -> None:
    file = tmp_path / "embedded.tac"
    file.write_text(on_any_port(tac))
    connect = f"{below}/library/connect?v=1.0.0&t=change%20me&id="
    with Twistd("--nodaemon", "--pidfile=", "-y", str(file)) as twistd:
        twistd.wait_for("port", lambda log: re.search(r"Site starting on \d+\n", log))
        (port,) = re.findall(r"Site starting on (\d+)\n", twistd.log)
        address = Address(port=int(port))
        web = Web(address)

        assert (await web.get("/hello")).text == "Hello!\n"
        with pytest.raises(Refused, match=r"\b403\b"):
            await peers.connect_to(address, f"{below}/library/connect?id=first&v=1.0.0")
        first = await peers.connect_to(address, f"{connect}first", "first")
        assert await first.next() == 'welcome:{"maxPayload":16384}'
        second = await peers.connect_to(address, f"{connect}second", "second")
        assert await second.received() == ['welcome:{"maxPayload":16384}']
        second.tell("hello")
        large = "large " * 10_000
        posted = await web.post(f"{below}/library/send", large, id="second", t="change me")
        assert posted == Answer(200, "ok")
        assert await first.take(2) == ["connect:second", "msg:hello"]
        message = (await first.next()).removeprefix("get:")
        query = {"id": "first", "msg": message, "t": "change me"}
        assert await web.get(f"{below}/library/receive", **query) == Answer(200, large)
        assert (await web.get("/hello")).text == "Hello!\n"

        await deferToThread(twistd.stop, 5)

        assert [await first.closed(), await second.closed()] == [FAREWELL, FAREWELL]
        assert "change me" not in twistd.log


# Without an Application


class Servers:
    """Starts servers in the reactor of the tests, and stops them after a test."""

    def __init__(self) -> None:
        self._started: list[AceBaseIPCServer] = []

    async def start(self, config: AceBaseIPCServerConfig) -> AceBaseIPCServer:
        server = AceBaseIPCServer(config)
        self._started.append(server)
        await server.start()
        return server

    async def stop(self) -> None:
        for server in self._started:
            if server.running:
                await server.stop()


@pytest_twisted.async_yield_fixture
async def servers() -> AsyncIterator[Servers]:
    started = Servers()
    yield started
    await started.stop()


def address_of(server: AceBaseIPCServer, root: Path | None = None) -> Address:
    (listener,) = server.listeners
    where: IAddress | None = listener.address
    return Address(port=where.port, secure=root is not None, root=root)  # type: ignore[union-attr]


async def exchange(address: Address, peers: Peers) -> tuple[DocumentedPeer, DocumentedPeer]:
    first = await peers.join(address, "first")
    second = await peers.join(address, "second")
    first.tell("to:second;hello")
    assert await second.next() == "msg:hello"
    return first, second


@pytest_twisted.ensureDeferred
async def test_start_serves_and_stop_says_goodbye(servers: Servers, peers: Peers) -> None:
    server = await servers.start(AceBaseIPCServerConfig(port=0))
    address = address_of(server)
    first, second = await exchange(address, peers)

    await server.stop()

    assert [await first.closed(), await second.closed()] == [FAREWELL, FAREWELL]
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address.host, address.port))


@pytest_twisted.ensureDeferred
async def test_get_clients_tells_who_is_connected(servers: Servers, peers: Peers) -> None:
    server = await servers.start(AceBaseIPCServerConfig(port=0))
    before = int(time.time() * 1000)
    address = address_of(server)
    first, _ = await exchange(address, peers)
    after = int(time.time() * 1000)

    clients = server.get_clients("library")

    assert [(each.id, each.dbname) for each in clients] == [
        ("first", "library"),
        ("second", "library"),
    ]
    assert all(type(each) is Client and before <= each.connected <= after for each in clients)
    assert server.get_clients("another") == ()
    with pytest.raises(AttributeError):
        clients[0].id = "changed"  # type: ignore[misc]
    await first.leave()
    assert [each.id for each in server.get_clients("library")] == ["second"]


@pytest_twisted.ensureDeferred
async def test_ssl_of_pem_files(servers: Servers, peers: Peers, self_signed: Certificate) -> None:
    ssl = SSLConfig(key_path=str(self_signed.key), cert_path=str(self_signed.certificate))
    server = await servers.start(AceBaseIPCServerConfig(port=0, ssl=ssl))

    await exchange(address_of(server, self_signed.root), peers)


@pytest_twisted.ensureDeferred
async def test_ssl_of_one_pem_file(
    servers: Servers, peers: Peers, self_signed: Certificate
) -> None:
    ssl = SSLConfig(key_path=str(self_signed.pem))
    server = await servers.start(AceBaseIPCServerConfig(port=0, ssl=ssl))

    await exchange(address_of(server, self_signed.root), peers)


@pytest_twisted.ensureDeferred
async def test_ssl_of_a_pfx_file(
    servers: Servers, peers: Peers, certificate: Certificate, pfx: Path
) -> None:
    ssl = SSLConfig(pfx_path=str(pfx), passphrase=PASSPHRASE)
    server = await servers.start(AceBaseIPCServerConfig(port=0, ssl=ssl, token="a token"))

    peer = await peers.connect(address_of(server, certificate.root), "first", t="a token")

    assert await peer.next() == 'welcome:{"maxPayload":16777216}'


def test_a_wrong_passphrase_is_told_without_it(pfx: Path) -> None:
    ssl = SSLConfig(pfx_path=str(pfx), passphrase="not the right one")

    with pytest.raises(ConfigError, match="wrong passphrase") as raised:
        AceBaseIPCServer(AceBaseIPCServerConfig(port=0, ssl=ssl))

    assert "not the right one" not in str(raised.value) + repr(ssl)


@pytest_twisted.ensureDeferred
async def test_start_fails_where_the_port_is_taken(servers: Servers) -> None:
    taken = address_of(await servers.start(AceBaseIPCServerConfig(port=0))).port
    server = AceBaseIPCServer(AceBaseIPCServerConfig(port=taken))

    with pytest.raises(CannotListenError):
        await server.start()


@pytest_twisted.ensureDeferred
async def test_two_servers_in_one_process_know_nothing_of_each_other(
    servers: Servers, peers: Peers
) -> None:
    one = await servers.start(AceBaseIPCServerConfig(port=0))
    other = await servers.start(AceBaseIPCServerConfig(port=0))
    first = await peers.join(address_of(one), "first")
    await peers.join(address_of(other), "first")
    second = await peers.join(address_of(other), "second")
    second.tell("hello")

    assert await second.received() == []
    assert await first.received() == []
    assert [len(each.get_clients("library")) for each in (one, other)] == [1, 2]
