"""The PROXY protocol, as HAProxy and others speak it."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from acebase_ipc.proxy_protocol import MAX_V1, V2_PREFIX, Header, parse_header
from acebase_ipc.testing import MemoryRelay, http_head

IPV4 = (IPv4Address("TCP", "192.0.2.1", 1111), IPv4Address("TCP", "192.0.2.2", 2222))
IPV6 = (IPv6Address("TCP", "2001:db8::1", 1111), IPv6Address("TCP", "2001:db8::2", 2222))
UNIX = (UNIXAddress(b"/from"), UNIXAddress(b"/to"))
NONE = (None, None)

HAPROXY: dict[str, Any] = {
    "endpoints": ("haproxy:tcp:9163:interface=127.0.0.1",),
    "trust_proxy": ("127.0.0.1", "192.0.2.1"),
}


def v2(command: int, family: int, addresses: bytes) -> bytes:
    return V2_PREFIX + struct.pack("!BBH", command, family, len(addresses)) + addresses


FOUR = struct.pack("!4s4s2H", bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]), 1111, 2222)
SIX = struct.pack(
    "!16s16s2H",
    socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
    socket.inet_pton(socket.AF_INET6, "2001:db8::2"),
    1111,
    2222,
)

HEADERS = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n", IPV4),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 1111 2222\r\n", IPV6),
    (b"PROXY UNKNOWN\r\n", NONE),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", NONE),
    (v2(0x21, 0x11, FOUR), IPV4),
    (v2(0x21, 0x11, FOUR + b"\x03\x00\x04abcd"), IPV4),  # with a TLV
    (v2(0x21, 0x21, SIX), IPV6),
    (v2(0x21, 0x31, struct.pack("!108s108s", b"/from", b"/to")), UNIX),
    (v2(0x20, 0x00, b""), NONE),  # LOCAL: the proxy's own health check
    (v2(0x20, 0x11, FOUR), NONE),
    (v2(0x21, 0x00, b""), NONE),
]


@pytest.mark.parametrize(("data", "addresses"), HEADERS)
def test_a_header_tells_the_addresses(data: bytes, addresses: tuple[object, object]) -> None:
    header = parse_header(data + b"GET /")
    assert header is not None
    assert (header.source, header.destination) == addresses
    assert header.size == len(data)


@pytest.mark.parametrize(("data", "addresses"), HEADERS)
def test_a_header_may_come_in_pieces(data: bytes, addresses: object) -> None:
    assert [parse_header(data[:size]) for size in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXY\r\n",
        b"PROXY TCP4\r\n",
        b"PROXYTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -2\r\n",
        b"PROXY TCP4 2001:db8::1 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4 \xff 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 " + b"1" * MAX_V1,
        v2(0x11, 0x11, FOUR),
        v2(0x22, 0x11, FOUR),
        v2(0x21, 0x11, FOUR[:-1]),
        v2(0x21, 0x21, FOUR),
        V2_PREFIX[:-1] + b"x",
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"PROXY|IPv4|Expected|ascii"):
        parse_header(data)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: V2_PREFIX + data))
@example(b"")
def test_any_bytes_are_a_header_or_none_or_wrong(data: bytes) -> None:
    try:
        header = parse_header(data)
    except ValueError:
        return
    assert header is None or isinstance(header, Header)


@pytest.mark.parametrize("size", [1, 5, 12, 1000])
@pytest.mark.parametrize("data", [each[0] for each in HEADERS])
def test_a_relay_serves_whatever_the_header_and_its_pieces(data: bytes, size: int) -> None:
    relay = MemoryRelay(**HAPROXY)
    wire = relay.connect()
    request = data + http_head("GET", "/healthz")
    wire.send(*(request[start : start + size] for start in range(0, len(request), size)))
    assert wire.response().text == "ok"


def test_the_log_shows_the_clients_address() -> None:
    relay = MemoryRelay(**HAPROXY)
    relay.connect().send(HEADERS[0][0] + http_head("GET", "/nothing"))
    assert relay.logged("192.0.2.1:1111 is refused: 404")


@pytest.mark.parametrize(
    "rest", [b"GET / HTTP/1.1\r\n\r\n\r\n", b"GET  / HTTP/1.1\r\n", b"\0" * 20_000]
)
def test_what_cannot_be_parsed_has_the_clients_address(rest: bytes) -> None:
    relay = MemoryRelay(**HAPROXY)
    relay.connect().send(HEADERS[0][0] + rest)
    assert relay.logged("192.0.2.1:1111 is refused: 4")


def test_a_request_that_does_not_come_has_the_clients_address() -> None:
    relay = MemoryRelay(**HAPROXY, handshake_timeout=5)
    relay.connect().send(HEADERS[0][0] + b"GET /")
    relay.pass_time(7)
    assert relay.logged("the connection of 192.0.2.1:1111 is closed: a request")


@pytest.mark.parametrize("data", [HEADERS[0][0], b"GET / HTTP/1.1\r\n\r\n", b"P"])
def test_a_connection_of_another_host_is_refused(data: bytes) -> None:
    relay = MemoryRelay(**HAPROXY)
    wire = relay.connect("192.0.2.9")
    wire.send(data)
    assert wire.ended == "reset"
    assert wire.take() == b""
    assert relay.logged("192.0.2.9:", "is refused: 400 it is no trusted proxy (--trust-proxy)")


@pytest.mark.parametrize(("second", "is_trusted"), [("192.0.2.1", True), ("192.0.2.9", False)])
def test_each_of_two_headers_has_to_come_from_a_trusted_proxy(
    second: str, is_trusted: bool
) -> None:
    relay = MemoryRelay(**HAPROXY | {"endpoints": ("haproxy:haproxy:tcp:9163",)})
    wire = relay.connect()
    wire.send(b"PROXY TCP4 %s 192.0.2.2 1111 2222\r\n" % second.encode())
    wire.send(b"PROXY TCP4 192.0.2.7 192.0.2.2 3333 2222\r\n" + http_head("GET", "/nothing"))
    assert bool(relay.logged("192.0.2.7:3333 is refused: 404")) == is_trusted
    assert (wire.ended == "reset") != is_trusted


def test_a_connection_without_a_header_is_closed_and_reported() -> None:
    relay = MemoryRelay(**HAPROXY)
    wire = relay.connect()
    wire.send(http_head("GET", "/healthz"))
    assert wire.ended == "reset"
    assert wire.take() == b""
    assert relay.logged("is refused: 400 no PROXY header")


def test_a_connection_whose_header_does_not_come_is_closed_in_time() -> None:
    relay = MemoryRelay(**HAPROXY, handshake_timeout=5)
    wire = relay.connect()
    wire.send(b"PROXY ")
    relay.pass_time(7)
    assert wire.ended is not None
