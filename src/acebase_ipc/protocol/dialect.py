"""The two kinds of clients, and how to tell which kind a peer is.

The npm package acebase deviates from the protocol's documentation: it reads
envelopes without a ``msg:`` before them and cannot download large messages.
A peer's dialect is a property of its connection. It is decided by the server's
option, else by the query of the handshake, else by the handshake's
fingerprint; otherwise a peer is ``documented`` until its first envelope.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Final


class Dialect(Enum):
    """How a peer expects messages to be rendered."""

    DOCUMENTED = "documented"
    ACEBASE = "acebase"


# Under a name of their own, as Enum makes each look at one of its members slow.
DOCUMENTED: Final = Dialect.DOCUMENTED
ACEBASE: Final = Dialect.ACEBASE

_FINGERPRINT = re.compile(rb"v=[^&]*&id=[^&]*&t=[^&]*")
_ACEBASE_ID = re.compile(r"\[master\]|[0-9a-z]{24}")

ENVELOPE_START = b'{"type":"'
BYE_START = b'{"type":"bye"'
_ENVELOPE = re.compile(
    rb'\{"type":"(?:hello|bye|pulse|subscribe|unsubscribe|event|lock-request|lock-result'
    rb"|unlock-request|unlock-result|move-lock-request|notification|request|result)\""
)
_ENVELOPE_HEAD = 512
"""Bytes within which an envelope names its sender."""


def has_acebase_fingerprint(raw_query: bytes, client_id: str) -> bool:
    """Whether a handshake is of the npm package acebase: ``v``, ``id``, ``t`` in this order
    (the documentation has ``id`` first), and an id that such clients generate."""
    return bool(_FINGERPRINT.fullmatch(raw_query) and _ACEBASE_ID.fullmatch(client_id))


def json_string(text: str) -> bytes:
    """*text* as ``JSON.stringify`` writes it, in UTF-8."""
    return json.dumps(text, ensure_ascii=False).encode()


def is_from(body: bytes, sender: str) -> bool:
    """Whether the head of an envelope names *sender* as its sender."""
    return body.find(b'"from":' + json_string(sender), 0, _ENVELOPE_HEAD) >= 0


def is_envelope(body: bytes, sender: str) -> bool:
    """Whether *body* is an AceBase envelope of the peer *sender* itself."""
    return (
        body.startswith(ENVELOPE_START)
        and _ENVELOPE.match(body) is not None
        and is_from(body, sender)
    )
