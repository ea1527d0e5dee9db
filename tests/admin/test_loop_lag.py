"""How late the relay's event loop is."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from acebase_ipc.admin.loop_lag import INTERVAL, WINDOW, LoopLag


class Loop(Clock):
    """An event loop that is blocked now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.lag = LoopLag(self, self.seconds)
        self.lag.start()

    def run(self, *blocked: float) -> None:
        """Measure once for each of *blocked*, so many seconds late."""
        for seconds in blocked:
            self.advance(INTERVAL + seconds)


def test_a_loop_that_is_free_is_not_late() -> None:
    loop = Loop()
    loop.run(0, 0)
    assert loop.lag.last == loop.lag.max == loop.lag.lags.sum == 0
    assert sum(loop.lag.lags.counts) == 2


def test_what_blocks_the_loop_is_measured() -> None:
    loop = Loop()
    loop.run(0, 3, 0.02)
    assert loop.lag.last == pytest.approx(0.02)
    assert loop.lag.max == pytest.approx(3)
    assert loop.lag.lags.sum == pytest.approx(3.02)


def test_the_maximum_is_forgotten_after_one_to_two_minutes() -> None:
    loop = Loop()
    loop.run(3)
    loop.run(*[0] * round(WINDOW / INTERVAL))
    assert loop.lag.max == pytest.approx(3)
    loop.run(*[0] * round(WINDOW / INTERVAL))
    assert loop.lag.max == 0


def test_nothing_is_left_when_it_is_stopped() -> None:
    loop = Loop()
    loop.lag.stop()
    assert loop.getDelayedCalls() == []
    loop.lag.stop()
