"""Many sockets read as one: real TCP, with a reactor turned by hand."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.tcp import Server
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import TURN
from acebase_ipc.websocket.epoll import (
    BUFFER,
    CROWD,
    CROWD_BUFFER,
    HEAVY_BUFFER,
    SOCKETS,
    EpollReader,
    can_use_epoll,
)
from tests.tcp import HandReactor

RESET = struct.pack("ii", 1, 0)
"""Of SO_LINGER: closing a socket resets its connection."""


class Gatherer:
    """Receives for an ear what the reader has read."""

    def __init__(self, ear: Ear) -> None:
        self.dataReceived = ear.gathered
        self.is_within_message = lambda: ear.is_within_message


class Ear(Protocol):
    """Keeps what it is told."""

    def __init__(self, reader: EpollReader) -> None:
        self._reader = reader
        self.heard = b""
        self.is_within_message = False
        self.lost: Failure | None = None
        self.on_data: Callable[[bytes], object] = lambda data: None

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self.number = self._reader.add(Gatherer(self), transport.getHandle(), transport)
        if self.number is None:
            transport.startReading()

    def gathered(self, data: bytes) -> None:
        self.heard += data
        self.on_data(data)

    def dataReceived(self, data: bytes) -> None:
        assert self.number is None, "the transport was to be read by others"
        self.gathered(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        if self.number is not None:
            self._reader.discard(self.number)


class Network:
    """Connections of a reader.

    :ivar reading: whether what has come at one time is being received.
    :ivar rounds: how many times that was.
    """

    def __init__(self) -> None:
        self.reactor = HandReactor()
        self.reading = False
        self.rounds = 0
        self.work = Work()
        self.reader = EpollReader(self.reactor, self._begun, self._finished, self.work)
        self.clients: list[socket.socket] = []
        self.ears: list[Ear] = []

    def _begun(self) -> None:
        self.reading = True

    def _finished(self) -> None:
        self.reading = False
        self.rounds += 1

    def connect(self) -> tuple[socket.socket, Any]:
        """A client's socket and what hears it."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), timeout=10)
            accepted, address = listener.accept()
        self.clients.append(client)
        ear = Ear(self.reader)
        self.ears.append(ear)
        port: Any = None
        reactor: Any = self.reactor
        ear.makeConnection(Server(accepted, ear, address, port, 0, reactor))
        return client, ear

    def connect_known(self) -> tuple[socket.socket, Any]:
        """Connect a client that has sent something before."""
        client, ear = self.connect()
        client.sendall(b"x")
        self.reactor.turn_until(lambda: ear.heard)
        ear.heard = b""
        return client, ear


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    for each in network.clients:
        each.close()
    network.reader.connectionLost(Failure(ConnectionError()))
    for ear in network.ears:
        transport: Any = ear.transport
        transport.abortConnection()
    network.reactor.turn()
    assert network.reactor.getReaders() == []


def test_many_connections_are_one_descriptor_to_the_reactor(network: Network) -> None:
    pairs = [network.connect() for _ in range(3)]
    assert network.reactor.getReaders() == [network.reader]
    for number, (client, _) in enumerate(pairs):
        client.sendall(b"%d" % number)
    network.reactor.turn_until(lambda: all(ear.heard for _, ear in pairs))
    assert [ear.heard for _, ear in pairs] == [b"0", b"1", b"2"]


def test_what_has_come_at_one_time_is_received_before_it_is_finished(network: Network) -> None:
    pairs = [network.connect() for _ in range(SOCKETS)]
    states = set()
    for client, ear in pairs:
        ear.on_data = lambda data: states.add((network.reading, network.rounds))
        client.sendall(b"x")
    network.reader.doRead()
    assert all(ear.heard for _, ear in pairs)
    assert states == {(True, 0)}
    assert network.rounds == 1


def test_no_more_sockets_are_read_before_the_reactor_turns(network: Network) -> None:
    pairs = [network.connect() for _ in range(SOCKETS + 1)]
    for client, _ in pairs:
        client.sendall(b"x")
    network.reader.doRead()
    assert sum(bool(ear.heard) for _, ear in pairs) == SOCKETS
    network.reader.doRead()
    assert all(ear.heard for _, ear in pairs)


def test_nobody_is_read_from_for_ever(network: Network) -> None:
    client, ear = network.connect()
    client.sendall(b"x" * (BUFFER + 1))
    network.reactor.turn_until(lambda: ear.heard)
    assert len(ear.heard) <= BUFFER
    network.reactor.turn_until(lambda: len(ear.heard) == BUFFER + 1)


