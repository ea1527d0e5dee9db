"""Divides the time fairly between the admin endpoint as a whole and the connections of peers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.rotation import TURN, Rotation, Task

UNITS: Final = TURN / 0.0075
"""Units of work of a second: so many can be done in it."""

log = Logger()


@dataclass(frozen=True, eq=False)
class _Steps:
    """A function that does a step each time, until one fails."""

    step: Callable[[], bool]

    def abort(self) -> None:
        """Do nothing more."""


class Turns:
    """Does one step for all that use the admin endpoint when each peer has done one.

    However many connections there are, and whatever they ask for, a peer waits for one step
    only. A step counts the time that it took.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, rotation: Rotation, clock: Callable[[], float]) -> None:
        self._rotation = rotation
        self._clock = clock
        self._tasks: OrderedDict[Task, None] = OrderedDict()
        self._is_waiting = False

    def add(self, task: Task) -> None:
        """Let *task* do its steps when it is its turn."""
        self._tasks[task] = None
        if not self._is_waiting:
            self._is_waiting = True
            self._rotation.do(self._next)

    start = add
    """As that of a :class:`~acebase_ipc.rotation.Rotation`, but no step is done at once."""

    def discard(self, task: Task) -> None:
        """*task* has ended; it does no more steps."""
        self._tasks.pop(task, None)

    def do(self, step: Callable[[], bool]) -> None:
        """Call *step* when it is its turn, until it returns that nothing is left to do."""
        self.add(_Steps(step))

    def make(
        self,
        pieces: Generator[bytes, None, bytes],
        use: Callable[[bytes], object],
        failed: Callable[[Failure], object],
    ) -> None:
        """Make a text, a piece in each step.

        :param pieces: returns the last piece.
        :param use: called with the text.
        :param failed: called if a piece cannot be made.
        """
        made: list[bytes] = []

        def step() -> bool:
            try:
                made.append(next(pieces))
                return True
            except StopIteration as end:
                use(b"".join((*made, end.value)))
            except Exception:
                failed(Failure())
            return False

        self.do(step)

    def _next(self) -> bool:
        begun = self._clock()
        if self._tasks:  # else the last one has ended meanwhile
            task, _ = self._tasks.popitem(last=False)
            try:
                if task.step():
                    self._tasks[task] = None
            except Exception:
                log.failure("a step of the admin endpoint failed")
                task.abort()
        self._rotation.work.units += int((self._clock() - begun) * UNITS)
        self._is_waiting = bool(self._tasks)
        return self._is_waiting
