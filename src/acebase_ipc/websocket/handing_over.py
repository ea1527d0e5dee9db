"""Hands the WebSockets of a relay over to another process, which has their descriptors, too.

A connection is exported as plain values and stays as it is, until it is released: if the other
process fails before, nothing has happened. Only connections without TLS can be handed over.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from twisted.internet import unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.internet.tcp import Server
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket.connection import PeerConnection
from acebase_ipc.websocket.connections import PeerConnections
from acebase_ipc.websocket.fastpath import WebSocketConnection

Address = tuple[Any, ...]
"""An address as plain values: ``"unix"`` and a path, or a host, a port and what else IPv6 has."""

UNIX: Final = "unix"


class Opened(NamedTuple):
    """What stays the same about the WebSocket of a peer.

    :ivar family: the address family of its socket.
    :ivar address: its other end.
    :ivar client: the client behind a trusted proxy; ``None`` without one.
    :ivar database: with the next four, the handshake.
    :ivar tokens: the tokens that the client presented.
    :ivar is_proxied: whether the client is connected through a proxy.
    """

    family: int
    address: Address
    client: Address | None
    database: str
    client_id: str
    dialect: str
    dialect_settled: bool
    restarts: bool
    tokens: Sequence[str]
    is_proxied: bool


class ConnectionState(NamedTuple):
    """What changes about it.

    :ivar number: its number among all connections.
    :ivar age: seconds since it was opened.
    :ivar silence: ticks since something arrived.
    :ivar since_ping: ticks since it was to be pinged.
    :ivar pings: how many it was sent.
    :ivar pinged: the first one that is not answered, and for how many seconds.
    :ivar lag: seconds that the client has taken to answer the last ping.
    :ivar feed_size: bytes that Autobahn is fed at a time.
    :ivar pong: the payload of a ping to answer when there is room.
    :ivar received: the bytes after the last message that was passed on.
    :ivar unwritten: the bytes that the system has not accepted yet.
    :ivar slices: what follows these: the number of each frame among those of all connections,
        and the bytes that are left of it.
    """

    number: int
    age: float
    silence: int
    since_ping: int
    pings: int
    pinged: Sequence[Any] | None
    lag: float | None
    feed_size: int
    pong: bytes | None
    received: bytes
    unwritten: bytes
    slices: Sequence[Sequence[int]]


class Frames:
    """The large frames that connections write in slices; one that many write is here once.

    :ivar frames: the frames, by their number.
    """

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self._numbers: dict[int, int] = {}

    def number(self, frame: bytes) -> int:
        """Return the number of *frame*."""
        known = self._numbers.get(id(frame))
        if known is None:
            known = self._numbers[id(frame)] = len(self.frames)
            self.frames.append(frame)
        return known


def socket_transport(transport: Any) -> Server | None:
    """Return the transport of a socket that has *transport*; ``None`` if that uses TLS."""
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, TLSMemoryBIOProtocol):
            return None
        transport = transport.transport
    is_plain = isinstance(transport, Server) and not transport.TLS
    return transport if is_plain else None


def plain_address(address: IAddress) -> Address:
    """Return *address* as plain values."""
    if isinstance(address, IPv4Address):
        return address.host, address.port
    if isinstance(address, IPv6Address):
        return address.host, address.port, address.flowInfo, address.scopeID
    assert isinstance(address, UNIXAddress)
    return UNIX, address.name


def address_of(plain: Address) -> IAddress:
    """Return the address of its *plain* values."""
    if plain[0] == UNIX:
        return UNIXAddress(plain[1])
    return IPv4Address("TCP", *plain) if len(plain) == 2 else IPv6Address("TCP", *plain)


class _Deaf:
    """A reactor that does not read for a new transport."""

    @staticmethod
    def addReader(transport: object) -> None:
        """Do nothing."""


def make_transport(
    handle: socket.socket,
    protocol: Any,
    address: Address,
    server: Any,
    reactor: Any,
    reads: bool = True,
) -> Server:
    """Return a transport for the connected socket *handle*.

    Unlike ``adoptStreamConnection`` it uses this very descriptor, and no duplicate.

    :param server: the port that has accepted it, if that is known.
    :param reads: whether it begins to read.
    """
    first: Any = reactor if reads else _Deaf
    transport: Server
    if address[0] == UNIX:
        transport = unix.Server(handle, protocol, address[1], server, 0, first)
    else:
        transport = Server(handle, protocol, address, server, 0, first)
    transport.reactor = reactor
    return transport


def is_movable(connection: WebSocketConnection) -> bool:
    """Return whether *connection* is open, and that of a peer."""
    return connection.is_open_now and getattr(connection.listener, "is_used", False)


def movable(connections: PeerConnections) -> list[tuple[WebSocketConnection, Server]]:
    """Return the connections of peers that can be handed over, with their sockets' transports."""
    factory = connections.factory
    if not (factory.knows_parser and factory.knows_transport):
        return []
    found = []
    for connection in filter(is_movable, factory.connections):
        transport = socket_transport(connection.transport)
        if transport is not None and transport.connected and not transport.disconnecting:
            found.append((connection, transport))
    return found


