"""The head of a request: its request line and its header lines.

Pure functions, stricter than Twisted's parser: what passes them, Twisted accepts, so that
every refusal is the relay's own and says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from acebase_ipc.http.errors import BadRequest

MAX_LENGTH_DIGITS: Final = 32
"""Digits of a Content-Length. Python refuses to convert more than 4,300 of them."""

KEPT: Final = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"expect",
        b"forwarded",
        b"host",
        b"last-event-id",
        b"origin",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"transfer-encoding",
        b"upgrade",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    }
)
"""Headers that the relay or Twisted reads. Others are checked and not kept: a
request may wait for its body for a minute, and a header takes 200 bytes beside its text."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(rb"[\0\r\n]")


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A request line.

    :ivar target: in origin form, as ``/path?query``.
    :ivar authority: the host and port of a target in absolute form, which take the
        place of those of the Host header (RFC 9112, section 3.2.2).
    """

    method: bytes
    target: bytes
    version: bytes
    authority: bytes | None = None


def parse_request_line(line: bytes) -> RequestLine:
    """Parse a request line.

    The HTTP client of Node.js, unlike its WebSocket client, sends ``/café`` as raw
    Latin-1: what is not ASCII is percent-encoded.

    :raises BadRequest: if it cannot be parsed (RFC 9112, section 3).
    """
    words = _in_ascii(line).split(b" ")
    if len(words) != 3:
        raise BadRequest("A request line is <method> <target> HTTP/1.1")
    method, target, version = words
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequest("The HTTP version is neither 1.1 nor 1.0")
    if not _TOKEN.fullmatch(method):
        raise BadRequest("The method is not a token")
    if not _TARGET.fullmatch(target):
        raise BadRequest("The request target cannot be parsed")
    if target.startswith(b"/") or target == b"*":
        return RequestLine(method, target, version)
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise BadRequest("The request target cannot be parsed")
    path = absolute[2] or b"/"
    return RequestLine(method, path if path[:1] == b"/" else b"/" + path, version, absolute[1])


def _in_ascii(line: bytes) -> bytes:
    if line.isascii():
        return line
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    return "".join(c if c.isascii() else quote(c) for c in text).encode("ascii")


def parse_header(line: bytes) -> tuple[bytes, bytes]:
    """The name, in lower case, and the value of a header line.

    :raises BadRequest: if it cannot be parsed (RFC 9112, section 5; RFC 9110, section 5).
    """
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name):
        raise BadRequest("A header line is <name>: <value>")
    if _FORBIDDEN.search(value):
        raise BadRequest("A header value has a control character")
    name, value = name.lower(), value.strip(b" \t")
    if name == b"content-length" and not 0 < len(value) <= MAX_LENGTH_DIGITS:
        raise BadRequest("The Content-Length cannot be used")
    return name, value
