"""The PROXY protocol, as HAProxy and others speak it."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from acebase_ipc.server.proxy_protocol import MAX_V1, V2_PREFIX, Header, parse_header
from acebase_ipc.testing import MemoryRelay, http_head

IPV4 = (IPv4Address("TCP", "192.0.2.1", 1111), IPv4Address("TCP", "192.0.2.2", 2222))
IPV6 = (IPv6Address("TCP", "2001:db8::1", 1111), IPv6Address("TCP", "2001:db8::2", 2222))
UNIX = (UNIXAddress(b"/from"), UNIXAddress(b"/to"))
NONE = (None, None)


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
    relay = MemoryRelay(endpoints=("haproxy:tcp:9163:interface=127.0.0.1",))
    wire = relay.connect()
    request = data + http_head("GET", "/healthz")
    wire.send(*(request[start : start + size] for start in range(0, len(request), size)))
    assert wire.response().text == "ok"


def test_the_log_shows_the_clients_address() -> None:
    relay = MemoryRelay(endpoints=("haproxy:tcp:9163:interface=127.0.0.1",))
    relay.connect().send(HEADERS[0][0] + http_head("GET", "/nothing"))
    assert relay.logged("192.0.2.1", "404")


def test_a_connection_without_a_header_is_closed_and_reported() -> None:
    relay = MemoryRelay(endpoints=("haproxy:tcp:9163:interface=127.0.0.1",))
    wire = relay.connect()
    wire.send(http_head("GET", "/healthz"))
    assert wire.ended == "reset"
    assert wire.take() == b""
    assert relay.logged("is refused: 400 no PROXY header")


def test_a_connection_whose_header_does_not_come_is_closed_in_time() -> None:
    relay = MemoryRelay(endpoints=("haproxy:tcp:9163:interface=127.0.0.1",), handshake_timeout=5)
    wire = relay.connect()
    wire.send(b"PROXY ")
    relay.pass_time(7)
    assert wire.ended is not None
