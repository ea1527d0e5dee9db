"""Counts the work that peers cause, so that it can be divided into slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SLICE: Final = 1024
"""Units of work of one connection before it is another's turn: 1 to 3 ms. Broadcasts that
were received together should fit, so that each receiver gets them in one write."""


class Work:
    """A meter of work, by which :mod:`acebase_ipc.rotation` divides time among connections.

    A unit is about a microsecond of Python.

    :ivar units: the work done so far.
    """

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units = 0


def do_at_once(step: Callable[[], bool]) -> None:
    """Call *step* until it returns that nothing is left to do."""
    while step():
        pass
