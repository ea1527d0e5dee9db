"""WebSocket frames (RFC 6455), written and read independently of the relay.

:func:`client_frame` writes what a client sends, malformed frames included.
:class:`FrameReader` reads what comes back and refuses what a relay never sends.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

MASK = bytes.fromhex("37fa213d")
"""The mask of the example in RFC 6455, section 5.7."""

NO_MASK = bytes(4)
"""A mask that changes nothing: for clients that have no time for masking."""


class Opcode(IntEnum):
    """What a frame carries (RFC 6455, section 11.8)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class LengthForm(IntEnum):
    """In how many bits a frame tells its length."""

    BITS_7 = 7
    BITS_16 = 16
    BITS_64 = 64


class FrameError(ValueError):
    """A frame that the other side must not send."""


class Frame(NamedTuple):
    """A frame that was received.

    :ivar opcode: an :class:`Opcode`.
    :ivar payload: without the mask.
    """

    opcode: int
    payload: bytes

    @classmethod
    def from_text(cls, message: str) -> Frame:
        """The frame with a whole text message."""
        return cls(Opcode.TEXT, message.encode())

    @property
    def text(self) -> str:
        """The payload as text."""
        return self.payload.decode()

    @property
    def close_code(self) -> int:
        """The code of a close frame; 0 if it has none."""
        return int.from_bytes(self.payload[:2], "big")

    @property
    def close_reason(self) -> str:
        """The reason of a close frame."""
        return self.payload[2:].decode()


def shortest_form(length: int) -> LengthForm:
    """The form of *length* that RFC 6455, section 5.2, demands."""
    if length < 126:
        return LengthForm.BITS_7
    return LengthForm.BITS_16 if length < 1 << 16 else LengthForm.BITS_64


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """*payload* with the four bytes of *mask* applied, or removed again."""
    if mask == NO_MASK:
        return payload
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    xored = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return xored.to_bytes(size, "big")


def client_frame(
    payload: bytes | str = b"",
    opcode: int = Opcode.TEXT,
    *,
    final: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    form: LengthForm | None = None,
    length: int | None = None,
) -> bytes:
    """The bytes of a frame as a client sends it; by default a whole text message.

    :param final: whether it ends its message.
    :param rsv: the three reserved bits, 0 to 7.
    :param mask: four bytes; ``None`` for an unmasked frame, as a server sends it and a
        client must not.
    :param form: how the length is told; default: as RFC 6455 demands.
    :param length: what the frame tells as its length, if that is not the payload's.

    >>> client_frame("Hello").hex(" ")
    '81 85 37 fa 21 3d 7f 9f 4d 51 58'
    """
    data = payload.encode() if isinstance(payload, str) else payload
    length = len(data) if length is None else length
    form = shortest_form(length) if form is None else form
    masked = 0 if mask is None else 0x80
    first = final << 7 | rsv << 4 | opcode
    if form is LengthForm.BITS_7:
        head = bytes((first, masked | length))
    elif form is LengthForm.BITS_16:
        head = bytes((first, masked | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + length.to_bytes(8, "big")
    return head + (data if mask is None else mask + apply_mask(data, mask))


def ping_frame(payload: bytes = b"") -> bytes:
    """A ping as a client sends it."""
    return client_frame(payload, Opcode.PING)


def close_frame(code: int | None = None, reason: bytes | str = b"") -> bytes:
    """A close frame as a client sends it, with or without a code."""
    return client_frame(close_payload(code, reason), Opcode.CLOSE)


def close_payload(code: int | None = None, reason: bytes | str = b"") -> bytes:
    """The payload of a close frame (RFC 6455, section 5.5.1)."""
    if code is None:
        return b""
    return code.to_bytes(2, "big") + (reason.encode() if isinstance(reason, str) else reason)


class FrameReader:
    """Reads frames from a stream, as far as they are complete.

    :param masked: whether the other side is a client; default: a relay, which sends
        neither masked frames nor fragments.

    >>> FrameReader().feed(b"\\x81\\x05hello\\x81")
    [Frame(opcode=1, payload=b'hello')]
    """

    def __init__(self, *, masked: bool = False) -> None:
        self._masked = masked
        self._data = b""
        self._closed = False

    @property
    def unread(self) -> bytes:
        """The beginning of a frame that is not complete."""
        return self._data

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now that *data* has come.

        :raises FrameError: for a frame that the other side must not send.
        """
        data = self._data + data if self._data else bytes(data)
        frames: list[Frame] = []
        start = 0
        while (found := self._read(data, start)) is not None:
            frame, start = found
            frames.append(frame)
        self._data = data[start:]
        return frames

    def _read(self, data: bytes, start: int) -> tuple[Frame, int] | None:
        """The frame at *start*, and where the next one begins."""
        if len(data) - start < 2:
            return None
        first, second = data[start], data[start + 1]
        self._check(first, second)
        length, begin, shortest = second & 0x7F, start + 2, 0
        if length == 126:
            begin, shortest = begin + 2, 126
        elif length == 127:
            begin, shortest = begin + 8, 1 << 16
        if len(data) < begin:
            return None
        if shortest:
            length = int.from_bytes(data[start + 2 : begin], "big")
            if length < shortest:
                raise FrameError(f"a length of {length} has a shorter form")
        mask = data[begin : begin + 4] if self._masked else NO_MASK
        begin += 4 * self._masked
        end = begin + length
        if len(data) < end:
            return None
        opcode = first & 0x0F
        self._closed = opcode == Opcode.CLOSE
        return Frame(opcode, apply_mask(data[begin:end], mask)), end

    def _check(self, first: int, second: int) -> None:
        if self._closed:
            raise FrameError("a frame after the close frame")
        if first & 0x70:
            raise FrameError(f"a reserved bit: {first:#04x}")
        if (second >= 0x80) is not self._masked:
            raise FrameError(f"a frame is {'not ' if self._masked else ''}masked")
        if not self._masked and first < 0x80:
            raise FrameError("a fragment: a relay sends whole messages")


def server_frames(data: bytes) -> list[Frame]:
    """The frames that a relay has sent.

    :raises FrameError: if *data* holds anything else, or a part of a frame.
    """
    reader = FrameReader()
    frames = reader.feed(data)
    if reader.unread:
        raise FrameError(f"a frame is cut off: {reader.unread[:20]!r}")
    return frames
