"""The hand-over of a relay, with a successor that does what a test says."""

from __future__ import annotations

import array
import errno
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cbor2
import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from acebase_ipc.server.handover import predecessor
from acebase_ipc.server.handover import wire as wire_module
from acebase_ipc.server.handover.predecessor import (
    MAX_EVENTS,
    START_TIMEOUT,
    Door,
    HandOver,
)
from acebase_ipc.server.handover.successor import Link, connect
from acebase_ipc.server.handover.wire import (
    FORMAT,
    Ended,
    HandOverError,
    Kind,
    Refused,
    Wire,
    close_all,
)
from acebase_ipc.server.service import State
from acebase_ipc.testing import MemoryRelay
from acebase_ipc.testing.reactor import MemoryReactor

OPEN: list[socket.socket] = []
"""The sockets that a test has opened."""

BUILT = {"format": FORMAT, "pid": 4711, "room": 1000}
READY = {"journal": False}


class Successor:
    """The other end: sends what it is told to, and closes what it receives.

    :ivar kinds: what it has received.
    """

    def __init__(self, relay: MemoryRelay) -> None:
        self.relay = relay
        self.here, there = socket.socketpair()
        OPEN.extend((self.here, there))
        self.wire = Wire(self.here, lambda: 0.0)
        self.pids: list[int] = []
        self.failures: list[str] = []
        self.ready: list[int] = []
        self.hand_over = HandOver(
            relay.server,
            relay.reactor,
            relay.reactor.seconds,
            lambda pid, _: self.ready.append(pid),
        )
        self.outcome: Deferred[int] = self.hand_over.begin(there)
        self.outcome.addCallbacks(
            self.pids.append, lambda failure: self.failures.append(str(failure.value))
        )

    def send(self, kind: Kind, content: Any = None) -> None:
        """Send a message; the relay deals with it later."""
        if self.here.fileno() >= 0:
            with suppress(Ended):
                self.wire.send(kind, content)

    def send_taken(self) -> None:
        """Send all messages up to that the connections have come."""
        self.send(Kind.BUILT, BUILT)
        self.send(Kind.TAKEN)

    def say_all(self) -> None:
        """Send all messages of a hand-over in advance, and let the relay do its part."""
        self.send(Kind.BUILT, BUILT)
        self.send(Kind.TAKEN)
        self.send(Kind.READY, READY)
        self.relay.settle()

    def receive_all(self) -> list[Kind]:
        """Return what has come, up to the end or a refusal."""
        kinds: list[Kind] = []
        self.wire.limit(5.0)
        self.here.setblocking(False)
        while True:
            try:
                received = self.wire.receive(*Kind)
            except Refused:
                return [*kinds, Kind.REFUSED]
            except HandOverError:
                return kinds
            close_all(received.descriptors)
            kinds.append(received.kind)
            if received.kind is Kind.GO:
                return kinds


@pytest.fixture(autouse=True)
def close_sockets() -> Iterator[None]:
    """Close the sockets of each test."""
    yield
    while OPEN:
        OPEN.pop().close()


class Peers:
    """Two peers of a relay that exchange messages."""

    def __init__(self, relay: MemoryRelay) -> None:
        self.one, self.two = relay.join_all("peer1", "peer2")

    def check(self) -> None:
        """Check that the relay serves both, as if nothing had happened."""
        self.one.say("one")
        self.two.say("two")
        assert (self.one.received(), self.two.received()) == (["msg:two"], ["msg:one"])
        assert self.one.connection.ended is self.two.connection.ended is None


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryRelay]:
    """A relay in memory that may log errors; its port has no socket."""
    with MemoryRelay(expect_errors=True) as relay:
        monkeypatch.setattr(relay.server, "listening_sockets", list)
        yield relay


def test_all_is_handed_over(relay: MemoryRelay) -> None:
    peers = Peers(relay)
    successor = Successor(relay)

    successor.say_all()

    assert successor.receive_all() == [
        Kind.SOCKETS,
        Kind.CONNECTIONS,
        Kind.CONNECTION_STATE,
        Kind.STATE,
        Kind.GO,
    ]
    assert successor.pids == successor.ready == [4711]
    assert relay.server.state is State.HANDED_OVER
    # Neither closed nor reset: the successor has the connection.
    assert [each.connection.writes for each in (peers.one, peers.two)]
    assert relay.reactor.getReaders() == [peers.one.connection, peers.two.connection]


