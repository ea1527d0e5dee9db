"""A reactor whose network and time are in memory."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from selectors import EVENT_READ, DefaultSelector
from typing import Any, ClassVar
from weakref import WeakSet

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import (
    CannotListenError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import IHalfCloseableDescriptor, IListeningPort
from twisted.internet.tcp import Server
from twisted.internet.testing import MemoryReactorClock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.testing.sockets import MemorySocket, connected_sockets

FIRST_FREE_PORT = 9163
"""The first port number that is given to a server that asks for any."""


@implementer(IListeningPort)
class MemoryPort:
    """A port that a server listens on, until it stops.

    :ivar factory: makes the server's end of a connection.
    :ivar number: of the port.
    :ivar listening: whether connections are accepted.
    """

    def __init__(self, reactor: MemoryReactor, number: int, factory: Any, interface: str) -> None:
        self.factory = factory
        self.number = self._realPortNumber = number  # Twisted's connections print the second
        self.listening = False
        self._reactor = reactor
        self._interface = interface or "0.0.0.0"
        self._sessions = count()
        self.startListening()

    def __repr__(self) -> str:
        return f"<MemoryPort {self._interface} {self.number}>"

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return isinstance(self.factory, TLSMemoryBIOFactory)

    def startListening(self) -> None:
        """Accept connections."""
        if not self.listening:
            self.listening = True
            self.factory.doStart()

    def stopListening(self) -> None:
        """Accept no more connections; those that are open stay."""
        if self.listening:
            self.listening = False
            self.factory.doStop()

    def getHost(self) -> IPv4Address | IPv6Address:
        """Where it listens."""
        return _address((self._interface, self.number))

    def connect(self, host: str, number: int) -> MemorySocket:
        """The client's end of a new connection from a port of *host*."""
        client: tuple[Any, ...] = (host, number, 0, 0) if ":" in host else (host, number)
        server = ("::1" if ":" in host else "127.0.0.1", self.number)
        near, far = connected_sockets(client, server)
        protocol = self.factory.buildProtocol(_address(client))
        if protocol is None:
            far.close()
            return near
        reactor: Any = self._reactor
        port: Any = self
        transport = Server(far, protocol, client, port, next(self._sessions), reactor)
        protocol.makeConnection(transport)
        return near


def _address(address: tuple[Any, ...]) -> IPv4Address | IPv6Address:
    if ":" in address[0]:
        return IPv6Address("TCP", *address)
    return IPv4Address("TCP", *address)


