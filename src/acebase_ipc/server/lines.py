"""A log event as one line: as text, or as a JSON object.

Neither can be forged, or fill the disk: what a terminal or a viewer acts on is escaped, and
every text has a bound.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from twisted.logger import LogEvent, eventAsText, formatEvent
from twisted.python.failure import Failure

MAX_TEXT: Final = 300
"""Characters of a text that a client has chosen; names have at most 200, ids 128."""

MAX_FIELD: Final = 400
"""Characters of a text in a member of a JSON object."""

MAX_LINE: Final = 2000
"""Characters of a line, without its traceback."""

MAX_TRACEBACK: Final = 20_000  # characters

MAX_FIELDS: Final = 32
"""Members of a JSON object; the relay's own events have fewer."""

MAX_INTEGER: Final = 2**53
"""The highest whole number that every reader of JSON keeps exactly (RFC 8259, section 6)."""

# Everything that a terminal or a viewer acts on: C0, C1, separators of lines, directions. And
# surrogates, which no encoding has.
_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_NOT_FIELDS: Final = frozenset(
    {
        # what the object has in another form
        *("time", "level", "event", "kind", "message", "traceback"),
        # what Twisted adds for observers of the old kind
        *("format", "system", "isError", "failure", "why", "logLevel", "eventSource", "eventType"),
    }
)


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Return *text* in one line of at most about *limit* characters, controls escaped."""
    cut = text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
    return _ESCAPED.sub(lambda match: ascii(match[0])[1:-1], cut)


def failure_of(event: LogEvent) -> Failure | None:
    """Return the failure that *event* is about, if it is about one."""
    failure = event.get("log_failure")
    return failure if isinstance(failure, Failure) else None


def as_text(event: LogEvent) -> str:
    """Return *event* as a line, and the lines of its traceback; empty if it says nothing."""
    failure = failure_of(event)
    if failure is None and not formatEvent(event):
        return ""
    line = printable(eventAsText(event, includeTraceback=False), MAX_LINE)
    return line if failure is None else "\n\t".join([line, *_traceback(failure)])


def as_json(event: LogEvent) -> str:
    """Return *event* as a flat JSON object in ASCII; empty if it says nothing."""
    failure, message = failure_of(event), formatEvent(event)
    if failure is None and not message:
        return ""
    members: dict[str, str | float | None] = {
        "time": _iso(event["log_time"]),
        "level": event["log_level"].name,
        "event": printable(str(event.get("kind") or event.get("log_namespace"))),
        "message": printable(message, MAX_LINE),
    }
    for name, value in event.items():
        if name not in _NOT_FIELDS and not name.startswith("log_") and len(members) < MAX_FIELDS:
            plain = _plain(value)
            if plain is not None:
                members[printable(name)] = plain
    if failure is not None:
        members["traceback"] = "\n".join(_traceback(failure))
    return json.dumps(members)


def _iso(seconds: float) -> str:
    """Return a time since 1970 in ISO 8601, UTC, with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> str | float | None:
    """Return *value* as JSON has it; ``None`` for what has no plain form."""
    if isinstance(value, Enum):
        value = value.value
    match value:
        case str():
            return printable(value, MAX_FIELD)
        case bool():
            return value
        case int() if abs(value) > MAX_INTEGER:
            return f"a number of {value.bit_length()} bits"
        case float() if not math.isfinite(value):
            return str(value)
        case int() | float():
            return value
    return None


def _traceback(failure: Failure) -> list[str]:
    lines = failure.getTraceback()[-MAX_TRACEBACK:].splitlines()
    return [printable(each, MAX_LINE) for each in lines]