# ---- Sockets that have sent much, or a message in pieces


def connect_heavy(network: Network) -> list[tuple[socket.socket, Any]]:
    """Connections that have sent much, of which one in four is read from in a turn."""
    pairs = [network.connect_known() for _ in range(2 * CROWD)]

    def work(data: bytes) -> None:
        network.work.units += 4 * TURN // len(pairs)

    for client, ear in pairs:
        ear.on_data = work
        client.sendall(b"x" * 2 * CROWD_BUFFER)
    network.reactor.turn_until(lambda: all(ear.heard for _, ear in pairs))
    return pairs


def test_a_client_that_sends_little_does_not_wait_for_many_that_send_much(
    network: Network,
) -> None:
    client, ear = network.connect_known()
    connect_heavy(network)
    for number in range(1, 4):
        client.sendall(b"x")
        network.reader.doRead()
        assert len(ear.heard) == number


def test_a_client_that_sends_whole_messages_does_not_wait_for_many_that_send_pieces(
    network: Network,
) -> None:
    pairs = [network.connect_known() for _ in range(2 * CROWD)]
    client, ear = network.connect_known()

    def work(data: bytes) -> None:
        network.work.units += TURN // 4

    for each, piecemeal in pairs:
        piecemeal.is_within_message = True
        each.sendall(b"x")
    network.reader.doRead()
    for each, piecemeal in pairs:
        assert piecemeal.heard
        piecemeal.on_data = work
        each.sendall(b"x")
    client.sendall(b"x")
    network.reader.doRead()
    assert ear.heard


def test_a_client_that_is_known_does_not_wait_for_many_that_are_new(network: Network) -> None:
    client, ear = network.connect_known()
    network.reader.doRead()  # nothing is left of it among the ready ones

    def work(data: bytes) -> None:
        network.work.units += TURN // 4

    for _ in range(2 * CROWD):
        newcomer, new_ear = network.connect()
        new_ear.on_data = work
        newcomer.sendall(b"x")
    client.sendall(b"x")
    network.reader.doRead()
    assert ear.heard
    assert sum(bool(each.heard) for each in network.ears) < CROWD


def test_a_client_that_sends_less_than_before_does_not_wait(network: Network) -> None:
    (client, ear), *others = connect_heavy(network)
    network.reactor.turn_until(lambda: len(ear.heard) == 2 * CROWD_BUFFER)
    for each, _ in others:
        each.sendall(b"x" * CROWD_BUFFER)
    client.sendall(b"y")
    network.reactor.turn_until(lambda: ear.heard.endswith(b"y"))
    heard = len(ear.heard)
    client.sendall(b"y")
    network.reader.doRead()
    assert len(ear.heard) == heard + 1
    assert any(len(each.heard) < 3 * CROWD_BUFFER for _, each in others)


def test_clients_that_send_much_are_read_from_however_many_send_little(network: Network) -> None:
    light = [network.connect_known() for _ in range(8)]
    heavy = connect_heavy(network)

    def work(data: bytes) -> None:
        network.work.units += TURN

    for client, ear in light:
        ear.on_data = work
        client.sendall(b"x")
    for turns in range(1, len(light) + 1):
        before = sum(len(ear.heard) for _, ear in heavy)
        network.reader.doRead()
        assert sum(len(ear.heard) for _, ear in light) == turns
        assert sum(len(ear.heard) for _, ear in heavy) > before


def test_of_clients_that_send_much_more_is_read_at_a_time_than_of_others(network: Network) -> None:
    others = [network.connect_known() for _ in range(CROWD)]
    heavy = connect_heavy(network)
    first: dict[Any, int] = {}
    for client, ear in (*heavy, *others):
        ear.on_data = lambda data, ear=ear: first.setdefault(ear, len(data))
        client.sendall(b"x" * 2 * HEAVY_BUFFER)
    network.reader.doRead()
    assert max(first.get(ear, 0) for _, ear in heavy) == HEAVY_BUFFER
    assert max(first[ear] for _, ear in others) == CROWD_BUFFER


def test_a_client_that_has_sent_much_is_paused_and_resumed(network: Network) -> None:
    pairs = connect_heavy(network)
    paused = set()

    def pause(number: int) -> None:
        assert network.reader.pause(number)
        paused.add(number)

    for client, ear in pairs:
        ear.on_data = lambda data, number=ear.number: pause(number)
        client.sendall(b"x" * 2 * CROWD_BUFFER)
    network.reactor.turn_until(lambda: len(paused) == len(pairs))
    heard = [len(ear.heard) for _, ear in pairs]
    for client, _ in pairs:
        client.sendall(b"x")
    for _ in range(10):
        network.reactor.turn()
    assert [len(ear.heard) for _, ear in pairs] == heard
    for number in paused:
        assert network.reader.resume(number)
    network.reactor.turn_until(
        lambda: all(len(ear.heard) > before for (_, ear), before in zip(pairs, heard, strict=True))
    )


