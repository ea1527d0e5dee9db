"""The figures of all peers: right while peers come and go, and linear in their number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.python.failure import Failure

from acebase_ipc.admin.census import MAX_AGE, PEERS, SHARE, LatestCensus, RelayCensus
from acebase_ipc.admin.turns import Turns
from acebase_ipc.relay.traffic import MAX_NAMED, OTHER, DepartedTraffic, Traffic
from acebase_ipc.relay.work import Work
from acebase_ipc.rotation import Rotation
from acebase_ipc.testing import MemoryReactor
from tests.relay.core import DATABASE, MASTER, Core
from tests.relay.locks import body_of, grant, lock, new_id, worker_id
from tests.relay.test_cost import admitted, check_linear


def begun(core: Core) -> RelayCensus:
    """A census that has just begun."""
    return RelayCensus(core.relay.registry, core.now)


def taken(core: Core) -> RelayCensus:
    """A complete census."""
    census = begun(core)
    while census.step():
        pass
    return census


def received(core: Core, label: str = DATABASE) -> int:
    """The messages received of a database, by a census."""
    return taken(core).labels[label].traffic.received


def test_peers_are_counted_by_dialect_and_state() -> None:
    core = Core()
    core.join("reader1")
    core.join_acebase("worker1")
    core.join_acebase("worker2").is_lost()
    assert taken(core).databases[DATABASE].peers == {
        ("documented", "connected"): 1,
        ("acebase", "connected"): 1,
        ("acebase", "suspended"): 1,
    }


def test_what_waits_is_counted() -> None:
    core = Core()
    one, two = core.join("reader1"), core.join("reader2")
    one.stops_reading(unsent=1000)
    two.says("to:reader1;x")
    figures = taken(core).databases[DATABASE]
    assert figures.queued == 1
    assert figures.queued_bytes == one.peer.queue.memory
    assert figures.backlog == one.peer.queue.memory + 1000


def test_the_memory_is_that_of_the_database_and_its_peers() -> None:
    core = Core(session_timeout=15)
    worker, reader = core.join_acebase(worker_id(1)), core.join("reader1")
    worker.says(lock(worker.peer.client_id, new_id()))  # waits for a master
    reader.stops_reading(unsent=1000)
    worker.says("to:reader1;x")
    database = worker.peer.database
    assert min(database.memory, worker.peer.memory) > 0
    assert reader.peer.memory == reader.peer.queue.memory + 1000
    assert taken(core).databases[DATABASE].memory == (
        database.memory + worker.peer.memory + reader.peer.memory
    )


def test_locks_and_requests_are_counted() -> None:
    core = Core()
    master, worker = core.join_acebase(MASTER), core.join_acebase(worker_id(1))
    asked = lock(worker.peer.client_id, new_id())
    worker.says(asked)
    figures = taken(core).databases[DATABASE]
    assert (figures.locks, figures.requests) == (0, 1)
    master.says(grant(body_of(asked), 1))
    figures = taken(core).databases[DATABASE]
    assert (figures.locks, figures.requests) == (1, 0)


def test_how_long_messages_wait_for_a_master_is_measured_from_the_first_one() -> None:
    core = Core()
    worker = core.join_acebase(worker_id(1))
    assert taken(core).databases[DATABASE].absent == 0
    worker.says(lock(worker.peer.client_id, new_id()))
    core.now += 5
    worker.says(lock(worker.peer.client_id, new_id()))
    core.now += 2
    figures = taken(core).databases[DATABASE]
    assert (figures.awaiting, figures.absent) == (2, 7)
    core.join_acebase(MASTER)
    assert taken(core).databases[DATABASE].absent == 0


def test_messages_of_a_master_that_has_left_wait_from_then_on() -> None:
    core = Core(session_timeout=15)
    master, worker = core.join_acebase(MASTER), core.join_acebase(worker_id(1))
    core.now += 100
    master.is_lost()
    worker.says(lock(worker.peer.client_id, new_id()))
    core.wait(15)
    assert MASTER not in [each.client_id for each in core.relay.registry.peers()]
    core.now += 3
    assert taken(core).databases[DATABASE].absent == 3


def test_the_lag_of_the_slowest_master_is_told() -> None:
    core = Core()
    master = core.join_acebase(MASTER)
    assert taken(core).databases[DATABASE].master_lag is None
    master.connection.lag = 0.25
    assert taken(core).databases[DATABASE].master_lag == 0.25


def test_a_master_counts_whether_or_not_it_is_connected() -> None:
    core = Core(session_timeout=15)
    core.join("reader1")
    assert not taken(core).databases[DATABASE].has_master
    core.join_acebase(MASTER).is_lost()
    figures = taken(core).databases[DATABASE]
    assert (figures.has_master, figures.connected, figures.peers.total()) == (True, 1, 2)


def test_traffic_stays_when_peers_and_databases_leave() -> None:
    core = Core(session_timeout=0)
    one, two = core.join("reader1"), core.join("reader2")
    for each in (one, two):
        each.says("x")
    assert received(core) == 2
    one.is_lost(1000)
    assert received(core) == 2
    two.is_lost(1000)
    assert not core.relay.registry.databases
    assert received(core) == 2
    core.join("reader1").says("x")
    assert received(core) == 3


def test_a_peer_that_leaves_during_a_census_counts_once() -> None:
    for steps in range(3):
        core = Core(introduce=False)
        processes = admitted(core, 2 * PEERS)
        for each in processes:
            each.peer.traffic.received = 1
        census = begun(core)
        for _ in range(steps):
            census.step()
        core.relay.sessions.end(dict.fromkeys(each.peer for each in processes[::2]))
        while census.step():
            pass
        assert census.labels[DATABASE].traffic.received == 2 * PEERS
        assert census.databases[DATABASE].traffic.received == 2 * PEERS
        assert received(core) == 2 * PEERS


def test_a_database_has_the_traffic_of_the_peers_that_it_has_had() -> None:
    core = Core(session_timeout=0)
    one, _ = core.join("reader1"), core.join("reader2")
    one.says("x")
    one.is_lost(1000)
    census = taken(core)
    assert census.databases[DATABASE].traffic.received == 1
    core.join("reader1", database="other").says("x")
    assert taken(core).total.traffic.received == 2


def test_a_database_that_all_peers_leave_during_a_census_is_not_listed() -> None:
    core = Core(session_timeout=0)
    reader = core.join("reader1")
    reader.says("x")
    census = begun(core)
    reader.is_lost(1000)
    while census.step():
        pass
    assert census.databases == {}
    assert census.total.traffic.received == 1


def test_the_first_databases_have_labels_of_their_own() -> None:
    core = Core(session_timeout=0)
    for number in range(MAX_NAMED + 50):
        core.join("reader1", database=f"db{number}").says("x")
    figures = taken(core).labels
    assert len(figures) == MAX_NAMED + 1
    assert figures["db0"].traffic.received == 1
    assert figures[OTHER].traffic.received == 50
    assert figures[OTHER].peers.total() == 50
    for peer in list(core.relay.registry.peers()):
        core.relay.sessions.end({peer: None})
    assert {name: each.traffic.received for name, each in taken(core).labels.items()} == {
        name: each.traffic.received for name, each in figures.items()
    }


def test_a_database_that_is_named_like_the_others_shares_their_label() -> None:
    departed = DepartedTraffic()
    traffic = Traffic()
    traffic.received = 1
    for name in (OTHER, *map(str, range(MAX_NAMED)), "one more"):
        departed.add(name, traffic)
    copy = departed.copy()
    assert len(copy) == MAX_NAMED
    assert copy[OTHER].received == 3
    assert sum(each.received for each in copy.values()) == MAX_NAMED + 2


class Shared:
    """A census that is shared, the time that each of its steps takes, and how often it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, peers: int = 0) -> None:
        self.core = Core(introduce=False)
        admitted(self.core, peers)
        self.reactor = MemoryReactor()
        self.begun = 0
        self.seconds = 0.0
        self.fails = False
        turns = Turns(Rotation(self.reactor, Work()), self.reactor.seconds)
        self.latest = LatestCensus(self.core.relay.registry, turns, self.reactor.seconds)
        begin, step = RelayCensus.__init__, RelayCensus.step

        def counted(census: RelayCensus, *arguments: Any) -> None:
            self.begun += 1
            begin(census, *arguments)

        def slow(census: RelayCensus) -> bool:
            if self.fails:
                raise ZeroDivisionError
            self.reactor.rightNow += self.seconds  # the clock's time, without its calls
            return step(census)

        monkeypatch.setattr(RelayCensus, "__init__", counted)
        monkeypatch.setattr(RelayCensus, "step", slow)

    def get(self) -> list[object]:
        """Ask for a census; the list receives it, or what it fails with."""
        got: list[object] = []
        self.latest.get().addBoth(got.append)
        return got


