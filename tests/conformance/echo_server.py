"""A WebSocket server that sends everything back, for a test suite to judge.

::

    python -m tests.conformance.echo_server --port 9001

It is the relay's own WebSocket, the short ways included, without the relay:
texts and binary messages of any size come back as they are. For comparison,
``--kind public`` takes the same without Autobahn's private attributes, and
``--kind stock`` is Autobahn alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol

from acebase_ipc.protocol.frames import text_frame
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import Rotation
from acebase_ipc.websocket._autobahn import CLOSE_TIMEOUT
from acebase_ipc.websocket.factory import WebSocketFactory
from acebase_ipc.websocket.fastpath import WebSocketConnection

UNLIMITED = sys.maxsize
"""Bytes that a message may have."""

LOOPBACK = "127.0.0.1"


class Echo(WebSocketConnection):
    """The relay's WebSocket, sending back what comes; it is its own listener."""

    def __init__(self) -> None:
        super().__init__()
        self.listener = self

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        super().onMessage(payload, isBinary)
        if isBinary and self.state == self.STATE_OPEN:
            self.sendData(b"\x82" + text_frame(payload)[1:])

    def opened(self, connection: WebSocketConnection) -> None: ...

    def received(self, text: bytes) -> None:
        self.send(Message(text))

    def received_binary(self) -> None: ...

    def received_pong(self, payload: bytes) -> None: ...

    def drained(self) -> None: ...

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None: ...

    def closing(self, code: int | None) -> None: ...


class EchoFactory(WebSocketFactory):
    """Makes such connections; they may hold any amount of memory.

    :param is_private: whether they rest on private names of Autobahn and Twisted.
    """

    protocol = Echo

    def __init__(self, reactor: Any, is_private: bool) -> None:
        budget = MemoryBudget(UNLIMITED)
        rotation = Rotation(reactor, Work())
        super().__init__(UNLIMITED, budget, budget.check, _Nobody(), rotation, reactor, monotonic)
        self.knows_parser = self.knows_parser and is_private
        self.knows_transport = self.knows_transport and is_private


class _Nobody:
    """Keeps no account of connections."""

    def opened(self, connection: WebSocketConnection) -> None: ...

    def closed(self, connection: WebSocketConnection) -> None: ...


class StockEcho(WebSocketServerProtocol):
    """Autobahn alone."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.sendMessage(payload, isBinary)


def make_factory(kind: str, reactor: Any) -> Any:
    """What makes connections of a *kind*: ``private``, ``public`` or ``stock``."""
    if kind == "stock":
        stock = WebSocketServerFactory(server=None, reactor=reactor)
        stock.protocol = StockEcho
        stock.setProtocolOptions(
            versions=[13],
            failByDrop=False,
            echoCloseCodeReason=True,
            closeHandshakeTimeout=CLOSE_TIMEOUT,
        )
        return stock
    return EchoFactory(reactor, is_private=kind == "private")


KINDS = ("private", "public", "stock")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until the process is ended; says so when it listens."""
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
