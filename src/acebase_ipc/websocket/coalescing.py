"""Decides when the messages that connections collect are written.

A system call costs 10 µs, as much as relaying five messages. So messages for one connection
should be written together, without the latency of waiting for more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from acebase_ipc.relay.work import Work

BUSY = 0.0002
"""Seconds. A connection that was flushed within this time is busy: it is flushed again at the
end of the reactor's turn, and any other one at once."""

WRITE = 8
"""Units of work that writing to a connection counts."""

log = Logger()


class Flushable(Protocol):
    """A connection that collects messages.

    :ivar last_flush: when it was last flushed, in monotonic seconds.
    """

    last_flush: float

    def flush(self) -> None:
        """Write the collected messages."""

    def abort(self) -> None:
        """End the connection at once."""


class WriteCoalescer:
    """Flushes connections, each as late as possible without adding latency.

    :param clock: returns monotonic seconds.
    :param work: counts the writes.
    :ivar receiving: whether data of a connection is being processed: messages that are
        sent in the meantime wait until :meth:`flush_idle`.
    """

    def __init__(self, reactor: IReactorTime, clock: Callable[[], float], work: Work) -> None:
        self._reactor = reactor
        self._clock = clock
        self._work = work
        self.receiving = False
        self._in_turn = False
        self._unflushed: list[Flushable] = []
        self._busy: list[Flushable] = []

    def flush_soon(self, connection: Flushable) -> None:
        """Flush *connection* after the data that is being processed, or at the end of this turn."""
        if self.receiving:
            self._unflushed.append(connection)
        else:
            self._flush_later(connection)

    def _flush_later(self, connection: Flushable) -> None:
        if not self._busy and not self._in_turn:
            self._reactor.callLater(0, self._flush_busy)
        self._busy.append(connection)

    def flush_idle(self) -> None:
        """Flush the idle connections; busy ones wait until the end of the turn."""
        if self._unflushed:
            unflushed, self._unflushed = self._unflushed, []
            now = self._clock()
            for connection in unflushed:
                if now - connection.last_flush < BUSY:
                    self._flush_later(connection)
                    continue
                connection.last_flush = now
                self._work.units += WRITE
                try:
                    connection.flush()
                except Exception:
                    _abort(connection)

    def begin_turn(self) -> None:
        """Note that data of several connections is about to be processed."""
        self._in_turn = True

    def end_turn(self) -> None:
        """Flush every connection, because all data was processed."""
        self._in_turn = False
        self._flush_busy()

    def _flush_busy(self) -> None:
        if self._busy:
            busy, self._busy = self._busy, []
            now = self._clock()
            self._work.units += WRITE * len(busy)
            for connection in busy:
                connection.last_flush = now
                try:
                    connection.flush()
                except Exception:
                    _abort(connection)


def _abort(connection: Flushable) -> None:
    log.failure("writing failed")
    connection.abort()
