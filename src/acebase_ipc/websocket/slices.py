"""Writes large frames in slices, by reference."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from acebase_ipc.relay.limits import KIB

SLICE_BYTES = 128 * KIB
"""Bytes handed to a transport at a time. A transport copies them, so this limits the private
copy of each receiver of a large message."""


class Slices:
    """The bytes that a connection still has to write, in order.

    :ivar size: their number.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self, data: bytes | memoryview) -> None:
        self._pieces = deque([memoryview(data)])
        self.size = len(data)

    def append(self, data: bytes | memoryview) -> None:
        """Add *data* at the end."""
        self._pieces.append(memoryview(data))
        self.size += len(data)

    def collect(self, frames: dict[int, int]) -> int:
        """Note in *frames* the size of each frame that is held here, by its identity.

        A frame that many connections write is one piece of memory.

        :returns: :attr:`size`.
        """
        for piece in self._pieces:
            frames[id(piece.obj)] = memoryview(piece.obj).nbytes
        return self.size

    def rest(self) -> Iterator[tuple[bytes, int]]:
        """Yield each frame that is held here, and how many of its last bytes are left."""
        for piece in self._pieces:
            frame = piece.obj
            assert isinstance(frame, bytes)
            yield frame, len(piece)

    def take(self) -> bytes:
        """Remove and return the next slice."""
        piece = self._pieces[0]
        taken = bytes(piece[:SLICE_BYTES])
        if len(taken) < len(piece):
            self._pieces[0] = piece[SLICE_BYTES:]
        else:
            self._pieces.popleft()
        self.size -= len(taken)
        return taken
