"""The state of a relay as bytes, and back.

The bytes are CBOR (RFC 8949) after a line with the version of the format and a CRC-32. They
may come from anywhere: whatever they are, :func:`decode` returns a state in which each value
has the type that it must have, or raises :exc:`InvalidState`. No code is run for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from functools import cache
from io import BytesIO
from operator import attrgetter
from struct import Struct
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints
from zlib import crc32

import cbor2

from acebase_ipc.errors import IPCError
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import check_client_id, check_database_name
from acebase_ipc.relay.histogram import SECONDS
from acebase_ipc.relay.peers import SessionState
from acebase_ipc.relay.state import DatabaseState, RelayState

MAGIC: Final = b"acebase-ipc state 2\n"
"""The format and its version."""

_NAME: Final = b"acebase-ipc state "
_CHECKSUM: Final = Struct("<I")
_START: Final = len(MAGIC) + _CHECKSUM.size
_LARGEST: Final = 2**63
"""Whole numbers are below this: ids of locks, counters, milliseconds since 1970."""

_STATES: Final = frozenset(each.name for each in SessionState) - {SessionState.GONE.name}

_Read = Callable[[Any], Any]


class InvalidState(IPCError):
    """These bytes are no state that this version can use; the text says why in one line."""


def encode(state: RelayState) -> bytes:
    """Return the bytes of *state*."""
    write = _writer(RelayState)
    assert write is not None
    buffer = BytesIO()  # no second copy is made of the messages, which may fill the memory
    buffer.write(MAGIC + bytes(_CHECKSUM.size))
    cbor2.dump(write(state), buffer)
    with buffer.getbuffer() as data:
        _CHECKSUM.pack_into(data, len(MAGIC), crc32(data[_START:]))
    return buffer.getvalue()


def decode(data: bytes) -> RelayState:
    """Return the state in *data*, which :func:`encode` has made.

    :raises InvalidState: if it has not, or in another version.
    """
    if not data.startswith(MAGIC):
        is_other = data.startswith(_NAME)
        raise InvalidState("it is of another version" if is_other else "it is no state of a relay")
    body = data[_START:]
    if len(data) < _START or data[len(MAGIC) : _START] != _CHECKSUM.pack(crc32(body)):
        raise InvalidState("it is damaged or incomplete")
    try:
        state: RelayState = _reader(RelayState)(cbor2.loads(body))
        _check(state)
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


def _check(state: RelayState) -> None:
    """Check that everything that is meant by an index or an id is there, once.

    :raises LookupError: if it is not; also KeyError.
    :raises ValueError: if an id, or the name of a dialect or of a session's state, is none.
    """
    if not len(state.lock_waits[0]) == len(state.answer_times[0]) == len(SECONDS) + 1:
        raise LookupError
    known: set[tuple[str, str]] = set()
    for each in (*state.databases, *(database for database, _ in state.left)):
        _check_database(each, len(state.messages))
        known.update((check_database_name(each.name), peer.client_id) for peer in each.peers)
    peers = sum(len(each.peers) for each in state.databases)
    if len(known) != peers or not {*state.ending, *(key[:2] for key in state.expiries)} <= known:
        raise LookupError
    stored = {each.id: each for each in state.store.messages}
    if len(stored) != len(state.store.messages):
        raise LookupError
    for message in state.store.messages:
        if not set(message.waiting) <= set(message.recipients) or not message.waiting:
            raise LookupError
    for database, recipient, message_id, _ in state.store.fetched:
        if stored[message_id].database != database or recipient not in stored[message_id].waiting:
            raise LookupError
    for message_id in state.store.reclaimable:
        stored[message_id]


def _check_database(state: DatabaseState, messages: int) -> None:
    ids = {check_client_id(each.client_id) for each in state.peers}
    if len(ids) != len(state.peers):
        raise LookupError
    for each in state.peers:
        Dialect(each.dialect)
        if each.state not in _STATES or (each.account is not None and state.ledger is None):
            raise ValueError
    numberings = [each.numbering for each in state.peers if each.numbering is not None]
    for numbering in numberings:
        if numbering.highest < numbering.acknowledged + len(numbering.kept):
            raise ValueError
    queues = [state.awaiting_master, *(each.queue for each in state.peers)]
    for queue in (*queues, *(each.kept for each in numberings)):
        _check_indices(messages, (index for index, _ in queue))
        if not {sender for _, sender in queue if sender is not None} <= ids:
            raise LookupError
    if state.ledger is None:
        return
    ledger, locks = state.ledger, len(state.ledger.locks)
    accounts = [each.account for each in state.peers if each.account is not None]
    for references in (ledger.own, ledger.questions, *(each.about for each in accounts)):
        _check_indices(locks, (index for _, index in references))
    for account in accounts:
        _check_indices(locks, (index for _, index in account.locks))
    _check_indices(locks, ledger.unwanted)


def _check_indices(end: int, indices: Iterable[int]) -> None:
    if any(each >= end for each in indices):
        raise LookupError


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
    """Return the reader of a list with these *parts*.

    Each peer is one, so that texts and flags are checked together, and not by a call each.
    """
    kinds = {each: kind for kind, each in _SCALARS.items() if kind in (str, bytes, bool)}
    plain = [index for index, part in enumerate(parts) if part in kinds]
    expected = [kinds[parts[index]] for index in plain]
    others = [(index, part) for index, part in enumerate(parts) if part not in kinds]

    def read(value: Any) -> Any:
        if type(value) is not list or len(value) != len(parts):
            raise InvalidState("it has a record of another kind")
        if [type(value[index]) for index in plain] != expected:
            raise InvalidState("it has a record with a value of another kind")
        for index, part in others:
            value[index] = part(value[index])
        return make(*value)

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
