"""Where the admin endpoint of a relay is: TCP, TLS or a unix socket."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import quote, urlsplit

import click

from acebase_ipc.cli.output import Unreachable
from acebase_ipc.errors import ConfigError
from acebase_ipc.server.endpoints import LOOPBACK, parse_endpoint

VARIABLE: Final = "ACEBASE_IPC_ADMIN"

DEFAULT_PLACES: Final = ("http://127.0.0.1:9164", "unix:/run/acebase-ipc/admin.sock")
"""Where ``make run`` and the systemd unit put the admin endpoint."""

TIMEOUT: Final = 10.0
"""Seconds for an answer to begin."""

_SCHEMES: Final = {"tcp": "http", "tcp6": "http", "ssl": "https", "pfx": "https"}
"""The schemes of URLs by the kinds of endpoints."""

_FORMS: Final = "write http://host:port, https://host:port or unix:/path/of/socket"


class UnixHTTPConnection(HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def quoted(name: str) -> str:
    """Return *name* as one segment of a path; also what the terminal's encoding cannot hold."""
    return quote(name, safe="", errors="surrogateescape")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an admin endpoint is.

    :ivar text: as it was given.
    :ivar socket: the path of a unix socket; else *host* and *port* are used.
    """

    text: str
    secure: bool = False
    host: str = ""
    port: int = 0
    socket: str = ""

    def connection(self, timeout: float) -> HTTPConnection:
        """Return a connection, not yet open."""
        if self.socket:
            return UnixHTTPConnection(self.socket, timeout)
        if self.secure:
            return HTTPSConnection(self.host, self.port, timeout=timeout)
        return HTTPConnection(self.host, self.port, timeout=timeout)


def parse_place(text: str) -> Place:
    """Parse the URL of an admin endpoint, or what ``--admin`` of the relay takes.

    :raises click.UsageError: if it is anything else.
    """
    try:
        endpoint = parse_endpoint(text)
    except ConfigError:
        pass
    else:
        if endpoint.kind in _SCHEMES:
            interface = endpoint.arguments.get("interface", "") or LOOPBACK
            named = f"[{interface}]" if ":" in interface else interface
            text = f"{_SCHEMES[endpoint.kind]}://{named}:{endpoint.arguments['port']}"
        elif endpoint.kind == "unix" and ":" in text.removeprefix("unix:"):
            text = f"unix:{endpoint.arguments['address']}"
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest.startswith("/"):
        return Place(text, socket=rest.removeprefix("//"))
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/"):
        raise click.UsageError(f"--admin ({VARIABLE}): {_FORMS}, not {text!r}")
    secure = parts.scheme == "https"
    return Place(text.rstrip("/"), secure, host, port or (443 if secure else 80))


def find_place() -> Place:
    """Return the first default place that answers.

    :raises Unreachable: if none does.
    """
    for place in map(parse_place, DEFAULT_PLACES):
        connection = place.connection(TIMEOUT)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return place
        except PermissionError:
            return place  # the error then says what to do
        except (OSError, HTTPException):
            continue
        finally:
            connection.close()
    raise Unreachable(
        f"no relay answers at {' or '.join(DEFAULT_PLACES)}: start it with"
        f" --admin tcp:9164:interface=127.0.0.1, or name its place with --admin or {VARIABLE}"
    )
