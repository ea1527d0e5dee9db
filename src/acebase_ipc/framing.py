"""Bytes of WebSocket frames (RFC 6455, section 5).

A frame from a server to a client is not masked, so it is the same bytes for
every receiver: it is built once per message and shared by all of them.
"""

from __future__ import annotations

_TEXT = 0x81  # FIN and opcode 1
_SHORT = tuple(bytes((_TEXT, length)) for length in range(126))


def text_frame(payload: bytes) -> bytes:
    """The unmasked frame that carries *payload*, valid UTF-8, as one text message."""
    length = len(payload)
    if length < 126:
        return _SHORT[length] + payload
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2, "big") + payload
    return b"\x81\x7f" + length.to_bytes(8, "big") + payload
