"""The ``pfx:`` endpoint, and Twisted's own ``ssl:`` beside it, with real handshakes."""

from __future__ import annotations

import socket
import subprocess
import sys
import traceback
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import NoEncryption, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from OpenSSL import SSL
from twisted.internet.abstract import isIPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    connectProtocol,
    quoteStringArgument,
    serverFromString,
    wrapClientTLS,
)
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IStreamServerEndpointStringParser,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate as TrustRoot
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.testing import MemoryReactor, MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.plugin import IPlugin, getPlugins
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from acebase_ipc.server.endpoints import MAX_BACKLOG
from acebase_ipc.server.pfx import PFXServerEndpointParser, pfx_certificate_options
from tests.certificates import (
    KEY_TYPES,
    Certificate,
    KeyType,
    make_certificate,
    make_chain,
    make_encrypted_pem,
    make_pfx,
)

PASSPHRASE = "correct horse battery staple"
GREETING = b"hello over TLS"


def describe(path: Path, **arguments: str | Path) -> str:
    """A ``pfx:`` description with a port that the system chooses."""
    quoted = (
        f"{name}={quoteStringArgument(str(value))}"
        for name, value in {"path": path, **arguments}.items()
    )
    return ":".join(["pfx:0", *quoted])


def error_of(description: str) -> str:
    """The message of the refusal; the passphrase is nowhere in the traceback."""
    with pytest.raises(ValueError, match=r"^pfx: ") as caught:
        serverFromString(MemoryReactorClock(), description)
    assert PASSPHRASE not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.fixture
def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


