"""Frames that wait for one peer, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

_Entry = tuple[bytes, bytes | None]
_NOTHING: deque[_Entry] = deque(maxlen=0)
"""Stands for all empty backlogs: an empty deque of its own takes 0.6 KB of each
idle connection."""


class MessageQueue:
    """The frames a peer has to receive before any later one.

    A frame waits here while the peer's connection is congested, or while the
    peer has none. Each frame is kept with the peer that addressed it, if any.

    :ivar size: the bytes of all frames together.
    """

    __slots__ = ("_entries", "size")

    def __init__(self) -> None:
        self._entries: deque[_Entry] = _NOTHING
        self.size = 0

    def _open(self) -> deque[_Entry]:
        """The entries, to be added to."""
        if self._entries is _NOTHING:
            self._entries = deque()
        return self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def frames(self) -> Iterator[bytes]:
        """The frames, in order."""
        return (frame for frame, _ in self._entries)

    def fits(self, limit: int, more: int = 0) -> bool:
        """Whether the frames, and *more* bytes, are within *limit*; a single frame always is."""
        return len(self._entries) + (more > 0) <= 1 or self.size + more <= limit

    def append(self, frame: bytes, sender: bytes | None = None) -> None:
        """Let *frame* wait; *sender* is the id of the peer that addressed it."""
        self._open().append((frame, sender))
        self.size += len(frame)

    def prepend(self, frames: list[bytes]) -> None:
        """Let *frames* be received before all that waits; their senders are not known."""
        self._open().extendleft((frame, None) for frame in reversed(frames))
        self.size += sum(map(len, frames))

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

    def discard_if(self, unwanted: Callable[[bytes | None], bool]) -> int:
        """Forget the frames whose sender is *unwanted*; returns how many these are.

        The sender of a frame that nobody addressed is ``None``.
        """
        before = len(self._entries)
        self._entries = deque(entry for entry in self._entries if not unwanted(entry[1]))
        self.size = sum(len(frame) for frame, _ in self._entries)
        return before - len(self._entries)

    def change_each(self, change: Callable[[bytes], bytes]) -> None:
        """Replace each frame by what *change* makes of it."""
        self._entries = deque((change(frame), sender) for frame, sender in self._entries)
        self.size = sum(len(frame) for frame, _ in self._entries)

    def move_to(self, other: MessageQueue) -> None:
        """Append all frames to *other*, with their senders."""
        other._open().extend(self._entries)
        other.size += self.size
        self.clear()

    def clear(self) -> int:
        """Forget all frames; returns how many there were."""
        count = len(self._entries)
        self._entries = _NOTHING
        self.size = 0
        return count
