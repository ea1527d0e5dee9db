"""The wire protocol: what a message asks for, and what peers are told."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.errors import InvalidAddress
from acebase_ipc.protocol.messages import (
    MASTER,
    PING,
    PONG,
    Audience,
    announcement,
    connected,
    disconnected,
    parse,
    render,
    utf16_units,
    welcome,
)

CJK = "漢"
EMOJI = "😀"

texts = st.text().map(str.encode)
addressees = st.binary(min_size=1).filter(lambda each: b";" not in each and each != b"all")


# What a peer sends


@pytest.mark.parametrize(
    ("message", "audience", "body"),
    [
        (b"ping", Audience.RELAY, b"ping"),
        (b"hello", Audience.OTHERS, b"hello"),
        (b"", Audience.OTHERS, b""),
        (b'{"type":"x"}', Audience.OTHERS, b'{"type":"x"}'),
        (b"to:peer1;body", b"peer1", b"body"),
        (b"to:peer1;", b"peer1", b""),
        (b"to:[master];body", b"[master]", b"body"),
        (b"to:all;body", Audience.OTHERS, b"body"),
        (b"to:all;", Audience.OTHERS, b""),
        (b"to:all;ping", Audience.OTHERS, b"ping"),
    ],
)
def test_a_message_is_for_somebody(message: bytes, audience: bytes | Audience, body: bytes) -> None:
    assert parse(message) == (audience, body)


@pytest.mark.parametrize(
    "message",
    [b"pings", b"ping ", b" ping", b"Ping", b"PING", b"pong", b"ping;", b"ping\n"],
)
def test_only_the_very_word_ping_is_for_the_relay(message: bytes) -> None:
    assert parse(message) == (Audience.OTHERS, message)


@pytest.mark.parametrize(
    "message", [b"to", b"To:peer1;x", b"TO:peer1;x", b" to:peer1;x", b"to :peer1;x", b"top:a;x"]
)
def test_only_to_and_a_colon_at_the_beginning_address_a_message(message: bytes) -> None:
    assert parse(message) == (Audience.OTHERS, message)


@pytest.mark.parametrize(
    "message", [b"to:ALL;x", b"to:All;x", b"to: all;x", b"to:all ;x", b"to:allx;x"]
)
def test_only_the_very_word_all_addresses_all(message: bytes) -> None:
    assert parse(message) == (message[3 : message.index(b";")], b"x")


def test_an_address_ends_at_the_first_semicolon() -> None:
    assert parse(b"to:peer1;a;b;to:x;c") == (b"peer1", b"a;b;to:x;c")


def test_an_address_is_taken_as_it_is() -> None:
    assert parse(b"to: peer 1 ;x") == (b" peer 1 ", b"x")
    assert parse(b"to:to:peer1;x") == (b"to:peer1", b"x")
    assert parse(f"to:{CJK};{EMOJI}".encode()) == (CJK.encode(), EMOJI.encode())


@pytest.mark.parametrize(
    "message", [b"to:", b"to:peer1", b"to:all", b"to:peer1:x", b"to:;", b"to:;x"]
)
def test_an_address_needs_an_id_and_a_semicolon(message: bytes) -> None:
    with pytest.raises(InvalidAddress):
        parse(message)


@given(addressees, st.binary())
@example(b"alli", b"")
@example(b"\n", b"\n")
def test_any_id_without_a_semicolon_can_be_addressed(addressee: bytes, body: bytes) -> None:
    assert parse(b"to:" + addressee + b";" + body) == (addressee, body)


@given(st.binary())
def test_a_body_for_all_arrives_whole(body: bytes) -> None:
    assert parse(b"to:all;" + body) == (Audience.OTHERS, body)


@given(st.binary().filter(lambda each: not each.startswith(b"to:") and each != b"ping"))
def test_anything_else_is_a_broadcast_of_the_whole_message(message: bytes) -> None:
    assert parse(message) == (Audience.OTHERS, message)


@given(st.binary().filter(lambda each: b";" not in each))
def test_without_a_semicolon_nothing_is_addressed(address: bytes) -> None:
    with pytest.raises(InvalidAddress):
        parse(b"to:" + address)


# What a peer receives


@pytest.mark.parametrize("body", [b"{}", b'{"type":"x"}', b"{", b"{not JSON"])
def test_an_acebase_peer_receives_what_starts_with_a_brace_as_it_is(body: bytes) -> None:
    assert render(body, Dialect.ACEBASE) == body


@pytest.mark.parametrize(
    "body", [b"", b"pong", b"disconnect:worker1", b"get:1", b"welcome:{}", b' {"a":1}', b"[{}]"]
)
def test_nothing_can_be_forged_for_an_acebase_peer(body: bytes) -> None:
    assert render(body, Dialect.ACEBASE) == b"msg:" + body


@given(st.binary() | st.binary().map(b"{".__add__))
def test_a_documented_peer_receives_every_body_behind_msg(body: bytes) -> None:
    assert render(body, Dialect.DOCUMENTED) == b"msg:" + body


def test_the_welcome_is_as_the_documentation_has_it() -> None:
    assert welcome(16384) == b'welcome:{"maxPayload":16384}'


@given(st.integers(1, 2**30))
def test_the_welcome_is_json_with_the_limit(limit: int) -> None:
    word, _, rest = welcome(limit).partition(b":")
    assert (word, json.loads(rest)) == (b"welcome", {"maxPayload": limit})


def test_peers_come_and_go_under_their_ids() -> None:
    peer_id = f'"{CJK}":x'.encode()
    assert connected(peer_id) == b"connect:" + peer_id
    assert disconnected(peer_id) == b"disconnect:" + peer_id


def test_an_announcement_names_the_message() -> None:
    assert announcement("aZ0-_") == b"get:aZ0-_"


def test_words_are_as_clients_know_them() -> None:
    assert (PING, PONG, MASTER) == (b"ping", b"pong", b"[master]")


# The length of a message


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("", 0),
        ("a", 1),
        ("\x00\x7f", 2),
        ("\x80", 1),
        ("é", 1),
        ("e\u0301", 2),
        (CJK * 10_000, 10_000),
        ("\uffff", 1),
        ("\U00010000", 2),
        (EMOJI, 2),
        ("👩‍👩‍👧", 8),
        (f"to:peer1;{CJK}{EMOJI}", 12),
    ],
)
def test_a_length_counts_as_in_javascript(text: str, units: int) -> None:
    assert utf16_units(text.encode()) == units


@given(st.text())
def test_characters_beyond_the_basic_plane_count_twice(text: str) -> None:
    assert utf16_units(text.encode()) == sum(2 if each > "\uffff" else 1 for each in text)


@given(texts, texts)
def test_lengths_add_up(one: bytes, two: bytes) -> None:
    assert utf16_units(one + two) == utf16_units(one) + utf16_units(two)


@given(texts)
def test_a_unit_needs_one_to_three_bytes(text: bytes) -> None:
    assert utf16_units(text) <= len(text) <= 3 * utf16_units(text)
