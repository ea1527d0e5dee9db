"""Messages that wait to be sent."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.client.errors import QueueFull
from acebase_ipc.client.outbox import MAX_MESSAGES, Outbox
from acebase_ipc.protocol.messages import OTHERS, compose, parse


def outbox_of(*messages: bytes, max_bytes: int = 10) -> Outbox[bytes]:
    outbox: Outbox[bytes] = Outbox(max_bytes)
    for each in messages:
        outbox.put(each, each)
    return outbox


def rest(outbox: Outbox[bytes]) -> list[bytes]:
    return [outbox.take().message for _ in range(len(outbox))]


def test_first_in_is_first_out() -> None:
    outbox = outbox_of(b"a", b"b")
    assert outbox.peek().message == b"a"
    assert rest(outbox) == [b"a", b"b"]


def test_the_length_is_counted_as_the_relay_counts_it() -> None:
    assert outbox_of("a𝄞".encode()).take().units == 3


def test_it_is_full_beyond_so_many_bytes() -> None:
    outbox = outbox_of(b"12345", b"67890")
    with pytest.raises(QueueFull, match="more than 10 bytes"):
        outbox.put(b"6", b"6")
    outbox.take()
    outbox.put(b"12345", b"x")
    assert len(outbox) == 2


def test_what_waits_elsewhere_counts() -> None:
    outbox = outbox_of()
    with pytest.raises(QueueFull):
        outbox.put(b"12345", b"", elsewhere=6)
    outbox.put(b"12345", b"", elsewhere=5)


def test_it_is_full_beyond_so_many_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acebase_ipc.client.outbox.MAX_MESSAGES", 3)
    outbox = outbox_of(b"", b"1", b"2")
    with pytest.raises(QueueFull, match="too many messages"):
        outbox.put(b"", b"3")
    outbox.take()
    outbox.put(b"", b"3")
    assert len(outbox) == 3


def test_all_can_be_taken_back_in_any_order_in_little_time() -> None:
    outbox: Outbox[int] = Outbox(10)
    for ticket in range(MAX_MESSAGES):
        outbox.put(b"", ticket)
    began = perf_counter()
    assert all(outbox.discard(ticket) for ticket in reversed(range(MAX_MESSAGES)))
    assert perf_counter() - began < 5  # minutes, where each looks through all
    assert len(outbox) == 0


def test_all_can_be_taken_at_once() -> None:
    outbox = outbox_of(b"b", b"c")
    outbox.put_ahead(True)
    outbox.put(b"a", b"a")
    assert [each.message for each in outbox.take_all()] == [b"a", b"b", b"c"]
    assert len(outbox) == 0
    outbox.put(b"1234567890", b"")


def test_what_goes_first_goes_before_what_went_first_earlier() -> None:
    outbox = outbox_of(b"e")
    for pair in ((b"c", b"d"), (b"a", b"b")):
        outbox.put_ahead(True)
        for each in pair:
            outbox.put(each, each)
    assert rest(outbox) == [b"a", b"b", b"c", b"d", b"e"]


def test_a_message_of_any_size_may_wait_alone() -> None:
    outbox = outbox_of(b"x" * 11)
    with pytest.raises(QueueFull):
        outbox.put(b"", b"")
    assert len(outbox) == 1


def test_some_can_go_first_in_their_order() -> None:
    outbox = outbox_of(b"c", b"d")
    outbox.put_ahead(True)
    outbox.put(b"a", b"a")
    outbox.put(b"b", b"b")
    outbox.put_ahead(False)
    outbox.put(b"e", b"e")
    assert rest(outbox) == [b"a", b"b", b"c", b"d", b"e"]


def test_a_message_can_be_taken_back() -> None:
    outbox = outbox_of(b"a", b"12345678", b"b")
    outbox.discard(b"12345678")
    outbox.discard(b"never there")
    outbox.put(b"12345678", b"c")
    assert rest(outbox) == [b"a", b"b", b"12345678"]


def test_what_goes_first_can_be_taken_back_or_be_gone_already() -> None:
    outbox = outbox_of(b"d")
    outbox.put_ahead(True)
    for each in (b"x", b"a", b"b"):
        outbox.put(each, each)
    outbox.discard(b"x")
    assert outbox.take().message == b"a"
    outbox.put(b"c", b"c")
    assert rest(outbox) == [b"b", b"c", b"d"]


@given(st.text())
def test_whatever_is_broadcast_the_relay_understands_as_that(body: str) -> None:
    assert parse(compose(body, None)) == (OTHERS, body.encode())


@pytest.mark.parametrize("body", ["ping", "to:", "to:somebody;x", "pong", ""])
def test_what_looks_like_the_protocol_is_broadcast_too(body: str) -> None:
    assert parse(compose(body, None)) == (OTHERS, body.encode())


@given(st.text())
def test_whatever_is_addressed_the_relay_understands_as_that(body: str) -> None:
    assert parse(compose(body, "[mäster]")) == ("[mäster]".encode(), body.encode())


def test_what_is_no_unicode_is_refused() -> None:
    with pytest.raises(ValueError, match="lone surrogates"):
        compose("\ud800", None)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="not bytes"):
        compose(b"x", None)  # type: ignore[arg-type]
