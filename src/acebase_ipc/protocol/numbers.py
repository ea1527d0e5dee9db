"""The numbers of messages in a resumable session; both ends use them, without I/O.

Each direction counts from 1. A numbered message is ``n:<number>;`` and the message. The sender
keeps it until the receiver has acknowledged its number, and sends it again on the next connection;
the receiver takes each number once, and in order.
"""

from __future__ import annotations

from typing import Final

from acebase_ipc.protocol.errors import InvalidNumber, MissingMessages

ACK_EVERY: Final = 64
"""Messages after which the receiver acknowledges at once."""

ACK_AFTER: Final = 0.2
"""Seconds after which it acknowledges fewer, at the latest."""

NUMBERED: Final = b"n:"
ACK: Final = b"ack:"
SKIP: Final = b"skip:"
SESSION: Final = b"s:"
"""Begins a posted message, before the name of the session."""

MAX_DIGITS: Final = 16
"""Digits of a number: JavaScript counts exactly to about 9e15, which takes 285 years at a million
messages per second."""

UNNUMBERED: Final = frozenset({b"welc", b"pong", b"ack:"})
"""The first four bytes of what a relay sends without a number."""


def numbered(number: int, message: bytes) -> bytes:
    """Return *message* with its *number*."""
    return b"n:%d;%b" % (number, message)


def split_number(text: bytes) -> tuple[int, bytes]:
    """Return the number and the message of a numbered message.

    :raises InvalidNumber: if *text* is none.
    """
    head, semicolon, message = text.partition(b";")
    if not semicolon or head[:2] != NUMBERED:
        raise InvalidNumber
    return read_number(head[2:]), message


def read_number(digits: bytes) -> int:
    """Return the number that has these *digits*.

    :raises InvalidNumber: if they are none, or more than :data:`MAX_DIGITS`.
    """
    if not digits.isdigit() or len(digits) > MAX_DIGITS:
        raise InvalidNumber
    return int(digits)


class SentNumbers:
    """The numbers of the messages that one end sends and keeps.

    :ivar acknowledged: all messages up to this number have arrived.
    :ivar kept: how many messages after it have been sent on this connection, and are kept.
    :ivar highest: the highest number that was sent on any connection.
    """

    __slots__ = ("acknowledged", "highest", "kept")

    def __init__(self, acknowledged: int = 0, kept: int = 0, highest: int = 0) -> None:
        self.acknowledged = acknowledged
        self.kept = kept
        self.highest = highest

    def take(self) -> int:
        """Return the number of the next message, which is kept from now on."""
        self.kept += 1
        number = self.acknowledged + self.kept
        if number > self.highest:
            self.highest = number
        return number

    def acknowledge(self, number: int) -> int:
        """Note that all messages up to *number* have arrived.

        :returns: how many of the kept messages that are, the first ones.
        :raises InvalidNumber: if no message of that number was sent.
        """
        if number > self.acknowledged + self.kept:
            raise InvalidNumber
        count = max(0, number - self.acknowledged)
        self.acknowledged += count
        self.kept -= count
        return count

    def can_resume(self, last: int) -> bool:
        """Return whether the messages after *last*, which the other end has, are all kept."""
        return self.acknowledged <= last <= self.highest

    def resume(self, last: int) -> int:
        """Send all messages after *last* again.

        :returns: how many messages need not be sent again, the first ones.
        """
        count = last - self.acknowledged
        self.acknowledged = last
        self.kept = 0
        return count


class ReceivedNumbers:
    """The numbers of the messages that one end has received.

    :ivar last: the number of the last one.
    :ivar told: the last number that was acknowledged.
    """

    __slots__ = ("last", "told")

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.told = last

    def accept(self, number: int) -> bool:
        """Note that the message of this *number* has arrived.

        :returns: whether it is new; otherwise it is to be dropped.
        :raises MissingMessages: if messages before it have not arrived.
        """
        if number <= self.last:
            return False
        if number != self.last + 1:
            raise MissingMessages
        self.last = number
        return True

    @property
    def is_untold(self) -> bool:
        """Whether there is something to acknowledge."""
        return self.last > self.told

    @property
    def is_due(self) -> bool:
        """Whether so much is to be acknowledged that it is to be done at once."""
        return self.last - self.told >= ACK_EVERY

    def acknowledgement(self) -> bytes:
        """Return the message that acknowledges everything."""
        self.told = self.last
        return b"ack:%d" % self.last
