"""Whatever happens between two broadcasts of a peer, those receive the second that are there."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Resume
from acebase_ipc.relay.events import EvictedForMemory
from acebase_ipc.relay.peers import SessionState
from acebase_ipc.relay.receivers import APART
from tests.relay.core import DATABASE, WELCOME, Core, Process, bye

ENVELOPE = '{"type":"notification","from":"sender"}'

Change = Callable[[Core, Process], list[Process]]
"""Changes something about a peer, and returns those that come in its place or besides."""


def joins(core: Core, peer: Process) -> list[Process]:
    return [peer, core.join("newcomer")]


def leaves(core: Core, peer: Process) -> list[Process]:
    peer.is_lost(1000)
    return []


def is_replaced(core: Core, peer: Process) -> list[Process]:
    return [core.join(peer.peer.client_id)]


def shows_its_dialect(core: Core, peer: Process) -> list[Process]:
    peer.says('to:third;{"type":"event","from":"undecided","to":"third"}')
    return [peer]


def asks_for_numbers(core: Core, peer: Process) -> list[Process]:
    return [peer, core.join("newcomer", resume=Resume("", 0))]


def is_full_for_a_while(core: Core, peer: Process) -> list[Process]:
    peer.stops_reading()
    peer.reads_on()
    return [peer]


def is_cut_off(core: Core, peer: Process) -> list[Process]:
    core.relay.delivery.cut(peer.peer)
    return []


def the_relay_is_another(core: Core, peer: Process) -> list[Process]:
    core.restart(keeps_connections=True)
    return [peer]


CHANGES: list[Change] = [
    joins,
    leaves,
    is_replaced,
    shows_its_dialect,
    asks_for_numbers,
    is_full_for_a_while,
    is_cut_off,
    the_relay_is_another,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__)
def test_it_reaches_those_that_are_there(change: Change) -> None:
    core = Core()
    sender = core.join_acebase("sender")
    undecided = core.join("undecided", Dialect.DOCUMENTED, settled=False)
    third = core.join_acebase("third")
    sender.says(ENVELOPE)
    present = change(core, undecided)
    core.hush()
    sender.says(ENVELOPE)
    assert third.hears() == [ENVELOPE]
    for each in present:
        (text,) = each.hears()
        prefix = "" if each.peer.dialect is Dialect.ACEBASE else "msg:"
        assert text.removeprefix("n:1;") == prefix + ENVELOPE
    assert undecided.hears() == []


def test_a_suspended_peer_receives_it_once_it_is_back() -> None:
    core = Core()
    sender, worker = core.join_acebase("sender"), core.join_acebase("worker")
    sender.says(ENVELOPE)
    core.hush()
    worker.is_lost()
    sender.says(ENVELOPE)
    assert worker.hears() == []
    again = core.join_acebase("worker")
    sender.says(ENVELOPE)
    assert again.hears()[-2:] == [ENVELOPE] * 2


def test_each_of_two_senders_reaches_the_other() -> None:
    core = Core()
    first, second, third = (core.join(each) for each in ("first", "second", "third"))
    core.hush()
    for _ in range(2):
        first.says("of first")
        second.says("of second")
    assert first.hears() == ["msg:of second"] * 2
    assert second.hears() == ["msg:of first"] * 2
    assert third.hears() == ["msg:of first", "msg:of second"] * 2


def test_a_full_peer_receives_it_later_and_the_others_at_once() -> None:
    core = Core()
    sender, full, other = (core.join(each) for each in ("sender", "full", "other"))
    core.hush()
    sender.says("first")
    full.stops_reading()
    sender.says("second", "third")
    assert full.hears() == ["msg:first"]
    full.reads_on()
    sender.says("fourth")
    texts = [f"msg:{each}" for each in ("first", "second", "third", "fourth")]
    assert full.hears() == texts[1:]
    assert other.hears() == texts


def test_peers_whose_sessions_end_or_have_ended_are_no_receivers() -> None:
    core = Core(session_timeout=15)
    sender, worker = core.join_acebase("sender"), core.join_acebase("worker")
    receivers = core.relay.registry.databases[DATABASE].receivers
    assert len(receivers) == 2
    worker.is_lost()
    assert len(receivers) == 2
    core.relay.delivery.end(worker.peer, may_run=False)
    assert len(receivers) == 1
    core.wait(1)
    assert worker.peer.state is SessionState.GONE
    sender.is_lost(1000)
    assert len(receivers) == 0


def test_a_connection_that_was_full_is_not_kept() -> None:
    core = Core()
    sender, full = core.join("sender"), core.join_acebase("full1")
    full.stops_reading()
    sender.says("anything")
    known = weakref.ref(full.connection)
    full.is_lost()
    del full.connection, full._known_as
    gc.collect()
    assert known() is None


def test_a_full_peer_that_is_evicted_meanwhile_takes_nothing_from_others() -> None:
    core = Core(max_memory=1 << 20, max_backlog=1 << 30)
    sender = core.join("sender")
    slow = [core.join(f"slow{each}") for each in range(4)]
    other = core.join("other")
    for each in slow:
        each.stops_reading()
    core.hush()
    count = 150
    for _ in range(count):
        sender.says(f"to:slow3;{'y' * 6000}")
        sender.says("z" * 3000)
    assert core.reported(EvictedForMemory)
    assert [each for each in other.hears() if each[:4] == "msg:"] == ["msg:" + "z" * 3000] * count


@pytest.mark.parametrize("kind", ["full", "numbered", "suspended"])
def test_receivers_that_are_served_one_by_one_count_as_work(kind: str) -> None:
    core = Core()
    sender = core.join_acebase("sender")
    count = 100
    for each in range(count):
        if kind == "numbered":
            core.join(f"peer{each}", resume=Resume())
        else:
            process = core.join_acebase(f"peer{each}")
            if kind == "full":
                process.stops_reading()
            else:
                process.is_lost()
    before = core.relay.work.units
    sender.says(ENVELOPE)
    assert core.relay.work.units - before >= APART * count


def test_one_that_has_said_bye_is_not_introduced_to_newcomers_while_another_one_ends() -> None:
    core = Core(in_steps=lambda step: None)
    first, second = core.join_acebase("first"), core.join_acebase("second")
    first.says(bye("first"))
    core.relay.delivery.cut(second.peer)
    core.hush()
    core.join_acebase("third")
    assert first.hears() == ["connect:third"]


def test_a_session_that_ends_while_its_connection_is_replaced_is_not_resumed() -> None:
    core = Core()
    core.join_acebase("other")
    former = core.join_acebase("worker")

    def close(code: int, reason: str) -> None:
        core.relay.delivery.end(former.peer, may_run=True)
        core.wait(0)

    former.connection.close = close  # type: ignore[method-assign]
    again = core.join_acebase("worker")
    assert former.peer.state is SessionState.GONE
    assert again.peer is not former.peer
    assert core.relay.registry.peer(DATABASE, "worker") is again.peer
    assert again.hears()[0] == WELCOME
