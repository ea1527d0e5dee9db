"""Which relay may serve a database: the leases and epochs of one relay, without I/O.

The relays of a cluster meet in a store (Redis), which runs one command at a time. A relay writes a
record there, and renews it by raising the counter in it. Its *lease* covers all databases whose
*home* it is. The clocks are those of the relays, each compared only with itself, and monotonic: the
store's clock is never asked how much time has passed, because it may be set.

* A relay serves for :attr:`Timing.trust` seconds after it has *sent* a renewal that succeeded.
* Another relay that has seen the same counter for :attr:`Timing.silence` seconds, counted from the
  *arrival* of the first answer with it, buries the record. Only a database whose home has no
  record can be claimed, and a relay that finds its record gone has lost all databases.

The renewal was sent before anybody has seen its counter. So the first relay has stopped before the
second one can begin, if no clock runs 1.14 times as fast as another one (1.6 s against 1.4 s for a
lease of 2 s). Quartz clocks differ by 0.0001. A process that was suspended finds, before it accepts
the next message, that its time is over: it compares the clock then.

A store that was restarted may have forgotten what it was told. It has a new *token* then, and is
not *ripe*: nothing can be claimed there before some relay has known the token for the time of
silence. Relays that still trust their lease have written their homes there by then.

Each home has an *epoch*. The next one is higher than all that the store, or the relay that claims,
has ever known, so that the numbers rise even if the store forgets them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

DEFAULT_LEASE: Final = 2.0
"""Seconds."""

MIN_LEASE: Final = 0.5
"""Seconds: a shorter one is lost whenever a machine is busy."""

MAX_LEASE: Final = 60.0
"""Seconds: for as long a killed relay's databases are not served."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of a lease, in seconds.

    :ivar lease: within this time after its last renewal, the databases of a relay that was killed
        can be claimed.
    """

    lease: float = DEFAULT_LEASE

    @property
    def renewal(self) -> float:
        """The time between two renewals."""
        return self.lease / 3

    @property
    def tick(self) -> float:
        """The time between two looks at the records of the others."""
        return self.lease / 20

    @property
    def trust(self) -> float:
        """For how long a relay serves after it has sent a renewal."""
        return self.lease * 0.7

    @property
    def silence(self) -> float:
        """For how long a counter has to stay the same before its relay is buried."""
        return self.lease * 0.8


class Verb(Enum):
    """What the store is asked to do."""

    JOIN = "join"
    RENEW = "renew"
    WATCH = "watch"
    BURY = "bury"
    RIPEN = "ripen"
    FIND = "find"
    CLAIM = "claim"
    RELEASE = "release"
    GIVE = "give"
    LEAVE = "leave"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Command:
    """A command for the store, which runs it as a whole.

    :ivar relay: the id of the relay that sends it.
    """

    verb: Verb
    relay: str
    arguments: tuple[str | int | bytes, ...] = ()


class Status(Enum):
    """How a command has ended."""

    DONE = "done"
    GONE = "gone"
    """The store has no record of the relay."""
    UNRIPE = "unripe"
    """Nothing can be claimed yet."""


@dataclass(frozen=True, slots=True)
class Record:
    """What the store knows of a relay.

    :ivar counter: rises with each renewal.
    :ivar about: what the relay tells of itself.
    """

    counter: int
    about: str


@dataclass(frozen=True, slots=True)
class Home:
    """Where a database is served.

    :ivar relay: the id of the relay.
    """

    relay: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command.

    :ivar token: names all that the store knows: it has another one when it has forgotten that.
    :ivar records: the relays by id, in answers to JOIN, RENEW and WATCH.
    :ivar home: the home of a database, in answers to FIND, CLAIM and GIVE; ``None`` if it has none.
    :ivar refused: in answers to JOIN the databases of which another relay is the home.
    :ivar journal: in answers to CLAIM, if it has succeeded, what the former home has noted of the
        database, if that has not ended cleanly.
    """

    status: Status
    token: str
    is_ripe: bool
    records: dict[str, Record] | None = None
    home: Home | None = None
    refused: tuple[str, ...] = ()
    journal: tuple[bytes, ...] = ()


