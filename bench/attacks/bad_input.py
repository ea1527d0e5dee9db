"""Invalid input, and the answer that the relay has to give."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from bench.attacks.peers import DEADLINE, Address, frame, http, upgrade

JOIN = "/honest/connect?id=mallory&v=1.0.0"
SEND = "POST /honest/send?id=honest-one"
CLOSED = 0
"""Stands for a connection that ends without an answer."""


@dataclass(frozen=True, slots=True)
class BadInput:
    """One invalid input.

    :ivar kind: what is invalid in it.
    :ivar data: the bytes sent first.
    :ivar answer: the HTTP status or WebSocket close code expected.
    :ivar frames: the bytes sent over the WebSocket that *data* opens.
    :ivar guarded: whether it is for a relay that requires a token.
    """

    kind: str
    data: bytes
    answer: int
    frames: bytes = b""
    guarded: bool = False


def _tokens() -> Iterator[BadInput]:
    # No more than ten: the eleventh answer in a minute takes two seconds.
    for token in ("", "&t=", "&t=wrong", "&t=the-right-toke", "&t=the-right-token%00", "&t=%FF"):
        yield BadInput("token", upgrade(JOIN + token), 403, guarded=True)
    yield BadInput("token", http("GET /honest/clients?t=wrong"), 401, guarded=True)
    yield BadInput("token", http(f"{SEND}&t=wrong", "Content-Length: 1"), 401, guarded=True)
    for bearer in ("Bearer wrong", "Bearer \xff"):
        head = http("GET /honest/clients", f"Authorization: {bearer}")
        yield BadInput("token", head, 401, guarded=True)


def _pages() -> Iterator[BadInput]:
    lines = ("GET /healthz", "GET /honest/clients", f"{SEND}", "OPTIONS /healthz", "GET /nothing")
    for origin in ("https://evil.example", "null", "http://localhost"):
        yield BadInput("web page", upgrade(JOIN, f"Origin: {origin}"), 403)
        for line in lines:
            yield BadInput("web page", http(line, f"Origin: {origin}"), 403)
    for host in ("evil.example", "localhost.evil.example:9163", "192.0.2.1", "0.0.0.0"):
        for data in (upgrade(JOIN), *map(http, lines)):
            rebound = data.replace(b"Host: 127.0.0.1", b"Host: " + host.encode())
            yield BadInput("rebound name", rebound, 403)


def _handshakes() -> Iterator[BadInput]:
    for version in ("", "&v=", "&v=0", "&v=2.0.0", "&v=11", "&v=x"):
        yield BadInput("version", upgrade(f"/honest/connect?id=mallory{version}"), 409)
    for client_id in ("", "&id=", "&id=four", "&id=a;bcde", "&id=%00bcde", "&id=" + "x" * 129):
        yield BadInput("id", upgrade(f"/honest/connect?v=1{client_id}"), 500)
    for name in ("%00", "%0A", "x" * 201, "%C2%85", ""):
        yield BadInput("database name", upgrade(f"/{name}/connect?id=mallory&v=1"), 400)
    yield BadInput("dialect", upgrade(JOIN + "&dialect=klingon"), 400)
    whole = upgrade(JOIN)
    yield BadInput("upgrade", http("GET /honest/connect?id=mallory&v=1"), 426)
    for part, replacement, answer in (
        (b"Upgrade: websocket", b"Upgrade: h2c", 426),
        (b"Connection: Upgrade", b"Connection: close", 400),
        (b"Version: 13", b"Version: 7", 400),
        (b"Version: 13", b"Version: x", 400),
        (b"Sec-WebSocket-Key: dGhl", b"Sec-WebSocket-Key: ", 400),
        (b"Host: 127.0.0.1", b"Host: 127.0.0.1:port", 400),
        (b"HTTP/1.1", b"HTTP/1.0", 505),
    ):
        yield BadInput("upgrade", whole.replace(part, replacement), answer)


def _requests() -> Iterator[BadInput]:
    for path in ("/", "/nothing", "/honest/", "/honest/nothing", "/honest/send/more", "/connect"):
        yield BadInput("path", http(f"GET {path}"), 404)
    for line in (
        "DELETE /honest/clients",
        "GET /honest/send",
        "PUT /healthz",
        "POST /honest/receive",
    ):
        yield BadInput("method", http(line, "Content-Length: 0"), 405)
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"GET\r\n\r\n",
        http("GET /healthz", "no colon"),
        http("GET /healthz", "a b: c"),
        http("GET /healthz", "x: \x00"),
        http("GET /healthz", "Host: 127.0.0.1"),
        http("GET /healthz", "Content-Length: " + "1" * 5_000),
        http("GET ftp://127.0.0.1/healthz"),
        http("GET http://user@127.0.0.1/healthz"),
        http("GET /healthz").replace(b"HTTP/1.1", b"HTTP/2.0"),
        http(SEND, "Content-Length: -1"),
        http(SEND, "Content-Length: 1", "Content-Length: 2"),
        http(SEND, "Content-Length: 1", "Transfer-Encoding: chunked"),
        http(SEND, "Transfer-Encoding: gzip"),
        http(SEND, "Transfer-Encoding: chunked", body=b"size\r\n"),
    ):
        yield BadInput("HTTP", data, 400)
    for headers in (["x: y"] * 600, ["x: " + "y" * 1_000] * 17, ["x: " + "y" * 20_000]):
        yield BadInput("head", http("GET /healthz", *headers), 431)
    yield BadInput("head", http("GET /" + "x" * 20_000), 431)
    for size in (64 * 2**20 + 1, 10**15, 10**30):
        yield BadInput("size", http(SEND, f"Content-Length: {size}"), 413)
    for body in (b"\xff", b"\xed\xa0\x80", b"abc\xe2\x82"):
        head = http(SEND, f"Content-Length: {len(body)}", body=body)
        yield BadInput("text", head, 400)
    for target in ("mallory", "honest-on", "%00", "[master]"):
        head = http(f"POST /honest/send?id={target}", "Content-Length: 4", body=b"ping")
        yield BadInput("not a peer", head, 401)
    for message in ("", "x", "%FF"):
        head = http(f"GET /honest/receive?id=honest-one&msg={message}")
        yield BadInput("not its message", head, 404)


def _frames() -> Iterator[BadInput]:
    text = frame(b"hello")
    for kind, frames, code in (
        ("frame", bytes([0x81, 5]) + b"hello", 1002),  # not masked
        ("frame", bytes([text[0] | 0x40]) + text[1:], 1002),  # a reserved bit
        ("frame", frame(b"x", opcode=3), 1002),
        ("frame", frame(b"x", opcode=11), 1002),
        ("frame", frame(b"x", opcode=0), 1002),  # continues nothing
        ("frame", frame(b"x" * 126, opcode=9), 1002),  # a ping too long
        ("frame", bytes([0x09, 0x80, 0, 0, 0, 0]), 1002),  # a ping in pieces
        ("frame", frame(b"x", opcode=8), 1002),  # half a close code
        ("frame", frame((999).to_bytes(2, "big"), opcode=8), 1002),
        ("text", frame(b"\xff"), 1007),
        ("text", frame(b"\xed\xa0\x80"), 1007),
        ("text", frame("é".encode()[:1]), 1007),
        ("address", frame(b"to:"), 1008),
        ("address", frame(b"to:nobody"), 1008),
        ("address", frame(b"to:;hello"), 1008),
        ("size", frame(b"x" * 16_385), 1009),
        ("size", frame(b"x", length=49_153), 1009),
        ("size", frame(b"x", length=1 << 40), 1009),
        ("size", frame("é".encode() * 16_385), 1009),
    ):
        yield BadInput(kind, upgrade(JOIN), code, frames)


BAD_INPUT = (*_tokens(), *_pages(), *_handshakes(), *_requests(), *_frames())


def answer_to(address: Address, bad: BadInput) -> int:
    """Send *bad* on a connection of its own; returns the status or close code of the answer."""
    with socket.create_connection(address, DEADLINE) as client:
        client.sendall(bad.data)
        head = _read_until(client, b"\r\n\r\n")
        status = status_of(head)
        if status != 101 or not bad.frames:
            return status
        client.sendall(bad.frames)
        return _close_code(client, head.partition(b"\r\n\r\n")[2])


def status_of(head: bytes) -> int:
    """The status of an answer, which has the HTTP version of the request (Twisted)."""
    if not head.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
        return CLOSED
    return int(head.split()[1])


def _read_until(client: socket.socket, end: bytes) -> bytes:
    data = b""
    try:
        while end not in data and (more := client.recv(65536)):
            data += more
    except ConnectionError:
        pass
    return data


def _close_code(client: socket.socket, data: bytes) -> int:
    """The code of the first close frame; all frames before it have to be short."""
    while True:
        while len(data) >= 2 and len(data) >= 2 + data[1]:
            if data[0] == 0x88:
                return int.from_bytes(data[2:4], "big")
            data = data[2 + data[1] :]
        try:
            more = client.recv(65536)
        except ConnectionError:
            return CLOSED
        if not more:
            return CLOSED
        data += more
