"""A response body that is written as fast as the client reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from twisted.web.server import Request
from zope.interface import implementer

from acebase_ipc.relay.limits import KIB
from acebase_ipc.relay.store import MessageStore, Reading
from acebase_ipc.rotation import Rotation

SLICE = 128 * KIB
"""Bytes written in one step. Only these are copied, and only when the transport has
written the slice before: downloads share their body, however many there are."""


@implementer(IPushProducer)
class Download:
    """Writes a stored message as fast as the transport takes it.

    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        request: Request,
        store: MessageStore,
        key: tuple[str, bytes, str],
        rotation: Rotation,
        clock: Callable[[], float],
    ) -> None:
        """:raises NotFound: if no such message waits for this peer."""
        self._reading: Reading = store.open(*key, self.abort)
        self._request: Any = request
        self._store = store
        self._rotation = rotation
        self._clock = clock
        self._body = memoryview(self._reading.body)
        self._paused = False
        request.notifyFinish().addErrback(lambda _: self._end())

    def begin(self) -> None:
        """Write the first slice at once, if other connections need no time now."""
        self._request.setHeader(b"Content-Length", b"%d" % len(self._body))
        self._request.registerProducer(self, True)
        self._rotation.start(self)

    def step(self) -> bool:
        """Write a slice, or end the response when the transport has taken all of it."""
        if self._paused:
            return False
        piece, self._body = self._body[:SLICE], self._body[SLICE:]
        if piece:
            self._request.write(bytes(piece))
        if self._body or self._paused:
            return not self._paused
        self._request.unregisterProducer()
        self._store.finish(self._reading, self._clock())
        self._request.finish()
        return False

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The transport has written everything."""
        self._paused = False
        self._rotation.start(self)

    def stopProducing(self) -> None:
        """The transport ends."""
        self._end()

    def _end(self) -> None:
        """The download is broken: it may be repeated."""
        self._paused = True
        self._body = memoryview(b"")
        self._rotation.discard(self)
        self._store.abandon(self._reading)

    def abort(self) -> None:
        """End the connection: the same peer has begun another download of the message, say."""
        self._end()
        self._request.transport.abortConnection()
