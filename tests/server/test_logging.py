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
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import (
    LogEvent,
    Logger,
    LogLevel,
    capturedLogs,
    eventAsText,
)
from twisted.logger._legacy import publishToNewObserver
from twisted.python.log import textFromEventDict

from acebase_ipc.relay import events
from acebase_ipc.relay.events import (
    DialectDetected,
    DropReason,
    ExpiryReason,
    IdConflict,
    MessageDropped,
    PeerJoined,
    PeerLeft,
    Refused,
    RelayEvent,
    SessionExpired,
    Severity,
    SlowConsumer,
)
from acebase_ipc.server.lines import (
    MAX_FIELDS,
    MAX_INTEGER,
    MAX_LINE,
    MAX_TEXT,
    MAX_TRACEBACK,
)
from acebase_ipc.server.logging import (
    LINES_PER_PERIOD,
    MAX_KINDS,
    PERIOD,
    FileOutput,
    LineLimiter,
    LineObserver,
    LogObserver,
    StreamOutput,
    SyslogOutput,
)

WHO = ("mydb_data", "worker1")
AT = "192.0.2.1:5000"
LEFT = PeerLeft(*WHO, AT)
LEFT_LINE = f"mydb_data: worker1 left, last connected from {AT}"


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
            PeerJoined(*WHO, "acebase", AT),
            SlowConsumer(*WHO, 5000, 7, AT),
            IdConflict(*WHO, "192.0.2.1:1111", "192.0.2.2:2222"),
        ):
            observer.report(event)
    assert [each["log_level"] for each in logged] == [LogLevel.info, LogLevel.warn, LogLevel.error]
    assert lines(logged)[:2] == [
        f"mydb_data: worker1 joined from {AT} as acebase peer",
        f"mydb_data: worker1 from {AT} is disconnected: it has not read 5000 bytes in 7 messages",
    ]


def some_value(name: str, kind: type[Any]) -> Any:
    """A value for the field *name* of an event."""
    if issubclass(kind, Enum):
        return next(iter(kind))
    return f"a {name}" if kind is str else kind(7)


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
    (line,) = report(observer, PeerLeft("{peer}", "{}{0}{x!}", AT))
    assert line.startswith("{peer}: {}{0}{x!} left")


def test_what_is_of_no_concern_is_only_counted() -> None:
    observer = LogObserver(Clock().seconds)
    assert (
        report(observer, DialectDetected(*WHO), *[MessageDropped(*WHO, DropReason.EXPIRED)] * 2)
        == []
    )
    assert observer.counts == {"DialectDetected": 1, "MessageDropped": 2}


@pytest.mark.parametrize(
    ("level", "written"), [("debug", 3), ("info", 2), ("warn", 1), ("error", 0), ("critical", 0)]
)
def test_events_below_the_level_are_not_even_log_events(level: str, written: int) -> None:
    observer = LogObserver(Clock().seconds, level)
    with capturedLogs() as logged:
        for event in (DialectDetected(*WHO), LEFT, SlowConsumer(*WHO, 5000, 7, AT)):
            observer.report(event)
    assert len(logged) == written
    assert observer.counts.total() == 3


def test_debug_shows_what_info_hides() -> None:
    observer = LogObserver(Clock().seconds, "debug")
    assert report(observer, MessageDropped(*WHO, DropReason.EXPIRED), DialectDetected(*WHO)) == [
        "mydb_data: 1 message(s) of worker1 dropped: it was not downloaded in time",
        "mydb_data: worker1 is an acebase peer",
    ]


def test_a_flood_does_not_fill_the_disk() -> None:
    clock = Clock()
    observer = LogObserver(clock.seconds)
    assert report(observer, *[LEFT] * (LINES_PER_PERIOD + 5)) == [LEFT_LINE] * LINES_PER_PERIOD
    assert len(report(observer, PeerJoined(*WHO, "acebase", AT))) == 1
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


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01T00:00:00+0000 [-] RelaySite starting on 9163",
        "(TCP Port 9163 Closed)",
        "Received nothing",
    ],
)
def test_what_twisted_tells_of_itself_is_for_debugging(text: str) -> None:
    info, debug = Writer(), Writer(level="debug")
    for writer in (info, debug):
        for namespace in ("log_legacy", "twisted.scripts._twistd_unix.UnixAppLogger"):
            Logger(namespace=namespace, observer=writer.observer).info("{text}", text=text)
            Logger(namespace=namespace, observer=writer.observer).warn("{text}", text=text)
    assert info.texts == [text] * 2
    assert debug.texts == [text] * 4


# JSON


