"""Composition: puts the core and its adapters together, and drives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import IResource

from acebase_ipc.http.admission import Admission
from acebase_ipc.http.auth import Access
from acebase_ipc.http.endpoint import Context
from acebase_ipc.http.proxies import TrustedProxies
from acebase_ipc.http.responses import Refusals
from acebase_ipc.http.site import RelaySite
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.http.upload import UploadAdmission
from acebase_ipc.protocol.errors import MessageRefused, RequestRefused
from acebase_ipc.relay.events import Observer
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import Rotation
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.journal import FileJournal
from acebase_ipc.websocket.connections import PeerConnections

CLOSE_GOING_AWAY = 1001

log = Logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """The relay and the adapters around it."""

    relay: Relay
    journal: FileJournal | None
    access: Access
    proxies: TrustedProxies
    admission: Admission
    rotation: Rotation
    uploads: UploadAdmission
    connections: PeerConnections
    site: RelaySite

    @property
    def root(self) -> IResource:
        """The relay as a resource."""
        root: IResource = self.site.resource
        return root

    def open_journal(self, now: float) -> None:
        """Open the journal, if there is one, and restore what a crash has left.

        :param now: monotonic seconds.
        :raises ConfigError: if it cannot be written.
        """
        if self.journal is not None:
            self.relay.restore(self.journal.open(), now)

    def close_journal(self) -> None:
        """Close the journal, so that nothing is restored from it."""
        if self.journal is not None:
            self.journal.close()

    def tick(self, now: float) -> None:
        """Do what has to be done about once a second; no task prevents the others.

        :param now: monotonic seconds.
        """
        for task in (
            lambda: self.relay.expire(now),
            lambda: self.uploads.expire(now),
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

    def post(self, database: str, client_id: str, body: bytes, now: float) -> tuple[int, str]:
        """Relay a message that a peer has posted to a predecessor; returns what it is answered.

        :param now: monotonic seconds.
        """
        try:
            self.relay.router.post(self.relay.registry.peer(database, client_id), body, now)
        except (MessageRefused, RequestRefused) as refusal:
            return int(refusal.status), str(refusal)
        return int(HTTPStatus.OK), "ok"

    def apply(self, config: AceBaseIPCServerConfig, tokens: Tokens) -> None:
        """Use what can be reloaded of *config*, and *tokens*, from now on.

        Connections that would not be admitted any more are closed.
        """
        limits = config.effective_limits
        self.relay.apply(limits)
        self.uploads.apply(limits)
        self.site.apply(limits)
        self.connections.max_connections = limits.max_connections
        self.access.apply(tokens, config.allow_origins, config.allow_hosts, config.databases)
        self.connections.check_access(self.access.revoked)


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
    :param is_running: tells whether requests are admitted.
    :raises ConfigError: if the token file cannot be used.
    """
    limits = config.effective_limits
    journal = None if config.state_dir is None else FileJournal(config.state_dir, clock)
    rotation = Rotation(reactor, Work())
    relay = Relay(
        clock,
        limits,
        observer,
        config.introductions,
        config.lock_recovery,
        journal,
        rotation.work,
        rotation.do,
    )
    uploads = UploadAdmission(relay.router, relay.store, limits, reactor, clock)
    connections = PeerConnections(
        relay, limits, observer, rotation, reactor, clock, wall=lambda: int(wall() * 1000)
    )
    access = Access(
        Tokens(config.rules()), config.allow_origins, config.allow_hosts, config.databases
    )
    proxies = TrustedProxies(config.trust_proxy)
    admission = Admission(access, relay, connections.check_room, clock, config.dialect, is_running)
    context = Context(
        relay=relay,
        store=relay.store,
        access=access,
        admission=admission,
        refusals=Refusals(observer, reactor, clock),
        uploads=uploads,
        rotation=rotation,
        proxies=proxies,
        upgrade=connections.upgrade,
        reactor=reactor,
        clock=clock,
    )
    site = RelaySite(context, limits, observer, connections.count)
    relay.memory.register("uploads", lambda: uploads.reserved)
    relay.memory.register("http", lambda: site.memory)
    return Parts(relay, journal, access, proxies, admission, rotation, uploads, connections, site)
