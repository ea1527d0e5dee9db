"""AceBase's typed values: dates, binary data, references and others that JSON does not know.

``Transport`` of ``acebase-core`` has two ways to write them as JSON. Both are read here; the
second is written, because a receiver can detect it::

    v1   {"val": {"when": "1970-01-01T00:00:00.000Z"}, "map": {"when": "date"}}
    v2   {"when": {".type": "date", ".val": "1970-01-01T00:00:00.000Z"}}

    date         datetime, aware, UTC   "1970-01-01T00:00:00.000Z"
    binary       bytes                  "<~87cUR~>", Ascii85
    reference    PathReference          "users/ewout"
    regexp       RegExp                 "/a(b)/gi", {"pattern": "a(b)", "flags": "gi"}
    bigint       int                    "12345678901234567890"
    array        PartialArray           {"0": "first", "7": "eighth"}

The npm package acebase (measured: 1.29.13) uses **neither** between the processes of a
database: its messages are plain ``JSON.stringify``. So typed values in events are
reported as follows, in Node processes and here:

* a ``Date`` is a string such as ``"1970-01-01T00:00:00.000Z"``, which cannot be
  distinguished from text. :func:`decode_dates` is for values known to be dates;
* a ``PathReference`` is ``{"path": "users/ewout"}``;
* binary data and a ``RegExp`` are ``{}``: their content is not sent;
* ``NaN``, an infinite number and an invalid ``Date`` are ``null``;
* a ``bigint`` cannot be stored at all, and an integer beyond 2**53 is rounded.

Typed values are kept in what an application itself sends: notifications, requests and
their results. A Node application writes them with
``Transport.serialize2(value)`` and reads them with ``Transport.deserialize2(value)``,
both from ``acebase-core``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from acebase_ipc.protocol import ascii85

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""A larger absolute value is not exact as a JavaScript number: it is written as ``bigint``."""

_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_ISO_STRING = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_REGEXP = re.compile(r"/(.*)/([a-z]*)", re.DOTALL | re.ASCII)
_BIGINT = re.compile(r"-?\d{1,4000}", re.ASCII)  # Python itself refuses longer ones


@dataclass(frozen=True, slots=True)
class PathReference:
    """A stored reference to another path of the database.

    :ivar path: the path without a slash at its start: ``"users/ewout"``.
    """

    path: str


@dataclass(frozen=True, slots=True)
class RegExp:
    """A JavaScript regular expression. It is not compiled: Python's syntax differs.

    :ivar pattern: its source.
    :ivar flags: lower-case letters such as ``"gi"``, or nothing.
    """

    pattern: str
    flags: str = ""


