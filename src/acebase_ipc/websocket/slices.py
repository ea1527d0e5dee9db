"""Large frames on their way: by reference, written in slices."""

from __future__ import annotations

from collections import deque

from acebase_ipc.relay.limits import KIB

SLICE = 128 * KIB
"""Bytes handed to a transport at a time. It copies what it is handed, so that this bounds
the private copy of each receiver of a large message."""


class Slices:
    """The bytes that a connection has still to write, in order.

    :ivar size: how many these are.
    """

    __slots__ = ("_pieces", "size")

    def __init__(self, data: bytes | memoryview) -> None:
        self._pieces = deque([memoryview(data)])
        self.size = len(data)

    def append(self, data: bytes | memoryview) -> None:
        """Write *data* after all else."""
        self._pieces.append(memoryview(data))
        self.size += len(data)

    def take(self) -> bytes:
        """The next slice."""
        piece = self._pieces[0]
        taken = bytes(piece[:SLICE])
        if len(taken) < len(piece):
            self._pieces[0] = piece[SLICE:]
        else:
            self._pieces.popleft()
        self.size -= len(taken)
        return taken