def test_the_events_of_the_past_are_told_of_while_the_relay_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with MemoryRelay(admin=("tcp:9164:interface=127.0.0.1",)) as relay:
        for number in range(MAX_EVENTS // 2):
            relay.join(f"peer{number:03}").leave()  # three events
        peers = Peers(relay)
        monkeypatch.setattr(relay.server, "listening_sockets", list)
        successor = Successor(relay)
        successor.send(Kind.BUILT, BUILT)
        for _ in range(2):
            relay.settle()
            peers.check()
            successor.send(Kind.TAKEN)
        successor.send(Kind.TAKEN)
        successor.send(Kind.READY, READY)
        relay.settle()
        told = [Kind.EVENTS, Kind.EVENTS, Kind.CONNECTIONS, Kind.CONNECTION_STATE, Kind.STATE]
        assert successor.receive_all() == [Kind.SOCKETS, *told, Kind.GO]


STEPS: dict[str, Callable[[Successor], object]] = {
    "at once": lambda successor: None,
    "before it is built": lambda successor: successor.relay.pass_time(1),
    "after it is built": lambda successor: successor.send(Kind.BUILT, BUILT),
    "after the connections": lambda successor: successor.send_taken(),
}


@pytest.mark.parametrize("step", STEPS)
def test_the_relay_goes_on_if_the_successor_ends(relay: MemoryRelay, step: str) -> None:
    peers = Peers(relay)
    successor = Successor(relay)
    STEPS[step](successor)
    successor.here.close()

    relay.settle()

    assert len(successor.failures) == 1
    assert "ended" in successor.failures[0]
    assert relay.logged("is not handed over, and goes on", "ended")
    peers.check()
    assert not successor.hand_over.is_under_way


@pytest.mark.parametrize("step", STEPS)
def test_the_reason_of_a_successor_is_logged(relay: MemoryRelay, step: str) -> None:
    peers = Peers(relay)
    successor = Successor(relay)
    STEPS[step](successor)
    successor.send(Kind.REFUSED, "cannot listen on 'tcp:1'")

    relay.settle()

    assert successor.failures == ["cannot listen on 'tcp:1'"]
    assert relay.logged("goes on: cannot listen on 'tcp:1'")
    peers.check()


def test_a_successor_of_another_version_is_refused(relay: MemoryRelay) -> None:
    peers = Peers(relay)
    successor = Successor(relay)
    successor.send(Kind.BUILT, {**BUILT, "format": FORMAT + 1})

    relay.settle()

    assert successor.receive_all() == [Kind.SOCKETS, Kind.REFUSED]
    assert successor.failures == ["the successor is of another version"]
    peers.check()


def test_a_successor_that_can_open_too_few_files_is_refused(relay: MemoryRelay) -> None:
    """It would not be told of the descriptors that it does not get."""
    peers = Peers(relay)
    successor = Successor(relay)
    successor.send(Kind.BUILT, {**BUILT, "room": 1})

    relay.settle()

    assert successor.receive_all() == [Kind.SOCKETS, Kind.REFUSED]
    assert "may open 1 more files, but there are 2 connections" in successor.failures[0]
    peers.check()


def test_a_successor_that_is_not_ready_in_time_is_given_up(
    relay: MemoryRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = Peers(relay)
    successor = Successor(relay)
    successor.hand_over._clock = iter(range(0, 10_000, 2)).__next__  # time passes in each call
    successor.send(Kind.BUILT, BUILT)
    successor.send(Kind.TAKEN)

    relay.settle()

    assert successor.failures == ["the other process has not answered in time"]
    assert successor.receive_all()[-1] is Kind.REFUSED
    peers.check()


def test_a_successor_that_does_not_start_is_given_up(relay: MemoryRelay) -> None:
    peers = Peers(relay)
    successor = Successor(relay)
    relay.pass_time(START_TIMEOUT - 1)
    assert successor.hand_over.is_under_way
    peers.one.received()
    peers.two.received()

    relay.pass_time(2)

    assert successor.failures == ["the successor is not ready after 60 s"]
    assert successor.receive_all() == [Kind.SOCKETS, Kind.REFUSED]
    peers.check()


@pytest.mark.parametrize("is_built", [True, False])
def test_a_successor_is_told_that_the_process_stops(relay: MemoryRelay, is_built: bool) -> None:
    peers = Peers(relay)
    successor = Successor(relay)
    if is_built:
        successor.send(Kind.BUILT, BUILT)
        relay.settle()
    successor.hand_over.give_up("it is about to stop")
    assert successor.receive_all()[-1] is Kind.REFUSED
    assert successor.failures == ["it is about to stop"]
    assert not successor.hand_over.is_under_way
    successor.hand_over.give_up("there is none")
    peers.check()


def test_nonsense_is_refused(relay: MemoryRelay) -> None:
    peers = Peers(relay)
    for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"aiho\x03\0\0\0\0\0\0\0\0\0\1\xff"):
        successor = Successor(relay)
        successor.here.sendall(nonsense)
        relay.settle()
        assert len(successor.failures) == 1
        peers.check()


def test_a_relay_that_stops_is_not_handed_over(relay: MemoryRelay) -> None:
    Peers(relay)
    successor = Successor(relay)
    successor.send(Kind.BUILT, BUILT)
    relay.server.stop()
    relay.settle()
    successor.send(Kind.TAKEN)
    relay.settle()
    assert successor.failures == ["it is about to stop"]


class Broken(Exception):
    """What a test lets fail."""


def fail_at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: Exception
) -> list[int]:
    """Let a *call* of a function fail; returns a list with an element for each call so far."""
    original = getattr(owner, name)
    calls: list[int] = []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == call:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)
    return calls


