"""IdConflict ids: two living processes that connect under one id."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.conflicts import CHECK_TIMEOUT, CONFLICT_PERIOD
from acebase_ipc.relay.events import IdConflict
from tests.relay.core import AT, DATABASE, MASTER, Core, Process


def challenge(core: Core, client_id: str = MASTER, database: str = DATABASE) -> list[bool]:
    """Let a newcomer at 192.0.2.9 want an id; the decisions, as they come."""
    decisions: list[bool] = []
    handshake = Handshake(database, client_id, Dialect.ACEBASE, True)
    core.relay.sessions.check_conflict(handshake, "192.0.2.9:50009", core.now, decisions.append)
    return decisions


def contest(core: Core, client_id: str = MASTER) -> Process:
    """Let a living process be replaced; the one that holds the id now."""
    replaced, holder = core.join_acebase(client_id), core.join_acebase(client_id)
    replaced.is_lost(close_code=4001)
    return holder


def test_a_free_id_is_granted_at_once() -> None:
    assert challenge(Core()) == [True]


def test_an_id_whose_holder_has_replaced_nobody_is_granted_at_once() -> None:
    core = Core()
    holder = core.join_acebase(MASTER)
    assert challenge(core) == [True]
    assert holder.connection.checks == []


def test_the_successor_of_a_dead_connection_is_not_contested() -> None:
    core = Core()
    replaced, holder = core.join_acebase(MASTER), core.join_acebase(MASTER)
    replaced.is_lost(close_code=None)
    assert challenge(core) == [True]
    assert holder.connection.checks == []


def test_a_newcomer_is_refused_if_the_holder_of_a_contested_id_answers() -> None:
    core = Core()
    holder = contest(core)
    decisions = challenge(core)
    assert decisions == []
    ((timeout, answer),) = holder.connection.checks
    assert timeout == CHECK_TIMEOUT == 2
    answer(True)
    assert decisions == [False]
    assert core.reported(IdConflict) == [IdConflict(DATABASE, MASTER, AT, "192.0.2.9:50009")]
    assert holder.connection.closed is None


def test_a_newcomer_replaces_a_silent_holder() -> None:
    core = Core()
    holder = contest(core)
    decisions = challenge(core)
    ((_, answer),) = holder.connection.checks
    answer(False)
    assert decisions == [True]
    assert core.reported(IdConflict) == []


def test_workers_contest_their_ids_too() -> None:
    core = Core()
    contest(core, "worker1")
    assert challenge(core, "worker1") == []


def test_documented_peers_do_not_contest_their_ids() -> None:
    core = Core()
    replaced, _ = core.join("worker1"), core.join("worker1")
    replaced.is_lost(close_code=4001)
    assert challenge(core, "worker1") == [True]


@pytest.mark.parametrize(("age", "granted"), [(0.0, []), (59.5, []), (60.0, [True])])
def test_an_id_is_contested_for_a_minute(age: float, granted: list[bool]) -> None:
    assert CONFLICT_PERIOD == 60
    core = Core()
    contest(core)
    core.now += age
    assert challenge(core) == granted


def test_a_contest_is_not_forgotten_before_its_time() -> None:
    core = Core()
    contest(core)
    core.wait(59.5)
    assert challenge(core) == []
    core.wait(0.5)
    assert challenge(core) == [True]


def test_every_replacement_of_a_living_connection_prolongs_the_contest() -> None:
    core = Core()
    contest(core)
    core.wait(40)
    contest(core)
    core.wait(40)
    assert challenge(core) == []


def test_only_that_id_of_that_database_is_contested() -> None:
    core = Core()
    contest(core)
    for client_id, database in [("worker1", DATABASE), (MASTER, "other_data")]:
        core.join_acebase(client_id, database)
        assert challenge(core, client_id, database) == [True]


def test_a_contested_id_without_a_living_holder_is_granted_at_once() -> None:
    core = Core()
    holder = contest(core)
    holder.is_lost()
    assert challenge(core) == [True]
    core.wait(20)
    assert challenge(core) == [True]


def test_the_end_of_the_present_connection_is_no_contest() -> None:
    core = Core()
    core.join_acebase(MASTER).is_lost(close_code=1005)
    core.join_acebase(MASTER)
    assert challenge(core) == [True]


def test_two_processes_under_one_id_come_to_rest() -> None:
    core = Core()
    first, second = core.join_acebase(MASTER), core.join_acebase(MASTER)
    first.is_lost(close_code=4001)
    decisions = challenge(core)  # the first reconnects at once
    ((_, answer),) = second.connection.checks
    answer(True)
    assert decisions == [False]
    assert second.connection.closed is None
    assert len(core.reported(IdConflict)) == 1
