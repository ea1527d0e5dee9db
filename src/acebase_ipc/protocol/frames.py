"""Converts between bytes and WebSocket frames (RFC 6455, section 5): the hot path.

A frame from a server to a client is not masked, so it has the same bytes for each
receiver: it is built once per message, and all receivers share it.

Of the frames that clients send, only the common cases are parsed here: text messages in
one masked frame, pings and pongs. Everything else (fragments, close frames, protocol
errors) is left to a complete implementation of the protocol.

The C extension accelerates what is marked (:mod:`acebase_ipc.protocol.native`).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from struct import Struct

from acebase_ipc.protocol.native import accelerated

Unmask = Callable[[bytes, bytes], bytes]
"""A function that takes a masked payload and its key of 4 bytes, and returns the payload."""


@accelerated
def text_frame(payload: bytes, /) -> bytes:
    """Return the unmasked frame that carries *payload*, valid UTF-8, as one text message."""
    length = len(payload)
    if length < _LONG:
        return _HEADERS[length] + payload
    return header(_TEXT, length) + payload


@accelerated
def text_frames(payloads: Sequence[bytes], /) -> list[bytes]:
    """Return the frame of :func:`text_frame` for each of the *payloads*."""
    return [
        _HEADERS[len(each)] + each if len(each) < _LONG else text_frame(each) for each in payloads
    ]


def masked_text_frame(payload: bytes) -> bytes:
    """Return the frame of a client for *payload*, with a mask that changes nothing."""
    return header(_TEXT, len(payload), NO_MASK) + payload


_TEXT = 0x81
"""The first byte of the frame of a text message."""

NO_MASK = b"\0\0\0\0"
"""The key of a mask that changes nothing."""


def header(first: int, length: int, mask: bytes = b"") -> bytes:
    """Return the header of a frame.

    :param first: its first byte: flags and opcode.
    :param length: of its payload, in bytes.
    :param mask: the key of a client's frame; a server's has none.
    """
    is_masked = 0x80 if mask else 0
    if length < 126:
        return bytes((first, is_masked | length)) + mask
    if length < 65536:
        return bytes((first, is_masked | 126)) + length.to_bytes(2, "big") + mask
    return bytes((first, is_masked | 127)) + length.to_bytes(8, "big") + mask


def frame_payload(frame: bytes) -> bytes:
    """Return the payload of a frame that :func:`text_frame` has built."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


_LONG = 1024
"""Payloads of this many bytes or more are unmasked faster by a native implementation."""

MAX_TEXTS = 64
"""Text messages that are taken from received data in one step: about 0.3 ms of work."""

_TURNS = range(MAX_TEXTS)

PING = 9
PONG = 10
_PING_PONG = frozenset({0x80 | PING, 0x80 | PONG})

_HEADERS = tuple(header(_TEXT, length) for length in range(_LONG))

