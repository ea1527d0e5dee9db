"""The history of changes: what is kept for readers, and when they are told of a gap."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acebase_ipc.relay import history as module
from acebase_ipc.relay.errors import HistoryGap, NotFound, Overloaded
from acebase_ipc.relay.feed import ENTRY_OVERHEAD, Feed
from acebase_ipc.relay.history import IDLE
from acebase_ipc.relay.limits import MIB, Limits
from tests.relay.core import DATABASE, MASTER, Core, Process

PATH = "orders"


def envelopes(process: Process) -> list[dict[str, Any]]:
    return [json.loads(each) for each in process.hears() if each.startswith("{")]


class Scene:
    """A relay that keeps a history, a master and a worker, and the feed of a path."""

    def __init__(self, *writers: str, **limits: Any) -> None:
        self.core = Core(**{"history_messages": 100, **limits})
        self.writers = [self.core.join_acebase(each) for each in writers or (MASTER, "worker")]
        self.core.hush()

    @property
    def histories(self) -> module.Histories:
        return self.core.relay.histories

    @property
    def id(self) -> str:
        return self.histories.id.decode()

    def follow(self, path: str = PATH) -> Feed:
        """Begin to follow a path; all writers answer."""
        feed, position = self.histories.follow(DATABASE, path, None)
        assert position is None
        for each in self.writers:
            self.answers(each)
        return feed

    def answers(self, process: Process) -> None:
        """Let a process answer a greeting of the relay, if it has come."""
        greetings = [each for each in envelopes(process) if each["type"] == "hello"]
        if any(each["from"] == self.id for each in greetings):
            process.says(self.envelope(process, "hello"))

    def envelope(self, process: Process, kind: str, to: str | None = None, **more: Any) -> str:
        to = to or self.id
        message = {"type": kind, "from": process.peer.client_id, "to": to, **more}
        return f"to:{to};" + json.dumps(message, separators=(",", ":"))

    def change(self, value: Any, writer: int = 1, path: str = PATH, to: str | None = None) -> str:
        data = {"path": path, "val": [{"target": [], "val": value}], "context": {}}
        process = self.writers[writer]
        text = self.envelope(process, "event", to, path=path, event="mutations", data=data)
        process.says(text)
        return text.partition(";")[2]

    def missed(self, cursor: str, path: str = PATH) -> list[str]:
        """What a reader gets that comes back with a cursor."""
        feed, position = self.histories.follow(DATABASE, path, cursor)
        assert position is not None
        return [feed.event(each).decode() for each in range(position + 1, feed.number + 1)]


def test_a_relay_keeps_no_history_by_default() -> None:
    with pytest.raises(NotFound, match="history-messages"):
        Core().relay.histories.follow(DATABASE, PATH, None)


def test_the_writers_are_asked_for_their_changes() -> None:
    scene = Scene()
    python = scene.core.join("python", scene.writers[0].peer.dialect)
    scene.core.hush()
    scene.histories.follow(DATABASE, PATH, None)
    data = {"path": PATH, "event": "mutations"}
    for each in scene.writers:
        assert envelopes(each) == [
            {"type": "subscribe", "from": scene.id, "data": data},
            {"type": "hello", "from": scene.id},
        ]
    assert envelopes(python) == []  # it does not write


def test_what_changes_can_be_read_later() -> None:
    scene = Scene()
    feed = scene.follow()
    cursor = feed.cursor(feed.number)
    changes = [scene.change(each, writer) for each, writer in ((1, 1), (2, 0), (3, 1))]
    assert scene.missed(cursor) == changes
    assert scene.missed(feed.cursor(2)) == changes[2:]
    assert scene.missed(feed.cursor(3)) == []


def test_each_path_has_changes_and_cursors_of_its_own() -> None:
    scene = Scene()
    orders, users = scene.follow(), scene.follow("users")
    scene.change(1)
    other = scene.change(2, path="users")
    assert scene.missed(users.cursor(0), "users") == [other]
    with pytest.raises(HistoryGap):
        scene.missed(orders.cursor(0), "users")


def test_a_feed_has_begun_when_all_writers_know_of_it() -> None:
    scene = Scene()
    feed, _ = scene.histories.follow(DATABASE, PATH, None)
    woken: list[bool] = []
    feed.readers[scene] = lambda: woken.append(not feed.awaited)
    scene.answers(scene.writers[0])
    assert feed.awaited == {b"worker"}
    scene.answers(scene.writers[1])
    assert woken[-1]


def test_a_writer_that_leaves_is_not_awaited() -> None:
    scene = Scene()
    feed, _ = scene.histories.follow(DATABASE, PATH, None)
    scene.answers(scene.writers[0])
    scene.writers[1].is_lost(1000)
    scene.core.wait(1)
    assert not feed.awaited


def test_a_writer_that_joins_is_asked() -> None:
    scene = Scene()
    feed = scene.follow()
    scene.writers.append(scene.core.join_acebase("second"))
    assert {each["type"] for each in envelopes(scene.writers[2])} >= {"subscribe", "hello"}
    change = scene.change(1, 2)
    assert scene.missed(feed.cursor(0)) == [change]


@pytest.mark.parametrize("cursor", ["", "1", "0123456789abcdef-0", "x", "0123456789abcdef-"])
def test_another_cursor_is_a_gap(cursor: str) -> None:
    scene = Scene()
    scene.follow()
    with pytest.raises(HistoryGap):
        scene.missed(cursor)


def test_a_cursor_of_what_has_not_happened_is_a_gap() -> None:
    scene = Scene()
    feed = scene.follow()
    with pytest.raises(HistoryGap):
        scene.missed(feed.cursor(1))


def test_a_cursor_of_an_unknown_path_is_a_gap_and_asks_nobody() -> None:
    scene = Scene()
    with pytest.raises(HistoryGap):
        scene.missed("0123456789abcdef-0")
    assert scene.core.is_quiet()


def cut(scene: Scene) -> None:
    scene.writers[1].is_lost()


def end(scene: Scene) -> None:
    scene.core.relay.sessions.kick(scene.writers[1].peer, scene.core.now, True)


def replace(scene: Scene) -> None:
    scene.core.join_acebase("worker")


def new_master(scene: Scene) -> None:
    scene.writers[0].is_lost(1000)
    scene.writers[0] = scene.core.join_acebase(MASTER)
    scene.answers(scene.writers[0])


@pytest.mark.parametrize("happens", [cut, end, replace, new_master])
def test_where_a_change_may_be_missing_every_cursor_is_a_gap(happens: Any) -> None:
    scene = Scene()
    feed = scene.follow()
    scene.change(1)
    woken: list[int] = []
    feed.readers[scene] = lambda: woken.append(feed.floor)
    happens(scene)
    for number in (0, 1):
        with pytest.raises(HistoryGap):
            scene.missed(feed.cursor(number))
    assert woken[-1] == feed.floor == feed.number == 2
    assert scene.missed(feed.cursor(2)) == []


def test_where_memory_is_needed_the_events_are_given_up_first() -> None:
    scene = Scene()
    feed = scene.follow()
    scene.change(1)
    scene.core.relay.memory.set_limit(300)
    scene.core.relay.expire(scene.core.now)
    assert scene.core.relay.memory.parts()["history"] == 0
    with pytest.raises(HistoryGap):
        scene.missed(feed.cursor(0))
    assert scene.missed(feed.cursor(1)) == []  # this reader has had all
    assert all(each.peer.connection is not None for each in scene.writers)


def test_a_history_that_is_turned_off_is_a_gap() -> None:
    scene = Scene()
    feed = scene.follow()
    woken: list[int] = []
    feed.readers[scene] = lambda: woken.append(feed.floor)
    scene.core.relay.apply(Limits())
    assert woken == [1]
    with pytest.raises(NotFound):
        scene.missed(feed.cursor(0))


def test_a_gap_is_told_even_if_nothing_has_happened_yet() -> None:
    scene = Scene()
    feed = scene.follow()
    cut(scene)
    with pytest.raises(HistoryGap):
        scene.missed(feed.cursor(0))


def test_a_writer_that_leaves_properly_and_a_reader_that_is_cut_make_no_gap() -> None:
    scene = Scene()
    python = scene.core.join("python", scene.writers[0].peer.dialect)
    feed = scene.follow()
    change = scene.change(1)
    scene.writers[1].is_lost(1000)
    python.is_lost()
    assert scene.missed(feed.cursor(0)) == [change]


def test_the_oldest_changes_are_dropped() -> None:
    scene = Scene(history_messages=3)
    feed, users = scene.follow(), scene.follow("users")
    changes = [scene.change(each) for each in range(3)]
    scene.change("other", path="users")
    with pytest.raises(HistoryGap):
        scene.missed(feed.cursor(0))
    assert scene.missed(feed.cursor(1)) == changes[1:]
    assert len(feed) + len(users) == 3


def test_the_bytes_of_changes_are_bounded_and_counted() -> None:
    scene = Scene(history_bytes=10_000)
    feed = scene.follow()
    for _ in range(20):
        change = scene.change("x" * 1000)
    memory = scene.core.relay.memory.parts()["history"]
    assert memory == len(feed) * (len(change) + ENTRY_OVERHEAD)
    assert 10_000 - 2000 < memory <= 10_000
    large = "x" * (1 * MIB)
    process = scene.writers[1]
    data = {"path": PATH, "val": large}
    process.posts(scene.envelope(process, "event", path=PATH, event="mutations", data=data))
    assert len(feed) == 1  # whatever its size
    assert len(feed.event(feed.number)) > MIB


def test_what_does_not_belong_to_a_feed_is_not_kept() -> None:
    scene = Scene()
    feed = scene.follow()
    process = scene.writers[1]
    scene.change(1, path="users")
    for text in ("event", "subscribe", "notification"):
        process.says(scene.envelope(process, text, path=PATH, event="value", data={}))
    process.says(f"to:{scene.id};hello")
    process.says(f'to:{scene.id};{{"type":"event","from":"worker","to":"{scene.id}","path":[]}}')
    other = scene.core.join_acebase("other", "library_data")
    other.says(f'to:{scene.id};{{"type":"event","path":"orders"}}')
    assert len(feed) == 0


def test_a_history_that_nobody_reads_is_forgotten_and_the_writers_are_told() -> None:
    scene = Scene()
    feed = scene.follow()
    feed.readers[scene] = lambda: None
    scene.core.wait(IDLE)
    del feed.readers[scene]
    scene.core.hush()
    scene.core.wait(IDLE - 1)
    assert scene.core.is_quiet()
    assert scene.missed(feed.cursor(0)) == []  # a reader came back
    scene.core.wait(IDLE)
    for each in scene.writers:
        assert envelopes(each) == [{"type": "bye", "from": scene.id}]


def test_the_next_relay_has_other_cursors_and_ends_the_old_subscription() -> None:
    scene = Scene()
    feed = scene.follow()
    scene.change(1)
    former = scene.id
    scene.core.restart(keeps_connections=True)
    assert scene.id != former
    with pytest.raises(HistoryGap):
        scene.missed(feed.cursor(1))
    scene.core.hush()
    scene.change(2, to=former)
    assert envelopes(scene.writers[1]) == [{"type": "bye", "from": former}]
    again = scene.follow()
    with pytest.raises(HistoryGap):
        scene.missed(feed.cursor(1))
    change = scene.change(3)
    assert scene.missed(again.cursor(0)) == [change]


def test_a_relay_that_clears_its_state_wakes_its_readers() -> None:
    scene = Scene()
    feed = scene.follow()
    woken: list[int] = []
    feed.readers[scene] = lambda: woken.append(feed.floor)
    scene.core.relay.clear()
    assert woken == [1]


def test_paths_and_databases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FEEDS", 2)
    monkeypatch.setattr(module, "MAX_DATABASES", 2)
    histories = Scene().histories
    for path in ("a", "b"):
        histories.follow(DATABASE, path, None)
    histories.follow(DATABASE, "a", None)
    with pytest.raises(Overloaded, match="paths"):
        histories.follow(DATABASE, "c", None)
    histories.follow("second_data", "a", None)
    with pytest.raises(Overloaded, match="databases"):
        histories.follow("third_data", "a", None)
