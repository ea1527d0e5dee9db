"""What the processes of a database tell each other."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acebase_ipc.protocol.dialect import is_envelope
from acebase_ipc.protocol.envelopes import (
    MASTER,
    Bye,
    Envelope,
    Event,
    Hello,
    InvalidEnvelope,
    Mutation,
    Notification,
    Other,
    Request,
    Result,
    bye,
    failure,
    hello,
    notification,
    parse,
    request,
    result,
    subscribe,
    unknown,
    unsubscribe,
)

WORKER = "mwu1xmfj0000tv7dy35mbyzk"
ME = "p" * 24
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DATE = {".type": "date", ".val": "1970-01-01T00:00:00.000Z"}

# As npm acebase 1.29.13 sent them.
REAL: dict[str, Envelope] = {
    '{"type":"hello","from":"[master]"}': Hello(MASTER),
    f'{{"type":"hello","from":"{WORKER}","to":"{ME}"}}': Hello(WORKER, ME),
    f'{{"type":"bye","from":"{WORKER}"}}': Bye(WORKER),
    f'{{"type":"subscribe","from":"{WORKER}","data":{{"path":"users","event":"value"}}}}': (
        Other("subscribe", WORKER)
    ),
    f'{{"type":"event","from":"{WORKER}","to":"{ME}","path":"users/$uid","event":"child_changed",'
    '"data":{"path":"users/a/name","val":"B","previous":"A","context":{}}}': (
        Event("users/$uid", "child_changed", "users/a/name", "B", "A", {}, WORKER)
    ),
    f'{{"type":"event","from":"{WORKER}","to":"{ME}","path":"users","event":"notify_value",'
    '"data":{"path":"users","val":{"seed":0},"previous":null,"context":{"x":1}}}': (
        Event("users", "notify_value", "users", None, None, {"x": 1}, WORKER)
    ),
    f'{{"type":"event","from":"{WORKER}","to":"{ME}","path":"x","event":"value",'
    '"data":{"path":"x","val":" \\ud800 é 💡","previous":1e+300}}': (
        Event("x", "value", "x", " \ud800 é 💡", 1e300, {}, WORKER)
    ),
    f'{{"type":"notification","from":"{WORKER}","data":{{"type":"cache.invalidate","path":"",'
    '"recursive":false,"reason":"x"}}': Notification(
        WORKER, {"type": "cache.invalidate", "path": "", "recursive": False, "reason": "x"}
    ),
    f'{{"type":"result","id":"r1","ok":true,"from":"[master]","to":"{ME}",'
    '"data":{"ok":true,"index":3}}': Result(MASTER, "r1", True, {"ok": True, "index": 3}, ""),
    f'{{"type":"result","id":"r1","ok":false,"from":"[master]","to":"{ME}","reason":"why"}}': (
        Result(MASTER, "r1", False, None, "why")
    ),
    f'{{"type":"request","from":"{WORKER}","to":"[master]","id":"r2",'
    '"data":{"type":"kit.add","key":"surname"}}': (
        Request(WORKER, MASTER, "r2", {"type": "kit.add", "key": "surname"})
    ),
    f'{{"type":"lock-request","id":"l1","from":"{WORKER}","to":"[master]","data":{{}}}}': (
        Other("lock-request", WORKER)
    ),
}


@pytest.mark.parametrize("text", REAL)
def test_what_published_clients_send_is_understood(text: str) -> None:
    assert parse(text) == REAL[text]


def test_typed_values_are_decoded_except_in_events() -> None:
    data = {"when": DATE}
    assert parse(_message("notification", data=data)) == Notification(WORKER, {"when": EPOCH})
    assert parse(_message("request", id="1", data=data)) == (
        Request(WORKER, None, "1", {"when": EPOCH})
    )
    assert parse(_message("result", id="1", ok=True, data=data)) == (
        Result(WORKER, "1", True, {"when": EPOCH}, "")
    )
    # Where it is what the database holds.
    event = _message("event", path="a", event="value", data={"path": "a", "val": data})
    assert parse(event) == Event("a", "value", "a", data, None, {}, WORKER)


def test_mutations_are_told_one_by_one() -> None:
    value = [
        {"target": ["a", 0], "prev": "A", "val": "B"},
        {"target": [], "val": 1},
        {"target": "a"},
        "nonsense",
    ]
    event = Event("users", "mutations", "users", value, None, {}, WORKER)
    assert event.mutations == (Mutation(("a", 0), "B", "A"), Mutation((), 1, None))
    assert Event("users", "mutations", "users", None, None, {}, WORKER).mutations == ()
    assert Event("users", "value", "users", value, None, {}, WORKER).mutations == ()


@pytest.mark.parametrize(
    ("data", "name"), [({"type": "a"}, "a"), ({"type": 1}, "undefined"), ("text", "undefined")]
)
def test_a_request_has_a_type(data: Any, name: str) -> None:
    assert Request(WORKER, ME, "1", data).type == name


def test_a_context_that_is_no_object_is_none() -> None:
    event = parse(_message("event", path="", event="value", data={"path": "", "context": 7}))
    assert event == Event("", "value", "", None, None, {}, WORKER)


def _message(kind: str, **members: Any) -> str:
    return json.dumps({"type": kind, "from": WORKER, **members})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"hello"',
        "{}",
        '{"type":"hello"}',
        '{"type":"hello","from":7}',
        '{"type":"hello","from":"a;bcd"}',
        '{"type":"hello","from":"four"}',
        f'{{"from":"{WORKER}"}}',
        f'{{"type":7,"from":"{WORKER}"}}',
        _message("hello", to=7),
        _message("hello", to="four"),
        _message("event"),
        _message("event", data={}),
        _message("event", data=[], path="a", event="value"),
        _message("event", data={"path": "a"}, path="a"),
        _message("event", data={"path": 7}, path="a", event="value"),
        _message("event", data={"path": "a"}, path=["a"], event="value"),
        _message("request", data={}),
        _message("request", data={}, id=7),
        _message("result", ok=True),
        _message("result", id="1"),
        _message("result", id="1", ok=1),
        '{"type":"notification","from":"12345","data":NaN}',
        '{"type":"notification","from":"12345","data":-Infinity}',
        '{"type":"notification","from":"12345","data":' + "1" * 5000 + "}",
        '{"type":"notification","from":"12345","data":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type":"notification","from":"12345","data":' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}",
    ],
    ids=lambda text: text[:60],
)
def test_what_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(InvalidEnvelope):
        parse(text)


WORDS = ["type", "from", "to", "data", "path", "event", "id", "ok", "reason", "val", "context"]
TYPES = ["hello", "bye", "event", "notification", "request", "result", "lock-request"]
MEMBERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just(WORKER),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), children, max_size=4)
    ),
    max_leaves=8,
)


@given(
    st.text()
    | st.builds(
        lambda kind, members: json.dumps({"type": kind, "from": WORKER, **members}),
        st.sampled_from(TYPES),
        st.dictionaries(st.sampled_from(WORDS), MEMBERS),
    )
)
@example("[" * 100_000)
def test_nothing_but_invalid_envelope_is_raised(text: str) -> None:
    try:
        parse(text)
    except InvalidEnvelope:
        return


RENDERED: dict[str, Envelope] = {
    hello(ME): Hello(ME),
    hello(ME, WORKER): Hello(ME, WORKER),
    bye(ME): Bye(ME),
    subscribe(ME, "users/*", "value"): Other("subscribe", ME),
    unsubscribe(ME, "users/*", "value"): Other("unsubscribe", ME),
    notification(ME, {"when": EPOCH}): Notification(ME, {"when": EPOCH}),
    request(ME, WORKER, "1", b"hi"): Request(ME, WORKER, "1", b"hi"),
    result(ME, WORKER, "1", [2**60]): Result(ME, "1", True, [2**60], ""),
    failure(ME, WORKER, "1", "why"): Result(ME, "1", False, None, "why"),
    unknown(ME, WORKER, "1", "x"): Result(
        ME, "1", True, {"ok": False, "reason": 'Unknown ipc request "x"'}, ""
    ),
}


@pytest.mark.parametrize("text", RENDERED)
def test_what_is_rendered_is_an_envelope(text: str) -> None:
    assert parse(text) == RENDERED[text]
    assert is_envelope(text.encode(), ME)


def test_subscriptions_are_rendered_as_published_clients_do() -> None:
    assert subscribe(ME, "users", "value", WORKER) == (
        f'{{"type":"subscribe","from":"{ME}","to":"{WORKER}",'
        '"data":{"path":"users","event":"value"}}'
    )
    assert unsubscribe(ME, "users", "value") == (
        f'{{"type":"unsubscribe","from":"{ME}","data":{{"path":"users","event":"value"}}}}'
    )


def test_text_is_rendered_as_it_is_unless_it_cannot_be_encoded() -> None:
    assert '"é💡"' in notification(ME, "é💡")
    half = notification(ME, "é\ud800")
    assert '"\\u00e9\\ud800"' in half
    assert parse(half) == Notification(ME, "é\ud800")


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(TypeError):
        notification(ME, object())
    with pytest.raises(ValueError, match="JSON has no nan"):
        request(ME, WORKER, "1", float("nan"))
