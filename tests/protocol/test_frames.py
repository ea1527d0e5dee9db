"""The bytes of text messages, as they are built and recognised without Autobahn."""

from __future__ import annotations

from itertools import product

import pytest
from autobahn.websocket.utf8validator import Utf8Validator
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.protocol.frames import (
    PartialText,
    frame_payload,
    may_become_text,
    split,
    text_frame,
    text_frames,
)
from acebase_ipc.testing import LengthForm, Opcode, client_frame, ping_frame
from acebase_ipc.testing.frames import MASK, apply_mask
from tests.wire import BIG

pytestmark = pytest.mark.usefixtures("code")

TEXTS = [
    b"",
    b"a",
    b"ping",
    "héllo wörld".encode(),
    "日本語".encode(),
    b"x" * 126,
    "😀".encode() * 9,
]

INVALID_UTF8 = [  # and the index of the byte that makes it so
    (b"\x80", 0),
    (b"ab\xff", 2),
    (b"\xc0\xaf", 0),
    (b"\xc1\xbf", 0),
    (b"a\xc3\x28", 2),
    (b"\xe0\x80\x80", 1),
    (b"\xe0\x9f\xbf", 1),
    (b"\xe2\x82\x28", 2),
    (b"\xed\xa0\x80", 1),  # half of a surrogate pair
    (b"\xed\xbf\xbf", 1),
    (b"\xf0\x8f\xbf\xbf", 1),
    (b"\xf0\x9f\x98\x28", 3),
    (b"\xf4\x90\x80\x80", 1),  # above U+10FFFF
    (b"\xf5", 0),
    (b"abc\xe2\x82", 4),  # ends within a character
    (b"\xf0\x9f\x98", 2),
]


# Building


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (0, "8100"),
        (1, "8101"),
        (125, "817d"),
        (126, "817e007e"),
        (127, "817e007f"),
        (65535, "817effff"),
        (65536, "817f0000000000010000"),
        (65537, "817f0000000000010001"),
    ],
)
def test_a_frame_tells_its_length_in_the_shortest_form(length: int, header: str) -> None:
    payload = b"x" * length
    frame = text_frame(payload)
    assert frame == bytes.fromhex(header) + payload
    assert frame_payload(frame) == payload


def test_many_frames_are_built_as_one_is() -> None:
    payloads = [*TEXTS, b"x" * 1023, b"x" * 1024, b"x" * 65536]
    assert text_frames(payloads) == list(map(text_frame, payloads))


# Splitting


def test_pipelined_texts_are_taken_at_once() -> None:
    stream = b"".join(map(client_frame, TEXTS))
    assert split(stream, BIG, apply_mask) == (TEXTS, b"", None)


@given(st.text(max_size=70), st.binary(min_size=4, max_size=4))
def test_any_text_is_unmasked_with_any_key(text: str, key: bytes) -> None:
    payload = text.encode()
    assert split(client_frame(payload, mask=key), BIG, apply_mask) == ([payload], b"", None)


def test_unmasking_the_example_of_the_rfc() -> None:
    frame = bytes.fromhex("818537fa213d7f9f4d5158")  # RFC 6455, section 5.7
    assert split(frame, BIG, apply_mask) == ([b"Hello"], b"", None)


def test_every_text_has_a_mask_of_its_own() -> None:
    stream = client_frame(b"one", mask=b"\0\0\0\0") + client_frame(b"two", mask=b"\xff\x01\x02\x03")
    assert split(stream, BIG, apply_mask)[0] == [b"one", b"two"]


def take(stream: bytes, cut: int) -> list[bytes]:
    """The texts of *stream*, if it comes in two pieces."""
    texts, rest, partial = split(stream[:cut], BIG, apply_mask)
    if partial is not None:
        assert rest == b""
        end = cut + partial.missing
        assert partial.feed(stream[cut:end])
        assert partial.missing == 0
        texts.append(partial.payload)
        rest, cut = b"", end
    else:
        assert rest == b"" or may_become_text(rest)
    more, rest, partial = split(rest + stream[cut:], BIG, apply_mask)
    assert (rest, partial) == (b"", None)
    return texts + more


def test_a_stream_may_be_cut_anywhere() -> None:
    texts = [*TEXTS, b"y" * 65536]
    stream = b"".join(map(client_frame, texts))
    small = len(stream) - 65536
    for cut in (*range(small + 3), len(stream) - 1, len(stream)):
        assert take(stream, cut) == texts, f"cut at {cut}"


@pytest.mark.parametrize("length", [0, 1, 125, 126, 1023, 1024, 65535, 65536])
def test_sizes_at_which_the_form_or_the_way_changes(length: int) -> None:
    stream = client_frame(b"x" * length) + client_frame(b"behind")
    assert split(stream, BIG, apply_mask) == ([b"x" * length, b"behind"], b"", None)


def test_long_payloads_are_unmasked_by_what_is_given(code: str) -> None:
    lengths = []

    def unmask_long(payload: bytes, key: bytes) -> bytes:
        lengths.append(len(payload))
        return apply_mask(payload, key)

    split(b"".join(client_frame(b"x" * length) for length in (1023, 1024, 1025)), BIG, unmask_long)
    assert lengths == ([1024, 1025] if code == "python" else [])


