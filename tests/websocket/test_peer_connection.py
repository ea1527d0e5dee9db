"""A peer's connection and the relay: admission, loss, checks, and failures of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.events import NullObserver
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.peers import SessionState
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.router import Router
from acebase_ipc.relay.sessions import Sessions
from acebase_ipc.rotation import Rotation
from acebase_ipc.testing import (
    AceBaseMemoryPeer,
    MemoryRelay,
    Opcode,
    client_frame,
    close_frame,
    server_frames,
    upgrade_request,
)
from acebase_ipc.websocket.connection import CHECK, PeerConnection, Surroundings
from acebase_ipc.websocket.connections import PeerConnections
from acebase_ipc.websocket.fastpath import WebSocketConnection
from tests.relay.core import MASTER
from tests.relay.locks import worker_id
from tests.wire import ANSWER, MemoryTransport, lose

DATABASE = "shop_data"


class Network:
    """A relay with its connections in memory."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.relay = Relay(self.clock.seconds, Limits())
        self.connections = PeerConnections(
            self.relay,
            Limits(),
            NullObserver(),
            Rotation(self.clock, self.relay.work),
            self.clock,
            self.clock.seconds,
            lambda: 0,
        )
        self._surroundings = Surroundings(
            self.relay, NullObserver(), self.clock, self.clock.seconds, lambda: 0, 35
        )

    def connect(
        self, client_id: str, dialect: Dialect = Dialect.DOCUMENTED, room: float = float("inf")
    ) -> Any:
        """A client that has connected, whose transport takes *room* bytes of messages."""
        handshake = Handshake(DATABASE, client_id, dialect, True)
        listener = PeerConnection(self._surroundings, handshake, ())
        protocol: Any = WebSocketConnection(self.connections.factory, listener)
        transport = MemoryTransport()
        transport.room = len(ANSWER) + room
        protocol.open(transport, ANSWER, b"")
        self.clock.advance(0)
        return protocol

    @property
    def ids(self) -> list[str]:
        """The peers, connected or suspended."""
        return [each.client_id for each in self.relay.registry.peers()]


@pytest.fixture
def network() -> Network:
    return Network()


def heard(connection: Any) -> list[str]:
    """The text messages that the client was sent."""
    _, _, frames = connection.transport.written.partition(b"\r\n\r\n")
    return [text.decode() for opcode, text in server_frames(frames) if opcode == Opcode.TEXT]


