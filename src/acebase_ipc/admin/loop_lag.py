"""Measures how late the event loop of the relay is: whatever blocks it delays every peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from acebase_ipc.relay.histogram import Histogram

INTERVAL: Final = 0.25
"""Seconds between two measurements: each takes about 20 microseconds."""

WINDOW: Final = 60.0
"""Seconds. :attr:`LoopLag.max` is the maximum of this window and of the one before."""


class LoopLag:
    """Asks the reactor for a call at a certain time, and measures by how much it is late.

    :param clock: returns monotonic seconds.
    :ivar lags: all measurements, in seconds.
    :ivar last: the last one; 0 before the first.
    """

    def __init__(self, reactor: IReactorTime, clock: Callable[[], float]) -> None:
        self._reactor = reactor
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._due = 0.0
        self._window_end = 0.0
        self._max = self._max_before = 0.0
        self.lags = Histogram()
        self.last = 0.0

    @property
    def max(self) -> float:
        """The largest lag of the last one to two minutes, in seconds."""
        return max(self._max, self._max_before)

    def start(self) -> None:
        """Measure from now on, until :meth:`stop`; to be called once."""
        self._window_end = self._clock() + WINDOW
        self._schedule()

    def stop(self) -> None:
        """Measure no more."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _schedule(self) -> None:
        self._due = self._clock() + INTERVAL
        self._call = self._reactor.callLater(INTERVAL, self._measure)

    def _measure(self) -> None:
        now = self._clock()
        self.last = lag = max(0.0, now - self._due)
        self.lags.observe(lag)
        if now >= self._window_end:
            self._window_end = now + WINDOW
            self._max_before, self._max = self._max, 0.0
        self._max = max(self._max, lag)
        self._schedule()
