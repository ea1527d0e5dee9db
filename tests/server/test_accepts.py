"""A port accepts a limited number of connections in a turn of the reactor: real TCP."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.tcp import Port
from twisted.python.failure import Failure

from acebase_ipc.relay.events import NullObserver
from acebase_ipc.server.endpoints import parse_endpoint
from acebase_ipc.server.listener import ACCEPTS, ADMIN_ACCEPTS, Listener
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


@pytest.mark.parametrize(("is_admin", "most"), [(False, ACCEPTS), (True, ADMIN_ACCEPTS)])
def test_many_connections_that_wait_are_accepted_in_several_turns(
    is_admin: bool, most: int
) -> None:
    reactor = ListeningReactor()
    endpoint = f"tcp:0:interface=127.0.0.1:backlog={6 * most}"
    listener = Listener(parse_endpoint(endpoint), reactor, NullObserver(), is_admin=is_admin)
    factory: Any = Factory.forProtocol(Accepted)
    factory.accepted = 0
    factory.noisy = False
    listener.open(factory)
    (port,) = reactor.getReaders()
    host = port.getHost()
    with ExitStack() as stack:
        for _ in range(6 * most):
            stack.enter_context(socket.create_connection((host.host, host.port), timeout=10))
        for _ in range(20):
            before = factory.accepted
            port.doRead()
            assert factory.accepted - before <= most
        assert factory.accepted == 6 * most
    for each in reactor.removeAll():
        each.connectionLost(Failure(ConnectionDone()))
