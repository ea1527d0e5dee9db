"""The relay does what its model does, whatever happens and in whatever order.

A few seconds try some hundred histories. To try many more, and see how many::

    HYPOTHESIS_PROFILE=thorough pytest tests/relay/test_model.py --hypothesis-show-statistics
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TypeVar

import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.errors import NotAPeer, NotFound
from acebase_ipc.relay.events import MessageDropped, RelayEvent, SessionExpired
from acebase_ipc.relay.peers import Peer, SessionState
from acebase_ipc.relay.store import ENTRY_SIZE, REFETCH_PERIOD
from tests.relay.core import MASTER, Core, Process, bye
from tests.relay.model import (
    CONTEST,
    MAX_BACKLOG,
    MAX_PAYLOAD,
    MAX_SESSION_QUEUE,
    TTL,
    Letter,
    Line,
    Member,
    Message,
    Model,
    Status,
)

DATABASES = ["one", "two"]
IDS = [MASTER, "worker1", "worker2", "reader1"]
HANDSHAKES = {
    "published": (Dialect.ACEBASE, True),
    "unknown": (Dialect.DOCUMENTED, False),
    "documented": (Dialect.DOCUMENTED, True),
}
SERIAL = re.compile(r"#(\w+)\|([^|]+)\|(\d+)#")

_T = TypeVar("_T")

databases = st.sampled_from(["one", "one", "one", "one", "two"])
ids = st.sampled_from([MASTER, *IDS])
handshakes = st.sampled_from(["published", "published", "published", "unknown", "documented"])
index = st.integers(0, 9)
"""Chooses one of those that can be chosen from."""


class RelayMachine(RuleBasedStateMachine):
    """Lets the same happen to a relay and to its model."""

    @initialize(
        session_timeout=st.sampled_from([15, 15, 15, 0]),
        introduce=st.sampled_from([True, True, False]),
        arrivals=st.lists(st.tuples(databases, ids, handshakes), max_size=5),
    )
    def begin(
        self, session_timeout: float, introduce: bool, arrivals: list[tuple[str, str, str]]
    ) -> None:
        self.core = Core(
            introduce,
            session_timeout=session_timeout,
            max_payload=MAX_PAYLOAD,
            max_backlog=MAX_BACKLOG,
            max_session_queue=MAX_SESSION_QUEUE,
            message_ttl=TTL,
        )
        self.model = Model(session_timeout, introduce)
        self.model.now = self.core.now
        self.processes: dict[Member, Process] = {}
        self.replaced: list[tuple[Process, Member]] = []
        self.checked: dict[Line, Process] = {}
        self.serial = 0
        self.heard: dict[tuple[str, str, str], int] = defaultdict(int)
        self.read: dict[Line, int] = defaultdict(int)
        self.letters: dict[tuple[str, str, str], Letter] = {}
        for arrival in [("one", MASTER, "published"), ("one", "worker1", "published"), *arrivals]:
            self.enter(*arrival)

    def members(self, *statuses: Status) -> list[Member]:
        members = [each for known in self.model.members.values() for each in known.values()]
        return [each for each in members if not statuses or each.status in statuses]

    def connected(self) -> list[Member]:
        return [each for each in self.members() if each.line]

    # Joining and leaving

    @rule(database=databases, client_id=ids, handshake=handshakes, holder_lives=st.booleans())
    def join(self, database: str, client_id: str, handshake: str, holder_lives: bool) -> None:
        if self.is_granted(database, client_id, holder_lives):
            self.enter(database, client_id, handshake)

    def is_granted(self, database: str, client_id: str, holder_lives: bool) -> bool:
        """Whether a newcomer may have the id; asks the holder, where that is due."""
        decisions: list[bool] = []
        request = Handshake(database, client_id, Dialect.DOCUMENTED, False)
        self.core.relay.sessions.check_conflict(
            request, "192.0.2.9:1", self.core.now, decisions.append
        )
        holder = self.model.of(database).get(client_id)
        until = self.model.contested.get((database, client_id), 0)
        has_line = holder and holder.line and holder.status is not Status.CUT
        if holder and has_line and until > self.core.now:
            assert decisions == []
            ((_, answer),) = self.processes[holder].connection.checks
            self.processes[holder].connection.checks.clear()
            answer(holder_lives)
            assert decisions == [not holder_lives]
        else:
            assert decisions == [True]
        return decisions[0]

    def enter(self, database: str, client_id: str, handshake: str) -> None:
        dialect, settled = HANDSHAKES[handshake]
        previous = self.model.of(database).get(client_id)
        if previous and previous.line:
            self.replaced.append((self.processes[previous], previous))
        acebase = dialect is Dialect.ACEBASE
        member = self.model.join(database, client_id, acebase, settled, self.core.wall)
        process = self.core.join(client_id, dialect, settled, database)
        process.connection.batching = True
        assert member.line
        member.line.flush()
        self.processes[member] = process
        self.checked[member.line] = process

    @rule(which=index, close_code=st.sampled_from([None, None, None, 1009, 1000, 1001]))
    def lose(self, which: int, close_code: int | None) -> None:
        member = pick(self.connected(), which)
        if member:
            self.end(member, close_code)

    def end(self, member: Member, close_code: int | None) -> None:
        self.model.lose(member, close_code)
        self.processes[member].is_lost(close_code)

    @rule(
        which=index,
        by=index,
        slow=st.booleans(),
        close_code=st.sampled_from([None, None, 1001]),
        sender_leaves=st.booleans(),
        seconds=st.sampled_from([0, 1, 15]),
        returns=st.booleans(),
    )
    def be_away(
        self,
        which: int,
        by: int,
        slow: bool,
        close_code: int | None,
        sender_leaves: bool,
        seconds: float,
        returns: bool,
    ) -> None:
        """A peer is slow or lost, is written to, and may return; its correspondent may leave."""
        member = pick(self.connected(), which)
        senders = [each for each in self.connected() if each is not member]
        sender = pick([each for each in senders if member and each.database == member.database], by)
        if not member or not sender:
            return
        if slow:
            self.stop_reading(member, 1)
        else:
            self.end(member, close_code)
        for addressee in (member.id, None, member.id):
            self.relay(sender, addressee, self.write(sender, "object", ""), False)
        if sender_leaves:
            self.end(sender, 1000)
        if slow:
            self.end(member, close_code)
        self.pass_time(seconds)
        if returns:
            self.enter(member.database, member.id, "published")

    @rule(which=index, close_code=st.sampled_from([None, 4001]))
    def end_replaced(self, which: int, close_code: int | None) -> None:
        """The connection of a replaced process ends at last."""
        if not self.replaced:
            return
        process, member = self.replaced.pop(which % len(self.replaced))
        is_there = self.model.of(member.database).get(member.id) is member
        if close_code and is_there and member.status is not Status.CUT:
            self.model.contested[member.database, member.id] = self.core.now + CONTEST
        if member.status is Status.CUT and is_there:
            self.model.end_all()  # the end of any connection ends all sessions that are ending
        process.is_lost(close_code)

    @rule(keeps_connections=st.booleans())
    def restart(self, keeps_connections: bool) -> None:
        """Another relay goes on with the state of this one."""
        self.replaced.clear()
        if not keeps_connections:
            for member in self.connected():
                self.end(member, 1012)
        self.model.go_on()
        self.core.restart(keeps_connections)

    # Messages

    @rule(
        which=index,
        addressee=st.sampled_from([None, None, "all", MASTER, MASTER, MASTER, *IDS, "nobody"]),
        kind=st.sampled_from(["text", "object", "envelope"] * 3 + ["bye", "foreign bye"]),
        padding=st.sampled_from(["", "x" * 30, "读" * 40, "x" * 200, "读" * 200, "😀" * 100]),
        posted=st.booleans(),
        times=st.integers(1, 4),
    )
    def say(
        self,
        which: int,
        addressee: str | None,
        kind: str,
        padding: str,
        posted: bool,
        times: int,
    ) -> None:
        member = pick(self.members(), which)
        for _ in range(times if member else 0):
            assert member
            body = self.write(member, kind, padding)
            self.relay(member, addressee, body, posted or len(padding) >= 100)

    def write(self, member: Member, kind: str, padding: str) -> str:
        """A message that can be told from all others, unless it is a goodbye."""
        self.serial += 1
        mark = f"#{member.database}|{member.id}|{self.serial}#{padding}"
        return {
            "text": mark,
            "object": f'{{"x":"{mark}"}}',
            "envelope": f'{{"type":"event","from":"{member.id}","data":"{mark}"}}',
            "bye": bye(member.id),
            "foreign bye": bye(f"not-{member.id}"),
        }[kind]

    def relay(self, member: Member, addressee: str | None, body: str, posted: bool) -> None:
        posted = posted or not member.line
        process = self.processes[member]
        message = body if addressee is None else f"to:{addressee};{body}"
        self.model.relay(member, None if addressee == "all" else addressee, body, posted)
        (process.posts if posted else process.says)(message)

    @rule(which=index)
    def ping(self, which: int) -> None:
        member = pick(self.members(), which)
        if not member:
            return
        self.model.send(member, "pong")
        process = self.processes[member]
        (process.says if member.line else process.posts)("ping")

    @rule(which=index)
    def download(self, which: int) -> None:
        key = pick(list(self.letters), which)
        if not key:
            return
        database, client_id, announcement = key
        letter = self.letters[key]
        process = next(
            each
            for each in self.processes.values()
            if (each.peer.database.name, each.peer.client_id) == (database, client_id)
        )
        if letter in self.model.letters and client_id in letter.waiting:
            letter.fetched.setdefault(client_id, self.model.now + REFETCH_PERIOD)
            assert process.downloads(announcement) == letter.body
        else:
            with pytest.raises(NotFound):
                process.downloads(announcement)

    # Connections and the clock

    @rule(which=index, unsent=st.sampled_from([0, 0, 1, 500, MAX_BACKLOG]))
    def congest_or_drain(self, which: int, unsent: int) -> None:
        member = pick(self.members(Status.READING, Status.FULL), which)
        if not member:
            return
        if member.status is Status.READING:
            self.stop_reading(member, unsent)
        else:
            self.read_on(member)

    def stop_reading(self, member: Member, unsent: int) -> None:
        if member.status is Status.READING and member.line:
            member.status, member.line.unsent = Status.FULL, unsent
            self.processes[member].stops_reading(unsent)

    def read_on(self, member: Member) -> None:
        assert member.line
        member.status, member.line.unsent = Status.READING, 0
        self.model.drain(member)
        self.processes[member].reads_on()

    @rule()
    def end_turn(self) -> None:
        """All connections write what they have taken."""
        for member in self.connected():
            assert member.line
            member.line.flush()
            self.processes[member].connection.flush()

    @rule(seconds=st.sampled_from([0, 1, 14, 15, 15, 59]))
    def pass_time(self, seconds: float) -> None:
        self.model.expire(self.core.now + seconds)
        self.core.wait(seconds)

    # What has to be true at any time

    @invariant()
    def everybody_hears_exactly_what_the_model_says(self) -> None:
        for line, process in list(self.checked.items()):
            texts = process.connection.texts
            expected = line.written + line.taken
            assert len(texts) == len(expected), (process.peer.client_id, texts, expected)
            for text, message in zip(texts, expected, strict=True):
                self.compare(process, text, message)
            if process.connection.closed or process.connection.aborted:
                del self.checked[line]

    def compare(self, process: Process, text: str, message: Message) -> None:
        if isinstance(message, str):
            assert text == message
        else:
            assert text.startswith("get:")
            key = process.peer.database.name, process.peer.client_id, text
            assert self.letters.setdefault(key, message) is message

    @invariant()
    def what_arrives_is_of_that_database_in_order_and_never_twice(self) -> None:
        for member in self.connected():
            assert member.line
            written = self.processes[member].connection.written
            for text in written[self.read[member.line] :]:
                for database, sender, serial in SERIAL.findall(text):
                    assert database == member.database
                    assert int(serial) > self.heard[database, sender, member.id]
                    self.heard[database, sender, member.id] = int(serial)
            self.read[member.line] = len(written)

    @invariant()
    def queues_are_within_their_bounds(self) -> None:
        for member in self.members():
            peer = self.processes[member].peer
            if peer.connection and not peer.connection.is_full:
                assert not peer.queue
            elif peer.connection and len(peer.queue) > 1:
                assert peer.queue.memory + peer.connection.unsent <= MAX_BACKLOG
            elif peer.state is SessionState.SUSPENDED and len(peer.queue) > 1:
                assert peer.queue.memory <= MAX_SESSION_QUEUE
            waiting = peer.database.awaiting_master
            assert len(waiting) <= 1 or waiting.memory <= MAX_SESSION_QUEUE
        stored = sum(
            len(each.body.encode()) + len(each.waiting) * ENTRY_SIZE
            for each in self.model.letters
            if each.waiting
        )
        assert self.core.relay.store.stored == stored

    @invariant()
    def the_relay_knows_who_is_there(self) -> None:
        for database in DATABASES:
            known = self.model.of(database)
            assert [(e.id, e.connected) for e in self.core.relay.registry.clients(database)] == [
                (each.id, each.connected)
                for each in known.values()
                if each.line and each.status is not Status.CUT
            ]
            for client_id in IDS:
                member = known.get(client_id)
                peer = self.processes[member].peer if member else None
                assert self.find(database, client_id) is peer

    def find(self, database: str, client_id: str) -> Peer | None:
        try:
            return self.core.relay.registry.peer(database, client_id)
        except NotAPeer:
            return None

    def teardown(self) -> None:
        if hasattr(self, "core"):
            for kind in {describe(report) for report in self.core.reports}:
                event(kind)


def describe(report: RelayEvent) -> str:
    """What to count an event as."""
    reason = f" {report.reason.name}" if isinstance(report, MessageDropped | SessionExpired) else ""
    return type(report).__name__ + reason


def pick(choices: list[_T], which: int) -> _T | None:
    """One of the *choices*, if there are any."""
    return choices[which % len(choices)] if choices else None


TestRelayModel = RelayMachine.TestCase
