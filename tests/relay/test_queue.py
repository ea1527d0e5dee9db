"""Frames that wait for one peer, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.relay.queue import MessageQueue

senders = st.none() | st.sampled_from([b"peer1", b"peer2"])
entries = st.lists(st.tuples(st.binary(max_size=9), senders), max_size=4)

EVERYTHING = 2**60


def filled(waiting: list[tuple[bytes, bytes | None]]) -> MessageQueue:
    backlog = MessageQueue()
    for frame, sender in waiting:
        backlog.append(frame, sender)
    return backlog


def test_a_new_backlog_is_empty() -> None:
    backlog = MessageQueue()
    assert (len(backlog), backlog.size, backlog.take(1), backlog.clear()) == (0, 0, [], 0)


def test_frames_leave_in_the_order_they_came() -> None:
    backlog = filled([(b"a", None), (b"b", b"peer1")])
    assert backlog.take(1) == [b"a"]
    backlog.append(b"c")
    assert backlog.take(EVERYTHING) == [b"b", b"c"]


def test_a_frame_is_never_split() -> None:
    backlog = filled([(b"four", None), (b"four", None), (b"four", None)])
    assert backlog.take(5) == [b"four", b"four"]
    assert (len(backlog), backlog.size) == (1, 4)


def test_nothing_is_taken_when_nothing_is_enough() -> None:
    backlog = filled([(b"a", None)])
    assert (backlog.take(0), len(backlog)) == ([], 1)


@given(entries)
def test_size_and_length_tell_what_waits(waiting: list[tuple[bytes, bytes | None]]) -> None:
    backlog = filled(waiting)
    assert (len(backlog), backlog.size) == (len(waiting), sum(len(each) for each, _ in waiting))


@given(entries, st.integers(0, 100))
def test_as_few_frames_are_taken_as_are_enough(
    waiting: list[tuple[bytes, bytes | None]], enough: int
) -> None:
    backlog = filled(waiting)
    frames = [frame for frame, _ in waiting]
    total = backlog.size
    taken = backlog.take(enough)
    assert taken == frames[: len(taken)]
    assert sum(map(len, taken)) >= min(enough, total)
    assert not taken or sum(map(len, taken[:-1])) < enough
    assert backlog.size == total - sum(map(len, taken))
    assert backlog.take(EVERYTHING) == frames[len(taken) :]
    assert backlog.size == 0


@given(entries)
def test_clearing_counts_the_frames(waiting: list[tuple[bytes, bytes | None]]) -> None:
    backlog = filled(waiting)
    assert backlog.clear() == len(waiting)
    assert (len(backlog), backlog.size, backlog.take(EVERYTHING)) == (0, 0, [])


@given(entries, st.lists(st.binary(max_size=9), max_size=4))
def test_what_was_given_back_comes_first(
    waiting: list[tuple[bytes, bytes | None]], frames: list[bytes]
) -> None:
    backlog = filled(waiting)
    backlog.prepend(frames)
    assert (len(backlog), backlog.size) == (
        len(frames) + len(waiting),
        sum(map(len, frames)) + sum(len(each) for each, _ in waiting),
    )
    assert backlog.take(EVERYTHING) == [*frames, *(frame for frame, _ in waiting)]


def test_nobody_is_known_to_have_sent_what_was_given_back() -> None:
    backlog = filled([(b"later", b"peer1")])
    backlog.prepend([b"earlier"])
    assert backlog.discard_if(lambda sender: sender is not None) == 1
    assert backlog.take(EVERYTHING) == [b"earlier"]


@given(entries, st.sets(senders))
def test_only_the_unwanted_frames_are_discarded(
    waiting: list[tuple[bytes, bytes | None]], unwanted: set[bytes | None]
) -> None:
    backlog = filled(waiting)
    kept = [frame for frame, sender in waiting if sender not in unwanted]
    assert backlog.discard_if(unwanted.__contains__) == len(waiting) - len(kept)
    assert (len(backlog), backlog.size) == (len(kept), sum(map(len, kept)))
    assert backlog.take(EVERYTHING) == kept


@given(entries, entries, st.sets(senders))
def test_frames_move_with_their_senders_behind_what_waits(
    first: list[tuple[bytes, bytes | None]],
    second: list[tuple[bytes, bytes | None]],
    unwanted: set[bytes | None],
) -> None:
    target, source = filled(first), filled(second)
    source.move_to(target)
    assert (len(source), source.size) == (0, 0)
    assert target.size == filled([*first, *second]).size
    target.discard_if(unwanted.__contains__)
    assert target.take(EVERYTHING) == [
        frame for frame, sender in [*first, *second] if sender not in unwanted
    ]
