"""The fuzzer's corpus and its findings, without the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.reader import Reader
from tests.fuzz.run import CORPUS
from tests.fuzz.run import TARGETS as NAMES
from tests.fuzz.targets import TARGETS


def inputs() -> list[Path]:
    """All files of the corpus."""
    return sorted(CORPUS.glob("*/*"))


def test_every_target_has_a_corpus() -> None:
    assert set(NAMES) == set(TARGETS) == {each.parent.name for each in inputs()}


@pytest.mark.parametrize("path", inputs(), ids=lambda path: f"{path.parent.name}-{path.name[:10]}")
def test_the_corpus_passes(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"\xff" * 64, bytes(range(256))])
def test_plain_inputs_pass(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_a_reader_goes_on_with_zeros() -> None:
    reader = Reader(b"\x05ab")
    assert (reader.number(3), reader.bytes_of(4), reader.is_done) == (1, b"ab\0\0", True)
    assert (reader.number(9), reader.bytes(9), reader.choose("xyz")) == (0, b"", "x")
