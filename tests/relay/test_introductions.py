"""Introductions: the relay greets acebase peers on each other's behalf."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.dialect import Dialect
from tests.relay.core import MASTER, WELCOME, Core, bye, hello

ENVELOPE = '{"type":"pulse","from":"worker1"}'


def test_a_newcomer_and_each_acebase_peer_are_introduced() -> None:
    core = Core()
    others = [core.join_acebase("worker1"), core.join_acebase(MASTER)]
    core.hush()
    newcomer = core.join_acebase("worker2")
    assert [other.hears() for other in others] == [["connect:worker2", hello("worker2")]] * 2
    assert newcomer.hears() == [WELCOME, hello("worker1"), hello(MASTER)]


def test_each_pair_is_introduced_once_each_way() -> None:
    core = Core()
    processes = {name: core.join_acebase(name) for name in (f"worker{n}" for n in range(6))}
    for name, process in processes.items():
        greeted = [text for text in process.hears() if text.startswith("{")]
        assert sorted(greeted) == [hello(other) for other in sorted(processes) if other != name]


def test_documented_peers_hear_and_cause_no_hello() -> None:
    core = Core()
    worker, reader = core.join_acebase("worker1"), core.join("reader1")
    assert worker.hears() == [WELCOME, "connect:reader1"]
    newcomer = core.join_acebase("worker2")
    assert reader.hears() == [WELCOME, "connect:worker2"]
    assert newcomer.hears() == [WELCOME, hello("worker1")]


def test_peers_of_other_databases_are_not_introduced() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    core.hush()
    newcomer = core.join_acebase("worker2", database="other_data")
    assert newcomer.hears() == [WELCOME]
    assert worker.hears() == []


def test_a_peer_is_introduced_when_its_first_envelope_shows_that_it_is_acebase() -> None:
    core = Core()
    worker = core.join_acebase("worker2")
    reader, late = core.join("reader1"), core.join("worker1", settled=False)
    core.hush()
    late.says("not yet")
    assert [worker.hears(), reader.hears()] == [["msg:not yet"]] * 2
    late.says(ENVELOPE)
    assert worker.hears() == [hello("worker1"), ENVELOPE]
    assert late.hears() == [hello("worker2")]
    assert reader.hears() == [f"msg:{ENVELOPE}"]
    late.says(ENVELOPE)
    assert worker.hears() == [ENVELOPE]
    assert late.hears() == []


def test_an_addressed_envelope_introduces_its_sender_to_all() -> None:
    core = Core()
    workers = [core.join_acebase("worker2"), core.join_acebase("worker3")]
    late = core.join("worker1", settled=False)
    core.hush()
    late.says(f"to:worker3;{ENVELOPE}")
    assert [each.hears() for each in workers] == [
        [hello("worker1")],
        [hello("worker1"), ENVELOPE],
    ]
    assert late.hears() == [hello("worker2"), hello("worker3")]


def test_who_has_said_goodbye_is_no_longer_introduced() -> None:
    core = Core()
    leaver, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    leaver.says(bye("worker1"))
    core.hush()
    newcomer = core.join_acebase("worker3")
    assert newcomer.hears() == [WELCOME, hello("worker2")]
    assert leaver.hears() == ["connect:worker3"]
    assert worker.hears() == ["connect:worker3", hello("worker3")]


def test_who_says_goodbye_to_one_peer_only_is_introduced_to_others() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    core.join_acebase("worker2")
    worker.says(f"to:worker2;{bye('worker1')}")
    core.hush()
    newcomer = core.join_acebase("worker3")
    assert newcomer.hears() == [WELCOME, hello("worker1"), hello("worker2")]


def test_a_peer_that_is_expected_back_is_introduced_too() -> None:
    core = Core()
    lost = core.join_acebase("worker1")
    lost.is_lost()
    newcomer = core.join_acebase("worker2")
    assert newcomer.hears() == [WELCOME, hello("worker1")]
    assert core.join_acebase("worker1").hears() == [WELCOME, "connect:worker2", hello("worker2")]


@pytest.mark.parametrize(
    ("client_id", "encoded"),
    [
        ('a"quote', r"a\"quote"),
        ("back\\slash", r"back\\slash"),
        ("läser-读者", "läser-读者"),
        ("[master]", "[master]"),
    ],
)
def test_ids_are_encoded_as_json(client_id: str, encoded: str) -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    core.hush()
    core.join_acebase(client_id)
    assert worker.hears() == [f"connect:{client_id}", f'{{"type":"hello","from":"{encoded}"}}']


def test_introductions_can_be_turned_off() -> None:
    core = Core(introduce=False)
    worker = core.join_acebase("worker1")
    master = core.join_acebase(MASTER)
    late = core.join("worker2", settled=False)
    late.says('{"type":"pulse","from":"worker2"}')
    assert late.peer.dialect is Dialect.ACEBASE
    assert late.hears() == [WELCOME]
    master.is_lost()
    assert core.join_acebase(MASTER).hears() == [WELCOME]
    assert [text for text in worker.hears() if text.startswith("{")] == [
        '{"type":"pulse","from":"worker2"}'
    ]
