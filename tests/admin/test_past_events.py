"""Events that another relay goes on with."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any, get_type_hints

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.admin.counts import KINDS
from acebase_ipc.admin.history import MAX_KEPT, History, Noted
from acebase_ipc.admin.past_events import noted_of, plain
from acebase_ipc.relay.events import (
    ConnectionClosed,
    DropReason,
    MessageDropped,
    PeerJoined,
    RelayEvent,
    TokenGuessing,
)

JOINED = PeerJoined("shop_data", "alice", "acebase", "192.0.2.1:40000")
CLOSED = ConnectionClosed("shop_data", "alice", "127.0.0.1:5", 1006, "lost", False, 3.0)
DROPPED = MessageDropped("shop_data", "alice", DropReason.BINARY)
VALUES: dict[type, Any] = {str: "text", int: 7, float: 1.5, bool: True}


def sample(kind: type[RelayEvent]) -> RelayEvent:
    """An event of that kind."""
    hints = [get_type_hints(kind)[each.name] for each in fields(kind)]
    return kind(*(next(iter(each)) if issubclass(each, Enum) else VALUES[each] for each in hints))


@pytest.mark.parametrize("name", KINDS)
def test_an_event_of_any_kind_can_be_passed_on(name: str) -> None:
    noted = Noted(3, 1000.25, sample(KINDS[name]))
    assert noted_of(cbor2.loads(cbor2.dumps(plain(noted)))) == noted


@pytest.mark.parametrize(
    "values",
    [
        None,
        [3, 1000.0, "PeerJoined"],
        [-1, 1000.0, "TokenGuessing", ["192.0.2.1"]],
        ["3", 1000.0, "TokenGuessing", ["192.0.2.1"]],
        [3, float("nan"), "TokenGuessing", ["192.0.2.1"]],
        [3, 1000.0, "OfANewerVersion", ["192.0.2.1"]],
        [3, 1000.0, "RelayEvent", []],
        [3, 1000.0, "TokenGuessing", []],
        [3, 1000.0, "TokenGuessing", [7]],
        [3, 1000.0, "MessageDropped", ["shop_data", "alice", "NO_REASON", 1]],
        [3, 1000.0, "MessageDropped", ["shop_data", "alice", "BINARY", True]],
        [3, 1000.0, ["TokenGuessing"], ["192.0.2.1"]],
    ],
)
def test_what_is_no_event_of_this_version_is_left_out(values: Any) -> None:
    assert noted_of(values) is None


@given(st.recursive(st.none() | st.integers() | st.text() | st.floats(), st.lists, max_leaves=6))
def test_anything_may_come_in_place_of_an_event(values: Any) -> None:
    noted_of(values)


def restored(before: History, after: History) -> History:
    """The history of a relay that goes on in the place of another one."""
    after.adopt(before.past())
    return after


def test_events_go_on_in_their_order_and_with_their_ids() -> None:
    before, after = History(lambda: 5.0), History(lambda: 6.0)
    for event in (JOINED, TokenGuessing("192.0.2.1"), CLOSED, DROPPED):
        before.report(event)
    after.report(JOINED)  # before it knows of the others
    restored(before, after)
    after.report(CLOSED)
    kept = after.events(10)
    assert kept[:4] == before.events(10)
    assert [each.event for each in kept[4:]] == [JOINED, CLOSED]
    assert [each.time for each in after.closed(10)] == [6.0, 5.0]
    assert after.events(10, after=before.last) == kept[4:]


def test_later_ids_are_higher_also_if_there_were_very_many_before() -> None:
    before, after = History(lambda: 5.0), History(lambda: 5.1)
    for _ in range(500):
        before.report(JOINED)
    restored(before, after).report(DROPPED)
    assert after.last > before.last
    assert after.events(1)[0].event is not JOINED


def test_no_more_is_kept_than_without_those_before() -> None:
    before, after = History(lambda: 5.0), History(lambda: 10.0)
    for history in (before, after):
        for _ in range(MAX_KEPT):
            history.report(CLOSED)
            history.report(JOINED)
    restored(before, after)
    assert len(after.past()) == len(before.past()) == 2 * MAX_KEPT
    assert {each.time for each in after.past()} == {10.0}
    assert len(after.closed(10_000)) == MAX_KEPT


def test_a_connection_that_has_ended_is_passed_on_if_its_event_is_forgotten() -> None:
    history = History(lambda: 5.0)
    history.report(CLOSED)
    for _ in range(MAX_KEPT):
        history.report(DROPPED)
    assert CLOSED.severity is DROPPED.severity
    assert [each.event for each in restored(history, History(lambda: 6.0)).closed(1)] == [CLOSED]


def test_only_what_came_after_an_id_is_passed_on() -> None:
    history = History(lambda: 5.0)
    for event in (JOINED, CLOSED):
        history.report(event)
    told = history.last
    assert history.past(told) == []
    history.report(CLOSED)
    history.report(DROPPED)
    assert [each.event for each in history.past(told)] == [CLOSED, DROPPED]
