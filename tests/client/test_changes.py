"""Python programs that follow what changes in a database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from acebase_ipc import AceBasePeer
from acebase_ipc.client.changes import Change, Changes
from acebase_ipc.client.errors import HistoryGap, RequestDenied, RequestFailed
from acebase_ipc.protocol.envelopes import Mutation
from acebase_ipc.testing import AceBaseMemoryPeer, MemoryRelay
from tests.relay.locks import worker_id


class Shop:
    """A relay that keeps a history, a writer that answers its greetings, and a Python peer."""

    def __init__(self, peer: dict[str, Any] | None = None, **options: Any) -> None:
        self.relay = MemoryRelay(**{"history_messages": 1000, **options})
        self.writer: AceBaseMemoryPeer = self.relay.join_acebase(worker_id(1))
        self.id = ""
        self.peer: AceBasePeer = self.relay.peer(
            "follower", **{"retry_policy": lambda failures: 0.5 * failures, **(peer or {})}
        )

    def follow(self, path: str = "orders", since: str | None = None) -> Reader:
        reader = Reader(self, self.peer.changes(path, since))
        self.settle()
        return reader

    def settle(self) -> None:
        self.relay.settle()
        for each in self.writer.envelopes():
            if each["type"] == "hello" and each["from"].startswith("changes-"):
                self.id = each["from"]
                self.writer.say_envelope("hello", to=self.id)
        self.relay.settle()

    def write(self, *values: Any, path: str = "orders") -> None:
        for value in values:
            val = [{"target": ["a", 1], "val": value, "prev": None}]
            data = {"path": path, "val": val, "context": {"by": "test"}}
            self.writer.say_envelope("event", self.id, path=path, event="mutations", data=data)


class Reader:
    """Reads an iterator to its end."""

    def __init__(self, shop: Shop, changes: Changes) -> None:
        self.changes = changes
        self.read: list[Change] = []
        self.error: BaseException | None = None
        self.readies: list[object] = []
        changes.when_ready().addBoth(self.readies.append)
        self._next()

    def _next(self) -> None:
        self.changes.__anext__().addCallbacks(self._got, self._failed)

    def _got(self, change: Change) -> None:
        self.read.append(change)
        self._next()

    def _failed(self, failure: Failure) -> None:
        self.error = failure.value

    @property
    def values(self) -> list[Any]:
        return [mutation.value for each in self.read for mutation in each.mutations]


def taken(deferred: Deferred[Change]) -> Change:
    results: list[Change] = []
    deferred.addCallback(results.append)
    return results[0]


def test_a_program_gets_each_change() -> None:
    shop = Shop()
    reader = shop.follow()
    assert reader.readies == [None]
    assert reader.changes.cursor is not None
    shop.write("tea", "coffee")
    first, second = reader.read
    assert first.mutations == (Mutation(("a", 1), "tea", None),)
    assert (first.path, first.context, first.sender) == ("orders", {"by": "test"}, shop.writer.id)
    assert reader.changes.cursor == second.cursor != first.cursor


def test_it_goes_on_from_a_stored_cursor() -> None:
    shop = Shop()
    reader = shop.follow()
    shop.write(1, 2)
    shop.peer.stopService()
    shop.settle()
    assert isinstance(reader.error, StopAsyncIteration)
    shop.write(3)
    again = shop.follow(since=reader.read[0].cursor)
    assert again.readies == [None]
    assert again.values == [2, 3]


def test_a_connection_that_is_lost_loses_nothing() -> None:
    shop = Shop()
    reader = shop.follow()
    (stream,) = shop.relay.server._parts.site.channels
    for value in range(5):
        shop.write(value)
        next(iter(shop.relay.server._parts.site.channels)).abort()
        shop.write(value + 0.5)
        shop.relay.pass_time(1)
    assert reader.values == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5]
    assert stream not in shop.relay.server._parts.site.channels


def test_a_gap_is_raised_after_what_came_before() -> None:
    shop = Shop()
    reader = shop.follow()
    shop.write(1)
    shop.writer.lose()
    shop.relay.settle()
    assert reader.values == [1]
    assert isinstance(reader.error, HistoryGap)


def test_a_cursor_that_is_too_old_is_a_gap() -> None:
    shop = Shop(history_messages=2)
    reader = shop.follow()
    shop.write(*range(5))
    again = shop.follow(since=reader.read[0].cursor)
    assert isinstance(again.error, HistoryGap)
    assert [type(each) for each in again.readies] == [Failure]


def test_a_program_that_reads_slowly_holds_little_and_misses_nothing() -> None:
    shop = Shop(peer={"max_queue": 10_000})
    changes = shop.peer.changes("orders")
    shop.settle()
    shop.write(*(f"{number} {'x' * 1000}" for number in range(100)))
    shop.relay.pass_time(5)
    assert changes._size < 15_000
    values: list[int] = []
    while len(values) < 100:
        value = taken(changes.__anext__()).mutations[0].value
        values.append(int(value.split()[0]))
        if not changes._arrived:
            shop.relay.pass_time(1)
    assert values == list(range(100))


def test_a_silent_stream_is_given_up_and_another_one_goes_on() -> None:
    shop = Shop()
    reader = shop.follow()
    (stream,) = shop.relay.server._parts.site.channels
    shop.relay.server._parts.site.context.streams.discard(
        next(iter(shop.relay.server._parts.site.context.streams._streams))
    )  # it gets no comments any more
    shop.relay.pass_time(45)
    shop.write("tea")
    assert reader.values == ["tea"]
    assert stream not in shop.relay.server._parts.site.channels


def test_a_relay_without_a_history_is_an_error() -> None:
    shop = Shop(history_messages=None)
    reader = shop.follow()
    assert isinstance(reader.error, RequestDenied)
    assert "--history-messages" in str(reader.error)


@pytest.mark.parametrize("size", [1_000, 15_000])
def test_a_change_that_is_too_large_is_an_error(size: int) -> None:
    shop = Shop(peer={"max_message": 1000})
    reader = shop.follow()
    shop.write("x" * size)
    assert isinstance(reader.error, RequestFailed)
    assert "max_message" in str(reader.error)


def test_a_change_that_is_far_too_large_is_given_up_before_it_is_complete() -> None:
    shop = Shop(peer={"max_message": 1000})
    reader = shop.follow()
    text = f'"from":"{shop.writer.id}","to":"{shop.id}","path":"orders","event":"mutations"'
    shop.writer.post(f'to:{shop.id};{{"type":"event",{text},"data":{{"val":"{"x" * 500_000}"}}}}')
    assert isinstance(reader.error, RequestFailed)


def test_closing_ends_the_iterator_and_its_connection() -> None:
    shop = Shop()
    reader = shop.follow()
    assert len(shop.relay.server._parts.site.channels) == 1
    Deferred.fromCoroutine(reader.changes.aclose())
    shop.relay.settle()
    assert isinstance(reader.error, StopAsyncIteration)
    assert not shop.relay.server._parts.site.channels
    shop.relay.pass_time(60)
    assert not shop.relay.server._parts.site.channels


@pytest.mark.parametrize("path", ["orders/*", "$id", "a//b"])
def test_a_path_that_cannot_be_followed_is_refused_at_once(path: str) -> None:
    with MemoryRelay() as relay, pytest.raises(ValueError, match="path"):
        relay.peer("follower").changes(path)


def test_what_is_no_change_is_ignored() -> None:
    shop = Shop()
    reader = shop.follow()
    data = {"path": "orders", "val": None}
    text = json.dumps({"type": "event", "from": shop.writer.id, "to": shop.id, "path": "orders"})
    broken = text[:-1].replace(" ", "") + f',"event":"mutations","data":{json.dumps(data)}'
    shop.writer.say(f"to:{shop.id};{broken}")
    shop.write("tea")
    assert reader.values == ["tea"]
