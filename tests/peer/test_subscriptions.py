"""The subscriptions of an AceBase process."""

from __future__ import annotations

import pytest

from acebase_ipc.peer.subscriptions import (
    EVENTS,
    Subscription,
    Subscriptions,
    checked_event,
    normal_path,
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


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("", ""),
        ("/", ""),
        ("users", "users"),
        ("/users/*/posts/$id/", "users/*/posts/$id"),
        ("list[3]/name", "list[3]/name"),
        ("list[3][4]", "list[3][4]"),
        ("[3]", "[3]"),
        ("käse/ä b.c", "käse/ä b.c"),
        ("users/constructor", "users/constructor"),
        ("x" * 128, "x" * 128),
        ("tab\tkey", "tab\tkey"),
    ],
)
def test_a_path_is_taken_without_slashes_at_its_ends(path: str, normal: str) -> None:
    assert normal_path(path) == normal


@pytest.mark.parametrize(
    "path",
    ["a//b", "list/[3]", "a/b]", "a[x]", "a[", "a\\b", "a\0b", "\x1f", "a\n\x0bb", "[3]x", "a[3]b"],
)
def test_what_acebase_cannot_have_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        normal_path(path)


@pytest.mark.parametrize("path", ["x" * 129, "a/" + "💡" * 65, "a/" + "x" * 129 + "[1]"])
def test_a_long_key_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="at most 128"):
        normal_path(path)
    normal_path(path.replace("x", "", 1).replace("💡", "", 1))


@pytest.mark.parametrize("path", ["constructor", "/__proto__/", "toString"])
def test_what_ends_processes_of_the_npm_package_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="do not survive"):
        normal_path(path)


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