def test_nothing_is_sent_before_the_connection_knows_its_peer(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[bool] = []
    welcome = Sessions.welcome

    def look(sessions: Sessions, admitted: Any) -> None:
        connection = admitted.peer.connection
        known.append(connection.listener.peer is admitted.peer and not connection._batch)
        welcome(sessions, admitted)

    monkeypatch.setattr(Sessions, "welcome", look)
    network.connect("alice")
    assert known == [True]


def test_a_connection_that_is_full_after_its_welcome_keeps_what_follows(network: Network) -> None:
    alice = network.connect("alice", room=0)
    bobby = network.connect("bobby")
    assert alice.is_full
    bobby.dataReceived(client_frame(b"to:alice;hello"))
    network.clock.advance(0)
    assert len(alice.listener.peer.queue) == 2
    alice.transport.drain()
    network.clock.advance(0)
    assert heard(alice)[1:] == ["connect:bobby", "msg:hello"]


def test_the_close_of_the_other_end_ends_the_membership_at_once(network: Network) -> None:
    alice, bobby = network.connect("alice"), network.connect("bobby")
    alice.dataReceived(close_frame(1000))
    assert network.ids == ["bobby"]
    network.clock.advance(0)
    assert "disconnect:alice" in heard(bobby)


def test_the_loss_is_told_before_checks_are_answered(network: Network) -> None:
    alice = network.connect("alice", Dialect.ACEBASE)
    peer = alice.listener.peer
    states: list[object] = []
    alice.check(2, lambda alive: states.append((alive, peer.state)))
    lose(alice)
    assert states == [(False, SessionState.SUSPENDED)]
    assert network.clock.getDelayedCalls() == []


def test_a_check_that_fails_does_not_prevent_the_others(network: Network) -> None:
    alice = network.connect("alice")
    answers: list[bool] = []

    def fail(alive: bool) -> None:
        raise LookupError("a mistake")

    alice.check(2, fail)
    alice.check(2, answers.append)
    with capturedLogs():
        alice.dataReceived(client_frame(CHECK, Opcode.PONG))
    assert answers == [True]
    assert alice.state == alice.STATE_OPEN


def fail(*_: object, **__: object) -> Any:
    raise LookupError("a mistake")


CALLS: dict[str, tuple[type, str, Callable[[Any], object]]] = {
    "a message": (Router, "receive", lambda alice: alice.dataReceived(client_frame(b"hello"))),
    "a binary message": (
        Router,
        "ignore_binary",
        lambda alice: alice.dataReceived(client_frame(b"x", Opcode.BINARY)),
    ),
    "room": (Delivery, "drain", lambda alice: alice.resumeProducing()),
    "its close": (Sessions, "lost", lambda alice: alice.dataReceived(close_frame(1000))),
    "our close": (Sessions, "lost", lambda alice: alice.close(1001, "")),
    "its end": (Sessions, "lost", lose),
    "a refusal": (
        NullObserver,
        "report",
        lambda alice: alice.dataReceived(client_frame(b"to:")),
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dialect", Dialect)
def test_a_failure_of_any_call_ends_one_membership_and_nothing_else(
    network: Network, monkeypatch: pytest.MonkeyPatch, call: str, dialect: Dialect
) -> None:
    kind, method, provoke = CALLS[call]
    alice, bobby = network.connect("alice", dialect), network.connect("bobby")
    with monkeypatch.context() as patch, capturedLogs() as events:
        patch.setattr(kind, method, fail)
        if method == "receive":
            alice.receive = fail  # it is bound already
        provoke(alice)
    assert events
    if alice.state != alice.STATE_CLOSED:
        network.clock.advance(2)
        assert alice.transport.aborted
    lose(alice)
    network.relay.expire(network.clock.seconds() + 100)
    assert network.ids == ["bobby"]
    assert network.connections.factory.connections == {bobby}
    bobby.dataReceived(client_frame(b"to:bobby;still here"))
    network.clock.advance(0)
    assert heard(bobby)[-1] == "msg:still here"


@pytest.mark.parametrize("method", ["admit", "welcome"])
def test_a_failure_of_an_admission_leaves_no_peer(
    network: Network, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with monkeypatch.context() as patch, capturedLogs() as events:
        patch.setattr(Sessions, method, fail)
        alice = network.connect("alice")
    assert events
    assert network.ids == []
    assert alice.localCloseCode == 1011


# The end of a worker's process

CLOSED, LOST = 5, 15
"""Seconds for which the session of an acebase peer lasts whose process has ended, and of others."""


def join_acebase(
    relay: MemoryRelay, client_id: str = worker_id(1), *, before: bytes = b"", **headers: str
) -> AceBaseMemoryPeer:
    """An acebase peer whose connection begins with *before*, its request with these headers."""
    connection = relay.connect()
    target = AceBaseMemoryPeer.target(client_id, DATABASE, "none")
    connection.send(before + upgrade_request(target, **headers))
    peer = AceBaseMemoryPeer(client_id, connection)
    peer.welcome()
    return peer


def seconds_until_left(relay: MemoryRelay, observer: AceBaseMemoryPeer) -> int:
    """The whole seconds until *observer* is told that a peer has left."""
    observer.received()
    begin = relay.now
    while not any(each.startswith("disconnect:") for each in observer.received()):
        assert relay.now < begin + 2 * LOST
        relay.pass_time(1)
    return round(relay.now - begin)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_session_of_a_process_that_has_ended_is_short(end: str, tls: bool) -> None:
    relay = MemoryRelay(tls=tls)
    observer, worker = join_acebase(relay, worker_id(2)), join_acebase(relay)
    getattr(worker.connection, end)()  # with TLS, "close" sends a close_notify, "reset" none
    assert seconds_until_left(relay, observer) == CLOSED


HEADERS = [
    {"x_forwarded_for": "192.0.2.1"},
    {"X-FORWARDED-PROTO": "http"},
    {"x_forwarded_host": "ipc.example.org"},
    {"forwarded": "for=192.0.2.1"},
    {"via": "1.1 proxy"},
]


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: next(iter(headers)))
def test_the_session_of_a_client_behind_a_web_proxy_is_not_short(
    end: str, headers: dict[str, Any]
) -> None:
    relay = MemoryRelay()
    observer, worker = join_acebase(relay, worker_id(2)), join_acebase(relay, **headers)
    getattr(worker.connection, end)()
    assert seconds_until_left(relay, observer) == LOST


def test_the_session_of_a_client_behind_a_proxy_header_is_not_short() -> None:
    relay = MemoryRelay(
        endpoints=("haproxy:tcp:9163:interface=127.0.0.1",), trust_proxy=("127.0.0.1",)
    )
    header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n"
    observer, worker = (join_acebase(relay, worker_id(each), before=header) for each in (2, 1))
    worker.connection.close()
    assert seconds_until_left(relay, observer) == LOST


def test_the_session_of_a_master_is_not_short() -> None:
    relay = MemoryRelay()
    observer, master = join_acebase(relay, worker_id(2)), join_acebase(relay, MASTER)
    master.connection.close()
    assert seconds_until_left(relay, observer) == LOST


@pytest.mark.parametrize("is_aborted", [False, True])
def test_the_session_is_not_short_if_the_relay_has_aborted_the_connection(
    network: Network, is_aborted: bool
) -> None:
    worker = network.connect("worker", Dialect.ACEBASE)
    if is_aborted:
        worker.abort()  # as the keepalive does
    lose(worker)
    network.relay.expire(network.clock.seconds() + CLOSED)
    assert network.ids == (["worker"] if is_aborted else [])


@pytest.mark.parametrize(("silence", "lasts"), [(30, CLOSED), (34, LOST)])
def test_the_session_is_not_short_if_the_system_gave_up_a_silent_connection(
    silence: int, lasts: int
) -> None:
    relay = MemoryRelay()
    observer, worker = join_acebase(relay, worker_id(2)), join_acebase(relay)
    worker.answers = False
    relay.pass_time(silence)
    assert worker.connection.ended is None
    worker.connection.reset()  # as it is after TCP_USER_TIMEOUT
    assert seconds_until_left(relay, observer) == lasts
