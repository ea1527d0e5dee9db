"""Workers without a master are told of; what waited for one is told of when it is delivered."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.messages import MASTER as MASTER_ID
from acebase_ipc.relay.events import (
    WAIT_FOR_MASTER,
    ExpiryReason,
    MasterAbsent,
    QueueDelivered,
    SessionExpired,
    SessionResumed,
)
from acebase_ipc.relay.master_watch import INTERVAL, PATIENCE
from tests.relay.core import AT, DATABASE, Core

MASTER = MASTER_ID.decode()
TO_MASTER = f'{{"type":"hello","from":"worker1","to":"{MASTER}"}}'


def pass_time(core: Core, seconds: float) -> list[tuple[float, MasterAbsent]]:
    """Let time pass second by second; returns what is told of a missing master, and when."""
    told: list[tuple[float, MasterAbsent]] = []
    known = len(core.reported(MasterAbsent))
    for second in range(1, int(seconds) + 1):
        core.wait(1)
        told += [(second, each) for each in core.reported(MasterAbsent)[known:]]
        known = len(core.reported(MasterAbsent))
    return told


def test_workers_without_a_master_are_told_of_after_some_seconds_and_each_minute() -> None:
    """They do not even have to send anything."""
    core = Core()
    core.join_acebase("worker1")
    core.join_acebase("worker2")

    event = MasterAbsent(DATABASE, 2, 0)
    first = PATIENCE + 1
    assert pass_time(core, first + 2 * INTERVAL) == [
        (first, event),
        (first + INTERVAL, event),
        (first + 2 * INTERVAL, event),
    ]


def test_the_messages_that_wait_are_counted() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    for _ in range(13):
        worker.says(f"to:{MASTER};{TO_MASTER}")

    assert [each.messages for _, each in pass_time(core, PATIENCE + 1)] == [13]


def test_a_master_that_restarts_in_time_is_not_told_of() -> None:
    core = Core()
    core.join_acebase("worker1")
    for _ in range(3):
        master = core.join_acebase(MASTER)
        assert pass_time(core, 100) == []
        master.is_lost()
        assert pass_time(core, PATIENCE - 1) == []
    core.join_acebase(MASTER)
    assert pass_time(core, 100) == []


def test_a_master_whose_session_is_suspended_is_absent() -> None:
    core = Core(session_timeout=30)
    worker, master = core.join_acebase("worker1"), core.join_acebase(MASTER)
    master.is_lost()
    worker.says(f"to:{MASTER};{TO_MASTER}")

    assert [each.messages for _, each in pass_time(core, 10)] == [1]


@pytest.mark.parametrize("joins", ["nobody", "documented", "master"])
def test_without_a_worker_no_master_is_missing(joins: str) -> None:
    core = Core()
    if joins == "documented":
        core.join("reader1")
    elif joins == "master":
        core.join_acebase(MASTER).is_lost()
    assert pass_time(core, 200) == []


def test_each_database_is_told_of() -> None:
    core = Core()
    core.join_acebase(MASTER)
    core.join_acebase("worker1", "other_data")

    assert [each.database for _, each in pass_time(core, 10)] == ["other_data"]


# What waited


def test_what_waits_for_a_lost_master_is_told_as_delivered_to_its_successor() -> None:
    core = Core(session_timeout=15)
    worker, master = core.join_acebase("worker1"), core.join_acebase(MASTER)
    master.is_lost()
    worker.says(f"to:{MASTER};{TO_MASTER}")
    core.wait(16)

    (expired,) = core.reported(SessionExpired)
    assert (expired.reason, expired.messages) == (ExpiryReason.TIME, 1)
    assert expired.fate == WAIT_FOR_MASTER
    core.hush()
    successor = core.join_acebase(MASTER)
    assert successor.hears()[-1] == TO_MASTER
    assert core.reported(QueueDelivered) == [QueueDelivered(DATABASE, MASTER, 1, AT)]
    assert core.reported(SessionResumed) == []


def test_what_waits_until_a_master_has_opened_its_files_is_told_as_delivered() -> None:
    core = Core(master_warmup=1)
    worker = core.join_acebase("worker1")
    request = '{"type":"request","id":"1","from":"worker1","to":"[master]","data":{"type":"x"}}'
    worker.says(f"to:{MASTER};{request}")
    core.join_acebase(MASTER)
    assert core.reported(QueueDelivered) == []
    core.wait(2)

    assert core.reported(QueueDelivered) == [QueueDelivered(DATABASE, MASTER, 1, AT)]
