"""The connection of a peer: passes messages of its WebSocket to the relay."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from acebase_ipc.protocol.errors import MessageRefused
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.connection import Connection
from acebase_ipc.relay.events import ConnectionClosed, Observer, ProtocolViolated
from acebase_ipc.relay.histogram import Histogram
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.relay import Relay
from acebase_ipc.websocket.fastpath import WebSocketConnection
from acebase_ipc.websocket.network import round_trip

CHECK = b"check"
"""The payload of a ping that checks whether the holder of an id in conflict is alive."""

log = Logger()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all peers' connections of a relay share.

    :ivar clock: returns monotonic seconds.
    :ivar wall: returns the time in milliseconds since 1970.
    :ivar dead_after: seconds without received data after which a connection is dead.
    :ivar lags: how long the peers' processes have taken to answer pings.
    """

    relay: Relay
    observer: Observer
    reactor: IReactorTime
    clock: Callable[[], float]
    wall: Callable[[], int]
    dead_after: int
    lags: Histogram = field(default_factory=Histogram)


class PeerConnection:
    """Makes an accepted client a peer when its WebSocket is open, and relays its messages.

    :param is_proxied: whether the client is connected through a proxy.
    :ivar handshake: the client's handshake.
    :ivar tokens: the tokens that it presented.
    :ivar peer: its session, while this connection belongs to one.
    """

    __slots__ = (
        "_check_timeout",
        "_checks",
        "_is_proxied",
        "_known_as",
        "_pinged",
        "_pings",
        "_since",
        "_surroundings",
        "_websocket",
        "handshake",
        "peer",
        "tokens",
    )

    def __init__(
        self,
        surroundings: Surroundings,
        handshake: Handshake,
        tokens: tuple[str, ...],
        is_proxied: bool = False,
    ) -> None:
        self._surroundings = surroundings
        self._is_proxied = is_proxied
        self._websocket: WebSocketConnection | None = None
        self._known_as: Connection | None = None  # what the relay knows the WebSocket as
        self._checks: tuple[Callable[[bool], object], ...] = ()
        self._check_timeout: IDelayedCall | None = None
        self._pinged: tuple[int, float] | None = None  # the first unanswered ping, and when
        self._pings = 0
        self._since = 0.0
        self.handshake = handshake
        self.tokens = tokens
        self.peer: Peer | None = None

    def opened(self, connection: WebSocketConnection) -> None:
        """Make the client a peer, and welcome it."""
        self._websocket = connection
        self._since = self._surroundings.clock()
        watch_network(connection, self._surroundings.dead_after)
        sessions = self._surroundings.relay.sessions
        admitted = sessions.admit(self.handshake, connection, self._surroundings.wall())
        self.belong_to(admitted.peer, connection)
        sessions.welcome(admitted)

    def belong_to(self, peer: Peer, connection: WebSocketConnection) -> None:
        """Let *connection* receive for *peer*, and count what that is sent."""
        self.peer = peer
        self._known_as = peer.connection
        connection.receive = self._surroundings.relay.receiver(peer)
        connection.traffic = peer.traffic

    @property
    def is_used(self) -> bool:
        """Whether a peer is sent messages over this connection."""
        return self.peer is not None and self.peer.connection is self._known_as

    def adopt(
        self,
        connection: WebSocketConnection,
        since: float,
        pings: int,
        pinged: tuple[int, float] | None,
    ) -> None:
        """Belong to a *connection* that another process has opened; :meth:`belong_to` follows.

        :param since: when it was opened, in monotonic seconds.
        :param pings: how many it was sent.
        :param pinged: the first one that is not answered, and when it was sent.
        """
        self._websocket = connection
        self._since = since
        self._pings = pings
        self._pinged = pinged

    def forget(self) -> None:
        """Belong to no peer any more, which another process has; nobody is told."""
        self.peer = None
        self._checks = ()
        self._answer_checks(alive=False)

    def refused(self, refusal: MessageRefused) -> None:
        """Close the connection with the code for the reason."""
        code, reason = refusal.close_code, str(refusal)
        if self._websocket is not None:
            database, client_id = self.handshake.database, self.handshake.client_id
            address = self._websocket.address
            self._surroundings.observer.report(
                ProtocolViolated(database, client_id, code, reason, address)
            )
            self._websocket.close(code, reason)

    def received_binary(self) -> None:
        """Count a binary message, which is not relayed."""
        if self.peer is not None:
            self._surroundings.relay.router.ignore_binary(self.peer)

    def drained(self) -> None:
        """Send the messages that wait for the peer."""
        if self.peer is not None and self.is_used:
            self._surroundings.relay.delivery.drain(self.peer)

    def closing(self, code: int | None, by_peer: bool) -> None:
        """Tell the relay that the connection is ending.

        :param code: of the other end's close frame; ``None`` if it sent none.
        :param by_peer: whether the other end has closed or reset it without a close frame.
        """
        peer, websocket = self.peer, self._websocket
        try:
            if peer is not None and websocket is not None:
                if code is not None or self.is_used:
                    self.peer = None  # the relay needs no further notice
                self._tell_lost(peer, websocket, code, by_peer)
        finally:
            self._answer_checks(alive=False)

    def _tell_lost(
        self, peer: Peer, websocket: WebSocketConnection, code: int | None, by_peer: bool
    ) -> None:
        sessions, now = self._surroundings.relay.sessions, self._surroundings.clock()
        # The FIN may be the proxy's. After a long silence it was the system that gave up.
        is_heard = websocket.silence < self._surroundings.dead_after - 1
        has_ended = by_peer and is_heard and not self._is_proxied
        try:
            sessions.lost(peer, self._known_as or websocket, code, now, has_ended)
        except Exception:
            log.failure("{doing} failed", doing="losing a connection")
            sessions.end({peer: now})  # otherwise it would collect messages indefinitely

    def closed(self, code: int, reason: str, is_clean: bool) -> None:
        """Report that the connection has ended."""
        if self._websocket is not None:
            surroundings, handshake = self._surroundings, self.handshake
            surroundings.observer.report(
                ConnectionClosed(
                    handshake.database,
                    handshake.client_id,
                    self._websocket.address,
                    code,
                    reason or "no reason given",
                    is_clean,
                    surroundings.clock() - self._since,
                )
            )

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        """Check whether the other end answers a ping within *timeout* seconds."""
        self._checks += (answer,)
        if self._check_timeout is None and self._websocket is not None:
            call_later = self._surroundings.reactor.callLater
            self._check_timeout = call_later(timeout, self._answer_checks, alive=False)
            self._websocket.send_ping(CHECK)

    def ping(self) -> None:
        """Ping the other end, and measure how long its process takes to answer.

        If the ping has to wait until the connection has room, nothing is measured.
        """
        websocket = self._websocket
        if websocket is not None:
            self._pings += 1
            if websocket.is_full:
                self._pinged = None
            elif self._pinged is None:  # else an earlier ping is not answered yet
                self._pinged = self._pings, self._surroundings.clock()
            websocket.send_ping(b"%d" % self._pings)

    def received_pong(self, payload: bytes) -> None:
        """Note the answer to a ping, and to those before, which may stay unanswered (RFC 6455)."""
        if payload == CHECK:
            self._pinged = None
            self._answer_checks(alive=True)
        elif self._pinged is not None and payload.isdigit() and self._websocket is not None:
            number, since = self._pinged
            if int(payload) >= number:
                self._pinged = None
                self._measured(self._websocket, self._surroundings.clock() - since)

    def _measured(self, websocket: WebSocketConnection, waited: float) -> None:
        network = round_trip(websocket.transport)
        if network is not None:
            websocket.lag = lag = max(0.0, waited - network)
            self._surroundings.lags.observe(lag)

    def _answer_checks(self, alive: bool) -> None:
        timeout, self._check_timeout = self._check_timeout, None
        if timeout is not None and timeout.active():
            timeout.cancel()
        checks, self._checks = self._checks, ()
        for answer in checks:
            try:
                answer(alive)
            except Exception:
                log.failure("{doing} failed", doing="answering a check")


def watch_network(connection: WebSocketConnection, dead_after: int) -> None:
    """Enable the system's own detection of dead connections, where it has one."""
    transport = connection.transport
    try:
        transport.setTcpKeepAlive(True)
        handle = transport.getHandle()
        if isinstance(handle, socket.socket) and hasattr(socket, "TCP_USER_TIMEOUT"):
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_after * 1000)
    except (AttributeError, OSError):
        pass  # not TCP, or not supported: the pings of the relay remain
