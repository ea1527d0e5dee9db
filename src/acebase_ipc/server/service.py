"""Composition: the service that serves a relay after a configuration."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.web.resource import IResource

from acebase_ipc.errors import ConfigError
from acebase_ipc.http.admission import Admission
from acebase_ipc.http.auth import Access
from acebase_ipc.http.endpoint import Context
from acebase_ipc.http.resources import Root
from acebase_ipc.http.responses import Refusals
from acebase_ipc.http.rotation import Rotation
from acebase_ipc.http.site import RelaySite
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.http.upload import UploadAdmission
from acebase_ipc.relay.events import GuardedObserver, Observer
from acebase_ipc.relay.peers import Client
from acebase_ipc.relay.relay import Relay
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.listener import Listener
from acebase_ipc.server.logging import LogObserver
from acebase_ipc.websocket.connections import PeerConnections

TICK = 1.0
"""Seconds between two looks at what has expired or fallen silent."""

CLOSE_GOING_AWAY = 1001
SHUTDOWN_TIMEOUT = 2.0
"""Seconds that all peers together have to read what is left and to say goodbye."""

__version__ = version("acebase-ipc")

log = Logger()


class AceBaseIPCServer(MultiService):
    """A relay for AceBase database processes, as a Twisted service.

    Attach it to an Application, or use :meth:`start` and :meth:`stop`. To
    serve it from a Site of your own, give it ``port=None``, mount
    :meth:`resource` and let the service run nevertheless: it keeps the time.

    :param config: how to run; default: on loopback, port 9163, without a token.
    :param reactor: default: the global reactor.
    :param clock: seconds of a clock that never jumps.
    :param wall: the time in seconds since 1970.
    :param observer: learns what happens; default: a log with counts.
    :raises ConfigError: if an endpoint string or the token file cannot be used.
    """

    def __init__(
        self,
        config: AceBaseIPCServerConfig | None = None,
        reactor: Any = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        observer: Observer | None = None,
    ) -> None:
        super().__init__()
        if reactor is None:
            from twisted.internet import reactor
        self.config = config = config or AceBaseIPCServerConfig()
        self.observer = observer or LogObserver(clock)
        self._observer_failed = False
        shielded = GuardedObserver(self.observer, self._report_observer)
        self._clock = clock
        self._relay = Relay(config, shielded, config.introductions)
        store = self._relay.store
        self._uploads = UploadAdmission(self._relay.router, store, config, reactor, clock)
        self._connections = PeerConnections(
            self._relay, config, shielded, reactor, clock, wall=lambda: int(wall() * 1000)
        )
        self._access = Access(Tokens(config.rules()), config.allow_origins, config.allow_hosts)
        self._context = Context(
            relay=self._relay,
            store=store,
            access=self._access,
            admission=Admission(
                self._access, self._relay, self._connections.check_room, clock, config.dialect
            ),
            refusals=Refusals(shielded, reactor, clock),
            uploads=self._uploads,
            rotation=Rotation(reactor),
            upgrade=self._connections.upgrade,
            reactor=reactor,
            clock=clock,
            max_message=config.max_message,
        )
        self._relay.memory.register(lambda: self._uploads.reserved)
        self._site = RelaySite(self._context, config, shielded, self._connections.count)
        self._relay.memory.register(lambda: self._site.memory)
        self.listeners = [Listener(each, self._site) for each in config.descriptions]
        for listener in self.listeners:
            listener.setServiceParent(self)
        ticking = TimerService(TICK, self.tick)
        ticking.clock = reactor
        ticking.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Listen on every port.

        :raises CannotListenError: if that is not possible.
        """
        config = self.config
        self._context.admission.is_open = True
        source = (
            "configured"
            if config.max_payload is not None
            else ("the default with TLS" if config.secure else "the default without TLS")
        )
        log.info(
            "acebase-ipc {version}: token {token}, maxPayload {max_payload} UTF-16 code units"
            " ({source})",
            version=__version__,
            token="required" if self._context.access.tokens.required else "not required",
            max_payload=config.payload_limit,
            source=source,
        )
        if config.max_session_queue > config.max_backlog:
            log.warn(
                "max_session_queue exceeds max_backlog: a peer that resumes may be cut at once"
            )
        for path in config.secret_files():
            if os.path.exists(path) and os.stat(path).st_mode & stat.S_IROTH:
                log.warn("{path} holds a secret and is readable by everybody", path=path)
        super().privilegedStartService()

    def reload_tokens(self) -> None:
        """Read the token file again, if there is one.

        A file that is broken or empty changes nothing, and is logged. The
        connections of tokens that are gone are closed with 1008.
        """
        try:
            self._access.tokens = Tokens(self.config.rules())
        except ConfigError as error:
            log.error("the tokens stay as they are: {error}", error=str(error))
            return
        log.info("the tokens were read again")
        self._connections.check_tokens(self._access.tokens.allow)

    def stopService(self) -> Deferred[Any]:
        """Stop listening, say goodbye to every peer with 1001, and end within 5 s."""
        self._context.admission.is_open = False
        stopped = [maybeDeferred(super().stopService), self._site.close(SHUTDOWN_TIMEOUT)]
        self._relay.close(CLOSE_GOING_AWAY, "the server is shutting down")
        stopped.append(self._connections.wait_closed(SHUTDOWN_TIMEOUT))
        return DeferredList(stopped)

    def start(self) -> Deferred[None]:
        """Start without an Application; fires when all ports listen.

        Fails with ``CannotListenError`` if one cannot.
        """

        def start() -> None:
            self.privilegedStartService()
            self.startService()

        return maybeDeferred(start)

    def stop(self) -> Deferred[None]:
        """Stop without an Application; fires when all connections have ended."""
        return self.stopService().addCallback(lambda _: None)

    def resource(self) -> IResource:
        """The relay as a resource, to be mounted below any path of a Site.

        The Site's own limits come first: its ``timeout``, its access log, which
        shows tokens, and that it keeps whole bodies. In a Site with TLS give
        the server ``max_payload=16 * 2**20``: published AceBase clients cannot
        send larger messages over TLS.
        """
        return Root(self._context)

    def get_clients(self, dbname: str) -> tuple[Client, ...]:
        """The clients of the database with the wire name *dbname*, in the order they came."""
        return tuple(self._relay.registry.clients(dbname))

    def _report_observer(self) -> None:
        if not self._observer_failed:  # once: each of its failures could fill the disk
            self._observer_failed = True
            log.failure("an observer failed; its later failures are not logged")

    def tick(self) -> None:
        """Do what has to be done about once a second."""
        now = self._clock()
        for task in (
            lambda: self._relay.expire(now),
            lambda: self._uploads.expire(now),
            self._connections.sweep,
            lambda: self._site.sweep(now),
            self._expire_log,
        ):
            try:
                task()
            except Exception:
                log.failure("a task of each second failed")  # it must not end the others

    def _expire_log(self) -> None:
        if isinstance(self.observer, LogObserver):
            self.observer.expire()
