"""Choices made of bytes: the same bytes, the same choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


class Reader:
    """Reads an input from its beginning; where there is nothing left, all is zero."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def bytes_of(self, size: int) -> bytes:
        """Exactly *size* bytes."""
        found = self._data[self._at : self._at + size]
        self._at += size
        return found.ljust(size, b"\0")

    def number(self, most: int) -> int:
        """A number from 0 to *most*, at most 255."""
        return self.bytes_of(1)[0] % (most + 1)

    def bytes(self, most: int) -> bytes:
        """Up to *most* bytes."""
        return self.bytes_of(self.number(most)) if not self.is_done else b""

    def choose(self, choices: Sequence[_T]) -> _T:
        """One of the *choices*."""
        return choices[self.number(len(choices) - 1)]
