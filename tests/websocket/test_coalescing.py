"""When the frames that connections collect leave."""

from __future__ import annotations

import gc
import weakref

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.work import Work
from acebase_ipc.websocket.coalescing import BUSY, FEW, WRITE, SharedBatch, WriteCoalescer


class Line:
    """A connection that counts its writes."""

    last_flush = 0.0

    def __init__(self, *, fails: bool = False) -> None:
        self.writes = 0
        self.aborted = False
        self._fails = fails

    def flush(self) -> None:
        self.writes += 1
        if self._fails:
            raise LookupError("a mistake")

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(100)
    return clock


@pytest.fixture
def flushing(clock: Clock) -> WriteCoalescer:
    return WriteCoalescer(clock, clock.seconds, Work())


def receive(flushing: WriteCoalescer, *lines: Line) -> None:
    """Work on data that causes something to be sent on *lines*."""
    flushing.receiving = True
    for line in lines:
        flushing.flush_soon(line)
    assert not any(line.writes for line in lines if line.last_flush == 0)
    flushing.receiving = False
    flushing.flush_idle()


def test_the_idle_are_flushed_when_the_data_is_dealt_with(
    flushing: WriteCoalescer, clock: Clock
) -> None:
    lines = [Line(), Line()]
    receive(flushing, *lines)
    assert [line.writes for line in lines] == [1, 1]
    assert clock.getDelayedCalls() == []


def test_the_busy_are_flushed_at_the_end_of_the_reactors_turn(
    flushing: WriteCoalescer, clock: Clock
) -> None:
    line, other = Line(), Line()
    receive(flushing, line, other)
    clock.advance(BUSY * 0.9)
    receive(flushing, line)
    receive(flushing, line, other)
    assert line.writes == 1
    (call,) = clock.getDelayedCalls()
    assert call.getTime() == clock.seconds()
    clock.advance(0)
    assert (line.writes, other.writes) == (3, 2)
    clock.advance(BUSY * 0.9)
    receive(flushing, line)
    assert line.writes == 3


def test_each_write_counts_as_work(clock: Clock) -> None:
    work = Work()
    flushing = WriteCoalescer(clock, clock.seconds, work)
    receive(flushing, Line(), Line())
    assert work.units == 2 * WRITE


def test_whoever_is_written_to_out_of_the_blue_waits_for_the_end_of_the_turn(
    flushing: WriteCoalescer, clock: Clock
) -> None:
    line = Line()
    flushing.flush_soon(line)
    assert line.writes == 0
    clock.advance(0)
    assert line.writes == 1


def test_the_busy_are_idle_again_after_a_while(flushing: WriteCoalescer, clock: Clock) -> None:
    line = Line()
    receive(flushing, line)
    clock.advance(BUSY * 1.01)
    receive(flushing, line)
    assert line.writes == 2


def test_the_busy_wait_until_the_data_of_all_is_dealt_with(
    flushing: WriteCoalescer, clock: Clock
) -> None:
    line = Line()
    flushing.begin_turn()
    receive(flushing, line)
    receive(flushing, line)
    assert line.writes == 1
    flushing.end_turn()
    assert line.writes == 2
    assert clock.getDelayedCalls() == []
    receive(flushing, line)
    clock.advance(0)
    assert line.writes == 3


@pytest.mark.parametrize("busy", [False, True])
def test_a_mistake_costs_one_connection_once(
    flushing: WriteCoalescer, clock: Clock, busy: bool
) -> None:
    bad, good = Line(fails=True), Line()
    if busy:
        flushing.flush_soon(bad)
        flushing.flush_soon(good)
    with capturedLogs() as events:
        if busy:
            clock.advance(0)
        else:
            receive(flushing, bad, good)
        assert [each["log_level"] for each in events] == [LogLevel.critical]
        assert (bad.aborted, good.aborted, good.writes) == (True, False, 1)
        clock.advance(1)
        receive(flushing, good)
    assert (bad.writes, good.writes) == (1, 2)


class Sharer(Line):
    """A connection that never collects together with others."""

    def share(self, batch: SharedBatch) -> bool:
        return False

    def part_from(self, batch: SharedBatch) -> None:
        pass

    def send(self, message: Message) -> None:
        pass

    def write_shared(self, batch: SharedBatch, data: bytes, count: int) -> None:
        pass


def test_connections_that_were_sent_a_broadcast_are_not_kept(
    flushing: WriteCoalescer, clock: Clock
) -> None:
    lines = [Sharer() for _ in range(FEW)]
    flushing.send_each(Message(b"x"), lines, None)
    clock.advance(0)
    known = weakref.ref(lines[0])
    lines.clear()
    gc.collect()
    assert known() is None
