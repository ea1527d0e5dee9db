"""The server as a process of its own: its log, its signals, its service manager."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import (
    ILogObserver,
    Logger,
)
from twisted.python import runtime

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.service import AceBaseIPCServer
from acebase_ipc.server.systemd import Notifier

log = Logger()


class Daemon(AceBaseIPCServer):
    """A server that ``twistd`` runs.

    It ends with one line of text when it cannot listen, reads its token file
    again on SIGHUP, and keeps systemd informed.
    """

    def __init__(
        self,
        config: AceBaseIPCServerConfig,
        reactor: Any,
        observer: ILogObserver | None = None,
    ) -> None:
        """:param observer: what writes the log; default: ``twistd``'s own."""
        super().__init__(config, reactor)
        self._reactor = reactor
        self._log_observer = observer
        self._notifier = Notifier(os.environ, os.getpid())

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and let it log as it was asked to."""
        if self._log_observer is not None:
            parent.setComponent(ILogObserver, self._log_observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Listen.

        :raises SystemExit: if that is not possible; its text says why.
        """
        if self._reactor.seconds is runtime.seconds:
            # The reactor's timers go by the time of day: they would stand still
            # for as long as that is set back.
            self._reactor.seconds = time.monotonic
        try:
            super().privilegedStartService()
        except (CannotListenError, ConfigError) as error:
            raise SystemExit(f"acebase-ipc: {error}") from None

    def startService(self) -> None:
        """Hear SIGHUP, and tell systemd when connections are served."""
        super().startService()
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._reload))
        self._reactor.callWhenRunning(self._notifier.ready)

    def _reload(self) -> None:
        self._notifier.reloading()
        self.reload_tokens()
        self._notifier.ready()

    def stopService(self) -> Deferred[Any]:
        """Tell systemd, and end."""
        self._notifier.stopping()
        return super().stopService()

    def tick(self) -> None:
        """Show a sign of life."""
        super().tick()
        self._notifier.alive()
