"""Counts messages and bytes, in and out."""

from __future__ import annotations

from typing import Final

MAX_NAMED: Final = 200
"""Databases that are counted by their name: clients may open databases of any name, and each
name takes memory as long as the relay runs, here and in whatever keeps the figures."""

OTHER: Final = "other"
"""Stands for all further databases."""


class Traffic:
    """What was received from one or several peers, and sent to them.

    :ivar received: messages received, over WebSockets and posted.
    :ivar received_bytes: bytes of these, without what frames and requests add.
    :ivar sent: messages sent over WebSockets.
    :ivar sent_bytes: bytes of these, with their frames.
    """

    __slots__ = ("received", "received_bytes", "sent", "sent_bytes")

    def __init__(self) -> None:
        self.received = 0
        self.received_bytes = 0
        self.sent = 0
        self.sent_bytes = 0

    def export(self) -> tuple[int, int, int, int]:
        """Return all counts, in the order of the attributes."""
        return self.received, self.received_bytes, self.sent, self.sent_bytes

    def adopt(self, counts: tuple[int, int, int, int]) -> None:
        """Count what another relay has counted, too."""
        received, received_bytes, sent, sent_bytes = counts
        self.received += received
        self.received_bytes += received_bytes
        self.sent += sent
        self.sent_bytes += sent_bytes

    def add(self, other: Traffic) -> None:
        """Count what *other* has counted, too."""
        self.received += other.received
        self.received_bytes += other.received_bytes
        self.sent += other.sent
        self.sent_bytes += other.sent_bytes


class DepartedTraffic:
    """The messages of all peers that have left, by database.

    Databases are told apart by their label: the name of each of the first
    :data:`MAX_NAMED`, and :data:`OTHER` for all others.
    """

    def __init__(self) -> None:
        self._by_label: dict[str, Traffic] = {}

    def label(self, database: str) -> str:
        """Return the label of *database*; it stays the same as long as the relay runs."""
        if database in self._by_label:
            return database
        label = database if len(self._by_label) < MAX_NAMED else OTHER
        if label not in self._by_label:
            self._by_label[label] = Traffic()
        return label

    def add(self, database: str, traffic: Traffic) -> None:
        """Count *traffic* of a peer of *database* that has left."""
        self._by_label[self.label(database)].add(traffic)

    def adopt(self, departed: tuple[tuple[str, tuple[int, int, int, int]], ...]) -> None:
        """Count what another relay has counted for each label, too."""
        for label, counts in departed:
            self._by_label.setdefault(label, Traffic()).adopt(counts)

    def copy(self) -> dict[str, Traffic]:
        """Return a copy of what was counted for each label."""
        copies = {label: Traffic() for label in self._by_label}
        for label, traffic in self._by_label.items():
            copies[label].add(traffic)
        return copies
