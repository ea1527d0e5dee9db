"""Counts messages and bytes, in and out."""

from __future__ import annotations


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

    def add(self, other: Traffic) -> None:
        """Count what *other* has counted, too."""
        self.received += other.received
        self.received_bytes += other.received_bytes
        self.sent += other.sent
        self.sent_bytes += other.sent_bytes
