"""The subscriptions of an AceBase process."""

from __future__ import annotations

import pytest

from acebase_ipc.peer.subscriptions import (
    EVENTS,
    Subscription,
    Subscriptions,
    checked_event,
)
from acebase_ipc.protocol.envelopes import Event


def test_there_are_twelve_kinds_of_events() -> None:
    assert len(EVENTS) == 12
    for event in EVENTS:
        assert checked_event(event) == event


@pytest.mark.parametrize("event", ["", "values", "notify_", "Value", "child_moved"])
def test_other_events_are_refused(event: str) -> None:
    with pytest.raises(ValueError, match="is none of child_added"):
        checked_event(event)


def _event(path: str, event: str) -> Event:
    return Event(path, event, "users/a", 1, None, {}, "sender")


def test_subscriptions_are_found_by_path_and_event_in_the_order_they_came() -> None:
    subscriptions = Subscriptions()
    first, second, again, other = (
        Subscription("users/*", "value", print),
        Subscription("users/*", "value", repr),
        Subscription("users/*", "value", print),
        Subscription("users/*", "mutated", print),
    )
    for each in (first, second, again, other):
        subscriptions.add(each)
        assert each in subscriptions
    assert subscriptions.of(_event("users/*", "value")) == (first, second, again)
    assert subscriptions.of(_event("users/*", "mutated")) == (other,)
    assert subscriptions.of(_event("users", "value")) == ()
    assert list(subscriptions) == [("users/*", "value"), ("users/*", "mutated")]


def test_the_first_and_the_last_have_to_be_told() -> None:
    first, second = Subscription("a", "value", print), Subscription("a", "value", print)
    other = Subscription("a", "mutated", print)
    subscriptions = Subscriptions()
    assert subscriptions.add(first)
    assert not subscriptions.add(second)
    assert subscriptions.add(other)
    assert not subscriptions.discard(first)
    assert not subscriptions.discard(first)
    assert first not in subscriptions
    assert second in subscriptions
    assert subscriptions.discard(second)
    assert not subscriptions.discard(second)
    assert list(subscriptions) == [("a", "mutated")]


def test_subscriptions_are_found_by_path_event_and_callback() -> None:
    first, second, third, other = (
        Subscription("a", "value", print),
        Subscription("a", "value", repr),
        Subscription("a", "mutated", print),
        Subscription("b", "value", print),
    )
    subscriptions = Subscriptions()
    for each in (first, second, third, other):
        subscriptions.add(each)
    assert subscriptions.found("a", None, None) == [first, second, third]
    assert subscriptions.found("a", "value", None) == [first, second]
    assert subscriptions.found("a", None, print) == [first, third]
    assert subscriptions.found("a", "mutated", repr) == []
