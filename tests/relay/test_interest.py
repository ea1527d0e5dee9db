"""Events from which a peer has unsubscribed: those that are dropped, and all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acebase_ipc.relay.events import DropReason, MessageDropped
from acebase_ipc.relay.interest import MAX_ENVELOPE
from acebase_ipc.relay.unsubscribed import ANSWER_TIME, ASK_INTERVAL, MAX_MEMORY
from tests.relay.core import MASTER, Core, Process, hello

READER = "reader"
WRITER = "writer"


def envelope(kind: str, sender: str, to: str | None = None, **more: Any) -> str:
    """A message of the npm package acebase, as it goes to the relay."""
    named = {"type": kind, "from": sender, **({} if to is None else {"to": to}), **more}
    text = json.dumps(named, ensure_ascii=False, separators=(",", ":"))
    return text if to is None else f"to:{to};{text}"


def event(sender: str, path: str, kind: str = "value", to: str = READER, value: Any = 1) -> str:
    data = {"path": path, "val": value, "previous": None, "context": {}}
    return envelope("event", sender, to, path=path, event=kind, data=data)


class Node:
    """A process of the npm package: it answers greetings, and sends what its ``ipc.js`` does.

    :ivar subscriptions: of its own, one for each callback.
    """

    def __init__(self, core: Core, client_id: str) -> None:
        self.core = core
        self.id = client_id
        self.subscriptions: list[tuple[str, str]] = []
        self.process: Process = core.join_acebase(client_id)
        self.is_lost = False
        self._heard: list[str] = []

    def says(self, *texts: str) -> None:
        """Send *texts* together; without a connection they are lost."""
        if not self.is_lost:
            self.process.says(*texts)

    def subscribe(self, path: str, kind: str = "value") -> None:
        is_first = (path, kind) not in self.subscriptions
        self.subscriptions.append((path, kind))
        if is_first:
            self.says(envelope("subscribe", self.id, data={"path": path, "event": kind}))

    def unsubscribe(self, path: str, kind: str = "value") -> None:
        self.subscriptions.remove((path, kind))
        self.says(envelope("unsubscribe", self.id, data={"path": path, "event": kind}))

    def works(self) -> list[str]:
        """Process what has come; returns the paths of the events among that."""
        paths = []
        for text in self.process.hears():
            message = json.loads(text) if text.startswith("{") else {}
            if message.get("type") == "hello" and message.get("to") != self.id:
                self.says(envelope("hello", self.id, message["from"]))
                for path, kind in self.subscriptions:
                    data = {"path": path, "event": kind}
                    self.says(envelope("subscribe", self.id, message["from"], data=data))
            elif message.get("type") == "event":
                paths.append(message["data"]["path"])
        return paths

    def loses_connection(self) -> None:
        self.is_lost = True
        self.process.is_lost()

    def reconnects(self) -> None:
        self.is_lost = False
        self.process = self.core.join_acebase(self.id)


class Scene:
    """A reader and a writer that know each other."""

    def __init__(self, writer: str = WRITER, **options: Any) -> None:
        self.core = Core(**options)
        self.reader, self.writer = Node(self.core, READER), Node(self.core, writer)
        self.reader.works()
        self.writer.works()

    def write(self, path: str = "users", kind: str = "value") -> int:
        """Raise an event, and return how many the reader gets; it answers then."""
        self.writer.says(event(self.writer.id, path, kind))
        return len(self.reader.works())

    def ends(self, path: str = "users", kind: str = "value") -> None:
        """Let the reader unsubscribe, and the relay be certain of it."""
        self.reader.unsubscribe(path, kind)
        self.write(path, kind)

    @property
    def dropped(self) -> int:
        drops = self.core.reported(MessageDropped)
        return sum(each.messages for each in drops if each.reason is DropReason.UNSUBSCRIBED)


@pytest.fixture(params=[WRITER, MASTER])
def scene(request: pytest.FixtureRequest) -> Scene:
    return Scene(request.param)


def test_events_after_an_unsubscribe_are_dropped(scene: Scene) -> None:
    scene.reader.subscribe("users")
    assert scene.write() == 1
    scene.reader.unsubscribe("users")
    assert [scene.write() for _ in range(4)] == [1, 0, 0, 0]
    assert scene.dropped == 3


def test_nobody_is_asked_before_an_event_comes(scene: Scene) -> None:
    scene.reader.subscribe("users")
    scene.core.hush()
    scene.reader.unsubscribe("users")
    assert scene.reader.process.hears() == []


def test_a_peer_is_asked_in_the_name_of_the_sender(scene: Scene) -> None:
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    scene.core.hush()
    scene.writer.says(event(scene.writer.id, "users"))
    assert scene.reader.process.hears()[:2] == [hello(scene.writer.id)] * 2
    scene.writer.says(event(scene.writer.id, "users"))
    assert len(scene.reader.process.hears()) == 1  # it is asked once at a time


@pytest.mark.parametrize(
    ("path", "kind"),
    [("users/ewout", "value"), ("users", "child_added"), ("users", "notify_value"), ("", "value")],
)
def test_other_paths_and_kinds_of_events_arrive(path: str, kind: str) -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.reader.subscribe(path, kind)
    scene.ends()
    assert [scene.write(), scene.write(path, kind)] == [0, 1]


@pytest.mark.parametrize("path", ["users/*/posts", "users/$id", 'say "hi"', "naïve/日本", "a[3]"])
@pytest.mark.parametrize("kind", ["mutated", "mutations", "notify_child_removed"])
def test_paths_are_compared_as_they_were_subscribed(path: str, kind: str) -> None:
    scene = Scene()
    scene.reader.subscribe(path, kind)
    scene.ends(path, kind)
    assert scene.write(path, kind) == 0


def test_one_of_two_callbacks_goes_on_to_receive() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    assert [scene.write() for _ in range(3)] == [1, 1, 1]
    scene.reader.unsubscribe("users")
    assert scene.write() == 1  # it was asked a moment ago
    scene.core.wait(ASK_INTERVAL + 1)
    assert [scene.write() for _ in range(3)] == [1, 0, 0]


def test_a_new_subscription_receives_at_once() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    assert scene.write() == 0
    scene.reader.subscribe("users")
    assert scene.write() == 1
    scene.core.wait(ASK_INTERVAL + 1)
    assert not scene.reader.process.peer.database.unsubscribed
    assert scene.core.relay.memory.parts()["unsubscribed"] == 0


def test_a_subscription_while_a_peer_is_asked_is_kept() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    scene.writer.says(event(WRITER, "users"))
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    scene.reader.subscribe("users")
    scene.reader.works()
    assert scene.write() == 1


def test_an_unsubscribe_between_the_two_answers_is_asked_about_again() -> None:
    scene = Scene()
    reader = scene.reader
    for path in ("users", "posts"):
        reader.subscribe(path)
        reader.subscribe(path)
    reader.unsubscribe("users")
    scene.writer.says(event(WRITER, "users"))
    reader.process.hears()
    reader.says(envelope("hello", READER, WRITER))
    for path in ("users", "posts"):
        reader.says(envelope("subscribe", READER, WRITER, data={"path": path, "event": "value"}))
    reader.unsubscribe("posts")  # one of two: the answer is older than that
    reader.says(envelope("hello", READER, WRITER))
    assert [scene.write("users"), scene.write("posts")] == [1, 1]


def test_what_is_certain_stays_so_when_a_peer_is_asked_for_something_else() -> None:
    scene = Scene()
    for path in ("users", "posts"):
        scene.reader.subscribe(path)
    scene.ends("users")
    scene.reader.unsubscribe("posts")
    scene.core.wait(ASK_INTERVAL + 1)
    scene.writer.says(event(WRITER, "posts"), event(WRITER, "users"))
    assert scene.reader.works() == ["posts"]


def test_one_answer_is_not_enough() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    scene.writer.says(event(WRITER, "users"))
    scene.reader.process.hears()
    scene.reader.says(envelope("hello", READER, WRITER))
    scene.writer.says(event(WRITER, "users"))
    assert len(scene.reader.process.hears()) == 1
    scene.reader.says(envelope("hello", READER, WRITER))
    assert scene.write() == 0


def test_a_peer_that_does_not_answer_is_asked_again_later() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    for _ in range(3):
        scene.core.wait(ASK_INTERVAL)
        scene.writer.says(event(WRITER, "users"))
        assert scene.reader.process.hears().count(hello(WRITER)) == 2


def test_a_peer_with_many_subscriptions_is_asked_less_often() -> None:
    scene = Scene()
    for number in range(200):
        scene.reader.subscribe(f"users/{number}")
    scene.ends("users/0")
    scene.reader.unsubscribe("users/1")
    scene.core.wait(ASK_INTERVAL)
    assert [scene.write("users/1"), scene.write("users/1")] == [1, 1]
    scene.core.wait(2 * 200 * ANSWER_TIME)
    assert [scene.write("users/1"), scene.write("users/1")] == [1, 0]


def test_after_a_cut_nothing_is_certain() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    scene.reader.loses_connection()
    scene.reader.subscribe("users")  # the relay does not hear of it
    scene.writer.says(event(WRITER, "users"))
    scene.core.wait(1.0)
    scene.reader.reconnects()
    assert len(scene.reader.works()) == 1
    assert scene.write() == 1


def test_after_a_cut_a_peer_without_the_subscription_is_asked_again() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    scene.reader.loses_connection()
    scene.reader.reconnects()
    scene.reader.works()
    scene.core.wait(ASK_INTERVAL)
    assert [scene.write() for _ in range(3)] == [1, 0, 0]


def test_a_cut_between_the_two_answers_makes_them_worthless() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    scene.writer.says(event(WRITER, "users"))
    scene.reader.says(envelope("hello", READER, WRITER))
    scene.reader.loses_connection()
    scene.reader.subscribe("users")
    scene.reader.reconnects()
    scene.reader.says(envelope("hello", READER, WRITER))
    scene.writer.says(event(WRITER, "users"))
    assert "users" in scene.reader.works()


def test_a_peer_that_is_new_has_unsubscribed_from_nothing() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    scene.reader.process.is_lost(1000)
    scene.reader = Node(scene.core, READER)
    scene.reader.works()
    assert scene.write() == 1
    assert scene.core.relay.memory.parts()["unsubscribed"] == 0


def test_the_next_relay_asks_again() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    scene.core.restart(keeps_connections=True)
    assert [scene.write() for _ in range(3)] == [1, 0, 0]


def test_a_large_event_that_is_posted_is_dropped_too() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    scene.writer.process.posts(event(WRITER, "users", value="x" * 20_000))
    assert scene.reader.works() == []
    scene.reader.subscribe("users")
    scene.writer.process.posts(event(WRITER, "users", value="x" * 20_000))
    assert len(scene.reader.works()) == 1


def test_what_a_peer_sends_itself_and_what_is_no_event_arrives() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    more = {"path": "users", "event": "value", "data": {}}
    scene.reader.says(event(READER, "users"))
    scene.writer.says(envelope("notification", WRITER, READER, **more))
    scene.writer.says(event(WRITER, "users")[len(f"to:{READER};") :])  # a broadcast
    assert len(scene.reader.process.hears()) == 3


def test_another_layout_is_not_dropped() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    other = event(WRITER, "users").replace('"path":"users","event"', '"path": "users", "event"')
    scene.writer.says(other)
    scene.writer.says(event(WRITER, "users").replace('"from":"writer"', '"from":"another"'))
    assert len(scene.reader.process.hears()) == 2


@pytest.mark.parametrize(
    "forge",
    [
        lambda kind: envelope(kind, READER, data={"path": "users", "event": "value"}),
        lambda kind: envelope(kind, WRITER, data={"path": "users", "event": "value"}),
    ],
)
def test_nobody_unsubscribes_another_peer(forge: Callable[[str], str]) -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.writer.says(forge("unsubscribe"))
    assert [scene.write() for _ in range(3)] == [1, 1, 1]


def test_a_subscription_in_the_name_of_another_peer_counts() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    data = {"path": "users", "event": "value"}
    scene.writer.says(envelope("subscribe", READER, data=data))  # processes believe it, too
    assert scene.write() == 1


@pytest.mark.parametrize(
    "data",
    [None, {}, {"path": "users"}, {"path": 1, "event": "value"}, [], "users"],
)
def test_a_subscription_that_cannot_be_read_ends_all_doubt(data: Any) -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.ends()
    scene.reader.says(envelope("unsubscribe", READER, data=data))
    assert scene.write() == 0
    scene.reader.says(envelope("subscribe", READER, data=data))
    assert scene.write() == 1


def test_an_unsubscribe_for_one_peer_says_nothing_about_the_others() -> None:
    scene = Scene()
    scene.reader.subscribe("users")
    scene.reader.says(
        envelope("unsubscribe", READER, WRITER, data={"path": "users", "event": "value"})
    )
    assert not scene.reader.process.peer.database.unsubscribed


def test_a_path_that_could_be_posted_is_not_noted() -> None:
    scene = Scene()
    path = "u" * MAX_ENVELOPE
    scene.reader.subscribe(path)
    scene.reader.unsubscribe(path)
    assert [scene.write(path) for _ in range(3)] == [1, 1, 1]


def test_nothing_is_noted_where_subscriptions_could_be_posted() -> None:
    scene = Scene(max_payload=1024)
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    assert [scene.write() for _ in range(3)] == [1, 1, 1]


def test_nothing_is_noted_without_introductions() -> None:
    scene = Scene(introduce=False)
    scene.reader.subscribe("users")
    scene.reader.unsubscribe("users")
    assert [scene.write() for _ in range(3)] == [1, 1, 1]


def test_what_is_kept_for_a_peer_is_bounded_and_counted() -> None:
    scene = Scene()
    for number in range(1000):
        scene.reader.subscribe(f"users/{number}")
        scene.reader.unsubscribe(f"users/{number}")
    memory = scene.core.relay.memory.parts()["unsubscribed"]
    assert MAX_MEMORY - 300 < memory <= MAX_MEMORY
    assert scene.reader.process.peer.memory >= memory
    assert [scene.write("users/0") for _ in range(2)] == [1, 1]  # forgotten
    assert [scene.write("users/999") for _ in range(2)] == [1, 0]


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.sampled_from(
            ["on", "on", "off", "off", "write", "write", "write", "works", "wait", "cut", "back"]
        ),
        max_size=60,
    ),
    paths=st.lists(st.sampled_from(["users", "posts"]), min_size=60, max_size=60),
)
def test_no_event_of_a_subscription_is_dropped(steps: list[str], paths: list[str]) -> None:
    scene = Scene()
    reader = scene.reader
    for step, path in zip(steps, paths, strict=False):
        if step == "on":
            reader.subscribe(path)
        elif step == "off" and (path, "value") in reader.subscriptions:
            reader.unsubscribe(path)
        elif step == "write":
            before = scene.dropped
            scene.writer.says(event(WRITER, path))
            assert scene.dropped == before or (path, "value") not in reader.subscriptions
        elif step == "works":
            reader.works()
        elif step == "wait":
            scene.core.wait(ASK_INTERVAL / 2)
        elif step == "cut" and not reader.is_lost:
            reader.works()
            reader.loses_connection()
        elif step == "back" and reader.is_lost:
            reader.reconnects()
