"""The server as a whole: listening, stopping, being asked, and being mounted elsewhere."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import capturedLogs, eventAsText
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig, Client, ConfigError, Dialect
from acebase_ipc.relay.events import ConnectionClosed, RelayEvent
from acebase_ipc.relay.lock_table import HeldLock, LockTable, OpenRequest
from acebase_ipc.server.logging import LINES_PER_PERIOD, PERIOD
from acebase_ipc.server.service import State
from acebase_ipc.testing import (
    DATABASE,
    START,
    Frame,
    MemoryPeer,
    MemoryPort,
    MemoryReactor,
    MemoryRelay,
    Opcode,
    http_head,
    upgrade_request,
)
from tests.relay.core import MASTER
from tests.relay.locks import body_of, grant, lock, new_id, worker_id

SEND = f"/{DATABASE}/send?id=alice"


# Listening


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    relay = MemoryRelay()
    ((port, _, _, interface),) = relay.reactor.tcpServers
    assert (port, interface) == (9163, "127.0.0.1")


def test_it_listens_where_it_is_told_to() -> None:
    relay = MemoryRelay(host="192.0.2.7", port=1234)
    ((port, _, _, interface),) = relay.reactor.tcpServers
    assert (port, interface) == (1234, "192.0.2.7")


def test_many_may_connect_at_once() -> None:
    relay = MemoryRelay()
    ((_, _, backlog, _),) = relay.reactor.tcpServers
    assert backlog == 1024


def test_what_a_flood_left_out_of_the_log_is_told_without_another_event() -> None:
    relay = MemoryRelay()
    with capturedLogs() as logged:
        for _ in range(LINES_PER_PERIOD):
            relay.join("worker1").leave()
        relay.pass_time(PERIOD + 1, step=1)
    texts = [eventAsText(each, includeTimestamp=False, includeSystem=False) for each in logged]
    assert not any("were left out" in each for each in texts)
    with capturedLogs() as logged:
        for _ in range(LINES_PER_PERIOD + 2):
            relay.join("worker1").leave()
        relay.pass_time(PERIOD + 1, step=1)
    texts = [eventAsText(each, includeTimestamp=False, includeSystem=False) for each in logged]
    assert texts[-2:] == [
        "2 more lines of PeerJoined were left out",
        "2 more lines of PeerLeft were left out",
    ]


class Observing:
    """An observer that keeps the kinds of events, or fails at each."""

    def __init__(self, fails: bool) -> None:
        self.kinds: list[str] = []
        self._fails = fails

    def report(self, event: RelayEvent) -> None:
        self.kinds.append(type(event).__name__)
        if self._fails:
            raise ZeroDivisionError


@pytest.mark.parametrize("fails", [False, True])
def test_an_observer_is_added_to_the_log_and_the_counts(fails: bool) -> None:
    observer = Observing(fails)
    relay = MemoryRelay(observer=observer, expect_errors=fails)
    relay.join("alice").leave()
    assert observer.kinds == ["PeerJoined", "PeerLeft", "ConnectionClosed"]
    assert relay.server.counts == dict.fromkeys(observer.kinds, 1)
    assert relay.logged("alice joined")
    assert relay.logged("alice left")
    assert len(relay.errors) == fails


@pytest.mark.parametrize("level", ["debug", "info"])
def test_the_end_of_a_connection_is_logged_for_debugging(level: str) -> None:
    reactor = MemoryReactor()
    relay = MemoryRelay(reactor=reactor, port=None)
    server = AceBaseIPCServer(reactor=reactor, clock=reactor.seconds, log_level=level)
    server.start()
    relay.port = reactor.ports[-1]
    relay.join("alice").leave()
    end = " has ended after 0 s: 1000, no reason given (clean: True)"
    ends = relay.logged("the connection of alice from 127.0.0.1:", end)
    assert len(ends) == (level == "debug")
    server.stop()
    relay.pass_time(6)


def test_it_listens_on_every_endpoint_and_serves_one_relay() -> None:
    relay = MemoryRelay(endpoints=("tcp:1000:interface=127.0.0.1", "tcp:2000:interface=\\:\\:1"))
    assert [(port, at) for port, _, _, at in relay.reactor.tcpServers] == [
        (1000, "127.0.0.1"),
        (2000, "::1"),
    ]
    alice = relay.join("alice")
    relay.port = relay.reactor.ports[1]
    bobby = relay.join("bobby")
    assert alice.received() == ["connect:bobby"]
    alice.say("hello")
    assert bobby.received() == ["msg:hello"]


def test_without_a_port_it_listens_nowhere() -> None:
    assert MemoryRelay(port=None).reactor.ports == []


def test_a_taken_port_fails_the_start() -> None:
    relay = MemoryRelay(expect_errors=True, reactor=MemoryReactor(taken=[9163]))
    failures: list[Failure] = []
    relay.starting.addErrback(failures.append)
    (failure,) = failures
    assert failure.check(CannotListenError)


@pytest.mark.parametrize(
    "endpoint", ["nonsense:1", "tcp:port", "tcp", "ssl:1:privateKey=/does/not/exist.pem", ""]
)
def test_an_endpoint_that_cannot_be_used_is_a_config_error(endpoint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        AceBaseIPCServer(AceBaseIPCServerConfig(endpoints=(endpoint,)), MemoryReactor())
    assert repr(endpoint) in str(raised.value)


def test_a_passphrase_is_in_no_error() -> None:
    endpoint = "pfx:1:path=/does/not/exist.pfx:passphrase=open\\:sesame"
    with pytest.raises(ConfigError) as raised:
        AceBaseIPCServer(AceBaseIPCServerConfig(endpoints=(endpoint,)), MemoryReactor())
    assert "exist.pfx" in str(raised.value)
    assert "sesame" not in str(raised.value)


# What it logs


def test_it_logs_where_it_listens_and_how() -> None:
    relay = MemoryRelay(max_payload=1234, token="a-secret-token", port=1000)
    assert relay.logged("127.0.0.1:1000")
    assert relay.logged("token", "not required") == []
    assert relay.logged("token", "required", "1234", "configured")
    assert relay.logged("a-secret-token") == []


def test_it_logs_that_there_is_no_token_and_the_default_of_max_payload() -> None:
    assert MemoryRelay().logged("not required", "16384", "default")


@pytest.mark.parametrize(
    ("host", "token", "warnings"),
    [
        ("127.0.0.1", None, []),
        ("::1", None, []),
        ("", None, ["without TLS", "without a token"]),
        ("192.0.2.7", None, ["without TLS", "without a token"]),
        ("::", "secret", ["without TLS"]),
    ],
)
def test_it_warns_of_ports_that_are_open_to_the_network(
    host: str, token: str | None, warnings: list[str]
) -> None:
    relay = MemoryRelay(host=host, token=token)
    warned = [eventAsText(each) for each in relay.log if each["log_level"].name == "warn"]
    assert len(warned) == len(warnings)
    assert all(any(each in line for line in warned) for each in warnings)


# Stopping


@pytest.mark.parametrize(("max_session_queue", "warned"), [(1000, False), (1001, True)])
def test_it_warns_if_more_is_held_than_may_be_unread(max_session_queue: int, warned: bool) -> None:
    relay = MemoryRelay(max_backlog=1000, max_session_queue=max_session_queue)
    assert bool(relay.logged("max_session_queue exceeds max_backlog")) == warned


def test_stopping_says_goodbye_to_every_peer() -> None:
    relay = MemoryRelay()
    peers = [*relay.join_all("alice", "bobby"), *relay.join_all("alice", database="other_data")]
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    assert len(stopped) == 1
    assert not isinstance(stopped[0], Failure)
    assert not any(each.listening for each in relay.reactor.ports)
    for each in peers:
        assert each.close_code == 1001
        assert each.close_reason
        assert each.connection.ended is not None


def test_stopping_delivers_what_was_sent_before() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    bobby.connection.stop_reading()
    messages = [f"{number} {'x' * 10_000}" for number in range(100)]
    alice.say(*messages)
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    assert stopped == []
    relay.pass_time(0.5)
    bobby.connection.resume_reading()
    *before, close = bobby.frames()
    bodies = [each for each in before if each.payload.startswith(b"msg:")]
    assert bodies == [Frame.from_text(f"msg:{each}") for each in messages]
    assert (close.opcode, close.close_code) == (Opcode.CLOSE, 1001)
    assert len(stopped) == 1


@pytest.mark.parametrize("reads", [True, False])
def test_stopping_ends_in_time_with_a_peer_that_never_answers(reads: bool) -> None:
    relay = MemoryRelay()
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    carol.answers = False
    if not reads:
        carol.connection.stop_reading()
        alice.say(*["x" * 10_000] * 50)
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    assert (alice.close_code, bobby.close_code) == (1001, 1001)
    assert alice.connection.ended is not None
    assert stopped == []
    relay.pass_time(5)
    assert carol.connection.ended is not None
    assert len(stopped) == 1
    assert not isinstance(stopped[0], Failure)


def test_stopping_ends_in_time_with_a_peer_that_closes_and_does_not_read() -> None:
    relay = MemoryRelay()
    peer, other = relay.join_all("worker1", "worker2")
    peer.connection.stop_reading()
    for _ in range(20):
        other.say(f"to:worker1;{'x' * 16000}")
    peer.leave()
    assert peer.connection.ended is None
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    relay.pass_time(5)
    assert peer.connection.ended is not None
    assert len(stopped) == 1


def test_a_mistake_each_second_does_not_end_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = MemoryRelay(expect_errors=True, keepalive_interval=5, keepalive_timeout=2)
    peer = relay.join("worker1")
    peer.answers = False
    core = relay.server._parts.relay

    def fail(now: float) -> None:
        raise LookupError("a mistake")

    monkeypatch.setattr(core, "expire", fail)
    with capturedLogs() as logged:
        relay.pass_time(8, step=1)
    assert peer.connection.ended
    assert any("a task of each second failed" in str(each.get("log_format")) for each in logged)


def test_stopping_without_peers_is_done_at_once() -> None:
    relay = MemoryRelay()
    idle = relay.connect()
    assert idle.ended is None
    assert relay.stop().called


def test_what_a_peer_says_after_the_goodbye_is_not_relayed() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    alice.answers = bobby.answers = False
    relay.stop()
    alice.say("too late")
    relay.pass_time(5)
    assert "msg:too late" not in bobby.received()


def test_after_stopping_nothing_is_left_to_do() -> None:
    relay = MemoryRelay()
    alice, _ = relay.join_all("alice", "bobby")
    relay.post(SEND, "x" * 20_000)
    alice.say("hello")
    relay.stop()
    relay.pass_time(60)
    assert relay.reactor.getDelayedCalls() == []
    assert relay.server.get_clients(DATABASE) == ()


# Being asked


def test_get_clients_returns_frozen_values() -> None:
    relay = MemoryRelay()
    relay.join_all("alice")
    relay.pass_time(2.5)
    relay.join_all("bobby")
    clients = relay.server.get_clients(DATABASE)
    assert all(type(each) is Client for each in clients)
    assert [(each.id, each.dbname, each.connected) for each in clients] == [
        ("alice", DATABASE, START * 1000),
        ("bobby", DATABASE, START * 1000 + 2500),
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        clients[0].id = "mallory"  # type: ignore[misc]
    assert relay.server.get_clients("other_data") == ()


def test_a_peer_that_left_is_no_client() -> None:
    relay = MemoryRelay()
    alice, _ = relay.join_all("alice", "bobby")
    alice.leave()
    assert [each.id for each in relay.server.get_clients(DATABASE)] == ["bobby"]


def test_locks_returns_what_is_held_and_what_is_open() -> None:
    relay = MemoryRelay()
    master, worker = relay.join_acebase(MASTER), relay.join_acebase(worker_id(1))
    held, waiting = (lock(worker.id, new_id(), tid) for tid in ("t1", "t2"))
    worker.say(held)
    master.say(grant(body_of(held), 7))
    relay.pass_time(2)
    worker.say(waiting)
    relay.pass_time(3)
    details: dict[str, Any] = {"path": "a/b", "write": True, "comment": "transactNode"}
    request_id = json.loads(body_of(waiting))["id"]
    assert relay.server.locks(DATABASE) == LockTable(
        (
            HeldLock(
                holder=worker.id,
                id=7,
                tid="t1",
                age=5,
                granted_by="master",
                is_kept=False,
                **details,
            ),
        ),
        (
            OpenRequest(
                worker=worker.id, id=request_id, kind="lock-request", tid="t2", age=3, **details
            ),
        ),
    )
    assert relay.server.locks("other_data") == LockTable()


# Options that all peers feel


def test_max_payload_is_told_to_every_peer() -> None:
    wire = MemoryRelay(max_payload=4321).upgrade(f"/{DATABASE}/connect?id=alice&v=1")
    assert MemoryPeer("alice", wire).received() == ['welcome:{"maxPayload":4321}']


@pytest.mark.parametrize(
    ("dialect", "asked", "heard"),
    [
        (Dialect.ACEBASE, "", '{"a":1}'),
        (Dialect.ACEBASE, "&dialect=documented", '{"a":1}'),
        (Dialect.DOCUMENTED, "&dialect=acebase", 'msg:{"a":1}'),
        (None, "&dialect=acebase", '{"a":1}'),
        (None, "&dialect=documented", 'msg:{"a":1}'),
    ],
)
def test_the_servers_dialect_outdoes_what_a_peer_asks_for(
    dialect: Dialect | None, asked: str, heard: str
) -> None:
    relay = MemoryRelay(dialect=dialect, introductions=False, session_timeout=0)
    alice, bobby = relay.join_all("alice", "bobby", query=asked)
    alice.say('{"a":1}')
    assert bobby.received() == [heard]


def test_an_unknown_dialect_is_refused() -> None:
    response = MemoryRelay().upgrade(f"/{DATABASE}/connect?id=alice&v=1&dialect=klingon").response()
    assert response.status == 400
    assert "dialect" in response.text


# Mounted in a foreign Site


class Page(Resource):
    """A page of the foreign Site."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        return b"a page"


