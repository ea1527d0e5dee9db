"""HTTP connections are checked in slices, and the late ones ended a few in each turn."""

from __future__ import annotations

import pytest
from twisted.logger import capturedLogs

from acebase_ipc.http.sweep import END, Sweep
from acebase_ipc.relay.work import SLICE, Work
from acebase_ipc.rotation import TURN, Rotation
from acebase_ipc.testing import MemoryReactor


class Channel:
    """A connection that holds 10 bytes.

    :ivar checked_at: the times at which it was checked.
    """

    memory = 10

    def __init__(self, late: bool = False, fails: bool = False) -> None:
        self._late = late
        self._fails = fails
        self.checked_at: list[float] = []

    def expire(self, now: float) -> bool:
        self.checked_at.append(now)
        if self._fails:
            raise RuntimeError("a defect")
        return self._late


class Swept:
    """A sweep, and what it has reported to hold."""

    def __init__(self) -> None:
        self.reactor = MemoryReactor()
        self.rotation = Rotation(self.reactor, Work())
        self.held: list[int] = []
        self.sweep = Sweep(self.rotation, self.held.append)


@pytest.mark.parametrize(("late", "cost"), [(True, END), (False, 1)])
def test_the_work_of_a_turn_is_limited(late: bool, cost: int) -> None:
    swept = Swept()
    channels = [Channel(late) for _ in range(5 * TURN // cost)]
    swept.rotation.work.units += TURN  # so that the first turn begins with the reactor's
    swept.sweep.start(channels, 1.0)
    turns = 0
    while not swept.held:
        before = sum(len(each.checked_at) for each in channels)
        swept.reactor.turn()
        turns += 1
        checked = sum(len(each.checked_at) for each in channels) - before
        assert checked <= (TURN + SLICE) // cost
    assert turns >= 4
    assert all(each.checked_at == [1.0] for each in channels)
    assert swept.held == [10 * len(channels)]


def test_another_task_does_not_wait_for_the_sweep() -> None:
    swept = Swept()
    channels = [Channel(late=True) for _ in range(10 * TURN // END)]
    done: list[int] = []

    class Other:
        def step(self) -> bool:
            done.append(sum(len(each.checked_at) for each in channels))
            return len(done) < 3

        def abort(self) -> None:
            raise AssertionError

    swept.sweep.start(channels, 1.0)
    swept.rotation.add(Other())
    swept.reactor.turn()
    slice_ = SLICE // END
    assert done == [2 * slice_, 3 * slice_, 4 * slice_]  # the first slice begins at once


def test_a_connection_that_fails_does_not_keep_the_others_from_being_checked() -> None:
    swept = Swept()
    channels = [Channel(fails=number == 1) for number in range(3)]
    with capturedLogs() as events:
        swept.sweep.start(channels, 1.0)
        swept.reactor.settle()
    assert all(each.checked_at for each in channels)
    assert swept.held == [20]
    assert len(events) == 1


def test_a_sweep_that_has_not_come_to_its_end_is_not_begun_again() -> None:
    swept = Swept()
    channels = [Channel() for _ in range(3 * TURN)]
    swept.sweep.start(channels, 1.0)
    swept.sweep.start(channels, 2.0)
    swept.reactor.settle()
    assert all(len(each.checked_at) == 1 for each in channels)
    assert swept.held == [10 * len(channels)]
    swept.sweep.start(channels, 3.0)
    swept.reactor.settle()
    assert all(len(each.checked_at) == 2 for each in channels)
