"""The state of a relay as bytes, and back.

The bytes are CBOR (RFC 8949) after a line with the version of the format and a CRC-32. They
may come from anywhere: whatever they are, :func:`decode` returns a state in which each value
has the type that it must have, or raises :exc:`InvalidState`. No code is run for them.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from struct import Struct
from typing import Final
from zlib import crc32

import cbor2

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import check_client_id, check_database_name
from acebase_ipc.relay.histogram import SECONDS
from acebase_ipc.relay.peers import SessionState
from acebase_ipc.relay.state import DatabaseState, RelayState
from acebase_ipc.server.columns import InvalidColumn, column_of
from acebase_ipc.server.private_file import InvalidFile

MAGIC: Final = b"acebase-ipc state 2\n"
"""The format and its version."""

_NAME: Final = b"acebase-ipc state "
_CHECKSUM: Final = Struct("<I")
_START: Final = len(MAGIC) + _CHECKSUM.size
_STATES: Final = frozenset(each.name for each in SessionState) - {SessionState.GONE.name}
_DIALECTS: Final = frozenset(each.value for each in Dialect)
_COLUMN: Final = column_of(RelayState)


class InvalidState(InvalidFile):
    """These bytes are no state that this version can use; the text says why in one line."""


def encode(state: RelayState) -> bytes:
    """Return the bytes of *state*."""
    buffer = BytesIO()  # no second copy is made of the messages, which may fill the memory
    buffer.write(MAGIC + bytes(_CHECKSUM.size))
    cbor2.dump(_COLUMN.write([state]), buffer)
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
        state: RelayState
        (state,) = _COLUMN.read(cbor2.loads(body), 1)
        _check(state)
    except InvalidColumn as error:
        raise InvalidState(str(error)) from None
    except Exception as error:  # whatever cbor2 finds
        raise InvalidState(f"it cannot be read: {type(error).__name__}") from None
    return state


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
    if not {each.dialect for each in state.peers} <= _DIALECTS:
        raise ValueError
    if not {each.state for each in state.peers} <= _STATES:
        raise ValueError
    accounts = [each.account for each in state.peers if each.account is not None]
    if accounts and state.ledger is None:
        raise LookupError
    numberings = [each.numbering for each in state.peers if each.numbering is not None]
    for numbering in numberings:
        if numbering.highest < numbering.acknowledged + len(numbering.kept):
            raise ValueError
    queues = [state.awaiting_master, *(each.queue for each in state.peers if each.queue)]
    for queue in (*queues, *(each.kept for each in numberings)):
        _check_indices(messages, (index for index, _ in queue))
        if not {sender for _, sender in queue if sender is not None} <= ids:
            raise LookupError
    if state.ledger is None:
        return
    ledger, locks = state.ledger, len(state.ledger.locks)
    for references in (ledger.own, ledger.questions, *(each.about for each in accounts)):
        _check_indices(locks, (index for _, index in references))
    for account in accounts:
        _check_indices(locks, (index for _, index in account.locks))
        if not {each[3] for each in account.own} <= {each.lock_id for each in account.covers}:
            raise LookupError
    _check_indices(locks, ledger.unwanted)


def _check_indices(end: int, indices: Iterable[int]) -> None:
    if any(each >= end for each in indices):
        raise LookupError