def mounted(path: str = "ipc", **config: Any) -> MemoryRelay:
    """A relay that is a part of a foreign Site."""
    relay = MemoryRelay(port=None, **config)
    root = Resource()
    root.putChild(b"page", Page())
    parent = root
    *above, last = path.split("/")
    for each in above:
        child = Resource()
        parent.putChild(each.encode(), child)
        parent = child
    resource: Any = relay.server.resource()
    parent.putChild(last.encode(), resource)
    site = Site(root, reactor=relay.reactor)
    site.log = lambda request: None  # type: ignore[method-assign]
    relay.port = relay.reactor.listenTCP(8080, site)
    return relay


@pytest.mark.parametrize("path", ["ipc", "a/b"])
def test_the_relay_can_be_mounted_below_any_path(path: str) -> None:
    relay = mounted(path, max_payload=100)
    alice, bobby = relay.join_all("alice", "bobby", database=f"{path}/{DATABASE}")
    assert [each.id for each in relay.server.get_clients(DATABASE)] == ["alice", "bobby"]
    alice.say("hello")
    assert bobby.received() == ["msg:hello"]
    assert relay.post(f"/{path}{SEND}", "漢" * 1000).text == "ok"
    message_id = bobby.received()[0].removeprefix("get:")
    target = f"/{path}/{DATABASE}/receive?id=bobby&msg={message_id}"
    assert relay.get(target).text == "漢" * 1000
    relay.pass_time(11)
    assert relay.get(target).status == 404
    clients = json.loads(relay.get(f"/{path}/{DATABASE}/clients").text)
    assert [each["id"] for each in clients] == ["alice", "bobby"]
    assert relay.post(f"/{path}/send?id=alice", "ping").text == "ok"
    assert alice.received() == ["pong"]
    bobby.leave()
    assert alice.received() == ["disconnect:bobby"]


