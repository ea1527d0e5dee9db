"""Values of the types of a state as plain columns, and back.

All values of one field are one list, those of all peers of all databases, too: a relay that is
handed over stands still meanwhile, and lists of one type are read and checked without a call for
each value.

=================  =============================================================
type               column of some values
=================  =============================================================
a scalar           the list of the values
a tuple of fields  a list with a column for each field
``tuple[X, ...]``  ``None`` if all are empty; else their sizes, and a column of
                   the values of all of them
``X | None``       ``None`` if all are; else a list that tells which are not, and
                   a column of these
=================  =============================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain, islice
from operator import itemgetter
from types import NoneType, UnionType
from typing import Any, Final, Protocol, get_args, get_origin, get_type_hints

_LARGEST: Final = 2**63
"""Whole numbers are below this: ids of locks, counters, milliseconds since 1970."""


class InvalidColumn(Exception):
    """This is no column of the type that is expected; the text says why in one line."""


class Column(Protocol):
    """Writes and reads columns of one type."""

    def write(self, values: Sequence[Any]) -> Any:
        """Return the column of *values*."""

    def read(self, column: Any, size: int) -> Sequence[Any]:
        """Return the values in a *column*, which may be anything.

        :param size: how many there must be.
        :raises InvalidColumn: if they are not that many, or not all of the type.
        """


class _Scalar:
    """Values that are plain."""

    def __init__(self, kind: type) -> None:
        self._kinds = {float, int} if kind is float else {kind}
        checks: dict[type, Callable[[list[Any]], list[Any]]] = {float: _seconds, int: _numbers}
        self._check = checks.get(kind)

    def write(self, values: Sequence[Any]) -> Any:
        return values

    def read(self, column: Any, size: int) -> Sequence[Any]:
        values = _list(column, size)
        if not set(map(type, values)) <= self._kinds:
            raise InvalidColumn("it has a value of another kind")
        return values if self._check is None else self._check(values)


def _numbers(values: list[int]) -> list[int]:
    if values and not 0 <= min(values) <= max(values) < _LARGEST:
        raise InvalidColumn("it has no number where one must be")
    return values


def _seconds(values: list[float]) -> list[float]:
    durations = list(map(float, values))
    if not all(map(math.isfinite, durations)):
        raise InvalidColumn("it has no duration where one must be")
    return durations


class _Record:
    """Tuples with a value of its own type in each place."""

    def __init__(self, make: Callable[[Any], Any], parts: Sequence[Column]) -> None:
        self._make = make
        self._parts = [(itemgetter(index), part) for index, part in enumerate(parts)]

    def write(self, values: Sequence[Any]) -> Any:
        return [part.write(list(map(get, values))) for get, part in self._parts]

    def read(self, column: Any, size: int) -> Sequence[Any]:
        columns = _list(column, len(self._parts))
        fields = [
            part.read(each, size) for each, (_, part) in zip(columns, self._parts, strict=True)
        ]
        return list(map(self._make, zip(*fields, strict=True)))


class _Sequence:
    """Tuples of any length with values of one type."""

    def __init__(self, part: Column) -> None:
        self._part = part

    def write(self, values: Sequence[Any]) -> Any:
        whole = list(chain.from_iterable(values))
        return [list(map(len, values)), self._part.write(whole)] if whole else None

    def read(self, column: Any, size: int) -> Sequence[Any]:
        if column is None:
            return ((),) * size
        sizes, whole = _list(column, 2)
        sizes = _SIZES.read(sizes, size)
        values = iter(self._part.read(whole, sum(sizes)))
        return [tuple(islice(values, each)) if each else () for each in sizes]


class _Optional:
    """Values that may be ``None``."""

    def __init__(self, part: Column) -> None:
        self._part = part

    def write(self, values: Sequence[Any]) -> Any:
        present = [each for each in values if each is not None]
        if not present:
            return None
        return [[each is not None for each in values], self._part.write(present)]

    def read(self, column: Any, size: int) -> Sequence[Any]:
        if column is None:
            return (None,) * size
        are_present, present = _list(column, 2)
        are_present = _FLAGS.read(are_present, size)
        values = iter(self._part.read(present, sum(are_present)))
        return [next(values) if each else None for each in are_present]


_SIZES: Final = _Scalar(int)
_FLAGS: Final = _Scalar(bool)


def _list(value: Any, size: int) -> list[Any]:
    """Return *value* if it is a list of that *size*."""
    if type(value) is not list or len(value) != size:
        raise InvalidColumn("it has another value in place of a list")
    return value


@cache
def column_of(kind: Any) -> Column:
    """Return what writes and reads columns of *kind*.

    It may be ``int`` (from 0 to 2**63 - 1), ``float`` (finite), ``str``, ``bytes``, ``bool``, a
    named tuple or another one of these, or one with ``None``.
    """
    if hasattr(kind, "_fields"):
        hints = get_type_hints(kind)
        return _Record(kind._make, [column_of(hints[name]) for name in kind._fields])
    if get_origin(kind) is UnionType:
        (other,) = (each for each in get_args(kind) if each is not NoneType)
        return _Optional(column_of(other))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if parts[-1] is Ellipsis:
            return _Sequence(column_of(parts[0]))
        return _Record(tuple, [column_of(each) for each in parts])
    return _Scalar(kind)
