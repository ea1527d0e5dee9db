"""The steps of all that use the admin endpoint are one task among those of the peers."""

from __future__ import annotations

from collections.abc import Callable, Generator

from twisted.logger import capturedLogs

from acebase_ipc.admin.turns import UNITS, Turns
from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import TURN, Rotation
from acebase_ipc.testing import MemoryReactor


class Steps:
    """A task of some steps; notes each in *done*, and raises at the last one if it *fails*."""

    def __init__(self, name: str, steps: int, done: list[str], *, fails: bool = False) -> None:
        self._name = name
        self._steps = steps
        self._done = done
        self._fails = fails

    def step(self) -> bool:
        self._done.append(self._name)
        self._steps -= 1
        if self._fails and not self._steps:
            raise RuntimeError("a mistake")
        return self._steps > 0

    def abort(self) -> None:
        self._done.append(f"{self._name} aborted")


def made() -> tuple[MemoryReactor, Rotation, Turns]:
    """A rotation, whose turn has no time left, and the turns of an admin endpoint in it."""
    reactor = MemoryReactor()
    rotation = Rotation(reactor, Work())
    rotation.work.units = TURN
    return reactor, rotation, Turns(rotation, reactor.seconds)


def test_all_of_them_together_do_a_step_while_a_peer_does_one() -> None:
    reactor, rotation, turns = made()
    done: list[str] = []
    for name in "abc":
        turns.add(Steps(name, 2, done))
    rotation.add(Steps("peer", 5, done))
    reactor.settle()
    assert done == ["a", "peer", "b", "peer", "c", "peer", "a", "peer", "b", "peer", "c"]


def test_what_was_discarded_does_no_more_steps() -> None:
    reactor, _, turns = made()
    done: list[str] = []
    task = Steps("a", 2, done)
    with capturedLogs() as logs:
        turns.start(task)
        turns.discard(task)
        reactor.settle()
        assert done == []
        turns.start(Steps("b", 1, done))
        reactor.settle()
    assert (done, logs) == (["b"], [])


def test_a_failure_ends_a_task_and_no_other() -> None:
    reactor, _, turns = made()
    done: list[str] = []
    calls: list[Callable[[], bool]] = []

    def fail() -> bool:
        calls.append(fail)
        raise RuntimeError("a mistake")

    with capturedLogs() as logs:
        turns.add(Steps("a", 3, done, fails=True))
        turns.add(Steps("b", 4, done))
        turns.do(fail)
        reactor.settle()
    assert done == ["a", "b", "a", "b", "a", "a aborted", "b", "b"]
    assert calls == [fail]
    assert ["a step of the admin endpoint failed" in each["log_format"] for each in logs] == [
        True,
        True,
    ]


def test_a_step_counts_the_time_that_it_takes() -> None:
    reactor, rotation, turns = made()

    def take_long() -> bool:
        reactor.rightNow += 1
        return False

    turns.do(take_long)
    reactor.settle()
    assert rotation.work.units == TURN + int(UNITS)


def test_a_text_is_made_in_steps() -> None:
    reactor, _, turns = made()
    made_at: list[int] = []
    texts: list[bytes] = []
    failures: list[object] = []

    def pieces(error: Exception | None = None) -> Generator[bytes, None, bytes]:
        yield b"a"
        made_at.append(len(texts))
        yield b"b"
        if error is not None:
            raise error
        return b"c"

    turns.make(pieces(), texts.append, failures.append)
    reactor.settle()
    assert made_at == [0]
    assert texts == [b"abc"]
    turns.make(pieces(ZeroDivisionError()), texts.append, failures.append)
    reactor.settle()
    assert texts == [b"abc"]
    assert len(failures) == 1
