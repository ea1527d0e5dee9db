"""IdConflict ids: two living processes that connect under one id."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.conflicts import CHECK_TIMEOUT, CONFLICT_PERIOD
from acebase_ipc.relay.events import IdConflict
from tests.relay.core import DATABASE, MASTER, Process, World


def challenge(world: World, client_id: str = MASTER, database: str = DATABASE) -> list[bool]:
    """Let a newcomer at 192.0.2.9 want an id; the decisions, as they come."""
    decisions: list[bool] = []
    handshake = Handshake(database, client_id, Dialect.ACEBASE, True)
    world.relay.challenge(handshake, "192.0.2.9:50009", world.now, decisions.append)
    return decisions


def contest(world: World, client_id: str = MASTER) -> Process:
    """Let a living process be replaced; the one that holds the id now."""
    replaced, holder = world.join_acebase(client_id), world.join_acebase(client_id)
    replaced.is_lost(close_code=4001)
    return holder


def test_a_free_id_is_granted_at_once() -> None:
    assert challenge(World()) == [True]


def test_an_id_whose_holder_has_replaced_nobody_is_granted_at_once() -> None:
    world = World()
    holder = world.join_acebase(MASTER)
    assert challenge(world) == [True]
    assert holder.connection.probes == []


def test_the_successor_of_a_dead_connection_is_not_contested() -> None:
    world = World()
    replaced, holder = world.join_acebase(MASTER), world.join_acebase(MASTER)
    replaced.is_lost(close_code=None)
    assert challenge(world) == [True]
    assert holder.connection.probes == []


def test_a_newcomer_is_refused_if_the_holder_of_a_contested_id_answers() -> None:
    world = World()
    holder = contest(world)
    decisions = challenge(world)
    assert decisions == []
    ((timeout, answer),) = holder.connection.probes
    assert timeout == CHECK_TIMEOUT == 2
    answer(True)
    assert decisions == [False]
    assert world.reported(IdConflict) == [
        IdConflict(DATABASE, MASTER, "192.0.2.1:50000", "192.0.2.9:50009")
    ]
    assert holder.connection.closed is None


def test_a_newcomer_replaces_a_silent_holder() -> None:
    world = World()
    holder = contest(world)
    decisions = challenge(world)
    ((_, answer),) = holder.connection.probes
    answer(False)
    assert decisions == [True]
    assert world.reported(IdConflict) == []


def test_workers_contest_their_ids_too() -> None:
    world = World()
    contest(world, "worker1")
    assert challenge(world, "worker1") == []


def test_documented_peers_do_not_contest_their_ids() -> None:
    world = World()
    replaced, _ = world.join("worker1"), world.join("worker1")
    replaced.is_lost(close_code=4001)
    assert challenge(world, "worker1") == [True]


@pytest.mark.parametrize(("age", "granted"), [(0.0, []), (59.5, []), (60.0, [True])])
def test_an_id_is_contested_for_a_minute(age: float, granted: list[bool]) -> None:
    assert CONFLICT_PERIOD == 60
    world = World()
    contest(world)
    world.now += age
    assert challenge(world) == granted


def test_a_contest_is_not_forgotten_before_its_time() -> None:
    world = World()
    contest(world)
    world.wait(59.5)
    assert challenge(world) == []
    world.wait(0.5)
    assert challenge(world) == [True]


def test_every_replacement_of_a_living_connection_prolongs_the_contest() -> None:
    world = World()
    contest(world)
    world.wait(40)
    contest(world)
    world.wait(40)
    assert challenge(world) == []


def test_only_that_id_of_that_database_is_contested() -> None:
    world = World()
    contest(world)
    for client_id, database in [("worker1", DATABASE), (MASTER, "other_data")]:
        world.join_acebase(client_id, database)
        assert challenge(world, client_id, database) == [True]


def test_a_contested_id_without_a_living_holder_is_granted_at_once() -> None:
    world = World()
    holder = contest(world)
    holder.is_lost()
    assert challenge(world) == [True]
    world.wait(20)
    assert challenge(world) == [True]


def test_the_end_of_the_present_connection_is_no_contest() -> None:
    world = World()
    world.join_acebase(MASTER).is_lost(close_code=1005)
    world.join_acebase(MASTER)
    assert challenge(world) == [True]


def test_two_processes_under_one_id_come_to_rest() -> None:
    world = World()
    first, second = world.join_acebase(MASTER), world.join_acebase(MASTER)
    first.is_lost(close_code=4001)
    decisions = challenge(world)  # the first reconnects at once
    ((_, answer),) = second.connection.probes
    answer(True)
    assert decisions == [False]
    assert second.connection.closed is None
    assert len(world.reported(IdConflict)) == 1
