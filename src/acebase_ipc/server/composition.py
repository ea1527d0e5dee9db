"""Composition: puts the core and its adapters together, and drives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.server import Request

from acebase_ipc.http.auth import Access
from acebase_ipc.http.endpoint import Context
from acebase_ipc.http.site import RelaySite
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.http.upload import UploadAdmission
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.events import Observer
from acebase_ipc.relay.router import Relay
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.gate import Gate
from acebase_ipc.websocket.connection import RelayServerFactory

CLOSE_GOING_AWAY = 1001

log = Logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """The relay and the adapters around it.

    :ivar root: the relay as a resource, which refuses requests while the server does not run.
    """

    relay: Relay
    access: Access
    uploads: UploadAdmission
    connections: RelayServerFactory
    site: RelaySite
    root: Gate

    def tick(self, now: float) -> None:
        """Do what has to be done about once a second; no task prevents the others.

        :param now: monotonic seconds.
        """
        for task in (
            lambda: self.relay.expire(now),
            lambda: self.relay.enforce_memory_limit(
                self.connections.unfinished_peers(), self.uploads.reserved
            ),
            self.uploads.retry,
            self.connections.sweep,
            lambda: self.site.sweep(now),
        ):
            try:
                task()
            except Exception:
                log.failure("a task of each second failed")

    def close_peers(self, timeout: float) -> Deferred[None]:
        """Close every WebSocket with 1001; fires when all have ended, within *timeout* seconds."""
        self.relay.close(CLOSE_GOING_AWAY, "the server is shutting down")
        return self.connections.wait_closed(timeout)

    def replace_tokens(self, tokens: Tokens) -> None:
        """Require one of *tokens* from now on; closes the connections whose token is gone."""
        self.access.tokens = tokens
        self.connections.check_tokens(tokens.allow)


def compose(
    config: AceBaseIPCServerConfig,
    reactor: Any,
    clock: Callable[[], float],
    wall: Callable[[], float],
    observer: Observer,
    is_running: Callable[[], bool],
) -> Parts:
    """Return a relay with its adapters, as *config* describes them.

    :param clock: returns monotonic seconds.
    :param wall: returns the seconds since 1970.
    :param is_running: tells whether requests are accepted.
    :raises ConfigError: if the token file cannot be used.
    """
    limits = config.effective_limits
    relay = Relay(limits, observer, config.introductions)
    uploads = UploadAdmission(relay, limits, reactor)
    connections = RelayServerFactory(
        relay, limits, observer, reactor, clock, wall=lambda: int(wall() * 1000)
    )
    tokens = Tokens(config.rules())
    access = Access(tokens, config.allow_origins, config.allow_hosts, observer, reactor, clock)

    def check_room(request: Request) -> None:
        # Decided after a conflict of ids, too, when the server may have been stopped.
        if not is_running():
            raise Overloaded("The server is not running")
        connections.check_room(request)

    context = Context(
        relay=relay,
        access=access,
        intake=uploads,
        check_room=check_room,
        upgrade=connections.upgrade,
        reactor=reactor,
        clock=clock,
        max_message=limits.max_message,
        dialect=config.dialect,
    )
    site = RelaySite(context, limits, observer)
    root = site.resource = Gate(site.resource, is_running)
    return Parts(relay, access, uploads, connections, site, root)
