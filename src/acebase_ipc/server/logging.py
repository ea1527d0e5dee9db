"""Writes the log: events of the relay as lines, and lines as text or JSON."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import IO, Any

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    jsonFileLogObserver,
    textFileLogObserver,
)
from twisted.python.logfile import LogFile

from acebase_ipc.relay.events import RelayEvent, Severity

LINES_PER_PERIOD = 60
"""Lines of one kind of event per period: a flood must not fill the disk."""

PERIOD = 60.0  # seconds

log = Logger()


def log_observer(file: IO[str], form: str, level: str) -> ILogObserver:
    """Return an observer that writes log events of *level* and above to *file*.

    :param form: ``text``, or ``json``: one object per line.
    :param level: ``debug``, ``info``, ``warn`` or ``error``.
    """
    write = (
        jsonFileLogObserver(file, recordSeparator="")
        if form == "json"
        else textFileLogObserver(file)
    )
    predicate = LogLevelFilterPredicate(defaultLogLevel=LogLevel.lookupByName(level))
    return FilteringLogObserver(write, [predicate])


def log_file(logfile: str | None, daemonised: bool) -> IO[str]:
    """Return the file of ``twistd``'s log, which rotates by size and on SIGUSR1."""
    if not daemonised and logfile in (None, "", "-"):
        return sys.stdout
    file: Any = LogFile.fromFullPath(logfile or "twistd.log")

    def rotate(*_: object) -> None:
        from twisted.internet import reactor

        reactor.callFromThread(file.rotate)  # type: ignore[attr-defined]

    signal.signal(signal.SIGUSR1, rotate)
    output: IO[str] = file
    return output


class LogObserver:
    """Counts the events of the relay, and logs all of severity ``INFO`` and above.

    :ivar counts: the number of events of each kind, by the name of its class.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """:param clock: returns monotonic seconds."""
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._since = clock()
        self._lines: Counter[str] = Counter()

    def report(self, event: RelayEvent) -> None:
        """Count *event*; log it unless it is of severity ``DEBUG`` or too frequent."""
        kind = type(event).__name__
        self.counts[kind] += 1
        if event.severity is Severity.DEBUG:
            return
        self.expire()
        self._lines[kind] += 1
        if self._lines[kind] <= LINES_PER_PERIOD:
            values = {each.name: getattr(event, each.name) for each in fields(event)}
            log.emit(LogLevel.lookupByName(event.severity.value), event.text, kind=kind, **values)

    def expire(self) -> None:
        """At the end of a period, log how many lines were left out, and start a new period."""
        if self._clock() - self._since < PERIOD:
            return
        for kind, lines in self._lines.items():
            if lines > LINES_PER_PERIOD:
                more = lines - LINES_PER_PERIOD
                log.warn("{more} more lines of {kind} were left out", more=more, kind=kind)
        self._lines.clear()
        self._since = self._clock()
