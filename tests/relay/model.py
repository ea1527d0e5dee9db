"""What a relay has to do, told a second time: plainly, and with texts for frames.

Each peer has one list of what it still has to be sent, and one of what its
connection has taken. There is no speed and no input or output here; whoever
compares the relay with this model sees to it that the same happens to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from tests.relay.core import MASTER, bye, hello, memory_of

MAX_PAYLOAD = 200
MAX_BACKLOG = 1500
MAX_SESSION_QUEUE = 1200
TTL = 60.0
OVERHEAD = memory_of("")
CONTEST = 60.0


@dataclass(eq=False)
class Letter:
    """A large message that waits to be downloaded."""

    database: str
    body: str
    waiting: set[str]
    expires: float
    fetched: dict[str, float] = field(default_factory=dict)


Message = str | Letter
"""What a peer hears: a text, or the announcement of a letter."""

Entry = tuple[Message, "Member | None"]
Queue = list[Entry]
"""What waits, each message with the member that addressed it."""


@dataclass(eq=False)
class Line:
    """What one connection has been sent.

    :ivar taken: what it could still give back.
    :ivar written: what it could not.
    :ivar unsent: the bytes that fill it.
    """

    taken: list[Message] = field(default_factory=list)
    written: list[Message] = field(default_factory=list)
    unsent: int = 0

    def flush(self) -> None:
        self.written += self.taken
        self.taken = []


class Status(Enum):
    """What becomes of a message for a member."""

    READING = auto()
    FULL = auto()
    AWAY = auto()
    CUT = auto()


@dataclass(eq=False)
class Member:
    """A peer as the contract sees it; *line* is ``None`` while it has no connection."""

    database: str
    id: str
    acebase: bool
    settled: bool
    line: Line | None
    connected: int
    status: Status = Status.READING
    said_bye: bool = False
    waiting: Queue = field(default_factory=list)
    session_until: float = 0.0
    swept_to: int = 0
    gone: bool = False

    @property
    def is_greeted(self) -> bool:
        return self.acebase and not self.said_bye


def size_of(message: Message) -> int:
    """The bytes that a message occupies; a letter's id has 32 characters."""
    return memory_of(message if isinstance(message, str) else "get:" + "i" * 32)


def total(queue: Queue) -> int:
    """The bytes that wait."""
    return sum(size_of(message) for message, _ in queue)


def may_be_held(queue: Queue) -> bool:
    """Whether so much may wait for one who is away."""
    return len(queue) <= 1 or total(queue) <= MAX_SESSION_QUEUE


def units(text: str) -> int:
    """The length of *text* in JavaScript."""
    return sum(2 if ord(character) > 0xFFFF else 1 for character in text)


def without_gone(queue: Queue) -> Queue:
    """What members have addressed that are not gone, and what nobody has addressed."""
    return [each for each in queue if not each[1] or not each[1].gone]


def absent_master(database: str) -> Member:
    """Holds what is addressed to a master that is not there."""
    return Member(database, MASTER, True, True, None, 0)


