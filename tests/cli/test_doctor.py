"""What ``doctor`` finds on the way to a relay, and where there is none."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from acebase_ipc.cli.diagnosis import transport
from acebase_ipc.cli.diagnosis.probes import Target
from acebase_ipc.cli.diagnosis.transport import examine_address
from acebase_ipc.client.url import parse_url
from tests.certificates import Certificate, make_certificate, make_chain, make_expired
from tests.cli.cluster import DATABASE, Cluster, PlayedPeer, Served
from tests.cli.conftest import ClientCommand, Outcome, finish, start
from tests.cli.servers import closed_port, proxy, saying, serving
from tests.integration.relay_process import (
    RelayProcess,
    endpoint,
    on_loopback,
    running_relay,
)
from tests.relay.locks import worker_id


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found."""

    status: int
    findings: list[Any]

    def texts(self, subject: str) -> list[str]:
        """The findings about *subject*, each with its level and advice."""
        return [
            f"{each['level']}: {each['text']} -> {each['advice']}"
            for each in self.findings
            if each["subject"] == subject
        ]

    @property
    def error(self) -> str:
        """The only error."""
        (found,) = (each for each in self.findings if each["level"] == "error")
        assert self.status == 1
        assert found["advice"]
        return f"{found['subject']}: {found['text']} -> {found['advice']}"


def diagnosis(outcome: Outcome) -> Diagnosis:
    assert outcome.errors == ""
    findings = json.loads(outcome.output)
    assert findings["ok"] == (outcome.status == 0)
    return Diagnosis(outcome.status, findings["findings"])


@pytest_twisted.ensureDeferred
async def test_a_healthy_relay(
    client_command: ClientCommand, relay: Served, played: Cluster
) -> None:
    options = ("--database", DATABASE, "--idle", "0.1")
    shown = await client_command("doctor", relay.url, *options)

    assert (shown.status, shown.errors) == (0, "")
    levels = [line.split()[0] for line in shown.lines]
    assert set(levels) == {"ok", "skipped"}
    assert f"ok      database: {DATABASE!r} has a master and 2 other peers" in shown.lines
    assert any("idle: a connection without messages lasts 100 ms" in each for each in shown.lines)


def test_in_a_process_of_its_own(relay: Served) -> None:
    ended = finish(start("doctor", relay.url))

    assert (ended.status, ended.errors) == (0, "")
    assert "large messages: one of 2.0 MiB is back" in ended.output


@pytest_twisted.ensureDeferred
async def test_a_database_without_a_master(client_command: ClientCommand, relay: Served) -> None:
    with PlayedPeer(relay.port, worker_id(1), "books_data"):
        found = diagnosis(
            await client_command("doctor", relay.url, "--database", "books_data", "--json")
        )
        other = diagnosis(
            await client_command("doctor", relay.url, "--database", "books", "--json")
        )
    nobody = diagnosis(await client_command("doctor", relay.url, "--database", "none", "--json"))

    assert "has 1 peer, but no master" in found.error
    assert "start the process with role 'master'" in found.error
    assert "nobody is connected to 'books', but 1 to 'books_data'" in other.error
    assert "nobody is connected to 'none'" in nobody.error


@pytest_twisted.ensureDeferred
async def test_a_closed_port(client_command: ClientCommand) -> None:
    found = diagnosis(await client_command("doctor", f"ws://127.0.0.1:{closed_port()}", "--json"))

    assert found.error.startswith("TCP: no connection to 127.0.0.1 port")
    assert "start the relay" in found.error


@pytest_twisted.ensureDeferred
async def test_a_host_without_an_address(client_command: ClientCommand) -> None:
    found = diagnosis(await client_command("doctor", "ws://relay.invalid", "--json"))

    assert found.error.startswith("DNS: 'relay.invalid' has no address")


