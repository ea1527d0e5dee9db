"""Counts durations by their size."""

from __future__ import annotations

from bisect import bisect_right
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


_PENDING: Final = 256
"""Durations that are counted together: a duration is observed with each message of a cluster."""


class Histogram:
    """The number of durations up to each of some bounds.

    :ivar bounds: the upper bounds, in seconds.
    """

    __slots__ = ("_counts", "_pending", "_sum", "bounds")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._pending: list[float] = []

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        pending = self._pending
        pending.append(seconds)
        if len(pending) >= _PENDING:
            self._count()

    def _count(self) -> None:
        pending, self._pending = self._pending, []
        pending.sort()
        begin = 0
        for number, bound in enumerate(self.bounds):
            end = bisect_right(pending, bound, begin)
            self._counts[number] += end - begin
            begin = end
        self._counts[-1] += len(pending) - begin
        self._sum += sum(pending)

    def export(self) -> tuple[tuple[int, ...], float]:
        """Return the counts of :attr:`counts`, and the sum."""
        return tuple(self.counts), self.sum

    def adopt(self, state: tuple[tuple[int, ...], float]) -> None:
        """Count what another one has counted, too."""
        self._counts = [count + more for count, more in zip(self.counts, state[0], strict=True)]
        self._sum += state[1]

    @property
    def counts(self) -> list[int]:
        """The durations of each bound that exceed the one before, and of those above all."""
        self._count()
        return self._counts

    @property
    def sum(self) -> float:
        """All durations together, in seconds."""
        self._count()
        return self._sum

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each bound, infinity last, with the number of durations up to it."""
        yield from zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)
