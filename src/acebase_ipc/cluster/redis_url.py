"""The URL of a Redis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from acebase_ipc.errors import ConfigError

DEFAULT_PORT: Final = 6379

_FORMS: Final = (
    "write redis://HOST:PORT, rediss://HOST:PORT for TLS, or unix:///PATH for a Unix socket"
)


@dataclass(frozen=True, slots=True)
class RedisURL:
    """Where a Redis is, and what it wants to know.

    :ivar socket: the path of its Unix socket; ``None`` for *host* and *port*.
    :ivar db: the number of the database there.
    :ivar description: the URL without a password.
    """

    description: str
    host: str = ""
    port: int = DEFAULT_PORT
    is_secure: bool = False
    socket: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0


def parse_redis_url(text: str) -> RedisURL:
    """Return the parts of a URL, such as ``redis://:password@192.0.2.1:6379/0``.

    For a Unix socket it is ``unix:///run/redis/redis.sock``, with ``?db=1`` where needed.

    :raises ConfigError: if it is none.
    """
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise ConfigError(f"the URL of Redis is malformed: {_FORMS}") from None
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.hostname:
        db = dict(parse_qsl(parts.query)).get("db", "0")
        return RedisURL(
            f"unix://{parts.path}",
            socket=unquote(parts.path),
            username=username,
            password=password,
            db=_number(db),
        )
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query:
        raise ConfigError(f"the URL of Redis cannot be used: {_FORMS}")
    return RedisURL(
        f"{parts.scheme}://{parts.hostname}:{port}",
        parts.hostname,
        port,
        parts.scheme == "rediss",
        username=username,
        password=password,
        db=_number(parts.path.strip("/") or "0"),
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise ConfigError("the URL of Redis has no number as its database")
    return int(text)
