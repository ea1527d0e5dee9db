"""The state of a relay as bytes: whatever the bytes are, they are a state or are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.relay.state import RelayState
from acebase_ipc.server.state_codec import MAGIC, InvalidState, decode, encode
from tests.relay.core import DATABASE, MASTER, Core
from tests.relay.locks import body_of, grant, lock, new_id, unlock, worker_id

W1, W2 = worker_id(1), worker_id(2)


def busy_state() -> RelayState:
    """The state of a relay that has something of each kind."""
    core = Core(introduce=False, max_payload=300)
    reader = core.join("reader")
    master, first, second = (core.join_acebase(each) for each in (MASTER, W1, W2))
    first.posts("x" * 400)
    reader.downloads(reader.hears()[-1])
    held, waiting = lock(W1, new_id()), lock(W2, new_id(), "t2")
    first.says(held)
    master.says(grant(body_of(held), 107))
    first.says(lock(W1, new_id()))
    second.says(waiting)
    second.is_lost()
    first.says('{"a":"message that waits"}')
    master.is_lost()
    first.says(unlock(W1, new_id(), 107))
    core.relay.quiesce.begin(core.relay.registry.databases.values(), core.now)
    gone = core.join_acebase(worker_id(3))
    gone.says(lock(worker_id(3), new_id(), "t3"))
    gone.is_lost()
    core.wait(4)
    other = core.join_acebase(W1, "other_data")
    other.is_lost()
    return core.relay.export(core.now)


STATE = busy_state()


def plain(state: RelayState) -> Any:
    """What the CBOR of a state holds."""
    return cbor2.loads(encode(state)[len(MAGIC) + 4 :])


def packed(value: Any) -> bytes:
    """Any value where a state must be."""
    data = cbor2.dumps(value)
    return MAGIC + crc32(data).to_bytes(4, "little") + data


def test_a_state_survives() -> None:
    assert decode(encode(STATE)) == STATE
    assert encode(STATE) == packed(plain(STATE))


@pytest.mark.parametrize("end", [0, 5, len(MAGIC), len(MAGIC) + 3, len(MAGIC) + 4, 200, -1])
def test_what_is_cut_is_refused(end: int) -> None:
    with pytest.raises(InvalidState):
        decode(encode(STATE)[:end])


def test_another_version_is_named() -> None:
    with pytest.raises(InvalidState, match="another version"):
        decode(encode(STATE).replace(b"state 2", b"state 1", 1))


@given(st.binary())
def test_any_bytes_are_refused(data: bytes) -> None:
    for each in (data, MAGIC + data, MAGIC + crc32(data).to_bytes(4, "little") + data):
        with pytest.raises(InvalidState) as raised:
            decode(each)
        assert "\n" not in str(raised.value)


@given(st.integers(0), st.integers(1, 255))
def test_a_bit_that_has_changed_is_noticed(place: int, change: int) -> None:
    data = bytearray(encode(STATE))
    data[place % len(data)] ^= change
    with pytest.raises(InvalidState):
        decode(bytes(data))


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    2**63,
    2**64,
    float("nan"),
    float("inf"),
    "",
    "x\ny",
    "GONE",
    b"",
    [],
    [[]],
    {},
    cbor2.CBORTag(28, [cbor2.CBORTag(29, 0)]),
    cbor2.CBORTag(30, [1, 0]),
    cbor2.CBORTag(35, "("),
    cbor2.CBORTag(4, [2**40, 1]),
    cbor2.CBORTag(999, "x"),
]


def places(value: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The places of all values within *value*."""
    if not isinstance(value, list):
        return [path]
    return [path, *(at for index, each in enumerate(value) for at in places(each, (*path, index)))]


PLACES = places(plain(STATE))


@given(st.sampled_from(PLACES[1:]), st.integers(0, len(HOSTILE) - 1))
def test_with_any_value_in_the_place_of_another_it_can_be_adopted_or_is_refused(
    place: tuple[int, ...], which: int
) -> None:
    value = plain(STATE)
    container = value
    for index in place[:-1]:
        container = container[index]
    container[place[-1]] = HOSTILE[which]
    try:
        state = decode(packed(value))
    except InvalidState:
        return
    core = Core()
    core.relay.adopt(state, core.now, {})
    core.relay.resume()
    core.wait(1)


def changed_database(**changes: Any) -> RelayState:
    first, *rest = STATE.databases
    return STATE._replace(databases=(first._replace(**changes), *rest))


@pytest.mark.parametrize(
    "change",
    [
        lambda: changed_database(peers=STATE.databases[0].peers[:1] * 2),
        lambda: changed_database(awaiting_master=((10_000, None),)),
        lambda: changed_database(awaiting_master=((0, "nobody"),)),
        lambda: changed_database(ledger=None),
        lambda: STATE._replace(databases=STATE.databases * 2),
        lambda: STATE._replace(ending=((DATABASE, "nobody"),)),
        lambda: STATE._replace(expiries=((DATABASE, "nobody", 1.0),)),
        lambda: STATE._replace(lock_waits=((1,), 1.0)),
        lambda: STATE._replace(store=STATE.store._replace(messages=STATE.store.messages * 2)),
        lambda: STATE._replace(store=STATE.store._replace(reclaimable=("x",))),
        lambda: STATE._replace(store=STATE.store._replace(fetched=((DATABASE, b"x", "x", 1.0),))),
    ],
)
def test_what_does_not_fit_together_is_refused(change: Callable[[], RelayState]) -> None:
    with pytest.raises(InvalidState):
        decode(encode(change()))
