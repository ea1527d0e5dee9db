"""Events as log lines and counts."""

from __future__ import annotations

import io
import json
import re
import syslog
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, capturedLogs, eventAsText

from acebase_ipc.relay import events
from acebase_ipc.relay.events import (
    DialectDetected,
    DropReason,
    IdConflict,
    MessageDropped,
    PeerJoined,
    PeerLeft,
    Refused,
    RelayEvent,
    Severity,
    SlowConsumer,
)
from acebase_ipc.server.logging import (
    LINES_PER_PERIOD,
    MAX_KINDS,
    MAX_LINE,
    MAX_TEXT,
    MAX_TRACEBACK,
    PERIOD,
    FileOutput,
    LineLimiter,
    LineObserver,
    LogObserver,
    StreamOutput,
    SyslogOutput,
)

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
        "mydb_data: worker1 is disconnected: it has not read 5000 bytes in 7 messages",
    ]


def some_value(name: str, kind: type) -> Any:
    """A value for the field *name* of an event."""
    if issubclass(kind, Enum):
        return next(iter(kind))
    return 7 if kind is int else f"a {name}"


EVENTS = [
    each
    for each in vars(events).values()
    if isinstance(each, type) and issubclass(each, RelayEvent) and "text" in vars(each)
]


@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_is_logged_with_its_values(kind: type[RelayEvent]) -> None:
    types = get_type_hints(kind)
    values = {each.name: some_value(each.name, types[each.name]) for each in fields(kind)}
    observer = LogObserver(Clock().seconds)
    logged = report(observer, kind(**values))
    assert logged == ([] if kind.severity is Severity.DEBUG else [kind.text.format(**values)])
    assert observer.counts == {kind.__name__: 1}


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


def test_a_text_that_a_client_chose_is_cut_and_escaped() -> None:
    observer = LogObserver(Clock().seconds)
    (line,) = report(observer, Refused("192.0.2.1", 400, "a\nb\x1b[2J\u202e" + "x" * 5000))
    assert line.startswith(r"192.0.2.1 is refused: 400 a\nb\x1b[2J\u202exxx")
    assert line.endswith("… (5008 characters)")
    assert len(line) < MAX_TEXT + 100


# Lines