@pytest.mark.parametrize(
    "other",
    [
        ping_frame(b"hi"),
        client_frame(b"\x03\xe8", Opcode.CLOSE),
        client_frame(b"\0\xff", Opcode.BINARY),
        client_frame(b"rest", Opcode.CONTINUATION),
        client_frame(b"begin", final=False),
        client_frame(b"deflated", rsv=4),
        client_frame(b"reserved", rsv=1),
        client_frame(b"reserved", opcode=3),
        client_frame(b"unmasked, and long enough", mask=None),
        client_frame(b"x" * 126, mask=None),
        client_frame(b"x" * 65536, mask=None),
        client_frame(b"short", form=LengthForm.BITS_16),
        client_frame(b"x" * 125, form=LengthForm.BITS_16),
        client_frame(b"short", form=LengthForm.BITS_64),
        client_frame(b"x" * 65535, form=LengthForm.BITS_64),
        client_frame(length=1 << 63, form=LengthForm.BITS_64),
        client_frame(b"x" * (BIG + 1)),
        client_frame(length=BIG + 1),
        *(client_frame(text) for text, _ in INVALID_UTF8),
        *(client_frame(text + b" in the middle") for text, _ in INVALID_UTF8),
    ],
)
def test_whatever_is_not_a_whole_legal_text_is_left(other: bytes) -> None:
    behind = client_frame(b"behind")
    before = client_frame(b"before")
    assert split(before + other + behind, BIG, apply_mask) == ([b"before"], other + behind, None)
    assert not may_become_text(other)


@pytest.mark.parametrize("text", ["x", "é", "語", "😀"])
def test_the_limit_is_of_bytes_and_inclusive(text: str) -> None:
    payload = (text * 300).encode()
    frame, size = client_frame(payload), len(payload)
    assert split(frame, size, apply_mask)[0] == [payload]
    assert split(frame, size - 1, apply_mask) == ([], frame, None)


def test_a_long_invalid_text_is_left() -> None:
    frame = client_frame(b"x" * 2000 + b"\xff")
    assert split(frame, BIG, apply_mask) == ([], frame, None)


# A text that has come in part


def begin(text: bytes) -> PartialText:
    """*text* of which only the header has come."""
    header = client_frame(text)[: -len(text)]
    texts, rest, partial = split(header, BIG, apply_mask)
    assert (texts, rest) == ([], b"")
    assert partial is not None
    assert (partial.missing, partial.received, partial.raw) == (len(text), 0, header)
    return partial


def test_a_text_that_comes_byte_by_byte() -> None:
    text = "añ日😀".encode() * 3
    body = apply_mask(text, MASK)
    partial = begin(text)
    for index in range(len(text)):
        assert partial.missing == len(text) - index
        assert partial.feed(body[index : index + 1])
        assert partial.received == index + 1
    assert partial.missing == 0
    assert partial.payload == text
    assert partial.raw == client_frame(text)


@given(st.text(min_size=1).map(str.encode), st.lists(st.integers(1, 9), min_size=1))
def test_the_mask_goes_on_whatever_the_pieces(text: bytes, sizes: list[int]) -> None:
    body = apply_mask(text, MASK)
    partial = begin(text)
    while partial.missing:
        size = sizes[partial.received % len(sizes)]
        assert partial.feed(body[partial.received : partial.received + size])
    assert partial.payload == text
    assert partial.raw == client_frame(text)


@pytest.mark.parametrize(("invalid", "index"), INVALID_UTF8)
def test_invalid_text_is_found_with_the_byte_that_makes_it_so(invalid: bytes, index: int) -> None:
    text = "日😀".encode() + invalid
    body = apply_mask(text, MASK)
    partial = begin(text)
    valid = [partial.feed(body[each : each + 1]) for each in range(len(text))]
    assert valid.index(False) == len(text) - len(invalid) + index


def test_invalid_text_is_found_as_early_as_autobahn_finds_it() -> None:
    inner = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 ff")
    for lead in range(256):
        for tail in product(inner, repeat=2):
            text = bytes((lead, *tail)) + b"aaa"
            validator = Utf8Validator()
            partial = PartialText(b"", bytes(4), len(text), apply_mask)
            for byte in text[:-3]:
                valid = partial.feed(bytes((byte,)))
                assert valid == validator.validate(bytes((byte,)))[0], text.hex(" ")
                if not valid:
                    break


def test_the_beginning_of_a_text_is_checked_at_once() -> None:
    frame = client_frame(b"\xff and more")
    assert split(frame[:6], BIG, apply_mask)[1] == b""
    assert split(frame[:7], BIG, apply_mask) == ([], frame[:7], None)


def test_the_beginning_of_a_long_text_is_unmasked_by_what_is_given() -> None:
    *_, partial = split(client_frame(b"abc")[:-1], BIG, lambda payload, key: b"??")
    assert partial is not None
    assert partial.payload == b"??"


# Incomplete headers


@pytest.mark.parametrize("length", [0, 5, 125, 126, 65535, 65536, BIG])
def test_every_beginning_of_a_header_may_become_a_text(length: int) -> None:
    header = client_frame(length=length)
    for size in range(1, len(header)):
        assert may_become_text(header[:size]), f"{size} bytes"
        assert split(header[:size], BIG, apply_mask) == ([], header[:size], None)
    assert not may_become_text(header)


def test_nothing_becomes_nothing() -> None:
    assert not may_become_text(b"")


def test_only_a_masked_text_may_become_one() -> None:
    for first in range(256):
        assert may_become_text(bytes((first,))) == (first == 0x81)
        for second in range(256):
            expected = first == 0x81 and second >= 0x80
            assert may_become_text(bytes((first, second))) == expected
