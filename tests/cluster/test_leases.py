"""Leases and epochs: never two homes that accept a message, and epochs only rise."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebase_ipc.cluster.leases import Command, Member, Reply, Timing
from tests.cluster.model_store import ModelStore

TIMING = Timing(2.0)
DATABASES = st.sampled_from(["shop", "blog"])
SKEW = 0.06
"""How much faster or slower than the true time a clock runs at most."""

_numbers = count(1)


def make_member(timing: Timing = TIMING) -> Member:
    return Member(timing, lambda: f"r{next(_numbers)}", lambda: "about")


@dataclass
class Machine:
    """A relay with a clock of its own."""

    rate: float
    offset: float
    member: Member = field(default_factory=make_member)

    def clock(self, true: float) -> float:
        return self.offset + self.rate * true


@dataclass
class Flight:
    """A command on its way to the store, or its answer on the way back."""

    machine: Machine
    member: Member
    command: Command
    sent_at: float
    reply: Reply | None = None


class Cluster(RuleBasedStateMachine):
    """Three relays that want two databases, a store, and a network that delays and loses.

    :ivar cut: the relays that nothing reaches or leaves.
    :ivar frozen: the relays that do nothing; what arrives waits.
    :ivar late: what is on its way for long: it may arrive in any order, or never.
    """

    @initialize(fastest=st.integers(0, 2), slowest=st.integers(0, 2))
    def begin(self, fastest: int, slowest: int) -> None:
        self.now = 0.0
        self.machines = [Machine(1.0, 1000.0 * i) for i in range(3)]
        self.machines[fastest].rate = 1 + SKEW
        self.machines[slowest].rate = 1 - SKEW
        self.store = ModelStore()
        self.is_up = True
        self.flights: list[Flight] = []
        self.late: list[Flight] = []
        self.cut: set[int] = set()
        self.frozen: set[int] = set()
        self.refused: list[tuple[Machine, Member, float]] = []
        self.accepted: dict[tuple[str, int], Member] = {}
        self.last: dict[str, int] = {}
        self.time_passes(50)

    def send(self, machine: Machine, command: Command | None) -> None:
        if command is not None:
            now = machine.clock(self.now)
            self.flights.append(Flight(machine, machine.member, command, now))

    def arrive(self, flight: Flight) -> Flight | None:
        """Move a command one step on: to the store, or back; returns it if it goes on."""
        if flight.reply is None:
            if self.is_up:
                flight.reply = self.store.run(flight.command)
                return flight
        elif flight.member is flight.machine.member:
            now = flight.machine.clock(self.now)
            flight.member.replied(flight.command, flight.sent_at, flight.reply, now)
            self.check()
        return None

    def all_arrive(self) -> None:
        flights, self.flights = self.flights, []
        for flight in flights:
            index = self.machines.index(flight.machine)
            if flight.reply is not None and index in self.frozen:
                self.flights.append(flight)
            elif index not in self.cut and (onward := self.arrive(flight)) is not None:
                self.flights.append(onward)

    @rule(ticks=st.sampled_from([1, 2, 4, 8, 16, 20, 34]))
    def time_passes(self, ticks: int) -> None:
        """The relays do what is due, and claim what they do not serve, in turn."""
        for _ in range(ticks):
            for index, machine in enumerate(self.machines):
                if index in self.frozen:
                    continue
                member, now = machine.member, machine.clock(self.now)
                member.lapsed(now)
                for command in member.due(now):
                    self.send(machine, command)
                if not self.is_up and index not in self.cut:
                    member.store_is_down(now, now)
                for database in ("shop", "blog"):
                    if member.epoch(database, now) is None:
                        self.send(machine, member.claim(database))
            self.all_arrive()
            self.now += 0.01
            self.all_arrive()
            self.now += TIMING.tick - 0.01
            self.check()

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0]))
    def nothing_happens(self, seconds: float) -> None:
        self.now += seconds

    @rule(index=st.integers(0, 2))
    def cut_or_mend(self, index: int) -> None:
        self.cut ^= {index}

    @rule(index=st.integers(0, 2))
    def freeze_or_thaw(self, index: int) -> None:
        self.frozen ^= {index}

    @rule(index=st.integers(0, 2), database=DATABASES)
    def release(self, index: int, database: str) -> None:
        machine = self.machines[index]
        self.send(machine, machine.member.release(database))

    @rule(index=st.integers(0, 2), other=st.integers(0, 2), database=DATABASES)
    def give(self, index: int, other: int, database: str) -> None:
        machine = self.machines[index]
        self.send(machine, machine.member.give(database, self.machines[other].member.id))

    @rule(index=st.integers(0, 2), database=DATABASES)
    def claims_once_more(self, index: int, database: str) -> None:
        machine = self.machines[index]
        self.send(machine, machine.member.claim(database))

    @rule(to_store=st.booleans())
    def all_are_delayed(self, to_store: bool) -> None:
        if to_store:
            for machine in self.machines:
                for command in machine.member.due(machine.clock(self.now)):
                    self.send(machine, command)
        self.late += self.flights
        self.flights = []

    @rule(data=st.data())
    def one_arrives_late(self, data: st.DataObject) -> None:
        if self.late:
            flight = data.draw(st.sampled_from(self.late))
            self.late.remove(flight)
            onward = self.arrive(flight)
            if onward is not None:
                self.late.append(onward)

    @rule(index=st.integers(0, 2), leaves=st.booleans())
    def relay_restarts(self, index: int, leaves: bool) -> None:
        machine = self.machines[index]
        if leaves:
            self.send(machine, machine.member.leave())
        machine.member = make_member()

    @rule()
    def store_ends(self) -> None:
        self.is_up = False

    @rule(loses_epoch=st.booleans())
    def store_restarts(self, loses_epoch: bool) -> None:
        self.is_up = True
        self.store.restart(int(self.now * 1000), loses_epoch)

    @rule()
    def connections_are_attempted(self) -> None:
        if not self.is_up:
            self.refused += [
                (each, each.member, each.clock(self.now))
                for index, each in enumerate(self.machines)
                if index not in self.cut | self.frozen
            ]

    @rule()
    def connections_are_refused(self) -> None:
        for machine, member, sent_at in self.refused:
            member.store_is_down(sent_at, machine.clock(self.now))
        self.refused.clear()

    @invariant()
    def check(self) -> None:
        for database in ("shop", "blog"):
            serving = [
                (each.member, epoch)
                for each in getattr(self, "machines", ())
                if (epoch := each.member.epoch(database, each.clock(self.now))) is not None
            ]
            assert len(serving) <= 1, f"{len(serving)} homes of {database}"
            for member, epoch in serving:
                assert self.accepted.setdefault((database, epoch), member) is member
                assert epoch >= self.last.get(database, 0), "an epoch falls"
                self.last[database] = epoch


TestCluster = Cluster.TestCase
TestCluster.settings = settings(settings(), stateful_step_count=30)


class Steady:
    """Relays whose commands are answered at once."""

    def __init__(self, relays: int) -> None:
        self.store = ModelStore()
        self.members = [make_member() for _ in range(relays)]

    def run(self, member: Member, command: Command | None, now: float) -> set[str]:
        assert command is not None
        return member.replied(command, now, self.store.run(command), now)

    def work(self, begin: float, end: float, *members: Member) -> float:
        """Let *members* work from *begin* to *end*; returns *end*."""
        for step in range(round((end - begin) / TIMING.tick)):
            now = begin + step * TIMING.tick
            for member in members:
                member.lapsed(now)
                for command in member.due(now):
                    self.run(member, command, now)
        return end


def test_the_databases_of_a_relay_that_was_killed_are_claimed_within_the_lease() -> None:
    steady = Steady(2)
    first, second = steady.members
    now = steady.work(0, 4, first, second)
    steady.run(first, first.claim("shop"), now)
    assert first.epoch("shop", now) == 1
    killed = steady.work(now, now + TIMING.renewal, first, second)

    now = killed
    while second.epoch("shop", now) is None:
        steady.work(now, now + TIMING.tick, second)
        now += TIMING.tick
        steady.run(second, second.claim("shop"), now)
    assert now - killed <= TIMING.lease
    assert second.epoch("shop", now) == 2


def test_a_relay_that_was_suspended_finds_that_it_was_buried() -> None:
    steady = Steady(2)
    first, second = steady.members
    now = steady.work(0, 4, first, second)
    steady.run(first, first.claim("shop"), now)
    now = steady.work(now, now + 3, second)
    assert not first.is_trusted(now)

    old = first.id
    assert steady.run(first, first.renew(now), now) == {"shop"}
    assert first.id != old
    assert first.homes == {}


def test_a_relay_that_was_suspended_and_not_buried_goes_on_at_its_epoch() -> None:
    steady = Steady(1)
    (first,) = steady.members
    now = steady.work(0, 4, first)
    steady.run(first, first.claim("shop"), now)
    now += 60
    assert first.epoch("shop", now) is None

    assert steady.run(first, first.renew(now), now) == set()
    assert first.epoch("shop", now) == 1


def test_a_store_that_has_forgotten_all_is_told_the_homes_before_it_is_ripe() -> None:
    steady = Steady(2)
    first, second = steady.members
    now = steady.work(0, 4, first, second)
    steady.run(first, first.claim("shop"), now)
    steady.store.restart(0, loses_epoch=True)

    now = steady.work(now, now + TIMING.renewal, first, second)
    steady.run(second, second.claim("shop"), now)
    assert second.homes == {}
    now = steady.work(now, now + 3, first, second)
    assert steady.store.is_ripe
    assert steady.store.homes["shop"].relay == first.id
    steady.run(second, second.claim("blog"), now)
    assert second.homes == {"blog": 2}, "higher than the epochs that the first one has told"


def test_a_relay_that_has_left_need_not_be_waited_for() -> None:
    steady = Steady(2)
    first, second = steady.members
    now = steady.work(0, 4, first, second)
    steady.run(first, first.claim("shop"), now)
    steady.store.run(first.leave())
    steady.run(second, second.claim("shop"), now)
    assert second.epoch("shop", now) == 2


def test_a_home_can_be_given_to_another_relay() -> None:
    steady = Steady(2)
    first, second = steady.members
    now = steady.work(0, 4, first, second)
    steady.run(first, first.claim("shop"), now)
    steady.run(first, first.give("shop", second.id), now)
    assert first.epoch("shop", now) is None
    steady.run(first, first.claim("shop"), now)
    assert first.epoch("shop", now) is None
    steady.run(second, second.claim("shop"), now)
    assert second.epoch("shop", now) == 3


def test_a_higher_epoch_of_another_relay_ends_the_own_one() -> None:
    steady = Steady(1)
    (first,) = steady.members
    now = steady.work(0, 4, first)
    steady.run(first, first.claim("shop"), now)
    assert not first.heard_of(1, "shop")
    assert first.heard_of(2, "shop")
    assert first.epoch("shop", now) is None


@pytest.mark.parametrize("lease", [0.5, 2.0, 60.0])
def test_the_margin_is_the_same_for_every_lease(lease: float) -> None:
    timing = Timing(lease)
    assert timing.silence / timing.trust == pytest.approx(8 / 7)
    assert timing.renewal + timing.tick < timing.trust
    assert timing.tick + timing.silence + timing.tick <= lease
