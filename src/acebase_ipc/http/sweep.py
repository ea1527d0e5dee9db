"""Looks after all HTTP connections about once a second, a slice of work at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from acebase_ipc.relay.work import SLICE
from acebase_ipc.rotation import Rotation

END: Final = 128
"""Units of work of a connection that is ended: with its report and its clean-up, 0.1 ms."""


class Channel(Protocol):
    """An HTTP connection that has deadlines."""

    @property
    def memory(self) -> int:
        """Bytes that the connection holds."""

    def expire(self, now: float) -> bool:
        """End the connection if its client is late; returns whether it was."""


class Sweep:
    """Ends the connections whose client is late, in rotation with all other work.

    :param held: called after each sweep, with the bytes that the connections held.
    """

    def __init__(self, rotation: Rotation, held: Callable[[int], object]) -> None:
        self._rotation = rotation
        self._held = held
        self._unchecked: list[Channel] = []
        self._now = 0.0
        self._memory = 0

    def start(self, channels: Iterable[Channel], now: float) -> None:
        """Begin with *channels*, unless the sweep before has not come to its end.

        :param now: monotonic seconds.
        """
        if not self._unchecked:
            self._unchecked = list(channels)
            self._memory = 0
        self._now = now
        self._rotation.start(self)

    def step(self) -> bool:
        """Check a slice of the connections; returns whether others are left."""
        work = self._rotation.work
        end = work.units + SLICE
        while self._unchecked:
            if work.units >= end:
                return True
            channel = self._unchecked.pop()
            work.units += END if channel.expire(self._now) else 1
            self._memory += channel.memory
        self._held(self._memory)
        return False

    def abort(self) -> None:
        """Check the other connections, because one has raised an exception."""
        self._rotation.add(self)