_REPEATED = tuple(int.from_bytes(b"\0\0\0\1" * words, "big") for words in range(_LONG // 4 + 1))
"""The product of a key of 4 bytes and the nth of these is the key, repeated n times."""

_START = Struct(">HHI").unpack_from
"""Unpacks the first 8 bytes of a frame: for a payload of 126 to 65535 bytes, its header."""


class PartialText:
    """A masked text frame whose header and a part of whose payload have arrived.

    The payload is unmasked and checked as it arrives, so that invalid UTF-8 is found at
    once.

    :ivar received: how many bytes of the payload have arrived.
    :ivar missing: how many have not arrived yet.
    """

    __slots__ = ("_decoder", "_header", "_key", "_text", "_unmask", "missing", "received")

    def __init__(self, header: bytes, key: bytes, length: int, unmask: Unmask) -> None:
        self.missing = length
        self._key = key
        self.received = 0
        self._header = header
        self._text = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._unmask = unmask

    def feed(self, data: bytes) -> bool:
        """Add the next *data* of the payload, at most :attr:`missing` bytes.

        :returns: whether the payload is valid UTF-8 so far.
        """
        turn = self.received % 4
        part = self._unmask(data, self._key[turn:] + self._key[:turn])
        self._text += part
        self.received += len(data)
        self.missing -= len(data)
        try:
            self._decoder.decode(part, self.missing == 0)
        except UnicodeDecodeError:
            return False
        begun = self._decoder.getstate()[0]
        # The decoder accepts the first two bytes of a surrogate until the third has arrived.
        return not b"\xed\xa0" <= begun < b"\xee"

    @property
    def payload(self) -> bytes:
        """The whole payload, once no byte is missing."""
        return bytes(self._text)

    @property
    def raw(self) -> bytes:
        """All bytes of the frame that have arrived, masked as they were."""
        return self._header + self._unmask(bytes(self._text), self._key)


@accelerated
def split(
    data: bytes, limit: int, unmask_long: Unmask, /
) -> tuple[list[bytes], bytes, PartialText | None]:
    """Take text messages, at most :data:`MAX_TEXTS`, from the beginning of *data*.

    :param data: bytes of a stream, from the beginning of a frame on.
    :param limit: bytes that a message may have.
    :param unmask_long: unmasks payloads of 1 KiB and more, and those that come in part; the C
        extension unmasks whole ones itself.
    :returns: the messages, each valid UTF-8; the rest of the data, which begins with a
        frame of another kind, an incomplete header, or the next text if
        :data:`MAX_TEXTS` were taken; and, if the data ends in the middle of a text, this
        text instead of a rest.
    """
    end = len(data)
    if 8 <= end < _LONG:  # it may be one text and no more, as nearly always
        head, length, key = _START(data)
        begin = 8
        if 0x8180 <= head < 0x81FE:
            begin = 6
            key = (length << 16) | (key >> 16)
            length = head & 0x7F
        elif head != 0x81FE or length < 126:
            length = end  # it is something else
        if begin + length == end and length <= limit:
            repeated = key * _REPEATED[(length + 3) >> 2] >> ((-length & 3) << 3)
            masked = int.from_bytes(data[begin:], "big")
            message = (masked ^ repeated).to_bytes(length, "big")
            if message.isascii():
                return [message], b"", None
    messages: list[bytes] = []
    start = 0
    for _ in _TURNS:
        if end - start < 6:
            break
        head, length, key = _START(data if end - start >= 8 else data + b"\0\0", start)
        if head == 0x81FE:  # a masked text of 126 to 65535 bytes, as nearly all are
            begin = start + 8
            if length < 126 or begin > end:
                break  # not the shortest form, or an incomplete header
        elif 0x8180 <= head < 0x81FE:
            begin = start + 6
            key = (length << 16) | (key >> 16)
            length = head & 0x7F
        elif head == 0x81FF:
            begin = start + 14
            length = int.from_bytes(data[start + 2 : start + 10], "big")
            if length < 65536 or begin > end:
                break
        else:
            break
        if length > limit:
            break
        following = begin + length
        if following > end or length >= _LONG:
            mask = data[begin - 4 : begin]
            if following > end:
                partial = PartialText(data[start:begin], mask, length, unmask_long)
                if partial.feed(data[begin:]):
                    return messages, b"", partial
                break
            message = unmask_long(data[begin:following], mask)
        else:
            # XOR of two integers: the payload, and the repeated key (RFC 6455, section 5.3).
            repeated = key * _REPEATED[(length + 3) >> 2] >> ((-length & 3) << 3)
            masked = int.from_bytes(data[begin:following], "big")
            message = (masked ^ repeated).to_bytes(length, "big")
        if not message.isascii() and not _is_utf8(message):
            break
        messages.append(message)
        start = following
    return messages, data[start:], None


@accelerated
def unmask(payload: bytes, key: bytes, /) -> bytes:
    """Remove the mask *key*, 4 bytes, from a *payload* of any size.

    In Python the payload is converted to one large integer: about 2 ns for each byte.
    """
    length = len(payload)
    repeated = int.from_bytes(key * (length // 4) + key[: length % 4], "big")
    return (int.from_bytes(payload, "big") ^ repeated).to_bytes(length, "big")


def take_control(data: bytes, start: int) -> tuple[int, bytes, int] | None:
    """Take a ping or pong that begins at *start* of *data*.

    :returns: its opcode, its payload, and where the next frame begins; ``None`` if it is
        incomplete, invalid, or a frame of another kind.
    """
    if len(data) - start < 6 or data[start] not in _PING_PONG:
        return None
    length = data[start + 1] - 0x80
    begin = start + 6
    end = begin + length
    if not 0 <= length <= 125 or end > len(data):
        return None
    payload = unmask(data[begin:end], data[start + 2 : begin]) if length else b""
    return data[start] & 0x0F, payload, end


def may_become_text(rest: bytes) -> bool:
    """Return whether *rest*, as :func:`split` returned it, is an incomplete header of a text."""
    if not rest or rest[0] != 0x81 or len(rest) > 13:
        return False
    if len(rest) == 1:
        return True
    return len(rest) < {126: 8, 127: 14}.get(rest[1] - 0x80, 6) and rest[1] >= 0x80


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
