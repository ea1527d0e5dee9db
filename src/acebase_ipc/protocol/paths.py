"""Paths of a database: the keys from its root, joined by ``/``."""

from __future__ import annotations

import re
from typing import Final

MAX_KEY: Final = 128
"""UTF-16 code units of one key, as in AceBase's ``PathInfo``."""

_KEY = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f/\[\]\\]+(?:\[\d{1,9}\])*")
_INDEXED = re.compile(r"(?:\[\d{1,9}\])+", re.ASCII)

# AceBase looks a whole path up in a plain object, where JavaScript finds these
# and the process ends (measured).
_INHERITED = frozenset(
    {
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    }
)


def normal_path(path: str) -> str:
    """Return a path to subscribe to, without slashes at its ends.

    :raises ValueError: for a path that AceBase cannot have, or that would end the
        processes that are asked to serve it.
    """
    path = path.strip("/")
    if path in _INHERITED:
        raise ValueError(f"AceBase processes do not survive a subscription to {path!r}")
    for index, key in enumerate(path.split("/") if path else ()):
        if not (_KEY.fullmatch(key) or (index == 0 and _INDEXED.fullmatch(key))):
            raise ValueError(f"{path!r} is not a path: keys hold none of / \\ [ ] and controls")
        if len(key.partition("[")[0].encode("utf-16-le", "surrogatepass")) // 2 > MAX_KEY:
            raise ValueError(f"A key of a path has at most {MAX_KEY} characters")
    return path


def path_to_follow(path: str) -> str:
    """Return a path whose changes can be followed, without slashes at its ends.

    :raises ValueError: as for :func:`normal_path`, and for a path with wildcards.
    """
    path = normal_path(path)
    if is_wildcard(path):
        raise ValueError("The changes under a path with wildcards cannot be followed")
    return path


def is_wildcard(path: str) -> bool:
    """Return whether a key of *path* stands for any key."""
    return any(key == "*" or key.startswith("$") for key in path.split("/"))