class Model:
    """All databases, their members, and what waits."""

    def __init__(self, session_timeout: float, introduce: bool) -> None:
        self.session_timeout = session_timeout
        self.introduce = introduce
        self.now = 0.0
        self.members: dict[str, dict[str, Member]] = {}
        self.for_master: dict[str, Member] = {}
        self.letters: list[Letter] = []
        self.suspended: list[Member] = []
        self.ending: list[Member] = []
        self.contested: dict[tuple[str, str], float] = {}

    def of(self, database: str) -> dict[str, Member]:
        return self.members.setdefault(database, {})

    def others(self, member: Member) -> list[Member]:
        return [each for each in self.of(member.database).values() if each is not member]

    # How a message reaches one member

    def send(self, member: Member, message: Message, addressed_by: Member | None = None) -> None:
        entry = message, addressed_by
        if member.status is Status.READING and member.line:
            member.line.taken.append(message)
        elif member.status is Status.FULL and member.line:
            taken = sum(size_of(each) - OVERHEAD for each in member.line.taken)
            unsent = total(member.waiting) + member.line.unsent + taken
            if unsent and unsent + size_of(message) > MAX_BACKLOG:
                self.cut(member)
                member.line.taken = []
            else:
                member.waiting.append(entry)
        elif member.status is Status.AWAY and self.make_room(member, entry):
            member.waiting.append(entry)
        else:
            self.cut(member)
            if addressed_by and self.is_outlived(member):
                self.hold_for_master(member.database, entry)

    def cut(self, member: Member) -> None:
        """*member* hears nothing more, and leaves when the sessions are next looked through."""
        if member.status is not Status.CUT:
            member.status = Status.CUT
            self.ending.append(member)

    def is_outlived(self, member: Member) -> bool:
        """Whether what is addressed to a member waits for its successor."""
        return member.id == MASTER and member.acebase and self.session_timeout > 0

    def make_room(self, member: Member, entry: Entry) -> bool:
        """Whether *entry* may wait; if not, after what gone members addressed is dropped."""
        if may_be_held([*member.waiting, entry]):
            return True
        if member.swept_to > MAX_SESSION_QUEUE - MAX_SESSION_QUEUE // 16:
            return False
        member.waiting = without_gone(member.waiting)
        member.swept_to = total(member.waiting)
        return may_be_held([*member.waiting, entry])

    def hold_for_master(self, database: str, entry: Entry) -> None:
        absent = self.for_master.setdefault(database, absent_master(database))
        if not self.make_room(absent, entry):
            absent.waiting, absent.swept_to = [], 0
        absent.waiting.append(entry)

    def tell_others(self, member: Member, text: str) -> None:
        for other in self.others(member):
            self.send(other, text)

    def drain(self, member: Member) -> None:
        waiting, member.waiting = member.waiting, []
        for message, addressed_by in waiting:
            self.send(member, message, addressed_by)

    def take_back(self, member: Member) -> None:
        """What the connection has not written waits again; who addressed it is forgotten."""
        if member.line:
            member.waiting[:0] = [(message, None) for message in member.line.taken]
            member.line.taken = []

    # Joining and leaving

    def join(
        self, database: str, client_id: str, acebase: bool, settled: bool, wall: int
    ) -> Member:
        previous = self.of(database).get(client_id)
        if previous:
            self.take_back(previous)
            if (
                previous.is_greeted
                and previous.status is not Status.CUT
                and (acebase or not settled)
            ):
                self._return(previous, wall)
                return previous
            self.leave(previous)
        member = Member(database, client_id, acebase, settled, Line(), wall)
        self.of(database)[client_id] = member
        self.send(member, f'welcome:{{"maxPayload":{MAX_PAYLOAD}}}')
        self.tell_others(member, f"connect:{client_id}")
        self.greet(member)
        if client_id == MASTER and database in self.for_master:
            for message, addressed_by in without_gone(self.for_master.pop(database).waiting):
                if isinstance(message, str) and message.startswith("{") and not acebase:
                    message = f"msg:{message}"
                self.send(member, message, addressed_by)
        return member

    def _return(self, member: Member, wall: int) -> None:
        if member in self.suspended:
            self.suspended.remove(member)
        waiting, member.waiting = member.waiting, []
        member.line, member.status, member.connected = Line(), Status.READING, wall
        self.send(member, f'welcome:{{"maxPayload":{MAX_PAYLOAD}}}')
        if member.id == MASTER:
            self.tell_others(member, f"disconnect:{MASTER}")
            self.tell_others(member, f"connect:{MASTER}")
            self.greet(member)
        member.swept_to = 0
        for message, addressed_by in without_gone(waiting):
            self.send(member, message, addressed_by)

    def greet(self, member: Member) -> None:
        if self.introduce and member.is_greeted:
            for other in self.others(member):
                if other.is_greeted:
                    self.send(other, hello(member.id))
                    self.send(member, hello(other.id))

    def lose(self, member: Member, close_code: int | None) -> None:
        if member.gone:
            return
        self.take_back(member)
        if (
            self.session_timeout > 0
            and member.is_greeted
            and close_code not in (1000, 1001)
            and member.status is not Status.CUT
            and may_be_held(member.waiting)
        ):
            member.line, member.status = None, Status.AWAY
            member.session_until = self.now + self.session_timeout
            self.suspended.append(member)
        else:
            if member not in self.ending:
                self.ending.append(member)
            self.end_all()

    def end_all(self) -> None:
        """End the sessions that are ending, and those that end because they are told of it."""
        while self.ending:
            over = self.ending.copy()
            for member in over:
                self.depart(member)
            for member in over:
                self.tell_others(member, f"disconnect:{member.id}")

    def leave(self, member: Member) -> None:
        self.depart(member)
        self.tell_others(member, f"disconnect:{member.id}")

    def depart(self, member: Member) -> None:
        """Forget *member*; the others are not told yet."""
        database, known = member.database, self.of(member.database)
        del known[member.id]
        if member in self.suspended:
            self.suspended.remove(member)
        if member in self.ending:
            self.ending.remove(member)
        if (
            self.is_outlived(member)
            and member.status is not Status.CUT
            and may_be_held(member.waiting)
        ):
            addressed = [each for each in without_gone(member.waiting) if each[1]]
            absent = self.for_master.setdefault(database, absent_master(database))
            absent.waiting.extend(addressed)
        member.gone = True
        if not known:
            self.for_master.pop(database, None)
        for letter in self.letters:
            if letter.database == database:
                letter.waiting.discard(member.id)

    def expire(self, now: float) -> None:
        self.now = now
        self.letters = [each for each in self.letters if each.expires > now]
        for letter in self.letters:
            letter.waiting -= {each for each, until in letter.fetched.items() if until <= now}
        over = [e for e in self.suspended if e.session_until <= now]
        self.ending += [each for each in over if each not in self.ending]
        self.end_all()

    def go_on(self) -> None:
        """Another relay goes on: it does not know of those that are gone."""
        self.end_all()
        for member in [each for known in self.members.values() for each in known.values()]:
            member.waiting, member.swept_to = without_gone(member.waiting), 0
        for absent in self.for_master.values():
            absent.waiting, absent.swept_to = without_gone(absent.waiting), 0

    # Messages

    def relay(self, sender: Member, addressee: str | None, body: str, posted: bool) -> None:
        """Relay *body* to *addressee*, or to all if that is ``None``."""
        own = f'"from":"{sender.id}"' in body
        if not sender.settled and body.startswith('{"type":"') and own:
            sender.acebase = sender.settled = True
            self.greet(sender)
        if sender.acebase and body.startswith('{"type":"bye"'):
            if body != bye(sender.id):
                return
            sender.said_bye = sender.said_bye or addressee is None
        if addressee is None:
            recipients = self.others(sender)
        else:
            recipients = [
                each for each in self.of(sender.database).values() if each.id == addressee
            ]
        letter = None
        if posted and units(body) > MAX_PAYLOAD:
            ids = {each.id for each in recipients if not each.acebase}
            letter = Letter(sender.database, body, ids, self.now + TTL)
            self.letters.append(letter)
        by = None if addressee is None or sender.id == MASTER else sender
        for recipient in recipients:
            if recipient.acebase:
                self.send(recipient, body if body.startswith("{") else f"msg:{body}", by)
            else:
                self.send(recipient, letter or f"msg:{body}", by)
        if addressee == MASTER and not recipients and sender.acebase and self.session_timeout > 0:
            message = body if body.startswith("{") else f"msg:{body}"
            self.hold_for_master(sender.database, (message, sender))
