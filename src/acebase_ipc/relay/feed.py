"""The changes under one path of a database, as far as they are kept."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Final

from acebase_ipc.relay.errors import HistoryGap

ENTRY_OVERHEAD: Final = 200
"""Bytes that a change occupies beside its text: places in a dict and a deque, and its number."""

_EPOCH_BYTES: Final = 8

_CURSOR = re.compile(r"([0-9a-f]{16})-(\d{1,18})", re.ASCII)


class Feed:
    """The events ``mutations`` at one path.

    Each has a number. A cursor is the feed's epoch and the number of the last event that a reader
    has, so that a cursor of another feed, also that of another process, is recognised.

    :ivar path: the path, without slashes at its ends.
    :ivar number: the number of the last event.
    :ivar floor: a reader that has less than this number has missed something.
    :ivar awaited: the ids of the writers that may not know yet that their events are wanted.
    :ivar has_begun: whether all writers of one moment have known it.
    :ivar readers: functions that are called when there is more, or when a reader has missed
        something.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = self.floor = 0
        self.awaited: set[bytes] = set()
        self.has_begun = False
        self.readers: dict[object, Callable[[], object]] = {}
        self._epoch = secrets.token_hex(_EPOCH_BYTES)
        self._events: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._events)

    def cursor(self, number: int) -> str:
        """Return the cursor of a reader that has the events up to this number."""
        return f"{self._epoch}-{number}"

    def position(self, cursor: str) -> int:
        """Return the number of the last event that a reader with this *cursor* has.

        :raises HistoryGap: if not all later ones are kept.
        """
        found = _CURSOR.fullmatch(cursor)
        if found is None or found[1] != self._epoch:
            raise HistoryGap
        number = int(found[2])
        if not self.floor <= number <= self.number:
            raise HistoryGap
        return number

    def event(self, number: int) -> bytes:
        """Return the envelope of an event that is kept, in one line."""
        return self._events[number]

    def add(self, event: bytes) -> None:
        """Keep one more event."""
        self.number += 1
        self._events[self.number] = event

    def drop_oldest(self) -> int:
        """Forget the oldest event that is kept, and return the bytes that it occupied."""
        number = next(iter(self._events))
        self.floor = number
        return len(self._events.pop(number)) + ENTRY_OVERHEAD

    def forget(self) -> None:
        """Forget all events: who has not had them has missed something."""
        self._events.clear()
        self.floor = self.number

    def interrupt(self) -> None:
        """Note that an event may be missing after the last one: everybody has missed something."""
        self.number += 1
        self.forget()

    def wake(self) -> None:
        """Let all readers look for more."""
        self.has_begun = self.has_begun or not self.awaited
        for reader in tuple(self.readers.values()):
            reader()
