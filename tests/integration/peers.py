"""Peers that see the protocol as it is: the texts that go over the client's own WebSocket."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import quote

from autobahn.websocket.types import ConnectingRequest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS

from acebase_ipc.client.connection import ClientConnection, ClientConnectionFactory
from acebase_ipc.client.endpoint import connect_to, load_trust_root
from acebase_ipc.client.errors import ConnectionClosed, ConnectionProblem
from acebase_ipc.client.url import RelayURL
from tests.integration.relay_process import DEADLINE, Address

reactor: Any = _reactor

MAX_MESSAGE = 1 << 26
"""Bytes: more than any test sends."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended: the server's close code and reason, or 1006."""

    code: int
    reason: str


class Refused(Exception):
    """The handshake was answered with something else than an upgrade; the text says with what."""


class DocumentedPeer:
    """One peer of one database.

    :ivar id: its id.
    """

    def __init__(self, peer_id: str) -> None:
        self.id = peer_id
        self.opened: Deferred[None] = Deferred()
        self._connection: ClientConnection | None = None
        self._closed: Closed | None = None
        self._arrived: deque[str] = deque()
        self._waiting: list[Deferred[None]] = []

    @property
    def transport(self) -> Any:
        """What reads from the socket, or does not."""
        return self.connection.transport

    @property
    def connection(self) -> ClientConnection:
        """The WebSocket."""
        assert self._connection is not None
        return self._connection

    # Called by the connection

    def connection_made(self, connection: ClientConnection) -> None:
        self._connection = connection

    def text_received(self, connection: ClientConnection, text: str, size: int) -> None:
        if not self.opened.called:
            connection.watch()
            self.opened.callback(None)
        self._arrived.append(text)
        self._wake()

    def drained(self, connection: ClientConnection) -> None: ...

    def connection_lost(self, connection: ClientConnection, problem: ConnectionProblem) -> None:
        if isinstance(problem, ConnectionClosed):
            self._closed = Closed(problem.code, problem.reason)
        else:
            self._closed = Closed(1006, str(problem))
        if not self.opened.called:
            self.opened.errback(Refused(str(problem)))
        self._wake()

    # For tests

    def tell(self, message: str) -> None:
        """Send a message as it is."""
        self.connection.send(message.encode())

    async def next(self) -> str:
        """The next message that was or will be received."""
        while not self._arrived:
            assert self._closed is None, f"{self.id} waits for a message, but is {self._closed}"
            await self._change()
        return self._arrived.popleft()

    async def take(self, count: int) -> list[str]:
        """The next *count* messages."""
        return [await self.next() for _ in range(count)]

    async def received(self) -> list[str]:
        """All that the relay had for this peer until it answers a ping."""
        self.tell("ping")
        messages = []
        while (message := await self.next()) != "pong":
            messages.append(message)
        return messages

    async def closed(self) -> Closed:
        """Wait for the end of the connection."""
        while self._closed is None:
            await self._change()
        return self._closed

    async def leave(self) -> None:
        """Close in good order, and wait until that is done."""
        if self._closed is None:
            self.connection.close()
            await self.closed()

    def vanish(self) -> None:
        """End the connection without a word."""
        if self._closed is None:
            self.connection.abort()

    def _change(self) -> Deferred[None]:
        change: Deferred[None] = Deferred()
        self._waiting.append(change)
        return change.addTimeout(DEADLINE, reactor)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(None)


class Peers:
    """Makes peers, and ends them when a test is over."""

    def __init__(self) -> None:
        self._peers: list[DocumentedPeer] = []

    async def connect(
        self, address: Address, peer_id: str, database: str = "library", **query: str
    ) -> DocumentedPeer:
        """A peer whose handshake was accepted; the welcome comes next.

        :raises Refused: if it was not.
        """
        parameters = {"id": peer_id, "v": "1.0.0", **query}
        pairs = "&".join(f"{key}={quote(value, safe='')}" for key, value in parameters.items())
        return await self.connect_to(address, f"/{quote(database)}/connect?{pairs}", peer_id)

    async def connect_to(
        self, address: Address, target: str, peer_id: str = "peer"
    ) -> DocumentedPeer:
        """A peer that asks for exactly *target*, a path and query."""
        peer = DocumentedPeer(peer_id)
        request = ConnectingRequest("localhost", address.port, target)
        factory = ClientConnectionFactory(peer, request, MAX_MESSAGE, reactor, monotonic)
        await client_endpoint(address).connect(factory).addTimeout(DEADLINE, reactor)
        self._peers.append(peer)
        await peer.opened.addTimeout(DEADLINE, reactor)
        return peer

    async def join(
        self, address: Address, peer_id: str, database: str = "library", **query: str
    ) -> DocumentedPeer:
        """A peer that has been welcomed."""
        peer = await self.connect(address, peer_id, database, **query)
        welcome = await peer.next()
        assert welcome.startswith("welcome:"), welcome
        return peer

    async def leave(self) -> None:
        """End all connections, in a way that the relay has noticed when this is done."""
        for peer in self._peers:
            try:
                await peer.leave()
            finally:
                peer.vanish()


def client_endpoint(address: Address) -> IStreamClientEndpoint:
    """An endpoint that connects to *address*."""
    plain = connect_to(RelayURL(False, address.host, address.port, address.path), reactor, None)
    if not address.secure:
        return plain
    assert address.root is not None
    return wrapClientTLS(optionsForClientTLS("localhost", load_trust_root(address.root)), plain)
