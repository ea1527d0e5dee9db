"""Which proxies are trusted, and whom they name as their clients."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.http_headers import Headers
from twisted.web.server import Site

from acebase_ipc.addresses import format_address
from acebase_ipc.http.proxies import MAX_PROXIES, TrustedProxies, parse_node
from acebase_ipc.http.tokens import FREE_FAILURES
from acebase_ipc.testing import DATABASE, MemoryConnection, MemoryRelay, http_request
from acebase_ipc.testing import upgrade_request as upgrade

# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1\t", "192.0.2.1"),
        ("192.0.2.1:5000", "192.0.2.1:5000"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:5000", "192.0.2.1:5000"),
    ],
)
def test_an_address_and_its_port(text: str, address: str) -> None:
    assert format_address(parse_node(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "unknown", "_hidden", "localhost", "192.0.2", "192.0.2.256", "192.0.2.1:"),
        *("192.0.2.1:a", "192.0.2.1:70000", "192.0.2.1 5", "[2001:db8::1", "fe80::1%eth0"),
        *("[192.0.2.1]:x", "1" * 999, "192.0.2.1\n", "१९२.0.2.1", "192.0.2.1:५"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    assert parse_node(text) is None


@pytest.mark.parametrize(
    ("networks", "address", "is_trusted"),
    [
        ((), IPv4Address("TCP", "127.0.0.1", 1), False),
        (("127.0.0.1/32",), IPv4Address("TCP", "127.0.0.1", 1), True),
        (("127.0.0.1/32",), IPv6Address("TCP", "::ffff:127.0.0.1", 1), True),
        (("127.0.0.1/32",), IPv4Address("TCP", "127.0.0.2", 1), False),
        (("10.0.0.0/8", "2001:db8::/32"), IPv6Address("TCP", "2001:db8::9", 1), True),
        (("fe80::/10",), IPv6Address("TCP", "fe80::1%eth0", 1), True),
        (("0.0.0.0/0", "::/0"), UNIXAddress(b""), False),
        (("unix",), UNIXAddress(None), True),
        (("unix",), IPv4Address("TCP", "127.0.0.1", 1), False),
        (("unix",), None, False),
    ],
)
def test_a_proxy_is_trusted_by_its_network(
    networks: tuple[str, ...], address: IAddress | None, is_trusted: bool
) -> None:
    proxies = TrustedProxies(networks)
    assert (address in proxies) == is_trusted
    assert bool(proxies) == bool(networks)


# Headers

SOCKET = "10.0.0.1:7"
TRUSTED = ("10.0.0.0/8",)


class Asked:
    """A request, as far as it tells its client."""

    def __init__(self, client: str, headers: dict[str, list[str]]) -> None:
        self.client = parse_node(client)
        self.requestHeaders = Headers(headers)


def client_of(
    headers: dict[str, list[str]], networks: tuple[str, ...] = TRUSTED, client: str = SOCKET
) -> str:
    """The client of a request with *headers* from *client*."""
    request: Any = Asked(client, headers)
    proxies = TrustedProxies(networks)
    proxies.identify(request)
    found = format_address(request.client)
    proxies.identify(request)
    assert format_address(request.client) == found, "it may be asked again"
    return found


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:5000", "192.0.2.1:5000"),
        ("2001:db8::1", "2001:db8::1"),
        ("198.51.100.9, 192.0.2.1", "192.0.2.1"),  # the client claims to be a proxy
        ("10.6.6.6, 192.0.2.1, 10.0.0.2,10.0.0.3", "192.0.2.1"),  # three trusted proxies
        ("nonsense, 192.0.2.1", "192.0.2.1"),
        ("10.0.0.9, 10.0.0.2", "10.0.0.9"),  # the client is in a trusted network
        ("192.0.2.1, nonsense", SOCKET),
        ("192.0.2.1, nonsense, 10.0.0.2", SOCKET),
        ("192.0.2.1,", SOCKET),
        ("unknown", SOCKET),
        ("", SOCKET),
    ],
)
def test_the_rightmost_address_that_is_no_proxys_counts(value: str, client: str) -> None:
    assert client_of({"X-Forwarded-For": [value]}) == client


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=192.0.2.1", "192.0.2.1"),
        ('For="192.0.2.1:5000"', "192.0.2.1:5000"),
        ('for="[2001:db8::1]:5000";proto=https;by=10.0.0.1', "[2001:db8::1]:5000"),
        ("proto=https; for=192.0.2.1 ; host=a", "192.0.2.1"),
        ('for=1.2.3.4, for=192.0.2.1, for="10.0.0.2"', "192.0.2.1"),
        ("for=unknown", SOCKET),
        ("for=_hidden", SOCKET),
        ("for=192.0.2.1, proto=http", SOCKET),
        ("xfor=192.0.2.1", SOCKET),
        ('for="192.0.2.1', SOCKET),
    ],
)
def test_forwarded_is_understood(value: str, client: str) -> None:
    assert client_of({"Forwarded": [value]}) == client


def test_lines_of_a_header_are_one_list() -> None:
    assert client_of({"X-Forwarded-For": ["1.2.3.4", "192.0.2.1, 10.0.0.2"]}) == "192.0.2.1"


def test_x_forwarded_for_takes_the_place_of_forwarded() -> None:
    headers = {"X-Forwarded-For": ["192.0.2.1"], "Forwarded": ["for=1.2.3.4"]}
    assert client_of(headers) == "192.0.2.1"


@pytest.mark.parametrize("networks", [(), ("127.0.0.1/32",), ("unix",)])
def test_another_client_may_claim_nothing(networks: tuple[str, ...]) -> None:
    headers = {"X-Forwarded-For": ["192.0.2.1"], "Forwarded": ["for=192.0.2.1"]}
    assert client_of(headers, networks) == SOCKET


def test_a_chain_of_proxies_has_a_bound() -> None:
    chain = ["192.0.2.1", *(f"10.0.0.{number}" for number in reversed(range(MAX_PROXIES)))]
    assert client_of({"X-Forwarded-For": [", ".join(chain)]}) == f"10.0.0.{MAX_PROXIES - 1}"


@given(st.sampled_from(["X-Forwarded-For", "Forwarded"]), st.text(st.characters(max_codepoint=255)))
def test_any_header_is_read(name: str, value: str) -> None:
    request: Any = Asked(SOCKET, {})
    request.requestHeaders.setRawHeaders(name, [value.encode("latin-1")])
    TrustedProxies(TRUSTED).identify(request)
    assert isinstance(request.client, IPv4Address | IPv6Address)


# In a relay

PROXY = "10.0.0.1"
CLIENTS = f"/{DATABASE}/clients?t=wrong"


def asked_by(relay: MemoryRelay, host: str, target: str, **headers: str) -> MemoryConnection:
    """A connection of *host* on which a GET was sent."""
    wire = relay.connect(host)
    wire.send(http_request("GET", target, **headers))
    return wire


def joined_by(relay: MemoryRelay, host: str, client_id: str, **headers: str) -> MemoryConnection:
    """A connection of *host* on which a WebSocket was asked for."""
    wire = relay.connect(host)
    wire.send(upgrade(f"/{DATABASE}/connect?id={client_id}&v=1", **headers))
    return wire


@pytest.mark.parametrize("tls", [False, True])
def test_a_refusal_names_the_client(tls: bool) -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, token="right", tls=tls)
    asked_by(relay, PROXY, CLIENTS, x_forwarded_for="192.0.2.1")
    asked_by(relay, "192.0.2.9", CLIENTS, x_forwarded_for="192.0.2.2")
    assert relay.logged("192.0.2.1 is refused: 401")
    assert relay.logged("192.0.2.9:", " is refused: 401")
    assert not relay.logged("192.0.2.2")


def test_a_peer_has_the_address_of_the_client() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED)
    wire = joined_by(relay, PROXY, "alice", forwarded='for="192.0.2.1:5000"')
    assert relay.logged("alice joined from 192.0.2.1:5000")
    wire.close()
    assert relay.logged("alice left, last connected from 192.0.2.1:5000")


def test_a_peer_has_the_address_of_a_client_that_a_proxy_header_names() -> None:
    relay = MemoryRelay(
        endpoints=("haproxy:tcp:9163:interface=127.0.0.1",), trust_proxy=("127.0.0.1",)
    )
    wire = relay.connect()
    wire.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n")
    wire.send(upgrade(f"/{DATABASE}/connect?id=alice&v=1", x_forwarded_for="1.2.3.4"))
    assert relay.logged("alice joined from 192.0.2.1:1111")


def test_a_proxy_behind_a_proxy_header_may_name_its_client() -> None:
    relay = MemoryRelay(
        endpoints=("haproxy:tcp:9163:interface=127.0.0.1",), trust_proxy=("127.0.0.1", *TRUSTED)
    )
    wire = relay.connect()
    wire.send(b"PROXY TCP4 10.0.0.2 192.0.2.2 1111 2222\r\n")
    wire.send(upgrade(f"/{DATABASE}/connect?id=alice&v=1", x_forwarded_for="192.0.2.1"))
    assert relay.logged("alice joined from 192.0.2.1 ")


def test_guesses_are_counted_for_each_client_of_a_proxy() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, token="right")
    for _ in range(FREE_FAILURES):
        wire = asked_by(relay, PROXY, CLIENTS, x_forwarded_for="192.0.2.1")
        assert wire.response().status == 401
    assert asked_by(relay, PROXY, CLIENTS, x_forwarded_for="192.0.2.1").take() == b""
    assert relay.logged("192.0.2.1 presents many wrong tokens")
    assert asked_by(relay, PROXY, CLIENTS, x_forwarded_for="192.0.2.2").response().status == 401


def test_connections_are_counted_for_each_client_of_a_proxy() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, max_address_connections=2)
    first = joined_by(relay, PROXY, "worker1", x_forwarded_for="192.0.2.1")
    joined_by(relay, PROXY, "worker2", x_forwarded_for="192.0.2.1")
    third = joined_by(relay, PROXY, "worker3", x_forwarded_for="192.0.2.1")
    assert third.response().status == 503
    other = joined_by(relay, PROXY, "worker4", x_forwarded_for="192.0.2.2")
    assert other.response().status == 101
    first.close()
    assert joined_by(relay, PROXY, "worker5", x_forwarded_for="192.0.2.1").response().status == 101


def test_a_connection_of_a_proxy_is_counted_for_whom_it_serves() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, max_address_connections=1)
    kept = relay.connect(PROXY)
    for client in ("192.0.2.1", "192.0.2.2"):
        kept.send(http_request("GET", f"/{DATABASE}/clients", x_forwarded_for=client))
        assert kept.response().status == 200
    # It serves nobody now.
    assert joined_by(relay, PROXY, "worker1", x_forwarded_for="192.0.2.2").response().status == 101
    kept.send(http_request("GET", f"/{DATABASE}/clients", x_forwarded_for="192.0.2.2"))
    assert kept.response().status == 503
    site = relay.server._parts.site
    relay.settle()
    assert (len(site.channels), sum(site._hosts.values())) == (0, 0)


def test_a_health_check_is_answered_beyond_the_limit_of_its_client() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, max_address_connections=1)
    joined_by(relay, PROXY, "worker1", x_forwarded_for="192.0.2.1")
    wire = asked_by(relay, PROXY, "/healthz", x_forwarded_for="192.0.2.1")
    assert wire.response().text == "ok"


def test_a_proxy_itself_may_have_many_connections() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, max_address_connections=1)
    waiting = [relay.connect(PROXY) for _ in range(20)]
    for number, wire in enumerate(waiting):
        wire.send(http_request("GET", "/x/clients", x_forwarded_for=f"192.0.2.{number}"))
        assert wire.response().status == 200


def test_a_request_that_takes_too_long_names_the_client() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, request_timeout=5)
    relay.join("alice")
    wire = relay.connect(PROXY)
    target = f"/{DATABASE}/send?id=alice"
    request = http_request("POST", target, b"body", x_forwarded_for="192.0.2.1")
    wire.send(request[:-1])
    relay.pass_time(7)
    assert relay.logged("the connection of 192.0.2.1 is closed: a request")


def test_a_message_that_is_too_large_names_the_client() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, max_message=1024 * 1024)
    relay.join("alice")
    wire = relay.connect(PROXY)
    body = b"x" * (1024 * 1024 + 1)
    target = f"/{DATABASE}/send?id=alice"
    wire.send(http_request("POST", target, body, x_forwarded_for="192.0.2.1"))
    assert relay.logged("a message of alice from 192.0.2.1 is lost")


def test_proxies_are_trusted_where_the_relay_is_mounted() -> None:
    relay = MemoryRelay(trust_proxy=TRUSTED, port=None, token="right")
    relay.reactor.listenTCP(8080, Site(relay.server.resource(), reactor=relay.reactor))
    relay.port = relay.reactor.ports[-1]
    asked_by(relay, PROXY, CLIENTS, x_forwarded_for="192.0.2.1")
    assert relay.logged("192.0.2.1 is refused: 401")
    joined_by(relay, PROXY, "alice", x_forwarded_for="192.0.2.2", authorization="Bearer right")
    assert relay.logged("alice joined from 192.0.2.2 ")
