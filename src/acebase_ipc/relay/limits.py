"""Every limit of the relay: its name, unit, default, and what happens when it is exceeded.

The options of the command line, the fields of :class:`Limits` and the table in the
documentation are made from this list.
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
"""UTF-16 code units; the original server's default."""

DEFAULT_MAX_PAYLOAD_TLS = 16 * MIB
"""UTF-16 code units. The npm package acebase POSTs larger messages over plain HTTP even when
it is configured for TLS, and the error ends its process. So over TLS every message must fit
into a WebSocket message."""

MAX_UTF8_PER_UNIT = 3
"""Bytes of UTF-8 that one UTF-16 code unit needs at most (a pair needs 4)."""

MAX_WEBSOCKET_PAYLOAD = GIB
"""UTF-16 code units; clients refuse to receive more (the npm package ws: 100 MiB)."""

MAX_SECONDS = 2_000_000
"""About 23 days. poll(2), and so a reactor's timer, takes milliseconds as a C int."""

MAX_KEEPALIVE = MAX_SECONDS / 2
"""Seconds. The sum of interval and timeout is set as TCP_USER_TIMEOUT, in milliseconds as a C
int."""

MAX_CONNECTIONS = 2**30
"""The most file descriptors that Linux allows a process (fs.nr_open)."""

_SIZE = re.compile(r"(\d{1,18})\s*(?:([KMGkmg])[iI][bB]|[bB])?")
_FACTORS = {None: 1, "K": KIB, "M": MIB, "G": GIB}


def parse_size(text: str) -> int:
    """Return the number of bytes in a size such as ``16384``, ``16KiB`` or ``16 MiB``.

    :raises ConfigError: if *text* is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write 16384, 16KiB, 16MiB or 1GiB")
    unit = match[2]
    return int(match[1]) * _FACTORS[unit and unit.upper()]


def format_size(size: float) -> str:
    """Return *size* as :func:`parse_size` reads it, in the largest unit that divides it."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor and size % factor == 0:
            return f"{int(size // factor)}{unit}"
    return f"{int(size)}" if size == int(size) else f"{size:g}"


@dataclass(frozen=True, slots=True)
class Limit:
    """The description of one limit.

    :ivar summary: what is limited, for ``--help``.
    :ivar unit: what its value counts.
    :ivar exceeded: what happens when it is exceeded.
    :ivar reason: why it exists, and where its default comes from.
    :ivar minimum: the smallest value that is accepted.
    :ivar maximum: the largest value that is accepted.
    :ivar default_text: what the default is, if it is no fixed number.
    :ivar example: a value that is not the default, if that is no number.
    :ivar reloads: whether a running relay can change it.
    """

    summary: str
    unit: str
    exceeded: str
    reason: str
    minimum: float = 1
    maximum: float = 2**53
    default_text: str | None = None
    example: int = 0
    reloads: bool = True


_TIME = {"unit": "seconds", "maximum": MAX_SECONDS}
_KEEPALIVE = {"unit": "seconds", "maximum": MAX_KEEPALIVE, "reloads": False}
_COUNT = {"unit": "connections", "maximum": MAX_CONNECTIONS}


_MAY_BE_OFF = frozenset({"max_payload", "max_address_connections", "history_messages"})
"""The limits that may be ``None``."""