@dataclass(slots=True)
class _Sighting:
    counter: int
    since: float


@dataclass(slots=True)
class Member:
    """One relay of a cluster, as itself and the others see it.

    Commands that it returns are sent at once; their answers, if there are any, are given to
    :meth:`replied` with the time when they were sent. All times are monotonic seconds.

    :param make_id: returns a new id, never the same one.
    :param about: returns what to tell the others.
    :ivar id: its id, a new one after all was lost.
    :ivar homes: the epoch of each database whose home it is; it serves them while
        :meth:`is_trusted`.
    :ivar records: all relays, as they were seen last.
    :ivar highest: the highest epoch that it has heard of.
    :ivar trusted_until: the end of its lease.
    """

    timing: Timing
    make_id: Callable[[], str]
    about: Callable[[], str]
    id: str = ""
    homes: dict[str, int] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    highest: int = 0
    trusted_until: float = -math.inf
    _token: str | None = None
    _token_since: float = 0.0
    _seen_token: str | None = None
    _is_ripe: bool = False
    _counter: int = 1
    _renewed_at: float = -math.inf
    _sightings: dict[str, _Sighting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = self.make_id()

    def is_trusted(self, now: float) -> bool:
        """Return whether it may serve."""
        return now < self.trusted_until

    @property
    def has_joined(self) -> bool:
        """Whether the store is known to have its record."""
        return self._token is not None

    def epoch(self, database: str, now: float) -> int | None:
        """Return the epoch at which it serves *database*; ``None`` if it does not."""
        return self.homes.get(database) if now < self.trusted_until else None

    def lapsed(self, now: float) -> set[str]:
        """Give up the databases that others may have served meanwhile; returns them.

        That is so if its lease is over and the store has forgotten its record. Otherwise the record
        tells, when it is renewed, that nobody has buried it.
        """
        return self._lose() if self._token is None and not self.is_trusted(now) else set()

    # What to send

    def due(self, now: float) -> list[Command]:
        """Return what to send now; to be called each :attr:`Timing.tick`, after :meth:`lapsed`."""
        if self._token is None:
            return [self._join(now)]
        commands: list[Command] = []
        if now >= self._renewed_at + self.timing.renewal - self.timing.tick / 2:
            commands.append(self.renew(now))
        else:
            commands.append(Command(Verb.WATCH, self.id))
        if not self._is_ripe and now >= self._token_since + self.timing.silence:
            commands.append(Command(Verb.RIPEN, self.id, (self._token,)))
        for relay, seen in self._sightings.items():
            if relay != self.id and now >= seen.since + self.timing.silence:
                commands.append(Command(Verb.BURY, self.id, (relay, seen.counter)))
        return commands

    def renew(self, now: float) -> Command:
        """Return a renewal; also to be sent as soon as the store can be reached again."""
        self._renewed_at = now
        self._counter += 1
        return Command(Verb.RENEW, self.id, (self._counter, self.about()))

    def _join(self, now: float) -> Command:
        self._renewed_at = now
        self._counter += 1  # one that was sent before may be run without an answer
        homes = (each for home in self.homes.items() for each in home)
        about = self.about()
        return Command(Verb.JOIN, self.id, (self._counter, about, self.highest, *homes))

    def find(self, database: str) -> Command:
        """Return the question where the home of *database* is."""
        return Command(Verb.FIND, self.id, (database,))

    def claim(self, database: str) -> Command:
        """Return the wish to be the home of *database*, if no other relay is."""
        return Command(Verb.CLAIM, self.id, (database, self.highest))

    def release(self, database: str) -> Command | None:
        """Stop being the home of *database*; returns what to send."""
        epoch = self.homes.pop(database, None)
        return None if epoch is None else Command(Verb.RELEASE, self.id, (database, epoch))

    def give(self, database: str, relay: str) -> Command | None:
        """Stop being the home of *database*, so that another relay is; returns what to send."""
        epoch = self.homes.pop(database, None)
        return None if epoch is None else Command(Verb.GIVE, self.id, (database, epoch, relay))

    def note(self, database: str, records: list[bytes], anew: bool) -> Command | None:
        """Return records for the journal of *database*, whose home this relay is.

        :param anew: whether they replace all others.
        """
        epoch = self.homes.get(database)
        if epoch is None:
            return None
        return Command(Verb.NOTE, self.id, (database, epoch, int(anew), *records))

    def leave(self) -> Command:
        """Stop being a home; returns what to send."""
        left = self.id
        self._lose()
        return Command(Verb.LEAVE, left)

    # What has come back

    def replied(self, command: Command, sent_at: float, reply: Reply, now: float) -> set[str]:
        """Note the answer to a command; returns the databases whose home it is not any more.

        :param sent_at: when the command was sent.
        """
        if command.relay != self.id:
            return set()
        if command.verb is Verb.JOIN:
            if self._token is not None:
                return set()  # it was sent more than once
            lost = self._joined(sent_at, reply, now)
        elif reply.token != self._token:
            self._token = None  # the store has forgotten all: the homes are written there anew
            return set()
        elif reply.status is Status.GONE:
            return self._lose()  # it was buried
        else:
            lost = set()
        if command.verb is Verb.RENEW:
            self.trusted_until = max(self.trusted_until, sent_at + self.timing.trust)
        if reply.home is not None:
            self._note(command, reply.home)
        self._see(reply, now)
        return lost

    def _note(self, command: Command, home: Home) -> None:
        is_newest = home.epoch > self.highest
        self.highest = max(self.highest, home.epoch)
        if command.verb is Verb.CLAIM and home.relay == self.id and is_newest:
            self.homes[str(command.arguments[0])] = home.epoch

    def _joined(self, sent_at: float, reply: Reply, now: float) -> set[str]:
        lost = set(reply.refused) & self.homes.keys()
        for database in lost:
            del self.homes[database]
        if self.homes and not self.is_trusted(now):
            return lost | self._lose()
        self._token = reply.token
        self.trusted_until = max(self.trusted_until, sent_at + self.timing.trust)
        return lost

    def _see(self, reply: Reply, now: float) -> None:
        if reply.token != self._seen_token:
            self._seen_token, self._token_since = reply.token, now
            self._sightings.clear()
        self._is_ripe = reply.is_ripe
        if reply.records is None:
            return
        self.records = reply.records
        for relay, record in reply.records.items():
            seen = self._sightings.get(relay)
            if seen is None or record.counter != seen.counter:
                self._sightings[relay] = _Sighting(record.counter, now)
        for relay in self._sightings.keys() - reply.records.keys():
            del self._sightings[relay]

    def store_is_down(self, sent_at: float, now: float) -> None:
        """Note that no store ran when a connection was attempted: nobody can have claimed since.

        A store that is started later is not ripe before the time of silence has passed.

        :param sent_at: when the attempt began.
        """
        if self.is_trusted(now):
            self.trusted_until = max(self.trusted_until, sent_at + self.timing.trust)

    def heard_of(self, epoch: int, database: str) -> bool:
        """Note an epoch of another relay; returns whether it ends this relay's own."""
        self.highest = max(self.highest, epoch)
        own = self.homes.get(database)
        if own is None or own >= epoch:
            return False
        del self.homes[database]
        return True

    def _lose(self) -> set[str]:
        """Stop being a home, and become another relay; returns the databases."""
        lost = set(self.homes)
        self.homes.clear()
        self.trusted_until = -math.inf
        self._token = None
        self._counter = 1
        self._renewed_at = -math.inf
        self.id = self.make_id()
        return lost
