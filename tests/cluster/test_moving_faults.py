"""A move of a database that is disturbed: either relay keeps the state. In memory, with a Clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from acebase_ipc.cluster.handshake import ACCEPTED, Ticket
from acebase_ipc.cluster.leases import Command, Reply, Timing, Verb
from acebase_ipc.cluster.link_server import LinkFactory, LinkServer
from acebase_ipc.cluster.links import Link, LinkFailed, Links
from acebase_ipc.cluster.node import Node
from acebase_ipc.cluster.placement import About
from acebase_ipc.cluster.store import StoreFailed
from acebase_ipc.relay.relay import Relay
from acebase_ipc.server.moving import Moving
from acebase_ipc.server.state_codec import encode
from tests.cluster.model_store import ModelStore
from tests.relay.core import DATABASE, Core

TIMING = Timing(2.0)

SECRET = b"a secret of the tests"

TIMEOUT = 1.0
"""Seconds in which the other relay has to answer."""


class Target:
    """Takes a state, and answers the word that it is given as it is told.

    :ivar verdict: fires with whether it serves the database.
    """

    max_state = 1 << 20

    def __init__(self) -> None:
        self.verdict: Deferred[bool] = Deferred()

    def arrived(self, database: str, state: bytes) -> bool:
        return True

    def given(self, database: str) -> Deferred[bool]:
        return self.verdict

    def not_given(self, database: str) -> None:
        """Forget nothing: nothing was kept."""


class Move:
    """Both ends of a link, over which a state is sent.

    :ivar outcome: what :attr:`Link.verdict` has fired with.
    """

    def __init__(self, state: bytes = b"its state") -> None:
        self.clock = Clock()
        self.target = Target()
        self.outcome: list[Any] = []
        links = Links(SECRET, self.clock, None, TIMEOUT)
        self.link = Link(SECRET, Ticket(DATABASE, 1, size=len(state)), state, links)
        self.link.verdict.addBoth(self.outcome.append)
        factory = LinkFactory(
            SECRET,
            lambda ticket: succeed(False),
            lambda peer: [],
            self.target,
            Factory(),
            lambda address, reason: None,
            self.clock,
        )
        self.server = LinkServer()
        self.server.factory = factory
        self.ends = StringTransport(), StringTransport()
        self.link.makeConnection(self.ends[0])
        self.server.makeConnection(self.ends[1])

    def exchange(self, most: int = 100) -> None:
        """Let both ends receive what the other one sends, in at most so many steps."""
        ends: tuple[Any, Any] = self.link, self.server
        for step in range(2 * most):
            sender, receiver = self.ends[step % 2], ends[1 - step % 2]
            if sender.producer is not None:
                sender.producer.resumeProducing()
            data = sender.value()
            sender.clear()
            if data:
                receiver.dataReceived(data)

    def give(self) -> None:
        """Tell the target that the database is given to it."""
        self.outcome.clear()
        self.link.given().addBoth(self.outcome.append)

    def assert_failed(self) -> None:
        """Check that the link tells, as it is to, that it has failed."""
        (failure,) = self.outcome
        assert failure.check(LinkFailed), failure


def test_a_target_that_ends_while_the_database_is_given_to_it_is_noticed() -> None:
    move = Move()
    move.exchange()
    assert move.outcome == [ACCEPTED]
    move.link.connectionLost(Failure(ConnectionLost()))
    move.give()
    move.assert_failed()


def test_a_target_that_does_not_answer_any_more_is_given_up() -> None:
    move = Move()
    move.exchange()
    move.clock.advance(10 * TIMEOUT)  # the store takes long
    move.give()
    move.clock.advance(TIMEOUT - 0.1)
    assert move.outcome == []
    move.clock.advance(0.2)
    move.assert_failed()


def test_a_target_has_time_for_a_state_only_while_it_takes_more_of_it() -> None:
    move = Move(bytes(1 << 20))
    for _ in range(5):
        move.exchange(2)
        move.clock.advance(TIMEOUT - 0.1)
    assert move.outcome == []
    move.clock.advance(0.2)
    move.assert_failed()


def test_the_first_relay_learns_that_taking_over_has_failed() -> None:
    move = Move()
    move.exchange()
    move.give()
    move.exchange(1)
    move.target.verdict.errback(RuntimeError("what nobody expects"))
    move.exchange(1)
    move.assert_failed()
    assert move.ends[1].disconnecting


class Unreliable:
    """A store that fails as long as it is told.

    :ivar fails: tells whether it fails to run a command.
    """

    def __init__(self, model: ModelStore) -> None:
        self.model = model
        self.fails: Callable[[Command], bool] = lambda command: False

    def run(self, command: Command) -> Deferred[Reply]:
        if self.fails(command):
            return fail(StoreFailed("a hiccup"))
        return succeed(self.model.run(command))

    def close(self) -> None:
        """There is no connection."""


class Noted:
    """What a node tells its relay.

    :ivar adopted: the states that it goes on with.
    """

    def __init__(self) -> None:
        self.adopted: list[bytes] = []

    def suspend(self) -> None:
        """There is no connection."""

    def claimed(self, database: str, journal: tuple[bytes, ...]) -> None:
        """There is no journal."""

    def write_journals(self, databases: Iterable[str] | None) -> None:
        """There is no journal."""

    def adopt(self, database: str, state: bytes) -> None:
        self.adopted.append(state)

    def lost(self, databases: Iterable[str]) -> None:
        """There is no connection."""


class Relays:
    """Two nodes; the first one is the home of the database."""

    def __init__(self) -> None:
        self.clock = Clock()
        model = ModelStore()
        self.stores = Unreliable(model), Unreliable(model)
        self.noted = Noted(), Noted()
        self.nodes = self._node(0), self._node(1)
        for each in self.nodes:
            each.start()
        self.pass_time(TIMING.lease)
        self.nodes[0].run(self.nodes[0].member.claim(DATABASE))
        assert self.nodes[0].may_serve(DATABASE)

    def _node(self, number: int) -> Node:
        ids = iter(f"{number}-{each}" for each in range(9))
        about = About(f"192.0.2.{number}:1")
        return Node(
            TIMING,
            self.stores[number],
            lambda: next(ids),
            lambda: about,
            self.noted[number],
            self.clock,
            self.clock.seconds,
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass in small steps."""
        self.clock.pump([TIMING.tick / 2] * round(2 * seconds / TIMING.tick))

    def give(self) -> None:
        """Give the database to the second one, which has its state."""
        first, second = self.nodes
        assert second.arrived(DATABASE, b"its state")
        Deferred.fromCoroutine(first.give(DATABASE, second.member.id))

    def given(self) -> list[bool]:
        """Let the second one serve it; returns what that finds out, later."""
        found: list[bool] = []
        Deferred.fromCoroutine(self.nodes[1].given(DATABASE)).addCallback(found.append)
        return found

    def taken_back(self) -> list[bool]:
        """Let the first one serve it again; returns what that finds out, later."""
        found: list[bool] = []
        Deferred.fromCoroutine(self.nodes[0].take_back(DATABASE)).addCallback(found.append)
        return found