def as_object(writer: Writer) -> dict[str, Any]:
    """The one line that was written, which must be JSON as RFC 8259 has it."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (line,) = writer.output.lines
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line, parse_constant=refuse)
    assert isinstance(found, dict)
    assert all(isinstance(each, str | int | float) for each in found.values())
    return found


def test_an_event_is_a_flat_object() -> None:
    writer = Writer("json")
    observer = LogObserver(Clock().seconds)
    with capturedLogs() as logged:
        observer.report(SessionExpired(*WHO, ExpiryReason.TIME, 7, 5000))
    logged[0]["log_time"] = 1_800_000_000.12345
    writer.observer(logged[0])
    assert as_object(writer) == {
        "time": "2027-01-15T08:00:00.123Z",
        "level": "warn",
        "event": "SessionExpired",
        "message": (
            "mydb_data: the session of worker1 has expired: it did not reconnect in time;"
            " 7 message(s) of 5000 bytes are dropped"
        ),
        "database": "mydb_data",
        "peer": "worker1",
        "reason": "it did not reconnect in time",
        "messages": 7,
        "size": 5000,
        "fate": "are dropped",
    }


def test_another_line_is_a_flat_object_with_its_namespace() -> None:
    writer = Writer("json")
    writer.log.info("hello {name}", name="world", when=object(), none=None, data=[1], more="x")
    found = as_object(writer)
    assert found.pop("time")
    assert found == {
        "level": "info",
        "event": "tests",
        "message": "hello world",
        "name": "world",
        "more": "x",
    }


def test_a_field_cannot_take_the_place_of_a_member() -> None:
    writer = Writer("json")
    names = {"time": "t", "event": "e", "message": "m", "traceback": "f"}
    writer.log.info("{time}{event}{message}{traceback}", **names)
    found = as_object(writer)
    assert found.keys() == {"time", "level", "event", "message"}
    assert (found["level"], found["event"], found["message"]) == ("info", "tests", "temf")


@pytest.mark.parametrize("kind", EVENTS)
def test_every_field_of_an_event_is_a_member(kind: type[RelayEvent]) -> None:
    writer = Writer("json")
    types = get_type_hints(kind)
    values = {each.name: some_value(each.name, types[each.name]) for each in fields(kind)}
    with capturedLogs() as logged:
        LogObserver(Clock().seconds, "debug").report(kind(**values))
    writer.observer._level = LogLevel.debug
    writer.observer(logged[0])
    plain = {k: v.value if isinstance(v, Enum) else v for k, v in values.items()}
    found = as_object(writer)
    assert found.items() >= plain.items()
    assert found.keys() == {"time", "level", "event", "message"} | values.keys()


def test_a_line_of_the_old_log_has_nothing_twice() -> None:
    writer = Writer("json", "debug")
    publishToNewObserver(
        writer.observer,
        {"message": ("hello",), "time": 1.5, "system": "-", "isError": 0},
        textFromEventDict,
    )
    assert as_object(writer) == {
        "time": "1970-01-01T00:00:01.500Z",
        "level": "info",
        "event": "log_legacy",
        "message": "hello",
    }


def test_a_failure_is_a_traceback_of_bounded_length() -> None:
    writer = Writer("json")
    try:
        raise ValueError("a\x1b mistake\udcff\n" * 100_000)
    except ValueError:
        writer.log.failure("something failed")
    found = as_object(writer)
    assert (found["level"], found["message"]) == ("critical", "something failed")
    assert "mistake\\udcff" in found["traceback"]
    assert "\x1b" not in found["traceback"]
    assert len(found["traceback"]) < 2 * MAX_TRACEBACK


texts = st.text(st.characters(), max_size=20)


@given(
    st.dictionaries(
        texts,
        texts
        | st.integers()
        | st.floats()
        | st.booleans()
        | st.none()
        | st.binary()
        | st.integers(10, 10**6).map(lambda digits: 10**digits),
        max_size=5,
    ),
    texts,
)
@example({"x" * 10_000: 1}, "")
@example({"a": 10**5000}, "{a}")
@example({"log_failure": "no failure"}, "")
@example({"a": "\ud800", "\udfff": "\u2028"}, "\ud800")
def test_json_is_valid_whatever_is_logged(values: dict[str, Any], text: str) -> None:
    writer = Writer("json")
    writer.observer(
        {
            **values,
            "log_level": LogLevel.info,
            "log_time": 0.0,
            "log_format": text,
            "log_namespace": "tests",
        }
    )
    if writer.output.lines:
        as_object(writer)


def test_json_has_a_bound() -> None:
    writer = Writer("json")
    many = {f"{number}" * 1000: "\u5bc6" * 1_000_000 for number in range(1000)}
    writer.observer({**many, "log_level": LogLevel.info, "log_time": 0.0, "log_format": "hello"})
    assert len(as_object(writer)) == MAX_FIELDS
    assert len(writer.output.lines[0]) < MAX_FIELDS * 6 * 2 * 500


@pytest.mark.parametrize(
    ("number", "written"),
    [
        (MAX_INTEGER, MAX_INTEGER),
        (-MAX_INTEGER, -MAX_INTEGER),
        (MAX_INTEGER + 1, "a number of 54 bits"),
        (1 << 20_000, "a number of 20001 bits"),
        (float("inf"), "inf"),
        (1.5, 1.5),
        (True, True),
    ],
    ids=[*"abcdefg"],
)
def test_numbers_are_those_that_every_reader_keeps(number: float, written: object) -> None:
    writer = Writer("json")
    writer.log.info("a number", number=number)
    assert as_object(writer)["number"] == written


def test_a_text_that_is_too_long_is_cut_in_each_member() -> None:
    writer = Writer("json")
    writer.log.info("{text}", text="\n" * 1_000_000)
    found = as_object(writer)
    assert found["text"].endswith("(1000000 characters)")
    assert found["message"].startswith("\\n" * MAX_LINE)


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