CALLS = {
    "sending": (Wire, "send", HandOverError("it fails"), 4),
    "receiving": (Wire, "receive", HandOverError("it fails"), 3),
    "the snapshot": (None, "take_snapshot", Broken("it fails"), 1),
    "the connections": (None, "depart", Broken("it fails"), 1),
    "the preparation": (None, "prepare", Broken("it fails"), 1),
    "the sockets": (None, "listening_sockets", HandOverError("it fails"), 1),
}


@pytest.mark.parametrize("what", CALLS)
def test_the_relay_goes_on_after_a_failure_of_any_call(
    relay: MemoryRelay, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    peers = Peers(relay)
    owner, name, error, calls = CALLS[what]
    for call in range(1, calls + 1):
        with monkeypatch.context() as patch:
            made = fail_at(patch, owner or relay.server, name, call, error)
            here, there = socket.socketpair()
            hand_over = HandOver(
                relay.server, relay.reactor, relay.reactor.seconds, lambda pid, _: None
            )
            # The other end is not a Wire, which fails, too.
            sender = Wire(here, lambda: 0.0)
            body = [(Kind.BUILT, BUILT), (Kind.TAKEN, None), (Kind.READY, READY)]
            for kind, content in body:
                send_raw(sender, kind, content)
            outcome = hand_over.begin(there)
            failures: list[Failure] = []
            outcome.addErrback(failures.append)
            relay.settle()
            here.close()
            assert len(made) >= call
        assert len(failures) == 1, call
        peers.check()
        assert not hand_over.is_under_way


def send_raw(wire: Wire, kind: Kind, content: Any) -> None:
    """Send a message as ``Wire.send`` does."""
    body = cbor2.dumps(content)
    header = wire_module._HEADER.pack(wire_module._MAGIC, kind, 0, len(body))
    wire._socket.sendall(header + body)


def test_more_connections_than_a_message_holds_are_handed_over(
    relay: MemoryRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predecessor, "MAX_ANNOUNCED", 5)
    monkeypatch.setattr(predecessor, "MAX_DESCRIPTORS", 10)
    relay.join_all(*(f"peer{number}" for number in range(6)), database="one")
    successor = Successor(relay)
    successor.send(Kind.BUILT, BUILT)
    relay.settle()
    successor.send(Kind.TAKEN)
    relay.settle()
    relay.join_all(*(f"peer{number}" for number in range(11)), database="other")
    for _ in range(3):
        successor.send(Kind.TAKEN)
    successor.send(Kind.READY, READY)
    relay.settle()
    assert successor.failures == []
    assert successor.pids == [4711]
    kinds = successor.receive_all()
    assert kinds.count(Kind.CONNECTIONS) == 4


# The socket at which a successor asks


@pytest.fixture
def asked() -> list[socket.socket]:
    """The connections of those that have asked."""
    return []


@pytest.fixture
def reactor() -> Iterator[MemoryReactor]:
    """A reactor in memory."""
    reactor = MemoryReactor()
    yield reactor
    reactor.close()


def test_only_the_same_user_can_ask(
    tmp_path: Path,
    reactor: MemoryReactor,
    asked: list[socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "socket"
    door = Door(str(path), reactor, asked.append)
    door.open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        reactor.settle()
        assert len(asked) == 1
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    monkeypatch.setattr(wire_module, "_credentials", lambda connected: (1, own + 2))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        reactor.settle()
        assert len(asked) == 1
        assert client.recv(1) == b""
    door.close()
    assert not path.exists()
    for each in asked:
        each.close()


def test_a_predecessor_of_another_user_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    monkeypatch.setattr(wire_module, "_credentials", lambda connected: (1, own + 2))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        with pytest.raises(HandOverError, match="another user"):
            connect(str(tmp_path / "socket"), {}, lambda: 0.0)


def test_the_socket_of_a_predecessor_is_replaced(
    tmp_path: Path, reactor: MemoryReactor, asked: list[socket.socket]
) -> None:
    path = tmp_path / "socket"
    first = Door(str(path), reactor, lambda connected: connected.close())
    second = Door(str(path), reactor, asked.append)
    first.open()
    second.open()
    first.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        reactor.settle()
    assert len(asked) == 1
    asked[0].close()
    second.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [False, True])
def test_without_a_predecessor_there_is_none(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "socket"
    if there:  # it was killed
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
    assert connect(str(path), {}, lambda: 0.0) is None
    assert connect(None, {}, lambda: 0.0) is None


# The successor


class Predecessor:
    """The other end of a successor in this process."""

    def __init__(self) -> None:
        self.here, there = socket.socketpair()
        OPEN.extend((self.here, there))
        self.wire = Wire(self.here, lambda: 0.0)
        self.wire.send(Kind.SOCKETS, {"format": FORMAT, "sockets": [], "journal": False})
        self.link = Link(Wire(there, lambda: 0.0))


class Full(socket.socket):
    """A socket over which no descriptor can be sent, as too many are on their way."""

    def sendmsg(self, *arguments: Any) -> int:
        """Fail as the system does."""
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))


def test_too_many_descriptors_on_their_way_are_a_failure() -> None:
    with Full(socket.AF_UNIX) as full, pytest.raises(HandOverError, match="Too many references"):
        Wire(full, lambda: 0.0).send(Kind.CONNECTIONS, None, [0])


class Arrival:
    """Receives events and connections."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.descriptors: list[int] = []

    def told_of(self, events: Any) -> None:
        """Note the events."""
        self.events += events

    def announced(self, opened: Any, descriptors: Any) -> None:
        """Note the descriptors."""
        self.descriptors += descriptors

    def adopt_connections(self, content: Any) -> None:
        """Fail: none are there."""
        raise LookupError

    def close(self) -> None:
        """Close them."""
        close_all(self.descriptors)


def test_a_predecessor_of_another_version_is_refused() -> None:
    here, there = socket.socketpair()
    OPEN.extend((here, there))
    wire = Wire(here, lambda: 0.0)
    wire.send(Kind.SOCKETS, {"format": FORMAT + 1, "anything": "else"})
    with pytest.raises(HandOverError, match="the predecessor is of another version"):
        Link(Wire(there, lambda: 0.0))
    with pytest.raises(Refused, match="the successor is of another version"):
        wire.receive(Kind.BUILT)


def test_a_successor_that_is_refused_does_not_serve() -> None:
    """Neither if its predecessor has closed the socket before it could say that it is ready."""
    predecessor = Predecessor()
    predecessor.wire.refuse("not in time")
    predecessor.here.close()
    with pytest.raises(Refused, match="not in time"):
        predecessor.link.take_over(False)


def test_a_predecessor_that_has_only_closed_the_socket_has_not_ended() -> None:
    """It is this process, which lives: both would serve the connections."""
    predecessor = Predecessor()
    predecessor.here.close()
    with pytest.raises(HandOverError, match="does not hand over"):
        predecessor.link.take_over(False)
    predecessor = Predecessor()
    predecessor.wire.send(Kind.STATE)
    predecessor.here.shutdown(socket.SHUT_WR)
    arrival = Arrival()
    assert predecessor.link.receive(arrival) is None
    with pytest.raises(HandOverError, match="does not hand over"):
        predecessor.link.receive(arrival)


def test_descriptors_that_are_lost_on_their_way_are_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As above RLIMIT_NOFILE; the system only sets a flag."""
    here, there = socket.socketpair()
    with here, there:
        size = array.array("i").itemsize
        monkeypatch.setattr(wire_module, "_ANCILLARY", socket.CMSG_SPACE(2 * size))
        Wire(here, lambda: 0.0).send(Kind.CONNECTIONS, None, [0, 1, 2, 0, 1, 2, 0, 1])
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(HandOverError, match="descriptors were lost"):
            Wire(there, lambda: 0.0).receive(Kind.CONNECTIONS)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_successor_is_told_of_events_before_it_takes_connections() -> None:
    predecessor = Predecessor()
    event = [1, 2.0, "PeerLeft", ["shop_data", "alice", "127.0.0.1:1"]]
    predecessor.wire.send(Kind.EVENTS, [event])
    predecessor.wire.send(Kind.STATE, {"since": 0.0})
    arrival = Arrival()
    assert predecessor.link.receive(arrival) == {"since": 0.0}
    assert arrival.events == [event]
    assert [predecessor.wire.receive(*Kind).kind for _ in range(2)] == [Kind.BUILT, Kind.TAKEN]
