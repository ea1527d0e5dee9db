"""Frames that wait for one peer, in order."""

from __future__ import annotations

from collections import deque


class Backlog:
    """The frames a peer has to receive before any later one.

    A frame waits here while the peer's connection is congested, or while the
    peer has none. Each frame is kept with the peer that addressed it, if any.

    :ivar size: the bytes of all frames together.
    """

    __slots__ = ("_entries", "size")

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, bytes | None]] = deque()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, frame: bytes, sender: bytes | None = None) -> None:
        """Let *frame* wait; *sender* is the id of the peer that addressed it."""
        self._entries.append((frame, sender))
        self.size += len(frame)

    def take(self, enough: int) -> list[bytes]:
        """Remove and return the first frames: as many as make *enough* bytes."""
        frames = []
        taken = 0
        while self._entries and taken < enough:
            frame, _ = self._entries.popleft()
            frames.append(frame)
            taken += len(frame)
        self.size -= taken
        return frames

    def clear(self) -> int:
        """Forget all frames; returns how many there were."""
        count = len(self._entries)
        self._entries.clear()
        self.size = 0
        return count
