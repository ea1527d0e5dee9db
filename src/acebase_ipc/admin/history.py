"""Remembers the last events and the last connections that have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from heapq import merge
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

from acebase_ipc.relay.events import ConnectionClosed, RelayEvent, Severity

MAX_KEPT: Final = 1000
"""Events of each severity, and connections, that are kept: many of one severity displace none
of another."""

MAX_TEXT: Final = 1000
"""Characters of a text of an event that is kept; a path can be as long as a message."""

E = TypeVar("E", bound=RelayEvent, covariant=True)


@dataclass(frozen=True, slots=True)
class Noted(Generic[E]):
    """An event, and when it happened.

    :ivar id: exceeds the ids of all earlier events.
    :ivar time: seconds since 1970.
    """

    id: int
    time: float
    event: E


Closed = Noted[ConnectionClosed]
"""A connection that has ended."""


class History:
    """Keeps the last events; an :class:`~acebase_ipc.relay.events.Observer`.

    :param wall: returns the seconds since 1970.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        # A relay that is started again gives higher ids, unless it had 1,000 events a second.
        self._last = int(wall() * 1000)
        self._events = {each: deque[Noted[RelayEvent]](maxlen=MAX_KEPT) for each in Severity}
        self._closed = deque[Closed](maxlen=MAX_KEPT)
        self._subscribers: dict[Callable[[Noted[RelayEvent]], object], None] = {}

    @property
    def last(self) -> int:
        """The id of the last event; lower than all later ones."""
        return self._last

    def report(self, event: RelayEvent) -> None:
        """Note *event*, and pass it on."""
        self._last += 1
        noted = Noted(self._last, self._wall(), _shortened(event))
        self._events[event.severity].append(noted)
        if isinstance(noted.event, ConnectionClosed):
            self._closed.append(Noted(noted.id, noted.time, noted.event))
        for subscriber in tuple(self._subscribers):
            subscriber(noted)

    def events(
        self, limit: int, after: int | None = None, lowest: Severity = Severity.DEBUG
    ) -> list[Noted[RelayEvent]]:
        """Return events in the order in which they happened.

        :param after: an id; default: the last *limit* events. Else the first *limit* events
            whose ids exceed it.
        :param lowest: only events that are as severe, or more.
        """
        severities = list(Severity)
        kept = [self._events[each] for each in severities[severities.index(lowest) :]]
        found = list(merge(*kept, key=attrgetter("id")))
        if after is None:
            return found[-limit:]
        return [each for each in found if each.id > after][:limit]

    def closed(self, limit: int) -> list[Closed]:
        """Return the last *limit* connections that have ended, the newest first."""
        return list(self._closed)[: -limit - 1 : -1]

    def past(self, after: int = 0) -> list[Noted[RelayEvent]]:
        """Return all that is kept with an id above *after*, in the order in which it happened.

        That is up to :data:`MAX_KEPT` events of each severity, and as many connections that have
        ended.
        """
        found: dict[int, Noted[RelayEvent]] = {}
        all_kept: list[Iterable[Noted[RelayEvent]]] = [reversed(self._closed)]
        all_kept += map(reversed, self._events.values())
        for newest_first in all_kept:
            for noted in newest_first:
                if noted.id <= after:
                    break
                found[noted.id] = noted
        return [found[each] for each in sorted(found)]

    def adopt(self, past: Iterable[Noted[RelayEvent]]) -> None:
        """Keep the *past* of the relay before this one, too; later events have higher ids."""
        events, closed = list(past), list[Closed]()
        for noted in events:
            self._last = max(self._last, noted.id)
            if isinstance(noted.event, ConnectionClosed):
                closed.append(Noted(noted.id, noted.time, noted.event))
        for severity, kept in self._events.items():
            _insert(kept, [each for each in events if each.event.severity is severity])
        _insert(self._closed, closed)

    def subscribe(self, subscriber: Callable[[Noted[RelayEvent]], object]) -> None:
        """Call *subscriber*, which must not raise, with each event from now on."""
        self._subscribers[subscriber] = None

    def unsubscribe(self, subscriber: Callable[[Noted[RelayEvent]], object]) -> None:
        """Do not call *subscriber* any more."""
        self._subscribers.pop(subscriber, None)


def _insert(kept: deque[Noted[E]], others: list[Noted[E]]) -> None:
    if others:
        both = sorted([*kept, *others], key=attrgetter("id"))
        kept.clear()
        kept.extend(both)


def _shortened(event: RelayEvent) -> RelayEvent:
    values: dict[str, Any] = {}
    for each in fields(event):
        value = getattr(event, each.name)
        if isinstance(value, str) and len(value) > MAX_TEXT:
            values[each.name] = f"{value[:MAX_TEXT]}…"
    return replace(event, **values) if values else event
