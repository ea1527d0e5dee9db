"""Sessions that have to be ended are ended in slices, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from acebase_ipc.relay.events import PeerLeft, SessionExpired
from acebase_ipc.relay.fences import Fenced
from acebase_ipc.relay.peers import Peer, SessionState
from acebase_ipc.relay.receivers import PER_UNIT
from acebase_ipc.relay.sessions import END
from acebase_ipc.relay.work import SLICE
from tests.relay.core import DATABASE, MASTER, Core, Process
from tests.relay.locks import grant, lock, new_id, worker_id

WITNESSES = 200
W1 = worker_id(1)


class Scene:
    """A relay that does in :meth:`work` what can be done in steps."""

    def __init__(self, **limits: Any) -> None:
        self._step: Callable[[], bool] = lambda: False
        self.core = Core(introduce=False, in_steps=self._begin, **limits)

    def _begin(self, step: Callable[[], bool]) -> None:
        self._step = step

    def step(self) -> bool:
        """Do a step; returns whether more is left."""
        return self._step()

    def suspended(self, count: int) -> list[Process]:
        """Workers whose connections are lost."""
        workers = [self.core.join_acebase(worker_id(each)) for each in range(count)]
        for each in workers:
            each.is_lost()
        return workers


def test_sessions_that_expire_together_end_in_slices() -> None:
    scene = Scene(session_timeout=15)
    witnesses = [scene.core.join(f"witness-{each}") for each in range(WITNESSES)]
    workers = scene.suspended(120)
    scene.core.hush()
    scene.core.wait(15)
    assert len(scene.core.reported(SessionExpired)) == len(workers)
    assert scene.core.reported(PeerLeft) == []
    steps = 1
    while scene.step():
        assert len(scene.core.reported(PeerLeft)) <= steps * (SLICE // END + 1)
        steps += 1
    assert steps > 3
    gone = [f"disconnect:{each.peer.client_id}" for each in workers]
    for each in witnesses:
        assert each.hears() == gone


def test_a_session_that_is_ending_is_not_told_of_others() -> None:
    scene = Scene(session_timeout=15)
    workers = scene.suspended(100)
    scene.core.wait(15)
    for each in workers:
        each.peer.queue.clear()
    work = scene.core.relay.work
    before = work.units
    scene.step()
    assert work.units - before == END * len(scene.core.reported(PeerLeft))
    left = [each.peer for each in workers if each.peer.state is SessionState.ENDING]
    assert left
    assert not any(each.queue for each in left)


def test_a_peer_that_is_back_while_its_session_is_ending_joins_anew() -> None:
    scene = Scene(session_timeout=15)
    witness = scene.core.join("witness")
    scene.suspended(2)
    scene.core.wait(15)
    witness.hears()
    back = scene.core.join_acebase(worker_id(1))
    heard = [f"disconnect:{worker_id(1)}", f"connect:{worker_id(1)}"]
    assert witness.hears() == heard
    while scene.step():
        pass
    assert witness.hears() == [f"disconnect:{worker_id(0)}"]
    assert back.peer.state is SessionState.CONNECTED


def test_a_connection_that_is_lost_is_told_in_a_step() -> None:
    scene = Scene()
    witness, other = scene.core.join("witness"), scene.core.join("other")
    witness.hears()
    other.is_lost()
    other.is_lost()
    assert witness.hears() == []
    assert [each.id for each in scene.core.relay.registry.clients(DATABASE)] == ["witness"]
    while scene.step():
        pass
    assert witness.hears() == ["disconnect:other"]


@pytest.mark.parametrize("is_ended", [False, True])
@pytest.mark.parametrize("close_code", [1001, 1002])
def test_only_a_worker_that_may_still_run_is_refused_after_its_end(
    close_code: int, is_ended: bool
) -> None:
    scene = Scene(session_timeout=0)
    master = scene.core.join(MASTER, restarts=True)
    worker = scene.core.join_acebase(W1)
    request = lock(W1, new_id())
    worker.says(request)
    master.says(grant(request.partition(";")[2], 7))
    worker.is_lost(close_code)
    while is_ended and scene.step():
        pass
    if close_code == 1001:
        scene.core.join_acebase(W1)
    else:
        with pytest.raises(Fenced):
            scene.core.join_acebase(W1)


def test_a_session_that_cannot_be_ended_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    witness = scene.core.join("witness")
    lost = [scene.core.join(f"lost-{each}") for each in range(2)]
    for each in lost:
        each.is_lost()
    witness.hears()
    recovery = scene.core.relay.sessions._recovery
    worker_gone = recovery.worker_gone

    def fail_once(peer: Peer) -> bool:
        if peer is lost[0].peer:
            raise LookupError("a mistake")
        return worker_gone(peer)

    monkeypatch.setattr(recovery, "worker_gone", fail_once)
    with pytest.raises(LookupError):
        scene.step()
    while scene.step():
        pass
    assert witness.hears() == ["disconnect:lost-1"]


def test_telling_others_counts_as_work() -> None:
    core = Core(introduce=False)
    for each in range(WITNESSES):
        core.join(f"witness-{each}")
    work = core.relay.work
    before = work.units
    newcomer = core.join("newcomer")
    assert work.units - before >= WITNESSES // PER_UNIT
    before = work.units
    newcomer.is_lost()
    assert work.units - before >= WITNESSES // PER_UNIT


def test_introducing_a_peer_counts_as_work() -> None:
    core = Core()
    for each in range(WITNESSES):
        core.join_acebase(worker_id(each))
    before = core.relay.work.units
    core.join_acebase(worker_id(WITNESSES))
    assert core.relay.work.units - before >= WITNESSES
