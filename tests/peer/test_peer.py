"""A peer of an AceBase cluster, on a fake client."""

from __future__ import annotations

import json
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from acebase_ipc.client.changes import Changes
from acebase_ipc.client.errors import (
    ClientStopped,
    NotConnected,
    PingTimeout,
    QueueFull,
    RequestUnanswered,
    TooLargeForRelay,
)
from acebase_ipc.client.service import IPCClient
from acebase_ipc.errors import ConfigError
from acebase_ipc.peer.errors import (
    PeerError,
    PeerGone,
    RemoteError,
    RequestTimedOut,
    UnknownRequest,
)
from acebase_ipc.peer.peer import (
    DEFAULT_GRACE,
    DEFAULT_TIMEOUT,
    INTERNAL_NOTIFICATIONS,
    INTERNAL_REQUESTS,
    AceBasePeer,
)
from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.envelopes import (
    MASTER,
    Event,
    failure,
    hello,
    notification,
    request,
    result,
)
from acebase_ipc.protocol.values import PathReference
from acebase_ipc.testing import DATABASE
from tests.clients import URL, PlayedServer, RelayNetwork

ME = "p" * 24
WORKER = "w" * 24
OTHER = "o" * 24


class FakeClient:
    """A client that records its messages; the test plays the relay.

    :ivar sent: recipient and envelope of each message.
    """

    def __init__(
        self, url: str, dbname: str, id: str | None, token: str | None, **options: Any
    ) -> None:
        self.id = id or ME
        self.options = {"url": url, "dbname": dbname, "token": token, **options}
        self.pings: list[Deferred[float]] = []
        self.connected = False
        self.running = False
        self.refusal: Exception | None = None
        self.ended: Deferred[None] = Deferred()
        self.sent: list[tuple[str | None, Any]] = []
        self.callbacks: dict[str, list[Callable[..., object]]] = {
            "message": [],
            "connected": [],
            "joined": [],
            "left": [],
        }

    def startService(self) -> None:
        self.running = True

    def stopService(self) -> Deferred[None]:
        self.running = self.connected = False
        return succeed(None)

    def when_connected(self, fail_after_failures: int | None = None) -> Deferred[None]:
        self.patience = fail_after_failures
        return succeed(None)

    def when_ended(self) -> Deferred[None]:
        return self.ended

    def send(self, body: str, to: str | None = None) -> Deferred[None]:
        if self.refusal is not None:
            return fail(self.refusal)
        self.sent.append((to, json.loads(body)))
        return succeed(None)

    def ping(self) -> Deferred[float]:
        self.pings.append(Deferred())
        self.sent.append((None, "ping"))
        return self.pings[-1]

    def changes(self, path: str, since: str | None = None) -> Changes:
        raise NotImplementedError

    def on_message(self, callback: Callable[[str], object]) -> Callable[[], None]:
        return self._on("message", callback)

    def on_connected(self, callback: Callable[[], object]) -> Callable[[], None]:
        return self._on("connected", callback)

    def on_peer_joined(self, callback: Callable[[str], object]) -> Callable[[], None]:
        return self._on("joined", callback)

    def on_peer_left(self, callback: Callable[[str], object]) -> Callable[[], None]:
        return self._on("left", callback)

    def _on(self, what: str, callback: Callable[..., object]) -> Callable[[], None]:
        self.callbacks[what].append(callback)
        return lambda: self.callbacks[what].remove(callback)

    def tell(self, what: str, *arguments: object) -> None:
        for callback in self.callbacks[what]:
            callback(*arguments)

    # What a relay does

    def connect(self) -> None:
        """Welcome the peer; it has not greeted yet."""
        self.connected = True
        self.tell("connected")

    def pong(self) -> None:
        """Answer its pings."""
        pings, self.pings = self.pings, []
        for each in pings:
            each.callback(0.001)

    def lose(self) -> None:
        self.connected = False
        pings, self.pings = self.pings, []
        for each in pings:
            each.errback(NotConnected())

    def receive(self, text: str) -> None:
        self.tell("message", text)

    def join(self, peer: str) -> None:
        self.tell("joined", peer)

    def leave(self, peer: str) -> None:
        self.tell("left", peer)

    def taken(self) -> list[tuple[str | None, Any]]:
        """What was sent since this was last asked."""
        sent, self.sent = self.sent, []
        return sent


