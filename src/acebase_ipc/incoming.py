"""What a peer receives, read: the other side of :mod:`acebase_ipc.protocol`."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Welcome:
    """The first message: *max_payload* UTF-16 code units fit a WebSocket message."""

    max_payload: int


@dataclass(frozen=True, slots=True)
class Joined:
    """Another peer of the database came."""

    id: str


@dataclass(frozen=True, slots=True)
class Left:
    """Another peer of the database went."""

    id: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The relay has read everything up to a ``ping``."""


@dataclass(frozen=True, slots=True)
class Body:
    """A message of another peer."""

    text: str


@dataclass(frozen=True, slots=True)
class Announced:
    """A message of another peer waits to be downloaded under *message_id*."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing that the protocol knows; a later version of the relay may send it."""


Incoming = Welcome | Joined | Left | Pong | Body | Announced | Unknown


def read(text: str) -> Incoming:
    """What the message *text* says.

    Only an acebase peer gets bodies without ``msg:``, but a relay can be told to take
    every peer for one. No other message starts with ``{``.
    """
    if text.startswith("{"):
        return Body(text)
    kind, colon, value = text.partition(":")
    if not colon:
        return Pong() if text == "pong" else Unknown()
    match kind:
        case "msg":
            return Body(value)
        case "get" if value:
            return Announced(value)
        case "connect" if value:
            return Joined(value)
        case "disconnect" if value:
            return Left(value)
        case "welcome":
            return _read_welcome(value)
    return Unknown()


def utf8_size(text: str) -> int:
    """Bytes of *text* in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def _read_welcome(value: str) -> Welcome | Unknown:
    try:
        match json.loads(value):
            case {"maxPayload": int(max_payload)} if max_payload > 0 and max_payload is not True:
                return Welcome(max_payload)
    except (ValueError, RecursionError):
        pass
    return Unknown()
