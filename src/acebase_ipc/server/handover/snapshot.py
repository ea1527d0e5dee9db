"""The connections that a relay hands over, and what it knows."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet import unix
from twisted.internet.tcp import Server
from twisted.logger import Logger

from acebase_ipc.admin.history import History
from acebase_ipc.admin.past_events import Plain, noted_of, plain
from acebase_ipc.http.relay_channel import RelayChannel
from acebase_ipc.proxy_protocol import ProxiedProtocol
from acebase_ipc.relay.connection import Connection
from acebase_ipc.server.composition import Parts
from acebase_ipc.server.listener import Listener
from acebase_ipc.server.state_codec import decode
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket.connection import watch_network
from acebase_ipc.websocket.fastpath import WebSocketConnection
from acebase_ipc.websocket.handing_over import (
    UNIX,
    Address,
    ConnectionState,
    Frames,
    Opened,
    address_of,
    adopt,
    build,
    describe,
    discard,
    export,
    is_movable,
    make_transport,
    movable,
    release,
    resume,
    socket_transport,
)

log = Logger()


Batch = tuple[list[Opened | None], list[int]]
"""Descriptors, and what is known of the WebSocket of each; ``None`` for an HTTP connection."""


class Departure:
    """The connections of a relay on their way to a successor.

    Those that are open are announced while the relay still serves, as the successor needs most
    time to build them. Then a snapshot is taken, with what has changed since.

    :param listeners: of the peers' ports.
    :param history: has the events of the past, if the relay keeps them.
    """

    def __init__(
        self, parts: Parts, listeners: Sequence[Listener], history: History | None
    ) -> None:
        self._parts = parts
        self._listeners = listeners
        self._history = history
        self._untold = deque(() if history is None else history.past())
        self._told = 0 if history is None else history.last
        self._numbers: dict[WebSocketConnection, int] = {}
        self._unannounced = deque(movable(parts.connections))
        self._count = 0

    @property
    def total(self) -> int:
        """How many connections there are, with those that cannot be handed over."""
        return len(self._parts.connections.factory.connections) + len(self._parts.site.channels)

    def past(self, most: int) -> list[Plain]:
        """Return the next events of the past, at most so many; none if all are told of."""
        untold = self._untold
        return [plain(untold.popleft()) for _ in range(min(most, len(untold)))]

    def announce(self, most: int) -> Batch:
        """Return the next connections, at most so many; none if all are announced."""
        opened: list[Opened | None] = []
        descriptors: list[int] = []
        while self._unannounced and len(opened) < most:
            connection, transport = self._unannounced.popleft()
            if is_movable(connection) and transport.connected:
                self._number(connection, transport, opened, descriptors)
        return opened, descriptors

    def _number(
        self,
        connection: WebSocketConnection,
        transport: Server,
        opened: list[Opened | None],
        descriptors: list[int],
    ) -> None:
        self._numbers[connection] = self._count
        self._count += 1
        opened.append(describe(connection, transport))
        descriptors.append(transport.fileno())

    def take(self, now: float) -> Snapshot:
        """Return all connections; it changes nothing, but that messages are written.

        :param now: monotonic seconds.
        """
        parts, history = self._parts, self._history
        for connection in parts.connections.factory.connections:
            connection.flush()
        frames = Frames()
        opened: list[Opened | None] = []
        descriptors: list[int] = []
        websockets = movable(parts.connections)
        for connection, transport in websockets:
            if connection not in self._numbers:
                self._number(connection, transport, opened, descriptors)
        numbers = self._numbers
        states = [
            export(connection, transport, numbers[connection], frames, now)
            for connection, transport in websockets
        ]
        places = {id(each.port): each.place for each in self._listeners}
        channels, heads = [], []
        for channel in parts.site.channels:
            found = _export_channel(channel, places)
            if found is not None:
                transport, head = found
                channels.append((channel, transport))
                heads.append((self._count, *head))
                self._count += 1
                opened.append(None)
                descriptors.append(transport.fileno())
        content = {
            "websockets": list(zip(*states, strict=True)),  # a list of each value takes less time
            "frames": frames.frames,
            "channels": heads,
            "events": [] if history is None else list(map(plain, history.past(self._told))),
            "dead_after": parts.connections.surroundings.dead_after,
        }
        return Snapshot(websockets, channels, (opened, descriptors), content)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All connections of a relay, and their state.

    :ivar batch: those that were not announced.
    :ivar content: the state of all as plain values.
    """

    websockets: Sequence[tuple[WebSocketConnection, Server]]
    channels: Sequence[tuple[RelayChannel, Server]]
    batch: Batch
    content: dict[str, Any]

    def release(self) -> None:
        """Forget the connections, which another process has now."""
        for connection, transport in self.websockets:
            release(connection, transport)
        for channel, transport in self.channels:
            channel.forget()
            _autobahn.detach(transport)