class Lines:
    """An output that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str, level: object) -> None:
        self.lines.append(line)


class Writer:
    """A log of its own, whose lines are kept without their time and system."""

    def __init__(self, form: str = "text", level: str = "info") -> None:
        self.clock = Clock()
        self.output = Lines()
        self.observer = LineObserver(self.output, form, level, self.clock.seconds)
        self.log = Logger(namespace="tests", observer=self.observer)

    @property
    def texts(self) -> list[str]:
        return [each.partition("] ")[2] for each in self.output.lines]


def test_a_line_has_its_time_its_source_and_its_level() -> None:
    writer = Writer()
    writer.log.warn("hello {name}", name="world")
    (line,) = writer.output.lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\S+ \[tests#warn\] hello world", line)


@pytest.mark.parametrize(
    ("level", "written"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)]
)
def test_lines_below_the_level_are_not_written(level: str, written: int) -> None:
    writer = Writer(level=level)
    for name in ("debug", "info", "warn", "error"):
        writer.log.emit(LogLevel.lookupByName(name), "a line")
    assert len(writer.output.lines) == written


def test_a_line_cannot_be_forged() -> None:
    writer = Writer()
    writer.log.info("{text}", text="a\n2026-01-01 [x#error] forged\r\x1b[31m\x9b\u2028")
    assert writer.texts == [r"a\n2026-01-01 [x#error] forged\r\x1b[31m\x9b\u2028"]


def test_a_line_is_cut() -> None:
    writer = Writer()
    writer.log.info("{text}", text="x" * 1_000_000)
    (line,) = writer.output.lines
    assert len(line) < MAX_LINE + 50


def test_a_traceback_has_its_lines_and_a_bound() -> None:
    writer = Writer()
    try:
        raise ValueError("a\x1b mistake\n" * 100_000)
    except ValueError:
        writer.log.failure("something failed")
    first, *others = writer.output.lines[0].split("\n")
    assert first.endswith("[tests#critical] something failed")
    assert all(each.startswith("\t") for each in others)
    assert "\x1b" not in writer.output.lines[0]
    assert len(writer.output.lines[0]) < 2 * MAX_TRACEBACK


def test_json_is_an_object_per_line_and_cut() -> None:
    writer = Writer("json")
    writer.log.info("{text}", text="\n" * 1_000_000)
    (line,) = writer.output.lines
    assert "\n" not in line
    assert json.loads(line)["text"] == "\n" * MAX_LINE


def test_a_flood_of_any_source_is_limited() -> None:
    writer = Writer()
    for number in range(LINES_PER_PERIOD * 10):
        writer.log.info("EMFILE recovery: closed {number}", number=number)
    writer.log.info("another line")
    assert len(writer.texts) == LINES_PER_PERIOD + 1
    writer.clock.advance(PERIOD)
    with capturedLogs() as logged:
        writer.log.debug("any line")
        writer.observer.expire()
    left_out = [eventAsText(each, includeTimestamp=False, includeSystem=False) for each in logged]
    kind = "tests: EMFILE recovery: closed {number}"
    assert left_out == [f"{LINES_PER_PERIOD * 9} more lines of {kind} were left out"]
    writer.log.info("EMFILE recovery: closed {number}", number=0)
    assert len(writer.texts) == LINES_PER_PERIOD + 2


def test_tracebacks_are_limited_by_their_exception() -> None:
    writer = Writer()
    for number in range(LINES_PER_PERIOD * 2):
        try:
            raise ValueError(number) if number % 2 else KeyError(number)
        except LookupError:
            writer.log.failure("failed")
        except ValueError:
            writer.log.failure("failed")
    assert len(writer.texts) == LINES_PER_PERIOD * 2


def test_the_number_of_kinds_is_bounded() -> None:
    limiter = LineLimiter(Clock().seconds)
    assert all(limiter.allow(f"kind {number}") for number in range(MAX_KINDS))
    others = [limiter.allow(f"new kind {number}") for number in range(LINES_PER_PERIOD + 5)]
    assert others == [True] * LINES_PER_PERIOD + [False] * 5
    assert limiter.allow("kind 1")


def test_the_relays_events_are_not_limited_twice() -> None:
    writer = Writer()
    for _ in range(LINES_PER_PERIOD * 2):
        writer.log.info("{who} left", who="worker1", kind="PeerLeft")
    assert len(writer.texts) == LINES_PER_PERIOD * 2


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("ascii", b"caf\\xe9 \\u5bc6 \\udcff\n"),
        ("latin-1", b"caf\xe9 \\u5bc6 \\udcff\n"),
        ("utf-8", "café 密 \\udcff\n".encode()),
    ],
)
def test_what_the_encoding_lacks_is_escaped(encoding: str, written: bytes) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    StreamOutput(stream).write("café 密 \udcff", LogLevel.info)
    assert raw.getvalue() == written


def test_a_log_file_is_utf8_and_rotates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = FileOutput("relay.log")
    monkeypatch.chdir("/")  # as twistd does
    output.write("密 \udcff", LogLevel.info)
    output.rotate()
    output.write("next", LogLevel.info)
    assert tmp_path.joinpath("relay.log.1").read_text() == "密 \\udcff\n"
    assert tmp_path.joinpath("relay.log").read_text() == "next\n"


def test_the_systems_log_has_priorities_and_no_tracebacks_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries: list[tuple[int, str]] = []
    monkeypatch.setattr(syslog, "openlog", lambda *arguments: None)
    monkeypatch.setattr(syslog, "syslog", lambda priority, text: entries.append((priority, text)))
    output = SyslogOutput("relay")
    output.write("a\n\tb", LogLevel.warn)
    output.write("c\0", LogLevel.critical)
    assert entries == [
        (syslog.LOG_WARNING, "a"),
        (syslog.LOG_WARNING, "\tb"),
        (syslog.LOG_CRIT, "c\\x00"),
    ]
