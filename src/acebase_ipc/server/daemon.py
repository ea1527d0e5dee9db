"""A process that is nothing but a relay: its signals, its log, its service manager."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python import runtime
from twisted.python.failure import Failure

from acebase_ipc.errors import ConfigError
from acebase_ipc.relay.limits import format_size
from acebase_ipc.server.logging import FileOutput, LineObserver
from acebase_ipc.server.process import OTHER_FILES, Launch, Signals, allow_files
from acebase_ipc.server.service import TICK, AceBaseIPCServer, State
from acebase_ipc.server.settings import Settings, Sources
from acebase_ipc.server.systemd import Notifier

log = Logger()


class Daemon(Service):
    """Runs a server in a process of its own, as ``twistd`` does.

    It ends with one line of text and status 1 if it cannot listen, reads its configuration again
    on SIGHUP, and notifies systemd.

    The reactor's timers use monotonic time: else they would stop for as long as the time of
    day is set back. That concerns no other code, as the process runs nothing but the relay,
    and it is what Twisted's asyncio reactor does anyway.

    :param sources: where the configuration comes from, which SIGHUP reads again.
    :param signals: receives the signals of the process.
    :param launch: is told whether the server has started.
    :param writer: writes the log, if that is not left to the runner.
    :param log_level: the lowest level that is logged.
    :ivar server: the server that it runs.
    """

    def __init__(
        self,
        sources: Sources,
        reactor: Any,
        signals: Signals,
        launch: Launch,
        writer: LineObserver | None = None,
        log_level: str = "info",
    ) -> None:
        settings = sources.read()
        self.server = AceBaseIPCServer(
            settings.config, reactor, log_level=log_level, reload=self._reload
        )
        self._sources = sources
        self._lowered, self._exposed_file = settings.lowered, settings.exposed_file
        self._log_level, self._log_format = settings.log_level, settings.log_format
        self._reactor = reactor
        self._signals = signals
        self._launch = launch
        self._has_failed = False
        self._writer = writer
        self._notifier = Notifier(os.environ, os.getpid())
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = reactor

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and set its log observer."""
        if self._writer is not None:
            parent.setComponent(ILogObserver, self._writer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Listen; if that is not possible, the process ends as soon as the reactor runs."""
        if self._reactor.seconds is runtime.seconds:
            self._reactor.seconds = time.monotonic
        allow_files(self.server.config.effective_limits.max_connections)
        self._report_settings()
        try:
            self.server.privilegedStartService()
        except (CannotListenError, ConfigError) as error:
            self._give_up(error)

    def _report_settings(self) -> None:
        """Log what else there is to say about the configuration."""
        if self._exposed_file is not None:
            log.warn("{path} holds a secret and is readable by all users", path=self._exposed_file)
        memory = self._lowered.get("max_memory")
        if memory is not None:
            log.info(
                "max_memory is {memory}: half of the memory limit of the control group",
                memory=format_size(memory),
            )
        connections = self._lowered.get("max_connections")
        if connections is not None:
            log.warn(
                "max_connections is {connections}, as the process may open only"
                " {files} files (ulimit -n, LimitNOFILE=)",
                connections=connections,
                files=connections + OTHER_FILES,
            )

    def startService(self) -> None:
        """Handle signals, and notify systemd as soon as connections are served."""
        super().startService()
        if self.server.state is not State.RUNNING and not self._has_failed:
            self.privilegedStartService()  # only ``twistd`` calls it
        if self._has_failed:
            return
        try:
            self.server.startService()
        except ConfigError as error:
            self._give_up(error)
            return
        self._handle(signal.SIGHUP, self._reload)
        output = None if self._writer is None else self._writer.output
        if isinstance(output, FileOutput):
            self._handle(signal.SIGUSR1, output.rotate)
        self._ticking.start(TICK)
        started = self.server.start()
        started.addCallbacks(self._report_ready, self._start_failed)

    def _handle(self, number: int, action: Callable[[], object]) -> None:
        def call() -> None:
            self._reactor.callFromThread(action)

        self._signals.handle(number, call)

    def _report_ready(self, _: None) -> None:
        def report() -> None:
            log.info("ready")
            self._notifier.ready()
            self._launch.succeeded()

        self._reactor.callWhenRunning(report)  # from then on SIGTERM is handled

    def _start_failed(self, failure: Failure) -> None:
        """Give up, as a port that opens asynchronously could not be opened."""
        if self.running:
            self._give_up(failure.value)

    def _give_up(self, error: BaseException | None) -> None:
        """Let the reactor stop as soon as it runs, and the process end with status 1."""
        self._has_failed = True
        self._launch.failed(f"acebase-ipc: {error}")
        self._reactor.callWhenRunning(self._reactor.stop)

    def _reload(self) -> bool:
        """Read the configuration again; returns whether it could be used."""
        self._notifier.reloading()
        try:
            return self._reload_server()
        finally:
            self._notifier.ready()

    def _reload_server(self) -> bool:
        try:
            settings = self._sources.read()
        except ConfigError as error:
            log.error("nothing is reloaded: {error}", error=str(error))
            return False
        before = self.server.config.limits.max_connections
        if not self.server.reload(settings.config):
            return False
        self._change_log(settings)
        if self.server.config.limits.max_connections > before:
            allow_files(self.server.config.limits.max_connections)
        return True

    def _change_log(self, settings: Settings) -> None:
        if settings.log_level != self._log_level:
            self._log_level = settings.log_level
            level = settings.log_level or "info"
            self.server.set_log_level(level)
            if self._writer is not None:
                self._writer.set_level(level)
            log.info("changed: {reloaded}", reloaded="log_level")
        if settings.log_format != self._log_format:
            log.warn("not changed, as it needs a restart: {others}", others="log_format")

    def _tick(self) -> None:
        self._notifier.alive()
        if self._writer is not None:
            self._writer.expire()

    def stopService(self) -> Deferred[Any]:
        """Notify systemd, and stop the server; a second signal lets it wait for nothing."""
        super().stopService()
        self._notifier.stopping()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle(number, self.server.hurry)
        if self._ticking.running:
            self._ticking.stop()
        return self.server.stopService()
