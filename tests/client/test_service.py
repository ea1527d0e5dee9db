"""A client of a whole relay, in memory."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, eventAsText
from twisted.python.failure import Failure

from acebase_ipc import ConfigError, Dialect, IPCClient
from acebase_ipc.client import service as client_module
from acebase_ipc.client.errors import (
    ClientStopped,
    ConnectionFailed,
    ConnectionLost,
    IdInUse,
    IdRejected,
    NotARelay,
    NotConnected,
    PingTimeout,
    QueueFull,
    RelayBusy,
    RelayShutDown,
    Replaced,
    RequestRejected,
    SlowReader,
    TokenRejected,
    TooLargeForRelay,
    VersionRejected,
)
from acebase_ipc.client.iterators import Messages
from acebase_ipc.client.reconnect import retry_delay
from acebase_ipc.relay.limits import Limits
from acebase_ipc.testing import DATABASE
from tests.clients import URL, Network, RelayNetwork


@pytest.fixture
def network() -> RelayNetwork:
    """A relay of which messages above 100 units have to be posted."""
    return RelayNetwork(max_payload=100)


def result(deferred: Deferred[Any]) -> Any:
    """What a Deferred has resulted in."""
    results: list[Any] = []
    deferred.addCallback(results.append)
    assert results, f"no result: {deferred}"
    return results[0]


def error(deferred: Deferred[Any]) -> BaseException:
    """With what a Deferred has failed."""
    errors: list[Any] = []
    deferred.addErrback(errors.append)
    assert errors, f"no failure: {deferred}"
    failure: BaseException = errors[0].value
    return failure


def pending(deferred: Deferred[Any]) -> bool:
    """Whether a Deferred has not fired."""
    return not deferred.called


def hearing(client: IPCClient) -> list[str]:
    """What the client will have heard."""
    heard: list[str] = []
    client.on_message(heard.append)
    return heard


class TestJoining:
    def test_a_client_is_a_peer_when_it_is_welcomed(self, network: RelayNetwork) -> None:
        client = network.client()
        connected = client.when_connected()
        assert not client.connected
        network.start(client)
        assert result(connected) is None
        assert client.connected
        assert client.problem is None
        assert result(client.when_connected()) is None
        (known,) = network.relay.server.get_clients(DATABASE)
        assert known.id == client.id

    def test_it_makes_itself_an_id(self, network: RelayNetwork) -> None:
        ids = {network.client().id for _ in range(3)}
        assert len(ids) == 3
        assert all(re.fullmatch("[a-z0-9]{24}", each) for each in ids)

    def test_it_keeps_its_id_when_it_connects_again(self, network: RelayNetwork) -> None:
        client = network.started()
        client_id = client.id
        network.cut(client)
        assert not client.connected
        assert isinstance(client.problem, ConnectionLost)
        again = client.when_connected()
        network.pass_time(1)
        assert result(again) is None
        assert client.id == client_id
        assert client.problem is None
        assert [each.id for each in network.relay.server.get_clients(DATABASE)] == [client_id]

    def test_any_name_and_id_is_legal(self) -> None:
        network = RelayNetwork()
        name, client_id = "a/b ü%?__proto__", "[mä+st&er]"
        alice = network.started(client_id, dbname=name)
        bobby = network.started("bobby", dbname=name)
        heard = hearing(alice)
        bobby.send("hi", to=client_id)
        bobby.send("x" * 20_000, to=client_id)
        network.settle()
        assert heard == ["hi", "x" * 20_000]
        assert bobby.peers == {client_id}

    def test_it_says_its_dialect(self, network: RelayNetwork) -> None:
        network.started("alice")
        network.started("bobby", dialect=Dialect.ACEBASE)
        assert network.relay.logged("alice joined from ", " as documented peer")
        assert network.relay.logged("bobby joined from ", " as acebase peer")

    def test_acebase_peers_get_envelopes_of_any_size_as_they_are(
        self, network: RelayNetwork
    ) -> None:
        alice = network.started("alice", dialect=Dialect.ACEBASE)
        bobby = network.started("bobby", dialect=Dialect.ACEBASE)
        heard = hearing(bobby)
        large = '{"type":"notification","x":"%s"}' % ("x" * 200)
        for each in ("{1", large, "text"):
            alice.send(each, to="bobby")
        network.settle()
        assert [each for each in heard if "hello" not in each] == ["{1", large, "text"]

    def test_it_can_be_mounted_below_a_path(self) -> None:
        client = network_below("ws://127.0.0.1:9163/some%20where/ipc")
        client.startService()
        request = client._handshake()
        assert request.resource.startswith(f"/some%20where/ipc/{DATABASE}/connect?id=")
        client.stopService()

    def test_it_is_a_service(self, network: RelayNetwork) -> None:
        parent = MultiService()
        client = network.client()
        client.setServiceParent(parent)
        parent.startService()
        network.settle()
        assert client.connected
        stopped = parent.stopService()
        network.settle()
        assert result(stopped) == [(True, None)]
        assert not client.connected

    def test_starting_twice_connects_once(self, network: RelayNetwork) -> None:
        client = network.started()
        client.startService()
        network.settle()
        assert len(network.relay.server.get_clients(DATABASE)) == 1


def network_below(url: str) -> IPCClient:
    return Network(MemoryReactorClock()).client(url=url)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"url": "http://x"}, "unknown scheme"),
        ({"dbname": ""}, "1 to 200 characters"),
        ({"dbname": "a\n"}, "without control characters"),
        ({"client_id": "four"}, "5 to 128 characters"),
        ({"client_id": "abc;de"}, "without ';'"),
        ({"token": "a\r\nX: y"}, "the token holds control characters"),
        ({"token": " s3cret"}, "spaces at its ends"),
        ({"trust_root": "/does/not/exist.pem"}, "trust_root: .* No such file"),
        ({"trust_root": Path(__file__)}, "holds no certificates in PEM"),
        ({"dialect": "latin"}, "dialect is either documented or acebase"),
        ({"max_queue": 0}, "max_queue"),
        ({"max_message": 0}, "max_message"),
        ({"max_queue": 1.5}, "max_queue"),
        ({"max_message": None}, "max_message"),
        ({"url": b"ws://x"}, "URL is a str"),
        ({"url": "ws+unix:/" + "a" * 107}, "at most 107 bytes"),
        ({"url": "ws+unix:/" + "ä" * 54}, "at most 107 bytes"),
        ({"dbname": 1}, "1 to 200 characters"),
        ({"client_id": 12345}, "5 to 128 characters"),
        ({"token": ""}, "the token is empty"),
        ({"token": 1}, "no text"),
        ({"retry_policy": 1}, "retry_policy and clock are functions"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    network: RelayNetwork, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        network.client(**arguments)
    assert str(arguments.get("token") or "?") not in str(caught.value)


def test_arguments_of_calls_are_checked_before_anything_is_done(network: RelayNetwork) -> None:
    client = network.started()
    sent = bytes(network.websocket(client).sent)
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="more than 0"):
            client.ping(timeout)
    for count in (0, -1):
        with pytest.raises(ValueError, match="1 or more"):
            client.when_connected(count)
    with pytest.raises(TypeError, match="not bytes"):
        client.send(b"x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lone surrogates"):
        client.send("\udc00")
    registers: list[Any] = [
        client.on_message,
        client.on_connected,
        client.on_disconnected,
        client.on_peer_joined,
        client.on_peer_left,
    ]
    for register in registers:
        with pytest.raises(TypeError, match="a callback is a function"):
            register(None)
    assert not client._link._pongs
    assert bytes(network.websocket(client).sent) == sent


def test_it_takes_what_a_relay_accepts_by_default() -> None:
    assert Limits().max_message <= client_module.DEFAULT_MAX_MESSAGE


class TestSending:
    def test_a_broadcast_reaches_all_others(self, network: RelayNetwork) -> None:
        alice, bobby, carol = (network.started(each) for each in ("alice", "bobby", "carol"))
        heard = [hearing(each) for each in (alice, bobby, carol)]
        sent = alice.send("hello")
        network.settle()
        assert result(sent) is None
        assert heard == [[], ["hello"], ["hello"]]

    def test_a_message_reaches_whom_it_is_for(self, network: RelayNetwork) -> None:
        alice, bobby, carol = (network.started(each) for each in ("alice", "bobby", "carol"))
        heard = [hearing(each) for each in (alice, bobby, carol)]
        alice.send("to bobby", to="bobby")
        alice.send("to me", to="alice")
        network.settle()
        assert heard == [["to me"], ["to bobby"], []]

    @pytest.mark.parametrize("body", ["ping", "pong", "to:alice;x", "", "𝄞 ü", "a;b\n"])
    def test_any_text_arrives_as_it_is(self, network: RelayNetwork, body: str) -> None:
        alice, bobby = network.started("alice"), network.started("bobby")
        heard = hearing(bobby)
        alice.send(body)
        alice.send(body, to="bobby")
        network.settle()
        assert heard == [body, body]

    def test_to_must_be_an_id(self, network: RelayNetwork) -> None:
        for wrong in ("all", "a;bcd", 12345, b"alice"):
            with pytest.raises(ValueError, match="an id has 5 to 128 characters") as caught:
                network.started().send("x", to=wrong)  # type: ignore[arg-type]
            assert not isinstance(caught.value, ConfigError)

    def test_messages_wait_until_there_is_a_connection(self, network: RelayNetwork) -> None:
        heard = hearing(network.started("bobby"))
        alice = network.client("alice")
        sent = [alice.send("1"), alice.send("2" * 200), alice.send("3")]
        assert all(map(pending, sent))
        network.start(alice)
        assert [result(each) for each in sent] == [None, None, None]
        assert heard == ["1", "2" * 200, "3"]

    def test_messages_wait_for_the_next_connection(self, network: RelayNetwork) -> None:
        bobby = network.started("bobby")
        alice = network.started("alice")
        heard = hearing(bobby)
        network.cut(alice)
        sent = alice.send("waits")
        network.settle()
        assert pending(sent)
        network.pass_time(1)
        assert result(sent) is None
        assert heard == ["waits"]

    def test_too_much_is_refused(self, network: RelayNetwork) -> None:
        client = network.client(max_queue=10)
        sent = client.send("x" * 10)
        assert isinstance(error(client.send("y")), QueueFull)
        assert pending(sent)
        network.start(client)
        assert result(client.send("y")) is None

    def test_a_message_that_waits_can_be_taken_back(self, network: RelayNetwork) -> None:
        heard = hearing(network.started("bobby"))
        alice = network.client("alice")
        alice.send("1")
        taken_back = alice.send("2")
        alice.send("3")
        taken_back.cancel()
        assert isinstance(error(taken_back), CancelledError)
        network.start(alice)
        assert heard == ["1", "3"]

    def test_a_full_transport_gets_no_more(self, network: RelayNetwork) -> None:
        heard = hearing(network.started("bobby"))
        alice = network.started("alice", max_queue=200)
        transport = network.websocket(alice)
        transport.room = 50
        handed_over = alice.send("x" * 80)
        assert not pending(handed_over)
        waits = alice.send("y" * 100)
        assert pending(waits)
        assert isinstance(error(alice.send("z" * 21)), QueueFull)
        assert pending(alice.send("z" * 20))
        transport.drain()
        assert result(waits) is None
        network.settle()
        assert heard == ["x" * 80, "y" * 100, "z" * 20]

    def test_what_is_lost_makes_room(self, network: RelayNetwork) -> None:
        alice = network.started("alice", max_queue=100)
        network.websocket(alice).room = 50
        alice.send("x" * 90)
        assert isinstance(error(alice.send("y" * 20)), QueueFull)
        network.cut(alice)
        assert pending(alice.send("y" * 20))


class TestLargeMessages:
    @pytest.mark.parametrize(
        ("body", "to", "posted"),
        [
            ("x" * 100, None, 0),
            ("x" * 101, None, 1),
            ("x" * 91, "bobby", 0),
            ("x" * 92, "bobby", 1),
            ("世" * 100, None, 0),
            ("𝄞" * 50, None, 0),
            ("𝄞" * 51, None, 1),
        ],
    )
    def test_what_is_too_large_is_posted(
        self, network: RelayNetwork, body: str, to: str | None, posted: int
    ) -> None:
        bobby, alice = network.started("bobby"), network.started("alice")
        heard = hearing(bobby)
        alice.fetch_peers()
        network.settle()
        requests = posts(network)
        sent = alice.send(body, to)
        network.settle()
        assert result(sent) is None
        assert heard == [body]
        assert posts(network) - requests == posted

    def test_all_messages_arrive_in_their_order(self, network: RelayNetwork) -> None:
        bobby, alice = network.started("bobby"), network.started("alice")
        heard = hearing(bobby)
        bodies = [str(n) * (200 if n % 3 == 0 else 1) for n in range(1, 20)]
        sent = [alice.send(each) for each in bodies]
        network.settle()
        assert [result(each) for each in sent] == [None] * len(bodies)
        assert heard == bodies

    def test_what_comes_after_a_post_waits_for_its_answer(self, network: RelayNetwork) -> None:
        alice = network.started("alice")
        large, small = alice.send("x" * 200), alice.send("y")
        assert pending(large)
        assert pending(small)
        network.settle()
        assert [result(large), result(small)] == [None, None]

    def test_a_post_waits_until_the_relay_has_read_what_was_before(
        self, network: RelayNetwork
    ) -> None:
        heard = hearing(network.started("bobby"))
        alice = network.started("alice")
        number = network.transports.index(network.websocket(alice))
        take, network.transports[number].take = network.transports[number].take, None
        alice.send("1")
        sent = alice.send("2" * 200)
        network.settle()
        assert pending(sent)
        assert heard == []
        assert take is not None
        take(bytes(network.transports[number].written))
        network.settle()
        assert heard == ["1", "2" * 200]

    def test_peers_that_come_and_go_keep_their_place(self, network: RelayNetwork) -> None:
        bobby, alice = network.started("bobby"), network.started("alice")
        events: list[str] = []
        bobby.on_message(lambda text: events.append(text[:1]))
        bobby.on_peer_left(events.append)
        alice.send("x" * 200).addCallback(lambda _: alice.stopService())
        network.settle()
        assert events == ["x", "alice"]

    def test_a_message_that_the_relay_refuses_fails(self) -> None:
        network = RelayNetwork(max_payload=100, max_message=1000)
        heard = hearing(network.started("bobby"))
        alice = network.started("alice")
        refused = alice.send("x" * 1001)
        sent = alice.send("y")
        network.settle()
        assert isinstance(error(refused), TooLargeForRelay)
        assert result(sent) is None
        assert heard == ["y"]

    def test_a_message_that_the_client_refuses_is_left_out(self, network: RelayNetwork) -> None:
        bobby = network.started("bobby", max_message=1000)
        heard = hearing(bobby)
        alice = network.started("alice")
        alice.send("x" * 1001)
        alice.send("y")
        with capturedLogs() as events:
            network.settle()
        assert heard == ["y"]
        assert bobby.connected
        lines = [eventAsText(each) for each in events]
        assert [each for each in lines if "a large message is lost" in each and "1000" in each]

    def test_a_post_that_is_under_way_ends_with_the_client(self, network: RelayNetwork) -> None:
        alice = network.started("alice")
        sent = alice.send("x" * 200)
        waits = alice.send("y")
        network.accept()
        with capturedLogs() as events:
            stopped = alice.stopService()
            assert isinstance(error(sent), ClientStopped)
            assert isinstance(error(waits), ClientStopped)
            assert isinstance(network.last.reason, ConnectionAborted)
            network.settle()
            assert result(stopped) is None
            gc.collect()
        assert not [each for each in events if each["log_level"] is LogLevel.critical]

    def test_a_post_that_is_under_way_counts_as_waiting(self, network: RelayNetwork) -> None:
        alice = network.started("alice", max_queue=250)
        sent = alice.send("x" * 200)
        assert isinstance(error(alice.send("y" * 51)), QueueFull)
        network.settle()
        assert result(sent) is None
        assert result(alice.send("y" * 51)) is None


def posts(network: RelayNetwork) -> int:
    """How many messages were posted."""
    return sum(each.sent.count(b"POST /") for each in network.transports)


class TestReceiving:
    def test_callbacks_are_called_until_they_are_taken_away(self, network: RelayNetwork) -> None:
        alice, bobby = network.started("alice"), network.started("bobby")
        first: list[str] = []
        stop = bobby.on_message(first.append)
        second = hearing(bobby)
        alice.send("1")
        network.settle()
        stop()
        stop()
        alice.send("2")
        network.settle()
        assert first == ["1"]
        assert second == ["1", "2"]

    def test_an_error_of_a_callback_is_logged_and_affects_nothing_else(
        self, network: RelayNetwork
    ) -> None:
        network = RelayNetwork(expect_errors=True)
        alice, bobby = network.started("alice"), network.started("bobby")

        def fails(text: str) -> None:
            raise ValueError("mine")

        async def fails_later(text: str) -> None:
            raise LookupError("later")

        bobby.on_message(fails)
        bobby.on_message(fails_later)
        heard = hearing(bobby)
        with capturedLogs() as events:
            alice.send("1")
            alice.send("2")
            network.settle()
        assert heard == ["1", "2"]
        assert bobby.connected
        failures = [each for each in events if each["log_level"] is LogLevel.critical]
        assert [each["log_failure"].type for each in failures] == [ValueError, LookupError] * 2

    def test_messages_can_be_iterated_over(self, network: RelayNetwork) -> None:
        alice, bobby = network.started("alice"), network.started("bobby")
        heard: list[str] = []

        async def listen() -> str:
            async for message in bobby.messages():
                heard.append(message)
            return "the end"

        listening = Deferred.fromCoroutine(listen())
        for each in ("1", "2"):
            alice.send(each)
        network.settle()
        assert heard == ["1", "2"]
        bobby.stopService()
        assert result(listening) == "the end"

    def test_an_iterator_keeps_what_comes_meanwhile(self, network: RelayNetwork) -> None:
        alice, bobby = network.started("alice"), network.started("bobby")
        messages = bobby.messages()
        for each in ("1", "2"):
            alice.send(each)
        network.settle()
        bobby.stopService()
        assert [result(messages.__anext__()), result(messages.__anext__())] == ["1", "2"]
        assert isinstance(error(messages.__anext__()), StopAsyncIteration)

    def test_an_iterator_that_is_read_too_slowly_raises(self, network: RelayNetwork) -> None:
        alice, bobby = network.started("alice"), network.started("bobby", max_queue=10)
        slow, quick = bobby.messages(), hearing(bobby)
        for each in ("12345", "67890", "!", "?"):
            alice.send(each)
        network.settle()
        assert [result(slow.__anext__()), result(slow.__anext__())] == ["12345", "67890"]
        assert isinstance(error(slow.__anext__()), SlowReader)
        assert quick == ["12345", "67890", "!", "?"]

    def test_an_iterator_with_too_many_unread_messages_raises(
        self, network: RelayNetwork, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("acebase_ipc.client.iterators.MAX_MESSAGES", 2)
        alice, bobby = network.started("alice"), network.started("bobby")
        messages = bobby.messages()
        for each in ("", "", "!"):
            alice.send(each)
        network.settle()
        assert [result(messages.__anext__()), result(messages.__anext__())] == ["", ""]
        assert isinstance(error(messages.__anext__()), SlowReader)

    def test_what_was_read_makes_room(self, network: RelayNetwork) -> None:
        alice, bobby = network.started("alice"), network.started("bobby", max_queue=10)
        messages = bobby.messages()
        for each in ("12345", "67890", "54321"):
            alice.send(each)
            network.settle()
            assert result(messages.__anext__()) == each

    def test_a_program_that_waits_for_a_message_need_not_hold_the_iterator(
        self, network: RelayNetwork
    ) -> None:
        alice, bobby = network.started("alice"), network.started("bobby")
        heard: list[str] = []
        for _ in range(2):
            bobby.messages().__anext__().addCallback(heard.append)
        gc.collect()
        alice.send("x")
        network.settle()
        assert heard == ["x", "x"]
        assert not bobby._traffic._awaited

    def test_each_message_goes_to_the_iterators_first_and_then_to_the_callbacks(
        self, network: RelayNetwork
    ) -> None:
        alice, bobby = network.started("alice"), network.started("bobby")
        heard: list[str] = []

        async def read(name: str, messages: Messages) -> None:
            for _ in range(2):
                heard.append(name + await messages.__anext__())

        bobby.on_message(lambda message: heard.append("first callback " + message))
        iterators = {f"iterator {number} ": bobby.messages() for number in range(20)}
        for name, messages in reversed(iterators.items()):
            Deferred.fromCoroutine(read(name, messages))
        bobby.on_message(lambda message: heard.append("second callback " + message))
        for each in ("1", "2"):
            alice.send(each)
        network.settle()
        names = [*iterators, "first callback ", "second callback "]
        assert heard == [name + each for each in ("1", "2") for name in names]

    def test_an_iterator_that_is_dropped_is_forgotten(self, network: RelayNetwork) -> None:
        client = network.started()
        messages = client.messages()
        assert len(client._traffic._iterators) == 1
        del messages
        gc.collect()
        assert len(client._traffic._iterators) == 0

    def test_an_iterator_can_be_closed(self, network: RelayNetwork) -> None:
        alice, bobby = network.started("alice"), network.started("bobby")
        messages = bobby.messages()
        waits = messages.__anext__()
        given_up = messages.__anext__()
        given_up.cancel()
        assert isinstance(error(given_up), CancelledError)
        result(Deferred.fromCoroutine(messages.aclose()))
        assert isinstance(error(waits), StopAsyncIteration)
        alice.send("x")
        network.settle()
        assert isinstance(error(messages.__anext__()), StopAsyncIteration)


class TestPeers:
    def test_the_other_peers_are_known(self, network: RelayNetwork) -> None:
        alice = network.started("alice")
        joined: list[str] = []
        left: list[str] = []
        alice.on_peer_joined(joined.append)
        alice.on_peer_left(left.append)
        bobby = network.started("bobby")
        network.started("other", dbname="another")
        assert alice.peers == {"bobby"}
        assert bobby.peers == {"alice"}
        bobby.stopService()
        network.settle()
        assert alice.peers == frozenset()
        assert (joined, left) == (["bobby"], ["bobby"])

    def test_what_has_changed_meanwhile_is_found(self, network: RelayNetwork) -> None:
        bobby, alice = network.started("bobby"), network.started("alice")
        changes: list[str] = []
        alice.on_peer_joined(lambda peer_id: changes.append("+" + peer_id))
        alice.on_peer_left(lambda peer_id: changes.append("-" + peer_id))
        network.cut(alice)
        bobby.stopService()
        network.started("carol")
        assert alice.peers == {"bobby"}
        network.pass_time(1)
        assert alice.peers == {"carol"}
        assert changes == ["-bobby", "+carol"]

    def test_the_relay_can_be_asked(self, network: RelayNetwork) -> None:
        network.started("bobby")
        alice = network.started("alice")
        asked = alice.fetch_peers()
        network.settle()
        assert result(asked) == {"bobby"}
        assert alice._traffic.peers._asked == []

    def test_peers_cannot_be_fetched_without_a_connection(self, network: RelayNetwork) -> None:
        assert isinstance(error(network.client().fetch_peers()), NotConnected)


class TestPing:
    def test_it_takes_as_long_as_it_takes(self, network: RelayNetwork) -> None:
        client = network.started()
        network.last.reading = False
        network.websocket(client).reading = False
        answer = client.ping()
        network.pass_time(2)
        network.websocket(client).reading = True
        network.settle()
        assert result(answer) == 2

    def test_it_has_a_timeout(self, network: RelayNetwork) -> None:
        client = network.started()
        transport = network.websocket(client)
        transport.reading = False
        late, in_time = client.ping(timeout=3), client.ping(timeout=5)
        network.pass_time(4)
        assert isinstance(error(late), PingTimeout)
        transport.reading = True
        network.settle()
        assert result(in_time) == 4
        assert client.connected

    def test_it_needs_a_connection(self, network: RelayNetwork) -> None:
        client = network.client()
        assert isinstance(error(client.ping()), NotConnected)
        network.start(client)
        network.websocket(client).reading = False
        answer = client.ping()
        network.cut(client)
        assert isinstance(error(answer), NotConnected)


class TestEnding:
    def test_it_closes_the_connection(self, network: RelayNetwork) -> None:
        alice, bobby = network.started("alice", dialect=Dialect.ACEBASE), network.started("bobby")
        assert bobby.peers == {"alice"}
        network.pass_time(11)  # after which only alice has other connections
        alice.fetch_peers()
        network.settle()
        staying = network.websocket(bobby)
        stopped = alice.stopService()
        assert pending(stopped)
        again = alice.stopService()
        network.settle()
        assert result(stopped) is None
        assert result(again) is None
        assert all(each.reason for each in network.transports if each is not staying)
        # Without a clean close its session would be kept.
        assert bobby.peers == frozenset()
        assert alice.problem is None

    def test_what_was_handed_over_arrives(self, network: RelayNetwork) -> None:
        alice, heard = network.started("alice"), hearing(network.started("bobby"))
        alice.send("last words")
        alice.stopService()
        network.settle()
        assert heard == ["last words"]

    def test_a_relay_that_does_not_answer_the_close_is_disconnected(
        self, network: RelayNetwork
    ) -> None:
        client = network.started()
        network.websocket(client).take = lambda data: None
        stopped = client.stopService()
        network.pass_time(4)
        assert pending(stopped)
        network.pass_time(1)
        assert result(stopped) is None

    @pytest.mark.parametrize("seconds", [0, 0.5])
    def test_it_can_be_stopped_while_it_waits_to_connect(
        self, network: RelayNetwork, seconds: float
    ) -> None:
        network.refuses = True
        client = network.started()
        network.pass_time(seconds)
        waiting = client.when_connected()
        assert result(client.stopService()) is None
        assert isinstance(error(waiting), ClientStopped)
        network.refuses = False
        network.pass_time(60)
        assert network.relay.server.get_clients(DATABASE) == ()

    def test_it_can_be_stopped_amid_connecting(self, network: RelayNetwork) -> None:
        client = network.client()
        client.startService()
        assert result(client.stopService()) is None
        network.pass_time(60)
        assert network.relay.server.get_clients(DATABASE) == ()

    def test_it_can_be_stopped_amid_the_handshake(self, network: RelayNetwork) -> None:
        client = network.client()
        client.startService()
        network.prepare = lambda transport: None  # type: ignore[method-assign]
        network.accept()
        stopped = client.stopService()
        network.transports[-1].turn()
        assert result(stopped) is None

    def test_it_need_not_have_been_started(self, network: RelayNetwork) -> None:
        client = network.client()
        sent = client.send("never")
        assert result(client.stopService()) is None
        assert isinstance(error(sent), ClientStopped)

    def test_afterwards_everything_fails(self, network: RelayNetwork) -> None:
        client = network.started()
        ended = client.when_ended()
        assert not ended.called
        client.stopService()
        network.settle()
        assert result(ended) is None
        assert result(client.when_ended()) is None
        assert isinstance(error(client.send("x")), ClientStopped)
        assert isinstance(error(client.when_connected()), ClientStopped)
        assert isinstance(error(client.messages().__anext__()), StopAsyncIteration)
        assert isinstance(error(client.ping()), NotConnected)

    def test_it_can_be_started_again(self, network: RelayNetwork) -> None:
        client = network.started("alice")
        client.stopService()
        network.settle()
        network.start(client)
        assert client.connected
        assert [each.id for each in network.relay.server.get_clients(DATABASE)] == ["alice"]


class TestStartingWhileItIsStopped:
    @pytest.fixture
    def client(self, network: RelayNetwork) -> IPCClient:
        """A client that is being stopped, of a relay that does not answer."""
        client = network.started("alice")
        network.websocket(client).take = lambda data: None
        return client

    def test_it_connects_when_it_has_stopped(
        self, network: RelayNetwork, client: IPCClient
    ) -> None:
        heard = hearing(network.started("bobby"))
        stopped = client.stopService()
        client.startService()
        connected, sent = client.when_connected(), client.send("again")
        network.pass_time(4)
        assert [each.called for each in (stopped, connected, sent)] == [False] * 3
        assert websockets(network) == 2
        network.pass_time(1)
        assert result(stopped) is None
        assert result(connected) is None
        assert result(sent) is None
        assert heard == ["again"]
        network.pass_time(60)
        assert websockets(network) == 3

    def test_it_can_be_stopped_again(self, network: RelayNetwork, client: IPCClient) -> None:
        first = client.stopService()
        client.startService()
        connected = client.when_connected()
        second = client.stopService()
        assert isinstance(error(connected), ClientStopped)
        assert isinstance(error(client.send("x")), ClientStopped)
        network.pass_time(5)
        assert result(first) is None
        assert result(second) is None
        network.pass_time(60)
        assert websockets(network) == 1

    def test_as_soon_as_it_is_disconnected(self, network: RelayNetwork) -> None:
        client = network.started("alice")
        stopped: list[Deferred[None]] = []

        def restart(problem: object) -> None:
            stopped.append(client.stopService())
            stopped.append(client.stopService())
            client.startService()

        client.on_disconnected(restart)
        network.cut(client)
        assert [result(each) for each in stopped] == [None, None]
        assert client.connected
        network.pass_time(60)
        assert websockets(network) == 2

    def test_its_http_connections_are_those_of_the_new_start(self, network: RelayNetwork) -> None:
        client = network.started("alice")
        client.stopService()
        client.startService()
        network.settle()
        assert client.connected
        (kept,) = (
            each for each in network.transports if not each.reason and b"/clients" in each.sent
        )
        assert kept is network.last


def websockets(network: RelayNetwork) -> int:
    """How many WebSockets were asked for."""
    return sum(b"/connect?" in each.sent for each in network.transports)


class TestConnectingAgain:
    def test_it_tells_each_time(self, network: RelayNetwork) -> None:
        client = network.client()
        events: list[object] = []
        client.on_connected(lambda: events.append("connected"))
        client.on_disconnected(lambda problem: events.append(type(problem)))
        network.start(client)
        network.cut(client)
        network.pass_time(1)
        assert events == ["connected", ConnectionLost, "connected"]

    def test_what_is_sent_when_connected_goes_first(self, network: RelayNetwork) -> None:
        heard = hearing(network.started("bobby"))
        alice = network.client("alice")
        for each in ("3", "4"):
            alice.send(each)

        def greet() -> None:
            for each in ("1", "2" * 200):
                alice.send(each)

        alice.on_connected(greet)
        network.start(alice)
        assert heard == ["1", "2" * 200, "3", "4"]

    def test_it_can_be_stopped_as_soon_as_it_is_connected(self, network: RelayNetwork) -> None:
        alice = network.client("alice")
        waits = alice.send("x")
        alice.on_connected(alice.stopService)
        network.start(alice)
        assert isinstance(error(waits), ClientStopped)
        assert network.relay.server.get_clients(DATABASE) == ()

    def test_it_can_be_stopped_as_soon_as_it_is_disconnected(self, network: RelayNetwork) -> None:
        alice = network.started("alice")
        alice.on_disconnected(lambda problem: alice.stopService())
        network.cut(alice)
        network.pass_time(60)
        assert network.relay.server.get_clients(DATABASE) == ()

    def test_it_waits_longer_each_time(self, network: RelayNetwork) -> None:
        network.refuses = True
        tried: list[float] = []
        connect = network.connect

        def count(factory: Any) -> Deferred[Any]:
            tried.append(network.relay.now)
            return connect(factory)

        network.connect = count  # type: ignore[method-assign]
        client = network.started()
        network.pass_time(7)
        assert tried == [0, 1, 3, 6]
        assert isinstance(client.problem, ConnectionFailed)
        network.refuses = False
        network.pass_time(3)
        assert client.connected
        network.pass_time(10)
        network.cut(client)
        assert isinstance(client.problem, ConnectionLost)
        network.pass_time(1)
        assert client.connected

    def test_a_connection_that_does_not_last_counts_as_a_failure(
        self, network: RelayNetwork
    ) -> None:
        client = network.started()
        for failures in (1, 2, 3):
            network.cut(client)
            network.pass_time(failures - 0.5)
            assert not client.connected
            network.pass_time(0.5)
            assert client.connected

    def test_delays_are_random_and_bounded(self) -> None:
        for failures, longest in ((1, 1), (2, 2), (3, 4), (6, 30), (1000, 30)):
            delays = [retry_delay(failures) for _ in range(100)]
            assert longest / 2 <= min(delays) < max(delays) <= longest
            assert len(set(delays)) > 90

    def test_when_connected_can_fail_after_so_many_failures(self, network: RelayNetwork) -> None:
        network.refuses = True
        client = network.client()
        once, twice = client.when_connected(1), client.when_connected(fail_after_failures=2)
        patient, not_at_all = client.when_connected(), client.when_connected()
        not_at_all.cancel()
        assert isinstance(error(not_at_all), CancelledError)
        network.start(client)
        assert isinstance(error(once), ConnectionFailed)
        assert pending(twice)
        network.pass_time(1)
        assert isinstance(error(twice), ConnectionFailed)
        network.refuses = False
        network.pass_time(2)
        assert result(patient) is None


def types(outcomes: list[object]) -> list[object]:
    """The types of errors, and results as they are."""
    return [getattr(each, "type", each) for each in outcomes]


class TestOneWaiterCancelsAnother:
    def waiters(self, wait: Callable[[], Deferred[None]]) -> list[object]:
        """What three waiters end with, of whom the first cancels the second."""
        outcomes: list[object] = []
        first, second, third = wait(), wait(), wait()

        def cancel(outcome: object) -> None:
            outcomes.append(outcome)
            second.cancel()

        first.addBoth(cancel)
        second.addBoth(outcomes.append)
        third.addBoth(outcomes.append)
        return outcomes

    def test_when_it_is_connected(self, network: RelayNetwork) -> None:
        client = network.client()
        outcomes = self.waiters(client.when_connected)
        heard = hearing(client)
        network.start(client)
        network.started().send("hello")
        network.settle()
        assert heard == ["hello"]
        assert types(outcomes) == [None, CancelledError, None]

    def test_when_a_connection_fails(self, network: RelayNetwork) -> None:
        network.refuses = True
        client = network.client()
        outcomes = self.waiters(lambda: client.when_connected(fail_after_failures=1))
        network.start(client)
        network.refuses = False
        network.pass_time(1)
        assert client.connected
        assert types(outcomes) == [ConnectionFailed, CancelledError, ConnectionFailed]

    def test_when_it_is_stopped(self, network: RelayNetwork) -> None:
        client = network.client()
        connected, ended = self.waiters(client.when_connected), self.waiters(client.when_ended)
        assert result(client.stopService()) is None
        assert types(connected) == [ClientStopped, CancelledError, ClientStopped]
        assert len(ended) == 3


def change_version(client: IPCClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "VERSION", "2.0.0")


def change_id(client: IPCClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.id = "four"


def change_database(client: IPCClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.dbname = "\n"


class TestRefusals:
    """Each by the real relay."""

    @pytest.mark.parametrize(
        ("options", "change", "kind"),
        [
            ({"token": "wrong"}, None, TokenRejected),
            ({}, None, TokenRejected),
            ({"token": "s3cret"}, change_version, VersionRejected),
            ({"token": "s3cret"}, change_id, IdRejected),
            ({"token": "s3cret"}, change_database, RequestRejected),
            ({"token": "s3cret", "url": URL + "/nowhere"}, None, NotARelay),
        ],
    )
    def test_a_final_refusal_ends_the_client(
        self,
        monkeypatch: pytest.MonkeyPatch,
        options: dict[str, Any],
        change: Callable[[IPCClient, pytest.MonkeyPatch], None] | None,
        kind: type[Exception],
    ) -> None:
        network = RelayNetwork(token="s3cret")
        client = network.client(**options)
        if change is not None:
            change(client, monkeypatch)
        connected, sent, iterated, ended, unwanted = (
            client.when_connected(),
            client.send("x"),
            client.messages().__anext__(),
            client.when_ended(),
            client.when_ended(),
        )
        unwanted.cancel()
        assert isinstance(error(unwanted), CancelledError)
        network.start(client)
        for each in (connected, sent, iterated, ended):
            assert type(error(each)) is kind
        assert client.failed
        assert type(client.problem) is kind
        network.pass_time(120)
        assert len(network.transports) == 1
        for later in (
            client.when_connected(),
            client.send("y"),
            client.messages().__anext__(),
            client.when_ended(),
        ):
            assert type(error(later)) is kind
        assert result(client.stopService()) is None
        assert not client.failed

    def test_a_client_that_was_refused_may_be_started_again(self) -> None:
        network = RelayNetwork(token="s3cret")
        client = network.started("alice", token="wrong")
        assert client.failed
        client._headers = {"Authorization": "Bearer s3cret"}
        network.start(client)
        assert client.connected
        assert not client.failed
        stopped = client.stopService()
        network.settle()
        assert result(stopped) is None

    def test_a_client_that_is_started_again_at_once_can_be_stopped(self) -> None:
        network = RelayNetwork(token="s3cret")
        client = network.client("alice", token="wrong")

        def start_again(reason: Failure) -> None:
            client._headers = {"Authorization": "Bearer s3cret"}
            client.startService()

        client.when_ended().addErrback(start_again)
        network.start(client)
        network.pass_time(5)
        assert client.connected
        stopped = client.stopService()
        network.settle()
        assert result(stopped) is None
        network.pass_time(60)
        assert network.relay.server.get_clients(DATABASE) == ()

    def test_a_token_opens_every_way_and_is_nowhere_to_be_seen(self) -> None:
        network = RelayNetwork(token="s3cret", max_payload=100)
        with capturedLogs() as events:
            alice = network.started("alice", token="s3cret")
            heard = hearing(alice)
            bobby = network.started("bobby", token="s3cret")
            bobby.send("x" * 200)
            network.settle()
            assert heard == ["x" * 200]
            assert bobby.peers == {"alice"}
            wrong = network.started("carol", token="s3cret!")
            assert isinstance(wrong.problem, TokenRejected)
            network.cut(alice)
        lines = [eventAsText(each) for each in (*events, *network.relay.log)]
        assert [line for line in lines if "gives up" in line]
        for client in (alice, bobby, wrong):
            lines += [repr(client), str(client.problem), repr(client._link.connection)]
        assert not [line for line in lines if "s3cret" in line]

    def test_a_relay_that_is_full_is_tried_again(self) -> None:
        network = RelayNetwork(max_database_connections=1)
        alice = network.started("alice")
        bobby = network.started("bobby")
        assert isinstance(bobby.problem, RelayBusy)
        assert not bobby.failed
        alice.stopService()
        network.settle()
        network.pass_time(30)
        assert bobby.connected

    def test_a_relay_that_shuts_down_is_tried_again(self, network: RelayNetwork) -> None:
        client = network.started()
        network.relay.stop()
        network.settle()
        assert isinstance(client.problem, RelayShutDown)
        assert not client.failed

    def test_a_client_that_is_replaced_does_not_connect_again(self, network: RelayNetwork) -> None:
        first = network.started("alice")
        told: list[object] = []
        first.on_disconnected(told.append)
        second = network.started("alice")
        network.pass_time(60)
        assert second.connected
        assert isinstance(first.problem, Replaced)
        assert first.failed
        assert told == [first.problem]
        assert isinstance(error(first.send("x")), Replaced)

    def test_a_client_whose_id_is_in_conflict_waits(self) -> None:
        network = RelayNetwork(expect_errors=True)
        first = network.started("alice", dialect=Dialect.ACEBASE)
        second = network.started("alice", dialect=Dialect.ACEBASE)
        assert first.failed
        third = network.started("alice", dialect=Dialect.ACEBASE)
        network.pass_time(1)
        assert isinstance(third.problem, IdInUse)
        assert not third.failed
        second.stopService()
        network.pass_time(10)
        assert third.connected