@pytest.mark.parametrize("is_known", [False, True])
def test_a_client_that_is_paused_by_what_tells_whether_it_sends_much_stays_paused(
    network: Network, is_known: bool
) -> None:
    """It is then watched by another epoll: a new one, and of many one that sends much."""
    pairs = [network.connect_known() if is_known else network.connect() for _ in range(CROWD)]
    for client, ear in pairs:
        ear.on_data = lambda data, number=ear.number: network.reader.pause(number)
        client.sendall(b"x" * (2 * CROWD_BUFFER if is_known else 1))
    network.reactor.turn_until(lambda: all(ear.heard for _, ear in pairs))
    for client, _ in pairs:
        client.sendall(b"x")
    for _ in range(10):
        network.reactor.turn()
    read = CROWD_BUFFER if is_known else 1
    assert {len(ear.heard) for _, ear in pairs} == {read}
    for _, ear in pairs:
        assert network.reader.resume(ear.number)
    network.reactor.turn_until(lambda: all(len(ear.heard) > read for _, ear in pairs))


def test_many_that_have_sent_much_are_discarded(network: Network) -> None:
    pairs = connect_heavy(network)
    client, ear = network.connect()
    duplicates = [each.transport.getHandle().dup() for _, each in pairs]  # as in a forked process
    for _, each in pairs:
        network.reader.discard(each.number)
        each.transport.connectionLost(Failure(ConnectionError()))
    client.sendall(b"x")
    network.reactor.turn_until(lambda: ear.heard)
    rounds = network.rounds
    for _ in range(10):
        network.reactor.turn()
    assert network.rounds == rounds
    for duplicate in duplicates:
        duplicate.close()
    network.reader.discard(ear.number)
    ear.transport.connectionLost(Failure(ConnectionError()))
    assert network.reader.fileno() == -1


