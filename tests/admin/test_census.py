"""The figures of all peers: right while peers come and go, and linear in their number."""

from __future__ import annotations

from collections.abc import Callable

from acebase_ipc.admin.census import PEERS, Census
from acebase_ipc.relay.traffic import MAX_NAMED, OTHER, DepartedTraffic, Traffic
from tests.relay.core import DATABASE, MASTER, Core
from tests.relay.locks import body_of, grant, lock, new_id, worker_id
from tests.relay.test_cost import admitted, check_linear


def taken(core: Core) -> Census:
    """A complete census."""
    census = Census(core.relay, core.now)
    while census.step():
        pass
    return census


def received(core: Core, label: str = DATABASE) -> int:
    """The messages received of a database, by a census."""
    return taken(core).figures[label].traffic.received


def test_peers_are_counted_by_dialect_and_state() -> None:
    core = Core()
    core.join("reader1")
    core.join_acebase("worker1")
    core.join_acebase("worker2").is_lost()
    assert taken(core).figures[DATABASE].peers == {
        ("documented", "connected"): 1,
        ("acebase", "connected"): 1,
        ("acebase", "suspended"): 1,
    }


def test_what_waits_is_counted() -> None:
    core = Core()
    one, two = core.join("reader1"), core.join("reader2")
    one.stops_reading(unsent=1000)
    two.says("to:reader1;x")
    figures = taken(core).figures[DATABASE]
    assert figures.queued == 1
    assert figures.queued_bytes == one.peer.queue.memory
    assert figures.backlog == one.peer.queue.memory + 1000


def test_locks_and_requests_are_counted() -> None:
    core = Core()
    master, worker = core.join_acebase(MASTER), core.join_acebase(worker_id(1))
    asked = lock(worker.peer.client_id, new_id())
    worker.says(asked)
    figures = taken(core).figures[DATABASE]
    assert (figures.locks, figures.requests) == (0, 1)
    master.says(grant(body_of(asked), 1))
    figures = taken(core).figures[DATABASE]
    assert (figures.locks, figures.requests) == (1, 0)


def test_how_long_messages_wait_for_a_master_is_measured_from_the_first_one() -> None:
    core = Core()
    worker = core.join_acebase(worker_id(1))
    assert taken(core).figures[DATABASE].absent == 0
    worker.says(lock(worker.peer.client_id, new_id()))
    core.now += 5
    worker.says(lock(worker.peer.client_id, new_id()))
    core.now += 2
    figures = taken(core).figures[DATABASE]
    assert (figures.awaiting, figures.absent) == (2, 7)
    core.join_acebase(MASTER)
    assert taken(core).figures[DATABASE].absent == 0


def test_messages_of_a_master_that_has_left_wait_from_then_on() -> None:
    core = Core(session_timeout=15)
    master, worker = core.join_acebase(MASTER), core.join_acebase(worker_id(1))
    core.now += 100
    master.is_lost()
    worker.says(lock(worker.peer.client_id, new_id()))
    core.wait(15)
    assert MASTER not in [each.client_id for each in core.relay.registry.peers()]
    core.now += 3
    assert taken(core).figures[DATABASE].absent == 3


def test_the_lag_of_the_slowest_master_is_told() -> None:
    core = Core()
    master = core.join_acebase(MASTER)
    assert taken(core).figures[DATABASE].master_lag is None
    master.connection.lag = 0.25
    assert taken(core).figures[DATABASE].master_lag == 0.25


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
        census = Census(core.relay, core.now)
        for _ in range(steps):
            census.step()
        core.relay.sessions.end(dict.fromkeys(each.peer for each in processes[::2]))
        while census.step():
            pass
        assert census.figures[DATABASE].traffic.received == 2 * PEERS
        assert received(core) == 2 * PEERS


def test_the_first_databases_have_labels_of_their_own() -> None:
    core = Core(session_timeout=0)
    for number in range(MAX_NAMED + 50):
        core.join("reader1", database=f"db{number}").says("x")
    figures = taken(core).figures
    assert len(figures) == MAX_NAMED + 1
    assert figures["db0"].traffic.received == 1
    assert figures[OTHER].traffic.received == 50
    assert figures[OTHER].peers.total() == 50
    for peer in list(core.relay.registry.peers()):
        core.relay.sessions.end({peer: None})
    assert {name: each.traffic.received for name, each in taken(core).figures.items()} == {
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


def test_a_census_is_linear_in_the_number_of_peers_and_takes_bounded_steps() -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False)
        admitted(core, count)

        def step() -> None:
            census = Census(core.relay, core.now)
            steps = 1
            while census.step():
                steps += 1
            assert steps > count // PEERS

        return step

    check_linear(prepare)
