"""Parses the request target of a WebSocket handshake: database, id, version, dialect.

GET /<dbname>/connect?id=<clientId>&v=<clientVersion>&t=<token>
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from acebase_ipc.protocol.dialect import Dialect, has_acebase_fingerprint
from acebase_ipc.protocol.errors import (
    InvalidClientId,
    InvalidDatabaseName,
    MessageRefused,
    RequestRefused,
    UnsupportedVersion,
)
from acebase_ipc.protocol.numbers import read_number

MAX_DATABASE_NAME: Final = 200
"""Characters. A name is a path segment and a key in memory, so its length is limited."""

MIN_CLIENT_ID: Final = 5
MAX_CLIENT_ID: Final = 128
"""Characters of a client's id; the lower bound is the original server's."""

PROTOCOL_MAJOR: Final = "1"
"""The major version of the IPC protocol that this relay speaks."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""A control character, or a lone surrogate, which stands for a byte that is not UTF-8."""


def parse_query(raw: bytes) -> dict[str, str]:
    """Decode a query string: ``+`` stays ``+``, and of equal keys the last one applies.

    A pair is split at its first ``=``, so that tokens such as ``c2VjcmV0==`` need no
    encoding. Bytes that are not UTF-8 are decoded to lone surrogates. No id and no token
    contains these, so such a value is never accepted by accident.
    """
    query = {}
    for pair in raw.split(b"&"):
        key, _, value = pair.partition(b"=")
        query[_decode(key)] = _decode(value)
    return query


def _decode(raw: bytes) -> str:
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    return raw.decode("utf-8", "surrogateescape")


def check_database_name(name: str) -> str:
    """Return *name* if it is a valid name of a database.

    :raises InvalidDatabaseName: unless it has 1 to 200 characters and no
        control characters. Any other name is valid, ``__proto__``, too.
    """
    if not 0 < len(name) <= MAX_DATABASE_NAME or _CONTROLS.search(name):
        raise InvalidDatabaseName
    return name


def check_client_id(client_id: str | None) -> str:
    """Return *client_id* if it is a valid id of a peer.

    :raises InvalidClientId: unless it has 5 to 128 characters, without ``;``
        and control characters.
    """
    if (
        client_id is None
        or not MIN_CLIENT_ID <= len(client_id) <= MAX_CLIENT_ID
        or ";" in client_id
        or _CONTROLS.search(client_id)
    ):
        raise InvalidClientId
    return client_id


@dataclass(frozen=True, slots=True)
class Resume:
    """A client's wish for a resumable session.

    :ivar session: the session that it had; empty if it asks for a new one.
    :ivar last: the number of the last message that it has received there.
    """

    session: str = ""
    last: int = 0


@dataclass(frozen=True, slots=True)
class Handshake:
    """The valid handshake of a client that asks to become a peer.

    :ivar database: the database's wire name.
    :ivar client_id: the requested id.
    :ivar dialect: the client's dialect, as far as the handshake shows it.
    :ivar dialect_settled: whether the dialect is final; otherwise an envelope may change it.
    :ivar restarts: whether the process ends when a reconnect is refused, so that its supervisor
        starts it afresh: it is the npm package acebase, as far as can be told. What a client
        says of its dialect does not count, because Python clients say it.
    :ivar resume: ``None`` for a client that does not ask for a resumable session.
    """

    database: str
    client_id: str
    dialect: Dialect
    dialect_settled: bool
    restarts: bool = False
    resume: Resume | None = None


def accept(database: str, raw_query: bytes, server_dialect: Dialect | None = None) -> Handshake:
    """Check the query of a handshake; tokens and origins are checked before.

    :param database: the database's wire name, already checked.
    :param server_dialect: the server's ``--dialect``; ``None`` for ``auto``.
    :raises UnsupportedVersion: if ``v`` is missing or not version 1.
    :raises InvalidClientId: if ``id`` is missing or cannot be used.
    :raises RequestRefused: if ``dialect`` is neither of the two, or ``last`` no number.
    """
    query = parse_query(raw_query)
    if query.get("v", "").partition(".")[0] != PROTOCOL_MAJOR:
        raise UnsupportedVersion
    client_id = check_client_id(query.get("id"))
    asked = query.get("dialect")
    resume = _read_resume(query)
    if server_dialect is not None:
        restarts = server_dialect is Dialect.ACEBASE and asked is None and resume is None
        return Handshake(database, client_id, server_dialect, True, restarts, resume)
    if asked is not None:
        try:
            return Handshake(database, client_id, Dialect(asked), True, resume=resume)
        except ValueError:
            raise RequestRefused("dialect is either documented or acebase") from None
    if has_acebase_fingerprint(raw_query, client_id):
        return Handshake(database, client_id, Dialect.ACEBASE, True, restarts=True)
    return Handshake(database, client_id, Dialect.DOCUMENTED, False, resume=resume)


def _read_resume(query: dict[str, str]) -> Resume | None:
    if query.get("resume") != "1":
        return None
    try:
        last = read_number(query.get("last", "0").encode("ascii", "replace"))
    except MessageRefused:
        raise RequestRefused("last is the number of a message") from None
    return Resume(query.get("session", ""), last)