def test_the_rest_of_a_foreign_site_stays_its_own() -> None:
    relay = mounted()
    assert relay.get("/page", origin="https://evil.example").text == "a page"


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("GET", "/ipc", {}, 404),
        ("GET", "/ipc/", {}, 404),
        ("GET", "/ipc/nothing", {}, 404),
        ("GET", f"/ipc/{DATABASE}/connect?id=alice&v=1", {}, 426),
        ("GET", f"/ipc{SEND}", {}, 405),
        ("GET", f"/ipc/{DATABASE}/clients?t=wrong", {}, 401),
        ("POST", f"/ipc{SEND}", {}, 401),
        ("GET", "/ipc/nothing", {"origin": "https://evil.example"}, 403),
    ],
)
def test_a_mounted_relay_refuses_what_any_does(
    method: str, target: str, headers: dict[str, str], status: int
) -> None:
    response = mounted(token="secret").request(method, target, **headers)
    assert response.status == status
    assert response.headers["content-type"].startswith("text/plain")


def test_a_mounted_relay_keeps_its_limits() -> None:
    relay = mounted(max_payload=10, max_message=1000, max_stored=1000)
    _, bobby = relay.join_all("alice", "bobby", database=f"ipc/{DATABASE}")
    assert relay.post(f"/ipc{SEND}", "x" * 1001).status == 413
    assert relay.post(f"/ipc{SEND}", "x" * 900).status == 200
    assert relay.post(f"/ipc{SEND}", "x" * 200).status == 503  # it cannot be paused there
    assert relay.post(f"/ipc{SEND}", "to:").status == 400
    (message,) = bobby.received()
    relay.pass_time(62)  # in which the service keeps the time
    target = f"/ipc/{DATABASE}/receive?id=bobby&msg={message.removeprefix('get:')}"
    assert relay.get(target).status == 404
    assert relay.post(f"/ipc{SEND}", "x" * 200).status == 200


