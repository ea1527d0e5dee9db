"""What an AceBase process wants to be told: kinds of events at paths, and its callbacks.

A path is the keys from the root of the database, joined by ``/``; an index of an
array may be written ``list[3]``. A key ``*`` or ``$name`` stands for any key. It
is the *writing* process that finds who is to be told; it sends the path as it was
subscribed to, next to the path where it happened, so that nothing is matched here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from acebase_ipc.protocol.envelopes import Event

EVENTS: Final = frozenset(
    prefix + kind
    for prefix in ("", "notify_")
    for kind in ("value", "child_added", "child_changed", "child_removed", "mutated", "mutations")
)
"""The kinds of events. Those that begin with ``notify_`` come without values."""

MAX_KEY: Final = 128
"""UTF-16 code units of one key, as in AceBase's ``PathInfo``."""

_KEY = re.compile(r"[^\x00-\x08\x0b\x0c\x0e-\x1f/\[\]\\]+(?:\[\d{1,9}\])*")
_INDEXED = re.compile(r"(?:\[\d{1,9}\])+", re.ASCII)

# Where AceBase looks a whole path up in a plain object, JavaScript finds these
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

Callback = Callable[[Event], object]


def normal_path(path: str) -> str:
    """Return a path to subscribe to, without slashes at its ends.

    :raises ValueError: for a path that AceBase cannot have, or that would end the
        processes which are asked to serve it.
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


def checked_event(event: str) -> str:
    """Return *event*.

    :raises ValueError: if there is no such kind, which published clients do not survive.
    """
    if event not in EVENTS:
        raise ValueError(f"{event!r} is none of {', '.join(sorted(EVENTS))}")
    return event


class Subscriptions:
    """The callbacks of one process, by path and kind of event, in the order they came.

    The same callback may be there several times, and is then called as often.
    Iterating yields each path and kind of event once.
    """

    def __init__(self) -> None:
        self._callbacks: dict[tuple[str, str], list[Callback]] = {}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(list(self._callbacks))

    def add(self, path: str, event: str, callback: Callback) -> bool:
        """Add one, and return whether it is the first at its path and of its kind:
        the other processes have to be told."""
        callbacks = self._callbacks.setdefault((path, event), [])
        callbacks.append(callback)
        return len(callbacks) == 1

    def discard(self, path: str, event: str, callback: Callback) -> bool:
        """Remove one, if it is there, and return whether it was the last of its path
        and kind: the other processes have to be told."""
        callbacks = self._callbacks.get((path, event), [])
        if callback in callbacks:
            callbacks.remove(callback)
            if not callbacks:
                del self._callbacks[path, event]
                return True
        return False

    def found(
        self, path: str, event: str | None, callback: Callback | None
    ) -> list[tuple[str, Callback]]:
        """The kinds and callbacks at *path*; only of one kind, or only one callback, if given."""
        return [
            (kind, each)
            for (where, kind), callbacks in self._callbacks.items()
            if where == path and event in (None, kind)
            for each in callbacks
            if callback in (None, each)
        ]

    def callbacks(self, event: Event) -> tuple[Callback, ...]:
        """Who is to be told of *event*."""
        return tuple(self._callbacks.get((event.subscription, event.event), ()))
