"""Which of the two kinds of client a peer is."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acebase_ipc.protocol.dialect import Dialect, has_acebase_fingerprint, is_envelope, json_string

MASTER = "[master]"
WORKER = "0123456789abcdefghijklmn"

TYPES = [
    "hello",
    "bye",
    "pulse",
    "subscribe",
    "unsubscribe",
    "event",
    "lock-request",
    "lock-result",
    "unlock-request",
    "unlock-result",
    "move-lock-request",
    "notification",
    "request",
    "result",
]
"""The contract's list."""

HEAD = 512
"""Bytes in which an envelope must name its sender."""


def test_the_names_are_those_of_the_option_and_the_query() -> None:
    assert [each.value for each in Dialect] == ["documented", "acebase"]


# The fingerprint


@pytest.mark.parametrize("client_id", [MASTER, WORKER, "z" * 24, "0" * 24])
@pytest.mark.parametrize("token", [b"undefined", b"", b"secret", b"a+b==", b"%20"])
def test_published_clients_ask_in_their_own_order(client_id: str, token: bytes) -> None:
    query = b"v=1.0.0&id=%s&t=%s" % (client_id.encode(), token)
    assert has_acebase_fingerprint(query, client_id)


@pytest.mark.parametrize(
    "query",
    [
        b"id=[master]&v=1.0.0&t=x",
        b"v=1.0.0&t=x&id=[master]",
        b"t=x&v=1.0.0&id=[master]",
        b"v=1.0.0&id=[master]",
        b"v=1.0.0&id=[master]&t",
        b"v=1.0.0&id=[master]&t=x&",
        b"v=1.0.0&id=[master]&t=x&u=y",
        b"u=y&v=1.0.0&id=[master]&t=x",
        b"&v=1.0.0&id=[master]&t=x",
        b"v=1.0.0&&id=[master]&t=x",
        b"V=1.0.0&id=[master]&t=x",
        b"v=1.0.0&Id=[master]&t=x",
        b"v=1.0.0&id=[master]&T=x",
        b"",
    ],
)
def test_any_other_query_is_no_fingerprint(query: bytes) -> None:
    assert not has_acebase_fingerprint(query, MASTER)


@pytest.mark.parametrize(
    "client_id",
    [
        "master",
        "[master",
        "[master]]",
        "[MASTER]",
        "[master]\n",
        WORKER[:-1],
        WORKER + "0",
        WORKER + "\n",
        WORKER.upper(),
        WORKER[:-1] + "-",
        WORKER[:-1] + "ä",
        WORKER[:-1] + "٣",
        "",
    ],
)
def test_any_other_id_is_no_fingerprint(client_id: str) -> None:
    query = b"v=1.0.0&id=%s&t=x" % client_id.encode()
    assert not has_acebase_fingerprint(query, client_id)


# Envelopes


def envelope(kind: str, sender: str, **more: object) -> bytes:
    """As ``JSON.stringify`` writes it."""
    values = {"type": kind, **more, "from": sender}
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_the_contract_makes_an_envelope(kind: str) -> None:
    assert is_envelope(envelope(kind, WORKER), WORKER)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "Hello",
        "HELLO",
        "hell",
        "hello ",
        "helloo",
        "lock",
        "lock-requests",
        "unlock",
        "message",
    ],
)
def test_no_other_type_does(kind: str) -> None:
    assert not is_envelope(envelope(kind, WORKER), WORKER)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"type":"',
        b'{"type":"hello"',
        b'{"type":"hello"}',
        b'{"from":"0123456789abcdefghijklmn","type":"hello"}',
        b'{"type": "hello","from":"0123456789abcdefghijklmn"}',
        b'{ "type":"hello","from":"0123456789abcdefghijklmn"}',
        b' {"type":"hello","from":"0123456789abcdefghijklmn"}',
        b'x{"type":"hello","from":"0123456789abcdefghijklmn"}',
        b'{"type":"hello","from": "0123456789abcdefghijklmn"}',
        b'{"type":"hello","From":"0123456789abcdefghijklmn"}',
        b'{"type":"hello","to":"0123456789abcdefghijklmn"}',
        b'{"type":"hello","from":0123456789abcdefghijklmn}',
        b"{'type':'hello','from':'0123456789abcdefghijklmn'}",
    ],
)
def test_an_envelope_starts_with_its_type_and_names_its_sender(body: bytes) -> None:
    assert not is_envelope(body, WORKER)


@pytest.mark.parametrize("other", [WORKER + "0", "0" + WORKER, WORKER[:-1], MASTER, ""])
def test_an_envelope_of_another_peer_tells_nothing(other: str) -> None:
    assert not is_envelope(envelope("hello", other), WORKER)


def padded(sender: str, end: int) -> bytes:
    """An envelope in which the sender's closing quotation mark is byte number *end*."""
    bare = envelope("event", sender, pad="")
    return envelope("event", sender, pad="x" * (end + len(b"}") - len(bare)))


@pytest.mark.parametrize("sender", [WORKER, MASTER, "漢字漢字漢"])
def test_the_sender_has_to_be_named_within_the_first_512_bytes(sender: str) -> None:
    assert len(padded(sender, HEAD)) == HEAD + 1
    assert is_envelope(padded(sender, HEAD - 1), sender)
    assert is_envelope(padded(sender, HEAD), sender)
    assert not is_envelope(padded(sender, HEAD + 1), sender)
    assert not is_envelope(padded(sender, HEAD + 1000), sender)


def test_what_follows_the_sender_may_have_any_length() -> None:
    body = envelope("event", WORKER)[:-1] + b',"data":"%s"}' % (b"x" * 100_000)
    assert is_envelope(body, WORKER)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("worker", '"worker"'),
        ('a"b', r'"a\"b"'),
        ("a\\b", r'"a\\b"'),
        ("a/b", '"a/b"'),
        ("äöü漢😀", '"äöü漢😀"'),
        ("\u2028\u2029", '"\u2028\u2029"'),
        ("\x7f", '"\x7f"'),
        ("<&>'", '"<&>\'"'),
        ("\b\t\n\f\r", r'"\b\t\n\f\r"'),
        ("\x00\x1f", r'"\u0000\u001f"'),
    ],
)
def test_strings_are_written_as_json_stringify_does(text: str, written: str) -> None:
    assert json_string(text) == written.encode()


@pytest.mark.parametrize("sender", ['the "first"', "back\\slash", 'both\\"', "😀😀😀😀😀", "<&/>'"])
def test_an_id_that_json_escapes_is_recognised(sender: str) -> None:
    assert is_envelope(envelope("hello", sender), sender)
    if json_string(sender) != b'"%s"' % sender.encode():
        assert not is_envelope(b'{"type":"hello","from":"%s"}' % sender.encode(), sender)


@given(st.sampled_from(TYPES), st.text(), st.text())
@example("hello", 'a"', "a")
@example("hello", "a\\", 'a"')
def test_exactly_the_own_envelopes_count(kind: str, sender: str, other: str) -> None:
    assert is_envelope(envelope(kind, sender), sender)
    assert is_envelope(envelope(kind, sender), other) == (sender == other)


@given(st.binary(), st.text())
@example(b'{"type":"\xff"', "a")
@example(b'{"type":"hello"\xff\xff', "a")
def test_any_bytes_can_be_looked_at(body: bytes, sender: str) -> None:
    assert not is_envelope(body, sender)