@pytest.fixture
def two() -> Relays:
    """Two relays."""
    return Relays()


def test_the_first_relay_takes_back_what_it_gave_to_one_that_was_killed(two: Relays) -> None:
    two.give()
    two.nodes[1]._ticking.stop()  # it was killed
    found = two.taken_back()
    assert found == []
    two.pass_time(TIMING.lease)
    assert found == [True]
    assert two.nodes[0].may_serve(DATABASE)


def test_the_first_relay_forgets_what_another_one_serves(two: Relays) -> None:
    two.give()
    assert two.given() == [True]
    found = two.taken_back()
    two.pass_time(1.1 * TIMING.lease)
    assert found == [False]
    assert two.noted[1].adopted == [b"its state"]


def test_a_hiccup_of_the_store_does_not_make_the_first_relay_forget(two: Relays) -> None:
    two.stores[0].fails = lambda command: command.verb in (Verb.GIVE, Verb.CLAIM)
    two.give()
    found = two.taken_back()
    two.pass_time(TIMING.lease / 4)
    assert found == []
    two.stores[0].fails = lambda command: False
    two.pass_time(2 * TIMING.tick)
    assert found == [True]
    assert two.nodes[0].may_serve(DATABASE)


def test_a_hiccup_of_the_store_does_not_make_the_second_relay_forget(two: Relays) -> None:
    two.give()
    two.stores[1].fails = lambda command: command.verb is Verb.CLAIM
    found = two.given()
    two.pass_time(TIMING.lease / 4)
    assert found == []
    two.stores[1].fails = lambda command: False
    two.pass_time(2 * TIMING.tick)
    assert found == [True]
    assert two.nodes[1].may_serve(DATABASE)
    assert two.noted[1].adopted == [b"its state"]


