"""The server: a relay that is started and stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum
from importlib.metadata import version
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import (
    Deferred,
    FirstError,
    TimeoutError,
    gatherResults,
    succeed,
)
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from acebase_ipc.admin.counts import MetricsObserver
from acebase_ipc.admin.history import History
from acebase_ipc.errors import ConfigError
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.protocol.native import IS_NATIVE
from acebase_ipc.relay.events import Observer, Observers
from acebase_ipc.relay.lock_table import LockTable
from acebase_ipc.server.admin import Admin, Control
from acebase_ipc.server.clients import Client, Speech
from acebase_ipc.server.composition import compose
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.events_file import EventsFile
from acebase_ipc.server.expansion import expand
from acebase_ipc.server.expiry import CertificateWatch
from acebase_ipc.server.handover.sockets import InheritedSockets
from acebase_ipc.server.listener import Listener
from acebase_ipc.server.logging import LogObserver
from acebase_ipc.server.quiet_stop import QuietStop
from acebase_ipc.server.reloading import report_changes, running_config
from acebase_ipc.server.watched_files import WATCH_INTERVAL, WatchedFiles

TICK = 1.0
"""Seconds between two checks of what has expired or timed out."""

SHUTDOWN_TIMEOUT = 2.0
"""Seconds for all clients together to read what was sent to them and to close."""

__version__ = version("acebase-ipc")

log = Logger()


class State(Enum):
    """The life of a server."""

    NEW = "not started"
    RUNNING = "serving"
    HANDED_OVER = "a successor serves; the requests under way are answered"
    PAUSING = "serving until no transaction runs, or for as long as that may take"
    CLOSING = "refusing new requests with 503, closing connections"
    STOPPED = "nothing is open"


_SERVING = frozenset({State.RUNNING, State.PAUSING, State.HANDED_OVER})


class AceBaseIPCServer(Service):
    """A relay for AceBase database processes, as a Twisted service.

    Attach it to an Application, or use :meth:`start` and :meth:`stop`. To serve it from a
    Site of your own, give it ``port=None``, mount :meth:`resource` and start the server
    nevertheless: its timers run only then, and :meth:`resource` refuses requests before.

    :param config: default: on loopback, port 9163, without a token.
    :param reactor: default: the global reactor.
    :param clock: returns monotonic seconds.
    :param wall: returns the seconds since 1970.
    :param observer: receives every event of the relay, too; the server itself logs and counts
        them in any case.
    :param log_level: the lowest level of the events that are logged: ``debug``, ``info``,
        ``warn`` or ``error``. Those below cost nothing.
    :param reload: what the admin endpoint's command ``reload`` calls; default: :meth:`reload`.
    :param inherited: the listening sockets of a predecessor.
    :param upgrade: what the admin endpoint's command ``upgrade`` calls; default: there is none.
    :raises ConfigError: if an endpoint string or the token file cannot be used.
    """

    def __init__(
        self,
        config: AceBaseIPCServerConfig | None = None,
        reactor: Any = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        observer: Observer | None = None,
        log_level: str = "info",
        reload: Callable[[], bool] | None = None,
        inherited: InheritedSockets | None = None,
        upgrade: Callable[[], Deferred[int]] | None = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.config = config or AceBaseIPCServerConfig()
        self._log = LogObserver(clock, log_level)
        self._observer_failed = False
        self._state = State.NEW
        self._has_journal = False
        self._clock = clock
        self._reactor = reactor
        self._history = history = History(wall) if self.config.admin else None
        counts = MetricsObserver() if self.config.admin else None
        self._past: EventsFile | None = None
        if history is not None and self.config.state_dir is not None:
            self._past = EventsFile(self.config.state_dir, history)
        given = (self._log, history, counts, observer)
        observers = Observers([each for each in given if each is not None], self._report_observer)
        self._files = WatchedFiles(self.config.reloaded_files)
        self._parts = compose(
            self.config, reactor, clock, wall, observers, lambda: self._state in _SERVING
        )
        self.listeners = [
            Listener(each, reactor, observers, self._parts.proxies, inherited=inherited)
            for each in expand(self.config.parsed_endpoints, inherited)
        ]
        self._speech = Speech(self._parts, clock)
        self._admin: Admin | None = None
        self._expiry = CertificateWatch(
            lambda: (dates for each in self._all_listeners for dates in each.certificates),
            observers,
            clock,
            wall,
        )
        if history is not None and counts is not None:
            control = Control(
                self._parts,
                self.config.effective_limits,
                self._describe_state,
                self.listeners,
                clock,
                wall,
                self.reload if reload is None else reload,
                self._expiry.timestamps,
                upgrade,
            )
            self._admin = Admin(
                self.config,
                control,
                self._parts,
                history,
                counts,
                observers,
                reactor,
                clock,
                wall,
                inherited,
            )
        self._ticks = 0
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor
        self._starting: Deferred[BaseException | None] | None = None
        self._stopping: Deferred[None] | None = None
        self._quiet_stop: QuietStop | None = None

    @property
    def _all_listeners(self) -> list[Listener]:
        return [*self.listeners, *([] if self._admin is None else self._admin.listeners)]

    @property
    def state(self) -> State:
        """Whether the server was started or stopped."""
        return self._state

    @property
    def url(self) -> str:
        """The URL of its first port, while it listens, such as ``ws://127.0.0.1:9163``.

        It names the address to which the port is bound, also ``0.0.0.0``.

        :raises RuntimeError: if it does not listen.
        """
        return self._first_listener.url

    @property
    def port(self) -> int:
        """The number of its first port, while it listens; tells that of a port 0.

        :raises RuntimeError: if it does not listen, or not on TCP.
        """
        port = getattr(self._first_listener.address, "port", None)
        if not isinstance(port, int):
            raise RuntimeError("the server does not listen on TCP")
        return port

    @property
    def _first_listener(self) -> Listener:
        for each in self.listeners:
            if each.address is not None:
                return each
        raise RuntimeError("the server does not listen: wait for start()")

    @property
    def counts(self) -> Counter[str]:
        """The number of events of each kind, by the name of its class."""
        return self._log.counts

    # Starting

    def privilegedStartService(self) -> None:
        """Start to listen, while there may still be the privilege for a low port.

        :raises CannotListenError: if that fails at once; then no port is open.
        """
        self._start(has_privilege=True)

    def startService(self) -> None:
        """Start, unless that has begun before.

        :raises ConfigError: if the state directory cannot be used.
        """
        self._start()
        super().startService()

    def _start(self, has_privilege: bool = False) -> None:
        error = self._begin(has_privilege)
        if error is not None:
            raise error

    def start(self) -> Deferred[None]:
        """Start without an Application; fires when all ports listen.

        Fails with ``CannotListenError`` or ``ConfigError`` if one of them cannot listen; then
        no port is open, and the server can be started again. A server that was stopped can
        be started again, unless it listened on an inherited socket, which is closed by then.

        :raises RuntimeError: while it is stopping: wait for :meth:`stop`.
        """

        async def start() -> None:
            self._begin()
            assert self._starting is not None
            error = await _follow(self._starting)
            if error is not None:
                await self._stop()
                raise error
            if not self.running:
                super(AceBaseIPCServer, self).startService()

        return Deferred.fromCoroutine(start())

    def _begin(self, has_privilege: bool = False) -> BaseException | None:
        """Start; returns the failure of a port if it is known at once.

        :param has_privilege: whether the process has another user later on; that one opens the
            journal, before anything is read from a connection.
        :raises ConfigError: if the state directory cannot be used.
        """
        if self._state in (State.PAUSING, State.CLOSING):
            raise RuntimeError("the server is stopping: wait for stop() before start()")
        opens_journal = not has_privilege and not self._has_journal
        if opens_journal:
            try:
                self._parts.open_state(self.config.effective_limits.session_timeout, self._clock())
            except ConfigError:
                self._stop()
                raise
            self._has_journal = True
            if self._past is not None:
                self._past.restore()
        if self._state is not State.RUNNING:
            self._report_configuration()
            self._state = State.RUNNING
            self._stopping = None
            self._ticking.start(TICK, now=False).addErrback(_log_ticking)
            self._starting = Deferred.fromCoroutine(self._listen())
        failed: list[BaseException | None] = [None]
        assert self._starting is not None
        if opens_journal:
            _follow(self._starting).addCallback(self._report_listening)
        _follow(self._starting).addCallback(failed.append)
        return failed[-1]

    async def _listen(self) -> BaseException | None:
        """Open every port; returns the failure of one, which closes all others."""
        try:
            opening = [each.open(self._parts.site) for each in self.listeners]
            if self._admin is not None:
                opening += self._admin.open()
            if self._parts.cluster is not None:
                opening.append(self._parts.cluster.open())
            await gatherResults(opening, consumeErrors=True)
        except FirstError as first:
            error = first.subFailure.value
            if self._state is State.RUNNING:
                log.error("the server does not start: {error}", error=str(error))
                self._stop()
            return error
        return None

    def _report_listening(self, error: BaseException | None) -> None:
        """Log where the server listens, if it does."""
        if error is not None or self._state is not State.RUNNING:
            return
        where = ", ".join(each.describe() for each in self.listeners)
        admin = "" if self._admin is None else self._admin.describe()
        if where and admin:
            log.info(
                "listening on {where}; the admin endpoint is {admin}", where=where, admin=admin
            )
        elif where:
            log.info("listening on {where}", where=where)
        elif admin:
            log.info("the admin endpoint is {admin}", admin=admin)
        for listener in self.listeners:
            listener.warn(self._parts.access.tokens.required)
        self._expiry.report()

    def _report_configuration(self) -> None:
        config, limits = self.config, self.config.effective_limits
        source = "configured"
        if config.limits.max_payload is None:
            source = f"the default {'with' if config.is_secure else 'without'} TLS"
        log.info(
            "acebase-ipc {version} ({code}): token {token}, maxPayload {max_payload} UTF-16 code"
            " units ({source})",
            version=__version__,
            code="C extension" if IS_NATIVE else "pure Python",
            token="required" if self._parts.access.tokens.required else "not required",
            max_payload=limits.payload_limit,
            source=source,
        )
        if limits.max_session_queue > limits.max_backlog:
            log.warn(
                "max_session_queue exceeds max_backlog: a peer that resumes its session may be"
                " disconnected at once"
            )
        for path in config.exposed_files:
            log.warn("{path} holds a secret and is readable by all users", path=path)

    # Stopping

    def stopService(self) -> Deferred[Any]:
        """Stop at a moment when no transaction runs, or after ``quiesce_timeout``.

        With a state directory every WebSocket is closed with 1012, and the next server goes on with
        the sessions. Without one every WebSocket is closed with 1001. Requests are refused with 503
        from then on, and every port is closed.

        Fires when nothing is open: without AceBase peers at once or within 5 s, otherwise within
        ``quiesce_timeout`` and 5 s. A server that was not started, or that failed to start, is
        stopped already.
        """
        if self.running:
            super().stopService()
        if self._state is not State.RUNNING:
            return self._stop()
        return self._stop().addCallback(lambda _: log.info("stopped"))

    def stop(self) -> Deferred[None]:
        """Stop without an Application; fires when nothing is open."""
        return self.stopService()

    def _stop(self) -> Deferred[None]:
        if self._state is State.RUNNING:
            self._state = State.PAUSING
            self._quiet_stop = QuietStop(self._parts, self._reactor, self._clock)
            self._stopping = Deferred.fromCoroutine(self._close(self._quiet_stop))
        return succeed(None) if self._stopping is None else _follow(self._stopping)

    def hurry(self) -> None:
        """Let a stop that has begun wait for nothing any more; the state is saved nevertheless."""
        if self._quiet_stop is not None:
            self._quiet_stop.hurry()

    async def _close(self, stop: QuietStop) -> None:
        """Close everything that is open; what does not close in time is aborted."""
        if self._parts.cluster is not None:
            await _attempt(self._parts.cluster.move_away())
        await _attempt(stop.wait_quiet())
        stop.prepare()
        self._ticking.stop()
        if stop.is_saved:
            await _attempt(self._close_ports())
            # Who was accepted before is still admitted: a refusal would end its process.
            await _attempt(stop.suspend(SHUTDOWN_TIMEOUT))
            self._state = State.CLOSING
            await _attempt(self._parts.site.close(SHUTDOWN_TIMEOUT))
            stop.save()
        else:
            self._state = State.CLOSING
            ports = Deferred.fromCoroutine(self._close_ports())
            peers = stop.close(SHUTDOWN_TIMEOUT)
            await _attempt(ports)
            # Only now, as a connection may have been accepted until its port is closed.
            await _attempt(self._parts.site.close(SHUTDOWN_TIMEOUT))
            await _attempt(peers)
        if self._parts.cluster is not None:
            # Only now, as nothing that peers send is accepted any more.
            await _attempt(self._parts.cluster.leave())
        if self._past is not None:
            self._past.save()
        self._parts.close_journal()
        self._has_journal = False
        self._state = State.STOPPED

    async def _close_ports(self) -> None:
        ports = [each.close() for each in self.listeners]
        if self._admin is not None:
            ports += self._admin.close()
        if self._parts.cluster is not None:
            ports.append(self._parts.cluster.close())
        closing = gatherResults(ports, consumeErrors=True)
        closing.addTimeout(SHUTDOWN_TIMEOUT, self._reactor)
        try:
            await closing
        except (FirstError, TimeoutError):
            log.failure("closing a port failed")

    # Running

    def reload(self, config: AceBaseIPCServerConfig | None = None) -> bool:
        """Read token files and certificates again, and use what can be reloaded of *config*.

        That is what ``docs/options.rst`` says is reloaded; the log says what has changed, and which
        changes need a restart. If a file cannot be used, everything stays as it is and an error is
        logged. Connections whose token was removed, or whose database is not served any more, are
        closed with 1008.

        :param config: a changed configuration; default: that of the server.
        :returns: whether all could be used.
        """
        self._files.read(self.config.reloaded_files)  # also a file that cannot be used is known
        try:
            new = self.config if config is None else running_config(self.config, config)
            files = WatchedFiles(new.reloaded_files)  # as they are before they are read
            tokens, admin_tokens = Tokens(new.rules()), Tokens(new.admin_rules())
            certificates = [
                use for each in self._all_listeners if (use := each.read_certificate()) is not None
            ]
        except ConfigError as error:
            log.error("nothing is reloaded: {error}", error=str(error))
            return False
        has_tokens = new.token_file is not None or new.admin_token_file is not None
        if config is not None:
            report_changes(self.config, new, config)
        if has_tokens:
            log.info("the tokens were read again")
        if certificates:
            log.info("the certificates were read again")
        if not has_tokens and not certificates:
            log.info("the configuration was read again")
        self.config = new
        self._files = files
        for use in certificates:
            use()
        self._parts.apply(new, tokens)
        if self._admin is not None:
            self._admin.apply(new.effective_limits, admin_tokens)
        self._expiry.report()
        return True

    def set_log_level(self, level: str) -> None:
        """Log the relay's events of this *level* and above from now on."""
        self._log.set_level(level)

    def _describe_state(self) -> str:
        if self._state is not State.RUNNING:
            return "closing"
        return "draining" if self._parts.admission.is_draining else "serving"

    def resource(self) -> IResource:
        """Return the relay as a resource, to be mounted below any path of a Site.

        It refuses every request with 503 unless the server is running. The Site's own limits
        come first: its ``timeout``, its access log, which shows tokens, and that it keeps
        whole bodies in memory. In a Site with TLS give the server
        ``max_payload=16 * 2**20``: the npm package acebase cannot send larger messages over
        TLS.
        """
        return self._parts.root

    def get_clients(self, dbname: str) -> tuple[Client, ...]:
        """Return the clients of the database with the wire name *dbname*, as they joined."""
        return self._speech.clients(dbname)

    def broadcast(self, dbname: str, body: str) -> Deferred[int]:
        """Send *body* to all clients of a database, as a message of the relay itself.

        :param dbname: the wire name of the database.
        :returns: a Deferred with the number of clients. It fails like
            :meth:`.Client.send_message`, except with ``NotAPeer``.
        :raises TypeError: if *body* is no text.
        :raises ValueError: if it is not valid Unicode.
        """
        return self._speech.broadcast(dbname, body)

    def locks(self, dbname: str) -> LockTable:
        """Return the locks and open requests of the database with the wire name *dbname*."""
        return self._parts.relay.locks(dbname)

    def _report_observer(self) -> None:
        if not self._observer_failed:  # once: each of its failures could fill the disk
            self._observer_failed = True
            log.failure("an observer failed; its later failures are not logged")

    def _tick(self) -> None:
        self._parts.tick(self._clock())
        self._ticks += 1
        if self._ticks % WATCH_INTERVAL == 0 and self._files.have_changed():
            self.reload()
        self._expiry.tick()
        self._log.expire()
        if self._admin is not None:
            self._admin.tick(self._clock())


async def _attempt(step: Awaitable[object]) -> None:
    """Wait for a step of a stop; its failure is logged, and does not prevent the next ones."""
    try:
        await step
    except Exception:
        log.failure("closing failed")


def _follow(leader: Deferred[Any]) -> Deferred[Any]:
    """Return a Deferred that fires with the result of *leader*, which keeps its result."""
    follower: Deferred[Any] = Deferred()

    def pass_on(result: Any) -> Any:
        follower.callback(result)
        return result

    leader.addBoth(pass_on)
    return follower


def _log_ticking(failure: Failure) -> None:
    log.failure("the timer of each second failed", failure)
