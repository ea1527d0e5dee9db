"""Messages that wait for one peer, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.memory import ENTRY_OVERHEAD, MESSAGE_OVERHEAD, MemoryBudget
from acebase_ipc.relay.queue import MessageQueue, memory_of

Waiting = list[tuple[bytes, object]]

senders = st.none() | st.sampled_from([b"peer1", b"peer2"])
entries = st.lists(st.tuples(st.binary(max_size=9), senders), max_size=4)

EVERYTHING = 2**60


def empty() -> tuple[MessageQueue, MemoryBudget]:
    budget = MemoryBudget(EVERYTHING)
    return MessageQueue(budget), budget


def filled(waiting: Waiting) -> tuple[MessageQueue, MemoryBudget]:
    queue, budget = empty()
    for text, sender in waiting:
        queue.append(Message(text), sender)
    return queue, budget


def texts(messages: list[Message]) -> list[bytes]:
    return [each.text for each in messages]


def occupied(*sizes: int) -> int:
    return sum(map(memory_of, sizes))


def test_a_new_queue_is_empty() -> None:
    queue, budget = empty()
    assert (len(queue), queue.memory, queue.take(1), queue.clear()) == (0, 0, [], 0)
    assert budget.in_queues == 0


def test_messages_leave_in_the_order_they_came() -> None:
    queue, _ = filled([(b"a", None), (b"b", b"peer1")])
    assert texts(queue.take(1)) == [b"a"]
    queue.append(Message(b"c"))
    assert texts(queue.take(EVERYTHING)) == [b"b", b"c"]


def test_a_message_is_never_split() -> None:
    queue, _ = filled([(b"four", None), (b"four", None), (b"four", None)])
    assert texts(queue.take(5)) == [b"four", b"four"]
    assert (len(queue), queue.memory) == (1, occupied(4))


def test_nothing_is_taken_when_nothing_is_enough() -> None:
    queue, _ = filled([(b"a", None)])
    assert (queue.take(0), len(queue)) == ([], 1)


@given(entries)
def test_memory_and_length_tell_what_waits(waiting: Waiting) -> None:
    queue, budget = filled(waiting)
    sizes = [len(each) for each, _ in waiting]
    assert (len(queue), queue.memory) == (len(waiting), occupied(*sizes))
    assert budget.in_queues == queue.memory
    assert [each.text for each in queue] == [text for text, _ in waiting]


@given(entries, st.integers(0, 100))
def test_as_few_messages_are_taken_as_are_enough(waiting: Waiting, enough: int) -> None:
    queue, budget = filled(waiting)
    all_texts = [text for text, _ in waiting]
    taken = texts(queue.take(enough))
    assert taken == all_texts[: len(taken)]
    assert sum(map(len, taken)) >= min(enough, sum(map(len, all_texts)))
    assert not taken or sum(map(len, taken[:-1])) < enough
    assert queue.memory == occupied(*map(len, all_texts[len(taken) :])) == budget.in_queues
    assert texts(queue.take(EVERYTHING)) == all_texts[len(taken) :] or not any(all_texts)


@given(entries)
def test_clearing_counts_the_messages(waiting: Waiting) -> None:
    queue, budget = filled(waiting)
    assert queue.clear() == len(waiting)
    assert (len(queue), queue.memory, budget.in_queues) == (0, 0, 0)


@given(entries, st.lists(st.binary(max_size=9), max_size=4))
def test_what_was_given_back_comes_first(waiting: Waiting, returned: list[bytes]) -> None:
    queue, budget = filled(waiting)
    queue.prepend([Message(each) for each in returned])
    expected = [*returned, *(text for text, _ in waiting)]
    assert queue.memory == occupied(*map(len, expected)) == budget.in_queues
    assert [each.text for each in queue] == expected


def test_the_sender_of_what_was_given_back_is_not_known() -> None:
    queue, _ = filled([(b"later", b"peer1")])
    queue.prepend([Message(b"earlier")])
    assert queue.discard_if(lambda _, sender: sender is not None) == 1
    assert texts(queue.take(EVERYTHING)) == [b"earlier"]


@given(entries, st.sets(senders))
def test_only_the_unwanted_messages_are_discarded(waiting: Waiting, unwanted: set[object]) -> None:
    queue, budget = filled(waiting)
    kept = [text for text, sender in waiting if sender not in unwanted]
    assert queue.discard_if(lambda _, sender: sender in unwanted) == len(waiting) - len(kept)
    assert [each.text for each in queue] == kept
    assert queue.memory == occupied(*map(len, kept)) == budget.in_queues


@given(entries, entries, st.sets(senders))
def test_messages_move_with_their_senders_behind_what_waits(
    first: Waiting, second: Waiting, unwanted: set[object]
) -> None:
    target, _ = filled(first)
    source, _ = filled(second)
    source.move_to(target)
    assert (len(source), source.memory) == (0, 0)
    assert target.memory == filled([*first, *second])[0].memory
    target.discard_if(lambda _, sender: sender in unwanted)
    assert [each.text for each in target] == [
        text for text, sender in [*first, *second] if sender not in unwanted
    ]


@given(entries)
def test_all_messages_can_be_taken_as_a_queue(waiting: Waiting) -> None:
    queue, budget = filled(waiting)
    before = budget.in_queues
    taken = queue.take_all()
    assert (len(queue), queue.memory) == (0, 0)
    assert [each.text for each in taken] == [text for text, _ in waiting]
    assert budget.in_queues == before == taken.memory


@given(entries)
def test_texts_can_be_changed(waiting: Waiting) -> None:
    queue, budget = filled(waiting)
    queue.change_each(lambda text: b"msg:" + text)
    assert [each.text for each in queue] == [b"msg:" + text for text, _ in waiting]
    assert queue.memory == budget.in_queues


def test_a_message_that_waits_in_many_queues_is_counted_once() -> None:
    budget = MemoryBudget(EVERYTHING)
    queues = [MessageQueue(budget) for _ in range(100)]
    message = Message(b"x" * 1000)
    for queue in queues:
        queue.append(message)
    assert budget.in_queues == 1000 + MESSAGE_OVERHEAD + 100 * ENTRY_OVERHEAD
    for queue in queues[1:]:
        queue.clear()
    assert budget.in_queues == memory_of(1000)
    queues[0].clear()
    assert budget.in_queues == 0


def test_a_single_message_always_fits() -> None:
    queue, _ = empty()
    assert queue.fits(10, more=1000)
    queue.append(Message(b"x" * 1000))
    assert queue.fits(10)
    assert not queue.fits(10, more=1)
