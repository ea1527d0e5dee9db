"""The baseline of the benchmark: the simplest relay that can be written with Autobahn.

For well-behaved clients it behaves as acebase-ipc does, which is all that the
load generator needs: welcome, ``connect:`` and ``disconnect:``, ``to:<id>;``,
broadcasts, and large messages over POST and GET. It checks no token and has
no limits, no back pressure and no sessions. Autobahn and Twisted are used as
their examples use them, with their defaults, except that Nagle's algorithm is
off, as everywhere with small messages, and that the listen queue is long.

    python -m bench.stock_relay --port 0 [--tls server.pem]
"""

from __future__ import annotations

import argparse
import secrets
from typing import Any
from urllib.parse import unquote

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor as installed_reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.web.resource import NoResource, Resource
from twisted.web.server import Request, Site

BACKLOG = 4096
"""Connections that wait to be accepted; of Twisted's default, 50, most of a storm would be lost."""

reactor: Any = installed_reactor


class Database:
    """The peers of one database, and the large messages that wait for them."""

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self.peers: dict[str, StockPeer] = {}
        self.stored: dict[tuple[str, str], bytes] = {}

    def broadcast(self, sender: str, message: bytes) -> None:
        """Send *message* to all but *sender*."""
        for client_id, peer in self.peers.items():
            if client_id != sender:
                self.deliver(peer, message)

    def relay(self, sender: str, message: bytes) -> None:
        """Answer, address or broadcast a message from *sender*."""
        if message == b"ping":
            self.peers[sender].sendMessage(b"pong")
        elif message.startswith(b"to:"):
            target, _, body = message[3:].partition(b";")
            peer = self.peers.get(target.decode())
            if peer is not None:
                self.deliver(peer, body)
        else:
            self.broadcast(sender, message)

    def deliver(self, peer: StockPeer, body: bytes) -> None:
        """Send *body*, or announce it if it is large and the peer can download it."""
        if peer.state != peer.STATE_OPEN:
            return  # it is closing
        if len(body) <= self.max_payload:
            peer.sendMessage(body)
        else:
            message_id = secrets.token_urlsafe(24)
            self.stored[peer.client_id, message_id] = body
            peer.sendMessage(b"get:" + message_id.encode())


class StockPeer(WebSocketServerProtocol):
    """One peer's connection."""

    tcpNoDelay = True  # the factory's own comes too late: Autobahn reads the class's
    client_id: str
    database: Database | None = None

    def onConnect(self, request: Any) -> None:
        """The handshake was received."""
        self.client_id = request.params["id"][0]
        self.name = unquote(request.path.split("/")[1])

    def onOpen(self) -> None:
        """The handshake was answered."""
        self.database = self.factory.database(self.name)
        self.sendMessage(b'welcome:{"maxPayload":%d}' % self.database.max_payload)
        self.database.peers[self.client_id] = self
        self.database.broadcast(self.client_id, b"connect:" + self.client_id.encode())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """A message was received."""
        if self.database is not None:
            self.database.relay(self.client_id, payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection has ended."""
        if self.database is not None and self.database.peers.get(self.client_id) is self:
            del self.database.peers[self.client_id]
            self.database.broadcast(self.client_id, b"disconnect:" + self.client_id.encode())
            if not self.database.peers:
                del self.factory.databases[self.name]


class StockRelay(WebSocketServerFactory):
    """All databases of the relay."""

    protocol = StockPeer

    def __init__(self, max_payload: int) -> None:
        super().__init__()
        self.databases: dict[str, Database] = {}
        self._max_payload = max_payload

    def database(self, name: str) -> Database:
        """Return the database of that name, a new one if it has no peers."""
        return self.databases.setdefault(name, Database(self._max_payload))


def argument(request: Request, name: bytes) -> str:
    """The value of a parameter in the query."""
    return str(request.args[name][0].decode())


class Send(Resource):
    """``POST /<db>/send``"""

    isLeaf = True

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def render_POST(self, request: Request) -> bytes:
        """Relay the body."""
        content: Any = request.content
        self._database.relay(argument(request, b"id"), content.read())
        return b"ok"


class Receive(Resource):
    """``GET /<db>/receive``"""

    isLeaf = True

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def render_GET(self, request: Request) -> bytes:
        """Return the announced message, once."""
        key = argument(request, b"id"), argument(request, b"msg")
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        return self._database.stored.pop(key)


class DatabaseResource(Resource):
    """``/<db>/``"""

    def __init__(self, relay: StockRelay, name: str) -> None:
        super().__init__()
        self._relay = relay
        self._name = name

    def getChild(self, path: bytes, request: Request) -> Resource | WebSocketResource:
        """One of the three endpoints."""
        if path == b"connect":
            return WebSocketResource(self._relay)
        database = self._relay.databases.get(self._name)
        if path == b"send" and database is not None:
            return Send(database)
        if path == b"receive" and database is not None:
            return Receive(database)
        return NoResource()


class Root(Resource):
    """``/``"""

    def __init__(self, relay: StockRelay) -> None:
        super().__init__()
        self._relay = relay

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A database."""
        return DatabaseResource(self._relay, path.decode())


def main() -> None:
    """Listen on loopback, print the URL, and run until killed."""
    parser = argparse.ArgumentParser(description="A plain Autobahn relay, to compare with.")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 (default) for any")
    parser.add_argument("--tls", metavar="PEM", help="file with key and certificate")
    parser.add_argument("--max-payload", type=int, default=16384, help="characters; more is posted")
    options = parser.parse_args()

    scheme, endpoint = "ws", f"tcp:{options.port}:interface=127.0.0.1:backlog={BACKLOG}"
    if options.tls:
        path = options.tls.replace(":", r"\:")
        scheme, endpoint = "wss", endpoint.replace("tcp:", "ssl:", 1) + f":privateKey={path}"

    def listening(port: IListeningPort) -> None:
        address: Any = port.getHost()
        print(f"listening on {scheme}://{address.host}:{address.port}", flush=True)

    def failed(failure: Any) -> None:
        print(failure.getErrorMessage(), flush=True)
        reactor.stop()

    site = Site(Root(StockRelay(options.max_payload)))
    serverFromString(reactor, endpoint).listen(site).addCallbacks(listening, failed)
    reactor.run()


if __name__ == "__main__":
    main()
