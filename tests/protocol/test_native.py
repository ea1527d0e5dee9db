"""The C extension returns what the Python code returns, for any bytes, and keeps no reference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acebase_ipc.protocol.frames import MAX_TEXTS, PartialText
from acebase_ipc.protocol.native import VARIABLE
from acebase_ipc.testing import LengthForm, Opcode, client_frame, ping_frame
from acebase_ipc.testing.frames import NO_MASK, apply_mask, shortest_form
from tests.native import extension, in_c, in_python

LIMIT = 70_000


@pytest.fixture(scope="module", autouse=True)
def _extension() -> None:
    extension()


def seen(result: tuple[list[bytes], bytes, PartialText | None]) -> tuple[Any, ...]:
    """What can be compared of what ``split`` has returned."""
    texts, rest, partial = result
    if partial is None:
        return texts, rest, None
    return texts, rest, (partial.raw, partial.received, partial.missing)


def compare(data: bytes, limit: int = LIMIT) -> None:
    """Split *data* in Python and in C."""
    expected = seen(in_python("split")(data, limit, apply_mask))
    assert seen(in_c("split")(data, limit, apply_mask)) == expected


# What is split

keys = st.binary(min_size=4, max_size=4)
LENGTHS = (0, 1, 7, 8, 9, 124, 125, 126, 127, 128, 1023, 1024, 1025, 65535, 65536)
payloads = st.one_of(
    st.text(max_size=20).map(str.encode),
    st.binary(max_size=20),
    st.sampled_from(LENGTHS).map(lambda length: b"x" * length),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame of a client: usually a text, otherwise with any header."""
    payload, mask = draw(payloads), draw(keys)
    if draw(st.integers(0, 4)):
        return client_frame(payload, mask=mask)
    shortest = shortest_form(len(payload))
    form = draw(st.sampled_from([each for each in LengthForm if each >= shortest]))
    lengths = [None, LIMIT, LIMIT + 1] if form is LengthForm.BITS_64 else [None]
    return client_frame(
        payload,
        draw(st.integers(0, 15)),
        final=draw(st.booleans()),
        rsv=draw(st.sampled_from([0, 0, 0, 1, 2, 4])),
        mask=draw(st.sampled_from([mask, mask, None])),
        form=form,
        length=draw(st.sampled_from(lengths)),
    )


@given(st.lists(st.one_of(frames(), st.binary(max_size=20)), max_size=6).map(b"".join), st.data())
def test_any_data_is_split_alike(stream: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(stream)))
    compare(stream, data.draw(st.sampled_from([0, 125, 126, 1024, LIMIT])))
    compare(stream[:end])
    compare(stream[end:])


@pytest.mark.parametrize("form", LengthForm)
@pytest.mark.parametrize("length", [*LENGTHS, LIMIT, LIMIT + 1, 1 << 31, (1 << 63) - 1, 1 << 63])
def test_every_form_of_every_length(length: int, form: LengthForm) -> None:
    if length >= 1 << form or (form is LengthForm.BITS_7 and length > 125):
        length = {7: 125, 16: 65535, 64: (1 << 64) - 1}[form]
    for payload in (b"x" * min(length, LIMIT + 1), b""):
        frame = client_frame(payload, form=form, length=length)
        for cut in (len(frame), len(frame) - 1, *range(16)):
            compare(client_frame(b"before") + frame[:cut])
        for limit in (length - 1, length, length + 1, 1 << 63, -1):
            compare(frame, limit)


def test_a_stream_cut_anywhere() -> None:
    texts = [b"", b"a", "日本語é".encode(), b"x" * 126, b"y" * 1024, "😀".encode() * 40]
    stream = b"".join(map(client_frame, texts)) + ping_frame(b"?") + client_frame(b"\xff")
    for cut in range(len(stream) + 1):
        compare(stream[:cut])
        compare(stream[cut:])


def test_a_call_takes_a_limited_number_of_texts() -> None:
    for count in (MAX_TEXTS - 1, MAX_TEXTS, MAX_TEXTS + 1, 2 * MAX_TEXTS + 1):
        for behind in (b"", client_frame(b"x")[:-1], ping_frame()):
            compare(client_frame(b"x") * count + behind)


def test_utf8_is_checked_as_python_checks_it() -> None:
    """Each byte as the first and as the second one, and those behind at which a rule changes."""
    inner = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c2 ff")
    texts = [bytes((first, second)) for first in range(256) for second in inner]
    for first in range(0xC0, 256):
        texts += (bytes((first, second)) + b"\x80\x80" for second in range(256))
        for second, third in product(inner, repeat=2):
            texts += (bytes((first, second, third, *last)) for last in ([], [0x80], [0xC0]))
    for text in texts:
        payload = b"12345" + text
        try:
            payload.decode()
        except UnicodeDecodeError:
            expected = []
        else:
            expected = [payload]
        taken, _, _ = in_c("split")(client_frame(payload, mask=NO_MASK), LIMIT, apply_mask)
        assert taken == expected, text.hex(" ")


# The others


@given(st.binary(max_size=70), keys, st.integers(0, 8))
def test_a_mask_is_removed_alike(payload: bytes, key: bytes, offset: int) -> None:
    data = payload[offset:]
    assert in_c("unmask")(data, key) == in_python("unmask")(data, key) == apply_mask(data, key)


