"""Writes the log: the relay's events as log events, and log events as lines.

A line is never lost because of its text: what the output's encoding lacks is escaped. Neither
can the disk be filled: of each kind of line at most :data:`LINES_PER_PERIOD` are written per
:data:`PERIOD`.
"""

from __future__ import annotations

import os
import syslog
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import IO, Any, Protocol

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.logfile import LogFile
from zope.interface import implementer

from acebase_ipc.relay.events import RelayEvent, Severity
from acebase_ipc.server.lines import as_json, as_text, failure_of, printable

LINES_PER_PERIOD = 60
"""Lines of one kind per period: a flood must not fill the disk."""

PERIOD = 60.0  # seconds

MAX_KINDS = 1000
"""Kinds of lines that are counted one by one; the source code has fewer."""

TWISTED = ("log_legacy", "twisted.application.", "twisted.scripts.")
"""Where Twisted tells of the start and the end of a process, of ports and of factories."""

log = Logger()


class LineLimiter:
    """Counts lines by their kind, and tells which of them may be written."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """:param clock: returns monotonic seconds."""
        self._clock = clock
        self._since = clock()
        self._lines: Counter[str] = Counter()

    def allow(self, kind: str) -> bool:
        """Count a line of *kind*; returns whether it may be written."""
        if kind not in self._lines and len(self._lines) >= MAX_KINDS:
            kind = "other kinds"
        self._lines[kind] += 1
        return self._lines[kind] <= LINES_PER_PERIOD

    def expire(self) -> Iterator[tuple[str, int]]:
        """At the end of a period start a new one; yields what was left out, by kind."""
        now = self._clock()
        if now - self._since < PERIOD:
            return
        lines, self._lines = self._lines, Counter()
        self._since = now
        for kind, count in lines.items():
            if count > LINES_PER_PERIOD:
                yield kind, count - LINES_PER_PERIOD


def report_left_out(limiter: LineLimiter) -> None:
    """Log what *limiter* has left out in a period that is over."""
    for kind, more in limiter.expire():
        log.warn("{more} more lines of {kind} were left out", more=more, kind=kind)


class LogObserver:
    """Counts the events of the relay, and logs those that are severe enough.

    :param clock: returns monotonic seconds.
    :param level: the lowest level that is logged, of those of ``twisted.logger.LogLevel``.
    :ivar counts: the number of events of each kind, by the name of its class.
    """

    def __init__(self, clock: Callable[[], float], level: str = "info") -> None:
        self.set_level(level)
        self.counts: Counter[str] = Counter()
        self._limiter = LineLimiter(clock)

    def set_level(self, level: str) -> None:
        """Log events of this *level* and above from now on."""
        lowest = LogLevel.lookupByName(level)
        self._levels = {
            each.value: LogLevel.lookupByName(each.value)
            for each in Severity
            if LogLevel.lookupByName(each.value) >= lowest
        }

    def report(self, event: RelayEvent) -> None:
        """Count *event*; log it unless its severity is too low or its kind too frequent."""
        kind = type(event).__name__
        self.counts[kind] += 1
        level = self._levels.get(event.severity.value)
        if level is None:
            return
        self.expire()
        if self._limiter.allow(kind):
            values = {each.name: getattr(event, each.name) for each in fields(event)}
            texts = {k: printable(v) for k, v in values.items() if isinstance(v, str)}
            log.emit(level, event.text, kind=kind, **(values | texts))

    def expire(self) -> None:
        """At the end of a period, log how many lines were left out."""
        report_left_out(self._limiter)


# Lines


class Output(Protocol):
    """What lines are written to."""

    def write(self, line: str, level: Any) -> None:
        """Write a *line*, which may hold a traceback of several lines."""


class StreamOutput:
    """Writes to a text file such as standard output, whatever its encoding."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._encoding = getattr(file, "encoding", None) or "utf-8"

    def write(self, line: str, level: Any) -> None:
        """Write *line*."""
        data = f"{line}\n".encode(self._encoding, "backslashreplace")
        self._file.write(data.decode(self._encoding))
        self._file.flush()


class FileOutput:
    """Writes to a file in UTF-8 that rotates at 1 MB and on demand."""

    def __init__(self, path: str) -> None:
        self._file: Any = LogFile.fromFullPath(os.path.abspath(path))

    def write(self, line: str, level: Any) -> None:
        """Write *line*."""
        self._file.write(f"{line}\n".encode("utf-8", "backslashreplace"))

    def rotate(self) -> None:
        """Rename the file and begin a new one."""
        self._file.rotate()


class SyslogOutput:
    """Writes to the system's log."""

    _PRIORITIES = {  # noqa: RUF012
        LogLevel.debug: syslog.LOG_DEBUG,
        LogLevel.info: syslog.LOG_INFO,
        LogLevel.warn: syslog.LOG_WARNING,
        LogLevel.error: syslog.LOG_ERR,
        LogLevel.critical: syslog.LOG_CRIT,
    }

    def __init__(self, prefix: str) -> None:
        syslog.openlog(prefix, syslog.LOG_PID, syslog.LOG_DAEMON)

    def write(self, line: str, level: Any) -> None:
        """Write *line*; one of several lines becomes several entries."""
        text = line.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
        for each in text.splitlines():
            syslog.syslog(self._PRIORITIES[level], each)


@implementer(ILogObserver)
class LineObserver:
    """Writes every log event of a process to an output, within the bounds of this module.

    :param form: ``text``, or ``json``: one object per line.
    :param level: the lowest level that is written: ``debug``, ``info``, ``warn`` or ``error``.
    :param clock: returns monotonic seconds.
    """

    def __init__(self, output: Output, form: str, level: str, clock: Callable[[], float]) -> None:
        self.output = output
        self._render = as_json if form == "json" else as_text
        self.set_level(level)
        self._limiter = LineLimiter(clock)

    def set_level(self, level: str) -> None:
        """Write events of this *level* and above from now on."""
        self._level = LogLevel.lookupByName(level)

    def __call__(self, event: LogEvent) -> None:
        """Write *event*, unless its level is too low or its kind too frequent."""
        level = event.get("log_level")
        if level is LogLevel.info and _is_of_twisted(event):
            level = LogLevel.debug
        self.expire()
        if level is None or level < self._level:
            return
        # Lines with a kind are the relay's events, of which LogObserver has left out some.
        if "kind" in event or self._limiter.allow(_kind(event)):
            line = self._render(event)
            if line:
                self.output.write(line, level)

    def expire(self) -> None:
        """At the end of a period, log how many lines were left out."""
        report_left_out(self._limiter)


def _is_of_twisted(event: LogEvent) -> bool:
    """Return whether *event* tells of Twisted's own start and end, which the relay tells of."""
    if event.get("log_format") == "Main loop terminated.":
        return True
    return str(event.get("log_namespace")).startswith(TWISTED)


def _kind(event: LogEvent) -> str:
    kind = f"{event.get('log_namespace')}: {event.get('log_format')}"
    failure = failure_of(event)
    return printable(kind if failure is None else f"{kind} {type(failure.value).__name__}", 100)