def test_without_another_descriptor_all_are_read_in_turn(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, ear = network.connect()

    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(select, "epoll", fail)
    pairs = connect_heavy(network)
    client.sendall(b"x")
    network.reactor.turn_until(lambda: ear.heard)
    network.reactor.turn_until(lambda: all(len(ear.heard) > CROWD_BUFFER for _, ear in pairs))


# ---- Ends


@pytest.mark.parametrize("reset", [False, True])
def test_an_end_is_left_to_the_transport(network: Network, reset: bool) -> None:
    (client, ear), (other, living) = network.connect(), network.connect()
    client.sendall(b"last words")
    network.reactor.turn_until(lambda: ear.heard)
    if reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    network.reactor.turn_until(lambda: ear.lost)
    other.sendall(b"x")
    network.reactor.turn_until(lambda: living.heard)
    assert (ear.heard, living.lost) == (b"last words", None)
    assert network.reactor.getReaders() == [network.reader]


def test_what_was_sent_before_an_end_is_received(network: Network) -> None:
    client, ear = network.connect()
    client.sendall(b"last words")
    client.close()
    network.reactor.turn_until(lambda: ear.lost)
    assert ear.heard == b"last words"
    assert network.reactor.getReaders() == []
    assert network.reader.fileno() == -1


def test_one_that_is_closing_is_not_read_from(network: Network) -> None:
    client, ear = network.connect()
    ear.transport.write(b"x" * 10_000_000)
    ear.transport.loseConnection()
    client.sendall(b"too late")
    network.reactor.turn_until(lambda: network.rounds)
    assert (ear.heard, ear.lost) == (b"", None)
    assert network.reactor.getReaders() == []


@pytest.mark.parametrize("end", ["loseConnection", "abortConnection"])
def test_a_connection_that_ends_another_of_the_same_time(network: Network, end: str) -> None:
    pairs = [network.connect() for _ in range(2)]

    def end_the_other(data: bytes) -> None:
        for _, ear in pairs:
            if not ear.heard:
                getattr(ear.transport, end)()

    for client, ear in pairs:
        ear.on_data = end_the_other
        client.sendall(b"x")
    network.reader.doRead()
    network.reactor.turn_until(lambda: any(ear.lost for _, ear in pairs))
    assert sorted(bool(ear.lost) for _, ear in pairs) == [False, True]


def test_one_that_is_forgotten_by_another_of_the_same_time(network: Network) -> None:
    pairs = [network.connect() for _ in range(2)]

    def forget_the_other(data: bytes) -> None:
        for _, ear in pairs:
            if not ear.heard:
                network.reader.discard(ear.number)

    for client, ear in pairs:
        ear.on_data = forget_the_other
        client.sendall(b"x")
    network.reader.doRead()
    assert sorted(ear.heard for _, ear in pairs) == [b"", b"x"]
    for _, ear in pairs:
        ear.transport.connectionLost(Failure(ConnectionError()))


def test_one_whose_data_another_of_the_same_time_has_taken(network: Network) -> None:
    pairs = [network.connect() for _ in range(2)]

    def take_the_others(data: bytes) -> None:
        for _, ear in pairs:
            if not ear.heard:
                ear.transport.getHandle().recv(BUFFER)

    for client, ear in pairs:
        ear.on_data = take_the_others
        client.sendall(b"x")
    network.reader.doRead()
    assert sorted(ear.heard for _, ear in pairs) == [b"", b"x"]
    for client, ear in pairs:
        ear.on_data = lambda data: None
        client.sendall(b"y")
    network.reactor.turn_until(lambda: all(ear.heard.endswith(b"y") for _, ear in pairs))


@pytest.mark.parametrize("where", ["receiving", "reading", "giving back"])
def test_a_mistake_costs_one_connection(
    network: Network, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (client, ear), (other, living) = network.connect(), network.connect()

    def fail(*_: object) -> Any:
        raise MemoryError

    match where:
        case "receiving":
            ear.on_data = fail
        case "reading":
            broken: Any = SimpleNamespace(recv=fail)
            network.reader._sources[ear.number].socket = broken
        case _:
            ear.transport.startReading = fail
    with capturedLogs() as events:
        if where == "giving back":
            client.close()
        else:
            client.sendall(b"x")
        other.sendall(b"y")
        network.reactor.turn_until(lambda: ear.lost and living.heard)
    assert [each["log_level"] for each in events] == [LogLevel.critical]
    assert (living.lost, network.reading) == (None, False)


def test_a_socket_that_another_process_has_too_is_forgotten(network: Network) -> None:
    client, ear = network.connect()
    other, living = network.connect()
    with ear.transport.getHandle().dup():  # as a forked process has
        network.reader.discard(ear.number)
        ear.transport.connectionLost(Failure(ConnectionError()))
        client.close()
        other.sendall(b"x")
        network.reactor.turn_until(lambda: living.heard)
        rounds = network.rounds
        for _ in range(10):
            network.reactor.turn()
        assert network.rounds == rounds


def test_the_end_of_the_reactor_is_the_end_of_all(network: Network) -> None:
    pairs = [network.connect() for _ in range(2)]
    reason = Failure(ConnectionError())
    network.reader.connectionLost(reason)
    assert [ear.lost for _, ear in pairs] == [reason, reason]
    assert network.reactor.getReaders() == []
    network.reader.doRead()  # as a reactor may that has not noticed yet
    assert network.rounds == 0


@pytest.mark.parametrize("lacking", ["a descriptor", "a place in the reactor"])
def test_without_what_it_takes_a_transport_goes_on_by_itself(
    network: Network, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    add_reader = HandReactor.addReader

    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    def fail_for_ours(reactor: HandReactor, reader: Any) -> None:
        if isinstance(reader, EpollReader):
            raise OSError(errno.ENOSPC, "No space left on device")
        add_reader(reactor, reader)

    with monkeypatch.context() as patch:
        if lacking == "a descriptor":
            patch.setattr(select, "epoll", fail)
        else:
            patch.setattr(HandReactor, "addReader", fail_for_ours)
        client, ear = network.connect()
        assert ear.number is None
    client.sendall(b"x")
    network.reactor.turn_until(lambda: ear.heard)
    client, ear = network.connect()
    assert ear.number is not None
    client.sendall(b"y")
    network.reactor.turn_until(lambda: ear.heard)
    client.close()
    network.reactor.turn_until(lambda: ear.lost)
    network.clients[0].close()
    network.reactor.turn_until(lambda: not network.reactor.getReaders())


def test_after_the_last_has_ended_another_may_come(network: Network) -> None:
    client, ear = network.connect()
    client.close()
    network.reactor.turn_until(lambda: ear.lost)
    client, ear = network.connect()
    client.sendall(b"again")
    network.reactor.turn_until(lambda: ear.heard)


def test_where_sockets_cannot_be_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_use_epoll(HandReactor())
    assert not can_use_epoll(Clock())
    monkeypatch.delattr(select, "epoll")
    assert not can_use_epoll(HandReactor())
