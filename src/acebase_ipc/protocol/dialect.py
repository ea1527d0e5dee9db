"""The two dialects of the protocol, and how a peer's dialect is detected.

The npm package acebase deviates from the protocol's documentation: it reads only
envelopes without the prefix ``msg:``, and cannot download large messages. The first of
these decides a peer's dialect: the server's option, the query of the handshake, the
fingerprint of the handshake. Otherwise the peer is ``documented`` until its first
envelope.
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


# As names of the module, because access to a member of an Enum is slow.
DOCUMENTED: Final = Dialect.DOCUMENTED
ACEBASE: Final = Dialect.ACEBASE

_FINGERPRINT = re.compile(rb"v=[^&]*&id=[^&]*&t=[^&]*")
_ACEBASE_ID = re.compile(r"\[master\]|[0-9a-z]{24}")

ENVELOPE_START = b'{"type":"'
BYE_START = b'{"type":"bye"'
EVENT_START = b'{"type":"event",'
HELLO_START = b'{"type":"hello",'
_ENVELOPE = re.compile(
    rb'\{"type":"(?:hello|bye|pulse|subscribe|unsubscribe|event|lock-request|lock-result'
    rb"|unlock-request|unlock-result|move-lock-request|notification|request|result)\""
)
_ENVELOPE_HEAD = 512
"""An envelope names its sender within its first 512 bytes."""


def has_acebase_fingerprint(raw_query: bytes, client_id: str) -> bool:
    """Return whether a handshake looks like one of the npm package acebase.

    Its query has ``v``, ``id`` and ``t`` in this order (the documentation has ``id``
    first), and its id is ``[master]`` or has 24 characters, as the package generates it.
    """
    return bool(_FINGERPRINT.fullmatch(raw_query) and _ACEBASE_ID.fullmatch(client_id))


def json_string(text: str) -> bytes:
    """Return *text* as ``JSON.stringify`` writes it, in UTF-8."""
    return json.dumps(text, ensure_ascii=False).encode()


def is_from(body: bytes, sender: str) -> bool:
    """Return whether the beginning of the envelope *body* names *sender* as its sender."""
    return body.find(b'"from":' + json_string(sender), 0, _ENVELOPE_HEAD) >= 0


def is_envelope(body: bytes, sender: str) -> bool:
    """Return whether *body* is an AceBase envelope that names *sender* as its sender."""
    return (
        body.startswith(ENVELOPE_START)
        and _ENVELOPE.match(body) is not None
        and is_from(body, sender)
    )
