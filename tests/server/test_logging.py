"""Events as log lines and counts."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, eventAsText

from acebase_ipc.relay.events import (
    DialectDetected,
    DropReason,
    IdConflict,
    MessageDropped,
    PeerJoined,
    PeerLeft,
    RelayEvent,
    SlowConsumer,
)
from acebase_ipc.server.logging import LINES_PER_PERIOD, PERIOD, LogObserver

WHO = ("mydb_data", "worker1")
LEFT = PeerLeft(*WHO)
LEFT_LINE = "mydb_data: worker1 left"


def lines(logged: Iterable[LogEvent]) -> list[str]:
    return [
        eventAsText(each, includeTimestamp=False, includeSystem=False)
        for each in logged
        if each["log_namespace"] == "acebase_ipc.server.logging"
    ]


def report(observer: LogObserver, *events: RelayEvent) -> list[str]:
    with capturedLogs() as logged:
        for event in events:
            observer.report(event)
    return lines(logged)


def test_events_are_logged_at_their_severity() -> None:
    observer = LogObserver(Clock().seconds)
    with capturedLogs() as logged:
        for event in (
            PeerJoined(*WHO, "acebase"),
            SlowConsumer(*WHO, 5000, 7),
            IdConflict(*WHO, "192.0.2.1:1111", "192.0.2.2:2222"),
        ):
            observer.report(event)
    assert [each["log_level"] for each in logged] == [LogLevel.info, LogLevel.warn, LogLevel.error]
    assert lines(logged)[:2] == [
        "mydb_data: worker1 joined as acebase peer",
        "mydb_data: worker1 is cut: 5000 bytes in 7 messages wait for it unread",
    ]


def test_braces_in_a_name_are_no_format() -> None:
    observer = LogObserver(Clock().seconds)
    assert report(observer, PeerLeft("{peer}", "{}{0}{x!}")) == ["{peer}: {}{0}{x!} left"]


def test_what_is_of_no_concern_is_only_counted() -> None:
    observer = LogObserver(Clock().seconds)
    assert (
        report(observer, DialectDetected(*WHO), *[MessageDropped(*WHO, DropReason.EXPIRED)] * 2)
        == []
    )
    assert observer.counts == {"DialectDetected": 1, "MessageDropped": 2}


def test_a_flood_does_not_fill_the_disk() -> None:
    clock = Clock()
    observer = LogObserver(clock.seconds)
    assert report(observer, *[LEFT] * (LINES_PER_PERIOD + 5)) == [LEFT_LINE] * LINES_PER_PERIOD
    assert len(report(observer, PeerJoined(*WHO, "acebase"))) == 1
    clock.advance(PERIOD - 0.1)
    assert report(observer, LEFT) == []
    clock.advance(0.1)
    assert report(observer, LEFT) == ["6 more lines of PeerLeft were left out", LEFT_LINE]
    assert observer.counts == {"PeerLeft": LINES_PER_PERIOD + 7, "PeerJoined": 1}


def test_what_was_left_out_is_told_at_the_end_of_the_period() -> None:
    clock = Clock()
    observer = LogObserver(clock.seconds)
    report(observer, *[LEFT] * (LINES_PER_PERIOD + 5))
    with capturedLogs() as logged:
        clock.advance(PERIOD - 0.1)
        observer.expire()
        assert lines(logged) == []
        clock.advance(0.1)
        observer.expire()
        observer.expire()
    assert lines(logged) == ["5 more lines of PeerLeft were left out"]


def test_nothing_was_left_out_of_a_quiet_period() -> None:
    clock = Clock()
    observer = LogObserver(clock.seconds)
    for _ in range(3):
        assert report(observer, *[LEFT] * LINES_PER_PERIOD) == [LEFT_LINE] * LINES_PER_PERIOD
        clock.advance(PERIOD)
