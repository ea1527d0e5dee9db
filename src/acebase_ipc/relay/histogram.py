"""Counts durations by their size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
    30.0,
    120.0,
)
"""Upper bounds of durations, in seconds."""


class Histogram:
    """The number of durations up to each of some bounds.

    :ivar bounds: the upper bounds, in seconds.
    :ivar counts: the durations of each bound that exceed the one before, and of those above all.
    :ivar sum: all durations together.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bound, infinity last, with the number of durations up to it."""
        yield from zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)
