"""The headers of a request for a WebSocket (RFC 6455, section 4.2.1)."""

from __future__ import annotations

import re
from typing import Final

from twisted.web.server import Request

from acebase_ipc.http.errors import BadRequest, HTTPVersionRefused, UpgradeRequired

WEBSOCKET_VERSION: Final = b"13"

_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.%]+\]|[^\s:\[\]]+)(:\d{1,5})?")


def check_upgrade(request: Request) -> None:
    """Refuse what is not a correct opening handshake.

    Extensions and subprotocols, which a client may offer, are not negotiated.

    :raises UpgradeRequired: if the request asks for no WebSocket.
    :raises HTTPVersionRefused: if it is not of HTTP/1.1.
    :raises BadRequest: if the handshake is malformed.
    """
    if _value(request, b"Upgrade").lower() != b"websocket":
        request.setHeader(b"Upgrade", b"websocket")
        request.setHeader(b"Connection", b"Upgrade")
        raise UpgradeRequired
    if request.clientproto != b"HTTP/1.1":
        raise HTTPVersionRefused
    options = [each.strip().lower() for each in _value(request, b"Connection").split(b",")]
    if b"upgrade" not in options:
        raise _malformed(request, "The Connection header does not ask for an upgrade")
    if _value(request, b"Sec-WebSocket-Version") != WEBSOCKET_VERSION:
        request.setHeader(b"Sec-WebSocket-Version", WEBSOCKET_VERSION)
        raise _malformed(request, "The WebSocket version is not 13")
    if not _KEY.fullmatch(_value(request, b"Sec-WebSocket-Key")):
        raise _malformed(request, "The Sec-WebSocket-Key is not 16 bytes in base64")
    if not _HOST.fullmatch(_value(request, b"Host")):
        raise _malformed(request, "The Host header is missing or malformed")
    if b"#" in request.uri:
        raise _malformed(request, "The request target has a fragment")


def _malformed(request: Request, reason: str) -> BadRequest:
    """The refusal of a client that may go on to send frames: the connection is closed."""
    request.channel.persistent = False
    request.setHeader(b"Connection", b"close")
    return BadRequest(reason)


def _value(request: Request, name: bytes) -> bytes:
    """All values of a header, as one; empty if there is none."""
    return b",".join(request.requestHeaders.getRawHeaders(name, [])).strip()
