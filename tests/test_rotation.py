"""The work of a reactor turn is divided among tasks, one step each."""

from __future__ import annotations

import pytest
from twisted.logger import capturedLogs

from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import STEP, TURN, Rotation
from acebase_ipc.testing import MemoryReactor

STEPS_PER_TURN = TURN // STEP


class Steps:
    """A task of some steps; notes each in *done*.

    :ivar fails: whether its steps raise.
    """

    def __init__(self, name: str, steps: int, done: list[str]) -> None:
        self._name = name
        self._steps = steps
        self._done = done
        self.fails = False

    def step(self) -> bool:
        if self.fails:
            raise RuntimeError("a mistake")
        self._done.append(self._name)
        self._steps -= 1
        return self._steps > 0

    def abort(self) -> None:
        self._done.append(f"{self._name} aborted")


def test_a_task_that_is_alone_begins_at_once() -> None:
    done: list[str] = []
    rotation = Rotation(MemoryReactor(), Work())
    rotation.start(Steps("a", 3, done))
    assert done == ["a"]


def test_tasks_take_turns() -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())
    for name in "abc":
        rotation.add(Steps(name, 2, done))
    clock.settle()
    assert done == ["a", "b", "c", "a", "b", "c"]


def test_a_turn_has_a_bounded_number_of_steps_and_the_rest_follows() -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())
    rotation.start(Steps("greedy", 10 * STEPS_PER_TURN, done))
    for turns in range(1, 11):
        clock.turn()
        assert len(done) == 1 + turns * STEPS_PER_TURN or len(done) == 10 * STEPS_PER_TURN
    clock.turn()
    assert clock.getDelayedCalls() == []


def test_many_that_begin_in_one_turn_share_its_steps() -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())
    for number in range(100):
        rotation.start(Steps(str(number), 1, done))
    assert len(done) == STEPS_PER_TURN
    for _ in range(100 // STEPS_PER_TURN + 1):
        clock.turn()
    assert done == [str(each) for each in range(100)]


def test_a_function_is_called_until_nothing_is_left_whatever_it_raises() -> None:
    clock = MemoryReactor()
    rotation = Rotation(clock, Work())
    outcomes: list[bool | Exception] = [True, LookupError("a mistake"), True, False]
    calls: list[int] = []

    def step() -> bool:
        calls.append(len(outcomes))
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with capturedLogs() as logged:
        for _ in range(3):  # it is in the rotation once
            rotation.do(step)
        clock.settle()
    assert calls == [4, 3, 2, 1]
    assert [each["log_failure"].type for each in logged] == [LookupError]


def test_a_task_is_in_the_rotation_once() -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())
    task = Steps("a", 1, done)
    for _ in range(3):
        rotation.add(task)
    clock.turn()
    assert done == ["a"]


def test_a_task_that_has_ended_does_no_more_steps() -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())
    one, other = Steps("a", 5, done), Steps("b", 1, done)
    rotation.add(one)
    rotation.add(other)
    rotation.discard(one)
    for _ in range(2):
        clock.turn()
    assert done == ["b"]
    assert clock.getDelayedCalls() == []


def test_a_step_for_many_receivers_counts_as_several() -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())

    class Broadcast(Steps):
        def step(self) -> bool:
            rotation.work.units += TURN
            return super().step()

    for _ in range(3):
        rotation.add(Broadcast("a", 1, done))
    for turns in range(1, 4):
        clock.turn()
        assert len(done) == turns


def test_work_without_a_step_has_its_share_of_the_turn() -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())
    spent = [rotation.spend(TURN // 4) for _ in range(6)]
    assert spent == [True] * 4 + [False] * 2
    rotation.start(Steps("a", 1, done))
    assert done == []
    clock.turn()
    assert done == ["a"]
    assert rotation.spend(1)


@pytest.mark.parametrize("begins", ["start", "add"])
def test_a_task_that_fails_does_not_end_the_others(begins: str) -> None:
    clock, done = MemoryReactor(), list[str]()
    rotation = Rotation(clock, Work())
    broken, other = Steps("broken", 1, done), Steps("other", 1, done)
    broken.fails = True
    with capturedLogs() as events:
        getattr(rotation, begins)(broken)
        rotation.add(other)
        clock.turn()
    assert done == ["broken aborted", "other"]
    assert len(events) == 1
