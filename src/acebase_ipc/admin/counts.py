"""Counts the events of a relay for the metrics."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import Final, get_type_hints

from acebase_ipc.relay import events
from acebase_ipc.relay.events import ConnectionClosed, MessageDropped, Refused, RelayEvent
from acebase_ipc.relay.sessions import CLOSE_KICKED, CLOSE_REPLACED

CODES: Final = frozenset({*range(1000, 1016), CLOSE_KICKED, CLOSE_REPLACED})
"""The close codes that are counted one by one: those that are registered (RFC 6455, section 11.7)
and the relay's own. A client may close with any other."""

OTHER_CODE: Final = "other"

KINDS: Final = {
    each.__name__: each
    for each in vars(events).values()
    if isinstance(each, type) and issubclass(each, RelayEvent) and hasattr(each, "text")
}
"""All kinds of events by their name."""


def reason_of(reason: object) -> str:
    """Return the name of a *reason* out of a few; empty for any other text."""
    return reason.name.lower() if isinstance(reason, Enum) else ""


def reasons_of(kind: type[RelayEvent]) -> list[str]:
    """Return the reasons that an event of this *kind* may have; an empty one if it has none."""
    known = get_type_hints(kind).get("reason")
    if isinstance(known, type) and issubclass(known, Enum):
        return [reason_of(each) for each in known]
    return [""]


Counts = tuple[list[tuple[str, str, int]], dict[int, int], dict[str, int], dict[str, int]]
"""All counts as plain values, in the order of the attributes of :class:`MetricsObserver`."""


class MetricsObserver:
    """Counts every event; an :class:`~acebase_ipc.relay.events.Observer`.

    :ivar events: the events by kind and reason, those that have not happened, too.
    :ivar refusals: the requests and handshakes that were refused, by status.
    :ivar closes: the WebSockets that have ended, by close code.
    :ivar dropped: the messages that were not delivered, by reason.
    """

    def __init__(self) -> None:
        self.events = Counter(
            {(name, reason): 0 for name, kind in KINDS.items() for reason in reasons_of(kind)}
        )
        self.refusals: Counter[int] = Counter()
        self.closes = Counter({str(code): 0 for code in sorted(CODES)})
        self.dropped = Counter(dict.fromkeys(reasons_of(MessageDropped), 0))

    def report(self, event: RelayEvent) -> None:
        """Count *event*."""
        reason = reason_of(getattr(event, "reason", None))
        self.events[type(event).__name__, reason] += 1
        if isinstance(event, MessageDropped):
            self.dropped[reason] += event.messages
        elif isinstance(event, Refused):
            self.refusals[event.status] += 1
        elif isinstance(event, ConnectionClosed):
            self.closes[str(event.code) if event.code in CODES else OTHER_CODE] += 1

    def export(self) -> Counts:
        """Return all counts."""
        events = [(kind, reason, count) for (kind, reason), count in self.events.items()]
        return events, dict(self.refusals), dict(self.closes), dict(self.dropped)

    def adopt(self, counts: Counts) -> None:
        """Count what another one has counted, too."""
        events, refusals, closes, dropped = counts
        self.events.update({(kind, reason): count for kind, reason, count in events})
        self.refusals.update(refusals)
        self.closes.update(closes)
        self.dropped.update(dropped)
