"""A server as a member of a cluster: puts the parts together, and drives them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from acebase_ipc.addresses import format_address
from acebase_ipc.admin.control import ClusterFacts, ClusterRelay
from acebase_ipc.cluster.handshake import Ticket
from acebase_ipc.cluster.leases import Timing
from acebase_ipc.cluster.link_server import LinkFactory
from acebase_ipc.cluster.links import Links, Tls
from acebase_ipc.cluster.node import Node
from acebase_ipc.cluster.passage import Passage
from acebase_ipc.cluster.placement import About
from acebase_ipc.cluster.redis import RedisStore
from acebase_ipc.cluster.redis_url import parse_redis_url
from acebase_ipc.cluster.settings import read_secret, split_address
from acebase_ipc.http.admission import Admission
from acebase_ipc.http.site import RelaySite
from acebase_ipc.relay.events import Observer, Refused
from acebase_ipc.relay.journal import Restored
from acebase_ipc.relay.relay import Relay
from acebase_ipc.server.cluster_journal import ClusterJournal
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.moving import CLOSE_MOVED, Moving

ID_BYTES: Final = 9
"""Random bytes of a relay's id, of which two must not be the same."""

MOVE_AGAIN: Final = 5.0
"""Seconds after which a relay that drains tries again to move the databases that it still has."""

log = Logger()


