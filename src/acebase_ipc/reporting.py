"""What the relay reports, as log lines and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields

from twisted.logger import Logger, LogLevel

from acebase_ipc.observer import Event, Severity

LINES_PER_PERIOD = 60
"""Lines that one kind of event may write per period: a flood must not fill the disk."""

PERIOD = 60.0  # seconds

log = Logger()


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

    def report(self, event: Event) -> None:
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