class MemoryReactor(MemoryReactorClock):
    """A reactor with Twisted's TCP transports on sockets in memory, and a Clock.

    Servers listen on it with the endpoints ``tcp:`` and ``ssl:``, and clients connect to
    them with ``TCP4ClientEndpoint`` and ``HostnameEndpoint``. Nothing happens by itself:
    :meth:`settle` does all that can be done at a moment, :meth:`pass_time` lets time pass.

    :param taken: numbers of ports on which something else listens.
    :ivar taken: the same; they can be changed.
    :ivar ports: each :class:`MemoryPort` on which something listens, or has listened.
    """

    _open: ClassVar[WeakSet[MemoryReactor]] = WeakSet()

    def __init__(self, *, taken: Iterable[int] = ()) -> None:
        super().__init__()
        self.ports: list[MemoryPort] = []
        self.taken = set(taken)
        self._selector = DefaultSelector()
        self._reading: dict[Any, int] = {}
        self._writing: dict[Any, None] = {}
        self._sockets: WeakSet[MemorySocket] = WeakSet()
        self._client_ports = count(40_000)
        self._turning = False
        self._open.add(self)

    # IReactorTCP and IReactorSSL

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen on a port, 0 for any."""
        used = {each.number for each in self.ports if each.listening} | self.taken
        if port in used:
            raise CannotListenError(interface, port, OSError("Address already in use"))
        super().listenTCP(port, factory, backlog, interface)
        free = next(each for each in count(FIRST_FREE_PORT) if each not in used)
        self.ports.append(MemoryPort(self, port or free, factory, interface))
        return self.ports[-1]

    def listenSSL(
        self,
        port: int,
        factory: Any,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> Any:
        """Listen on a port with TLS, as Twisted's reactors do."""
        wrapped = TLSMemoryBIOFactory(contextFactory, False, factory, clock=self)
        return self.listenTCP(port, wrapped, backlog, interface)

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float = 30,
        bindAddress: Any = None,
    ) -> Any:
        """Connect to a port of this reactor in the next turn."""
        connector = super().connectTCP(host, port, factory, timeout, bindAddress)
        self.callLater(0, self._connect, connector, port, factory)
        return connector

    def _connect(self, connector: Any, number: int, factory: Any) -> None:
        if connector.stoppedConnecting:
            return
        ports = [each for each in self.ports if each.listening and each.number == number]
        if not ports:
            factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))
            return
        near = self.connect(ports[0])
        protocol = factory.buildProtocol(connector.getDestination())
        if protocol is None:
            near.close()
            return
        reactor: Any = self
        port: Any = ports[0]
        # A client's transport is that of a server, but for how it came to be.
        protocol.makeConnection(Server(near, protocol, near.getpeername(), port, 0, reactor))

    def connect(self, port: MemoryPort, host: str = "127.0.0.1") -> MemorySocket:
        """The client's end of a new connection from *host* to *port*."""
        near = port.connect(host, next(self._client_ports))
        self._sockets.add(near)
        return near

    def cut_connections(self) -> None:
        """Let the network break every connection: both ends notice in the next turn."""
        for each in tuple(self._sockets):
            each.cut()

    # IReactorFDSet

    def addReader(self, reader: Any) -> None:
        """Call ``doRead`` of *reader* in the turns in which its descriptor is readable."""
        if reader not in self._reading:
            self._reading[reader] = number = reader.fileno()
            self._selector.register(number, EVENT_READ, reader)

    def removeReader(self, reader: Any) -> None:
        """Forget a reader."""
        number = self._reading.pop(reader, None)
        if number is not None:
            with suppress(KeyError, ValueError, OSError):
                self._selector.unregister(number)

    def addWriter(self, writer: Any) -> None:
        """Call ``doWrite`` of *writer* in the turns in which its socket is writable."""
        self._writing[writer] = None

    def removeWriter(self, writer: Any) -> None:
        """Forget a writer."""
        self._writing.pop(writer, None)

    def getReaders(self) -> list[Any]:
        """What reads."""
        return list(self._reading)

    def getWriters(self) -> list[Any]:
        """What writes."""
        return list(self._writing)

    def removeAll(self) -> list[Any]:
        """Forget all readers and writers; returns them."""
        removed = list({**self._reading, **self._writing})
        for each in removed:
            self.removeReader(each)
            self.removeWriter(each)
        return removed

    # Time

    def advance(self, amount: float) -> None:
        """Let *amount* seconds pass, and do what is due then.

        A call that is scheduled meanwhile is done in the next turn at the earliest, as by
        Twisted's reactors.
        """
        self.rightNow += amount
        due = [each for each in self.calls if each.getTime() <= self.rightNow]
        for call in due:
            if call.active() and call.getTime() <= self.rightNow:  # another call may change that
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)

    def turn(self, seconds: float = 0.0) -> bool:
        """Do one turn, *seconds* later: what is due, what can be read, what can be written.

        Does nothing within a turn.

        :returns: whether anything was done.
        """
        if self._turning:
            return False
        self._turning = True
        try:
            return self._turn(seconds)
        finally:
            self._turning = False

    def settle(self) -> None:
        """Do all that can be done without time passing; does nothing within a turn."""
        while self.turn():
            pass

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Let *seconds* pass, in steps of at most *step*, and settle after each.

        :raises RuntimeError: within a turn.
        """
        if self._turning:
            raise RuntimeError("time passes between turns, not within one")
        self.settle()
        end = self.seconds() + seconds
        while self.seconds() < end:
            self.turn(min(step, end - self.seconds()))
            self.settle()

    def _turn(self, seconds: float) -> bool:
        now = self.seconds() + seconds
        busy = any(each.getTime() <= now for each in self.getDelayedCalls())
        self.advance(seconds)
        for key, _ in self._selector.select(0):
            if key.data in self._reading:  # else another's data has ended it
                busy = True
                self._end(key.data, key.data.doRead(), reading=True)
        for writer in tuple(self._writing):
            if writer in self._writing and writer.getHandle().writable:
                busy = True
                self._end(writer, writer.doWrite(), reading=False)
        return busy

    def _end(self, descriptor: Any, reason: Any, *, reading: bool) -> None:
        """End a descriptor for a *reason*, if there is one, as Twisted's reactors do."""
        if reason is None:
            return
        self.removeReader(descriptor)
        done = isinstance(reason, ConnectionDone)
        if reading and done and IHalfCloseableDescriptor.providedBy(descriptor):
            descriptor.readConnectionLost(Failure(reason))
        else:
            self.removeWriter(descriptor)
            descriptor.connectionLost(Failure(reason))

    # The end

    def close(self) -> None:
        """Close all sockets and other descriptors, and forget all timers, without notice."""
        for each in self.removeAll():
            if not isinstance(each, Server):  # it has a descriptor of its own to close
                each.connectionLost(Failure(ConnectionLost()))
        self.removeAll()
        for call in tuple(self.getDelayedCalls()):
            call.cancel()
        for each in tuple(self._sockets):
            each.other.close()
            each.close()
        self._selector.close()
        self._open.discard(self)

    @classmethod
    def close_all(cls) -> None:
        """Close every reactor that is open: for a fixture that runs after each test."""
        for each in tuple(cls._open):
            each.close()
