"""Connections on which TLS is spoken by one end alone, or without success."""

from __future__ import annotations

import ssl

import pytest
from OpenSSL.SSL import Error, SysCallError, ZeroReturnError

from acebase_ipc.http.channel import tls_problem
from acebase_ipc.server.logging import LINES_PER_PERIOD, PERIOD
from acebase_ipc.testing import MemoryConnection, MemoryRelay, http_request

HOST = "192.0.2.1"


def connect(relay: MemoryRelay) -> MemoryConnection:
    """A connection of :data:`HOST` without TLS, whatever the port speaks."""
    assert relay.port is not None
    sock = relay.reactor.connect(relay.port, HOST)
    return MemoryConnection(relay.reactor, sock, relay.settle, secure=False)


def client_hello() -> bytes:
    """What a client sends first that speaks TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (http_request("GET", "/healthz"), "it speaks plain HTTP to a TLS port"),
        (b"CONNECT relay:9163 HTTP/1.1\r\n\r\n", "it speaks plain HTTP to a TLS port"),
        (b"\x16\x03\x01\x00\x05nonsense", ""),
    ],
)
def test_a_handshake_that_fails_is_reported(data: bytes, reason: str) -> None:
    relay = MemoryRelay(tls=True)
    connect(relay).send(data)
    (line,) = relay.logged(f"{HOST}:", f": no TLS: {reason}")
    assert not line.endswith(": no TLS: ")
    assert relay.server.counts == {"TLSFailed": 1}


def test_a_client_that_does_not_trust_the_certificate_is_reported() -> None:
    relay = MemoryRelay(tls=True)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    wire = connect(relay)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    wire.send(outgoing.read())
    incoming.write(wire.take())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.do_handshake()
    wire.send(outgoing.read())
    assert relay.logged(f"{HOST}:", ": no TLS: ", "unknown ca")


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01"])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_goes_away_is_not_reported(data: bytes, end: str) -> None:
    relay = MemoryRelay(tls=True)
    wire = connect(relay)
    wire.send(data)
    getattr(wire, end)()
    assert relay.server.counts == {}


def test_tls_to_a_port_without_tls_is_reported_and_closed() -> None:
    relay = MemoryRelay()
    wire = connect(relay)
    wire.send(client_hello())
    assert relay.logged(f"{HOST}:", ": no TLS: it speaks TLS to a port without TLS")
    assert wire.ended == "closed"
    assert wire.response().status == 400  # which a client takes for a "wrong version number"
    assert relay.server.counts == {"TLSFailed": 1}


def test_a_flood_of_failed_handshakes_does_not_fill_the_log() -> None:
    relay = MemoryRelay()
    hello = client_hello()
    for _ in range(LINES_PER_PERIOD + 7):
        connect(relay).send(hello)
    relay.pass_time(PERIOD + 2)
    assert len(relay.logged("no TLS")) == LINES_PER_PERIOD
    assert relay.logged("7 more lines of TLSFailed were left out")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Error([("SSL routines", "", "http request")]), "it speaks plain HTTP to a TLS port"),
        (Error([("a", "b", "no shared cipher"), ("a", "b", "more")]), "no shared cipher; more"),
        (Error([]), "the handshake has failed"),
        (Error(), "the handshake has failed"),
        (SysCallError(110, "ETIMEDOUT"), "ETIMEDOUT"),
        (ZeroReturnError(), "the handshake has failed"),
    ],
)
def test_the_reason_of_a_failed_handshake(error: Error, text: str) -> None:
    assert tls_problem(error) == text
