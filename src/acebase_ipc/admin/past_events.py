"""The events of a history as plain values, for the relay that goes on in the place of this one."""

from __future__ import annotations

import math
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Any, get_type_hints

from acebase_ipc.admin.counts import KINDS
from acebase_ipc.admin.history import Noted
from acebase_ipc.relay.events import RelayEvent

Plain = tuple[int, float, str, list[Any]]
"""The id of an event, when it happened, its kind, and the values of its fields."""


def plain(noted: Noted[RelayEvent]) -> Plain:
    """Return an event as plain values."""
    event = noted.event
    kind = type(event).__name__
    values = [getattr(event, name) for name, _ in _fields(kind)]
    known = [each.name if isinstance(each, Enum) else each for each in values]
    return noted.id, noted.time, kind, known


def noted_of(values: Any) -> Noted[RelayEvent] | None:
    """Return the event of plain *values*; ``None`` if this version does not know such an event.

    They may be anything.
    """
    try:
        number, time, kind, given = values
        if type(number) is not int or number < 0:
            return None
        hints = _fields(kind)
        known = [_value(hint, each) for (_, hint), each in zip(hints, given, strict=True)]
        return Noted(number, _value(float, time), KINDS[kind](*known))
    except (KeyError, TypeError, ValueError):
        return None


@cache
def _fields(kind: str) -> list[tuple[str, type]]:
    """Return the name and the type of each field of a *kind* of event.

    :raises KeyError: if there is no such kind.
    """
    hints = get_type_hints(KINDS[kind])
    return [(each.name, hints[each.name]) for each in fields(KINDS[kind])]


def _value(hint: type[Any], given: Any) -> Any:
    """Return the value of a field.

    :raises KeyError: if it is none of an enumeration.
    :raises ValueError: if it is of another type.
    """
    if issubclass(hint, Enum):
        return hint[given]
    if hint is float and type(given) is int:
        given = float(given)
    if type(given) is not hint or (isinstance(given, float) and not math.isfinite(given)):
        raise ValueError
    return given
