"""Counts the work that peers cause."""

from __future__ import annotations


class Work:
    """A meter of work, by which :mod:`acebase_ipc.rotation` divides time among connections.

    A unit is about a microsecond of Python: one receiver of a broadcast. Other work counts
    as several.

    :ivar units: the work done so far.
    """

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units = 0
