"""Connects to a relay as its clients do, and looks at each step: what ``doctor`` is made of."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import IO, Any, Final
from urllib.parse import quote

from acebase_ipc.client.url import RelayURL

TIMEOUT: Final = 10.0
"""Seconds for each step."""

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_CLOSE: Final = b"\x88\x82\0\0\0\0\x03\xe8"  # 1000, masked with zeros
_MAX_BODY: Final = 1 << 20
_MAX_FRAME: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """The relay as a client is given it.

    :ivar database: the wire name of a database.
    :ivar ca: a PEM file with the certificates to trust; ``None`` for those of the system.
    """

    url: RelayURL
    database: str
    token: str | None = field(repr=False)
    ca: str | None

    def resolve(self) -> list[tuple[str, int]]:
        """Return the addresses of the host.

        :raises OSError: if it has none.
        """
        found = socket.getaddrinfo(self.url.host, self.url.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys((str(each[4][0]), int(each[4][1])) for each in found))

    def connect(self) -> socket.socket:
        """Return a connection without TLS.

        :raises OSError: if that is not possible.
        """
        if self.url.socket is None:
            return socket.create_connection((self.url.host, self.url.port), TIMEOUT)
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(TIMEOUT)
        try:
            connected.connect(self.url.socket)
        except BaseException:
            connected.close()
            raise
        return connected

    def connect_tls(self, verify: bool = True) -> ssl.SSLSocket:
        """Return a connection with TLS.

        :raises OSError: if that is not possible, ``ssl.SSLError`` among them.
        """
        context = ssl.create_default_context(cafile=self.ca)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        connected = self.connect()
        try:
            return context.wrap_socket(connected, server_hostname=self.url.host)
        except BaseException:
            connected.close()
            raise

    def open(self) -> socket.socket:
        """Return a connection as the URL asks for it."""
        return self.connect_tls() if self.url.secure else self.connect()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with.

    :ivar headers: by their names in lower case.
    """

    status: int
    text: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Welcome:
    """A WebSocket that was opened, and closed again.

    :ivar max_payload: the relay's ``maxPayload``; ``None`` if it has sent no welcome.
    :ivar accepted: whether the answer belongs to this handshake.
    :ivar clients: the ids that the relay told while it was open; ``None`` if it did not.
    """

    max_payload: int | None
    accepted: bool
    headers: dict[str, str]
    clients: list[str] | None


def get(target: Target, path: str) -> Answer:
    """Return the answer to a GET of *path* below the relay's prefix.

    :raises OSError: if there is none; ``HTTPException`` if it is no HTTP.
    """
    connection = _connection(target)
    with closing(connection):
        connection.request("GET", target.url.prefix + path, headers=_authorization(target.token))
        return _read(connection.getresponse())


def clients(target: Target, database: str) -> list[str] | None:
    """Return the ids of the peers of *database*; ``None`` if the relay does not tell."""
    answer = get(target, f"/{quote(database, safe='')}/clients")
    try:
        return [str(each["id"]) for each in json.loads(answer.text)]
    except (ValueError, TypeError, KeyError):
        return None


def handshake(
    target: Target, client_id: str, in_query: bool, token: str | None
) -> Answer | Welcome:
    """Open a WebSocket with the id *client_id*, written into the URL as it is, and close it.

    :param in_query: whether the token is in the query, as with the npm package acebase, or in
        a header.
    :returns: a welcome, or the answer if the handshake was refused.
    :raises OSError: if there is no answer; ``HTTPException`` if it is no HTTP.
    """
    key = base64.b64encode(secrets.token_bytes(16))
    path = f"{target.url.prefix}/{quote(target.database, safe='')}/connect"
    query = f"id={client_id}&v=1.0.0&dialect=documented"
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key.decode(),
    }
    if token is not None and in_query:
        query += f"&t={quote(token, safe='')}"
    elif token is not None:
        headers |= _authorization(token)
    connection = _connection(target)
    with closing(connection):
        connection.request("GET", f"{path}?{query}", headers=headers)
        response = connection.getresponse()
        if response.status != 101:
            return _read(response)
        expected = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
        stream: Any = response.fp
        welcome = _read_text(stream)
        told = clients(target, target.database) if welcome is not None else None
        connection.sock.sendall(_CLOSE)
        return Welcome(
            _max_payload(welcome),
            response.headers.get("Sec-WebSocket-Accept") == expected,
            {name.lower(): value for name, value in response.headers.items()},
            told,
        )


def _connection(target: Target) -> HTTPConnection:
    connection = HTTPConnection(target.url.host_header, target.url.port, timeout=TIMEOUT)
    connection.sock = target.open()
    return connection


def _authorization(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _read(response: Any) -> Answer:
    return Answer(
        response.status,
        response.read(_MAX_BODY).decode("utf-8", "replace").strip(),
        {name.lower(): value for name, value in response.headers.items()},
    )


def _read_text(stream: IO[bytes]) -> str | None:
    """Return the first text message; ``None`` if there is none in time."""
    try:
        head = stream.read(2)
        if len(head) < 2 or head[0] != 0x81:
            return None
        length = head[1]
        if length == 126:
            length = int.from_bytes(stream.read(2), "big")
        return stream.read(min(length, _MAX_FRAME)).decode("utf-8", "replace")
    except OSError:
        return None


def _max_payload(welcome: str | None) -> int | None:
    try:
        return int(json.loads((welcome or "").removeprefix("welcome:"))["maxPayload"])
    except (ValueError, TypeError, KeyError):
        return None


def certificates(target: Target) -> Iterator[bytes]:
    """Yield the certificate that the server presents, in DER, whatever it is worth."""
    with target.connect_tls(verify=False) as connected:
        presented = connected.getpeercert(binary_form=True)
        if presented is not None:
            yield presented


def speaks_tls(target: Target) -> bool:
    """Return whether the port speaks TLS."""
    try:
        target.connect_tls(verify=False).close()
    except OSError:
        return False
    return True


NO_HTTP = (OSError, HTTPException)
"""What a request raises that has no answer."""
