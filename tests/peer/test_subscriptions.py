"""What an AceBase process wants to be told."""

from __future__ import annotations

import pytest

from acebase_ipc.peer.subscriptions import EVENTS, Subscriptions, checked_event, normal_path
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
def test_what_ends_published_clients_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="do not survive"):
        normal_path(path)


def _event(path: str, event: str) -> Event:
    return Event(path, event, "users/a", 1, None, {}, "sender")


def test_callbacks_are_found_by_path_and_event_in_the_order_they_came() -> None:
    first, second, other = (lambda _: 1), (lambda _: 2), (lambda _: 3)
    subscriptions = Subscriptions()
    for path, event, callback in (
        ("users/*", "value", first),
        ("users/*", "value", second),
        ("users/*", "value", first),
        ("users/*", "mutated", other),
    ):
        subscriptions.add(path, event, callback)
    assert subscriptions.callbacks(_event("users/*", "value")) == (first, second, first)
    assert subscriptions.callbacks(_event("users/*", "mutated")) == (other,)
    assert subscriptions.callbacks(_event("users", "value")) == ()
    assert list(subscriptions) == [("users/*", "value"), ("users/*", "mutated")]


def test_the_first_and_the_last_have_to_be_told() -> None:
    first, second = (lambda _: 1), (lambda _: 2)
    subscriptions = Subscriptions()
    assert subscriptions.add("a", "value", first)
    assert not subscriptions.add("a", "value", second)
    assert subscriptions.add("a", "mutated", first)
    assert not subscriptions.discard("a", "value", first)
    assert not subscriptions.discard("a", "value", first)
    assert subscriptions.discard("a", "value", second)
    assert not subscriptions.discard("a", "value", second)
    assert list(subscriptions) == [("a", "mutated")]


def test_subscriptions_are_found_by_path_event_and_callback() -> None:
    first, second = (lambda _: 1), (lambda _: 2)
    subscriptions = Subscriptions()
    subscriptions.add("a", "value", first)
    subscriptions.add("a", "value", second)
    subscriptions.add("a", "mutated", first)
    subscriptions.add("b", "value", first)
    assert subscriptions.found("a", None, None) == [
        ("value", first),
        ("value", second),
        ("mutated", first),
    ]
    assert subscriptions.found("a", "value", None) == [("value", first), ("value", second)]
    assert subscriptions.found("a", None, first) == [("value", first), ("mutated", first)]
    assert subscriptions.found("a", "mutated", second) == []
