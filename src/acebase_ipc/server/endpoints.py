"""Endpoint strings: what can be told of one before it is used."""

from __future__ import annotations

import re
from typing import Final

SECURE_ENDPOINTS: Final = frozenset({"ssl", "tls", "pfx", "txsni", "le", "lets"})
"""Endpoint prefixes that mean TLS: Twisted's, ours, and the best known plugins'."""

DEFAULT_BACKLOG = "1024"
"""Connections waiting to be accepted. After a restart all clients of a cluster
connect at once, and published ones end if that takes 5 s; of Twisted's 50 the
rest would wait for 1 s, 3 s, 7 s until their system tries again."""

_TAKES_BACKLOG = re.compile(r"(?!.*(?<!\\):backlog=)(?:tcp|ssl|unix|pfx):", re.DOTALL)


def is_secure(description: str) -> bool:
    """Whether an endpoint string is one of TLS."""
    kind, _, rest = description.partition(":")
    kind = kind.lower()  # Twisted finds a prefix in any case
    return is_secure(rest) if kind == "haproxy" else kind in SECURE_ENDPOINTS


_PASSPHRASE = re.compile(
    r"(passphrase=)(?:[^:\\]|\\.)*"  # then the pieces of one whose colons are not escaped:
    r"(?::(?!(?:path|passphraseFile|interface|backlog)=)(?:[^:\\]|\\.)*)*",
    re.DOTALL,
)


def redact(description: str) -> str:
    """An endpoint string without what is secret in it, even if it is not well-formed."""
    return _PASSPHRASE.sub(r"\1…", description)


def with_backlog(description: str) -> str:
    """The endpoint *description* with our default of ``backlog=``, if it has none."""
    if _TAKES_BACKLOG.match(description):
        return f"{description}:backlog={DEFAULT_BACKLOG}"
    return description
