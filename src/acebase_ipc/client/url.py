"""The URL of a relay.

``ws://host:port/prefix``
    TCP; the port is 80 by default. The prefix is the path below which the relay
    is mounted, if it is.
``wss://host:port/prefix``
    TLS; the port is 443 by default.
``ws+unix:/run/relay.sock:/prefix``
    A unix socket, as npm's ``ws`` writes it. A ``:`` or ``%`` in the socket's path
    is written ``%3A`` or ``%25``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from acebase_ipc.errors import ConfigError

_FORMS = "write ws://host:port, wss://host:port or ws+unix:/path/of/socket"

MAX_SOCKET_PATH = 107
"""Bytes that the path of a unix socket may have: ``sun_path`` of Linux without its NUL."""

_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\ud800-\udfff]")
_LABEL = r"[0-9A-Za-z_](?:[0-9A-Za-z_-]*[0-9A-Za-z_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[0-9A-Za-z._-]+)?")


@dataclass(frozen=True, slots=True)
class RelayURL:
    """The address of a relay.

    :ivar secure: whether it speaks TLS.
    :ivar host: its name or address, without brackets; ``localhost`` for a unix socket.
    :ivar port: its TCP port.
    :ivar socket: the path of its unix socket, if it has one.
    :ivar prefix: the path below which it is mounted: empty, or ``/…``, percent-encoded.
    """

    secure: bool
    host: str
    port: int
    socket: str | None = None
    prefix: str = ""

    @property
    def host_header(self) -> str:
        """The host as a URL writes it: an IPv6 address in brackets."""
        return f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host

    @property
    def authority(self) -> str:
        """Host and port, as a request names them."""
        return f"{self.host_header}:{self.port}"


def parse_url(text: str) -> RelayURL:
    """Parse the URL of a relay.

    :raises ConfigError: if *text* is anything else. The error does not quote *text*,
        which may hold a token in the wrong place.
    """
    if not isinstance(text, str):
        raise ConfigError(f"the relay's URL is a str: {_FORMS}")
    if _UNPRINTABLE.search(text):
        raise ConfigError(f"the relay's URL holds spaces or control characters: {_FORMS}")
    if "?" in text or "#" in text:
        raise ConfigError("the relay's URL has no query: the token is an argument of its own")
    scheme, _, rest = text.partition(":")
    if scheme.lower() == "ws+unix":
        return _parse_unix(rest)
    if scheme.lower() in ("ws", "wss"):
        return _parse_tcp(text)
    raise ConfigError(f"the relay's URL has an unknown scheme: {_FORMS}")


def _parse_unix(rest: str) -> RelayURL:
    path, _, prefix = rest.removeprefix("//").partition(":")
    path = unquote(path)
    if not path.startswith("/") or "\0" in path:
        raise ConfigError("ws+unix: needs the absolute path of a socket: ws+unix:/run/relay.sock")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ConfigError(f"the path of a unix socket has at most {MAX_SOCKET_PATH} bytes")
    return RelayURL(False, "localhost", 80, path, _parse_prefix(prefix))


def _parse_tcp(text: str) -> RelayURL:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"the relay's URL has an invalid host or port: {_FORMS}") from None
    if "@" in parts.netloc:
        raise ConfigError("the relay's URL has no user: the token is an argument of its own")
    if not host or port == 0:
        raise ConfigError(f"the relay's URL has no host, or port 0: {_FORMS}")
    secure = parts.scheme == "wss"
    return RelayURL(
        secure, _ascii_host(host), port or (443 if secure else 80), None, _parse_prefix(parts.path)
    )


def _ascii_host(host: str) -> str:
    host = host.replace("%25", "%")  # before the zone of an IPv6 address (RFC 6874)
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not _HOST.fullmatch(name):
        raise ConfigError(f"the relay's URL has an invalid host: {_FORMS}")
    return name


def _parse_prefix(path: str) -> str:
    prefix = path.rstrip("/")
    if prefix and not prefix.startswith("/"):
        raise ConfigError("what follows the socket's path is a path, too: ws+unix:/run/a.sock:/ipc")
    return quote(prefix, safe="/%:@!$&'()*+,;=~")