def test_a_mounted_relay_finds_dead_connections_and_says_goodbye() -> None:
    relay = mounted()
    alice, bobby = relay.join_all("alice", "bobby", database=f"ipc/{DATABASE}")
    bobby.answers = False
    relay.pass_time(35)
    assert bobby.connection.ended == "reset"
    assert alice.received() == ["disconnect:bobby"]
    assert relay.stop().called
    assert alice.close_code == 1001


def test_a_body_that_is_cut_off_is_not_relayed_in_a_foreign_site_either() -> None:
    relay = mounted()
    _, bobby = relay.join_all("alice", "bobby", database=f"ipc/{DATABASE}")
    wire = relay.connect()
    wire.send(http_head("POST", f"/ipc{SEND}", content_length="10") + b"hello")
    wire.close()
    assert bobby.received() == []


def test_a_mounted_relay_requires_the_token() -> None:
    relay = mounted(token="secret")
    target = f"/ipc/{DATABASE}/connect?id=alice&v=1"
    assert relay.upgrade(target).response().status == 403
    assert MemoryPeer("alice", relay.upgrade(f"{target}&t=secret")).received()
    assert relay.get(f"/ipc/{DATABASE}/clients").status == 401
    assert relay.get(f"/ipc/{DATABASE}/clients?t=secret").status == 200