class Joined:
    """A peer that is connected, its client and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.peer = AceBasePeer(URL, DATABASE, ME, reactor=self.clock, client=FakeClient)
        assert isinstance(self.peer.client, FakeClient)
        self.client = self.peer.client
        self.peer.startService()
        self.client.connect()
        self.client.pong()
        self.client.taken()

    def ask(self, data: Any, **options: Any) -> tuple[str, Deferred[Any]]:
        """Send a request, and return its id and what becomes of it."""
        deferred = self.peer.request(data, **options)
        ((_, envelope),) = self.client.taken()
        return envelope["id"], deferred


def failure_of(deferred: Deferred[Any]) -> object:
    """Why a Deferred has failed, as it must have."""
    failures: list[Failure] = []
    deferred.addErrback(failures.append)
    assert failures, "it has not failed"
    return failures[0].value


@pytest.fixture
def joined() -> Joined:
    return Joined()


def event(path: str, kind: str, value: Any, sender: str = WORKER) -> str:
    data = {"path": path, "val": value, "previous": None, "context": {}}
    return json.dumps(
        {"type": "event", "from": sender, "to": ME, "path": path, "event": kind, "data": data}
    )


def announcement(path: str, kind: str, to: str | None = None) -> dict[str, Any]:
    addressed = {} if to is None else {"to": to}
    return {"type": "subscribe", "from": ME, **addressed, "data": {"path": path, "event": kind}}


HELLO = {"type": "hello", "from": ME}


# Coming and going


def test_a_peer_greets_and_announces_its_subscriptions_whenever_it_is_welcomed() -> None:
    peer = AceBasePeer(URL, DATABASE, client=FakeClient)
    client = peer.client
    assert isinstance(client, FakeClient)
    peer.subscribe("users", "value", print)
    assert client.taken() == []

    peer.startService()
    assert client.running
    for _ in range(2):
        client.connect()
        greeting = [(None, "ping"), (None, HELLO), (None, announcement("users", "value"))]
        assert client.taken() == greeting
        client.lose()
    assert peer.running
    assert peer.when_connected().called
    assert client.patience is None
    assert peer.when_connected(fail_after_failures=3).called
    assert client.patience == 3
    assert peer.when_ended() is client.ended


def test_a_greeting_is_answered_with_a_greeting_and_the_subscriptions(joined: Joined) -> None:
    joined.peer.subscribe("users", "value", print)
    joined.client.taken()

    joined.client.receive(hello(WORKER))

    assert joined.client.taken() == [
        (WORKER, {**HELLO, "to": WORKER}),
        (WORKER, announcement("users", "value", WORKER)),
    ]
    assert joined.peer.peers == {WORKER}


def test_a_process_that_joins_learns_the_subscriptions_without_a_greeting(joined: Joined) -> None:
    joined.peer.subscribe("users", "value", print)
    joined.client.taken()
    introduction = [
        (WORKER, {**HELLO, "to": WORKER}),
        (WORKER, announcement("users", "value", WORKER)),
    ]

    joined.client.join(WORKER)
    assert joined.client.taken() == introduction
    assert joined.peer.peers == frozenset()

    # Once it has greeted, it knows them.
    joined.client.receive(hello(WORKER, ME))
    joined.client.join(WORKER)
    assert joined.client.taken() == []

    joined.client.leave(WORKER)
    joined.client.join(WORKER)
    assert joined.client.taken() == introduction


class TestJoining:
    """A peer announces its subscriptions once to each process."""

    @pytest.fixture
    def client(self) -> FakeClient:
        """Of a peer with two subscriptions that has just been welcomed."""
        self.peer = AceBasePeer(URL, DATABASE, ME, client=FakeClient)
        for kind in ("value", "mutated"):
            self.peer.subscribe("users", kind, print)
        assert isinstance(self.peer.client, FakeClient)
        self.peer.startService()
        self.peer.client.connect()
        assert [to for to, _ in self.peer.client.taken()] == [None] * 4
        return self.peer.client

    def test_a_process_that_greets_before_the_pong_has_received_the_broadcasts(
        self, client: FakeClient
    ) -> None:
        for each in (WORKER, OTHER):
            client.receive(hello(each))
            client.join(each)
        client.pong()
        assert client.taken() == []
        assert self.peer.peers == {WORKER, OTHER}

    def test_a_process_that_only_http_reported_may_have_joined_later(
        self, client: FakeClient
    ) -> None:
        client.join(WORKER)
        client.join(OTHER)
        client.leave(OTHER)
        assert client.taken() == []
        client.pong()
        assert [to for to, _ in client.taken()] == [WORKER] * 3

    def test_a_process_that_joins_afterwards_is_told(self, client: FakeClient) -> None:
        client.pong()
        client.receive(hello(WORKER))
        client.join(OTHER)
        assert [to for to, _ in client.taken()] == [WORKER] * 3 + [OTHER] * 3

    def test_a_lost_connection_does_not_count(self, client: FakeClient) -> None:
        client.join(WORKER)
        client.lose()
        assert client.taken() == []
        client.connect()
        assert [to for to, _ in client.taken()] == [None] * 4
        client.join(OTHER)
        client.pong()
        assert [to for to, _ in client.taken()] == [OTHER] * 3

    def test_a_peer_that_is_stopped_introduces_itself_no_more(self, client: FakeClient) -> None:
        client.join(WORKER)
        self.peer.stopService()
        client.taken()
        client.pong()
        assert client.taken() == []

    def test_of_a_whole_relay_each_message_goes_out_once(self) -> None:
        network = RelayNetwork()
        peers = [
            AceBasePeer(
                URL,
                DATABASE,
                f"worker{number}",
                reactor=network.reactor,
                endpoint=network,
                clock=network.reactor.seconds,
                retry_policy=float,
            )
            for number in range(5)
        ]
        for each in peers:
            for number in range(3):
                each.subscribe(f"path{number}", "value", print)
            each.startService()
            network.settle()
        client = peers[-1].client
        assert isinstance(client, IPCClient)
        joiner = network.websocket(client)
        sent = frames_of(joiner.sent)
        assert sorted(message[:24] for message in sent) == sorted(
            ["ping"] + ['{"type":"hello","from":"w'[:24]] + ['{"type":"subscribe","from"'[:24]] * 3
        )
        assert all(len(each.peers) == 4 for each in peers)


def frames_of(sent: bytearray) -> list[str]:
    """The texts that a client has sent after its handshake."""
    return PlayedServer(TransportOf(sent)).received()  # type: ignore[arg-type]


class TransportOf:
    """What a :class:`~tests.clients.PlayedServer` reads."""

    def __init__(self, sent: bytearray) -> None:
        self.written = bytearray(sent.partition(b"\r\n\r\n")[2])


def test_an_answer_to_a_greeting_is_not_answered(joined: Joined) -> None:
    joined.client.receive(hello(WORKER, ME))
    joined.client.receive(hello(ME))

    assert joined.client.taken() == []
    assert joined.peer.peers == {WORKER}


def test_a_peer_tells_that_it_leaves(joined: Joined) -> None:
    joined.client.receive(hello(WORKER))
    joined.client.taken()

    assert joined.peer.stopService().called

    assert joined.client.taken() == [(None, {"type": "bye", "from": ME})]
    assert not joined.client.running
    assert joined.peer.peers == frozenset()


def test_a_peer_without_a_connection_leaves_silently(joined: Joined) -> None:
    joined.client.lose()
    joined.peer.stopService()
    assert joined.client.taken() == []


@pytest.mark.parametrize("how", ["bye", "disconnect"])
def test_others_leave(joined: Joined, how: str) -> None:
    joined.client.receive(hello(WORKER))
    joined.client.receive(hello(OTHER))
    if how == "bye":
        joined.client.receive(f'{{"type":"bye","from":"{WORKER}"}}')
    else:
        joined.client.leave(WORKER)
    assert joined.peer.peers == {OTHER}


def test_a_peer_is_no_master() -> None:
    with pytest.raises(ConfigError, match="never acts as"):
        AceBasePeer(URL, DATABASE, MASTER)


def test_the_global_reactor_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("twisted.internet.reactor", clock)
    peer = AceBasePeer(URL, DATABASE, client=FakeClient)
    asked = [peer.request(1) for _ in range(2)]
    clock.advance(DEFAULT_TIMEOUT)
    assert [type(failure_of(each)) for each in asked] == [RequestTimedOut] * 2


def test_a_peer_takes_what_a_client_takes() -> None:
    own = {"self", "dialect", "client"}
    peer, client = (
        {name: each.default for name, each in signature(kind).parameters.items()}
        for kind in (AceBasePeer, IPCClient)
    )
    assert {each: peer[each] for each in peer.keys() - own} == {
        each: client[each] for each in client.keys() - own
    }
    options: dict[str, Any] = {
        "reactor": Clock(),
        "trust_root": object(),
        "max_queue": 1,
        "max_message": 2,
        "endpoint": object(),
        "retry_policy": float,
        "clock": float,
    }
    given = AceBasePeer(URL, DATABASE, ME, "secret", client=FakeClient, **options).client
    assert isinstance(given, FakeClient)
    arguments = {"url": URL, "dbname": DATABASE, "token": "secret", "dialect": ACEBASE}
    assert given.options == {**arguments, **options}


def test_a_peer_has_a_client() -> None:
    peer = AceBasePeer(URL, DATABASE, ME, "secret")
    assert isinstance(peer.client, IPCClient)
    assert (peer.id, peer.client.dbname, peer.client.dialect) == (ME, DATABASE, ACEBASE)
    assert not peer.client.connected


# Events


def test_events_come_to_the_callbacks_of_their_subscription(joined: Joined) -> None:
    users: list[Event] = []
    others: list[Event] = []
    joined.peer.subscribe("/users/*", "value", users.append)
    joined.peer.subscribe("users/*", "child_added", others.append)
    assert joined.client.taken() == [
        (None, announcement("users/*", "value")),
        (None, announcement("users/*", "child_added")),
    ]

    joined.client.receive(event("users/*", "value", {"name": "A"}))
    joined.client.receive(event("users/*", "mutated", 1))

    assert users == [Event("users/*", "value", "users/*", {"name": "A"}, None, {}, WORKER)]
    assert others == []


def test_the_second_callback_is_not_announced_and_unsubscribing_the_first_not_either(
    joined: Joined,
) -> None:
    first: list[Event] = []
    second: list[Event] = []
    stop = joined.peer.subscribe("users", "value", first.append)
    joined.client.taken()
    joined.peer.subscribe("users", "value", second.append)
    stop()
    stop()
    assert joined.client.taken() == []

    joined.client.receive(event("users", "value", 1))
    assert (len(first), len(second)) == (0, 1)

    joined.peer.unsubscribe("/users")
    unsubscription = {**announcement("users", "value"), "type": "unsubscribe"}
    assert joined.client.taken() == [(None, unsubscription)]
    # Node processes keep sending.
    joined.client.receive(event("users", "value", 2))
    assert (len(first), len(second)) == (0, 1)
    joined.client.connect()
    assert joined.client.taken() == [(None, "ping"), (None, HELLO)]


def test_an_old_stop_leaves_a_newer_subscription_of_the_same_callback_alone(
    joined: Joined,
) -> None:
    heard: list[Event] = []
    stop = joined.peer.subscribe("users", "value", heard.append)
    joined.peer.unsubscribe("users")
    joined.peer.subscribe("users", "value", heard.append)
    joined.client.taken()
    stop()
    assert joined.client.taken() == []
    joined.client.receive(event("users", "value", 1))
    assert len(heard) == 1


def test_ending_one_subscription_twice_leaves_an_equal_one_alone(joined: Joined) -> None:
    heard: list[Event] = []
    stop = joined.peer.subscribe("users", "value", heard.append)
    joined.peer.subscribe("users", "value", heard.append)
    stop()
    stop()
    joined.client.receive(event("users", "value", 1))
    assert len(heard) == 1


def test_unsubscribing_can_be_limited_to_an_event_or_a_callback(joined: Joined) -> None:
    heard: list[str] = []

    def one(event: Event) -> None:
        heard.append("one")

    def two(event: Event) -> None:
        heard.append("two")

    for kind in ("value", "mutated"):
        for callback in (one, two):
            joined.peer.subscribe("a", kind, callback)
    joined.peer.unsubscribe("a", "value", one)
    joined.peer.unsubscribe("a", "mutated")
    joined.peer.unsubscribe("b")
    for kind in ("value", "mutated"):
        joined.client.receive(event("a", kind, 1))
    assert heard == ["two"]


def test_nothing_is_announced_or_taken_back_without_a_connection(joined: Joined) -> None:
    joined.client.lose()
    stop = joined.peer.subscribe("users", "value", print)
    stop()
    assert joined.client.taken() == []


def test_what_ends_processes_of_the_npm_package_is_not_sent(joined: Joined) -> None:
    with pytest.raises(ValueError, match="is none of"):
        joined.peer.subscribe("users", "values", print)
    with pytest.raises(ValueError, match="do not survive"):
        joined.peer.subscribe("constructor", "value", print)
    assert joined.client.taken() == []


def test_a_failing_callback_is_logged_and_the_next_one_called(joined: Joined) -> None:
    heard: list[Event] = []

    async def fails(event: Event) -> None:
        raise RuntimeError("a mistake")

    joined.peer.subscribe("users", "value", fails)
    joined.peer.subscribe("users", "value", heard.append)
    with capturedLogs() as logs:
        joined.client.receive(event("users", "value", 1))
    assert len(heard) == 1
    (log,) = logs
    assert log["log_level"] is LogLevel.critical
    assert log["log_failure"].getErrorMessage() == "a mistake"


# Notifications


def test_notifications_go_to_everybody_or_to_one(joined: Joined) -> None:
    assert joined.peer.notify({"type": "mine", "at": PathReference("a")}).called
    joined.peer.notify("text", OTHER)
    data = {"type": "mine", "at": {".type": "reference", ".val": "a"}}
    assert joined.client.taken() == [
        (None, {"type": "notification", "from": ME, "data": data}),
        (OTHER, {"type": "notification", "from": ME, "to": OTHER, "data": "text"}),
    ]


def test_a_notification_that_cannot_be_sent_fails(joined: Joined) -> None:
    joined.client.refusal = QueueFull(10)
    assert isinstance(failure_of(joined.peer.notify(1)), QueueFull)
    with pytest.raises(TypeError):
        joined.peer.notify(object())


@pytest.mark.parametrize("kind", sorted(INTERNAL_NOTIFICATIONS))
def test_news_of_database_files_are_not_sent(joined: Joined, kind: str) -> None:
    with pytest.raises(ValueError, match="would damage"):
        joined.peer.notify({"type": kind})
    assert joined.client.taken() == []


def test_notifications_are_received_until_it_is_stopped(joined: Joined) -> None:
    heard: list[tuple[Any, str]] = []
    everything: list[tuple[Any, str]] = []
    stop = joined.peer.on_notification(lambda data, sender: heard.append((data, sender)))
    joined.peer.on_notification(
        lambda data, sender: everything.append((data, sender)), internal=True
    )
    internal = {"type": "cache.update", "info": {}}
    joined.client.receive(notification(WORKER, {"type": "mine", "big": 2**60}))
    joined.client.receive(notification(WORKER, internal))
    stop()
    stop()
    joined.client.receive(notification(OTHER, "text"))
    mine = {"type": "mine", "big": 2**60}
    assert heard == [(mine, WORKER)]
    assert everything == [(mine, WORKER), (internal, WORKER), ("text", OTHER)]


# Requests that are sent


def test_a_request_goes_to_the_master_and_has_a_result(joined: Joined) -> None:
    asked = joined.peer.request({"type": "kit.add", "key": "surname"})
    ((to, envelope),) = joined.client.taken()
    assert (to, envelope) == (
        MASTER,
        {
            "type": "request",
            "from": ME,
            "to": MASTER,
            "id": envelope["id"],
            "data": {"type": "kit.add", "key": "surname"},
        },
    )
    joined.client.receive(result(MASTER, ME, envelope["id"], {"ok": True, "index": 3}))
    assert asked.result == {"ok": True, "index": 3}
    assert joined.clock.getDelayedCalls() == []


def test_each_request_has_an_id_of_its_own(joined: Joined) -> None:
    (one, first), (two, second) = joined.ask(1), joined.ask(2)
    joined.client.receive(result(MASTER, ME, two, "second"))
    joined.client.receive(result(MASTER, ME, one, "first"))
    assert (first.result, second.result) == ("first", "second")


def test_a_request_times_out_and_a_late_result_is_ignored(joined: Joined) -> None:
    id, asked = joined.ask({"type": "x"}, to=OTHER)
    joined.clock.advance(DEFAULT_TIMEOUT - 0.1)
    assert not asked.called
    joined.clock.advance(0.1)
    error = failure_of(asked)
    assert isinstance(error, RequestTimedOut)
    assert isinstance(error, TimeoutError)
    assert str(error) == f"{OTHER}: no result within 30 s"
    joined.client.receive(result(OTHER, ME, id, 1))
    assert joined.peer.ignored == 1


@pytest.mark.parametrize("how", ["bye", "disconnect"])
def test_a_request_fails_when_the_other_leaves(joined: Joined, how: str) -> None:
    _, asked = joined.ask(1, to=OTHER)
    _, another = joined.ask(1, to=WORKER)
    if how == "bye":
        joined.client.receive(f'{{"type":"bye","from":"{OTHER}"}}')
    else:
        joined.client.leave(OTHER)
    error = failure_of(asked)
    assert isinstance(error, PeerGone)
    assert error.peer == OTHER
    assert not another.called


@pytest.mark.parametrize("inside", [True, False])
def test_a_request_fails_with_the_reason_of_the_other(joined: Joined, inside: bool) -> None:
    id, asked = joined.ask(1, to=OTHER)
    if inside:
        joined.client.receive(result(OTHER, ME, id, {"ok": False, "reason": "no index"}))
    else:
        joined.client.receive(failure(OTHER, ME, id, "no index"))
    error = failure_of(asked)
    assert type(error) is RemoteError
    assert (error.peer, error.reason) == (OTHER, "no index")


def test_a_request_can_fail_without_a_reason(joined: Joined) -> None:
    id, asked = joined.ask(1)
    joined.client.receive(failure(MASTER, ME, id, ""))
    assert str(failure_of(asked)) == "[master]: failed without a reason"


@pytest.mark.parametrize(
    "data", [{"ok": False}, {"ok": False, "reason": 7}, {"ok": False, "reason": "x", "more": 1}]
)
def test_what_only_looks_like_an_error_is_a_result(joined: Joined, data: Any) -> None:
    id, asked = joined.ask(1)
    joined.client.receive(result(MASTER, ME, id, data))
    assert asked.result == data


UNKNOWN = {"ok": False, "reason": 'Unknown ipc request "mine"'}


def test_the_answer_of_the_application_is_awaited_after_that_of_acebase(joined: Joined) -> None:
    id, asked = joined.ask({"type": "mine"})
    joined.client.receive(result(MASTER, ME, id, UNKNOWN))
    joined.clock.advance(DEFAULT_GRACE / 2)
    joined.client.receive(result(MASTER, ME, id, {"hi": 1}))
    assert asked.result == {"hi": 1}
    assert joined.clock.getDelayedCalls() == []


def test_a_request_is_unknown_when_the_application_does_not_answer(joined: Joined) -> None:
    id, asked = joined.ask({"type": "mine"})
    joined.client.receive(result(MASTER, ME, id, UNKNOWN))
    joined.clock.advance(DEFAULT_GRACE - 0.01)
    assert not asked.called
    joined.clock.advance(0.01)
    error = failure_of(asked)
    assert isinstance(error, UnknownRequest)
    assert error.reason == UNKNOWN["reason"]


def test_the_grace_does_not_outlast_the_timeout(joined: Joined) -> None:
    id, asked = joined.ask({"type": "mine"}, timeout=2.0, grace=60.0)
    joined.clock.advance(1.5)
    joined.client.receive(result(MASTER, ME, id, UNKNOWN))
    joined.clock.advance(0.5)
    assert isinstance(failure_of(asked), UnknownRequest)


def test_only_the_process_that_was_asked_can_answer(joined: Joined) -> None:
    id, asked = joined.ask(1, to=OTHER)
    joined.client.receive(result(WORKER, ME, id, "forged"))
    assert not asked.called
    assert joined.peer.ignored == 1


def test_a_cancelled_request_is_forgotten(joined: Joined) -> None:
    id, asked = joined.ask(1)
    asked.cancel()
    assert isinstance(failure_of(asked), CancelledError)
    assert joined.clock.getDelayedCalls() == []
    joined.client.receive(result(MASTER, ME, id, 1))
    assert joined.peer.ignored == 1


def test_a_request_that_has_ended_is_not_sent(joined: Joined) -> None:
    waiting: list[Deferred[None]] = []

    def send(body: str, to: str | None = None) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    joined.client.send = send  # type: ignore[method-assign]
    timed_out = joined.peer.request(1, timeout=3)
    cancelled = joined.peer.request(2)
    cancelled.cancel()
    joined.clock.advance(3)
    assert isinstance(failure_of(timed_out), RequestTimedOut)
    assert isinstance(failure_of(cancelled), CancelledError)
    assert all(each.called for each in waiting)  # they are taken back


def test_there_is_an_end_of_the_processes_that_are_known(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acebase_ipc.peer.introductions.MAX_PEERS", 2)
    for each in (WORKER, OTHER, "invented1"):
        joined.client.receive(hello(each))
    assert joined.peer.peers == {WORKER, OTHER}
    assert joined.peer.ignored == 1
    joined.client.receive(hello(WORKER))
    assert joined.peer.ignored == 1


def test_requests_are_cancelled_when_the_peer_stops(joined: Joined) -> None:
    _, first = joined.ask(1)
    _, second = joined.ask(1, to=OTHER)
    joined.peer.stopService()
    assert isinstance(failure_of(first), CancelledError)
    assert isinstance(failure_of(second), CancelledError)
    assert joined.clock.getDelayedCalls() == []


def test_a_request_that_cannot_be_sent_fails(joined: Joined) -> None:
    joined.client.refusal = ClientStopped()
    assert isinstance(failure_of(joined.peer.request(1)), ClientStopped)
    assert joined.clock.getDelayedCalls() == []
    with pytest.raises(ValueError, match="JSON has no nan"):
        joined.peer.request(float("nan"))


def test_a_request_that_fails_to_be_sent_after_its_end_has_ended(joined: Joined) -> None:
    sending: Deferred[None] = Deferred()
    joined.client.send = lambda body, to=None: sending  # type: ignore[method-assign]
    asked = joined.peer.request(1)
    asked.cancel()
    sending.errback(ClientStopped())
    assert isinstance(failure_of(asked), CancelledError)
    assert sending.result is None


@pytest.mark.parametrize(
    "times", [{"timeout": 0}, {"timeout": -1}, {"timeout": float("nan")}, {"grace": -1}]
)
def test_times_that_make_no_sense_are_refused_before_anything_is_sent(
    joined: Joined, times: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        joined.peer.request(1, **times)
    assert joined.client.taken() == []
    assert joined.clock.getDelayedCalls() == []


def test_what_cannot_be_called_is_refused(joined: Joined) -> None:
    nothing: Any = None
    for register in (
        lambda: joined.peer.subscribe("users", "value", nothing),
        lambda: joined.peer.on_notification(nothing),
        lambda: joined.peer.on_request("x", nothing),
    ):
        with pytest.raises(TypeError, match="a callback is a function"):
            register()
    assert joined.client.taken() == []
    joined.peer.on_request("x", lambda data, sender: 1)


@pytest.mark.parametrize("kind", sorted(INTERNAL_REQUESTS))
def test_files_of_the_master_are_not_touched(joined: Joined, kind: str) -> None:
    with pytest.raises(ValueError, match="write database files"):
        joined.peer.request({"type": kind})
    assert joined.client.taken() == []


def test_every_error_of_a_request_is_a_peer_error() -> None:
    assert PeerError.__subclasses__() == [RequestTimedOut, PeerGone, RemoteError]


# Requests that are answered


def answered(joined: Joined, data: Any, sender: str = WORKER, id: str = "r1") -> list[Any]:
    joined.client.receive(request(sender, ME, id, data))
    return joined.client.taken()


def answer(to: str = WORKER, id: str = "r1", **members: Any) -> tuple[str, dict[str, Any]]:
    return to, {"type": "result", "from": ME, "to": to, "id": id, **members}


def test_a_request_is_answered_with_what_its_function_returns(joined: Joined) -> None:
    heard: list[tuple[Any, str]] = []

    def add(data: Any, sender: str) -> Any:
        heard.append((data, sender))
        return {"sum": sum(data["of"]), "at": PathReference("a")}

    stop = joined.peer.on_request("add", add)
    data = {"type": "add", "of": [1, 2]}
    expected = {"sum": 3, "at": {".type": "reference", ".val": "a"}}
    assert answered(joined, data) == [answer(ok=True, data=expected)]
    assert heard == [(data, WORKER)]

    stop()
    stop()
    unknown = {"ok": False, "reason": 'Unknown ipc request "add"'}
    assert answered(joined, data) == [answer(ok=True, data=unknown)]


@pytest.mark.parametrize(
    ("data", "name"), [({"type": "x"}, "x"), ("x", "undefined"), (None, "undefined")]
)
def test_unknown_requests_are_answered_as_the_npm_package_does(
    joined: Joined, data: Any, name: str
) -> None:
    reason = f'Unknown ipc request "{name}"'
    assert answered(joined, data) == [answer(ok=True, data={"ok": False, "reason": reason})]


def test_a_coroutine_answers_when_it_has_finished(joined: Joined) -> None:
    working: Deferred[int] = Deferred()
    calls: list[str] = []

    async def slow(data: Any, sender: str) -> int:
        calls.append(sender)
        return await working + 1

    joined.peer.on_request("slow", slow)
    assert answered(joined, {"type": "slow"}) == []
    assert answered(joined, {"type": "slow"}) == []  # the same once more
    assert calls == [WORKER]
    working.callback(1)
    assert joined.client.taken() == [answer(ok=True, data=2)]


def test_an_exception_answers_with_its_text(joined: Joined) -> None:
    def fails(data: Any, sender: str) -> None:
        raise ValueError(*data["words"])

    joined.peer.on_request("fails", fails)
    with capturedLogs() as logs:
        assert answered(joined, {"type": "fails", "words": ["no such thing"]}) == [
            answer(ok=False, reason="no such thing")
        ]
        assert answered(joined, {"type": "fails", "words": []}) == [
            answer(ok=False, reason="ValueError")
        ]
    assert [each["type"] for each in logs] == ["fails", "fails"]


def test_a_result_that_cannot_be_sent_is_a_failure(joined: Joined) -> None:
    joined.peer.on_request("odd", lambda data, sender: object())
    with capturedLogs() as logs:
        assert answered(joined, {"type": "odd"}) == [
            answer(ok=False, reason="AceBase has no type for object")
        ]
    assert len(logs) == 1


class Odd(Exception):
    """An exception that has no text."""

    def __str__(self) -> str:
        raise ValueError


def deep() -> list[Any]:
    """A value that cannot be encoded for its depth."""
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("answer_with", [deep, lambda: {1: 2}, lambda: float("nan"), Odd])
def test_every_request_gets_an_answer(joined: Joined, answer_with: Callable[[], Any]) -> None:
    def function(data: Any, sender: str) -> Any:
        value = answer_with()
        if isinstance(value, Exception):
            raise value
        return value

    joined.peer.on_request("x", function)
    with capturedLogs():
        ((_, envelope),) = answered(joined, {"type": "x"})
    assert not envelope["ok"]
    assert envelope["reason"]
    assert joined.peer._answers._running == {}


def test_requests_at_work_are_bounded(joined: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acebase_ipc.peer.requests.MAX_PEER_REQUESTS", 2)
    monkeypatch.setattr("acebase_ipc.peer.requests.MAX_REQUESTS", 3)
    working: list[Deferred[int]] = []

    def slow(data: Any, sender: str) -> Deferred[int]:
        working.append(Deferred())
        return working[-1]

    def refused(sender: str, id: str) -> bool:
        messages = answered(joined, {"type": "slow"}, sender, id)
        if not messages:
            return False
        assert messages == [answer(sender, id, ok=False, reason=TOO_MANY)]
        return True

    joined.peer.on_request("slow", slow)
    assert [refused(WORKER, each) for each in "123"] == [False, False, True]
    assert [refused(OTHER, each) for each in "12"] == [False, True]
    working[0].callback(1)
    joined.client.taken()
    assert not refused(WORKER, "4")
    joined.client.leave(OTHER)
    assert not refused(MASTER, "1")
    assert refused(MASTER, "2")


def test_requests_at_work_are_bounded_in_bytes(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acebase_ipc.peer.requests.MAX_REQUEST_BYTES", 1000)
    working: list[Deferred[int]] = []

    def slow(data: Any, sender: str) -> Deferred[int]:
        working.append(Deferred())
        return working[-1]

    joined.peer.on_request("slow", slow)
    large = {"type": "slow", "text": "x" * 2000}
    assert answered(joined, large, id="alone") == []
    refused = answered(joined, {"type": "slow"}, id="more")
    assert refused == [answer(id="more", ok=False, reason=TOO_MANY)]
    working[0].callback(1)
    joined.client.taken()
    assert answered(joined, {"type": "slow"}, id="later") == []
    assert answered(joined, large, id="large") == [answer(id="large", ok=False, reason=TOO_MANY)]


TOO_MANY = "too many or too large requests at the same time"


def test_a_result_of_earlier_work_does_not_answer_a_new_request_of_the_same_id(
    joined: Joined,
) -> None:
    early: Deferred[int] = Deferred()
    later: Deferred[int] = Deferred()
    slow_to_end: Deferred[int] = Deferred()
    slow_to_end.addErrback(lambda _: early)  # it takes its time to be cancelled
    working = iter([slow_to_end, later])
    joined.peer.on_request("slow", lambda data, sender: next(working))
    answered(joined, {"type": "slow"})
    joined.client.leave(WORKER)
    answered(joined, {"type": "slow"})
    early.callback(1)
    assert joined.client.taken() == []
    later.callback(2)
    assert joined.client.taken() == [answer(ok=True, data=2)]


def test_a_process_that_has_left_gets_no_answer(joined: Joined) -> None:
    working: dict[str, Deferred[int]] = {}

    def slow(data: Any, sender: str) -> Deferred[int]:
        working[sender] = Deferred()
        return working[sender]

    joined.peer.on_request("slow", slow)
    for sender in (MASTER, WORKER):
        assert answered(joined, {"type": "slow"}, sender) == []
    with capturedLogs() as logs:
        # A new master would not survive a result that it does not wait for.
        joined.client.leave(MASTER)
    assert logs == []
    assert working[MASTER].called
    working[WORKER].callback(1)
    assert joined.client.taken() == [answer(ok=True, data=1)]


def test_a_function_that_ignores_its_cancellation_sends_no_answer(joined: Joined) -> None:
    working: Deferred[int] = Deferred(lambda deferred: deferred.callback(1))
    joined.peer.on_request("slow", lambda data, sender: working)
    answered(joined, {"type": "slow"})
    joined.client.leave(WORKER)
    assert joined.client.taken() == []


def test_functions_at_work_are_cancelled_when_the_peer_stops(joined: Joined) -> None:
    working: Deferred[int] = Deferred()
    joined.peer.on_request("slow", lambda data, sender: working)
    answered(joined, {"type": "slow"})
    joined.peer.stopService()
    assert working.called
    assert joined.client.taken() == [(None, {"type": "bye", "from": ME})]


def test_an_old_stop_leaves_a_newer_registration_of_the_same_function_alone(
    joined: Joined,
) -> None:
    def function(data: Any, sender: str) -> int:
        return 1

    stop = joined.peer.on_request("x", function)
    stop()
    joined.peer.on_request("x", function)
    stop()
    assert answered(joined, {"type": "x"}) == [answer(ok=True, data=1)]


def test_a_type_is_answered_by_one_function(joined: Joined) -> None:
    stop = joined.peer.on_request("x", lambda data, sender: 1)
    with pytest.raises(ValueError, match="'x' are answered already"):
        joined.peer.on_request("x", lambda data, sender: 2)
    stop()
    joined.peer.on_request("x", lambda data, sender: 3)
    stop()
    assert answered(joined, {"type": "x"}) == [answer(ok=True, data=3)]


@pytest.mark.parametrize("to", [None, OTHER])
def test_requests_to_others_are_not_answered(joined: Joined, to: str | None) -> None:
    joined.peer.on_request("x", lambda data, sender: 1)
    addressed = {} if to is None else {"to": to}
    message = {"type": "request", "from": WORKER, **addressed, "id": "1", "data": {"type": "x"}}
    joined.client.receive(json.dumps(message))
    assert joined.client.taken() == []
    assert joined.peer.ignored == 1


def test_an_answer_that_cannot_be_sent_is_logged(joined: Joined) -> None:
    joined.client.refusal = ClientStopped()
    with capturedLogs() as logs:
        answered(joined, {"type": "x"})
    (log,) = logs
    assert log["log_level"] is LogLevel.warn
    assert log["why"] == str(ClientStopped())


@pytest.mark.parametrize(
    "refusal", [QueueFull(10), TooLargeForRelay(413, "too large"), PingTimeout(30)]
)
def test_an_answer_that_was_certainly_not_relayed_becomes_a_failure(
    joined: Joined, refusal: Exception
) -> None:
    send = joined.client.send

    def send_small(body: str, to: str | None = None) -> Deferred[None]:
        return fail(refusal) if len(body) > 1000 else send(body, to)

    joined.client.send = send_small  # type: ignore[method-assign]
    joined.peer._answers._send = send_small
    joined.peer.on_request("x", lambda data, sender: "x" * 1000)
    with capturedLogs():
        ((to, envelope),) = answered(joined, {"type": "x"})
    assert to == WORKER
    assert not envelope["ok"]
    assert str(refusal) in envelope["reason"]


def test_an_answer_that_may_have_been_relayed_is_not_given_twice(joined: Joined) -> None:
    joined.client.refusal = RequestUnanswered("lost")
    joined.peer.on_request("x", lambda data, sender: 1)
    with capturedLogs():
        answered(joined, {"type": "x"})
    joined.client.refusal = None
    assert joined.client.taken() == []


# What is not meant for a peer


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "{}",
        '{"type":"hello"}',
        f'{{"type":"lock-request","id":"1","from":"{WORKER}","to":"{ME}","data":{{}}}}',
        f'{{"type":"lock-result","id":"1","from":"{WORKER}","to":"{ME}","ok":true}}',
        f'{{"type":"pulse","from":"{WORKER}"}}',
        f'{{"type":"result","id":"1","from":"{WORKER}","to":"{ME}","ok":true}}',
    ],
)
def test_what_means_nothing_here_is_ignored_and_counted(joined: Joined, text: str) -> None:
    with capturedLogs() as logs:
        joined.client.receive(text)
    assert joined.client.taken() == []
    assert joined.peer.ignored == 1
    (log,) = logs
    assert log["log_level"] is LogLevel.debug


@pytest.mark.parametrize("kind", ["subscribe", "unsubscribe"])
def test_the_subscriptions_of_others_concern_those_who_write(joined: Joined, kind: str) -> None:
    joined.client.receive(json.dumps({**announcement("users", "value"), "type": kind}))
    assert joined.client.taken() == []
    assert joined.peer.ignored == 0
