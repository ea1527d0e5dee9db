"""What a relay does before it is handed over, while it still serves: connections with TLS.

The state of a TLS session cannot be passed on. So these connections are closed with 1012
("service restart") at a moment when nothing is under way in their databases; what their clients
send before they have closed, too, is received. They connect again at once, wait in the queue of
the port, and resume their sessions at the successor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.task import deferLater

from acebase_ipc.http.channel import Phase
from acebase_ipc.relay.peers import Database
from acebase_ipc.server.composition import Parts
from acebase_ipc.server.listener import Listener
from acebase_ipc.server.quiet_stop import CLOSE_RESTART, INTERVAL
from acebase_ipc.websocket.connection import PeerConnection
from acebase_ipc.websocket.fastpath import WebSocketConnection
from acebase_ipc.websocket.handing_over import movable, socket_transport

HANDSHAKE: Final = 1.0
"""Seconds for clients that have just connected to become peers, or to be refused."""

CLOSE: Final = 3.0
"""Seconds for all to close; each is aborted after two."""


class Preparation:
    """Closes the connections that cannot be handed over; :meth:`undo` lets the relay go on.

    :param listeners: of the peers' ports.
    :param clock: returns monotonic seconds.
    """

    def __init__(
        self,
        parts: Parts,
        listeners: Sequence[Listener],
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        self._parts = parts
        self._listeners = [each for each in listeners if each.is_secure]
        self._reactor = reactor
        self._clock = clock

    async def run(self) -> None:
        """Close them; nothing is done, and no time passes, if there are none."""
        for listener in self._listeners:
            listener.pause()
        await self._wait(lambda: not self._has_newcomers(), HANDSHAKE)
        connections = self._immovable()
        if not connections:
            return
        quiesce = self._parts.relay.quiesce
        quiesce.begin(_databases(connections), self._clock())
        await self._wait(lambda: quiesce.is_quiet(self._clock()), quiesce.timeout)
        quiesce.report_unfinished(self._clock())
        connections = self._immovable()
        for connection in connections:
            connection.suspend(CLOSE_RESTART, "the relay restarts")
        left = self._parts.connections.factory.connections
        await self._wait(lambda: left.isdisjoint(connections), CLOSE)

    def undo(self) -> None:
        """Accept connections again, and withhold nothing any more."""
        self._parts.relay.quiesce.end()
        for listener in self._listeners:
            listener.resume()

    async def _wait(self, is_done: Callable[[], bool], timeout: float) -> None:
        """Wait until something is done, at most *timeout* seconds."""
        end = self._clock() + timeout
        while not is_done() and self._clock() < end:
            await deferLater(self._reactor, INTERVAL)

    def _has_newcomers(self) -> bool:
        return any(
            channel.phase is not Phase.IDLE and socket_transport(channel.transport) is None
            for channel in self._parts.site.channels
        )

    def _immovable(self) -> list[WebSocketConnection]:
        can_move = {connection for connection, _ in movable(self._parts.connections)}
        return [
            each
            for each in self._parts.connections.factory.connections
            if each not in can_move and each.is_open_now
        ]


def _databases(connections: Sequence[WebSocketConnection]) -> list[Database]:
    """Return the databases of the peers that have these connections."""
    listeners = (each.listener for each in connections)
    peers = (each.peer for each in listeners if isinstance(each, PeerConnection))
    return list({peer.database: None for peer in peers if peer is not None})