def test_all_that_ask_while_a_census_is_taken_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(monkeypatch, 2 * PEERS)
    assert shared.latest.is_due
    one = shared.get()
    assert one == []  # only a step is done
    assert not shared.latest.is_due
    other = shared.get()
    shared.reactor.settle()
    assert one == other
    assert len(one) == shared.begun == 1


def test_a_census_that_took_long_is_used_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(monkeypatch, 2 * PEERS)
    shared.seconds = 0.01
    first = shared.get()
    shared.reactor.settle()
    taken = 3 * shared.seconds
    assert shared.get() == first
    shared.reactor.pass_time(SHARE * taken - 0.01)
    assert not shared.latest.is_due
    assert shared.get() == first
    shared.reactor.pass_time(0.02)
    assert shared.latest.is_due
    second = shared.get()
    shared.reactor.settle()
    assert second != first
    assert shared.begun == 2


def test_a_census_that_took_very_long_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = Shared(monkeypatch)
    shared.seconds = 1.0
    first = shared.get()
    shared.reactor.settle()
    shared.reactor.pass_time(MAX_AGE - 0.01)
    assert shared.get() == first
    shared.reactor.pass_time(0.02)
    assert shared.latest.is_due


def test_a_census_that_fails_is_an_error_for_all_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = Shared(monkeypatch)
    shared.fails = True
    (failure,) = shared.get()
    assert isinstance(failure, Failure)
    assert failure.check(ZeroDivisionError)
    shared.fails = False
    (census,) = shared.get()
    assert isinstance(census, RelayCensus)


def test_a_census_is_linear_in_the_number_of_peers_and_takes_bounded_steps() -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False)
        admitted(core, count)

        def step() -> None:
            census = begun(core)
            steps = 1
            while census.step():
                steps += 1
            assert steps > count // PEERS

        return step

    check_linear(prepare)
