"""What happens to n peers at once costs n, not n squared: operations are counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.events import PeerLeft, SessionExpired
from acebase_ipc.relay.limits import MIB
from acebase_ipc.relay.recovery import LockRecovery
from tests.relay.core import DATABASE, MASTER, Core, FakeConnection, Process
from tests.relay.locks import (
    answer,
    body_of,
    grant,
    lock,
    move,
    new_id,
    released,
    to_master,
    unlock,
    worker_id,
)

SIZES = (1000, 5000)
"""Peers or messages of which the cost is compared."""

TOLERANCE = 1.5
"""By how much the cost of one among 5,000 may exceed the cost of one among 1,000."""


def calls_of(step: Callable[[], object]) -> int:
    """How many functions *step* calls, written in Python or in C."""
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        step()
    finally:
        sys.setprofile(None)
    return count


def check_linear(prepare: Callable[[int], Callable[[], object]]) -> None:
    """Check that the step that is prepared for n peers costs each of them the same.

    :param prepare: makes n peers and returns the step to measure.
    """
    few, many = (calls_of(prepare(count)) / count for count in SIZES)
    assert many <= few * TOLERANCE, f"{few:.1f} calls for each of 1,000, {many:.1f} of 5,000"


def admitted(core: Core, count: int, dialect: Dialect = Dialect.ACEBASE) -> list[Process]:
    """Peers of whose arrival nobody was told: that would cost n squared."""
    processes = []
    for number in range(count):
        connection = FakeConnection()
        handshake = Handshake(DATABASE, f"worker{number}", dialect, True)
        peer = core.relay.sessions.admit(handshake, connection, core.wall).peer
        processes.append(Process(core, peer, connection))
    return processes


def suspended(core: Core, count: int) -> list[Process]:
    """Acebase peers whose connections have broken."""
    lost = admitted(core, count)
    for each in lost:
        each.is_lost()
    return lost


def test_the_counter_counts_what_grows_with_the_square() -> None:
    def prepare(count: int) -> Callable[[], object]:
        def step() -> None:
            for _ in range(count // 20):
                for _ in range(count // 20):
                    len(())

        return step

    with pytest.raises(AssertionError):
        check_linear(prepare)


def test_sessions_that_end_together() -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False, session_timeout=15, max_memory=1 << 40)
        suspended(core, count)
        core.reports.clear()

        def step() -> None:
            core.relay.sessions.expire(core.now + 15)
            assert len(core.reported(PeerLeft)) == len(core.reported(SessionExpired)) == count

        return step

    check_linear(prepare)


def test_sessions_that_end_together_tell_each_peer_that_stays_once_of_each() -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False, session_timeout=15, max_memory=1 << 40)
        witness = core.join("witness")
        suspended(core, count)
        core.hush()

        def step() -> None:
            core.relay.sessions.expire(core.now + 15)
            assert len(witness.hears()) == count

        return step

    check_linear(prepare)


def test_a_peer_that_leaves_while_the_queues_of_suspended_peers_are_full() -> None:
    """What waits is not searched when a sender leaves, but when the queue is delivered."""

    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False, session_timeout=15, max_memory=1 << 40)
        leaver = core.join("leaver")
        (worker,) = suspended(core, 1)
        for _ in range(count):
            leaver.says("to:worker0;x")
        assert len(worker.peer.queue) == count
        return lambda: leaver.is_lost(1000)

    few, many = (calls_of(prepare(count)) for count in SIZES)
    assert many <= few + 5


@pytest.mark.parametrize("introduce", [False, True])
def test_a_join_into_a_large_database(introduce: bool) -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=introduce, max_memory=1 << 40)
        admitted(core, count)
        return lambda: core.join_acebase("newcomer")

    check_linear(prepare)


def test_an_id_is_encoded_once_however_many_join(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[object] = []
    dumps = json.dumps

    def counting(value: object, **options: Any) -> str:
        encoded.append(value)
        return dumps(value, **options)

    core = Core(max_memory=1 << 40)
    count = SIZES[0]
    admitted(core, count)
    monkeypatch.setattr(json, "dumps", counting)
    core.join_acebase("newcomer")
    assert len(encoded) == count + 1
    encoded.clear()
    core.join_acebase("another")
    assert encoded == ["another"]


def test_shutdown() -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False, session_timeout=15, max_memory=1 << 40)
        processes = admitted(core, count)
        for each in processes:
            each.stops_reading()
        processes[0].says("x")
        core.hush()

        def step() -> None:
            core.relay.close(1001, "going away")
            assert all(each.connection.closed for each in processes)

        return step

    check_linear(prepare)


def test_shutdown_tells_nobody_of_the_others() -> None:
    core = Core(introduce=False)
    processes = [core.join(f"worker{number}") for number in range(10)]
    core.hush()
    core.relay.close(1001, "going away")
    assert [each.hears() for each in processes] == [[]] * 10


@pytest.mark.parametrize("exceeded", [False, True])
def test_the_limit_of_memory(exceeded: bool) -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False, max_memory=MIB)
        processes = admitted(core, count)
        size = 2 * MIB // count if exceeded else MIB // count // 2
        core.relay.memory.register(
            "test",
            lambda: sum(each.connection.received for each in processes if each.peer.connection),
        )
        for each in processes:
            each.connection.received = size
        return core.relay.delivery.enforce_memory_limit

    check_linear(prepare)


def test_a_broadcast_that_suspended_peers_all_keep() -> None:
    def prepare(count: int) -> Callable[[], object]:
        core = Core(introduce=False, session_timeout=15, max_memory=1 << 40)
        sender = core.join("sender")
        suspended(core, count)
        return lambda: sender.says("x" * 100)

    check_linear(prepare)


@pytest.mark.parametrize("has_sessions", [True, False])
def test_requests_and_answers_of_published_clients_take_the_short_path(
    monkeypatch: pytest.MonkeyPatch, has_sessions: bool
) -> None:
    core = Core(introduce=False, lock_sessions=has_sessions, master_warmup=0)
    master, worker = core.join_acebase(MASTER), core.join_acebase(worker_id(1))
    others: list[str] = []
    first = to_master(worker.peer.client_id, "request", {"type": "x"}, new_id())
    worker.says(first)  # opens its account
    master.says(answer(body_of(first), {"ok": True}))
    for name in ("requested", "answered"):
        monkeypatch.setattr(LockRecovery, name, lambda *_, name=name: others.append(name))
    client_id = worker.peer.client_id
    core.hush()
    for number in range(1, 500):
        asked = lock(client_id, new_id())
        worker.says(asked)
        master.says(grant(body_of(asked), number))
        other = to_master(client_id, "request", {"type": "x"}, new_id())
        worker.says(other)
        master.says(answer(body_of(other), {"ok": True}))
        if has_sessions:
            worker.says(lock(client_id, new_id()))
            own = json.loads(worker.hears()[-1])["data"]["id"]
            worker.says(move(client_id, new_id(), own), unlock(client_id, new_id(), own))
        worker.says(unlock(client_id, new_id(), number))
        *requests, release = master.hears()
        master.says(released(release))
        assert len(requests) == 2
    assert others == []
    assert core.relay.locks(DATABASE).locks == ()
    assert core.relay.lock_sessions.answered == 2 * 499 * has_sessions
    assert master.peer.database.ledger
    assert master.peer.database.ledger.own == {}
