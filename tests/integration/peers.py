"""Peers as the protocol's documentation describes them, on Autobahn's WebSocket client."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from tests.integration.relay_process import DEADLINE, Address

reactor: Any = _reactor


@dataclass(frozen=True, slots=True)
class Closed:
    """How a connection ended: the server's close code and reason, or 1006."""

    code: int | None
    reason: str | None


class Refused(Exception):
    """The handshake was answered with something else than an upgrade; the text says with what."""


class DocumentedPeer(WebSocketClientProtocol):
    """One peer of one database.

    :ivar id: its id.
    """

    def __init__(self, peer_id: str) -> None:
        super().__init__()
        self.id = peer_id
        self.opened: Deferred[None] = Deferred()
        self._closed: Closed | None = None
        self._arrived: deque[str] = deque()
        self._waiting: list[Deferred[None]] = []

    # Called by Autobahn

    def onOpen(self) -> None:
        self.opened.callback(None)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        assert not isBinary
        self._arrived.append(payload.decode())
        self._wake()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._closed = Closed(code if wasClean else 1006, reason)
        if not self.opened.called:
            self.opened.errback(Refused(str(reason)))
        self._wake()

    # For tests

    def tell(self, message: str) -> None:
        """Send a message as it is."""
        self.sendMessage(message.encode())

    async def next(self) -> str:
        """The next message that was or will be received."""
        while not self._arrived:
            assert self._closed is None, f"{self.id} waits for a message, but is {self._closed}"
            await self._change()
        return self._arrived.popleft()

    async def take(self, count: int) -> list[str]:
        """The next *count* messages."""
        return [await self.next() for _ in range(count)]

    async def heard(self) -> list[str]:
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
            self.sendClose(1000)
            await self.closed()

    def vanish(self) -> None:
        """End the connection without a word."""
        if self._closed is None:
            self.transport.abortConnection()

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
        factory = WebSocketClientFactory(f"ws://localhost{target}", reactor=reactor)
        factory.buildProtocol = lambda _: self._build(factory, peer_id)
        connecting: Deferred[Any] = client_endpoint(address).connect(factory)
        peer: DocumentedPeer = await connecting.addTimeout(DEADLINE, reactor)
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

    def _build(self, factory: Any, peer_id: str) -> DocumentedPeer:
        peer = DocumentedPeer(peer_id)
        peer.factory = factory
        self._peers.append(peer)
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
    if address.path is not None:
        return UNIXClientEndpoint(reactor, address.path)
    tcp = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
    plain = tcp(reactor, address.host, address.port)
    if not address.secure:
        return plain
    assert address.root is not None
    return wrapClientTLS(optionsForClientTLS("localhost", trust(address.root)), plain)


def trust(root: Path) -> Any:
    """Trust the certificates of a PEM file."""
    certificates = x509.load_pem_x509_certificates(root.read_bytes())
    return trustRootFromCertificates(
        [Certificate.load(each.public_bytes(Encoding.DER)) for each in certificates]
    )
