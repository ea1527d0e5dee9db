"""A WebSocket server that sends every message back, for a conformance test suite.

::

    python -m tests.conformance.echo_server --port 9001

It is the relay's WebSocket, with its fast path, without the relay: text and
binary messages of any size are sent back unchanged. For comparison,
``--kind public`` is the same without private attributes of Autobahn and
Twisted, and ``--kind stock`` is Autobahn alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol

from acebase_ipc.protocol.frames import text_frame
from acebase_ipc.websocket.fastpath import FastServerFactory, FastServerProtocol

UNLIMITED = sys.maxsize
"""Greatest size of a message, in bytes."""

LOOPBACK = "127.0.0.1"


class Echo(FastServerProtocol):
    """The relay's WebSocket, which sends back every message."""

    def textReceived(self, text: bytes) -> None:
        self.send(text_frame(text))

    def binaryReceived(self, data: bytes) -> None:
        self.send(b"\x82" + text_frame(data)[1:])


class PublicEcho(Echo):
    """The same without private attributes of Autobahn and Twisted."""

    use_private = False


class StockEcho(WebSocketServerProtocol):
    """Autobahn alone."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


def make_factory(kind: str, reactor: Any) -> Any:
    """The factory of connections of a *kind*: ``private``, ``public`` or ``stock``."""
    if kind == "stock":
        stock = WebSocketServerFactory(server=None, reactor=reactor)
        stock.protocol = StockEcho
        stock.setProtocolOptions(
            versions=[13],
            failByDrop=False,
            echoCloseCodeReason=True,
            closeHandshakeTimeout=FastServerProtocol.closeHandshakeTimeout,
        )
        return stock
    factory = FastServerFactory(UNLIMITED, reactor, monotonic)
    factory.protocol = {"private": Echo, "public": PublicEcho}[kind]
    factory.fast = factory.protocol.use_private
    return factory


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
