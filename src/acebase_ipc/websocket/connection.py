"""The WebSocket side: each connection is a peer's connection to the relay."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from autobahn.twisted.resource import WebSocketResource
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from acebase_ipc.addresses import format_address, host_of
from acebase_ipc.protocol.errors import MessageRefused
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import KeepaliveTimeout, Observer, ProtocolViolated
from acebase_ipc.relay.limits import MAX_UTF8_PER_UNIT, Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.router import Relay
from acebase_ipc.websocket.fastpath import PING_FRAME, FastServerFactory, FastServerProtocol
from acebase_ipc.websocket.keepalive import Keepalive

CLOSE_POLICY = 1008
CLOSE_NO_STATUS = 1005  # stands for a close frame without a code
PROBE = b"probe"
"""The payload of a ping that asks whether the holder of a contested id lives."""

log = Logger()


class RelayServerProtocol(FastServerProtocol):
    """One peer's WebSocket: a :class:`~acebase_ipc.relay.peers.Connection` of the relay."""

    factory: RelayServerFactory
    handshake: Handshake
    tokens: tuple[str, ...]
    member: Peer | None = None
    _probes: tuple[Callable[[bool], object], ...] = ()
    _probe_timeout: IDelayedCall | None = None

    def opened(self) -> None:
        """The client becomes a peer."""
        self._watch_network()
        self.member = self.factory.relay.join(self.handshake, self, self.factory.wall())

    def _watch_network(self) -> None:
        """Let the system find a dead network, too, where it can."""
        try:
            self.transport.setTcpKeepAlive(True)
            handle = self.transport.getHandle()
            if isinstance(handle, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
                timeout = self.factory.keepalive.dead_after * 1000
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout)
        except (AttributeError, OSError):
            pass  # not TCP, or a system without it: our own pings remain

    def textReceived(self, text: bytes) -> None:
        """Relay a message, or refuse it with the close code that says why."""
        if self.member is not None:
            try:
                self.factory.relay.receive(self.member, text)
            except MessageRefused as refusal:
                code, reason = refusal.close_code, str(refusal)
                name, client_id = self.handshake.database, self.handshake.client_id
                self.factory.observer.report(ProtocolViolated(name, client_id, code, reason))
                self.close(code, reason)

    def binaryReceived(self, data: bytes) -> None:
        """Binary messages are not relayed."""
        if self.member is not None:
            self.factory.relay.binary_ignored(self.member)

    def congested(self) -> None:
        """Let what comes for this peer wait."""
        if self.member is not None:
            self.factory.relay.congested(self.member, self)

    def drained(self) -> None:
        """Take what has waited."""
        if self.member is not None:
            self.factory.relay.drained(self.member, self)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection has ended."""
        self._answer_probes(alive=False)
        if self.member is not None:
            close_code = (code or CLOSE_NO_STATUS) if wasClean else None
            try:
                self.factory.relay.lost(self.member, self, close_code, self.factory.clock())
            except Exception:
                log.failure("telling the relay that a connection is lost")
        self.factory.closed(self)

    @property
    def address(self) -> str:
        """Where the other end is."""
        return format_address(self.transport.getPeer())

    def probe(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Ping the other end and wait for its pong."""
        self._probes += (answer,)
        if self._probe_timeout is None:
            call_later = self.factory.reactor.callLater
            self._probe_timeout = call_later(timeout, self._answer_probes, alive=False)
            self.sendPing(PROBE)

    def onPong(self, payload: bytes) -> None:
        """The other end lives."""
        if payload == PROBE:
            self._answer_probes(alive=True)

    def _answer_probes(self, alive: bool) -> None:
        if self._probe_timeout is not None and self._probe_timeout.active():
            self._probe_timeout.cancel()
        self._probe_timeout = None
        probes, self._probes = self._probes, ()
        for answer in probes:
            answer(alive)


class _Upgrade:
    """The factory that a WebSocketResource wants, for one accepted handshake."""

    def __init__(
        self, factory: RelayServerFactory, handshake: Handshake, tokens: tuple[str, ...]
    ) -> None:
        self._factory = factory
        self._handshake = handshake
        self._tokens = tokens

    def buildProtocol(self, address: IAddress) -> RelayServerProtocol:
        protocol: RelayServerProtocol = self._factory.buildProtocol(address)
        protocol.handshake = self._handshake
        protocol.tokens = self._tokens
        return protocol


