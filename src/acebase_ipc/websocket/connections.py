"""Upgrades, counts, keeps alive and closes the peers' connections of one relay."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.web.server import Request

from acebase_ipc.addresses import host_of
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import KeepaliveTimeout, Observer
from acebase_ipc.relay.limits import MAX_UTF8_PER_UNIT, Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.work import SLICE
from acebase_ipc.rotation import Rotation
from acebase_ipc.websocket.connection import PeerConnection, Surroundings
from acebase_ipc.websocket.factory import WebSocketFactory
from acebase_ipc.websocket.fastpath import WebSocketConnection
from acebase_ipc.websocket.keepalive import Keepalive
from acebase_ipc.websocket.upgrade import switching_protocols, take_transport

CLOSE_POLICY = 1008

UPGRADE = 320
"""Units of work that an upgrade counts. With the request it takes about 1 ms, but many clients come
back together, and to let one of them wait costs time, too: some 12 are upgraded in a turn."""

PING = 16
"""Units of work of a ping, which takes about 20 microseconds."""

log = Logger()


class PeerConnections:
    """Upgrades accepted requests to WebSockets, and ends those that are dead.

    :param relay: the relay of the peers.
    :param rotation: divides the time among connections.
    :param clock: returns monotonic seconds.
    :param wall: returns the time in milliseconds since 1970.
    :ivar max_connections: how many may be open.
    :ivar factory: what the WebSockets share.
    :ivar surroundings: what their listeners share.
    :ivar lags: how long the peers' processes have taken to answer pings, without the network.
    """

    def __init__(
        self,
        relay: Relay,
        limits: Limits,
        observer: Observer,
        rotation: Rotation,
        reactor: IReactorTime,
        clock: Callable[[], float],
        wall: Callable[[], int],
    ) -> None:
        interval, timeout = limits.keepalive_interval, limits.keepalive_timeout
        dead_after = math.ceil(interval + timeout)
        self._relay = relay
        self._observer = observer
        self.surroundings = Surroundings(relay, observer, reactor, clock, wall, dead_after)
        self.lags = self.surroundings.lags
        # The UTF-16 code units of a message are counted when it is complete.
        self.factory = WebSocketFactory[WebSocketConnection](
            relay.router.max_payload * MAX_UTF8_PER_UNIT,
            relay.memory,
            relay.delivery.enforce_memory_limit,
            self,
            rotation,
            reactor,
            clock,
        )
        self._keepalive = Keepalive[WebSocketConnection](math.ceil(interval), dead_after)
        self.max_connections = limits.max_connections
        self._max_address_connections = limits.max_address_connections
        self._addresses: Counter[str] = Counter()
        self._unpinged: deque[WebSocketConnection] = deque()

    def check_room(self, address: IAddress | None) -> None:
        """Check that one more connection from *address* may be opened.

        :raises Overloaded: if there are too many.
        """
        limit = self._max_address_connections
        if len(self.factory.connections) >= self.max_connections:
            raise Overloaded("Too many connections: try again later")
        if limit is not None and self._addresses[host_of(address)] >= limit:
            raise Overloaded("Too many connections from this address: try again later")

    def count(self, host: str | None = None) -> int:
        """How many connections are open, from *host* or, by default, in total."""
        return len(self.factory.connections) if host is None else self._addresses[host]

    def upgrade(self, request: Request, handshake: Handshake, tokens: tuple[str, ...]) -> None:
        """Turn *request* into the WebSocket of an accepted *handshake*."""
        # The relay's own Site counts its connections; another Site does not.
        rest = getattr(request.channel, "upgraded", bytes)()
        listener = PeerConnection(self.surroundings, handshake, tokens, _is_proxied(request))
        self.factory.work.units += UPGRADE
        client = request.getClientAddress()
        is_served = client != request.channel.getPeer()  # by a trusted proxy
        connection = WebSocketConnection(self.factory, listener, client if is_served else None)
        connection.open(take_transport(request, connection), switching_protocols(request), rest)

    def opened(self, connection: WebSocketConnection) -> None:
        """Count *connection*, which is open, and keep it alive."""
        self._keepalive.add(connection, self.factory.ticks)
        self._count_address(connection, +1)

    def adopt(self, connection: WebSocketConnection, silence: int, since_ping: int) -> None:
        """Count *connection*, which another process has opened, and keep it alive.

        :param silence: ticks since something arrived.
        :param since_ping: ticks since it was to be pinged.
        """
        self.factory.connections.add(connection)
        self._keepalive.adopt(connection, self.factory.ticks, silence, since_ping)
        self._count_address(connection, +1)

    def closed(self, connection: WebSocketConnection) -> None:
        """Remove *connection*, which was open and has ended."""
        self._keepalive.discard(connection)
        self._count_address(connection, -1)

    def _count_address(self, connection: WebSocketConnection, change: int) -> None:
        if self._max_address_connections is not None:
            host = host_of(connection.client)
            self._addresses[host] += change
            if not self._addresses[host]:
                del self._addresses[host]

    def check_access(self, revoked: Callable[[str, Iterable[str]], str | None]) -> None:
        """End the sessions that would not be admitted any more, and close their connections.

        :param revoked: returns why tokens do not open a database any more, ``None`` if they do.
        """
        ended: list[tuple[WebSocketConnection, Peer | None, str]] = []
        for connection in self.factory.connections:
            listener = connection.listener
            if isinstance(listener, PeerConnection):
                reason = revoked(listener.handshake.database, listener.tokens)
                if reason is not None:
                    ended.append((connection, listener.peer, reason))
        self._relay.sessions.end({peer: None for _, peer, _ in ended if peer is not None})
        for connection, _, reason in ended:
            connection.close(CLOSE_POLICY, reason)

    def wait_closed(self, timeout: float) -> Deferred[None]:
        """Return a Deferred that fires when all connections have ended.

        After *timeout* seconds they are aborted.
        """
        return self.factory.wait_closed(timeout)

    def abort_all(self) -> None:
        """End all connections at once."""
        for connection in tuple(self.factory.connections):
            connection.abort()

    def sweep(self) -> None:
        """Ping the peers whose turn it is, and end the connections that have been silent too long.

        To be called once a second.
        """
        self.factory.ticks += 1
        for connection, silent in self._keepalive.due(self.factory.ticks):
            if silent >= self._keepalive.dead_after:
                self._end(connection, silent)
            elif silent >= self._keepalive.ping_after or not connection.is_full:
                self._unpinged.append(connection)
        if self._unpinged:
            self.factory.rotation.do(self._ping_some)

    def _end(self, connection: WebSocketConnection, silent: int) -> None:
        listener = connection.listener
        try:
            if isinstance(listener, PeerConnection):
                database, client_id = listener.handshake.database, listener.handshake.client_id
                self._observer.report(
                    KeepaliveTimeout(database, client_id, silent, connection.address)
                )
        except Exception:
            log.failure("{doing} failed", doing="ending a connection")
        connection.abort()

    def _ping_some(self) -> bool:
        """Ping a slice of the peers whose turn it is; returns whether others are left.

        Clients that have connected together, such as those of a relay that was restarted, are to
        be pinged together.
        """
        work = self.factory.work
        end = work.units + SLICE
        while self._unpinged and work.units < end:
            connection = self._unpinged.popleft()
            work.units += PING
            try:
                listener = connection.listener
                if isinstance(listener, PeerConnection):
                    listener.ping()
            except Exception:
                log.failure("{doing} failed", doing="pinging a peer")
                connection.abort()
        return bool(self._unpinged)


def _is_proxied(request: Request) -> bool:
    """Return whether *request* shows that it has come through a proxy."""
    if getattr(request.channel.transport, "is_proxied", False):
        return True  # it began with a PROXY header
    names = (name.lower() for name, _ in request.requestHeaders.getAllRawHeaders())
    return any(name in (b"forwarded", b"via") or name.startswith(b"x-forwarded-") for name in names)