def test_a_host_of_whose_addresses_one_works(
    relay: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like localhost where the relay listens on 127.0.0.1 alone."""
    addresses = [("127.0.0.1", closed_port()), ("127.0.0.1", relay.port)]
    monkeypatch.setattr(Target, "resolve", lambda _: addresses)
    _, found = examine_address(Target(parse_url(relay.url), "a", None, None))

    assert found.level == "warning"
    assert "Node.js 18 tries only the first address" in found.advice


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_mistaken_for_a_status(client_command: ClientCommand) -> None:
    found = diagnosis(await client_command("doctor", "ws://127.0.0.1:40900", "--json"))

    assert "contains 409" in found.texts("port")[0]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            b"HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\nhello",
            "this is no relay (answered 200, through nginx: hello)",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\n\r\nno such page",
            "this is no relay (answered 404: no such page)",
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\nNot found", "check the path of the URL"),
        (b"HTTP/1.1 301 Moved\r\nLocation: https://a/\r\n\r\n", "use https://a/"),
        (b"HTTP/1.1 502 Bad Gateway\r\nVia: 1.1 edge\r\n\r\n", "the proxy cannot reach the relay"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "takes no more clients"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "another handshake",
        ),
        (b"SSH-2.0-server\r\n", "speaks no HTTP"),
        (b"", "no HTTP"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_relay(client_command: ClientCommand, answer: bytes, says: str) -> None:
    with saying(answer) as port:
        found = diagnosis(await client_command("doctor", f"ws://127.0.0.1:{port}", "--json"))

    assert says in found.error


def without_upgrade(head: bytes) -> bytes:
    """What a proxy sends that does not know WebSockets."""
    return head.replace(b"Upgrade: websocket\r\nConnection: Upgrade", b"Connection: close")


def only_websockets(head: bytes) -> bytes:
    """What a proxy sends to another server: here, to a path that does not exist."""
    return head if b"Upgrade: websocket" in head else head.replace(b" /", b" /elsewhere/", 1)


def decoded(head: bytes) -> bytes:
    """What a proxy sends that takes '+' for a space."""
    return head.replace(b"%2B", b"%20")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_upgrade, "proxy_set_header Upgrade $http_upgrade"),
        (only_websockets, "plain HTTP requests do not reach the relay"),
        (decoded, "the query of a request arrives changed"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_proxy_that_changes_requests(
    client_command: ClientCommand, relay: Served, change: Any, says: str
) -> None:
    with proxy(relay.port, change) as port:
        found = diagnosis(await client_command("doctor", f"ws://127.0.0.1:{port}", "--json"))

    assert says in found.error


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_cuts_silent_connections(
    client_command: ClientCommand, relay: Served
) -> None:
    with proxy(relay.port, lambda head: head, lifetime=1.0) as port:
        options = ("--idle", "30", "--json")
        found = diagnosis(await client_command("doctor", f"ws://127.0.0.1:{port}", *options))

    assert found.error.startswith("idle: a connection without messages was cut after ")
    assert "proxy_read_timeout" in found.error


@pytest_twisted.ensureDeferred
async def test_a_host_name_that_a_relay_on_loopback_does_not_know(
    client_command: ClientCommand, relay: Served
) -> None:
    def rename(head: bytes) -> bytes:
        return head.replace(b"Host: 127.0.0.1", b"Host: relay.example.org")

    with proxy(relay.port, rename) as port:
        found = diagnosis(await client_command("doctor", f"ws://127.0.0.1:{port}", "--json"))

    assert found.error.startswith("host: ")
    assert "--allow-host" in found.error


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RelayProcess, Certificate, Path]]:
    """A relay with two ports, one with TLS, with a token and a small maxPayload."""
    directory = tmp_path_factory.mktemp("secured")
    certificate = make_chain(directory)
    tokens = directory / "tokens"
    tokens.write_text("a+b/c==\n")
    options = ("--token-file", str(tokens), "--max-payload", "16KiB")
    ports = (
        on_loopback(),
        on_loopback("ssl", privateKey=certificate.pem, extraCertChain=certificate.chain),
    )
    with running_relay(*ports, options=options) as process:
        yield process, certificate, tokens


Secured = tuple[RelayProcess, Certificate, Path]


@pytest_twisted.ensureDeferred
async def test_a_small_max_payload_behind_tls(
    client_command: ClientCommand, secured: Secured
) -> None:
    process, certificate, tokens = secured
    options = ("--ca", str(certificate.root), "--token-file", str(tokens), "--json")
    url = f"wss://localhost:{process.addresses[1].port}"
    found = diagnosis(await client_command("doctor", url, *options))

    assert found.error.startswith("maxPayload: it is 16 KiB behind TLS")
    assert "--max-payload 16MiB" in found.error
    assert found.texts("token") == ["ok: it is required, and accepted -> "]
    assert any("valid until 2100-01-01" in each for each in found.texts("TLS"))


@pytest_twisted.ensureDeferred
async def test_tokens(client_command: ClientCommand, secured: Secured, tmp_path: Path) -> None:
    process, _, tokens = secured
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    url = f"ws://127.0.0.1:{process.addresses[0].port}"
    without = diagnosis(await client_command("doctor", url, "--json"))
    refused = diagnosis(await client_command("doctor", url, "--json", "--token-file", str(wrong)))
    accepted = diagnosis(await client_command("doctor", url, "--json", "--token-file", str(tokens)))

    def strip(head: bytes) -> bytes:
        return b"\r\n".join(
            line for line in head.split(b"\r\n") if not line.startswith(b"Authorization")
        )

    with proxy(process.addresses[0].port, strip) as port:
        options = ("--json", "--token-file", str(tokens))
        stripped = diagnosis(await client_command("doctor", f"ws://127.0.0.1:{port}", *options))

    assert "the relay requires a token" in without.error
    assert "check the token" in refused.error
    for each in (without, refused):
        assert "goes on without the relay" in each.texts("processes")[0]
    assert accepted.status == 0
    assert accepted.texts("processes") == []
    assert "pass on the header Authorization" in stripped.texts("token")[0]


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_not_served(client_command: ClientCommand) -> None:
    with running_relay(options=("--database", "books_*")) as process:
        url = f"ws://127.0.0.1:{process.address.port}"
        refused = diagnosis(await client_command("doctor", url, "--json"))
        options = ("--database", "books_data", "--json")
        served = diagnosis(await client_command("doctor", url, *options))

    assert refused.error.startswith("database: 'acebase-ipc-doctor' is not served")
    assert "token" not in {each["subject"] for each in served.findings if each["level"] == "error"}


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_trusted(
    client_command: ClientCommand, secured: Secured, tmp_path: Path
) -> None:
    process, certificate, _ = secured
    other = make_certificate(tmp_path, name="other")
    url = f"wss://localhost:{process.addresses[1].port}"
    unknown = diagnosis(await client_command("doctor", url, "--json", "--ca", str(other.root)))
    named = diagnosis(
        await client_command(
            "doctor",
            url.replace("localhost", "127.1"),
            *("--json", "--ca", str(certificate.root)),
        )
    )

    assert unknown.error.startswith("TLS: the certificate is not accepted: ")
    assert "NODE_EXTRA_CA_CERTS" in unknown.error
    (processes,) = unknown.texts("processes")
    assert "goes on without the relay, and uses the files without locks" in processes
    assert "or a certificate for this one" in named.error


@pytest_twisted.ensureDeferred
async def test_an_expired_certificate(client_command: ClientCommand, tmp_path: Path) -> None:
    certificate = make_expired(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.pem)

    def serve(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).close()

    with serving(serve) as port:
        url = f"wss://localhost:{port}"
        found = diagnosis(
            await client_command("doctor", url, "--json", "--ca", str(certificate.root))
        )

    texts = found.texts("TLS")
    assert "certificate has expired" in texts[0]
    assert "renew it" in texts[0]
    assert "has expired on 2021-01-01" in texts[1]


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_expires_soon(
    client_command: ClientCommand, secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, certificate, _ = secured
    monkeypatch.setattr(transport, "now", lambda: datetime(2099, 12, 20, tzinfo=UTC))
    url = f"wss://localhost:{process.addresses[1].port}"
    found = diagnosis(await client_command("doctor", url, "--json", "--ca", str(certificate.root)))

    assert any(each.startswith("warning: the certificate expires") for each in found.texts("TLS"))


@pytest_twisted.ensureDeferred
async def test_a_scheme_that_is_not_the_port_s(
    client_command: ClientCommand, secured: Secured
) -> None:
    process, _, _ = secured
    secure = process.addresses[1]
    as_plain = diagnosis(await client_command("doctor", f"ws://127.0.0.1:{secure.port}", "--json"))
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        as_secure = diagnosis(await client_command("doctor", f"wss://localhost:{port}", "--json"))

    assert "write wss:// in place of ws://" in as_plain.error
    assert "write ws:// in place of wss://" in as_secure.error


@pytest_twisted.ensureDeferred
async def test_a_unix_socket(client_command: ClientCommand, tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    absent = diagnosis(await client_command("doctor", f"ws+unix:{path}", "--json"))
    with running_relay(endpoint("unix", str(path))):
        present = diagnosis(await client_command("doctor", f"ws+unix:{path}", "--json"))

    assert absent.error.startswith("socket: no connection")
    assert present.status == 0
