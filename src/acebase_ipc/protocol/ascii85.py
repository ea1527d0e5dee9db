"""Encodes and decodes Ascii85, which AceBase uses for binary data in JSON.

:func:`base64.a85decode` works byte by byte in Python and holds a list of all of them: for
16 MiB that takes seconds and more than 1 GiB. Here the data is processed in pieces. Each
piece is one large integer in which every group of four bytes has its own bits (a lane), so
that one operation of the interpreter's arithmetic processes all groups. Results and errors
are those of :mod:`base64` with ``adobe=True``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

PIECE: Final = 64 * 1024
"""Characters that are decoded at once; this uses about ten times as many bytes of memory."""

GROUPS: Final = PIECE // 5
"""Groups of four bytes that are encoded at once."""

_WHITESPACE: Final = b" \t\n\r\v"
_FIRST, _LAST = ord("!"), ord("u")
_ZEROS: Final = b"z"  # stands for a group of four zero bytes
_REMOVED: Final = b"{"
_DIGITS: Final = bytes(range(_FIRST, _LAST + 1))
_TO_DIGITS: Final = bytes(0 if each == _ZEROS[0] else (each - _FIRST) % 256 for each in range(256))
_TO_CHARACTERS: Final = bytes((each + _FIRST) % 256 for each in range(256))


def decode(text: str) -> bytes:
    """Decode ``<~…~>``; the ``<~`` may be missing.

    :raises ValueError: if it is not Ascii85.
    """
    data = text.encode("ascii")
    if not data.endswith(b"~>"):
        raise ValueError("Ascii85 ends with ~>")
    start = 2 if data.startswith(b"<~") else 0
    return b"".join(_decode_pieces(memoryview(data)[start:-2]))


def _decode_pieces(data: memoryview) -> Iterator[bytes]:
    rest = b""
    for offset in range(0, len(data), PIECE):
        piece = bytes(data[offset : offset + PIECE]).translate(None, _WHITESPACE)
        if not rest and not piece.strip(_ZEROS):
            yield bytes(4 * len(piece))
            continue
        rest += piece.replace(_ZEROS, _ZEROS + b"!!!!")
        whole = len(rest) - len(rest) % 5
        yield _decode_groups(rest[:whole])
        rest = rest[whole:]
    if rest:
        missing = 5 - len(rest)
        yield _decode_groups(rest + b"u" * missing)[:-missing]


def _decode_groups(characters: bytes) -> bytes:
    """Decode complete groups, in which a leading ``z`` stands for a ``!``."""
    groups = len(characters) // 5
    misplaced = characters.count(_ZEROS) != characters[::5].count(_ZEROS)
    if misplaced or characters.translate(None, _DIGITS + _ZEROS):
        raise ValueError("Ascii85 has a character that it does not know, or a misplaced z")
    digits = int.from_bytes(characters.translate(_TO_DIGITS), "big")
    lowest = int.from_bytes(b"\0\0\0\0\xff" * groups, "big")
    value = 0
    for index in range(5):
        value = value * 85 + ((digits >> (32 - 8 * index)) & lowest)
    lanes = value.to_bytes(5 * groups, "big")
    if lanes[::5].strip(b"\0"):
        raise ValueError("Ascii85 has a group above 2**32 - 1")
    decoded = bytearray(4 * groups)
    for index in range(4):
        decoded[index::4] = lanes[1 + index :: 5]
    return bytes(decoded)


def encode(data: bytes | bytearray) -> str:
    """Encode *data* as ``<~…~>``."""
    pieces = ["<~"]
    view = memoryview(data)
    for offset in range(0, len(view), 4 * GROUPS):
        piece = bytes(view[offset : offset + 4 * GROUPS])
        missing = -len(piece) % 4
        encoded = _encode_groups(piece + bytes(missing))
        if missing:
            last = encoded[-5:] if not encoded.endswith(_ZEROS) else b"!!!!!"
            encoded = encoded.removesuffix(_ZEROS if encoded.endswith(_ZEROS) else last)
            encoded += last[:-missing]
        pieces.append(encoded.decode("ascii"))
    pieces.append("~>")
    return "".join(pieces)


def _encode_groups(data: bytes) -> bytes:
    """Encode complete groups of four bytes; groups of zeros become ``z``."""
    groups = len(data) // 4
    lanes = bytearray(8 * groups)
    for index in range(4):
        lanes[4 + index :: 8] = data[index::4]
    value = int.from_bytes(lanes, "big")
    ones = int.from_bytes(b"\0\0\0\0\0\0\0\1" * groups, "big")
    zeros = ones - (((value + ones * (2**32 - 1)) >> 32) & ones)
    characters = bytearray(5 * groups)
    for index in reversed(range(5)):
        quotient = _divided_by_85(value, ones)
        digits = value - quotient * 85
        value = quotient
        # A group of zeros is encoded as z and four characters that are removed below.
        shift = (_ZEROS[0] if index == 0 else _REMOVED[0]) - _FIRST
        column = (digits + zeros * shift).to_bytes(8 * groups, "big")[7::8]
        characters[index::5] = column.translate(_TO_CHARACTERS)
    return bytes(characters).translate(None, _REMOVED)


def _divided_by_85(value: int, ones: int) -> int:
    """Divide each lane: a multiplication by 2**38 / 85 is exact for 32 bits."""
    return ((value * 3233857729) >> 38) & (ones * (2**26 - 1))
