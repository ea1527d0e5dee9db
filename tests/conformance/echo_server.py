"""A WebSocket server that sends every message back, for a conformance test suite.

::

    python -m tests.conformance.echo_server --port 9001

It is the relay's WebSocket, with its fast path, without the relay: text and
binary messages of any size are sent back unchanged. For comparison,
``--kind public`` is the same without private names of Autobahn and Twisted, and
``--kind stock`` is Autobahn alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from acebase_ipc.http.upgrade import check_upgrade
from acebase_ipc.protocol.errors import MessageRefused
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import Rotation
from acebase_ipc.websocket._autobahn import CLOSE_TIMEOUT
from acebase_ipc.websocket.factory import WebSocketFactory
from acebase_ipc.websocket.fastpath import WebSocketConnection
from acebase_ipc.websocket.upgrade import switching_protocols, take_transport

UNLIMITED = sys.maxsize
"""Greatest size of a message, and of all that the server holds, in bytes."""

LOOPBACK = "127.0.0.1"


class Echo(WebSocketConnection):
    """The relay's WebSocket, which sends back every message; it is its own listener."""

    def __init__(self, factory: EchoFactory) -> None:
        super().__init__(factory, self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if isBinary:
            self.sendMessage(payload, isBinary=True)
        else:
            super().onMessage(payload, isBinary)

    def onMessageFrameBegin(self, length: int) -> None:
        # Without the relay's limit of fragments: cases of the suite send 65,536.
        WebSocketServerProtocol.onMessageFrameBegin(self, length)

    def opened(self, connection: WebSocketConnection) -> None:
        self.receive = self.received

    def received(self, texts: list[bytes]) -> int:
        for text in texts:
            self.send(Message(text))
        return len(texts)

    def refused(self, refusal: MessageRefused) -> None:
        pass

    def received_binary(self) -> None:
        pass

    def received_pong(self, payload: bytes) -> None:
        pass

    def drained(self) -> None:
        pass

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        pass

    def closing(self, code: int | None, by_peer: bool) -> None:
        pass

    def closed(self, code: int, reason: str, is_clean: bool) -> None:
        pass


class EchoFactory(WebSocketFactory[WebSocketConnection]):
    """The factory of echo connections, which may hold any amount of memory.

    :param private: whether to use private names of Autobahn and Twisted.
    """

    def __init__(self, reactor: Any, private: bool) -> None:
        budget = MemoryBudget(UNLIMITED)
        rotation = Rotation(reactor, Work())
        super().__init__(UNLIMITED, budget, budget.check, _Owner(), rotation, reactor, monotonic)
        self.knows_parser &= private
        self.knows_transport &= private


class _Owner:
    def opened(self, connection: WebSocketConnection) -> None:
        pass

    def closed(self, connection: WebSocketConnection) -> None:
        pass


class EchoResource(Resource):
    """Opens a WebSocket, at any path."""

    isLeaf = True

    def __init__(self, factory: EchoFactory) -> None:
        super().__init__()
        self._factory = factory

    def render_GET(self, request: Request) -> int:
        check_upgrade(request)
        connection = Echo(self._factory)
        answer = switching_protocols(request)
        connection.open(take_transport(request, connection), answer, b"")
        return NOT_DONE_YET


class StockEcho(WebSocketServerProtocol):
    """Autobahn alone."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


def make_factory(kind: str, reactor: Any) -> Any:
    """The factory of connections of a *kind*: ``private``, ``public`` or ``stock``."""
    if kind != "stock":
        return Site(EchoResource(EchoFactory(reactor, private=kind == "private")))
    stock = WebSocketServerFactory(server=None, reactor=reactor)
    stock.protocol = StockEcho
    stock.setProtocolOptions(
        versions=[13],
        failByDrop=False,
        echoCloseCodeReason=True,
        closeHandshakeTimeout=CLOSE_TIMEOUT,
    )
    return stock


KINDS = ("private", "public", "stock")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the URL once it listens, and serve until the process is ended."""
    parser = argparse.ArgumentParser(description="Echo every WebSocket message, on loopback.")
    parser.add_argument("--port", type=int, required=True, help="a TCP port; 0 for any free one")
    parser.add_argument("--kind", choices=KINDS, default=KINDS[0], help="default: %(default)s")
    options = parser.parse_args(arguments)
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    port = reactor.listenTCP(options.port, make_factory(options.kind, reactor), interface=LOOPBACK)
    sys.stdout.write(f"listening on ws://{LOOPBACK}:{port.getHost().port}\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    main()
