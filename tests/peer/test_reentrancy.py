"""User code may do anything with its peer from every call."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs

from acebase_ipc.peer.errors import PeerError
from acebase_ipc.protocol.envelopes import hello, notification, request, result
from tests.clients import UserCode
from tests.peer.test_peer import ME, OTHER, WORKER, Joined, event


class Scene(Joined, UserCode):
    """A peer, and what it does in callbacks.

    :ivar working: the Deferreds of its own functions.
    """

    errors = (*UserCode.errors, PeerError)

    def __init__(self) -> None:
        Joined.__init__(self)
        UserCode.__init__(self)
        self.working: list[Deferred[Any]] = []
        self.stops: list[Callable[[], None]] = []
        self.peer.on_request("slow", self.work)

    def work(self, *_: object) -> Deferred[Any]:
        self.working.append(Deferred())
        return self.working[-1]


def by_events(scene: Scene) -> None:
    for _ in range(2):
        scene.stops.append(scene.peer.subscribe("users", "value", scene.react))
    scene.client.receive(event("users", "value", 1))
    scene.client.receive(event("users", "value", 2))


def by_notifications(scene: Scene) -> None:
    for _ in range(2):
        scene.stops.append(scene.peer.on_notification(scene.react))
    scene.client.receive(notification(WORKER, 1))


def by_results(scene: Scene) -> None:
    ids = []
    for _ in range(3):
        id, deferred = scene.ask(1, to=WORKER)
        ids.append(id)
        scene.watch(deferred.addBoth(scene.react))
    for id in ids:
        scene.client.receive(result(WORKER, ME, id, 1))


def by_timeouts(scene: Scene) -> None:
    for _ in range(3):
        scene.watch(scene.ask(1, to=WORKER)[1].addBoth(scene.react))
    scene.clock.advance(30)


def by_a_peer_that_leaves(scene: Scene) -> None:
    for _ in range(3):
        scene.watch(scene.ask(1, to=WORKER)[1].addBoth(scene.react))
    scene.client.leave(WORKER)


def by_stopping(scene: Scene) -> None:
    for _ in range(3):
        scene.watch(scene.ask(1, to=WORKER)[1].addBoth(scene.react))
    scene.watch(scene.peer.stopService())


def by_work(scene: Scene) -> None:
    scene.peer.on_request("x", scene.react)
    for id in "12":
        scene.client.receive(request(WORKER, ME, id, {"type": "x"}))


def by_cancelled_work(scene: Scene) -> None:
    def work(*_: object) -> Deferred[Any]:
        return Deferred(scene.react)

    scene.peer.on_request("x", work)
    for id in "123":
        scene.client.receive(request(WORKER, ME, id, {"type": "x"}))
    scene.client.leave(WORKER)


def asks(scene: Scene) -> None:
    scene.watch(scene.peer.request({"type": "y"}, to=OTHER))
    scene.watch(scene.peer.notify("x"))


def cancels_everything(scene: Scene) -> None:
    scene.cancels = True
    for each in (*scene.pending, *scene.working):
        each.cancel()


def stops(scene: Scene) -> None:
    scene.watch(scene.peer.stopService())


def restarts(scene: Scene) -> None:
    stops(scene)
    scene.peer.startService()
    scene.client.connect()
    scene.client.pong()


def hears_more(scene: Scene) -> None:
    """What a relay would not do within a call; but another client might."""
    scene.client.receive(hello(OTHER))
    scene.client.receive(event("users", "value", 3))
    scene.client.leave(WORKER)
    scene.client.receive(request(OTHER, ME, "r", {"type": "slow"}))


def unsubscribes(scene: Scene) -> None:
    scene.peer.unsubscribe("users")
    for stop in scene.stops:
        stop()
    scene.peer.subscribe("users", "value", scene.react)


def ends_work(scene: Scene) -> None:
    for each in scene.working:
        if not each.called:
            each.callback(1)


CALLED = [value for name, value in list(globals().items()) if name.startswith("by_")]
ACTS = [asks, cancels_everything, stops, restarts, hears_more, unsubscribes, ends_work]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("called", CALLED, ids=lambda called: called.__name__)
def test_anything_can_be_done_from_any_call(
    called: Callable[[Scene], None], act: Callable[[Scene], None]
) -> None:
    with capturedLogs() as events:
        scene = Scene()
        scene.act(act)
        scene.client.receive(request(WORKER, ME, "early", {"type": "slow"}))
        called(scene)
        assert scene.calls
        scene.act(lambda scene: None)
        scene.peer.startService()
        scene.client.connect()
        scene.client.pong()
        scene.client.taken()
        asked = scene.peer.request(1, to=OTHER)
        ((_, envelope),) = scene.client.taken()
        scene.client.receive(result(OTHER, ME, envelope["id"], "whole"))
        assert asked.result == "whole"
        scene.peer.stopService()
        assert [each for each in scene.pending if not each.called] == []
        assert scene.peer._answers._running == {}
        assert not scene.peer._answers._counts
        assert scene.clock.getDelayedCalls() == []
        assert not scene.peer._callouts._waiting
    failures = [each for each in events if each["log_level"] is LogLevel.critical]
    assert [each for each in failures if not each["log_failure"].check(CancelledError)] == []


def test_work_that_ends_other_work_when_it_is_cancelled_sends_no_answer() -> None:
    """A new process under the id of one that left would end over a result."""
    scene = Scene()
    first: Deferred[Any] = Deferred(lambda _: second.callback(2))
    second: Deferred[Any] = Deferred()
    working = iter([first, second])
    scene.peer.on_request("x", lambda data, sender: next(working))
    for id in "12":
        scene.client.receive(request(WORKER, ME, id, {"type": "x"}))
    scene.client.leave(WORKER)
    assert second.called
    assert scene.client.taken() == []


def test_a_callback_that_another_one_ends_is_not_called() -> None:
    scene = Scene()
    heard: list[Any] = []
    scene.peer.subscribe("users", "value", lambda _: stop())
    stop = scene.peer.subscribe("users", "value", heard.append)
    scene.client.receive(event("users", "value", 1))
    assert heard == []
    scene.client.receive(json.dumps({"type": "bye", "from": WORKER}))
