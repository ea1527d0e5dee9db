"""Counts the work that peers cause."""

from __future__ import annotations


class Work:
    """A meter of work, by which :mod:`acebase_ipc.rotation` divides time among connections.

    A unit is a message, a control frame, or one receiver of a broadcast: 2 to 5
    microseconds.

    :ivar units: the work done so far.
    """

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units = 0
