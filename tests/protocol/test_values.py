"""AceBase's typed values, in JSON and in Python."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.protocol.values import (
    MAX_SAFE_INTEGER,
    PartialArray,
    PathReference,
    RegExp,
    decode,
    decode_dates,
    encode,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

VALUE = {
    "when": EPOCH,
    "bytes": b"\0\0\0\0hi",
    "ref": PathReference("users/x"),
    "re": RegExp("a(b)", "gi"),
    "big": 12345678901234567890,
    "list": [1, [datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)]],
    "text": "é",
    "some": PartialArray({0: "x", 7: EPOCH}),
}

# What Transport.serialize and Transport.serialize2 of acebase-core 1.27 make of it.
V1 = """{"val":{"when":"1970-01-01T00:00:00.000Z","bytes":"<~zBP@~>","ref":"users/x","re":\
{"pattern":"a(b)","flags":"gi"},"big":"12345678901234567890","list":[1,["2001-09-09T01:46:40.000Z"]\
],"text":"é","some":{"0":"x","7":"1970-01-01T00:00:00.000Z"}},"map":{"when":"date","bytes":"binary"\
,"ref":"reference","re":"regexp","big":"bigint","list/1/0":"date","some":"array","some/7":"date"}}"""
V2 = """{"when":{".type":"date",".val":"1970-01-01T00:00:00.000Z"},"bytes":{".type":"binary",\
".val":"<~zBP@~>"},"ref":{".type":"reference",".val":"users/x"},"re":{".type":"regexp",".val":\
"/a(b)/gi"},"big":{".type":"bigint",".val":"12345678901234567890"},"list":[1,[{".type":"date",\
".val":"2001-09-09T01:46:40.000Z"}]],"text":"é","some":{"0":"x","7":{".type":"date",".val":\
"1970-01-01T00:00:00.000Z"},".type":"array"}}"""

SINGLE = {
    "date": (EPOCH, "1970-01-01T00:00:00.000Z"),
    "binary": (b"", "<~~>"),
    "reference": (PathReference("q"), "q"),
    "regexp": (RegExp("x"), {"pattern": "x", "flags": ""}),
    "bigint": (-5, "-5"),
    "array": (PartialArray({3: 1}), {"3": 1}),
}


@pytest.mark.parametrize("text", [V1, V2], ids=["v1", "v2"])
def test_both_forms_are_decoded_wherever_they_are(text: str) -> None:
    assert decode(json.loads(text)) == VALUE
    assert decode({"outer": [json.loads(text)]}) == {"outer": [VALUE]}


@pytest.mark.parametrize("kind", SINGLE)
def test_a_single_value_is_decoded(kind: str) -> None:
    value, wire = SINGLE[kind]
    assert decode({"map": kind, "val": wire}) == value
    if kind != "array":
        assert decode({".type": kind.upper(), ".val": wire}) == value


def test_a_partial_array_is_decoded_at_the_top_and_from_an_array() -> None:
    assert decode({"val": {"3": "1"}, "map": {"": "array", "3": "bigint"}}) == PartialArray({3: 1})
    assert decode({"val": ["a"], "map": "array"}) == PartialArray({0: "a"})


def test_a_regular_expression_without_flags_is_decoded() -> None:
    assert decode({".type": "regexp", ".val": "/a/b//"}) == RegExp("a/b/")


def test_what_decoding_is_given_stays_as_it_is() -> None:
    wire = json.loads(V1)
    decode(wire)
    assert wire == json.loads(V1)


@pytest.mark.parametrize(
    "value",
    [
        {".type": "date", ".val": "yesterday"},
        {".type": "date", ".val": "2001-02-30T00:00:00.000Z"},
        {".type": "date", ".val": "-000001-01-01T00:00:00.000Z"},
        {".type": "date", ".val": 5},
        {".type": "date"},
        {".type": "binary", ".val": "no brackets"},
        {".type": "binary", ".val": "<~\x7f~>"},
        {".type": "reference", ".val": None},
        {".type": "regexp", ".val": "no slashes"},
        {".type": "regexp", ".val": {"pattern": "x"}},
        {".type": "bigint", ".val": "1e3"},
        {".type": "bigint", ".val": "1" * 5000},
        {".type": "array", "first": 1},
        {".type": "unheard of", ".val": 1},
        {".type": None, ".val": 1},
        {"val": 1},
        {"val": 1, "map": {}},
        {"val": 1, "map": "somewhere"},
        {"val": 1, "map": {"a": "road"}},
        {"val": 1, "map": {"a": 7}},
        {"val": 1, "map": "date", "more": 1},
    ],
    ids=str,
)
def test_what_is_not_well_formed_stays_as_it_is(value: Any) -> None:
    assert decode(value) == value


def test_a_map_that_leads_nowhere_or_to_something_else_changes_nothing() -> None:
    value = {"a": "x", "list": [1]}
    types = {"a": "date", "a/b": "date", "list/7": "date", "nowhere": "binary", "list": "bigint"}
    assert decode({"val": value, "map": types}) == value
    assert decode({"val": "text", "map": "array"}) == "text"


def test_the_children_of_what_is_not_well_formed_are_decoded() -> None:
    date = {".type": "date", ".val": "1970-01-01T00:00:00.000Z"}
    assert decode({".type": "x", "a": date}) == {".type": "x", "a": EPOCH}
    assert decode({".type": "array", "a": date}) == {".type": "array", "a": EPOCH}


def test_the_second_form_is_encoded() -> None:
    expected = json.loads(V2)
    expected["re"][".val"] = {"pattern": "a(b)", "flags": "gi"}
    assert encode(VALUE) == expected


def test_a_date_is_encoded_in_utc_and_milliseconds() -> None:
    zone = timezone(timedelta(hours=2))
    date = datetime(2022, 4, 22, 9, 49, 23, 456789, tzinfo=zone)
    assert encode(date) == {".type": "date", ".val": "2022-04-22T07:49:23.456Z"}


def test_numbers_are_encoded_as_javascript_can_read_them() -> None:
    for number in (0, True, 1.5, MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER):
        assert encode(number) is number
    assert encode(MAX_SAFE_INTEGER + 1) == {".type": "bigint", ".val": "9007199254740992"}
    assert encode(-MAX_SAFE_INTEGER - 1) == {".type": "bigint", ".val": "-9007199254740992"}


def test_tuples_and_bytearrays_are_arrays_and_binary_data() -> None:
    assert encode((1, bytearray(b"\xff"))) == [1, {".type": "binary", ".val": "<~rr~>"}]


@pytest.mark.parametrize("value", [datetime(2022, 4, 22), float("nan"), float("-inf")], ids=str)  # noqa: DTZ001
def test_values_that_are_nowhere_in_json_or_time_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"JSON has no|time zone"):
        encode([value])


@pytest.mark.parametrize(
    "value", [{1}, object(), {1: 2}, {None: 1}, 1j], ids=lambda each: type(each).__name__
)
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"no type for|is a text"):
        encode({"value": value})


def test_dates_are_found_in_the_plain_values_of_events() -> None:
    text = "1970-01-01T00:00:00.000Z"
    assert decode_dates({"a": [text, f"{text} ", "-000001-01-01T00:00:00.000Z", 1, None]}) == {
        "a": [EPOCH, f"{text} ", "-000001-01-01T00:00:00.000Z", 1, None]
    }
    assert decode_dates("2001-02-30T00:00:00.000Z") == "2001-02-30T00:00:00.000Z"
    assert decode_dates("1970-01-01T00:00:00Z") == "1970-01-01T00:00:00Z"


def test_a_partial_array_cannot_be_changed() -> None:
    items = {0: 1}
    array = PartialArray(items)
    items[1] = 2
    assert array.items == {0: 1}
    with pytest.raises(TypeError):
        array.items[0] = 2  # type: ignore[index]


KEYS = st.text(max_size=5).filter(lambda key: key not in (".type", "map"))
DATES = st.datetimes(timezones=st.just(UTC)).map(
    lambda each: each.replace(microsecond=each.microsecond // 1000 * 1000)
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | DATES
    | st.binary(max_size=20)
    | st.builds(PathReference, st.text(max_size=5))
    | st.builds(RegExp, st.text(max_size=5), st.sampled_from(["", "g", "im"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(KEYS, children, max_size=4)
        | st.builds(PartialArray, st.dictionaries(st.integers(0, 99), children, max_size=4))
    ),
    max_leaves=10,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from([".type", ".val", "val", "map", "a", "0"]),
            children | st.sampled_from(list(SINGLE)),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same(value: Any) -> None:
    assert decode(json.loads(json.dumps(encode(value), allow_nan=False))) == value


@given(JSON)
def test_nothing_that_a_peer_sends_raises(value: Any) -> None:
    decode(value)
    decode_dates(value)


def test_long_keys_of_a_mapped_value_take_no_memory_for_their_paths() -> None:
    value: Any = 1
    for _ in range(100):
        value = {"k" * 100_000: value}
    tracemalloc.start()
    try:
        assert decode({"val": value, "map": {"a/b": "date"}}) == value
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000  # the paths together have 500 MB
