"""User code may do anything with its client from every call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs

from acebase_ipc import IPCClient
from acebase_ipc.client.callouts import Callbacks, Callouts
from tests.clients import RelayNetwork, UserCode

LARGE = "x" * 200


class Scene(UserCode):
    """A client, another one that it talks with, and what it does in a callback."""

    errors = (*UserCode.errors, StopAsyncIteration)

    def __init__(self) -> None:
        super().__init__()
        self.network = RelayNetwork(max_payload=100)
        self.bobby = self.network.started("bobby")
        self.heard: list[str] = []
        self.bobby.on_message(self.heard.append)
        self.alice = self.network.client("alice", max_queue=1000)


def start(scene: Scene) -> None:
    scene.network.start(scene.alice)


def cut(scene: Scene) -> None:
    scene.network.cut(scene.alice)


# What calls user code. Each prepares a call, and returns what makes it.


def by_on_connected(scene: Scene) -> None:
    scene.alice.on_connected(scene.react)
    start(scene)


def by_on_disconnected(scene: Scene) -> None:
    start(scene)
    scene.alice.on_disconnected(scene.react)
    cut(scene)


def by_on_message(scene: Scene) -> None:
    for _ in range(2):
        scene.alice.on_message(scene.react)
    start(scene)
    for each in ("1", LARGE, "3"):
        scene.bobby.send(each)
    scene.network.settle()


def by_an_iterator(scene: Scene) -> None:
    start(scene)
    messages = scene.alice.messages()
    for _ in range(2):
        scene.watch(messages.__anext__().addBoth(scene.react))
    scene.bobby.send("1")
    scene.bobby.send("2")
    scene.network.settle()


def by_on_peer_joined(scene: Scene) -> None:
    scene.alice.on_peer_joined(scene.react)
    start(scene)


def by_on_peer_left(scene: Scene) -> None:
    start(scene)
    scene.alice.on_peer_left(scene.react)
    scene.network.started("carol").stopService()
    scene.network.settle()


def by_sent_messages(scene: Scene) -> None:
    for each in ("1", "2", LARGE, "4"):
        scene.watch(scene.alice.send(each).addBoth(scene.react))
    start(scene)


def by_messages_that_fail(scene: Scene) -> None:
    for each in ("1", "2", LARGE):
        scene.watch(scene.alice.send(each).addErrback(scene.react))
    scene.watch(scene.alice.stopService())


def by_a_post_that_fails(scene: Scene) -> None:
    start(scene)
    for each in (LARGE, "2"):
        scene.watch(scene.alice.send(each).addErrback(scene.react))
    scene.network.accept()
    scene.watch(scene.alice.stopService())
    scene.network.settle()


def by_when_connected(scene: Scene) -> None:
    for _ in range(2):
        scene.watch(scene.alice.when_connected().addBoth(scene.react))
    start(scene)


def by_a_failing_attempt(scene: Scene) -> None:
    scene.network.refuses = True
    for _ in range(2):
        scene.watch(scene.alice.when_connected(1).addBoth(scene.react))
    start(scene)
    scene.network.refuses = False


def by_when_ended(scene: Scene) -> None:
    start(scene)
    for _ in range(2):
        scene.watch(scene.alice.when_ended().addBoth(scene.react))
    scene.watch(scene.alice.stopService())
    scene.network.settle()


def by_a_permanent_refusal(scene: Scene) -> None:
    headers, scene.alice._headers = scene.alice._headers, {"Host": "wrong\x00"}
    scene.watch(scene.alice.when_ended().addBoth(scene.react))
    scene.watch(scene.alice.when_connected().addBoth(scene.react))
    scene.watch(scene.alice.send("x").addErrback(scene.react))
    scene.alice.dbname, dbname = "\n", scene.alice.dbname
    scene.alice.startService()
    scene.alice.dbname, scene.alice._headers = dbname, headers
    scene.network.settle()


def by_stopping(scene: Scene) -> None:
    start(scene)
    for _ in range(2):
        scene.watch(scene.alice.stopService().addBoth(scene.react))
    scene.network.settle()


def by_ping(scene: Scene) -> None:
    start(scene)
    for _ in range(2):
        scene.watch(scene.alice.ping().addBoth(scene.react))
    scene.network.settle()


def by_a_ping_that_fails(scene: Scene) -> None:
    start(scene)
    scene.network.websocket(scene.alice).reading = False
    for _ in range(2):
        scene.watch(scene.alice.ping().addBoth(scene.react))
    cut(scene)


def by_fetch_peers(scene: Scene) -> None:
    start(scene)
    for _ in range(2):
        scene.watch(scene.alice.fetch_peers().addBoth(scene.react))
    scene.network.settle()


def by_the_retry_policy(scene: Scene) -> None:
    def policy(failures: int) -> float:
        scene.react()
        return failures

    scene.alice = scene.network.client("alice", max_queue=1000, retry_policy=policy)
    start(scene)
    cut(scene)


# What user code does.


def sends(scene: Scene) -> None:
    scene.watch(scene.alice.send("again", to="bobby"))


def sends_much(scene: Scene) -> None:
    for each in ("a", LARGE, "b"):
        scene.watch(scene.alice.send(each))


def sends_when_it_is_sent(scene: Scene) -> None:
    def again(_: object) -> None:
        scene.watch(scene.alice.send("2"))

    scene.watch(scene.alice.send("1").addCallback(again))


def sends_and_cancels(scene: Scene) -> None:
    for each in ("a", LARGE, "b"):
        scene.watch(scene.alice.send(each)).cancel()


def cancels_everything(scene: Scene) -> None:
    scene.cancels = True
    for each in tuple(scene.pending):
        each.cancel()


def stops(scene: Scene) -> None:
    scene.watch(scene.alice.stopService())


def stops_twice(scene: Scene) -> None:
    stops(scene)
    stops(scene)


def starts(scene: Scene) -> None:
    scene.alice.startService()


def restarts(scene: Scene) -> None:
    stops(scene)
    starts(scene)


def restarts_twice_and_sends(scene: Scene) -> None:
    restarts(scene)
    sends_much(scene)
    restarts(scene)
    sends_much(scene)


def asks(scene: Scene) -> None:
    scene.watch(scene.alice.ping())
    scene.watch(scene.alice.fetch_peers())
    scene.watch(scene.alice.when_connected(1))
    scene.watch(scene.alice.when_ended())


def listens_and_waits_no_longer(scene: Scene) -> None:
    scene.watch(scene.alice.messages().__anext__()).cancel()
    scene.alice.on_message(scene.react)()


CALLED = [value for name, value in list(globals().items()) if name.startswith("by_")]
ACTS = [
    sends,
    sends_much,
    sends_when_it_is_sent,
    sends_and_cancels,
    cancels_everything,
    stops,
    stops_twice,
    starts,
    restarts,
    restarts_twice_and_sends,
    asks,
    listens_and_waits_no_longer,
]


@pytest.mark.no_cover  # nothing that other tests do not run
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("called", CALLED, ids=lambda called: called.__name__)
def test_anything_can_be_done_from_any_call(
    called: Callable[[Scene], None], act: Callable[[Scene], None]
) -> None:
    with capturedLogs() as events:
        scene = Scene()
        scene.act(act)
        called(scene)
        scene.network.pass_time(12, step=2)
        assert scene.calls, "user code was not called"
        scene.act(lambda scene: None)
        # The client is whole: it can be started, sends and receives, and can be stopped.
        scene.alice.startService()
        scene.network.pass_time(12, step=2)
        assert scene.alice.connected
        scene.heard.clear()
        sent = [scene.alice.send(each, to="bobby") for each in ("first", LARGE, "last")]
        scene.network.settle()
        assert scene.heard == ["first", LARGE, "last"]
        assert all(each.called for each in sent)
        stopped = scene.alice.stopService()
        scene.network.pass_time(12, step=2)
        assert stopped.called
        assert [each for each in scene.pending if not each.called] == []
        assert_idle(scene.alice)
        assert len(scene.network.relay.server.get_clients("shop_data")) == 1
    failures = [each for each in events if each["log_level"] is LogLevel.critical]
    assert failures == []


def assert_idle(client: IPCClient) -> None:
    """Nothing is left over in *client*."""
    link, sender = client._link, client._traffic._sender
    assert not any([link.connection, link._attempt, link._retry])
    assert not link._waiting
    assert not link._pongs
    assert not link._stopping
    assert len(sender._outbox) == 0
    assert not any([sender._step, sender._posting])
    assert not client._callouts._waiting


def test_tasks_that_each_await_their_messages_are_all_served() -> None:
    """Where a Deferred fires within the call that hands over, this recurses."""
    scene = Scene()
    failures: list[object] = []

    async def task(number: int) -> None:
        for each in range(3):
            await scene.alice.send(f"{number}:{each}", to="bobby")

    scene.alice = scene.network.client("alice")
    tasks = [Deferred.fromCoroutine(task(number)) for number in range(500)]
    for each in tasks:
        each.addErrback(failures.append)
    start(scene)
    assert failures == []
    assert all(each.called for each in tasks)
    assert len(scene.heard) == len(set(scene.heard)) == 1500


def test_a_message_that_is_sent_when_another_is_handed_over_needs_no_other_event() -> None:
    scene = Scene()
    start(scene)
    transport = scene.network.websocket(scene.alice)
    transport.room = 0
    scene.alice.send("1")
    scene.watch(scene.alice.send("2").addCallback(lambda _: scene.alice.send("3")))
    transport.drain()
    scene.network.settle()
    assert scene.heard == ["1", "2", "3"]


def test_a_retry_in_an_errback_does_not_keep_the_client_from_ending() -> None:
    scene = Scene()
    tries = 0

    def again(_: object) -> None:
        nonlocal tries
        tries += 1
        if tries < 100:
            scene.watch(scene.alice.send("x").addErrback(again))

    scene.watch(scene.alice.send("x").addErrback(again))
    assert scene.alice.stopService().called
    assert tries == 100
    assert_idle(scene.alice)


class TestCallouts:
    def test_calls_are_made_after_the_block(self) -> None:
        callouts, made = Callouts(), list[str]()
        with callouts:
            with callouts:
                callouts.call(made.append, "first")
            assert made == []
        assert made == ["first"]

    def test_no_call_is_made_within_another(self) -> None:
        callouts, made = Callouts(), list[str]()

        def outer() -> None:
            callouts.call(made.append, "inner")
            made.append("outer")

        callouts.call(outer)
        assert made == ["outer", "inner"]

    def test_a_block_that_fails_makes_its_calls(self) -> None:
        callouts, made = Callouts(), list[str]()

        def fails() -> None:
            with callouts:
                callouts.call(made.append, "x")
                raise LookupError

        with pytest.raises(LookupError):
            fails()
        assert made == ["x"]

    def test_a_call_that_fails_is_logged_and_the_next_one_made(self) -> None:
        callouts, made = Callouts(), list[str]()

        def fails() -> None:
            raise ValueError("mine")

        with capturedLogs() as events, callouts:
            callouts.call(fails)
            callouts.call(made.append, "x")
        assert made == ["x"]
        assert [each["log_failure"].type for each in events] == [ValueError]

    def test_a_deferred_that_is_cancelled_meanwhile_is_not_fired(self) -> None:
        callouts = Callouts()
        waiting: Deferred[None] = Deferred()
        with callouts:
            callouts.settle(waiting)
            waiting.cancel()
            waiting.addErrback(lambda failure: failure.trap(CancelledError))
        assert waiting.called

    def test_a_callback_that_another_one_removes_is_not_called(self) -> None:
        callouts, made = Callouts(), list[str]()
        callbacks = Callbacks(callouts)
        callbacks.add(lambda: stop())
        stop = callbacks.add(lambda: made.append("removed"))
        callbacks.add(lambda: made.append("stays"))
        callbacks.call()
        assert made == ["stays"]

    def test_each_addition_of_a_callback_is_another_one(self) -> None:
        callouts, made = Callouts(), list[str]()
        callbacks = Callbacks(callouts)
        first, _ = (callbacks.add(made.append) for _ in range(2))
        first()
        first()
        callbacks.call("x")
        assert made == ["x"]

    def test_what_cannot_be_called_is_refused(self) -> None:
        with pytest.raises(TypeError, match="not NoneType"):
            Callbacks(Callouts()).add(None)  # type: ignore[arg-type]
