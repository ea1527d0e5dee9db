"""Divides the work of a reactor turn fairly among connections, HTTP and WebSocket alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from acebase_ipc.relay.work import Work

TURN: Final = 4096
"""Units of work of all connections before the reactor looks at its timers and other
descriptors: 5 to 10 ms."""

STEP: Final = 256
"""Units of work that a step counts at least: a request over HTTP takes about 0.3 ms."""

log = Logger()


class Task(Protocol):
    """Work that can be done in steps, such as dealing with what a connection has received."""

    def step(self) -> bool:
        """Do about a slice of the work; returns whether more is to be done."""

    def abort(self) -> None:
        """End the connection, because a step has raised an exception."""


@dataclass(frozen=True)
class _Steps:
    """A function that does a slice of work each time, and outlasts its failures."""

    step: Callable[[], bool]
    rotation: Rotation

    def abort(self) -> None:
        """Do the rest, because a step has raised an exception."""
        self.rotation.add(self)


class Rotation:
    """Lets tasks do their steps in turns, each one step at a time.

    However much the clients of some connections send at once, and however many
    connections they have, the reactor returns to all others after :data:`TURN` units.

    :ivar work: counts the work that the steps, and all else, have done.
    """

    def __init__(self, reactor: IReactorTime, work: Work) -> None:
        self._reactor = reactor
        self.work = work
        self._tasks: OrderedDict[Task, None] = OrderedDict()
        self._end = work.units + TURN
        self._is_scheduled = False

    def add(self, task: Task) -> None:
        """Let *task* do its steps when it is its turn."""
        if task not in self._tasks:
            self._tasks[task] = None
            self._schedule()

    def start(self, task: Task) -> None:
        """Let *task* do its first step at once, if no other waits and this turn has time left."""
        if self._tasks or self.work.units >= self._end:
            self.add(task)
        else:
            self._schedule()
            self._do(task)

    def do(self, step: Callable[[], bool]) -> None:
        """Call *step* when it is its turn, until it returns that nothing is left to do."""
        self.start(_Steps(step, self))

    def spend(self, units: int) -> bool:
        """Count *units* of work that is done without a step, if this turn has time left for it.

        :returns: whether it has.
        """
        if self.work.units >= self._end:
            return False
        self.work.units += units
        self._schedule()
        return True

    def discard(self, task: Task) -> None:
        """*task* has ended; it does no more steps."""
        self._tasks.pop(task, None)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._reactor.callLater(0, self._begin_turn)

    def _begin_turn(self) -> None:
        self._is_scheduled = False
        begin = self.work.units
        self._end = begin + TURN
        while self._tasks and self.work.units < self._end:
            task, _ = self._tasks.popitem(last=False)
            self._do(task)
        if self._tasks or self.work.units > begin:
            self._schedule()

    def _do(self, task: Task) -> None:
        end = self.work.units + STEP
        try:
            more = task.step()
        except Exception:
            log.failure("a step of a connection failed")
            task.abort()
        else:
            if more:
                self.add(task)
        self.work.units = max(self.work.units, end)