class Cluster:
    """What makes a server a member of a cluster.

    :ivar node: keeps its lease, and finds homes.
    :ivar links: the connections to other relays.
    :raises ConfigError: if txredisapi is missing, or a file cannot be used.
    """

    def __init__(
        self,
        config: AceBaseIPCServerConfig,
        relay: Relay,
        site: RelaySite,
        admission: Admission,
        websockets: Callable[[], int],
        journal: ClusterJournal,
        observer: Observer,
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        assert config.cluster is not None
        assert config.cluster_address is not None
        assert config.cluster_secret_file is not None
        self._relay = relay
        self._site = site
        self._admission = admission
        self._websockets = websockets
        self._journal = journal
        self._reactor = reactor
        self._clock = clock
        self._max_connections = config.effective_limits.max_connections
        self._host, self._port_number = split_address(config.cluster_address)
        self._port: IListeningPort | None = None
        self._is_leaving = False
        self._next_move = math.inf
        self._tls = None if config.cluster_certificate is None else Tls(config.cluster_certificate)
        secret = read_secret(config.cluster_secret_file)
        timing = Timing(config.cluster_lease)
        store = RedisStore(parse_redis_url(config.cluster), reactor, timing.renewal / 2, clock)
        self.node = Node(
            timing, store, lambda: secrets.token_hex(ID_BYTES), self.about, self, reactor, clock
        )
        self.links = Links(secret, reactor, self._tls, timing.lease / 2)
        self.moving = Moving(relay, self.node, self.links, self._forget, reactor, clock)
        self._factory = LinkFactory(
            secret,
            self._decide,
            relay.registry.databases_of,
            self.moving,
            site,
            self._refused,
            reactor,
        )
        self._observer = observer
        access, search = site.context.access, relay.registry.databases_of
        site.context.passage = Passage(self.node, self.links, access, search, reactor, clock)
        relay.gate = self.node.may_serve
        journal.append = self.node.note
        relay.memory.register("links", lambda: self.links.memory)

    def about(self) -> About:
        """Return what the other relays are told."""
        used = self._websockets() + len(self._site.channels) + len(self.links)
        return About(
            self.address,
            max(self._max_connections - used, 0),
            len(self.node.member.homes),
            self._admission.is_draining or self._is_leaving,
        )

    def facts(self) -> ClusterFacts:
        """Return what is shown of the cluster."""
        node, member = self.node, self.node.member
        left = max(member.trusted_until - self._clock(), 0.0)
        return ClusterFacts(
            id=member.id,
            serving=left > 0,
            lease_left=left,
            store_answers=node.has_store,
            store_lag=node.store_lag,
            links=len(self.links),
            links_total=self.links.total,
            relays=tuple(
                ClusterRelay(
                    id=relay,
                    address=about.address,
                    databases=about.databases,
                    free=about.free,
                    draining=about.is_draining,
                )
                for relay, about in sorted(node.relays.items())
            ),
            homes=member.homes.copy(),
        )

    @property
    def address(self) -> str:
        """Where the other relays reach this one."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port_number}"

    def _decide(self, ticket: Ticket) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.node.decide(ticket))

    def _refused(self, address: IAddress, reason: str) -> None:
        self._observer.report(Refused(format_address(address), 400, reason))

    def open(self) -> Deferred[None]:
        """Listen for the other relays, and join them; fires when it listens."""
        factory: Any = self._factory
        if self._tls is not None:
            factory = TLSMemoryBIOFactory(self._tls.options, False, factory)
            factory.noisy = False
        opening: Deferred[Any] = self._endpoint().listen(factory)
        return opening.addCallback(self._opened)

    def _endpoint(self) -> TCP4ServerEndpoint | TCP6ServerEndpoint:
        try:
            version = ip_address(self._host.partition("%")[0]).version
            interface = self._host
        except ValueError:  # a name
            version, interface = 4, ""
        kind = TCP4ServerEndpoint if version == 4 else TCP6ServerEndpoint
        return kind(self._reactor, self._port_number, interface=interface)

    def _opened(self, port: IListeningPort) -> None:
        self._port = port
        self._is_leaving = False
        self._port_number = getattr(port.getHost(), "port", self._port_number)
        self.node.start()

    def tick(self) -> None:
        """Give up databases that nobody uses; to be called about once a second."""
        relay = self._relay
        used = {each.name for each in relay.registry.all_databases()}
        used |= relay.histories.databases | relay.sessions.fenced
        for each in self.node.tick(used.__contains__):
            self._journal.forget(each)
        if self.node.has_store:
            self.links.end_to_others(self.node.member.records.keys())
        self._move_what_is_left()

    async def move_away(self) -> None:
        """Give all databases to other relays, if there are any, and get no more."""
        self._is_leaving = True
        await self.moving.move_all()

    def drain(self, draining: bool) -> None:
        """Give all databases to other relays, or accept new ones again."""
        self._is_leaving = draining
        self._next_move = self._clock() if draining else math.inf
        self._move_what_is_left()

    def _move_what_is_left(self) -> None:
        """Move databases away if that is due, and due again if others are left."""
        if self._clock() < self._next_move:
            return
        self._next_move = math.inf

        def moved(result: object) -> None:
            if isinstance(result, Failure):
                log.failure("moving databases failed", result)
            if self._is_leaving:
                self._next_move = self._clock() + MOVE_AGAIN

        Deferred.fromCoroutine(self.move_away()).addBoth(moved)

    def leave(self) -> Deferred[object]:
        """Stop being the home of any database; others can claim them when this fires."""
        return self.node.stop()

    def close(self) -> Deferred[Any]:
        """End all links, and listen no more."""
        self.links.close()
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)

    # What the node tells

    def suspend(self) -> None:
        """Close all connections, because the lease is over."""
        self._relay.suspend(CLOSE_MOVED, "the relay cannot reach its cluster")
        self._site.context.streams.close()

    def claimed(self, database: str, journal: tuple[bytes, ...]) -> None:
        """Treat the workers of a home that has ended without warning as after a crash."""
        if database in self._relay.registry.databases:
            self._journal.begin_anew([database])
            return  # it was this relay
        try:
            restored = self._journal.restore(database, journal)
            if restored is not None:
                self._relay.restore(Restored((restored,)), self._clock())
        except Exception:
            log.failure("the journal of {database} cannot be used", database=database)

    def write_journals(self, databases: Iterable[str] | None) -> None:
        """Write the journals of *databases*, or of all, anew."""
        self._journal.begin_anew(databases)

    def adopt(self, database: str, state: bytes) -> None:
        """Go on with a database where another relay has ended."""
        self.moving.adopt(database, state)

    def lost(self, databases: Iterable[str]) -> None:
        """Close the connections of *databases*, which other relays may serve, and forget them."""
        for each in databases:
            self._forget(each, "another relay serves the database")

    def _forget(self, database: str, reason: str) -> None:
        self._relay.forget(database, CLOSE_MOVED, reason)
        self._journal.forget(database)
        self._site.context.streams.close()  # their readers ask again, for this database elsewhere
