"""Real TCP, with a reactor turned by hand."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

TURNS = 10_000
"""What does not come to pass in so many turns of 1 ms never does."""


@implementer(IReactorFDSet)
class HandReactor(Clock):
    """A reactor that does one turn when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: set[Any] = set()
        self._writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self._readers.add(reader)

    def addWriter(self, writer: Any) -> None:
        self._writers.add(writer)

    def removeReader(self, reader: Any) -> None:
        self._readers.discard(reader)

    def removeWriter(self, writer: Any) -> None:
        self._writers.discard(writer)

    def removeAll(self) -> list[Any]:
        gone = [*self._readers | self._writers]
        self._readers.clear()
        self._writers.clear()
        return gone

    def getReaders(self) -> list[Any]:
        return [*self._readers]

    def getWriters(self) -> list[Any]:
        return [*self._writers]

    def turn(self, wait: float = 0) -> None:
        """Call what is due, then read and write what can be, or can within *wait* seconds."""
        self.advance(0)
        readable, writable, _ = select.select(self._readers, self._writers, (), wait)
        for each in readable:
            self._end(each, each.doRead())
        for each in writable:
            if each in self._writers:
                self._end(each, each.doWrite())

    def turn_until(self, done: Callable[[], object]) -> None:
        """Turn until it is *done*; but not for ever."""
        for _ in range(TURNS):
            if done():
                return
            self.turn(wait=0.001)
        raise AssertionError("it does not come to pass")

    def _end(self, transport: Any, reason: Any) -> None:
        if reason is not None:
            transport.connectionLost(Failure(reason))