def _limit(default: float | None, **known: Any) -> Any:
    return field(default=default, metadata={"limit": Limit(**known)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of one relay.

    :func:`~acebase_ipc.relay.limits.describe_limits` gives the unit of each.

    :raises ConfigError: if a value is not a number or out of its range.
    """

    max_payload: int | None = _limit(
        None,
        summary="the largest WebSocket message",
        unit="UTF-16 code units",
        exceeded="the connection is closed with 1009",
        reason="clients POST larger messages; 16 MiB if at least one port uses TLS",
        maximum=MAX_WEBSOCKET_PAYLOAD,
        default_text=f"{format_size(DEFAULT_MAX_PAYLOAD)}, or"
        f" {format_size(DEFAULT_MAX_PAYLOAD_TLS)} with TLS",
        example=DEFAULT_MAX_PAYLOAD,
        reloads=False,  # clients are told when they connect
    )
    max_message: int = _limit(
        64 * MIB,
        summary="the largest body of a POST",
        unit="bytes",
        exceeded="413",
        reason="an AceBase event carries a value and the previous one; the npm package acebase"
        " ignores the 413 and loses the message",
    )
    max_stored: int = _limit(
        256 * MIB,
        summary="all large messages that wait to be downloaded",
        unit="bytes",
        exceeded="the POST is paused, then 503 after 30 s",
        reason="messages that are not downloaded must not fill the memory",
    )
    message_ttl: float = _limit(
        60.0,
        summary="how long a large message waits to be downloaded",
        **_TIME,
        exceeded="the message is dropped (counted)",
        reason="a recipient downloads a large message at once or never",
    )
    max_backlog: int = _limit(
        64 * MIB,
        summary="the messages that one peer has not read",
        unit="bytes",
        exceeded="the peer is disconnected (SlowConsumer)",
        reason="a peer that stops reading must neither slow down others nor fill the memory",
    )
    session_timeout: float = _limit(
        15.0,
        summary="how long the session of a lost acebase peer is kept; 0: not at all",
        **_TIME,
        exceeded="the session expires: the other peers are told that the peer left",
        reason="clients reconnect at once, and a master restarts within seconds",
        minimum=0,
    )
    session_timeout_closed: float = _limit(
        5.0,
        summary="the same if the peer's own host has closed the connection without a close frame",
        **_TIME,
        exceeded="the session expires: the other peers are told that the peer left",
        reason="its process has ended: a running client is back within milliseconds",
        minimum=0,
    )
    quiesce_timeout: float = _limit(
        5.0,
        summary="how long a stop waits for a moment when no transaction runs; 0: not at all",
        **_TIME,
        exceeded="the relay stops; what is under way is logged (NotQuiet)",
        reason="what a client sends while the relay is away is lost; transactions take"
        " milliseconds",
        minimum=0,
    )
    master_warmup: float = _limit(
        1.0,
        summary="how long a master that has connected may take to open its files; 0: no time",
        **_TIME,
        exceeded="it receives the requests about free space, keys and indexes that have waited",
        reason="before that it answers as if the files were empty, and destroys them",
        minimum=0,
    )
    fence: float = _limit(
        600.0,
        summary="how long a peer is refused whose session ended while it held locks; 0: not at all",
        **_TIME,
        exceeded="the peer is admitted",
        reason="others have its locks; the refusal ends its process, which has to start afresh",
        minimum=0,
    )
    lock_warning: float = _limit(
        10.0,
        summary="how long a lock is held while others wait, or a request waits for the master",
        **_TIME,
        exceeded="a warning each minute (LockHeldLong, RequestOpenLong)",
        reason="a transaction takes milliseconds; AceBase itself is silent for 30 s",
        minimum=0.1,
    )
    lock_session_max: float = _limit(
        30.0,
        summary="how long a lock that the master has granted covers those of the relay's own",
        unit="seconds",
        maximum=100,
        exceeded="the master is asked for the next lock of the transaction",
        reason="the relay's own expire with it: a quarter of AceBase's 120 s, and of a lockTimeout"
        " that is set to less",
    )
    max_session_queue: int = _limit(
        16 * MIB,
        summary="the messages that wait for one suspended session",
        unit="bytes",
        exceeded="the session expires: the other peers are told that the peer left",
        reason="a peer that missed more has stale caches anyway; above max_backlog, a peer that"
        " resumes its session may be disconnected at once",
    )
    max_memory: int = _limit(
        1 * GIB,
        summary="all messages that wait, are stored or are half received",
        unit="bytes",
        exceeded="the peer that needs most memory is disconnected (EvictedForMemory)",
        reason="if the system killed the process for its size, all peers would be disconnected",
        minimum=MIB,
        default_text="1GiB, or half of the control group's memory limit",
    )
    history_messages: int | None = _limit(
        None,
        summary="the changes of one database that are kept for their readers",
        unit="messages",
        exceeded="the oldest are dropped; a reader that has not had them is told of a gap",
        reason="off: each path that is followed costs every writer one more event for each write",
        default_text="off",
        example=10_000,
    )
    history_bytes: int = _limit(
        16 * MIB,
        summary="the changes of one database that are kept for their readers",
        unit="bytes",
        exceeded="the oldest are dropped, as with history_messages; the last one is kept",
        reason="as much as is kept for a suspended session",
    )
    max_connections: int = _limit(
        20_000,
        summary="open connections",
        **_COUNT,
        exceeded="503, or closed before the first request",
        reason="each needs a file descriptor and about 5 KB of memory",
        default_text="20000, or as many as the limit of open files allows",
    )
    max_database_connections: int = _limit(
        5_000,
        summary="open connections of one database",
        **_COUNT,
        exceeded="503",
        reason="every other peer of the database is told of a join",
    )
    max_address_connections: int | None = _limit(
        None,
        summary="open connections from one address",
        **_COUNT,
        exceeded="503",
        reason="off: all processes of a host share an address, and so do all clients behind a proxy"
        " that is not trusted",
        default_text="off",
        example=100,
        reloads=False,  # connections are counted by address only if it is set
    )
    max_databases: int = _limit(
        10_000,
        summary="databases with at least one peer",
        unit="databases",
        exceeded="503",
        reason="a client may open a database of any name",
    )
    handshake_timeout: float = _limit(
        10.0,
        summary="the time until the first request of a connection is complete",
        **_TIME,
        exceeded="the connection is closed",
        reason="incomplete handshakes must not use up the connections",
    )
    request_timeout: float = _limit(
        60.0,
        summary="the time until a request is received completely",
        **_TIME,
        exceeded="the connection is closed",
        reason="enough for a body of 64 MiB at 9 Mbit/s",
    )
    http_idle: float = _limit(
        20.0,
        summary="the time between two requests of an HTTP connection",
        **_TIME,
        exceeded="the connection is closed",
        reason="Node.js keeps a connection for reuse for up to 15 s",
    )
    keepalive_interval: float = _limit(
        25.0,
        summary="the time without data from a peer",
        **_KEEPALIVE,
        exceeded="the peer is pinged",
        reason="common proxies and NATs drop idle connections after 30 s or more",
    )
    keepalive_timeout: float = _limit(
        10.0,
        summary="the time until a peer answers a ping",
        **_KEEPALIVE,
        exceeded="the peer is disconnected (KeepaliveTimeout)",
        reason="the npm package acebase gives up a silent server after 10 s, too",
    )

    def __post_init__(self) -> None:
        for name, limit in describe_limits().items():
            value = getattr(self, name)
            if value is None and name in _MAY_BE_OFF:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} must be a number of {limit.unit}, not {value!r}")
            if not limit.minimum <= value <= limit.maximum:
                bounds = f"from {limit.minimum:,.15g} to {limit.maximum:,.15g} {limit.unit}"
                raise ConfigError(f"{name} must be {bounds}, not {value}")
            if limit.unit != "seconds" and not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number of {limit.unit}, not {value}")

    @property
    def payload_limit(self) -> int:
        """``max_payload``, or its default without TLS if none was set."""
        return DEFAULT_MAX_PAYLOAD if self.max_payload is None else self.max_payload


def describe_limits() -> dict[str, Limit]:
    """Return the description of each limit by its name, in the order of the documentation."""
    return {each.name: each.metadata["limit"] for each in fields(Limits)}
