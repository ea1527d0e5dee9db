"""Every kind of port: a client connects, is welcomed, relays, posts and downloads."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins

from tests.certificates import Certificate
from tests.integration.conftest import PASSPHRASE
from tests.integration.peers import Peers
from tests.integration.raw import RawClient
from tests.integration.relay_process import (
    Address,
    RelayProcess,
    endpoint,
    on_loopback,
    running_relay,
)
from tests.integration.web import Answer, Web

KIB = 1024
MIB = 1024 * KIB

WELCOME = 'welcome:{"maxPayload":16384}'
WELCOME_TLS = 'welcome:{"maxPayload":16777216}'

KINDS = {each.prefix for each in getPlugins(IStreamServerEndpointStringParser)}
BY_NAME = ("tls",) if "tls" in KINDS else ()  # Twisted has tls: from 26.4 on
SECURE = ("ssl", "chain", *BY_NAME, "pfx", "passphraseFile")
MIXED = ("tcp", *SECURE, "unix")

OK = Answer(200, "ok")


@pytest.fixture(scope="module")
def endpoints(
    certificate: Certificate,
    self_signed: Certificate,
    pfx: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """An endpoint string of every kind."""
    directory = tmp_path_factory.mktemp("ports")
    secret = directory / "passphrase"
    secret.write_text(PASSPHRASE + "\n")
    by_name = directory / "by_name"
    by_name.mkdir()
    (by_name / "localhost.pem").write_bytes(self_signed.pem.read_bytes())
    chain = {"certKey": certificate.certificate, "extraCertChain": certificate.chain}
    return {
        "tcp": on_loopback(),
        "ssl": on_loopback("ssl", privateKey=self_signed.pem),
        "chain": on_loopback("ssl", privateKey=certificate.key, **chain),
        "tls": endpoint("tls", str(by_name), port=0, interface="::1"),
        "pfx": on_loopback("pfx", path=pfx, passphrase=PASSPHRASE),
        "passphraseFile": on_loopback("pfx", path=pfx, passphraseFile=secret),
        "unix": endpoint("unix", str(directory / "relay.sock")),
    }


@pytest.fixture(scope="module")
def mixed(endpoints: dict[str, str], roots: Path) -> Iterator[dict[str, Address]]:
    """One relay that listens in every way there is."""
    descriptions = [endpoints[kind] for kind in MIXED]
    with running_relay(*descriptions, root=roots) as relay:
        yield dict(zip(MIXED, relay.addresses, strict=True))


@pytest.fixture(scope="module")
def small(endpoints: dict[str, str], roots: Path) -> Iterator[dict[str, Address]]:
    """A relay on which messages above 1 KiB have to be downloaded, with TLS, too."""
    kinds = ("tcp", *SECURE)
    descriptions = [endpoints[kind] for kind in kinds]
    options = ("--max-payload=1KiB",)
    with running_relay(*descriptions, options=options, root=roots) as relay:
        yield dict(zip(kinds, relay.addresses, strict=True))


async def talk(peers: Peers, address: Address, welcome: str) -> None:
    first = await peers.connect(address, "first")
    assert await first.next() == welcome
    second = await peers.connect(address, "second")
    assert await second.next() == welcome
    assert await first.next() == "connect:second"

    first.tell("to:second;a question, ünïcode 漢字 \N{GRINNING FACE}")
    assert await second.next() == "msg:a question, ünïcode 漢字 \N{GRINNING FACE}"
    second.tell("an answer to all")
    second.tell("to:all;and one more")
    assert await first.take(2) == ["msg:an answer to all", "msg:and one more"]
    assert await second.received() == []

    await second.leave()
    assert await first.next() == "disconnect:second"
    assert await first.received() == []


@pytest_twisted.ensureDeferred
async def test_peers_talk_over_a_plain_port(plain: RelayProcess, peers: Peers) -> None:
    await talk(peers, plain.address, WELCOME)


@pytest.mark.parametrize("kind", MIXED)
@pytest_twisted.ensureDeferred
async def test_peers_talk_over_any_port_of_a_relay_that_has_tls(
    mixed: dict[str, Address], peers: Peers, kind: str
) -> None:
    await talk(peers, mixed[kind], WELCOME_TLS)


@pytest_twisted.ensureDeferred
async def test_the_peers_of_all_ports_are_in_the_same_databases(
    mixed: dict[str, Address], peers: Peers
) -> None:
    first = await peers.join(mixed[MIXED[0]], f"from {MIXED[0]}")
    others = [await peers.join(mixed[kind], f"from {kind}") for kind in MIXED[1:]]

    assert await first.received() == [f"connect:{each.id}" for each in others]
    for each in others:
        each.tell(f"to:{first.id};here is {each.id}")
        assert await first.next() == f"msg:here is {each.id}"
    first.tell("to all")
    for each in others:
        assert (await each.received())[-1] == "msg:to all"


@pytest.mark.parametrize("kind", ["tcp", *SECURE])
@pytest_twisted.ensureDeferred
async def test_a_large_message_is_posted_announced_and_downloaded(
    small: dict[str, Address], peers: Peers, kind: str
) -> None:
    address = small[kind]
    sender = await peers.join(address, "sender")
    reader = await peers.join(address, "reader")
    web = Web(address)
    body = "\N{GRINNING FACE} 漢字 " * 100_000

    assert await web.post("/library/send", body, id="sender") == OK
    announced = await reader.next()
    assert announced.startswith("get:")
    message = announced.removeprefix("get:")
    assert await web.get("/library/receive", id="reader", msg=message) == Answer(200, body)
    assert await sender.received() == ["connect:reader"]


@pytest.mark.parametrize("kind", ["tcp", *SECURE])
@pytest_twisted.ensureDeferred
async def test_a_small_message_is_posted_and_arrives_inline(
    mixed: dict[str, Address], peers: Peers, kind: str
) -> None:
    address = mixed[kind]
    sender = await peers.join(address, "sender")
    reader = await peers.join(address, "reader")
    web = Web(address)

    assert await web.post("/library/send", "to:reader;漢", id="sender") == OK
    assert await web.post("/library/send", "ping", id="reader") == OK
    assert await reader.take(2) == ["msg:漢", "pong"]
    assert await sender.received() == ["connect:reader"]


@pytest_twisted.ensureDeferred
async def test_over_tls_a_megabyte_fits_a_frame(mixed: dict[str, Address], peers: Peers) -> None:
    sender = await peers.join(mixed["ssl"], "sender")
    reader = await peers.join(mixed["pfx"], "reader")
    body = "0123456789abcdef" * (MIB // 16)

    sender.tell(body)

    assert await reader.next() == f"msg:{body}"


@pytest.mark.parametrize("kind", ["plain", *MIXED])
def test_the_welcome_leaves_in_one_write_with_the_101(
    plain: RelayProcess, mixed: dict[str, Address], kind: str
) -> None:
    """With TLS one write is one record, and a ``recv`` never returns more than one."""
    address = plain.address if kind == "plain" else mixed[kind]
    welcome = (WELCOME if kind == "plain" else WELCOME_TLS).encode()
    frame = bytes([0x81, len(welcome)]) + welcome
    for _ in range(5):
        with RawClient(address) as client:
            received = client.upgrade("/library/connect?id=first&v=1.0.0&t=undefined")

        assert received.startswith(b"HTTP/1.1 101 ")
        assert received.partition(b"\r\n\r\n")[2] == frame


@pytest.mark.parametrize("kind", SECURE)
def test_tls_is_1_2_or_newer(mixed: dict[str, Address], roots: Path, kind: str) -> None:
    address = mixed[kind]

    def version(newest: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=roots)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or the client itself knows nothing old
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = newest
        with RawClient(Address(address.host, address.port)) as client:
            secure = context.wrap_socket(client.socket, server_hostname="localhost")
            with secure:
                return secure.version()

    assert version(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert version(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        version(ssl.TLSVersion.TLSv1_1)
