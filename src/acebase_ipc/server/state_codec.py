"""The state of a relay as bytes, and back.

The bytes are CBOR (RFC 8949) after a line with the version of the format and a CRC-32. They
may come from anywhere: whatever they are, :func:`decode` returns a state in which each value
has the type that it must have, or raises :exc:`InvalidState`. No code is run for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from operator import attrgetter
from struct import Struct
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints
from zlib import crc32

import cbor2

from acebase_ipc.errors import IPCError
from acebase_ipc.relay.state import RelayState

MAGIC: Final = b"acebase-ipc state 1\n"
"""The format and its version."""

_NAME: Final = b"acebase-ipc state "
_CHECKSUM: Final = Struct("<I")
_LARGEST: Final = 2**63
"""Whole numbers are below this: ids of locks, counters, milliseconds since 1970."""

_Read = Callable[[Any], Any]


class InvalidState(IPCError):
    """These bytes are no state that this version can use; the text says why in one line."""


def encode(state: RelayState) -> bytes:
    """Return the bytes of *state*."""
    write = _writer(RelayState)
    assert write is not None
    data = cbor2.dumps(write(state))
    return MAGIC + _CHECKSUM.pack(crc32(data)) + data


def decode(data: bytes) -> RelayState:
    """Return the state in *data*, which :func:`encode` has made.

    :raises InvalidState: if it has not, or in another version.
    """
    if not data.startswith(MAGIC):
        is_other = data.startswith(_NAME)
        raise InvalidState("it is of another version" if is_other else "it is no state of a relay")
    start = len(MAGIC) + _CHECKSUM.size
    body = data[start:]
    if len(data) < start or data[len(MAGIC) : start] != _CHECKSUM.pack(crc32(body)):
        raise InvalidState("it is damaged or incomplete")
    try:
        state: RelayState = _reader(RelayState)(cbor2.loads(body))
    except InvalidState:
        raise
    except Exception as error:  # whatever cbor2 finds
        raise InvalidState(f"it cannot be read: {type(error).__name__}") from None
    return state


@cache
def _writer(kind: Any) -> Callable[[Any], Any] | None:
    """Return a function that makes a value of *kind* plain; ``None`` if each is plain."""
    if is_dataclass(kind):
        assert isinstance(kind, type)
        hints = get_type_hints(kind)
        names = [each.name for each in fields(kind)]
        parts = [(index, _writer(hints[name])) for index, name in enumerate(names)]
        nested = [(index, part) for index, part in parts if part is not None]
        values = attrgetter(*names)

        def write(value: Any) -> Any:
            plain = list(values(value))
            for index, part in nested:
                plain[index] = part(plain[index])
            return plain

        return write
    if get_origin(kind) is UnionType:
        (other,) = (each for each in get_args(kind) if each is not NoneType)
        inner = _writer(other)
        return None if inner is None else lambda value: None if value is None else inner(value)
    if get_origin(kind) is tuple:
        return _tuple_writer([_writer(each) for each in get_args(kind) if each is not Ellipsis])
    return None


def _tuple_writer(parts: list[Callable[[Any], Any] | None]) -> Callable[[Any], Any] | None:
    """Return the writer of a tuple whose values have these writers, one for all or one for each."""
    if not any(parts):
        return None
    if len(parts) == 1:
        (part,) = parts
        return lambda value: [part(each) for each in value] if part else value
    return lambda value: [
        each if part is None else part(each) for part, each in zip(parts, value, strict=True)
    ]


@cache
def _reader(kind: Any) -> _Read:
    """Return a function that checks a value which was read, and returns it as one of *kind*."""
    if is_dataclass(kind):
        assert isinstance(kind, type)
        hints = get_type_hints(kind)
        return _record(kind, [_reader(hints[each.name]) for each in fields(kind)])
    if get_origin(kind) is UnionType:
        (other,) = (each for each in get_args(kind) if each is not NoneType)
        return _optional(_reader(other))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if parts[-1] is Ellipsis:
            return _sequence(_reader(parts[0]))
        return _record(lambda *values: values, [_reader(each) for each in parts])
    return _SCALARS[kind]


def _record(make: Callable[..., Any], parts: list[_Read]) -> _Read:
    def read(value: Any) -> Any:
        if type(value) is not list or len(value) != len(parts):
            raise InvalidState("it has a record of another kind")
        return make(*[part(each) for part, each in zip(parts, value, strict=True)])

    return read


def _sequence(part: _Read) -> _Read:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise InvalidState("it has another value in place of a list")
        return tuple(map(part, value))

    return read


def _optional(part: _Read) -> _Read:
    return lambda value: None if value is None else part(value)


def _scalar(kind: type) -> _Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise InvalidState(f"it has a {type(value).__name__} in place of a {kind.__name__}")
        return value

    return read


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise InvalidState("it has no number where one must be")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InvalidState("it has no duration where one must be")
    return float(value)


_SCALARS: Final[dict[Any, _Read]] = {
    int: _number,
    float: _seconds,
    str: _scalar(str),
    bytes: _scalar(bytes),
    bool: _scalar(bool),
}
