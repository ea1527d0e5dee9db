"""A log that nobody reads, for Autobahn, which logs whatever it does.

Its 17 lines for each connection cost a server a tenth of making it even if they are
thrown away later. What peers do wrong is reported elsewhere. A client's would hold
the whole handshake, with the token in it.
"""

from __future__ import annotations

from types import FunctionType
from typing import Final

from autobahn.twisted.websocket import WebSocketClientProtocol


class NullLogger:
    """A logger, as far as Autobahn is concerned."""

    def debug(self, *words: object, **values: object) -> None:
        """Say nothing."""

    info = warn = error = critical = failure = trace = debug


# The client's side

MESSAGE_SIZE_FLAG: Final = "wasMaxMessagePayloadSizeExceeded"
"""What Autobahn sets in a connection that it fails for the size of a message."""


def _uses(kind: type, name: str) -> bool:
    """Whether a method of *kind* uses the attribute *name*."""
    return any(
        name in function.__code__.co_names
        for each in kind.__mro__
        for function in vars(each).values()
        if isinstance(function, FunctionType)
    )


TELLS_MESSAGE_SIZE: Final = _uses(WebSocketClientProtocol, MESSAGE_SIZE_FLAG)
"""Whether it does; else a message that is too large counts as a protocol error."""

TELLS_CLOSE_FRAMES: Final = _uses(WebSocketClientProtocol, "onCloseFrame")
"""Whether a connection is told that the relay closes; else only its keepalive ends it
when the relay sends a close frame and leaves the TCP connection open."""


def exceeded_message_size(connection: WebSocketClientProtocol) -> bool:
    """Whether Autobahn has failed *connection* because a message was too large."""
    return TELLS_MESSAGE_SIZE and bool(getattr(connection, MESSAGE_SIZE_FLAG, False))
