"""Ascii85, compared with the standard library's."""

from __future__ import annotations

import base64
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from acebase_ipc.protocol import ascii85

EDGES = [4 * ascii85.GROUPS + each for each in (-4, -1, 0, 1, 4)]


@given(st.binary() | st.lists(st.sampled_from([0, 0, 0, 0, 1, 255])).map(bytes))
@example(bytes(3))
@example(b"\xff" * 9)
def test_binary_data_is_encoded_as_the_standard_library_does(data: bytes) -> None:
    assert ascii85.encode(data) == base64.a85encode(data, adobe=True).decode()
    assert ascii85.decode(ascii85.encode(data)) == data


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("pattern", [b"\0", b"\xff", bytes(5) + b"\1", bytes(range(256))])
def test_it_makes_no_difference_where_a_piece_ends(size: int, pattern: bytes) -> None:
    data = (pattern * size)[:size]
    text = ascii85.encode(data)
    assert text == base64.a85encode(data, adobe=True).decode()
    assert ascii85.decode(text) == data
    inner = text[2:-2]
    spaced = "\n ".join(inner[start : start + 7] for start in range(0, len(inner), 7))
    assert ascii85.decode(f"<~{spaced}~>") == data


@given(
    st.text(alphabet="!!uuz\n ~#5vty{", max_size=14) | st.text(),
    st.sampled_from(["", "<~"]),
    st.sampled_from(["~>", "~> ", ""]),
)
def test_whatever_the_standard_library_refuses_is_refused(text: str, start: str, end: str) -> None:
    def outcome_of(decoded: object) -> object:
        try:
            return decoded(f"{start}{text}{end}")  # type: ignore[operator]
        except ValueError:
            return ValueError

    expected = outcome_of(lambda each: base64.a85decode(each, adobe=True))
    assert outcome_of(ascii85.decode) == expected


@pytest.mark.parametrize("group", ["z", "z!!!!!", "5sdq,"])
def test_decoding_takes_little_more_memory_than_its_result(group: str) -> None:
    text = f"<~{group * (3 * 2**20 // len(group))}~>"
    tracemalloc.start()
    try:
        decoded = ascii85.decode(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(decoded) + len(text) + 2 * 2**20
