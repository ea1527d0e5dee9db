"""Processes received data that does not take the fast path of whole text messages.

That is a message or a header in part, frames for Autobahn, or more than a slice of work. Most
connections have no such data most of the time.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from autobahn import websocket
from autobahn.websocket.xormasker import create_xor_masker

from acebase_ipc.protocol.frames import (
    PING,
    PartialText,
    masked_text_frame,
    may_become_text,
    split,
    take_control,
    unmask,
)
from acebase_ipc.protocol.native import IS_NATIVE
from acebase_ipc.relay.work import SLICE
from acebase_ipc.websocket import _autobahn

FEED: Final = 512
"""Bytes that Autobahn is fed at a time: up to 85 frames, 2 ms."""

MIN_FEED: Final = 16
"""The same for a client whose frames have caused more than a slice of work: two frames."""

TEXT: Final = 4
"""Units of work of a text message."""

CONTROL: Final = 2
"""Units of work of a ping or pong that is parsed here."""

MAX_FRAGMENTS: Final = 4096
"""Fragments that a message may have; each uses about 100 bytes, even if it is empty."""

FRAGMENT_OVERHEAD: Final = 100
"""Bytes that a fragment uses beside its payload."""


def unmask_by_autobahn(payload: bytes, key: bytes) -> bytes:
    """Remove the mask *key* from a *payload* by Autobahn's native code."""
    unmasked: bytes = create_xor_masker(key, len(payload)).process(payload)
    return unmasked


_NEEDS_AUTOBAHN = not IS_NATIVE and getattr(websocket, "USES_NVX", False)

unmask_long = unmask_by_autobahn if _NEEDS_AUTOBAHN else unmask
"""Removes the mask of payloads of 1 KiB and more. Without its native code Autobahn takes
100 times as long as our Python, and with it 5 times as long as our C extension (16 KB)."""


class Connection(Protocol):
    """What is needed of the WebSocket that has received something.

    :ivar factory: its factory: limits, work, memory.
    :ivar feed_size: bytes that Autobahn is fed at a time.
    :ivar inside_message: whether Autobahn has a message in part.
    """

    factory: Any
    feed_size: int
    inside_message: bool

    @property
    def is_open_now(self) -> bool:
        """Whether neither side has begun to close."""

    @property
    def is_closed_down(self) -> bool:
        """Whether the connection is being dropped: nothing else that arrives matters."""

    def relay(self, texts: list[bytes]) -> list[bytes]:
        """Pass *texts* to the listener, and return those that exceed a slice of work."""

    def postpone(self, size: int) -> None:
        """Continue with *size* bytes in a later turn of the reactor."""

    def received_all(self) -> None:
        """Note that nothing is left of what was received."""

    def feed_publicly(self, data: bytes) -> None:
        """Let Autobahn have *data* by its public method."""

    def check_closing(self) -> None:
        """Begin to close if what arrived has led Autobahn to do so."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Receive a whole message."""

    def onPing(self, payload: bytes) -> None:
        """Answer a ping."""

    def onPong(self, payload: bytes) -> None:
        """Note that the other end has answered a ping."""


