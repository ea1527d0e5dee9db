"""The wire protocol, written once.

What a peer sends, as text messages or as the body of ``POST /<db>/send``::

    ping               answered with pong
    to:<id>;<body>     body, to that peer of the same database (itself, too)
    to:all;<body>      body, to every other peer, like a broadcast
    <body>             anything else is a broadcast to every other peer

What a peer receives::

    welcome:{"maxPayload":n}   the first message; n counts UTF-16 code units
    connect:<id>               another peer of the same database came
    disconnect:<id>            another peer of the same database went
    pong                       the answer to ping
    msg:<body>                 a message of another peer
    get:<msgId>                a message above maxPayload waits to be downloaded
    {…}                        a message of another peer, to an acebase peer

The relay never looks into a body, with one exception: an acebase peer's
messages tell its dialect (see :mod:`acebase_ipc.dialect`).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from acebase_ipc.dialect import ACEBASE, Dialect
from acebase_ipc.errors import InvalidAddress

PING = b"ping"
PONG = b"pong"
MASTER = b"[master]"
"""The id under which a cluster's lock master connects."""


class Audience(Enum):
    """Whom a message without a peer's id is for."""

    RELAY = "the relay itself"
    OTHERS = "every other peer of the database"


# Under a name of their own, as Enum makes each look at one of its members slow.
RELAY: Final = Audience.RELAY
OTHERS: Final = Audience.OTHERS


def parse(message: bytes) -> tuple[bytes | Audience, bytes]:
    """Split a message into whom it is for and its body.

    :returns: the addressee's id or an :class:`Audience`, and the body.
    :raises InvalidAddress: for ``to:`` without ``;`` or with an empty id.
    """
    if message.startswith(b"to:"):
        end = message.find(b";", 3)
        if end <= 3:
            raise InvalidAddress
        addressee = message[3:end]
        return OTHERS if addressee == b"all" else addressee, message[end + 1 :]
    if message == PING:
        return RELAY, message
    return OTHERS, message


def render(body: bytes, dialect: Dialect) -> bytes:
    """The message that brings *body* to a peer of *dialect*.

    Published clients read only what starts with ``{``. Whatever else a peer
    sends is marked ``msg:`` for them, too, so that nobody can forge a
    ``disconnect:`` or ``pong``.
    """
    if dialect is ACEBASE and body.startswith(b"{"):
        return body
    return b"msg:" + body


def welcome(max_payload: int) -> bytes:
    """The first message to a new peer; *max_payload* counts UTF-16 code units."""
    return b'welcome:{"maxPayload":%d}' % max_payload


def connected(peer_id: bytes) -> bytes:
    """Tells that another peer came."""
    return b"connect:" + peer_id


def disconnected(peer_id: bytes) -> bytes:
    """Tells that another peer went."""
    return b"disconnect:" + peer_id


def announcement(message_id: str) -> bytes:
    """Tells that a large message waits to be downloaded."""
    return b"get:" + message_id.encode("ascii")


def utf16_units(text: bytes) -> int:
    """The length of valid UTF-8 *text* as JavaScript counts it: UTF-16 code units."""
    if text.isascii():
        return len(text)
    return len(text.decode().encode("utf-16-le")) // 2
