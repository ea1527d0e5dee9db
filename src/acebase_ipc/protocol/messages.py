"""The wire protocol: parses, renders and composes messages.

What a peer sends, as text messages or as the body of ``POST /<db>/send``::

    ping               answered with pong
    to:<id>;<body>     body, to that peer of the same database (itself, too)
    to:all;<body>      body, to every other peer, like a broadcast
    <body>             anything else is a broadcast to every other peer

What a peer receives::

    welcome:{"maxPayload":n}   the first message; n counts UTF-16 code units
    connect:<id>               another peer of the same database has joined
    disconnect:<id>            another peer of the same database has left
    pong                       the answer to ping
    msg:<body>                 a message of another peer
    get:<msgId>                a message above maxPayload waits to be downloaded
    {…}                        a message of another peer, to an acebase peer

In a resumable session most messages of both ends have a number before them, and both ends
acknowledge them: see :mod:`acebase_ipc.protocol.numbers`.

The relay does not interpret bodies, with one exception: the envelopes of an acebase peer
show its dialect, and a ``bye`` that it leaves (see :mod:`acebase_ipc.protocol.dialect`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE, Dialect
from acebase_ipc.protocol.errors import InvalidAddress
from acebase_ipc.protocol.frames import frame_payload, text_frame
from acebase_ipc.protocol.numbers import MAX_DIGITS

PING = b"ping"
PONG = b"pong"
MASTER = b"[master]"
"""The id under which a cluster's lock master connects."""


class Audience(Enum):
    """Who receives a message that is not addressed to one peer."""

    RELAY = "the relay itself"
    OTHERS = "every other peer of the database"


# As names of the module, because access to a member of an Enum is slow.
RELAY: Final = Audience.RELAY
OTHERS: Final = Audience.OTHERS


class Message:
    """A text message for peers of one dialect.

    It may be sent to many peers and may wait in many queues. Its frame is built once, by
    the first connection that needs it, and all share it.

    :ivar size: the length of its text in UTF-8, in bytes.
    :ivar frame: its WebSocket frame; ``None`` until one was built.
    :ivar waiting: the number of queues in which it waits.
    """

    __slots__ = ("_text", "frame", "size", "waiting")

    def __init__(self, text: bytes) -> None:
        """:param text: valid UTF-8, rendered for the dialect of its receivers."""
        self._text: bytes | None = text
        self.size = len(text)
        self.frame: bytes | None = None
        self.waiting = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.size} bytes>"

    @property
    def text(self) -> bytes:
        """The text in UTF-8."""
        if self._text is not None:
            return self._text
        return b"" if self.frame is None else frame_payload(self.frame)

    def make_frame(self) -> bytes:
        """Build the frame and keep it instead of the text."""
        if self.frame is None:
            self.frame = text_frame(self.text)
            self._text = None
        return self.frame


def parse(message: bytes) -> tuple[bytes | Audience, bytes]:
    """Split a message into its addressee and its body.

    :returns: the addressee's id or an :class:`Audience`, and the body.
    :raises InvalidAddress: for ``to:`` without ``;`` or with an empty id.
    """
    if message[:3] == b"to:":  # faster than startswith, as partition is faster than find
        head, separator, body = message.partition(b";")
        addressee = head[3:]
        if not separator or not addressee:
            raise InvalidAddress
        return OTHERS if addressee == b"all" else addressee, body
    if message == PING:
        return RELAY, message
    return OTHERS, message


def render(body: bytes, dialect: Dialect) -> bytes:
    """Return the message that carries *body* to a peer of *dialect*.

    The npm package acebase reads only messages that start with ``{``. All others have the
    prefix ``msg:`` for acebase peers, too, so that no peer can forge a ``disconnect:`` or
    a ``pong``.
    """
    if dialect is ACEBASE and body[:1] == b"{":
        return body
    return b"msg:" + body


def welcome(max_payload: int) -> bytes:
    """Return the first message to a new peer; *max_payload* counts UTF-16 code units."""
    return b'welcome:{"maxPayload":%d}' % max_payload


def welcome_to_session(
    max_payload: int, session: str, epoch: str, is_resumed: bool, received: int
) -> bytes:
    """Return the first message to a peer that has a resumable session.

    :param session: its name, which cannot be guessed.
    :param epoch: names the memory of the relay.
    :param received: the number of the last message of the peer that was relayed.
    """
    resumed = b"true" if is_resumed else b"false"
    return b'welcome:{"maxPayload":%d,"session":"%b","epoch":"%b","resumed":%b,"received":%d}' % (
        max_payload,
        session.encode(),
        epoch.encode(),
        resumed,
        received,
    )