class Greeter(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(GREETING)


class Listener(Protocol):
    """Collects `expected` bytes, then hangs up; fails when the connection ends before."""

    transport: Any

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.received = b""
        self.done: Deferred[bytes] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= self.expected and not self.done.called:
            self.done.callback(self.received)
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.done.called:
            self.done.errback(reason)
        self.closed.callback(None)


@asynccontextmanager
async def listening(reactor: Any, description: str) -> AsyncIterator[int]:
    """Listen on `description` and greet who connects; gives the port."""
    port = await serverFromString(reactor, description).listen(Factory.forProtocol(Greeter))
    try:
        yield port.getHost().port
    finally:
        await maybeDeferred(port.stopListening)


@implementer(IOpenSSLClientConnectionCreator)
class OneVersion:
    """TLS of one version, from a server whose certificate `root` has signed.

    Not by Twisted's ``lowerMaximumSecurityTo``: 24.11 excludes the version that it is given.
    """

    def __init__(self, root: Path, version: int) -> None:
        self._context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        self._context.set_min_proto_version(version)
        self._context.set_max_proto_version(version)
        self._context.load_verify_locations(str(root))
        self._context.set_verify(SSL.VERIFY_PEER)

    def clientConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        return SSL.Connection(self._context)


async def shake_hands(
    reactor: Any, port: int, root: Path, host: str = "127.0.0.1", version: int | None = None
) -> list[x509.Certificate]:
    """
    Connect, verify the server against `root` and `host`, read its greeting; return its chain.

    With `version`, the client speaks no other, and does not look at the host.
    """
    options: Any = (
        optionsForClientTLS(host, TrustRoot.loadPEM(root.read_bytes()))
        if version is None
        else OneVersion(root, version)
    )
    tcp = TCP6ClientEndpoint if isIPv6Address(host) else TCP4ClientEndpoint
    client = Listener(len(GREETING))
    await connectProtocol(wrapClientTLS(options, tcp(reactor, host, port)), client)
    try:
        assert await client.done == GREETING
    finally:
        await client.closed
    chain = client.transport.getHandle().get_peer_cert_chain(as_cryptography=True)
    return list(chain)


def load_certificates(*paths: Path) -> list[x509.Certificate]:
    return [one for path in paths for one in x509.load_pem_x509_certificates(path.read_bytes())]


# What the parser promises to Twisted


def test_the_parser_provides_its_interfaces() -> None:
    parser = PFXServerEndpointParser()
    assert verifyObject(IPlugin, parser)
    assert verifyObject(IStreamServerEndpointStringParser, parser)


def test_the_plugin_is_found_once() -> None:
    found = [
        plugin for plugin in getPlugins(IStreamServerEndpointStringParser) if plugin.prefix == "pfx"
    ]
    assert [type(plugin) for plugin in found] == [PFXServerEndpointParser]


def test_loading_the_plugin_imports_neither_the_reactor_nor_what_is_slow() -> None:
    slow = [
        "twisted.internet.reactor",
        "autobahn",
        "cryptography",
        "OpenSSL",
        "twisted.internet.endpoints",
    ]
    script = (
        "import sys, twisted.plugins.acebase_ipc_endpoints;"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# Where it listens


def test_port_interface_and_backlog_reach_the_reactor(tmp_path: Path) -> None:
    reactor = MemoryReactorClock()
    bundle = make_pfx(make_certificate(tmp_path))
    description = f"pfx:9163:path={bundle}:interface=127.0.0.9:backlog=7"
    serverFromString(reactor, description).listen(Factory.forProtocol(Greeter))
    [(port, _, backlog, interface)] = reactor.tcpServers
    assert (port, backlog, interface) == (9163, 7, "127.0.0.9")


def test_by_default_it_listens_on_all_ipv4_addresses(tmp_path: Path) -> None:
    reactor = MemoryReactorClock()
    bundle = make_pfx(make_certificate(tmp_path))
    serverFromString(reactor, f"pfx:65535:path={bundle}").listen(Factory.forProtocol(Greeter))
    [(port, _, backlog, interface)] = reactor.tcpServers
    assert (port, backlog, interface) == (65535, 1024, "")


def test_a_reactor_without_a_clock_will_do(tmp_path: Path) -> None:
    reactor = MemoryReactor()
    bundle = make_pfx(make_certificate(tmp_path))
    serverFromString(reactor, describe(bundle)).listen(Factory.forProtocol(Greeter))
    assert len(reactor.tcpServers) == 1


@pytest.mark.parametrize("port", ["65536", "-1", "https", "", "9163 ", "1_0", "٣", "9" * 5000])
def test_an_unknown_port_is_refused(tmp_path: Path, port: str) -> None:
    bundle = make_pfx(make_certificate(tmp_path))
    assert (
        error_of(f"pfx:{port}:path={bundle}")
        == "pfx: the port is not a whole number from 0 to 65535"
    )


@pytest.mark.parametrize("backlog", ["many", "-1", str(MAX_BACKLOG + 1)])
def test_an_impossible_backlog_is_refused(tmp_path: Path, backlog: str) -> None:
    bundle = make_pfx(make_certificate(tmp_path))
    message = error_of(f"pfx:0:path={bundle}:backlog={backlog}")
    assert message == "pfx: the backlog is not a whole number from 0 to 2147483647"


# Arguments


@pytest.mark.parametrize(
    "description",
    [
        "pfx:",
        "pfx:9163",
        "pfx:path=server.pfx",
        "pfx:9163:server.pfx",
        "pfx:9163:path=server.pfx:port=9164",
        "pfx:9163:path=server.pfx:privateKey=key.pem",
        "pfx:9163:path=server.pfx:interface=::1",
    ],
)
def test_missing_and_unknown_arguments_are_answered_with_the_usage(description: str) -> None:
    message = error_of(description)
    assert message.startswith("pfx: takes a port and path=")
    assert "privateKey" not in message


@pytest.mark.parametrize("rest", ["stray", "stray=thing"])
def test_the_rest_of_a_passphrase_after_an_unescaped_colon_is_not_repeated(rest: str) -> None:
    assert "stray" not in error_of(f"pfx:9163:path=server.pfx:passphrase=secret:{rest}")
    assert "stray" not in error_of(f"pfx:path=server.pfx:passphrase=secret:{rest}")


def test_passphrase_and_passphrase_file_exclude_each_other(tmp_path: Path) -> None:
    bundle = make_pfx(make_certificate(tmp_path), PASSPHRASE)
    message = error_of(
        describe(bundle, passphrase=PASSPHRASE, passphraseFile=tmp_path / "passphrase")
    )
    assert message == "pfx: takes passphrase= or passphraseFile=, not both"


# Files and passphrases


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pfx"
    message = error_of(describe(missing, passphrase=PASSPHRASE))
    assert message == f"pfx: cannot read path={str(missing)!r}: No such file or directory"


def test_a_missing_passphrase_file_is_named(tmp_path: Path) -> None:
    bundle = make_pfx(make_certificate(tmp_path), PASSPHRASE)
    missing = tmp_path / "missing"
    message = error_of(describe(bundle, passphraseFile=missing))
    assert message == f"pfx: cannot read passphraseFile={str(missing)!r}: No such file or directory"


def wrong_or_broken(bundle: Path) -> str:
    return f"pfx: wrong passphrase for {str(bundle)!r}, or not an intact PKCS#12 file"


@pytest.mark.parametrize("arguments", [{"passphrase": PASSPHRASE + "!"}, {"passphrase": ""}, {}])
def test_a_wrong_or_missing_passphrase(tmp_path: Path, arguments: dict[str, str]) -> None:
    bundle = make_pfx(make_certificate(tmp_path), PASSPHRASE)
    assert error_of(describe(bundle, **arguments)) == wrong_or_broken(bundle)


@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_truncated_bundle(tmp_path: Path, length: int) -> None:
    bundle = make_pfx(make_certificate(tmp_path), PASSPHRASE)
    bundle.write_bytes(bundle.read_bytes()[:length])
    assert error_of(describe(bundle, passphrase=PASSPHRASE)) == wrong_or_broken(bundle)


def test_a_pem_file_is_no_bundle(tmp_path: Path) -> None:
    pem = make_certificate(tmp_path).pem
    assert error_of(describe(pem)) == wrong_or_broken(pem)


@pytest.mark.parametrize(
    "content",
    [
        PASSPHRASE,
        f"{PASSPHRASE}\n",
        f"{PASSPHRASE}\r\n",
        f"{PASSPHRASE}\nanother line\n",
        f"\N{ZERO WIDTH NO-BREAK SPACE}{PASSPHRASE}\n",
    ],
)
def test_the_first_line_of_the_passphrase_file_counts(tmp_path: Path, content: str) -> None:
    bundle = make_pfx(make_certificate(tmp_path), PASSPHRASE)
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(content.encode())
    serverFromString(MemoryReactorClock(), describe(bundle, passphraseFile=passphrase))


def test_only_one_line_end_is_taken_from_the_passphrase_file(tmp_path: Path) -> None:
    bundle = make_pfx(make_certificate(tmp_path), f" {PASSPHRASE} ")
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(f" {PASSPHRASE} \n")
    serverFromString(MemoryReactorClock(), describe(bundle, passphraseFile=passphrase))


@pytest.mark.parametrize("passphrase", ["a:b=c\\d", "Grüße, 世界"])
def test_passphrases_of_any_characters(tmp_path: Path, passphrase: str) -> None:
    bundle = make_pfx(make_certificate(tmp_path), passphrase)
    serverFromString(MemoryReactorClock(), describe(bundle, passphrase=passphrase))


@pytest.mark.parametrize(
    "content", [PASSPHRASE.encode("utf-16"), PASSPHRASE.encode() + b"\xff", b"\0"]
)
def test_a_passphrase_file_that_is_no_text_is_refused(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = make_pfx(make_certificate(tmp_path), PASSPHRASE)
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(content)
    message = error_of(describe(bundle, passphraseFile=passphrase))
    assert message == "pfx: the passphrase is not UTF-8 text without NUL"
    assert capfd.readouterr().err == ""


def test_the_endpoint_keeps_and_logs_no_passphrase(tmp_path: Path) -> None:
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        bundle = make_pfx(make_certificate(tmp_path), PASSPHRASE)
        endpoint: Any = serverFromString(
            MemoryReactorClock(), describe(bundle, passphrase=PASSPHRASE)
        )
        endpoint.listen(Factory.forProtocol(Greeter))
    finally:
        globalLogPublisher.removeObserver(observer)
    held = [
        vars(endpoint.plain),
        vars(endpoint.options),
        endpoint.clock,
        *map(eventAsText, events),
        events,
    ]
    assert PASSPHRASE not in repr(held)


# What the bundle holds


def write_bundle(
    path: Path, key: Any, certificate: Any, others: list[x509.Certificate] | None = None
) -> Path:
    path.write_bytes(
        serialize_key_and_certificates(b"server", key, certificate, others, NoEncryption())
    )
    return path


def load_key(certificate: Certificate) -> Any:
    return load_pem_private_key(certificate.key.read_bytes(), None)


def test_a_bundle_without_key(tmp_path: Path) -> None:
    [certificate] = load_certificates(make_certificate(tmp_path).certificate)
    bundle = write_bundle(tmp_path / "server.pfx", None, certificate)
    assert error_of(describe(bundle)) == f"pfx: {str(bundle)!r} holds no private key"


def test_a_bundle_without_certificate(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "server.pfx", load_key(make_certificate(tmp_path)), None)
    assert error_of(describe(bundle)) == f"pfx: {str(bundle)!r} holds no certificate"


def test_a_key_that_does_not_match_the_certificate(tmp_path: Path) -> None:
    key = load_key(make_certificate(tmp_path, name="one"))
    others = load_certificates(make_certificate(tmp_path, name="other").certificate)
    bundle = write_bundle(tmp_path / "server.pfx", key, None, others)
    assert (
        error_of(describe(bundle))
        == f"pfx: no certificate in {str(bundle)!r} matches its private key"
    )


def self_signed(key: Any) -> x509.Certificate:
    """A certificate for keys that no server should use."""
    name = x509.Name([])
    return (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )


def test_a_key_of_another_kind(tmp_path: Path) -> None:
    key = dsa.generate_private_key(1024)
    bundle = write_bundle(tmp_path / "server.pfx", key, self_signed(key))
    assert (
        error_of(describe(bundle))
        == f"pfx: the private key in {str(bundle)!r} is neither RSA nor EC nor Ed25519"
    )


EC_SECP160K1_BUNDLE = """
MIICfwIBAzCCAngGCSqGSIb3DQEHAaCCAmkEggJlMIICYTCCAaoGCSqGSIb3DQEHAaCCAZsEggGXMIIBkzCCAY8GCyqG
SIb3DQEMCgEDoIIBVzCCAVMGCiqGSIb3DQEJFgGgggFDBIIBPzCCATswgfqgAwIBAgIUbpKnA8lNsOwzYebts5QMDL2N
gQEwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBeDAgFw0yNjExMjIyMzU2NDdaGA8yMTI2MTAyOTIzNTY0N1owDDEKMAgG
A1UEAwwBeDA+MBAGByqGSM49AgEGBSuBBAAJAyoABFDSHQ55NZLtyzPNaXDBZat69m9ECIjIAMmA5tz4T2jtZOf45IHz
35WjUzBRMB0GA1UdDgQWBBQzPex5ccS31byfrNSWbV7vfI1xNTAfBgNVHSMEGDAWgBQzPex5ccS31byfrNSWbV7vfI1x
NTAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCAzAAMC0CFBQ4VJaSfpY98VnG6G6wvtcuoP03AhUA25nZmmWO8oVE
7pRo92KF0uIfeasxJTAjBgkqhkiG9w0BCRUxFgQU6S/C1M7FB+Lygz0CNJUUy3UZZDswgbAGCSqGSIb3DQEHAaCBogSB
nzCBnDCBmQYLKoZIhvcNAQwKAQGgYzBhAgEAMBAGByqGSM49AgEGBSuBBAAJBEowSAIBAQQVAAcUV0Wa9jtr1XafgENs
RRS+scsgoSwDKgAEUNIdDnk1ku3LM81pcMFlq3r2b0QIiMgAyYDm3PhPaO1k5/jkgfPflTElMCMGCSqGSIb3DQEJFTEW
BBTpL8LUzsUH4vKDPQI0lRTLdRlkOw==
"""
"""Not encrypted, self-signed, and on a curve too short for cryptography to make."""


def test_a_key_on_an_unknown_curve(tmp_path: Path) -> None:
    bundle = tmp_path / "server.pfx"
    bundle.write_bytes(b64decode(EC_SECP160K1_BUNDLE))
    message = error_of(describe(bundle))
    assert message.startswith(f"pfx: {str(bundle)!r} uses an unsupported algorithm: ")


def test_a_key_that_openssl_refuses(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 1024)
    bundle = write_bundle(tmp_path / "server.pfx", key, self_signed(key))
    message = error_of(describe(bundle))
    assert (
        message
        == f"pfx: TLS cannot use the key and the certificates of {str(bundle)!r}: ee key too small"
    )


def test_options_from_a_bundle_for_other_endpoints(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    options = pfx_certificate_options(str(make_pfx(certificate, PASSPHRASE)), PASSPHRASE)
    assert [options.certificate] == load_certificates(certificate.certificate)


# Handshakes


@pytest.mark.parametrize(
    "version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLSv1_2", "TLSv1_3"]
)
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
@pytest.mark.parametrize("key", KEY_TYPES)
@pytest_twisted.ensureDeferred
async def test_a_handshake(
    reactor: Any, tmp_path: Path, key: KeyType, passphrase: str | None, version: int
) -> None:
    certificate = make_certificate(tmp_path, key)
    arguments = {"passphrase": passphrase} if passphrase else {}
    description = describe(make_pfx(certificate, passphrase), interface="127.0.0.1", **arguments)
    async with listening(reactor, description) as port:
        presented = await shake_hands(reactor, port, certificate.root, version=version)
    assert presented == load_certificates(certificate.certificate)


@pytest.mark.parametrize("key", KEY_TYPES)
@pytest_twisted.ensureDeferred
async def test_the_chain_is_presented(reactor: Any, tmp_path: Path, key: KeyType) -> None:
    certificate = make_chain(tmp_path, key)
    async with listening(reactor, describe(make_pfx(certificate), interface="127.0.0.1")) as port:
        presented = await shake_hands(reactor, port, certificate.root)
    assert presented == load_certificates(certificate.certificate, certificate.chain)


@pytest_twisted.ensureDeferred
async def test_an_encrypted_pem_key_becomes_a_bundle_that_serves(
    reactor: Any, tmp_path: Path
) -> None:
    certificate = make_chain(tmp_path)
    pem = make_encrypted_pem(certificate, PASSPHRASE).read_bytes()
    key = load_pem_private_key(pem, PASSPHRASE.encode())
    leaf, *chain = x509.load_pem_x509_certificates(pem)
    bundle = write_bundle(tmp_path / "from.pfx", key, leaf, chain)
    async with listening(reactor, describe(bundle, interface="127.0.0.1")) as port:
        assert await shake_hands(reactor, port, certificate.root) == [leaf, *chain]


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest_twisted.ensureDeferred
async def test_a_handshake_over_ipv6(reactor: Any, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    async with listening(reactor, describe(make_pfx(certificate), interface="::1")) as port:
        presented = await shake_hands(reactor, port, certificate.root, host="::1")
    assert presented == load_certificates(certificate.certificate)


# Old versions: a ClientHello of our own, since the OpenSSL at hand may not know TLS 1.1 any more

TLS_1_1 = b"\x03\x02"
TLS_1_2 = b"\x03\x03"
HANDSHAKE = 22
ALERT = 21
SERVER_HELLO = 2
FATAL_PROTOCOL_VERSION = b"\x02\x46"
"""Level 2 and description 70 (RFC 5246, section 7.2)."""


def client_hello(version: bytes) -> bytes:
    """A ClientHello whose highest version is `version` (RFC 4346 and RFC 5246, section 7.4.1.2)."""

    def sized(width: int, content: bytes) -> bytes:
        return len(content).to_bytes(width, "big") + content

    # ECDHE-ECDSA and ECDHE-RSA, with AES-128-GCM for TLS 1.2 and with AES-128-CBC for both
    ciphers = bytes.fromhex("c02bc02fc009c013")
    extensions = b"".join(
        [
            bytes.fromhex("000a") + sized(2, sized(2, bytes.fromhex("00170018001d"))),  # the groups
            bytes.fromhex("000b") + sized(2, sized(1, b"\0")),  # points are not compressed
            bytes.fromhex("000d")
            + sized(2, sized(2, bytes.fromhex("0403080404010203"))),  # the signatures
        ]
    )
    body = (
        version
        + bytes(32)
        + sized(1, b"")
        + sized(2, ciphers)
        + sized(1, b"\0")
        + sized(2, extensions)
    )
    return bytes([HANDSHAKE]) + b"\x03\x01" + sized(2, b"\x01" + sized(3, body))


async def answer_to_hello(reactor: Any, port: int, version: bytes) -> bytes:
    """The first bytes of the server's answer: 5 of the record's header, 2 of its content."""
    client = Listener(7)
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), client)
    client.transport.write(client_hello(version))
    try:
        return (await client.done)[:7]
    finally:
        await client.closed


async def assert_refuses_tls_1_1(reactor: Any, port: int) -> None:
    answer = await answer_to_hello(reactor, port, TLS_1_2)
    assert (answer[0], answer[5]) == (HANDSHAKE, SERVER_HELLO), "the hello itself is no good"
    answer = await answer_to_hello(reactor, port, TLS_1_1)
    assert (answer[0], answer[5:]) == (ALERT, FATAL_PROTOCOL_VERSION)


@pytest_twisted.ensureDeferred
async def test_tls_1_1_is_refused(reactor: Any, tmp_path: Path) -> None:
    description = describe(make_pfx(make_certificate(tmp_path)), interface="127.0.0.1")
    async with listening(reactor, description) as port:
        await assert_refuses_tls_1_1(reactor, port)


def test_the_options_of_a_bundle_exclude_what_is_older_than_tls_1_2(tmp_path: Path) -> None:
    bundle = make_pfx(make_certificate(tmp_path))
    enabled = pfx_certificate_options(str(bundle)).getContext().set_options(0)
    older = SSL.OP_NO_SSLv3 | SSL.OP_NO_TLSv1 | SSL.OP_NO_TLSv1_1
    newer = SSL.OP_NO_TLSv1_2 | SSL.OP_NO_TLSv1_3
    assert enabled & (older | newer) == older


# The endpoints of Twisted that stand beside it


@pytest.mark.parametrize("key", KEY_TYPES)
@pytest_twisted.ensureDeferred
async def test_stock_ssl_with_key_and_certificate_in_one_file(
    reactor: Any, tmp_path: Path, key: KeyType
) -> None:
    certificate = make_certificate(tmp_path, key)
    async with listening(
        reactor, f"ssl:0:privateKey={certificate.pem}:interface=127.0.0.1"
    ) as port:
        presented = await shake_hands(reactor, port, certificate.root)
    assert presented == load_certificates(certificate.certificate)


@pytest_twisted.ensureDeferred
async def test_stock_ssl_presents_the_chain_of_its_own_file(reactor: Any, tmp_path: Path) -> None:
    certificate = make_chain(tmp_path)
    description = (
        f"ssl:0:privateKey={certificate.key}:certKey={certificate.certificate}"
        f":extraCertChain={certificate.chain}:interface=127.0.0.1"
    )
    async with listening(reactor, description) as port:
        presented = await shake_hands(reactor, port, certificate.root)
    assert presented == load_certificates(certificate.certificate, certificate.chain)


@pytest_twisted.ensureDeferred
async def test_stock_ssl_refuses_tls_1_1(reactor: Any, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    async with listening(
        reactor, f"ssl:0:privateKey={certificate.pem}:interface=127.0.0.1"
    ) as port:
        await assert_refuses_tls_1_1(reactor, port)