class Incoming:
    """Processes what does not take the fast path, a slice of work at a time.

    :ivar fragment_bytes: bytes of a message that have arrived in fragments.
    """

    __slots__ = (
        "_between_messages",
        "_connection",
        "_fragments",
        "_head",
        "_partial",
        "_postponed",
        "fragment_bytes",
    )

    def __init__(self, connection: Connection, between_messages: bool) -> None:
        """:param between_messages: whether the next bytes begin with a frame, and Autobahn
        holds no part of a message.
        """
        self._connection = connection
        self._between_messages = between_messages
        self._partial: PartialText | None = None
        self._head = b""  # the beginning of a text's header
        self._postponed: tuple[list[bytes], bytes] | None = None
        self._fragments = 0
        self.fragment_bytes = 0

    @property
    def is_postponed(self) -> bool:
        """Whether more than a slice of work was received."""
        return self._postponed is not None

    @property
    def memory(self) -> int:
        """The received bytes that are held here."""
        held = self._fragments * FRAGMENT_OVERHEAD + self.fragment_bytes
        if self._partial is not None:
            held += self._partial.received
        if self._postponed is not None:
            texts, data = self._postponed
            held += len(data) + sum(map(len, texts))
        return held

    def drop(self) -> None:
        """Drop everything, because the connection ends."""
        self._partial = self._postponed = None
        self._fragments = self.fragment_bytes = 0

    @property
    def raw(self) -> bytes:
        """The bytes after the last message that was passed on, as if they were to arrive now.

        Pings and pongs among them that were processed are left out.
        """
        if self._partial is not None:
            part = self._partial.raw
        else:
            part = self._head or _autobahn.received_in_part(self._connection)
        if self._postponed is None:
            return part
        texts, data = self._postponed
        return b"".join((part, *map(masked_text_frame, texts), data))

    def receive(self, data: bytes) -> None:
        """Process *data*, or keep it until what was postponed has been processed."""
        if self._postponed is None:
            self.go_on([], data, None)
        else:
            texts, rest = self._postponed
            self._postponed = texts, rest + data

    def resume(self) -> None:
        """Continue with what was postponed."""
        if self._postponed is not None:
            texts, data = self._postponed
            self._postponed = None
            self.go_on(self._connection.relay(texts), data, None)

    def go_on(self, texts: list[bytes], data: bytes, partial: PartialText | None) -> None:
        """Process the rest of the received data, up to a slice of work.

        :param texts: messages that exceed the slice already.
        :param data: the bytes after them.
        :param partial: the text of which only a part has arrived.
        """
        connection = self._connection
        work = connection.factory.work
        end = work.units + SLICE
        while True:
            if partial is not None:
                self._partial = partial
                self._between_messages = False
                connection.factory.hold(connection, partial.received)
            if connection.is_closed_down:
                return
            if texts or (data and work.units >= end):
                self._postponed = texts, data
                connection.postpone(len(data))
                return
            if not data:
                break
            if self._between_messages:
                texts, data, partial = self._take(data)
            else:
                data = self._resume_part(data)
            work.units += 1
        if self._between_messages:
            connection.received_all()

    def _take(self, data: bytes) -> tuple[list[bytes], bytes, PartialText | None]:
        """Process control frames or texts, or feed the next bytes to Autobahn.

        :returns: the messages and bytes that remain, and a text received in part.
        """
        connection = self._connection
        rest = self._take_controls(data)
        if not rest:
            return [], b"", None
        texts, left, partial = split(rest, connection.factory.max_message_bytes, unmask_long)
        if texts or partial is not None:
            return connection.relay(texts), left, partial
        if len(rest) < len(data):
            return [], rest, None
        if may_become_text(rest):
            self._head = rest
            self._between_messages = False
            return [], b"", None
        return [], self._feed(rest), None

    def _take_controls(self, data: bytes) -> bytes:
        """Process pings and pongs at the beginning of *data*, and answer the last ping."""
        connection = self._connection
        work = connection.factory.work
        pinged: bytes | None = None
        start = 0
        end = work.units + SLICE
        while connection.is_open_now and work.units < end:
            control = take_control(data, start)
            if control is None:
                break
            opcode, payload, start = control
            work.units += CONTROL
            if opcode == PING:
                pinged = payload
            else:
                connection.onPong(payload)
        if pinged is not None:
            connection.onPing(pinged)
        return data[start:]

    def _resume_part(self, data: bytes) -> bytes:
        """Continue with what was received in part; return the remaining bytes."""
        connection, partial = self._connection, self._partial
        if partial is not None:
            data, rest = data[: partial.missing], data[partial.missing :]
            connection.factory.hold(connection, len(data))
            if not partial.feed(data):
                self._partial = None
                return self._feed(partial.raw + rest)
            if not partial.missing:
                self._partial = None
                self._between_messages = True
                connection.onMessage(partial.payload, False)
            return rest
        if self._head:
            data, self._head = self._head + data, b""
            self._between_messages = True
            return data
        return self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        """Feed the next bytes of *data* to Autobahn, and return the remaining ones."""
        connection = self._connection
        factory = connection.factory
        size = connection.feed_size
        step, rest = data[:size], data[size:]
        end = factory.work.units + SLICE
        if factory.knows_parser:
            _autobahn.feed(connection, step)
            self._between_messages = connection.is_open_now and _autobahn.is_between_messages(
                connection
            )
        else:
            connection.feed_publicly(step)
        if factory.work.units > end:  # its frames are broadcasts to many: feed fewer at a time
            connection.feed_size = max(MIN_FEED, size // 4)
        if connection.inside_message:
            factory.hold(connection, len(step))
        else:
            self._fragments = self.fragment_bytes = 0
        connection.check_closing()
        return rest

    def count_fragment(self) -> bool:
        """Count a frame of a message, and return whether a message may have so many."""
        self._fragments += 1
        return self._fragments <= MAX_FRAGMENTS
