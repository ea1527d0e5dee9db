"""The soak's model: which messages were sent, and which must have arrived.

A message is *sent* shortly before it is written. It is *settled* when the relay
has processed it: when a ping sent after it, or its POST, has been answered. A
member is *present* from its welcome until the last of its pings that was answered.
A message that was settled before the member sent that ping must have arrived
before the answer, because all messages for one member take one queue. So

* a member that was present from before a message was sent until after it was
  settled must have received it: otherwise the message is **lost**;
* a message that arrives must be of this database, for this member, not from
  itself, no duplicate, and later than all earlier arrivals on its path.

An AceBase worker that resumes its session was present from the moment when the
relay noticed the end of its connection. Messages sent to it shortly before that
end may be lost: they were handed to the transport.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

MARK = re.compile(r"#(\d+)\|([^|#]+)\|([^|#]+)\|(\w+)\|(\d+)\|([^|#]+)#")
"""Part of every body: number, database, sender, path, serial on the path, addressee or ``all``."""

ALL = "all"
UNDELIVERABLE = "undeliverable"
"""Part of messages that the relay must not deliver: incomplete, dropped, or without a right."""

UNSETTLED = float("inf")

MEMORY = 60.0
"""Seconds after which a settled message is checked: all downloads and queues have ended."""


@dataclass(eq=False, slots=True)
class Sent:
    """A message."""

    number: int
    database: str
    sender: str
    addressee: str
    large: bool
    at: float
    settled: float = UNSETTLED


@dataclass(eq=False, slots=True)
class Presence:
    """A period in which a member must not lose a message.

    :ivar since: begin; messages sent after it must arrive.
    :ivar until: end; messages have to be settled before it.
    :ivar welcomed: when messages could begin to arrive.
    :ivar broken: whether a download may have failed because of the member itself.
    """

    since: float
    welcomed: float
    until: float = 0.0
    broken: bool = False


@dataclass(eq=False)
class Receiver:
    """The arrivals at one member, over all its connections."""

    database: str
    id: str
    presences: list[Presence] = field(default_factory=list)
    departures: list[tuple[float, float]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    last: dict[tuple[str, str], int] = field(default_factory=dict)
    """The last serial, by sender and path."""
    posted: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Place of arrival and serial of POSTed messages, by sender."""
    arrivals: int = 0


class Ledger:
    """All messages, and all delivery faults.

    :ivar wrong: number of faults by kind.
    :ivar samples: lines about the first faults.
    """

    def __init__(self, show: Callable[[str], object] = lambda line: None) -> None:
        """:param show: called with a line about each of the first faults, at once."""
        self._show = show
        self.receivers: dict[tuple[str, str], Receiver] = {}
        self.wrong: Counter[str] = Counter(
            dict.fromkeys(("lost", "duplicated", "reordered", "wrong peer", "wrong database"), 0)
        )
        self.samples: list[str] = []
        self.sent = self.delivered = self.required = 0
        self._open: dict[int, Sent] = {}

    def receiver(self, database: str, client_id: str) -> Receiver:
        """The arrivals at that member."""
        return self.receivers.setdefault((database, client_id), Receiver(database, client_id))

    def record(self, kind: str, about: str) -> None:
        """Count a fault."""
        self.wrong[kind] += 1
        if len(self.samples) < 40:
            self.samples.append(f"{kind}: {about}")
            self._show(self.samples[-1])

    def send(
        self,
        sender: Receiver,
        path: str,
        serial: int,
        addressee: str,
        at: float,
        *,
        large: bool = False,
    ) -> tuple[Sent, str]:
        """Record a new message; returns it, and the mark to put into its body."""
        self.sent += 1
        sent = Sent(self.sent, sender.database, sender.id, addressee, large, at)
        self._open[sent.number] = sent
        parts = (sent.number, sent.database, sent.sender, path, serial, addressee)
        return sent, "#" + "|".join(map(str, parts)) + "#"

    def place(self, receiver: Receiver) -> int:
        """The position, among all arrivals, of a message that arrives or is announced now."""
        receiver.arrivals += 1
        return receiver.arrivals

    def arrive(self, receiver: Receiver, body: str, place: int, ordered: bool = True) -> None:
        """Record an arrival at a member.

        :param ordered: whether it has to be later than the earlier arrivals on its path.
        """
        receiving = f"{receiver.database} {receiver.id}"
        self.delivered += 1
        match = MARK.search(body)
        if match is None:
            self.record(
                "undeliverable" if UNDELIVERABLE in body else "garbled",
                f"{receiving}: {body[:100]}",
            )
            return
        number, database, sender, path, serial, addressee = match.groups()
        about = f"{receiving}: {match[0]}"
        if database != receiver.database:
            self.record("wrong database", about)
        elif addressee not in (receiver.id, ALL) or (addressee == ALL and sender == receiver.id):
            self.record("wrong peer", about)
        if int(number) in receiver.numbers:
            self.record("duplicated", about)
        receiver.numbers.add(int(number))
        if not ordered:
            return
        if path == "post":
            receiver.posted[sender].append((place, int(serial)))
        elif int(serial) <= receiver.last.get((sender, path), 0):
            self.record("reordered", f"{about} after {receiver.last[sender, path]}")
        else:
            receiver.last[sender, path] = int(serial)

    def check(self, before: float = UNSETTLED) -> None:
        """Find lost messages among those settled, or sent but never settled, *before*."""
        by_database: dict[str, list[Receiver]] = defaultdict(list)
        for receiver in self.receivers.values():
            by_database[receiver.database].append(receiver)
            self._discard(receiver, before)
        for sent in tuple(self._open.values()):
            if sent.settled == UNSETTLED and sent.at < before:
                del self._open[sent.number]
            elif sent.settled < before:
                del self._open[sent.number]
                for receiver in by_database[sent.database]:
                    self._check(sent, receiver)
        for receiver in self.receivers.values():
            for sender, arrivals in receiver.posted.items():
                serials = [serial for _, serial in sorted(arrivals)]
                if serials != sorted(serials):
                    self.record(
                        "reordered", f"{receiver.database} {receiver.id}: POSTs {sender} {serials}"
                    )
                    arrivals.clear()
                del arrivals[:-20]

    def _discard(self, receiver: Receiver, before: float) -> None:
        """Discard records that no unchecked message can refer to."""
        oldest = min(self._open, default=self.sent)
        receiver.numbers = {each for each in receiver.numbers if each >= oldest}
        if before != UNSETTLED:
            kept = [each for each in receiver.presences[:-1] if each.until > before - MEMORY]
            receiver.presences = kept + receiver.presences[-1:]
            receiver.departures = [
                each for each in receiver.departures if each[1] > before - MEMORY
            ]

    def _check(self, sent: Sent, receiver: Receiver) -> None:
        if sent.addressee not in (receiver.id, ALL):
            return
        if sent.addressee == ALL and sent.sender == receiver.id:
            return
        for presence in receiver.presences:
            if sent.at > presence.since and sent.settled < presence.until:
                if sent.large and presence.broken:
                    return
                if sent.addressee != ALL and self._is_orphaned(sent, presence):
                    return
                self.required += 1
                if sent.number not in receiver.numbers:
                    self.record("lost", f"{receiver.database} {receiver.id}: {sent} in {presence}")
                return

    def _is_orphaned(self, sent: Sent, presence: Presence) -> bool:
        """Whether a message may have been dropped because its sender left before its delivery."""
        departures = self.receiver(sent.database, sent.sender).departures
        return any(sent.at <= end and begin <= presence.welcomed for begin, end in departures)
