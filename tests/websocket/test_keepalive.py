"""Who is pinged or given up, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.websocket.keepalive import Keepalive

PING_AFTER, DEAD_AFTER = 5, 8


@dataclass(eq=False)
class Line:
    """A connection."""

    last_received: int = 0
    last_ping: int = 0
    next_check: int = 0


def lines(keepalive: Keepalive[Line], count: int, now: int = 0) -> Iterator[Line]:
    for _ in range(count):
        line = Line()
        keepalive.add(line, now)
        yield line


def test_the_silent_are_pinged_once_and_then_dead() -> None:
    keepalive = Keepalive[Line](PING_AFTER, DEAD_AFTER)
    (line,) = lines(keepalive, 1)
    due = {now: [*keepalive.due(now)] for now in range(1, 30)}
    assert {now: each for now, each in due.items() if each} == {
        PING_AFTER: [(line, PING_AFTER)],
        DEAD_AFTER: [(line, DEAD_AFTER)],
    }


def test_who_leaves_is_not_looked_at() -> None:
    keepalive = Keepalive[Line](PING_AFTER, DEAD_AFTER)
    gone, stays = lines(keepalive, 2)
    keepalive.discard(gone)
    keepalive.discard(Line())
    assert [*keepalive.due(1)] == []
    due = [each for now in range(2, 30) for each in keepalive.due(now)]
    assert due == [(stays, PING_AFTER), (stays, DEAD_AFTER)]


def test_nobody_is_looked_at_before_its_time() -> None:
    class Shy(Line):
        @property
        def last_received(self) -> int:
            return 0

        @last_received.setter
        def last_received(self, now: int) -> None:
            self.looks = 0

    keepalive = Keepalive[Line](PING_AFTER, DEAD_AFTER)
    keepalive.add(Shy(), 0)
    for now in range(1, PING_AFTER):
        assert [*keepalive.due(now)] == []


@given(st.integers(0, 10), st.sets(st.integers(0, 60)), st.integers(1, 6), st.integers(1, 6))
def test_due_is_who_a_look_at_every_tick_finds(
    begin: int, heard: set[int], ping_after: int, more: int
) -> None:
    keepalive = Keepalive[Line](ping_after, ping_after + more)
    line = Line()
    silent = 0
    pinged = begin
    for now in range(begin, 60):
        if now == begin:
            keepalive.add(line, now)
        else:
            silent += 1
            due = silent % ping_after == 0 or silent == ping_after + more
            found = [*keepalive.due(now)]
            if silent < ping_after:  # it may be pinged, but seldom, and not too seldom
                assert found in ([], [(line, silent)])
                assert not found or now - pinged >= ping_after * 4 // 5
                assert found or now - pinged < 2 * ping_after
            else:
                assert found == ([(line, silent)] if due else [])
            if found:
                pinged = now
            if silent == ping_after + more:
                return
        if now in heard:
            line.last_received = now
            silent = 0


def test_a_peer_that_is_not_silent_is_pinged_as_often() -> None:
    keepalive = Keepalive[Line](PING_AFTER, DEAD_AFTER)
    (line,) = lines(keepalive, 1)
    pings = []
    for now in range(1, 100):
        line.last_received = now - 1
        pings += [now for _ in keepalive.due(now)]
    assert {later - earlier for earlier, later in pairwise(pings)} == {PING_AFTER - 1}


def test_an_idle_peer_that_answers_is_pinged_only_because_it_is_silent() -> None:
    keepalive = Keepalive[Line](PING_AFTER, DEAD_AFTER)
    (line,) = lines(keepalive, 1)
    for now in range(1, 60):
        for _, silent in keepalive.due(now):
            assert silent == PING_AFTER
            line.last_received = now


def test_another_process_goes_on_with_a_connection() -> None:
    for silence, since_ping, first in ((0, 0, 5), (3, 3, 2), (5, 0, 3), (6, 1, 2), (7, 2, 1)):
        keepalive = Keepalive[Line](PING_AFTER, DEAD_AFTER)
        line = Line()
        keepalive.adopt(line, 100, silence, since_ping)
        due = [now for now in range(101, 130) if [*keepalive.due(now)]]
        assert due[0] == 100 + first, silence
        assert due[-1] == 100 + DEAD_AFTER - silence