@dataclass(frozen=True, slots=True)
class PartialArray:
    """Some of the entries of an array.

    :ivar items: the entries by their index.
    """

    items: Mapping[int, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", MappingProxyType(dict(self.items)))


def decode(value: Any) -> Any:
    """Return parsed JSON with its typed values, of either form, as Python values.

    A value that is not well formed stays as it is, and so does a date outside the years
    1 to 9999: nothing is raised for a peer's message, except :exc:`RecursionError`
    for a value nested deeper than the interpreter allows.
    """
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if ".type" in value:
        return _decode_typed(value)
    if value.keys() == {"val", "map"} and _is_map(value["map"]):
        types = value["map"]
        return _decode_mapped(value["val"], {"": types} if isinstance(types, str) else types)
    return {key: decode(each) for key, each in value.items()}


def decode_dates(value: Any) -> Any:
    """Return *value* with each text that has the format of a JavaScript ``Date`` as an aware
    :class:`~datetime.datetime` in UTC.

    The format is ``"1970-01-01T00:00:00.000Z"``. For the values of events, in which a date
    cannot be distinguished from text. Lists and dicts are searched.
    """
    if isinstance(value, str):
        return _decoded("date", value, value) if _ISO_STRING.fullmatch(value) else value
    if isinstance(value, list):
        return [decode_dates(each) for each in value]
    if isinstance(value, dict):
        return {key: decode_dates(each) for key, each in value.items()}
    return value


def encode(value: Any) -> Any:
    """Return *value* in a form that :mod:`json` can write, with typed values in the second form.

    Besides JSON's own types it may contain :class:`~datetime.datetime` (aware; cut to
    milliseconds), :class:`bytes`, :class:`bytearray`, tuples (arrays), integers of any
    size, :class:`PathReference`, :class:`RegExp` and :class:`PartialArray`.

    :raises TypeError: for any other type, and for a key that is no text.
    :raises ValueError: for a naive datetime, ``nan`` and infinite numbers.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if abs(value) <= MAX_SAFE_INTEGER else _typed("bigint", str(value))
        case float():
            if value - value != 0:
                raise ValueError(f"JSON has no {value}")
            return value
        case list() | tuple():
            return [encode(each) for each in value]
        case dict():
            return {_key(key): encode(each) for key, each in value.items()}
        case datetime():
            return _typed("date", _encode_date(value))
        case bytes() | bytearray():
            return _typed("binary", ascii85.encode(value))
        case PathReference(path):
            return _typed("reference", path)
        case RegExp(pattern, flags):
            # As an object, because AceBase cannot read a text without flags, such as "/a/".
            return _typed("regexp", {"pattern": pattern, "flags": flags})
        case PartialArray(items):
            entries = {str(index): encode(each) for index, each in items.items()}
            return {".type": "array", **entries}
    raise TypeError(f"AceBase has no type for {type(value).__name__}")


def _typed(kind: str, value: Any) -> dict[str, Any]:
    return {".type": kind, ".val": value}


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"A key is a text, not {type(key).__name__}")
    return key


def _encode_date(date: datetime) -> str:
    if date.utcoffset() is None:
        raise ValueError("A datetime needs a time zone: AceBase stores points in time")
    text = date.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    return f"{text}Z"


def _decode_typed(value: dict[str, Any]) -> Any:
    plain = {key: decode(each) for key, each in value.items()}
    if not isinstance(value[".type"], str):
        return plain
    kind = value[".type"].lower()  # AceBase ignores case, too
    if kind == "array":
        return _decoded(kind, {key: plain[key] for key in plain if key != ".type"}, plain)
    if kind in _DECODERS and ".val" in value:
        return _decoded(kind, value[".val"], plain)
    return plain


def _is_map(types: Any) -> bool:
    """Return whether this is the map of a value of the first form, and not application data."""
    if isinstance(types, str):
        return types in _DECODERS
    return (
        isinstance(types, dict)
        and len(types) > 0
        and all(isinstance(kind, str) and kind in _DECODERS for kind in types.values())
    )


def _decode_mapped(value: Any, types: Mapping[str, str]) -> Any:
    longest = max(map(len, types))

    def decode_at(value: Any, path: str) -> Any:
        if len(path) > longest:
            return value  # no value below it is in the map
        kind = types.get(path)
        prefix = f"{path}/" if path else ""
        if isinstance(value, dict) and kind in (None, "array"):
            value = {key: decode_at(each, prefix + key) for key, each in value.items()}
        elif isinstance(value, list):
            value = [decode_at(each, f"{prefix}{index}") for index, each in enumerate(value)]
        return value if kind is None else _decoded(kind, value, value)

    return decode_at(value, "")


def _decoded(kind: str, value: Any, otherwise: Any) -> Any:
    try:
        return _DECODERS[kind](value)
    except (ValueError, TypeError, AttributeError):
        return otherwise


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _decode_date(value: Any) -> datetime:
    if not _DATE.fullmatch(_text(value)):
        raise ValueError("no date")
    return datetime.fromisoformat(value)


def _decode_binary(value: Any) -> bytes:
    return ascii85.decode(_text(value))


def _decode_reference(value: Any) -> PathReference:
    return PathReference(_text(value))


def _decode_bigint(value: Any) -> int:
    if not _BIGINT.fullmatch(_text(value)):
        raise ValueError("no integer")
    return int(value)


def _decode_regexp(value: Any) -> RegExp:
    if isinstance(value, dict):
        return RegExp(_text(value.get("pattern")), _text(value.get("flags")))
    if (parts := _REGEXP.fullmatch(_text(value))) is None:
        raise ValueError("no regular expression")
    return RegExp(*parts.groups())


def _decode_array(value: Any) -> PartialArray:
    entries = enumerate(value) if isinstance(value, list) else value.items()
    return PartialArray({int(index): each for index, each in entries})


_DECODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "date": _decode_date,
    "binary": _decode_binary,
    "reference": _decode_reference,
    "regexp": _decode_regexp,
    "bigint": _decode_bigint,
    "array": _decode_array,
}
