"""A process that is nothing but a relay: its signals, its log, its service manager."""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.logger import ILogObserver, Logger
from twisted.python import runtime
from twisted.python.failure import Failure

from acebase_ipc.errors import ConfigError
from acebase_ipc.relay.limits import format_size
from acebase_ipc.server.handover.launch import Command
from acebase_ipc.server.handover.predecessor import Door, HandOver
from acebase_ipc.server.handover.server import ReplaceableServer
from acebase_ipc.server.handover.snapshot import Arrival
from acebase_ipc.server.handover.successor import Link
from acebase_ipc.server.handover.wire import Ended, HandOverError, Wire, without_collection
from acebase_ipc.server.logging import FileOutput, LineObserver
from acebase_ipc.server.process import (
    OTHER_FILES,
    Launch,
    PidFile,
    Signals,
    allow_files,
    keep_freed_memory,
)
from acebase_ipc.server.service import TICK, State
from acebase_ipc.server.settings import Settings, Sources
from acebase_ipc.server.systemd import Notifier

FINISH_TIMEOUT: Final = 10.0
"""Seconds in which the requests that are under way at a hand-over are answered."""

UNFREEZE: Final = 10.0
"""Seconds after a hand-over in which what was taken over is not searched for garbage."""

FAREWELL: Final = 0.2
"""Seconds after that in which the last answers are written, those of the admin endpoint, too."""

log = Logger()


