"""Divides the work of a reactor turn fairly among connections."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

STEPS_PER_TURN = 8
"""Steps done in one reactor turn. A step is at most one request, 512 bytes of headers or of
a chunked body, or 64 KiB of another body: 0.1 to 0.8 ms, so that a turn delays other
connections by a few milliseconds."""

RECEIVERS_PER_STEP = 25
"""Peers to which a message is relayed, or which are listed, at the cost of a step."""

log = Logger()


class Task(Protocol):
    """Work that can be done in steps, such as the input of a connection."""

    def step(self) -> bool:
        """Do one step; returns whether more is to be done."""

    def abort(self) -> None:
        """End the connection, because a step has raised an exception."""


class Rotation:
    """Lets tasks do their steps in turns, each one step at a time.

    However much the clients of some connections send at once, and however many
    connections they have, the reactor returns to all others after
    :data:`STEPS_PER_TURN` steps.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._tasks: deque[Task] = deque()
        self._queued: set[Task] = set()
        self._left = STEPS_PER_TURN
        self._scheduled = False

    def add(self, task: Task) -> None:
        """Let *task* do its steps when it is its turn."""
        if task not in self._queued:
            self._queued.add(task)
            self._tasks.append(task)
            self._schedule()

    def start(self, task: Task) -> None:
        """Let *task* do its first step at once, if no other waits and this turn has steps left."""
        if self._tasks or self._left <= 0:
            self.add(task)
        else:
            self._schedule()
            self._do(task)

    def spend(self, receivers: int) -> None:
        """Count a step that concerned many *receivers* as several."""
        self._left -= receivers // RECEIVERS_PER_STEP

    def discard(self, task: Task) -> None:
        """*task* has ended; it does no more steps."""
        self._queued.discard(task)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._reactor.callLater(0, self._begin_turn)

    def _begin_turn(self) -> None:
        self._scheduled = False
        self._left = STEPS_PER_TURN
        while self._tasks and self._left > 0:
            task = self._tasks.popleft()
            if task in self._queued:
                self._queued.remove(task)
                self._do(task)
        if self._tasks or self._left < STEPS_PER_TURN:
            self._schedule()

    def _do(self, task: Task) -> None:
        self._left -= 1
        try:
            more = task.step()
        except Exception:
            log.failure("a step of an HTTP connection failed")
            task.abort()
        else:
            if more:
                self.add(task)
