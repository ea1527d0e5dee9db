"""What the relay reports, as log lines and counts."""

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
"""Lines that one kind of event may write per period: a flood must not fill the disk."""

PERIOD = 60.0  # seconds

log = Logger()


def log_observer(file: IO[str], form: str, level: str) -> ILogObserver:
    """Writes log events from *level* on to *file*.

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
    """Where ``twistd`` would write its log: it rotates by size, and on SIGUSR1."""
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
    """Counts what the relay reports, and logs what an operator should see.

    :ivar counts: how often each kind of event was reported, by its class's name.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """:param clock: seconds of a clock that never jumps."""
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._since = clock()
        self._lines: Counter[str] = Counter()

    def report(self, event: RelayEvent) -> None:
        """Count *event* and, unless it is of no concern or one of too many, log it."""
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
        """At the end of a period, log how many lines were left out, and begin a new one."""
        if self._clock() - self._since < PERIOD:
            return
        for kind, lines in self._lines.items():
            if lines > LINES_PER_PERIOD:
                more = lines - LINES_PER_PERIOD
                log.warn("and {more} more times {kind}", more=more, kind=kind)
        self._lines.clear()
        self._since = self._clock()
