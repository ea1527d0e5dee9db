"""Every bound of the relay: its name, unit, default, and what exceeding it means.

The options of the command line, the fields of the configuration and the table
in the documentation are all made from the one list here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from acebase_ipc.errors import ConfigError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

DEFAULT_MAX_PAYLOAD = 16 * KIB
"""UTF-16 code units; the original server's default, which clients assume."""

DEFAULT_MAX_PAYLOAD_TLS = 16 * MIB
"""UTF-16 code units. Published clients POST larger messages over plain HTTP even
when told to use TLS, and die of the error; so over TLS all must fit a frame."""

MAX_UTF8_PER_UNIT = 3
"""Bytes of UTF-8 that one UTF-16 code unit needs at most (a pair needs 4)."""

MAX_WEBSOCKET_PAYLOAD = GIB
"""UTF-16 code units; above it clients refuse to receive (ws: 100 MiB by default)."""

_SIZE = re.compile(r"(\d{1,18})\s*(?:([KMGkmg])[iI][bB]|[bB])?")
_FACTORS = {None: 1, "K": KIB, "M": MIB, "G": GIB}


def parse_size(text: str) -> int:
    """Read a size such as ``16384``, ``16KiB`` or ``16 MiB``.

    :raises ConfigError: if it is anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write 16384, 16KiB, 16MiB or 1GiB")
    unit = match[2]
    return int(match[1]) * _FACTORS[unit and unit.upper()]


def format_size(size: float) -> str:
    """*size* as :func:`parse_size` reads it, in the largest unit that divides it."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor and size % factor == 0:
            return f"{int(size // factor)}{unit}"
    return f"{int(size)}" if size == int(size) else f"{size:g}"


@dataclass(frozen=True, slots=True)
class Limit:
    """What is known about one bound.

    :ivar summary: what is bounded, for ``--help``.
    :ivar unit: what its value counts.
    :ivar exceeded: what happens beyond it.
    :ivar reason: why it exists, and where its default comes from.
    :ivar minimum: the smallest value that makes sense.
    :ivar maximum: the largest value accepted.
    """

    summary: str
    unit: str
    exceeded: str
    reason: str
    minimum: float = 1
    maximum: float = 2**53


def _limit(default: float | None, **known: Any) -> Any:
    return field(default=default, metadata={"limit": Limit(**known)})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one relay.

    Each field's :class:`~acebase_ipc.relay.limits.Limit` gives its unit.

    :raises ConfigError: if a value is not a number or out of its range.
    """

    max_payload: int | None = _limit(
        None,
        summary="the largest WebSocket message",
        unit="UTF-16 code units",
        exceeded="the connection is closed with 1009",
        reason="clients POST what is larger; 16 KiB, or 16 MiB as soon as a port is TLS",
        maximum=MAX_WEBSOCKET_PAYLOAD,
    )
    max_message: int = _limit(
        16 * MIB,
        summary="the largest body of a POST",
        unit="bytes",
        exceeded="413",
        reason="a POST body is held in memory until it is complete",
    )
    max_stored: int = _limit(
        256 * MIB,
        summary="all large messages that wait to be downloaded, together",
        unit="bytes",
        exceeded="the POST is paused, then 503 after 30 s",
        reason="what recipients do not fetch must not fill the memory",
    )
    message_ttl: float = _limit(
        60.0,
        summary="how long a large message waits to be downloaded",
        unit="seconds",
        exceeded="the message is dropped and counted",
        reason="a recipient fetches a large message at once or never",
    )
    max_backlog: int = _limit(
        64 * MIB,
        summary="what one peer may leave unread",
        unit="bytes",
        exceeded="that peer's connection is cut",
        reason="a peer that stops reading must neither slow the others nor fill the memory",
    )
    session_timeout: float = _limit(
        15.0,
        summary="how long a lost AceBase worker is expected back; 0: not at all",
        unit="seconds",
        exceeded="the seat ends: the others hear that the peer went",
        reason="clients reconnect at once; a master restarts within seconds",
        minimum=0,
    )
    max_session_queue: int = _limit(
        16 * MIB,
        summary="what may wait for one lost peer",
        unit="bytes",
        exceeded="the seat ends: the others hear that the peer went",
        reason="as much as the largest message; more, and its caches are stale anyway;"
        " keep it below max_backlog, or who returns to a long queue may be cut at once",
    )
    max_memory: int = _limit(
        1 * GIB,
        summary="all that waits, is held, stored or half received, together",
        unit="bytes",
        exceeded="the largest backlog or seat is cut",
        reason="the process must not be killed for its size: that would cut everybody",
        minimum=MIB,
    )
    max_connections: int = _limit(
        20_000,
        summary="open connections",
        unit="connections",
        exceeded="503, or closed at once before any request",
        reason="file descriptors and 5 KB of memory each",
    )
    max_database_connections: int = _limit(
        5_000,
        summary="open connections of one database",
        unit="connections",
        exceeded="503",
        reason="a join is told to every other peer of the database",
    )
    max_address_connections: int | None = _limit(
        None,
        summary="open connections from one address",
        unit="connections",
        exceeded="503",
        reason="off, as all processes of a host, and all behind a proxy, share an address",
    )
    max_databases: int = _limit(
        10_000,
        summary="databases at the same time",
        unit="databases",
        exceeded="503",
        reason="a client may open a database by any name",
    )
    handshake_timeout: float = _limit(
        10.0,
        summary="how long a new connection may take for its first request",
        unit="seconds",
        exceeded="the connection is closed",
        reason="half-open handshakes must not use up the connections",
    )
    request_timeout: float = _limit(
        60.0,
        summary="how long a request may take to come in",
        unit="seconds",
        exceeded="the connection is closed",
        reason="a body of 16 MiB at 2.2 Mbit/s",
    )
    http_idle: float = _limit(
        20.0,
        summary="how long an HTTP connection may be idle",
        unit="seconds",
        exceeded="the connection is closed",
        reason="Node.js keeps a connection for reuse up to 15 s",
    )
    keepalive_interval: float = _limit(
        25.0,
        summary="how long a peer may be silent",
        unit="seconds",
        exceeded="the peer is pinged",
        reason="below the 30 s after which common proxies and NATs forget a connection",
    )
    keepalive_timeout: float = _limit(
        10.0,
        summary="how long a peer may take to answer a ping",
        unit="seconds",
        exceeded="the peer is cut",
        reason="published clients give up a silent server after 10 s, too",
    )

    def __post_init__(self) -> None:
        for name, limit in describe_limits().items():
            value = getattr(self, name)
            if value is None and name in ("max_payload", "max_address_connections"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} must be a number of {limit.unit}, not {value!r}")
            if not limit.minimum <= value <= limit.maximum:
                raise ConfigError(
                    f"{name} must be from {limit.minimum:g} to {limit.maximum:g} {limit.unit},"
                    f" not {value}"
                )
            if limit.unit != "seconds" and not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number of {limit.unit}, not {value}")

    @property
    def payload_limit(self) -> int:
        """``max_payload``, or its default without TLS where none was set."""
        return DEFAULT_MAX_PAYLOAD if self.max_payload is None else self.max_payload


def describe_limits() -> dict[str, Limit]:
    """Every bound's description by its name, in the order of the documentation."""
    return {each.name: each.metadata["limit"] for each in fields(Limits)}