def describe(connection: WebSocketConnection, transport: Server) -> Opened:
    """Return what stays the same about a *connection* that is :func:`movable`."""
    listener: Any = connection.listener
    handshake = listener.handshake
    client = connection._client
    if client is None and transport is not connection.transport:
        client = connection.transport.getPeer()  # as its PROXY header tells
    return Opened(
        transport.socket.family,
        _address_of_transport(transport),
        None if client is None else plain_address(client),
        handshake.database,
        handshake.client_id,
        handshake.dialect.value,
        handshake.dialect_settled,
        handshake.restarts,
        listener.tokens,
        listener._is_proxied,
    )


def _address_of_transport(transport: Server) -> Address:
    if isinstance(transport, unix.Server):
        return UNIX, transport.hostname
    client: Address = transport.client
    return client


def export(
    connection: WebSocketConnection, transport: Server, number: int, frames: Frames, now: float
) -> ConnectionState:
    """Return the state of a *connection* that is :func:`movable`, after all was flushed.

    :param number: its number among all connections.
    :param frames: receives the large frames that it writes.
    :param now: monotonic seconds.
    """
    listener: Any = connection.listener
    ticks, incoming = connection.factory.ticks, connection._incoming
    pinged, slices = listener._pinged, connection._slices
    return ConnectionState(
        number,
        now - listener._since,
        ticks - connection.last_received,
        ticks - connection.last_ping,
        listener._pings,
        None if pinged is None else (pinged[0], now - pinged[1]),
        connection.lag,
        connection.feed_size,
        connection._pong,
        b"" if incoming is None else incoming.raw,
        _autobahn.unwritten(transport),
        () if slices is None else [(frames.number(obj), left) for obj, left in slices.rest()],
    )


def build(
    connections: PeerConnections, opened: Opened, handle: socket.socket
) -> WebSocketConnection:
    """Return a connection that another process has *opened*; the reactor does not run yet.

    :param handle: its socket.
    """
    handshake = Handshake(
        opened.database,
        opened.client_id,
        Dialect(opened.dialect),
        opened.dialect_settled,
        opened.restarts,
    )
    tokens = tuple(opened.tokens)
    listener = PeerConnection(connections.surroundings, handshake, tokens, opened.is_proxied)
    client = None if opened.client is None else address_of(tuple(opened.client))
    connection = WebSocketConnection(connections.factory, listener, client)
    connection.transport = make_transport(
        handle, connection, tuple(opened.address), None, connection.factory.reactor, reads=False
    )
    connection.begin()
    return connection


def discard(connection: WebSocketConnection) -> None:
    """Forget a connection that was built, and has ended before it was handed over."""
    connection._stop_reading()
    _autobahn.detach(connection.transport)


def adopt(
    connections: PeerConnections,
    connection: WebSocketConnection,
    state: ConnectionState,
    now: float,
) -> None:
    """Give a *connection* that was built its *state*.

    :param now: monotonic seconds.
    """
    listener: Any = connection.listener
    connection.state = connection.STATE_OPEN
    connection.lag = state.lag
    connection.feed_size = state.feed_size
    connection._pong = state.pong
    connections.adopt(connection, state.silence, state.since_ping)
    pinged = None if state.pinged is None else (state.pinged[0], now - state.pinged[1])
    listener.adopt(connection, now - state.age, state.pings, pinged)


def resume(
    connection: WebSocketConnection, state: ConnectionState, frames: Sequence[bytes]
) -> None:
    """Go on with a *connection* that was adopted, and that no other process uses any more.

    What was written and received in part comes first, then what waits for the peer.

    :param frames: the large frames of all connections.
    """
    if state.unwritten:
        connection._write_later(state.unwritten)
    for number, left in state.slices:
        frame = frames[number]
        connection._write_later(memoryview(frame)[len(frame) - left :])
    if not connection.is_full:
        connection.resumeProducing()
    if state.received:
        last_received = connection.last_received
        connection.dataReceived(state.received)
        connection.last_received = last_received


def release(connection: WebSocketConnection, transport: Server) -> None:
    """Forget a *connection* that another process has now; it is neither closed nor shut down."""
    listener: Any = connection.listener
    listener.forget()
    connection._cancel_deadline()
    connection._drop_received()
    connection._stop_reading()
    connection._direct = connection._socket = None
    connection.state = connection.STATE_CLOSED
    connection.factory.rotation.discard(connection)
    connection.factory.closed(connection)
    _autobahn.detach(transport)
