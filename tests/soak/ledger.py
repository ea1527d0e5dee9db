"""What was sent, and what must have arrived: the soak's model.

A message is sent at some time (before it is written) and *settled* at some later
one: when a ping sent behind it, or its POST, has been answered, the relay has
dealt with it. A member *listens* from its welcome until the last of its pings
that was answered: whatever was settled before it sent that ping must have come
before the answer, because everything for one member takes one queue. So

* who listened from before a message was sent until after it was settled must
  have received it: else it is **lost**;
* whatever arrives must be of this database, for this member, not from itself,
  for the first time, and later than all that came before it on its path.

An AceBase worker that is back in its seat listened from the moment on at which
the relay knew that its connection was gone. What was sent to it shortly before
a cut may be lost: it was handed to the transport.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

MARK = re.compile(r"#(\d+)\|([^|#]+)\|([^|#]+)\|(\w+)\|(\d+)\|([^|#]+)#")
"""In every body: number, database, sender, path, serial on the path, addressee or ``all``."""

EVERYBODY = "all"
GHOST = "ghost"
"""Stands in what is never sent completely, and so must never arrive."""

UNSETTLED = float("inf")

MEMORY = 60.0
"""Seconds after which a settled message is judged: all downloads and queues are through."""


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
class Stay:
    """A time in which a member loses nothing.

    :ivar since: what is sent after this must arrive,
    :ivar until: if it is settled before this.
    :ivar welcomed: when it could begin to arrive.
    :ivar broken: whether a download may have failed by the member's own fault.
    """

    since: float
    welcomed: float
    until: float = 0.0
    broken: bool = False


@dataclass(eq=False)
class Ear:
    """What one member has received, over all its connections."""

    database: str
    id: str
    stays: list[Stay] = field(default_factory=list)
    departures: list[tuple[float, float]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    last: dict[tuple[str, str], int] = field(default_factory=dict)
    """The last serial by sender and path."""
    posted: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Place of arrival and serial of what was POSTed, by sender."""
    arrivals: int = 0


class Ledger:
    """All messages, and everything that is wrong.

    :ivar wrong: how often what was wrong, by kind.
    :ivar samples: some lines about it.
    """

    def __init__(self, tell: Callable[[str], object] = lambda line: None) -> None:
        """:param tell: called with what is wrong, as soon as that is known."""
        self._tell = tell
        self.ears: dict[tuple[str, str], Ear] = {}
        self.wrong: Counter[str] = Counter(
            dict.fromkeys(("lost", "duplicated", "reordered", "wrong peer", "wrong database"), 0)
        )
        self.samples: list[str] = []
        self.sent = self.delivered = self.required = 0
        self._open: dict[int, Sent] = {}

    def ear(self, database: str, client_id: str) -> Ear:
        """What that member hears."""
        return self.ears.setdefault((database, client_id), Ear(database, client_id))

    def blame(self, kind: str, about: str) -> None:
        """Take note of something wrong."""
        self.wrong[kind] += 1
        if len(self.samples) < 40:
            self.samples.append(f"{kind}: {about}")
            self._tell(self.samples[-1])

    def send(
        self,
        sender: Ear,
        path: str,
        serial: int,
        addressee: str,
        at: float,
        *,
        large: bool = False,
    ) -> tuple[Sent, str]:
        """A new message, and the mark that its body has to hold."""
        self.sent += 1
        sent = Sent(self.sent, sender.database, sender.id, addressee, large, at)
        self._open[sent.number] = sent
        parts = (sent.number, sent.database, sent.sender, path, serial, addressee)
        return sent, "#" + "|".join(map(str, parts)) + "#"

    def place(self, ear: Ear) -> int:
        """The place of what arrives now, or is announced now, among all that arrives."""
        ear.arrivals += 1
        return ear.arrivals

    def arrive(self, ear: Ear, body: str, place: int, ordered: bool = True) -> None:
        """A message has come to a member; *ordered*: after all that came before."""
        who = f"{ear.database} {ear.id}"
        self.delivered += 1
        match = MARK.search(body)
        if match is None:
            self.blame("ghosts" if GHOST in body else "garbled", f"{who}: {body[:100]}")
            return
        number, database, sender, path, serial, addressee = match.groups()
        about = f"{who}: {match[0]}"
        if database != ear.database:
            self.blame("wrong database", about)
        elif addressee not in (ear.id, EVERYBODY) or (addressee == EVERYBODY and sender == ear.id):
            self.blame("wrong peer", about)
        if int(number) in ear.numbers:
            self.blame("duplicated", about)
        ear.numbers.add(int(number))
        if not ordered:
            return
        if path == "post":
            ear.posted[sender].append((place, int(serial)))
        elif int(serial) <= ear.last.get((sender, path), 0):
            self.blame("reordered", f"{about} after {ear.last[sender, path]}")
        else:
            ear.last[sender, path] = int(serial)

    def judge(self, before: float = UNSETTLED) -> None:
        """See what is lost of all that was settled, or sent and never settled, *before*."""
        listeners: dict[str, list[Ear]] = defaultdict(list)
        for ear in self.ears.values():
            listeners[ear.database].append(ear)
            self._forget(ear, before)
        for sent in tuple(self._open.values()):
            if sent.settled == UNSETTLED and sent.at < before:
                del self._open[sent.number]
            elif sent.settled < before:
                del self._open[sent.number]
                for ear in listeners[sent.database]:
                    self._judge(sent, ear)
        for ear in self.ears.values():
            for sender, arrivals in ear.posted.items():
                serials = [serial for _, serial in sorted(arrivals)]
                if serials != sorted(serials):
                    self.blame("reordered", f"{ear.database} {ear.id}: POSTs {sender} {serials}")
                    arrivals.clear()
                del arrivals[:-20]

    def _forget(self, ear: Ear, before: float) -> None:
        """Let go what no message can be about that is still to be judged."""
        oldest = min(self._open, default=self.sent)
        ear.numbers = {each for each in ear.numbers if each >= oldest}
        if before != UNSETTLED:
            kept = [each for each in ear.stays[:-1] if each.until > before - MEMORY]
            ear.stays = kept + ear.stays[-1:]
            ear.departures = [each for each in ear.departures if each[1] > before - MEMORY]

    def _judge(self, sent: Sent, ear: Ear) -> None:
        if sent.addressee not in (ear.id, EVERYBODY):
            return
        if sent.addressee == EVERYBODY and sent.sender == ear.id:
            return
        for stay in ear.stays:
            if sent.at > stay.since and sent.settled < stay.until:
                if sent.large and stay.broken:
                    return
                if sent.addressee != EVERYBODY and self._is_orphaned(sent, stay):
                    return
                self.required += 1
                if sent.number not in ear.numbers:
                    self.blame("lost", f"{ear.database} {ear.id}: {sent} in {stay}")
                return

    def _is_orphaned(self, sent: Sent, stay: Stay) -> bool:
        """Whether a message may have been dropped, as its sender went before it was handed on."""
        departures = self.ear(sent.database, sent.sender).departures
        return any(sent.at <= end and begin <= stay.welcomed for begin, end in departures)