@pytest.mark.parametrize("length", [*range(20), *LENGTHS])
def test_frames_are_built_alike(length: int) -> None:
    payload = Random(length).randbytes(length)
    frame = in_python("text_frame")(payload)
    assert in_c("text_frame")(payload) == frame
    for count in range(3):
        assert in_c("text_frames")([payload] * count) == [frame] * count
    assert in_c("text_frames")((payload, b"")) == [frame, in_python("text_frame")(b"")]


class Text(bytes):
    """Bytes of another class: left to the Python code."""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("split", (Text(client_frame(b"a")), LIMIT, apply_mask)),
        ("split", (client_frame(b"a"), 1 << 70, apply_mask)),
        ("text_frame", (Text(b"a"),)),
        ("text_frame", (bytearray(b"a"),)),
        ("text_frames", ([b"a", Text(b"b")],)),
        ("text_frames", ((b"a", b"b"),)),
        ("unmask", (Text(b"a"), b"1234")),
        ("unmask", (b"a", bytearray(b"1234"))),
    ],
)
def test_other_arguments_are_left_to_python(name: str, arguments: tuple[Any, ...]) -> None:
    assert in_c(name)(*arguments) == in_python(name)(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("split", ()),
        ("split", (b"", LIMIT)),
        ("split", (b"", LIMIT, apply_mask, None)),
        ("split", (None, LIMIT, apply_mask)),
        ("split", (client_frame(b"a"), None, apply_mask)),
        ("text_frame", (None,)),
        ("text_frames", (None,)),
        ("text_frames", ([b"a", None],)),
        ("unmask", (b"a",)),
        ("unmask", (b"a", None)),
        ("unmask", (None, b"1234")),
    ],
)
def test_wrong_arguments_are_a_type_error(name: str, arguments: tuple[Any, ...]) -> None:
    for function in (in_python(name), in_c(name)):
        with pytest.raises(TypeError):
            function(*arguments)


def test_an_unknown_function_is_not_accelerated() -> None:
    with pytest.raises(LookupError):
        extension().accelerate("merge", len)


def test_an_exception_of_the_python_code_passes() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extension().accelerate("split", fail)(client_frame(b"a") + ping_frame(), LIMIT, apply_mask)


@pytest.mark.parametrize("result", [None, (), ([], b""), (None, b"", None)])
def test_what_is_no_result_of_the_python_code_is_an_error(result: object) -> None:
    split = extension().accelerate("split", lambda *_: result)
    with pytest.raises((SystemError, IndexError, TypeError)):
        split(client_frame(b"a") + ping_frame(), LIMIT, apply_mask)


# References

A = client_frame(b"some text, which is not one of the cached bytes")

CALLS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "one text": ("split", (A, LIMIT, apply_mask)),
    "the most texts": ("split", (A * (MAX_TEXTS + 1), LIMIT, apply_mask)),
    "texts and a ping": ("split", (A * 3 + ping_frame(b"ping"), LIMIT, apply_mask)),
    "texts and a part": ("split", (A * 3 + A[:-1], LIMIT, apply_mask)),
    "invalid UTF-8": ("split", (A + client_frame(b"text and \xff"), LIMIT, apply_mask)),
    "another kind": ("split", (client_frame(b"x" * 20, Opcode.BINARY), LIMIT, apply_mask)),
    "another limit": ("split", (A, 1 << 70, apply_mask)),
    "wrong data": ("split", (None, LIMIT, apply_mask)),
    "a frame": ("text_frame", (b"x" * 300,)),
    "no frame": ("text_frame", (None,)),
    "frames": ("text_frames", ([b"x" * 300, b"y" * 20],)),
    "no frames": ("text_frames", ([b"x" * 300, None],)),
    "a mask": ("unmask", (b"x" * 300, b"1234")),
    "no mask": ("unmask", (b"x" * 300, None)),
}


def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with suppress(TypeError):
        function(*arguments)


@pytest.mark.parametrize("case", CALLS)
def test_a_call_keeps_no_reference(case: str) -> None:
    name, arguments = CALLS[case]
    function = in_c(name)
    for _ in range(10):
        call(function, arguments)
    items = arguments[0] if isinstance(arguments[0], list) else []
    objects = [each for each in (*arguments, *items) if each is not None]
    counts = list(map(sys.getrefcount, objects))
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        call(function, arguments)
    assert sys.getallocatedblocks() - blocks < 100
    assert list(map(sys.getrefcount, objects)) == counts


def test_a_function_releases_the_one_that_it_leaves_the_rest_to() -> None:
    def general(*_: object) -> None:
        pass

    before = sys.getrefcount(general)
    for _ in range(100):
        extension().accelerate("split", general)
    assert sys.getrefcount(general) == before


# Which one is used

SHOW = "from acebase_ipc.protocol import frames, native; print(native.IS_NATIVE, frames.split)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "True <built-in"), ("", "True"), ("0", "True"), ("1", "False <function split")],
)
def test_a_variable_turns_the_extension_off(value: str | None, shown: str) -> None:
    environment = {key: text for key, text in os.environ.items() if key != VARIABLE}
    if value is not None:
        environment[VARIABLE] = value
    output = subprocess.run(
        [sys.executable, "-c", SHOW], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert output.startswith(shown)


def test_without_the_extension_the_code_is_pure() -> None:
    missing = f"import sys; sys.modules['acebase_ipc._speedups'] = None; {SHOW}"
    environment = {key: text for key, text in os.environ.items() if key != VARIABLE}
    output = subprocess.run(
        [sys.executable, "-c", missing],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output.startswith("False <function split")
