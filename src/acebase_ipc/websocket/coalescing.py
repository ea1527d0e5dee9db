"""When the frames that connections collect leave.

A system call costs 10 µs, as much as relaying five messages, so frames for one
connection should leave together; but waiting for more to come costs latency.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

BUSY = 0.0002
"""Seconds. Who was written to that recently gets the frames of a whole turn of
the reactor in one write, who was not gets them at once."""

log = Logger()


class Flushable(Protocol):
    """A connection that collects frames.

    :ivar last_flush: when it was flushed last, in seconds of the clock.
    """

    last_flush: float

    def flush(self) -> None:
        """Write what was collected."""

    def abort(self) -> None:
        """End the connection at once."""


class WriteCoalescer:
    """Flushes connections, each as late as costs nobody time.

    :param clock: seconds of a clock that never jumps.
    :ivar receiving: whether data of one connection is being worked on: what is
        to be sent meanwhile waits until :meth:`flush_idle`.
    """

    def __init__(self, reactor: IReactorTime, clock: Callable[[], float]) -> None:
        self._reactor = reactor
        self._clock = clock
        self.receiving = False
        self._in_turn = False
        self._unflushed: list[Flushable] = []
        self._busy: list[Flushable] = []

    def flush_soon(self, connection: Flushable) -> None:
        """Flush *connection* at the end of the data that is worked on, or of this turn."""
        if self.receiving:
            self._unflushed.append(connection)
        else:
            self._flush_later(connection)

    def _flush_later(self, connection: Flushable) -> None:
        if not self._busy and not self._in_turn:
            self._reactor.callLater(0, self._flush_busy)
        self._busy.append(connection)

    def flush_idle(self) -> None:
        """Flush all but busy connections, which wait for what else comes in this turn."""
        if self._unflushed:
            unflushed, self._unflushed = self._unflushed, []
            self._flush(unflushed, BUSY)

    def begin_turn(self) -> None:
        """Data of several connections is about to be worked on."""
        self._in_turn = True

    def end_turn(self) -> None:
        """There is no more such data: nobody waits any longer."""
        self._in_turn = False
        self._flush_busy()

    def _flush_busy(self) -> None:
        if self._busy:
            busy, self._busy = self._busy, []
            self._flush(busy, 0)

    def _flush(self, connections: Iterable[Flushable], busy_for: float) -> None:
        """Flush *connections*, but those later that were flushed within *busy_for* seconds."""
        now = self._clock()
        for connection in connections:
            if now - connection.last_flush < busy_for:
                self._flush_later(connection)
                continue
            connection.last_flush = now
            try:
                connection.flush()
            except Exception:
                log.failure("writing failed")
                connection.abort()