def test_a_relay_does_not_go_on_with_a_state_after_it_was_buried(two: Relays) -> None:
    two.give()
    two.stores[0].model.run(Command(Verb.LEAVE, two.nodes[1].member.id))
    assert two.given() == [False]
    assert two.noted[1].adopted == []


def test_a_store_that_stays_away_is_given_up(two: Relays) -> None:
    two.give()
    two.stores[1].fails = lambda command: True
    found = two.given()
    two.pass_time(1.1 * TIMING.lease)
    assert found == [False]


def test_a_state_that_was_forgotten_meanwhile_is_not_missed(two: Relays) -> None:
    two.give()
    two.stores[1].fails = lambda command: command.verb is Verb.CLAIM
    found = two.given()
    two.nodes[1].not_given(DATABASE)  # another link with the same database has ended
    two.stores[1].fails = lambda command: False
    two.pass_time(2 * TIMING.tick)
    assert found == [True]
    assert two.noted[1].adopted == []


class SlowLinks:
    """Links to relays that take their time, then take no state."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[Link]] = []

    def send_state(self, address: str, ticket: Ticket, state: bytes) -> Deferred[Link]:
        self.waiting.append(Deferred())
        return self.waiting[-1]


def moving(two: Relays, relay: Relay, links: Any) -> Moving:
    """What moves the databases of the first relay."""
    return Moving(relay, two.nodes[0], links, lambda *_: None, two.clock, two.clock.seconds)


def test_a_second_move_waits_for_the_first_one(two: Relays) -> None:
    core, links = Core(), SlowLinks()
    mover = moving(two, core.relay, links)
    first = Deferred.fromCoroutine(mover.move_all())
    second = Deferred.fromCoroutine(mover.move_all())
    two.pass_time(0.2)
    assert len(links.waiting) == 1
    links.waiting[0].errback(LinkFailed("it is full"))
    assert first.called
    two.pass_time(0.2)
    assert len(links.waiting) == 2
    assert not two.nodes[0].may_serve(DATABASE), "the second one has sealed it"
    links.waiting[1].errback(LinkFailed("it is full"))
    assert second.called
    assert two.nodes[0].may_serve(DATABASE)
    assert two.nodes[0].may_admit(DATABASE)


class LostLinks:
    """Links to a relay that is killed as soon as it has a state."""

    async def send_state(self, address: str, ticket: Ticket, state: bytes) -> LostLinks:
        return self

    def given(self) -> Deferred[bytes]:
        return fail(LinkFailed("it has closed the connection"))


def test_a_database_goes_on_here_if_its_target_is_killed(two: Relays) -> None:
    two.nodes[1]._ticking.stop()
    moved = Deferred.fromCoroutine(moving(two, Core().relay, LostLinks()).move_all())
    assert two.stores[0].model.homes[DATABASE].relay == two.nodes[1].member.id
    assert not two.nodes[0].may_admit(DATABASE)
    two.pass_time(TIMING.lease)
    assert moved.called
    assert two.nodes[0].may_admit(DATABASE)


def test_a_state_that_cannot_be_used_leaves_nothing_behind(
    two: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, other = Core(), Core()
    other.join("12345")
    state = encode(other.relay.export(other.now))

    def fails(*values: Any) -> None:
        raise ValueError("malformed")

    monkeypatch.setattr(core.relay.sessions, "adopt", fails)
    with pytest.raises(ValueError, match="malformed"):
        moving(two, core.relay, None).adopt(DATABASE, state)
    assert core.relay.registry.databases == {}