class Daemon(Service):
    """Runs a server in a process of its own, as ``twistd`` does.

    It ends with one line of text and status 1 if it cannot listen, reads its configuration again
    on SIGHUP, hands all connections over to a new process on SIGUSR2, and notifies systemd.

    The reactor's timers use monotonic time: else they would stop for as long as the time of
    day is set back. That concerns no other code, as the process runs nothing but the relay,
    and it is what Twisted's asyncio reactor does anyway.

    :param sources: where the configuration comes from, which SIGHUP reads again.
    :param signals: receives the signals of the process.
    :param launch: is told whether the server has started.
    :param writer: writes the log, if that is not left to the runner.
    :param log_level: the lowest level that is logged.
    :param link: to the relay whose connections it takes over; ``None`` if there is none.
    :param pid_file: of the process, if it has one.
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
        link: Link | None = None,
        pid_file: PidFile | None = None,
    ) -> None:
        self._link = link
        self._pid_file = pid_file
        self._command = Command()
        try:
            settings = sources.read()
            self.server = ReplaceableServer(
                settings.config,
                reactor,
                log_level=log_level,
                reload=self._reload,
                inherited=None if link is None else link.sockets,
                upgrade=self.upgrade,
            )
        except ConfigError as error:
            if link is not None:
                link.wire.refuse(str(error))
            raise
        self._handing_over = HandOver(self.server, reactor, time.monotonic, self._handed_over)
        self._door: Door | None = None
        if settings.take_over_from is not None:
            self._door = Door(settings.take_over_from, reactor, self._ask)
        self._sources = sources
        self._lowered, self._exposed_file = settings.lowered, settings.exposed_file
        self._log_level, self._log_format = settings.log_level, settings.log_format
        self._reactor = reactor
        self._signals = signals
        self._launch = launch
        self._has_prepared = self._has_failed = False
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
        self._has_prepared = True
        if self._reactor.seconds is runtime.seconds:
            self._reactor.seconds = time.monotonic
        allow_files(self.server.config.effective_limits.max_connections)
        keep_freed_memory()
        self._report_settings()
        if self._link is not None:
            return  # the predecessor listens until all is handed over
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
        if not self._has_prepared:
            self.privilegedStartService()  # only ``twistd`` calls it
        if self._has_failed:
            return
        if self._link is not None:
            self._take_over(self._link)
        try:
            self.server.startService()
        except ConfigError as error:
            self._give_up(error)
            return
        self._handle(signal.SIGHUP, self._reload)
        self._handle(signal.SIGUSR2, self._upgrade_on_signal)
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
            gc.freeze()  # what is there stays: no later search has to look at it
            gc.enable()
            log.info("ready")
            self._notifier.ready()
            self._launch.succeeded()
            if self._pid_file is not None:
                self._pid_file.write()
            self._open_door()

        self._reactor.callWhenRunning(report)  # from then on SIGTERM is handled

    # Handing over

    def _take_over(self, link: Link) -> None:
        """Take over all connections of the predecessor, or end this process.

        If the predecessor has ended, this process starts as any other.
        """
        self._link = None
        try:
            arrival = self.server.arrive()
            with without_collection():
                state = link.receive(arrival)
                takes_journal = self.server.adopt(arrival, state, link.take_lock())
                link.take_over(takes_journal)
                self._resume(arrival, link)  # there is no way back any more
        except Ended:
            log.warn("the predecessor has ended before it has handed over anything")
            link.close()
            return
        except Exception as error:
            if not isinstance(error, HandOverError | ConfigError | CannotListenError):
                log.failure("taking over failed")
            reason = str(error) or type(error).__name__
            link.wire.refuse(reason)
            self._launch.end_now(f"acebase-ipc: nothing is taken over: {reason}")
        log.info(
            "{connections} connections are taken over, in {pause} ms",
            connections=len(arrival),
            pause=round((time.monotonic() - state["since"]) * 1000),
        )
        self._reactor.callLater(UNFREEZE, gc.unfreeze)

    def _resume(self, arrival: Arrival, link: Link) -> None:
        try:
            self.server.resume(arrival, link)
        except Exception:
            log.failure("going on with what is taken over failed")

    def _open_door(self) -> None:
        if self._door is not None:
            try:
                self._door.open()
            except OSError as error:
                log.error(
                    "nothing can be handed over at {path}: {reason}",
                    path=self._door.path,
                    reason=error.strerror or str(error),
                )

    def _ask(self, connected: socket.socket) -> None:
        """Hand over to a process that asks for it."""
        if self._handing_over.is_under_way or self.server.state is not State.RUNNING:
            Wire(connected, time.monotonic).refuse("another process takes the relay over")
            connected.close()
        else:
            self._handing_over.begin(connected).addErrback(lambda _: None)  # it is logged

    def _upgrade_on_signal(self) -> None:
        self._notifier.reloading()
        self.upgrade().addErrback(lambda _: self._notifier.ready())

    def upgrade(self) -> Deferred[int]:
        """Start a new process with the same command, and hand all connections over to it.

        :returns: fires with the id of the process; fails with :exc:`HandOverError`.
        """
        if self._handing_over.is_under_way or self.server.state is not State.RUNNING:
            return fail(HandOverError("a hand-over is under way"))
        try:
            connected = self._command.start(self._reactor, os.environ)
        except OSError as error:
            log.error("no successor can be started: {reason}", reason=error.strerror)
            return fail(HandOverError(f"no successor can be started: {error.strerror}"))
        return self._handing_over.begin(connected)

    def _handed_over(self, pid: int, wire: Wire) -> None:
        """Let the successor be the relay, answer the requests under way, and end."""
        log.info("the process {pid} has taken over", pid=pid)
        self._notifier.main_process(pid)
        self._ticking.stop()
        if self._pid_file is not None:
            self._pid_file.leave()
        if self._door is not None:
            self._door.close()
        finished = self.server.finish_requests(FINISH_TIMEOUT, wire)
        finished.addBoth(lambda _: self._reactor.callLater(FAREWELL, self._reactor.stop))

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
        """Notify systemd, and stop the server, unless a successor has it.

        A second signal lets it wait for nothing.
        """
        super().stopService()
        if self.server.state is State.HANDED_OVER:
            return succeed(None)
        self._handing_over.give_up("it is about to stop")
        self._notifier.stopping()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handle(number, self.server.hurry)
        if self._ticking.running:
            self._ticking.stop()
        if self._door is not None:
            self._door.close()
        if self._pid_file is not None:
            self._pid_file.remove()
        return self.server.stopService()