def _export_channel(
    channel: RelayChannel, places: Mapping[int, str]
) -> tuple[Server, tuple[str, int, Address, bytes]] | None:
    """Return the transport and the state of an HTTP connection that can be handed over."""
    received = channel.unanswered
    transport = socket_transport(channel.transport)
    if received is None or transport is None or _autobahn.unwritten(transport):
        return None
    place = places.get(id(getattr(transport, "server", None)))
    if place is None or not transport.connected or transport.disconnecting:
        return None
    if isinstance(channel.transport, ProxiedProtocol):
        received = channel.transport.begin + received
    address: Address = (
        (UNIX, transport.hostname) if isinstance(transport, unix.Server) else transport.client
    )
    return transport, (place, transport.socket.family, address, received)


class Arrival:
    """The connections of a predecessor on their way to this relay.

    They are used only from :meth:`resume` on.

    :param history: keeps the events of the past, too, if the relay keeps events.
    """

    def __init__(self, parts: Parts, history: History | None) -> None:
        self._parts = parts
        self._history = history
        self._announced: list[WebSocketConnection | int] = []
        self._frames: list[bytes] = []
        self._websockets: list[tuple[WebSocketConnection, ConnectionState]] = []
        self._channels: list[tuple[str, Address, bytes, socket.socket]] = []

    def told_of(self, events: Sequence[Any]) -> None:
        """Note *events* of the past; those that this version does not know are left out."""
        if self._history is not None:
            known = map(noted_of, events)
            self._history.adopt([each for each in known if each is not None])

    def announced(self, opened: Sequence[Sequence[Any] | None], descriptors: Sequence[int]) -> None:
        """Build connections of which the predecessor has sent the *descriptors*."""
        for each, descriptor in zip(opened, descriptors, strict=True):
            if each is None:
                self._announced.append(descriptor)
            else:
                known = Opened(*each)
                handle = _socket(known.family, descriptor)
                self._announced.append(build(self._parts.connections, known, handle))

    def adopt_connections(self, content: dict[str, Any]) -> None:
        """Adopt the state of all connections.

        :raises Exception: if it cannot be used.
        """
        parts, announced = self._parts, self._announced
        now = parts.site.context.clock()
        self.told_of(content["events"])
        self._frames = content["frames"]
        for state in map(ConnectionState._make, zip(*content["websockets"], strict=True)):
            connection: Any = announced[state.number]
            adopt(parts.connections, connection, state, now)
            self._websockets.append((connection, state))
        for number, place, family, address, received in content["channels"]:
            handle = _socket(family, announced[number])
            self._channels.append((place, tuple(address), received, handle))
        dead_after = parts.connections.surroundings.dead_after
        if dead_after != content["dead_after"]:
            for connection, _ in self._websockets:
                watch_network(connection, dead_after)
        adopted = {connection for connection, _ in self._websockets}
        for left in announced:
            if isinstance(left, WebSocketConnection) and left not in adopted:
                discard(left)
        self._announced = []

    def adopt(self, relay: bytes, now: float) -> None:
        """Adopt what the relay of the predecessor knows of the peers, and of all else.

        :param now: monotonic seconds.
        :raises Exception: if it cannot be used.
        """
        connections: dict[tuple[str, str], Connection] = {}
        for connection, _ in self._websockets:
            listener: Any = connection.listener
            handshake = listener.handshake
            connections[handshake.database, handshake.client_id] = connection
        self._parts.relay.adopt(decode(relay), now, connections)
        for connection, _ in self._websockets:
            listener = connection.listener
            handshake = listener.handshake
            peer = self._parts.relay.registry.peer(handshake.database, handshake.client_id)
            listener.belong_to(peer, connection)

    def close(self) -> None:
        """Close the descriptors, as the predecessor has ended too early."""
        for each in self._announced:
            if isinstance(each, int):
                os.close(each)
            else:
                discard(each)
        for connection, _ in self._websockets:
            release(connection, connection.transport)
        for _, _, _, handle in self._channels:
            handle.close()

    def __len__(self) -> int:
        return len(self._websockets)

    def resume(self, listeners: Sequence[Listener]) -> None:
        """Go on with the connections, because the predecessor does not use them any more.

        :param listeners: of the peers' ports.
        """
        for connection, state in self._websockets:
            try:
                resume(connection, state, self._frames)
            except Exception:
                connection.crash("going on with a connection")
        ports = {each.place: each.port for each in listeners}
        for place, address, received, handle in self._channels:
            try:
                self._resume_channel(ports.get(place), address, received, handle)
            except Exception:
                log.failure("going on with a connection failed")
                handle.close()

    def _resume_channel(
        self, port: Any, address: Address, received: bytes, handle: socket.socket
    ) -> None:
        """Let a *port* accept what was accepted already, and receive what was *received*."""
        protocol = None if port is None else port.factory.buildProtocol(address_of(address))
        if protocol is None:
            handle.close()
            return
        reactor = self._parts.site.context.reactor
        protocol.makeConnection(make_transport(handle, protocol, address, port, reactor))
        if received:
            protocol.dataReceived(received)


def _socket(family: int, descriptor: Any) -> socket.socket:
    """Return the socket of a *descriptor*; the predecessor has set that it does not block."""
    return socket.socket(family, socket.SOCK_STREAM, 0, descriptor)
