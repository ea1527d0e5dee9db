"""Whatever happens between two broadcasts of a peer, those receive the second that are there."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Resume
from acebase_ipc.relay.peers import SessionState
from tests.relay.core import DATABASE, Core, Process

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
