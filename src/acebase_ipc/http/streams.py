"""Answers that have no end: they are kept alive, and end with the server or their token."""

from __future__ import annotations

from typing import Final, Protocol

COMMENT_INTERVAL: Final = 15
"""Seconds between two comments, which tell a reader and proxies that a stream goes on."""


class Stream(Protocol):
    """One such answer."""

    @property
    def is_allowed(self) -> bool:
        """Whether the token of its request is valid now."""

    @property
    def held(self) -> bytes | None:
        """What it holds and nothing else counts; several may hold the same."""

    def comment(self) -> None:
        """Show that the stream goes on."""

    def end(self) -> None:
        """End the answer; its reader may ask again."""

    def abort(self) -> None:
        """End the connection."""


class Streams:
    """The answers that have no end."""

    def __init__(self) -> None:
        self._streams: dict[Stream, None] = {}
        self._ticks = 0

    @property
    def memory(self) -> int:
        """The bytes that the streams hold and nothing else counts."""
        held = {id(each.held): len(each.held) for each in self._streams if each.held}
        return sum(held.values())

    def add(self, stream: Stream) -> None:
        """Look after *stream* until :meth:`discard`."""
        self._streams[stream] = None

    def discard(self, stream: Stream) -> None:
        """*stream* has ended."""
        self._streams.pop(stream, None)

    def tick(self) -> None:
        """Do what has to be done about once a second."""
        self._ticks += 1
        if self._ticks % COMMENT_INTERVAL == 0:
            for each in tuple(self._streams):
                each.comment()

    def check_access(self) -> None:
        """End the streams whose token is not valid any more."""
        for each in tuple(self._streams):
            if not each.is_allowed:
                each.abort()

    def close(self) -> None:
        """End all streams."""
        for each in tuple(self._streams):
            each.end()
