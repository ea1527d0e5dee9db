"""The subscriptions of an AceBase process: kinds of events at paths, with callbacks.

A path is the keys from the root of the database, joined by ``/``; an index of an
array may be written ``list[3]``. A key ``*`` or ``$name`` stands for any key. The
*writing* process finds the subscriptions that a change belongs to; it sends the path as it
was subscribed to, next to the path where it happened, so that nothing is matched here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from acebase_ipc.protocol.envelopes import Event

EVENTS: Final = frozenset(
    prefix + kind
    for prefix in ("", "notify_")
    for kind in ("value", "child_added", "child_changed", "child_removed", "mutated", "mutations")
)
"""The kinds of events. Those that begin with ``notify_`` come without values."""

Callback = Callable[[Event], object]


def checked_event(event: str) -> str:
    """Return *event*.

    :raises ValueError: if there is no such kind, which ends processes of the npm package.
    """
    if event not in EVENTS:
        raise ValueError(f"{event!r} is none of {', '.join(sorted(EVENTS))}")
    return event


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """One registration of a callback; the same callback may have several.

    :ivar path: without slashes at its ends.
    :ivar event: the kind of event.
    """

    path: str
    event: str
    callback: Callback


class Subscriptions:
    """The subscriptions of one process, by path and kind of event, in the order they came.

    Iterating yields each path and kind of event once.
    """

    def __init__(self) -> None:
        self._registered: dict[tuple[str, str], list[Subscription]] = {}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(list(self._registered))

    def __contains__(self, subscription: Subscription) -> bool:
        return subscription in self._registered.get((subscription.path, subscription.event), ())

    def add(self, subscription: Subscription) -> bool:
        """Add one, and return whether it is the first of its path and kind: then the other
        processes have to be told."""
        same = self._registered.setdefault((subscription.path, subscription.event), [])
        same.append(subscription)
        return len(same) == 1

    def discard(self, subscription: Subscription) -> bool:
        """Remove one, if it is there, and return whether it was the last of its path and
        kind: then the other processes have to be told."""
        key = subscription.path, subscription.event
        same = self._registered.get(key, [])
        if subscription not in same:
            return False
        same.remove(subscription)
        if not same:
            del self._registered[key]
        return not same

    def found(self, path: str, event: str | None, callback: Callback | None) -> list[Subscription]:
        """Return the subscriptions at *path*; only of one kind or callback, if given."""
        return [
            each
            for (where, kind), same in self._registered.items()
            if where == path and event in (None, kind)
            for each in same
            if callback in (None, each.callback)
        ]

    def of(self, event: Event) -> tuple[Subscription, ...]:
        """Return the subscriptions that *event* belongs to."""
        return tuple(self._registered.get((event.subscription, event.event), ()))
