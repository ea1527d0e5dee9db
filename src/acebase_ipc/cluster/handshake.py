"""How two relays prove to each other that they know the secret of their cluster.

A relay that opens a link sends the version and 32 random bytes. The other one answers with 32
random bytes of its own and an HMAC-SHA-256 over both. The first one checks that, and sends an HMAC
of its own over both and over its *ticket*: which database it asks for, and at which epoch it knows
it. Nobody can use what was overheard once more, nor send an answer back as a proof.

The other one answers with one byte: whether it serves this database at this epoch. A PROXY header
(version 2) with the client's address and the client's request follow the ticket; from then on both
ends pass on what they receive. If the ticket asks for a peer instead, the answer is a JSON array of
the databases that have a peer of this id, and the end of the connection.

A database moves in this way: its state follows the ticket, the other relay says that it has it, the
first one gives it the database in the store and says so with one byte, and the other one, when it
is the home, with the same byte.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Final

VERSION: Final = b"acebase-ipc link 1\n"
NONCE: Final = 32
"""Random bytes of each side."""

PROOF: Final = 32
"""Bytes of an HMAC-SHA-256."""

GREETING: Final = len(VERSION) + NONCE
ANSWER: Final = NONCE + PROOF
MAX_TICKET: Final = 4096
"""Bytes: a database's name has 200 characters at most."""

ACCEPTED: Final = b"+"
REFUSED: Final = b"-"

MIN_SECRET: Final = 16
"""Bytes of the shortest secret: what is shorter can be guessed from one handshake."""

_LENGTH: Final = Struct("!H")


class HandshakeFailed(Exception):
    """The other end is no relay of this cluster; the text says why in one line."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a link is for.

    :ivar epoch: 0 if the database has no home yet: the relay that is asked becomes its home.
    :ivar peer: the id of a peer whose databases are asked for; empty for a client's connection.
    :ivar size: bytes of the state of the database, which is about to be given to the relay that is
        asked; 0 for a client's connection.
    """

    database: str
    epoch: int
    peer: str = ""
    size: int = 0


def prove_home(secret: bytes, theirs: bytes, ours: bytes) -> bytes:
    """Return the proof of the relay that is asked.

    :param theirs: the random bytes of the relay that asks.
    """
    return hmac.digest(secret, b"home" + theirs + ours, sha256)


def greet() -> bytes:
    """Return what begins a link; the random bytes follow."""
    return VERSION


def parse_greeting(data: bytes) -> bytes:
    """Return the random bytes of the relay that asks.

    :raises HandshakeFailed: if *data* is no greeting.
    """
    if not data.startswith(VERSION[: len(data)]):
        raise HandshakeFailed("it is no relay, or of another version")
    return data[len(VERSION) : GREETING]


def check_home(secret: bytes, ours: bytes, answer: bytes) -> bytes:
    """Return the random bytes of the relay that was asked, which has proved that it is one.

    :raises HandshakeFailed: if it has not.
    """
    theirs, proof = answer[:NONCE], answer[NONCE:ANSWER]
    if not hmac.compare_digest(proof, prove_home(secret, ours, theirs)):
        raise HandshakeFailed("it has another secret")
    return theirs


def render_ticket(secret: bytes, ours: bytes, theirs: bytes, ticket: Ticket) -> bytes:
    """Return the ticket with its proof, as the relay that asks sends it."""
    text = json.dumps([ticket.database, ticket.epoch, ticket.peer, ticket.size]).encode()
    body = _LENGTH.pack(len(text)) + text
    return body + hmac.digest(secret, b"asks" + ours + theirs + body, sha256)


def parse_ticket(
    secret: bytes, theirs: bytes, ours: bytes, data: bytes | bytearray
) -> tuple[Ticket, int] | None:
    """Return the ticket at the beginning of *data* and its size; ``None`` if it is incomplete.

    :raises HandshakeFailed: if it is none, or was not proved.
    """
    if len(data) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    if length > MAX_TICKET:
        raise HandshakeFailed("its ticket is too long")
    if len(data) < end + PROOF:
        return None
    proof = hmac.digest(secret, b"asks" + theirs + ours + data[:end], sha256)
    if not hmac.compare_digest(bytes(data[end : end + PROOF]), proof):
        raise HandshakeFailed("it has another secret")
    try:
        database, epoch, peer, size = json.loads(bytes(data[_LENGTH.size : end]))
    except (TypeError, ValueError):
        raise HandshakeFailed("its ticket is malformed") from None
    types = (str, int, str, int)
    if not all(map(isinstance, (database, epoch, peer, size), types)):
        raise HandshakeFailed("its ticket is malformed")
    return Ticket(database, epoch, peer, size), end + PROOF
