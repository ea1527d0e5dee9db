"""The numbers of messages in a resumable session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.protocol.errors import InvalidNumber, MissingMessages
from acebase_ipc.protocol.numbers import (
    ACK_EVERY,
    MAX_DIGITS,
    ReceivedNumbers,
    SentNumbers,
    numbered,
    split_number,
)


@given(st.integers(0, 10**MAX_DIGITS - 1), st.binary())
def test_a_number_and_a_message_can_be_told_apart(number: int, message: bytes) -> None:
    assert split_number(numbered(number, message)) == (number, message)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"n:",
        b"n:;x",
        b"n:1",
        b"n:-1;x",
        b"n:+1;x",
        b"n: 1;x",
        b"n:1_0;x",
        "n:١;x".encode(),
        b"n:12345678901234567;x",
        b"m:1;x",
        b"to:alice;n:1;x",
    ],
)
def test_what_has_no_number_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidNumber):
        split_number(text)


def test_numbers_count_from_one_and_are_kept_until_they_are_acknowledged() -> None:
    numbers = SentNumbers()
    assert [numbers.take() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert numbers.acknowledge(2) == 2
    assert numbers.acknowledge(2) == numbers.acknowledge(1) == 0
    assert numbers.kept == 3
    with pytest.raises(InvalidNumber):
        numbers.acknowledge(6)
    assert numbers.acknowledge(5) == 3
    assert numbers.take() == 6


def test_what_the_other_end_has_not_received_is_sent_again_with_its_number() -> None:
    numbers = SentNumbers()
    for _ in range(5):
        numbers.take()
    numbers.acknowledge(2)
    assert [each for each in range(8) if numbers.can_resume(each)] == [2, 3, 4, 5]
    assert numbers.resume(3) == 1
    assert numbers.take() == 4
    assert numbers.can_resume(5), "it may have arrived on the first connection"
    assert not numbers.can_resume(2)
    with pytest.raises(InvalidNumber):
        numbers.acknowledge(5)


def test_each_number_is_received_once_and_in_order() -> None:
    received = ReceivedNumbers()
    assert [received.accept(each) for each in (1, 2, 2, 1, 3)] == [True, True, False, False, True]
    with pytest.raises(MissingMessages):
        received.accept(5)
    assert received.last == 3


def test_an_acknowledgement_is_due_after_so_many_messages() -> None:
    received = ReceivedNumbers()
    assert not received.is_untold
    for number in range(1, ACK_EVERY):
        received.accept(number)
    assert (received.is_untold, received.is_due) == (True, False)
    received.accept(ACK_EVERY)
    assert received.is_due
    assert received.acknowledgement() == b"ack:%d" % ACK_EVERY
    assert (received.is_untold, received.is_due) == (False, False)
