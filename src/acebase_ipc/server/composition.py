"""Composition: puts the core and its adapters together, and drives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import IResource

from acebase_ipc.http.admission import Admission
from acebase_ipc.http.auth import Access
from acebase_ipc.http.endpoint import Context
from acebase_ipc.http.proxies import TrustedProxies
from acebase_ipc.http.responses import Refusals
from acebase_ipc.http.site import RelaySite
from acebase_ipc.http.streams import Streams
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.http.upload import UploadAdmission
from acebase_ipc.protocol.errors import MessageRefused, RequestRefused
from acebase_ipc.relay.events import Observer
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import Rotation
from acebase_ipc.server.cluster_journal import ClusterJournal
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.journal import FileJournal
from acebase_ipc.server.state_file import StateFile
from acebase_ipc.websocket.connections import PeerConnections

if TYPE_CHECKING:
    from acebase_ipc.server.cluster import Cluster

CLOSE_GOING_AWAY = 1001

log = Logger()


@dataclass(frozen=True, slots=True)
class Parts:
    """The relay and the adapters around it."""

    relay: Relay
    journal: FileJournal | None
    state_file: StateFile | None
    access: Access
    proxies: TrustedProxies
    admission: Admission
    rotation: Rotation
    uploads: UploadAdmission
    connections: PeerConnections
    site: RelaySite
    cluster: Cluster | None

    @property
    def root(self) -> IResource:
        """The relay as a resource."""
        root: IResource = self.site.resource
        return root

    def open_state(self, session_timeout: float, now: float) -> None:
        """Open the state directory, if there is one, and go on with what is there.

        That is the state of a relay that has stopped, or the journal of one that has crashed.

        :param session_timeout: the seconds for which sessions are kept.
        :param now: monotonic seconds.
        :raises ConfigError: if the journal cannot be written.
        """
        if self.journal is None or self.state_file is None:
            return
        restored = self.journal.open()
        state = self.state_file.read(session_timeout)
        if state is None:
            self.relay.restore(restored, now)
            return
        self.journal.begin_anew()
        try:
            self.relay.adopt(state, now, {})
            self.relay.resume()
        except Exception:
            log.failure("adopting the state failed")
            self.relay.clear()
            self.journal.begin_anew()
            self.state_file.set_aside("a defect of the relay")
        else:
            self.state_file.remove()  # from now on the journal knows all that must not be lost

    def prepare_state(self, now: float) -> bool:
        """Return whether the state is to be saved, and can be.

        :param now: monotonic seconds.
        """
        if self.state_file is None or self.relay.is_empty:
            return False
        return self.state_file.prepare(self.relay.export(now))

    def save_state(self, now: float, took: float) -> bool:
        """Save the state, and forget it; returns whether it could be saved.

        :param now: monotonic seconds.
        :param took: the seconds since the stop began.
        """
        is_saved = self.state_file is not None and self.state_file.save(
            self.relay.export(now), took
        )
        self.relay.clear()
        return is_saved

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
            self.site.context.streams.tick,
            *(() if self.cluster is None else (self.cluster.tick,)),
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
            self.relay.post(self.relay.registry.peer(database, client_id), body, now)
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
        self.site.context.streams.check_access()


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
    state_file = None if config.state_dir is None else StateFile(config.state_dir, wall)
    rotation = Rotation(reactor, Work())
    shared = None
    if config.cluster is not None:
        shared = ClusterJournal(partial(reactor.callLater, 0), clock)
    relay = Relay(
        clock,
        limits,
        observer,
        config.introductions,
        config.lock_recovery,
        config.lock_sessions,
        shared if config.lock_recovery and shared is not None else journal,
        rotation.work,
        rotation.do,
        reactor.callLater,
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
        streams=Streams(),
        proxies=proxies,
        upgrade=connections.upgrade,
        reactor=reactor,
        clock=clock,
    )
    site = RelaySite(context, limits, observer, connections.count)
    cluster = None
    if shared is not None:
        from acebase_ipc.server.cluster import Cluster  # loads what nobody else needs

        cluster = Cluster(
            config, relay, site, admission, connections.count, shared, observer, reactor, clock
        )
    relay.memory.register("uploads", lambda: uploads.reserved)
    relay.memory.register("http", lambda: site.memory)
    relay.memory.register("history", lambda: context.streams.memory)
    return Parts(
        relay,
        journal,
        state_file,
        access,
        proxies,
        admission,
        rotation,
        uploads,
        connections,
        site,
        cluster,
    )
