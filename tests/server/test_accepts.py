"""A port accepts a limited number of connections in a turn of the reactor: real TCP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port
from twisted.python.failure import Failure

from acebase_ipc.relay.events import NullObserver
from acebase_ipc.server.endpoints import parse_endpoint
from acebase_ipc.server.listener import ACCEPTS, ADMIN_ACCEPTS, ADMIN_PAUSE, Listener
from tests.tcp import HandReactor


class ListeningReactor(HandReactor):
    """A reactor turned by hand that can listen."""

    def listenTCP(self, port: int, factory: Any, backlog: int, interface: str) -> Port:
        """Listen with Twisted's port."""
        reactor: Any = self
        listening = Port(port, factory, backlog, interface, reactor)
        listening.startListening()
        return listening


class Accepted(Protocol):
    """Counts the connections in its factory."""

    factory: Any

    def connectionMade(self) -> None:
        self.factory.accepted += 1


@contextmanager
def flooded(connections: int, *, is_admin: bool) -> Iterator[tuple[ListeningReactor, Port, Any]]:
    """A port at which so many connections wait, and the factory that counts them."""
    reactor = ListeningReactor()
    endpoint = f"tcp:0:interface=127.0.0.1:backlog={connections}"
    listener = Listener(parse_endpoint(endpoint), reactor, NullObserver(), is_admin=is_admin)
    factory: Any = Factory.forProtocol(Accepted)
    factory.accepted = 0
    factory.noisy = False
    listener.open(factory)
    (port,) = reactor.getReaders()
    host = port.getHost()
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(socket.create_connection((host.host, host.port), timeout=10))
        yield reactor, port, factory
    for each in reactor.removeAll():
        each.connectionLost(Failure(ConnectionDone()))


def test_many_connections_that_wait_are_accepted_in_several_turns() -> None:
    with flooded(6 * ACCEPTS, is_admin=False) as (reactor, port, factory):
        for _ in range(20):
            before = factory.accepted
            port.doRead()
            assert factory.accepted - before <= ACCEPTS
            assert port in reactor.getReaders()
        assert factory.accepted == 6 * ACCEPTS


def test_the_admin_endpoint_accepts_few_connections_and_pauses() -> None:
    with flooded(3 * ADMIN_ACCEPTS + 1, is_admin=True) as (reactor, port, factory):
        for turn in range(1, 4):
            port.doRead()
            assert factory.accepted == turn * ADMIN_ACCEPTS
            assert port not in reactor.getReaders()
            reactor.advance(ADMIN_PAUSE * 0.9)
            assert port not in reactor.getReaders()
            reactor.advance(ADMIN_PAUSE * 0.2)
            assert port in reactor.getReaders()
        port.doRead()
        assert factory.accepted == 3 * ADMIN_ACCEPTS + 1
        assert port in reactor.getReaders()  # no others wait
        assert reactor.getDelayedCalls() == []


def test_the_admin_endpoint_does_not_pause_for_single_connections() -> None:
    with flooded(1, is_admin=True) as (reactor, port, factory):
        port.doRead()
        host = port.getHost()
        with socket.create_connection((host.host, host.port), timeout=10):
            port.doRead()
        assert factory.accepted == 2
        assert reactor.getDelayedCalls() == []


def test_a_port_that_was_closed_meanwhile_stays_closed() -> None:
    with flooded(ADMIN_ACCEPTS, is_admin=True) as (reactor, port, _):
        port.doRead()
        port.stopListening()
        reactor.advance(0)
        assert not port.connected
        reactor.advance(ADMIN_PAUSE)
        assert port not in reactor.getReaders()