# The life of a server


class LateEndpoint:
    """An endpoint that opens its port, or fails, when the test says so."""

    def __init__(self) -> None:
        self.opening: list[tuple[Any, Deferred[Any]]] = []
        self.ports: list[MemoryPort] = []

    def listen(self, factory: Any) -> Deferred[Any]:
        self.opening.append((factory, Deferred()))
        return self.opening[-1][1]

    def succeed(self) -> None:
        factory, opening = self.opening.pop()
        self.ports.append(MemoryPort(MemoryReactor(), 1, factory, "127.0.0.1"))
        opening.callback(self.ports[-1])

    def fail(self) -> None:
        _, opening = self.opening.pop()
        opening.errback(CannotListenError("", 1, OSError("not there")))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LateEndpoint:
    endpoint = LateEndpoint()
    plugin = "acebase_ipc.server.listener.serverFromString"
    monkeypatch.setattr(plugin, lambda reactor, text: endpoint)
    return endpoint


def make_server(**config: Any) -> tuple[AceBaseIPCServer, MemoryReactor]:
    reactor = MemoryReactor()
    server = AceBaseIPCServer(AceBaseIPCServerConfig(**config), reactor, clock=reactor.seconds)
    return server, reactor


def outcome(deferred: Deferred[Any]) -> list[Any]:
    """The result of *deferred*, when there is one; errors are caught."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


TWO_PORTS = ("tcp:1000:interface=127.0.0.1", "tcp:2000:interface=127.0.0.1")


def test_a_failed_start_is_undone() -> None:
    server, reactor = make_server(endpoints=TWO_PORTS)
    reactor.taken = {2000}
    (failure,) = outcome(server.start())
    assert failure.check(CannotListenError)
    assert [each.listening for each in reactor.ports] == [False]
    assert server.state is State.STOPPED
    assert not server.running
    assert reactor.getDelayedCalls() == []
    assert outcome(server.stop()) == [None]


def test_a_failed_start_can_be_repeated() -> None:
    server, reactor = make_server(endpoints=TWO_PORTS)
    reactor.taken = {2000}
    outcome(server.start())
    reactor.taken = set()
    assert outcome(server.start()) == [None]
    assert [each.listening for each in reactor.ports] == [False, True, True]
    assert outcome(server.stop()) == [None]


def test_an_application_that_cannot_listen_leaves_no_port_open() -> None:
    server, reactor = make_server(endpoints=TWO_PORTS)
    reactor.taken = {2000}
    with pytest.raises(CannotListenError):
        server.privilegedStartService()
    assert [each.listening for each in reactor.ports] == [False]
    assert reactor.getDelayedCalls() == []


def test_a_server_that_was_never_started_is_stopped_at_once() -> None:
    server, _ = make_server()
    assert outcome(server.stop()) == [None]
    assert outcome(server.start()) == [None]
    assert outcome(server.stop()) == [None]
    assert outcome(server.stop()) == [None]


def test_start_waits_for_a_port_that_opens_later(late: LateEndpoint) -> None:
    server, _ = make_server()
    started, again = outcome(server.start()), outcome(server.start())
    assert started == again == []
    late.succeed()
    assert started == again == [None]
    assert server.listeners[0].address is not None
    assert server.running
    assert outcome(server.stop()) == [None]
    assert [each.listening for each in late.ports] == [False]


def test_start_fails_with_a_port_that_fails_later(late: LateEndpoint) -> None:
    server, reactor = make_server()
    started = outcome(server.start())
    late.fail()
    assert started[0].check(CannotListenError)
    assert server.state is State.STOPPED
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize("opens", [True, False])
def test_stop_does_not_wait_for_a_port_that_opens_later(late: LateEndpoint, opens: bool) -> None:
    server, _ = make_server()
    started = outcome(server.start())
    assert outcome(server.stop()) == [None]
    assert started[0].check(CancelledError)
    late.succeed() if opens else late.fail()
    assert [each.listening for each in late.ports] == [False] * opens
    assert server.listeners[0].address is None


def test_a_server_that_was_stopped_starts_again() -> None:
    relay = MemoryRelay()
    alice = relay.join("alice")
    relay.stop()
    assert alice.close_code == 1001
    assert outcome(relay.server.start()) == [None]
    assert [each.listening for each in relay.reactor.ports] == [False, True]
    alice, bobby = relay.join_all("alice", "bobby")
    alice.say("hello")
    assert bobby.received() == ["msg:hello"]
    assert relay.stop().called


def test_a_defect_while_it_stops_does_not_keep_it_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay = MemoryRelay(expect_errors=True)
    idle = relay.connect()

    def fail(code: int, reason: str) -> None:
        raise LookupError("a defect")

    monkeypatch.setattr(relay.server._parts.relay, "close", fail)
    assert outcome(relay.stop()) == [None]
    assert idle.ended == "closed"
    assert relay.server.state is State.STOPPED
    assert any("closing failed" in each for each in relay.errors)


def test_start_while_it_stops_is_an_error() -> None:
    relay = MemoryRelay()
    peer = relay.join("alice")
    peer.answers = False
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    assert stopped == []
    (failure,) = outcome(relay.server.start())
    assert failure.check(RuntimeError)
    relay.pass_time(5)
    assert len(stopped) == 1


def test_stopping_closes_idle_http_connections() -> None:
    relay = MemoryRelay()
    silent, used = relay.connect(), relay.connect()
    used.send(http_head("GET", "/healthz"))
    assert used.response().status == 200
    assert relay.stop().called
    assert [silent.ended, used.ended] == ["closed", "closed"]
    assert relay.server.state is State.STOPPED


def test_an_answer_is_completed_before_its_connection_is_closed() -> None:
    relay = MemoryRelay(token="secret", max_payload=100)
    alice, bobby = relay.join_all("alice", "bobby", query="&t=secret")
    assert relay.post(f"{SEND}&t=secret", "x" * 500_000).text == "ok"
    message_id = bobby.received()[0].removeprefix("get:")
    alice.leave()
    wire = relay.connect()
    wire.stop_reading(1000)
    wire.send(http_head("GET", f"/{DATABASE}/receive?id=bobby&msg={message_id}&t=secret"))
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    assert (wire.ended, stopped) == (None, [])
    wire.resume_reading()
    assert wire.response().text == "x" * 500_000
    assert wire.ended == "closed"
    assert len(stopped) == 1


def test_a_client_that_does_not_read_its_answer_does_not_delay_the_end() -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    assert relay.post(SEND, "x" * 500_000).text == "ok"
    message_id = bobby.received()[0].removeprefix("get:")
    wire = relay.connect()
    wire.stop_reading(1000)
    wire.send(http_head("GET", f"/{DATABASE}/receive?id=bobby&msg={message_id}"))
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    relay.pass_time(5)
    assert wire.ended == "reset"
    assert len(stopped) == 1
    assert relay.reactor.getDelayedCalls() == []


@pytest.mark.parametrize("after", [0, 5])
def test_a_foreign_site_is_refused_while_the_server_does_not_run(after: float) -> None:
    relay = mounted()
    alice = relay.join("alice", database=f"ipc/{DATABASE}")
    alice.answers = False
    wire = relay.connect()
    relay.stop()
    relay.pass_time(after)
    for request in (
        http_head("GET", "/ipc/healthz"),
        http_head("POST", f"/ipc{SEND}", content_length="0"),
        upgrade_request(f"/ipc/{DATABASE}/connect?id=bobby&v=1"),
        http_head("GET", "/ipc"),
    ):
        wire = relay.connect()
        wire.send(request)
        assert wire.response().status == 503
    assert relay.get("/page").text == "a page"
    relay.pass_time(5)
    assert relay.server.get_clients(DATABASE) == ()


def test_a_client_whose_conflict_is_decided_after_the_stop_is_refused() -> None:
    relay = MemoryRelay()
    master = f"/{DATABASE}/connect?v=1&id=[master]&t="
    MemoryPeer("[master]", relay.upgrade(master))
    holder = MemoryPeer("[master]", relay.upgrade(master))  # the first one answers its close frame
    holder.answers = False
    newcomer = relay.upgrade(master)
    assert newcomer.take() == b""
    relay.stop()
    relay.pass_time(5)
    assert b"HTTP/1.1 101" not in newcomer.take()
    assert relay.server.get_clients(DATABASE) == ()


# The end of connections


class _Closes:
    """Keeps the reports of connections that have ended."""

    def __init__(self) -> None:
        self.events: list[ConnectionClosed] = []

    def report(self, event: RelayEvent) -> None:
        if isinstance(event, ConnectionClosed):
            self.events.append(event)


def test_the_relays_own_reason_to_close_a_connection_is_reported_as_text() -> None:
    closes = _Closes()
    relay = MemoryRelay(observer=closes)
    (alice,) = relay.join_all("alice")
    alice.answers = False
    relay.stop()
    relay.pass_time(5)
    (event,) = closes.events
    assert (event.code, event.reason) == (1001, "the server is shutting down")