def connected(peer_id: bytes) -> bytes:
    """Return the message that another peer has joined."""
    return b"connect:" + peer_id


def disconnected(peer_id: bytes) -> bytes:
    """Return the message that another peer has left."""
    return b"disconnect:" + peer_id


def announcement(message_id: str) -> bytes:
    """Return the message that a large message waits to be downloaded."""
    return b"get:" + message_id.encode("ascii")


def utf16_units(text: bytes) -> int:
    """Return the length of valid UTF-8 *text* in UTF-16 code units, as JavaScript counts it."""
    if text.isascii():
        return len(text)
    return len(text.decode().encode("utf-16-le")) // 2


@dataclass(frozen=True, slots=True)
class Welcome:
    """The first message: a WebSocket message may have *max_payload* UTF-16 code units.

    :ivar session: names the resumable session; empty without one.
    :ivar epoch: names the memory of the relay.
    :ivar is_resumed: whether the session goes on that the handshake has named.
    :ivar received: the number of the last message of this peer that the relay has relayed.
    """

    max_payload: int
    session: str = ""
    epoch: str = ""
    is_resumed: bool = False
    received: int = 0


@dataclass(frozen=True, slots=True)
class ConnectNotice:
    """Another peer of the database has connected."""

    id: str


@dataclass(frozen=True, slots=True)
class DisconnectNotice:
    """Another peer of the database has disconnected."""

    id: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ``ping``: the relay has read all that was sent before it."""


@dataclass(frozen=True, slots=True)
class Body:
    """A message of another peer."""

    text: str


@dataclass(frozen=True, slots=True)
class DownloadNotice:
    """A large message of another peer waits to be downloaded under *message_id*."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The relay has relayed all messages of this peer up to *number*."""

    number: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of an unknown kind, which a later version of the relay may send."""


Stream = ConnectNotice | DisconnectNotice | Body | DownloadNotice
"""What has a number in a resumable session."""

Plain = Stream | Welcome | Pong | Acknowledgement | Unknown


@dataclass(frozen=True, slots=True)
class Numbered:
    """A message in a resumable session."""

    number: int
    message: Plain


Incoming = Plain | Numbered


def read(text: str) -> Incoming:
    """Parse a message that a peer receives.

    Only acebase peers receive bodies without ``msg:``, but with ``--dialect acebase`` a relay
    treats every peer as an acebase peer. No other message starts with ``{``.
    """
    if text.startswith("n:"):
        digits, semicolon, rest = text[2:].partition(";")
        number = _read_number(digits)
        if number is None or not semicolon:
            return Unknown()
        return Numbered(number, _read_plain(rest))
    return _read_plain(text)


def _read_plain(text: str) -> Plain:
    if text.startswith("{"):
        return Body(text)
    kind, colon, value = text.partition(":")
    if not colon:
        return Pong() if text == "pong" else Unknown()
    match kind:
        case "msg":
            return Body(value)
        case "get" if value:
            return DownloadNotice(value)
        case "connect" if value:
            return ConnectNotice(value)
        case "disconnect" if value:
            return DisconnectNotice(value)
        case "ack":
            number = _read_number(value)
            return Unknown() if number is None else Acknowledgement(number)
        case "welcome":
            return _read_welcome(value)
    return Unknown()


def _read_number(digits: str) -> int | None:
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS
    return int(digits) if is_number else None


def utf8_size(text: str) -> int:
    """Return the size of *text* in UTF-8, in bytes."""
    return len(text) if text.isascii() else len(text.encode())


def _read_welcome(value: str) -> Welcome | Unknown:
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return Unknown()
    match read:
        case {
            "maxPayload": max_payload,
            "session": str(session),
            "epoch": str(epoch),
            "resumed": bool(is_resumed),
            "received": received,
        } if _is_number(max_payload) and max_payload > 0 and _is_number(received) and session:
            return Welcome(max_payload, session, epoch, is_resumed, received)
        case {"maxPayload": max_payload} if _is_number(max_payload) and max_payload > 0:
            return Welcome(max_payload)
    return Unknown()


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0


def compose(body: str, to: str | None) -> bytes:
    """Return the message that asks the relay to send *body* to the peer *to*, or to all others.

    :raises TypeError: if *body* is no text.
    :raises ValueError: if *body* is not valid Unicode.
    """
    if not isinstance(body, str):
        raise TypeError(f"a message is text, not {type(body).__name__}")
    try:
        data = body.encode()
    except UnicodeEncodeError:
        raise ValueError("a message is text: it must not hold lone surrogates") from None
    if to is not None:
        return b"to:%b;%b" % (to.encode(), data)
    if data == b"ping" or data.startswith(b"to:"):
        return b"to:all;" + data  # otherwise the relay would interpret it
    return data
