"""Request lines and header lines, values in and values out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel

from acebase_ipc.http.errors import BadRequest
from acebase_ipc.http.head import RequestLine, parse_header, parse_request_line


@pytest.mark.parametrize(
    ("target", "path", "authority"),
    [
        (b"/", b"/", None),
        (b"/db/send?id=a%20b&t=x==", b"/db/send?id=a%20b&t=x==", None),
        (b"*", b"*", None),
        (b"http://127.0.0.1/healthz", b"/healthz", b"127.0.0.1"),
        (b"HTTP://localhost:9163", b"/", b"localhost:9163"),
        (b"https://[::1]:80?x=y", b"/?x=y", b"[::1]:80"),
        ("/café".encode("latin-1"), b"/caf%C3%A9", None),
        ("/漢".encode(), b"/%E6%BC%A2", None),
    ],
)
def test_a_target_is_taken_in_origin_form(
    target: bytes, path: bytes, authority: bytes | None
) -> None:
    line = b"GET " + target + b" HTTP/1.1"
    assert parse_request_line(line) == RequestLine(b"GET", path, b"HTTP/1.1", authority)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / HTTP/2.0",
        b"GET / http/1.1",
        b"G@T / HTTP/1.1",
        b"GET x HTTP/1.1",
        b"GET \x01 HTTP/1.1",
        b"GET ftp://127.0.0.1/ HTTP/1.1",
        b"GET http:///path HTTP/1.1",
        b"GET http://user@host/ HTTP/1.1",
        b"CONNECT 127.0.0.1:80 HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    ],
)
def test_another_request_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_request_line(line)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        (b"Host: localhost", b"host", b"localhost"),
        (b"X-Y:z", b"x-y", b"z"),
        (b"x: \t y z \t", b"x", b"y z"),
        (b"x:", b"x", b""),
        (b"x: a:b", b"x", b"a:b"),
        (b"Content-Length: " + b"9" * 32, b"content-length", b"9" * 32),
    ],
)
def test_a_header_has_a_name_and_a_value(line: bytes, name: bytes, value: bytes) -> None:
    assert parse_header(line) == (name, value)


@pytest.mark.parametrize(
    "line",
    [
        b"no colon",
        b": value",
        b"a b: c",
        b"x : y",
        b"x: \0",
        b"x: a\rb",
        b"Content-Length:",
        b"content-length: " + b"1" * 33,
        b"Content-Length: " + b"1" * 5000,
    ],
)
def test_another_header_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_header(line)


class Channel(HTTPChannel):
    """Twisted's own channel, as far as it parses a head."""

    def allHeadersReceived(self) -> None:
        self.complete = True

    def allContentReceived(self) -> None: ...


PIECES = st.sampled_from(
    [b"GET", b"POST", b" ", b"/", b"/x?y", b"HTTP/1.1", b"HTTP/1.0", b"*", b":", b"x", b"\t", b"@"]
)


@given(st.lists(PIECES, max_size=7).map(b"".join) | st.binary(max_size=30))
def test_twisted_accepts_what_passes(line: bytes) -> None:
    if b"\r\n" in line:
        return
    try:
        parsed = parse_request_line(line)
    except BadRequest:
        return
    transport = StringTransport()
    channel = Channel()
    channel.timeOut = None
    channel.makeConnection(transport)
    channel.lineReceived(b" ".join((parsed.method, parsed.target, parsed.version)))
    assert transport.value() == b""


@given(st.lists(PIECES, max_size=7).map(b"".join) | st.binary(max_size=30))
def test_twisted_accepts_a_header_that_passes(line: bytes) -> None:
    if b"\r\n" in line or not line or line[:1] in b" \t":
        return
    try:
        parse_header(line)
    except BadRequest:
        return
    transport = StringTransport()
    channel = Channel()
    channel.timeOut = None
    channel.makeConnection(transport)
    channel.lineReceived(b"GET / HTTP/1.1")
    channel.lineReceived(line)
    channel.lineReceived(b"")
    assert (transport.value(), channel.complete) == (b"", True)
