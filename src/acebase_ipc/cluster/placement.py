"""Which relay is to be the home of a database that has none: rendezvous hashing.

Each relay that asks gets the same answer without asking another one, and when a relay comes or
goes, no database moves between the others. The chance of a relay is proportional to its free
capacity (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class About:
    """What a relay tells the others of itself.

    :ivar address: where the others reach it, as ``host:port``.
    :ivar free: how many connections it has room for.
    :ivar databases: how many databases it serves.
    :ivar is_draining: whether it is to get no database.
    """

    address: str
    free: int = 1
    databases: int = 0
    is_draining: bool = False

    def dump(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))


def parse_about(text: str) -> About | None:
    """Return what a relay has told; ``None`` if that cannot be read, as of another version."""
    try:
        values = json.loads(text)
        about = About(**values)
        types = (str, int, int, bool)
        given = (about.address, about.free, about.databases, about.is_draining)
        return about if all(map(isinstance, given, types)) else None
    except (TypeError, ValueError):
        return None


def choose_relay(database: str, relays: Mapping[str, About]) -> str | None:
    """Return the id of the relay that is to be the home of *database*; ``None`` if there is none.

    :param relays: those that can be reached, by id.
    """
    best, highest = None, 0.0
    for relay, about in relays.items():
        if about.is_draining:
            continue
        digest = blake2b(f"{relay} {database}".encode(), digest_size=8).digest()
        chance = (int.from_bytes(digest) + 0.5) / 2**64
        score = max(about.free, 1) / -math.log(chance)
        if score > highest:
            best, highest = relay, score
    return best
