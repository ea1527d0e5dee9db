"""Serves connections that have received more than one turn's work, in rotation.

Work is counted in units: a text message, a control frame, each receiver of a broadcast
and each frame that Autobahn parses is one or more. A connection that has caused a slice
of them goes on in a later turn of the reactor, after the others.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

SLICE = 256
"""Units of work of one connection before it is another's turn: about 1 ms."""

TURN = 2048
"""Units of work of all connections before the reactor looks at its timers and other
descriptors: about 10 ms."""

FRAME = 4
"""Units of work of a frame that Autobahn parses: it takes about 25 microseconds."""

log = Logger()


class Postponed(Protocol):
    """A connection that has received more than it may cause work for in one turn."""

    def resume_work(self) -> None:
        """Do a slice of the work; :meth:`Rotation.add` again if that is not all."""

    def abort(self) -> None:
        """End the connection at once."""


class Rotation:
    """Lets postponed connections go on, one after the other.

    :ivar work: units of work done so far, beside those that the router counts.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self.work = 0
        self._waiting: deque[Postponed] = deque()
        self._is_due = False

    def add(self, connection: Postponed) -> None:
        """Let *connection* go on in a later turn, after those that wait already."""
        self._waiting.append(connection)
        if not self._is_due:
            self._is_due = True
            self._reactor.callLater(0, self._serve)

    def _serve(self) -> None:
        self._is_due = False
        end = self.work + TURN
        for _ in range(len(self._waiting)):
            connection = self._waiting.popleft()
            try:
                connection.resume_work()
            except Exception:
                log.failure("receiving failed")
                connection.abort()
            self.work += SLICE  # at least this much, whatever it was counted as
            if self.work >= end:
                break
        if self._waiting and not self._is_due:
            self._is_due = True
            self._reactor.callLater(0, self._serve)
