"""HTTP requests and responses as bytes, and the request that opens a WebSocket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The key of a WebSocket handshake in RFC 6455, section 1.3."""

ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What a server answers to :data:`KEY`."""

HOST = "127.0.0.1:9163"
"""The Host of requests that name no other."""

_WITHOUT_BODY = (100, 101, 204, 304)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def http_head(method: str, target: str, **headers: str) -> bytes:
    """The head of a request with a Host and *headers*; ``content_type`` is ``content-type``."""
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in ({"host": HOST} | headers).items():
        lines.append(f"{name.replace('_', '-')}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()


def http_request(method: str, target: str, body: bytes = b"", /, **headers: str) -> bytes:
    """A whole request; its Content-Length is added.

    >>> http_request("POST", "/shop_data/send?id=alice", b"hello").splitlines()[-3:]
    [b'content-length: 5', b'', b'hello']
    """
    if body or method == "POST":
        headers.setdefault("content_length", str(len(body)))
    return http_head(method, target, **headers) + body


def upgrade_request(target: str, **headers: str) -> bytes:
    """The request for a WebSocket; a header can be changed, or left out with ``""``."""
    usual = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_key": KEY,
        "sec_websocket_version": "13",
    }
    return http_head("GET", target, **{k: v for k, v in (usual | headers).items() if v})


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; an empty one ends the body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def parse_responses(data: bytes) -> Iterator[Response]:
    """The responses in *data*, up to one that switches protocols; each 100 Continue is one.

    :raises ValueError: if one is cut off.
    """
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        if not found:
            raise ValueError(f"not a whole response: {head!r}")
        status_line, *lines = head.decode().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        status = int(status_line.split()[1])
        if headers.get("transfer-encoding") == "chunked":
            body, data = _dechunk(data)
        else:
            length = 0 if status in _WITHOUT_BODY else int(headers.get("content-length", 0))
            body, data = data[:length], data[length:]
            if len(body) < length:
                raise ValueError(f"a body is cut off after {len(body)} of {length} bytes")
        yield Response(status, headers, body)
        if status == 101:
            return


def _dechunk(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            raise ValueError("a chunked body is cut off")
        length = int(size, 16)
        body += data[:length]
        data = data[length + 2 :]
        if not length:
            return body, data
