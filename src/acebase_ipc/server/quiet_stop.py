"""Stops a relay at a moment when nothing is under way, so that the next one can go on.

1. Requests that begin something new are withheld, until all else has ended; ports are open.
2. The ports are closed, and every connection is closed with 1012 ("service restart"). What a
   client sends before it has closed its end, too, is received.
3. The state is saved. Clients connect again at once, and the next relay resumes their sessions.

Without a state directory, or if the state cannot be saved there, requests that were withheld are
answered with a failure, and the connections are closed with 1001.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from acebase_ipc.server.composition import Parts

CLOSE_RESTART: Final = 1012
"""Service restart (RFC 6455's registry). The npm package acebase connects again after any code."""

INTERVAL: Final = 0.02
"""Seconds between two looks at whether all is quiet."""

log = Logger()


class QuietStop:
    """One stop of a relay; see the module's text.

    :param clock: returns monotonic seconds.
    :ivar is_saved: whether the next relay is to go on with the state of this one.
    """

    def __init__(self, parts: Parts, reactor: Any, clock: Callable[[], float]) -> None:
        self._parts = parts
        self._reactor = reactor
        self._clock = clock
        self._began = clock()
        self._is_hurried = False
        self._is_closing = False
        self.is_saved = False

    def hurry(self) -> None:
        """Wait for nothing any more: neither for a quiet moment nor for clients."""
        self._is_hurried = True
        if self._is_closing:
            self._parts.connections.abort_all()

    async def wait_quiet(self) -> None:
        """Wait until nothing is under way, or for as long as that may take."""
        quiesce = self._parts.relay.quiesce
        databases = self._parts.relay.registry.databases
        is_told = False
        while True:
            now = self._clock()
            quiesce.begin(databases.values(), now)  # others may have come
            is_over = self._is_hurried or now >= self._began + quiesce.timeout
            if quiesce.is_quiet(now) or is_over:
                break
            if not is_told:
                log.info("stopping as soon as no transaction runs")
                is_told = True
            await deferLater(self._reactor, INTERVAL)
        quiesce.report_unfinished(self._clock())

    def prepare(self) -> None:
        """Check whether the state can be saved; if not, tell those that wait."""
        try:
            self.is_saved = self._parts.prepare_state(self._clock())
        except Exception:
            log.failure("exporting the state failed")
        if not self.is_saved:
            self._parts.relay.quiesce.refuse("The relay has stopped")

    def suspend(self, timeout: float) -> Deferred[None]:
        """Close every connection with 1012; fires when all have ended, within *timeout* seconds."""
        self._is_closing = True
        self._parts.relay.sessions.suspend_all(CLOSE_RESTART, "the relay restarts")
        return self._parts.connections.wait_closed(0 if self._is_hurried else timeout)

    def close(self, timeout: float) -> Deferred[None]:
        """End all sessions, and close every connection with 1001, as :meth:`suspend` does."""
        self._is_closing = True
        return maybeDeferred(self._parts.close_peers, 0 if self._is_hurried else timeout)

    def save(self) -> None:
        """Save the state."""
        now = self._clock()
        took = now - self._began
        try:
            if self._parts.save_state(now, took):
                log.info("the state is saved, {took:.2f} s after the stop began", took=took)
        except Exception:
            log.failure("saving the state failed")
