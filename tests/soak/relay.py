"""The relay of a soak, for ``twistd -y``: it also reports what it holds.

A client that connects to the port that is logged as ``gauges`` receives the
numbers as one JSON object. The environment variable ``SOAK`` has the options as
a JSON object: the endpoints, the token, the limits and the state directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import time
from typing import Any

from twisted.application.service import Application
from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from acebase_ipc import AceBaseIPCServer
from acebase_ipc.relay.peers import Peer
from acebase_ipc.server.daemon import Daemon
from acebase_ipc.server.handover.successor import connect
from acebase_ipc.server.process import Launch, Signals
from acebase_ipc.server.settings import Sources
from acebase_ipc.websocket.fastpath import WebSocketConnection

reactor: Any = global_reactor

log = Logger()


WATCH = 0.5  # seconds


class Watch:
    """Measures standstills of the reactor.

    :ivar longest: seconds of the longest one.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = 0.0

    def start(self, period: float) -> None:
        """Check every *period* seconds."""
        self._last = reactor.seconds()
        LoopingCall(self._check).start(period)

    def _check(self) -> None:
        now = reactor.seconds()
        self.longest = max(self.longest, now - self._last - WATCH)
        self._last = now


watch = Watch()


class Gauges(Protocol):
    """Sends the numbers and closes."""

    def connectionMade(self) -> None:
        assert isinstance(self.factory, GaugesFactory)
        assert self.transport is not None
        self.transport.write(json.dumps(gauges(self.factory.server)).encode())
        self.transport.loseConnection()


class GaugesFactory(Factory):
    """Serves the numbers of one server."""

    protocol = Gauges
    noisy = False

    def __init__(self, server: AceBaseIPCServer) -> None:
        self.server = server


def gauges(server: Any) -> dict[str, Any]:
    """Sizes of what a server holds, and the counts of its observer."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # the remaining memory is in use
    parts = server._parts
    relay = parts.relay
    store = relay.store
    databases = list(relay.registry.databases.values())
    alive = gc.get_objects()
    return {
        "timers": len(reactor.getDelayedCalls()),
        "databases": len(databases),
        "peers": sum(len(each.peers) for each in databases),
        "suspended sessions": len(relay.sessions._expiries),
        "queues for masters": sum(len(each.awaiting_master) for each in databases),
        "connections": len(parts.connections.factory.connections),
        "HTTP connections": len(parts.site.channels),
        "stored bytes": store.stored,
        "stored messages": len(store._messages) + len(store._by_recipient),
        "reserved bytes": parts.uploads.reserved,
        "counted bytes": relay.memory.used,
        "peer objects": sum(isinstance(each, Peer) for each in alive),
        "connection objects": sum(isinstance(each, WebSocketConnection) for each in alive),
        "longest pause": watch.longest,
        "counts": dict(server.counts),
    }


def make_application(options: str) -> Any:
    """The relay with these *options*, and its gauges, as one application."""
    config = json.loads(options)
    arguments = {"port": tuple(config["endpoints"]), "token": config["token"], **config["limits"]}
    if config["state_dir"] is not None:
        arguments["state_dir"] = config["state_dir"]
    link = connect(None, os.environ, time.monotonic)
    daemon = Daemon(Sources(arguments, {}, None), reactor, Signals(), Launch(), link=link)
    server = daemon.server
    application = Application("soak")
    daemon.setServiceParent(application)

    watch.start(WATCH)

    def listen() -> None:
        port = reactor.listenTCP(0, GaugesFactory(server), interface="127.0.0.1")
        log.info("gauges at {port}", port=port.getHost().port)

    reactor.callWhenRunning(listen)
    return application


if "SOAK" in os.environ:
    application = make_application(os.environ["SOAK"])
