"""The relay of a soak, for ``twistd -y``: it also tells what it keeps.

Whoever connects to the port that is logged as ``gauges`` gets the numbers as
one JSON object. The options come in ``SOAK``, as a JSON object: the fields of
an ``AceBaseIPCServerConfig``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
from typing import Any

from twisted.application.service import Application
from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig
from acebase_ipc.relay.peers import Peer
from acebase_ipc.websocket.connection import RelayServerProtocol

reactor: Any = global_reactor

log = Logger()


WATCH = 0.5  # seconds


class Watch:
    """Measures for how long the reactor stands still."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = 0.0

    def start(self, period: float) -> None:
        """Look every *period* seconds."""
        self._last = reactor.seconds()
        LoopingCall(self._look).start(period)

    def _look(self) -> None:
        now = reactor.seconds()
        self.longest = max(self.longest, now - self._last - WATCH)
        self._last = now


watch = Watch()


class Gauges(Protocol):
    """Tells the numbers and closes."""

    def connectionMade(self) -> None:
        assert isinstance(self.factory, GaugesFactory)
        assert self.transport is not None
        self.transport.write(json.dumps(gauges(self.factory.server)).encode())
        self.transport.loseConnection()


class GaugesFactory(Factory):
    """Tells the numbers of one server."""

    protocol = Gauges
    noisy = False

    def __init__(self, server: AceBaseIPCServer) -> None:
        self.server = server


def gauges(server: Any) -> dict[str, Any]:
    """What a server keeps, and what it has reported."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # what remains is in use
    relay = server._relay
    databases = list(relay._databases.values())
    alive = gc.get_objects()
    return {
        "timers": len(reactor.getDelayedCalls()),
        "databases": len(databases),
        "peers": sum(len(each.peers) for each in databases),
        "seats": len(relay._seats._until),
        "held for masters": sum(len(each.awaiting_master) for each in databases),
        "connections": len(server._factory.connections),
        "stored bytes": relay.mailbox.stored,
        "stored messages": len(relay.mailbox._messages) + len(relay.mailbox._by_recipient),
        "reserved bytes": server._uploads.reserved,
        "peer objects": sum(isinstance(each, Peer) for each in alive),
        "connection objects": sum(isinstance(each, RelayServerProtocol) for each in alive),
        "longest pause": watch.longest,
        "counts": dict(server.observer.counts),
    }


def make_application(options: str) -> Any:
    """The relay with these *options*, and its gauges."""
    config = json.loads(options)
    config["endpoints"] = tuple(config["endpoints"])
    server = AceBaseIPCServer(AceBaseIPCServerConfig(**config))
    application = Application("soak")
    server.setServiceParent(application)

    watch.start(WATCH)

    def listen() -> None:
        port = reactor.listenTCP(0, GaugesFactory(server), interface="127.0.0.1")
        log.info("gauges at {port}", port=port.getHost().port)

    reactor.callWhenRunning(listen)
    return application


if "SOAK" in os.environ:
    application = make_application(os.environ["SOAK"])