class RelayServerFactory(FastServerFactory):
    """Makes the connections of one relay, and ends those that are dead.

    :param relay: what the connections belong to.
    :param clock: seconds of a clock that never jumps.
    :param wall: the current time in milliseconds since 1970.
    """

    protocol = RelayServerProtocol

    def __init__(
        self,
        relay: Relay,
        limits: Limits,
        observer: Observer,
        reactor: IReactorTime,
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        # Whether its UTF-16 units are too many is counted when all of a message is there.
        super().__init__(relay.max_payload * MAX_UTF8_PER_UNIT, reactor, clock)
        self.relay = relay
        self.clock = clock
        self.wall = wall
        self.observer = observer
        interval, timeout = limits.keepalive_interval, limits.keepalive_timeout
        self.keepalive = Keepalive[RelayServerProtocol](
            ping_after=math.ceil(interval), dead_after=math.ceil(interval + timeout)
        )
        self._max_connections = limits.max_connections
        self._max_address_connections = limits.max_address_connections
        self._addresses: Counter[str] = Counter()
        self._when_closed: list[Deferred[None]] = []

    def check_room(self, request: Request) -> None:
        """Whether one more connection may be opened.

        :raises Overloaded: if there are too many.
        """
        host = host_of(request.getClientAddress())
        limit = self._max_address_connections
        if len(self.connections) >= self._max_connections:
            raise Overloaded("Too many connections: try again later")
        if limit is not None and self._addresses[host] >= limit:
            raise Overloaded("Too many connections from this address: try again later")

    def count(self, host: str | None = None) -> int:
        """How many connections are open, from *host* or, by default, at all."""
        return len(self.connections) if host is None else self._addresses[host]

    def upgrade(self, request: Request, handshake: Handshake, tokens: tuple[str, ...]) -> None:
        """Turn *request* into the WebSocket of an accepted *handshake*."""
        upgraded = getattr(request.channel, "upgraded", lambda: None)
        upgraded()  # tells our own Site; a foreign one keeps no account
        WebSocketResource(_Upgrade(self, handshake, tokens)).render(request)

    def closed(self, connection: RelayServerProtocol) -> None:
        """*connection* has ended."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.keepalive.discard(connection)
            self._count_address(connection, -1)
        if not self.connections:
            when_closed, self._when_closed = self._when_closed, []
            for each in when_closed:
                each.callback(None)

    def _count_address(self, connection: RelayServerProtocol, change: int) -> None:
        if self._max_address_connections is not None:
            host = host_of(connection.transport.getPeer())
            self._addresses[host] += change
            if not self._addresses[host]:
                del self._addresses[host]

    def opened(self, connection: RelayServerProtocol) -> None:
        """*connection* is open."""
        self.connections.add(connection)
        self.keepalive.add(connection, self.ticks)
        self._count_address(connection, +1)

    def check_tokens(self, allow: Callable[[str, Iterable[str]], bool]) -> None:
        """Close the connections whose tokens are not valid any more.

        :param allow: tells whether tokens open a database.
        """
        for connection in tuple(self.connections):
            if not allow(connection.handshake.database, connection.tokens):
                connection.close(CLOSE_POLICY, "the token is not valid any more")

    def unfinished_peers(self) -> Iterator[Peer]:
        """The peers of whose messages only a part has come."""
        return (each.member for each in self.half_received if each.member)

    def wait_closed(self, timeout: float) -> Deferred[None]:
        """Wait until every connection has ended, and after *timeout* seconds end them."""
        if not self.connections:
            return succeed(None)

        def abort() -> None:
            for connection in tuple(self.connections):
                connection.abort()

        deadline = self.reactor.callLater(timeout, abort)
        closed: Deferred[None] = Deferred()
        closed.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        self._when_closed.append(closed)
        return closed

    def sweep(self) -> None:
        """Ping silent peers and cut those that do not answer; once a second."""
        self.ticks += 1
        for connection, silent in self.keepalive.due(self.ticks):
            if silent < self.keepalive.dead_after:
                connection.send(PING_FRAME)
            else:
                name, client_id = connection.handshake.database, connection.handshake.client_id
                self.observer.report(KeepaliveTimeout(name, client_id, silent))
                connection.abort()
