"""All that a relay hands over beside its listening sockets: connections, and what it knows."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet import unix
from twisted.internet.tcp import Server
from twisted.logger import Logger

from acebase_ipc.http.relay_channel import RelayChannel
from acebase_ipc.relay.peers import Connection
from acebase_ipc.server.composition import Parts
from acebase_ipc.server.listener import Listener
from acebase_ipc.server.proxy_protocol import ProxiedProtocol
from acebase_ipc.server.state_codec import decode, encode
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket.fastpath import WebSocketConnection
from acebase_ipc.websocket.handing_over import (
    UNIX,
    Address,
    ConnectionState,
    Frames,
    address_of,
    adopt,
    export,
    make_transport,
    movable,
    release,
    resume,
    socket_transport,
)

log = Logger()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The connections of a relay, and their state.

    :ivar content: the state as plain values.
    """

    websockets: Sequence[tuple[WebSocketConnection, Server]]
    channels: Sequence[tuple[RelayChannel, Server]]
    content: dict[str, Any]

    @property
    def descriptors(self) -> list[int]:
        """The descriptors of the connections, in the order of the state."""
        return [transport.fileno() for _, transport in (*self.websockets, *self.channels)]

    def release(self) -> None:
        """Forget the connections, which another process has now."""
        for connection, transport in self.websockets:
            release(connection, transport)
        for channel, transport in self.channels:
            channel.forget()
            _autobahn.detach(transport)


def take(parts: Parts, listeners: Sequence[Listener], now: float) -> Snapshot:
    """Return what a relay hands over; it changes nothing, but that messages are written.

    :param listeners: of the peers' ports.
    :param now: monotonic seconds.
    """
    for connection in parts.connections.factory.connections:
        connection.flush()
    frames = Frames()
    websockets = movable(parts.connections)
    states = [export(connection, transport, frames, now) for connection, transport in websockets]
    places = {id(each.port): each.place for each in listeners}
    channels, heads = [], []
    for channel in parts.site.channels:
        found = _export_channel(channel, places)
        if found is not None:
            transport, head = found
            channels.append((channel, transport))
            heads.append(head)
    content = {
        "relay": encode(parts.relay.export(now)),
        "websockets": states,
        "frames": frames.frames,
        "channels": heads,
    }
    return Snapshot(websockets, channels, content)


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


class Adopted:
    """The connections that a successor has adopted, and does not use before :meth:`resume`.

    :param content: what the predecessor has sent.
    :param descriptors: of the connections.
    :raises Exception: if the content cannot be used.
    """

    def __init__(
        self, parts: Parts, content: dict[str, Any], descriptors: list[int], now: float
    ) -> None:
        self._parts = parts
        self._frames: list[bytes] = content["frames"]
        numbers = iter(descriptors)
        self._websockets = []
        states = [ConnectionState(*each) for each in content["websockets"]]
        for state in states:
            handle = _socket(state.family, numbers)
            self._websockets.append((adopt(parts.connections, state, handle, now), state))
        self._channels = [
            (place, tuple(address), received, _socket(family, numbers))
            for place, family, address, received in content["channels"]
        ]
        connections: dict[tuple[str, str], Connection] = {
            (state.database, state.client_id): connection for connection, state in self._websockets
        }
        parts.relay.adopt(decode(content["relay"]), now, connections)
        for connection, state in self._websockets:
            listener: Any = connection.listener
            listener.peer = parts.relay.registry.peer(state.database, state.client_id)
            connection.traffic = listener.peer.traffic

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


def _socket(family: int, numbers: Iterator[int]) -> socket.socket:
    """Return the next socket; the predecessor has set that it does not block."""
    return socket.socket(family, socket.SOCK_STREAM, 0, next(numbers))
