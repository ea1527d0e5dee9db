"""Broadcasts that are collected once for all their receivers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from acebase_ipc.protocol.messages import Message
from acebase_ipc.testing import client_frame, server_frames
from acebase_ipc.websocket.coalescing import BATCH, FEW, WRITE
from tests.wire import BIG, Recorder, RecorderFactory, connect, lose

COUNT = FEW + 2

Receivers = list[Recorder]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def factory(clock: Clock) -> RecorderFactory:
    return RecorderFactory(BIG, clock)


@pytest.fixture
def receivers(factory: RecorderFactory) -> Receivers:
    return [connect(factory) for _ in range(COUNT)]


def broadcast(receivers: Receivers, *texts: str, but: Recorder | None = None) -> None:
    for text in texts:
        receivers[0].send_each(Message(text.encode()), receivers, but)


def read(receiver: Recorder) -> list[str]:
    """The texts that were written to a receiver."""
    return [each.text for each in server_frames(receiver.transport.written)]


def test_each_is_written_all_broadcasts_of_a_turn_at_once(
    receivers: Receivers, clock: Clock
) -> None:
    broadcast(receivers, "a", "b", "c")
    assert not any(each.transport.writes for each in receivers)
    clock.advance(0)
    broadcast(receivers, "d")
    clock.advance(0)
    assert [read(each) for each in receivers] == [["a", "b", "c", "d"]] * COUNT
    assert [len(each.transport.writes) for each in receivers] == [2] * COUNT
    assert len({id(each.transport.writes[0]) for each in receivers}) == 1


def test_what_one_is_sent_besides_keeps_its_place(receivers: Receivers, clock: Clock) -> None:
    first, second, third, *_ = receivers
    first.send_text(b"before")
    broadcast(receivers, "a")
    second.send_text(b"between")
    broadcast(receivers, "b")
    third.send_texts([b"after", b"all"])
    clock.advance(0)
    assert read(first) == ["before", "a", "b"]
    assert read(second) == ["a", "between", "b"]
    assert read(third) == ["a", "b", "after", "all"]
    assert [read(each) for each in receivers[3:]] == [["a", "b"]] * (COUNT - 3)
    assert [len(each.transport.writes) for each in receivers] == [1] * COUNT


def test_broadcasts_to_others_keep_their_place(receivers: Receivers, clock: Clock) -> None:
    without_last = receivers[:-1]
    broadcast(receivers, "a")
    broadcast(without_last, "b")
    broadcast(receivers, "c")
    clock.advance(0)
    assert [read(each) for each in without_last] == [["a", "b", "c"]] * (COUNT - 1)
    assert read(receivers[-1]) == ["a", "c"]


def test_a_sender_is_not_sent_its_own_but_those_of_others(
    receivers: Receivers, clock: Clock
) -> None:
    first, second, *others = receivers
    broadcast(receivers, "of first", but=first)
    broadcast(receivers, "of second", but=second)
    broadcast(receivers, "of first", but=first)
    clock.advance(0)
    assert read(first) == ["of second"]
    assert read(second) == ["of first"] * 2
    assert [read(each) for each in others] == [["of first", "of second", "of first"]] * (COUNT - 2)
    assert [len(each.transport.writes) for each in receivers] == [1] * COUNT


def test_one_that_is_added_is_sent_what_follows(
    factory: RecorderFactory, receivers: Receivers, clock: Clock
) -> None:
    before = tuple(receivers)
    broadcast(receivers, "a")
    added = connect(factory)
    receivers.append(added)
    broadcast(receivers, "b", but=added)
    broadcast(receivers, "c")
    clock.advance(0)
    assert read(added) == ["c"]
    assert [read(each) for each in before] == [["a", "b", "c"]] * COUNT


def test_few_are_sent_each_for_itself(receivers: Receivers, clock: Clock) -> None:
    few = receivers[: FEW - 1]
    broadcast(few, "a", but=few[0])
    broadcast(few, "b")
    clock.advance(0)
    assert [read(each) for each in few] == [["b"], *[["a", "b"]] * (FEW - 2)]


def test_much_is_written_before_the_turn_ends(receivers: Receivers, clock: Clock) -> None:
    big = "x" * (BATCH // 2)
    broadcast(receivers, big, big, "rest")
    assert [read(each) for each in receivers] == [[big, big]] * COUNT
    clock.advance(0)
    assert [read(each) for each in receivers] == [[big, big, "rest"]] * COUNT


def test_what_is_collected_counts_as_unsent_and_as_sent_once_it_is_written(
    receivers: Receivers, clock: Clock
) -> None:
    broadcast(receivers, "abc", "de")
    traffic = receivers[0].traffic
    sent, size = traffic.sent, traffic.sent_bytes
    assert [each.unsent for each in receivers] == [9] * COUNT
    clock.advance(0)
    assert [each.unsent for each in receivers] == [0] * COUNT
    assert (traffic.sent - sent, traffic.sent_bytes - size) == (2 * COUNT, 9 * COUNT)


def test_each_write_counts_as_work(
    factory: RecorderFactory, receivers: Receivers, clock: Clock
) -> None:
    broadcast(receivers, "a")
    before = factory.work.units
    clock.advance(0)
    assert factory.work.units - before >= WRITE * COUNT


def test_broadcasts_to_two_audiences_by_turns_are_each_collected_once(
    factory: RecorderFactory, receivers: Receivers, clock: Clock
) -> None:
    others: Receivers = [connect(factory) for _ in range(COUNT)]
    before = factory.work.units
    for each in "abc":
        broadcast(receivers, each)
        broadcast(others, each.upper())
    clock.advance(0)
    assert [read(each) for each in receivers] == [["a", "b", "c"]] * COUNT
    assert [read(each) for each in others] == [["A", "B", "C"]] * COUNT
    assert len({id(each.transport.writes[0]) for each in receivers + others}) == 2
    assert factory.work.units - before < 3 * WRITE * COUNT


def test_idle_receivers_are_written_to_when_the_data_is_dealt_with(
    factory: RecorderFactory, receivers: Receivers
) -> None:
    sender = connect(factory)
    sender.on_text = lambda text: broadcast(receivers, text.decode())
    sender.dataReceived(client_frame(b"a"))
    assert [read(each) for each in receivers] == [["a"]] * COUNT


@pytest.mark.parametrize("end", ["lost", "aborted", "closed"])
def test_what_is_not_written_can_be_reclaimed(receivers: Receivers, clock: Clock, end: str) -> None:
    first = receivers[0]
    broadcast(receivers, "a")
    if end == "closed":
        first.close(1000, "")
        broadcast(receivers, "b")
    elif end == "aborted":
        first.abort()
        broadcast(receivers, "b")
    else:
        broadcast(receivers, "b")
        lose(first)
    clock.advance(0)
    kept = ["b"] if end == "closed" else ["a", "b"]
    assert [each.text.decode() for each in first.reclaim()] == kept
    assert first.reclaim() == []
    assert [read(each) for each in receivers[1:]] == [["a", "b"]] * (COUNT - 1)


def test_one_failure_ends_one_connection(
    receivers: Receivers, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: bytes) -> None:
        raise LookupError("a mistake")

    bad = receivers[1]
    monkeypatch.setattr(bad.transport, "write", fail)
    broadcast(receivers, "a")
    with capturedLogs() as logged:
        clock.advance(0)
    assert bad.transport.aborted
    assert [read(each) for each in receivers if each is not bad] == [["a"]] * (COUNT - 1)
    assert [each["log_level"] for each in logged] == [LogLevel.critical]


def test_one_that_is_sent_something_while_others_are_written_to_is_sent_all(
    receivers: Receivers, clock: Clock
) -> None:
    first, *_, last = receivers
    first.transport.room = 0
    pause = first.pauseProducing

    def full() -> None:
        pause()
        last.send_text(b"first is full")

    first.transport.producer = None
    first.pauseProducing = full  # type: ignore[method-assign]
    first.transport.registerProducer(first, streaming=True)
    broadcast(receivers, "a")
    clock.advance(0)
    clock.advance(0)
    assert read(last) == ["a", "first is full"]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["all", "all", "but", "but", "few", "text", "texts", "turn", "reclaim", "ping"]
        ),
        st.integers(0, COUNT - 1),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
def test_it_is_as_if_each_collected_by_itself(operations: list[tuple[str, int]]) -> None:
    clock = Clock()
    factory = RecorderFactory(BIG, clock)
    receivers: Receivers = [connect(factory) for _ in range(COUNT)]
    few = receivers[1:]
    expected: list[list[str]] = [[] for _ in receivers]
    pending: list[list[str]] = [[] for _ in receivers]

    def written(index: int) -> None:
        expected[index] += pending[index]
        pending[index].clear()

    for number, (operation, index) in enumerate(operations):
        text = str(number)
        if operation in {"all", "but", "few"}:
            chosen = few if operation == "few" else receivers
            but = receivers[index] if operation == "but" else None
            broadcast(chosen, text, but=but)
            for each in chosen:
                if each is not but:
                    pending[receivers.index(each)].append(text)
        elif operation == "turn":
            clock.advance(0)
            for position in range(COUNT):
                written(position)
        elif operation == "reclaim":
            reclaimed = [each.text.decode() for each in receivers[index].reclaim()]
            assert reclaimed == pending[index]
            pending[index].clear()
        elif operation == "ping":
            receivers[index].send_ping()
            written(index)
            expected[index].append("")
        else:
            texts = [text] if operation == "text" else [text, text + "+"]
            if operation == "text":
                receivers[index].send_text(text.encode())
            else:
                receivers[index].send_texts([each.encode() for each in texts])
            pending[index] += texts
        assert [bool(each.unsent) for each in receivers] == [bool(each) for each in pending]
    clock.advance(0)
    assert [read(each) for each in receivers] == [
        [*done, *rest] for done, rest in zip(expected, pending, strict=True)
    ]
