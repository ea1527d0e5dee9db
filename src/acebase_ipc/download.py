"""A response body that is written as fast as the client reads it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

from acebase_ipc.limits import KIB

DOWNLOAD_CHUNK = 256 * KIB
"""Bytes of a download written in one reactor turn, so that others get theirs."""


@implementer(IPushProducer)
class Download:
    """Writes a response body as fast as the transport takes it.

    *complete* is called when the last piece has been handed over and the
    client is still there; not when the download breaks.
    """

    def __init__(
        self, request: Request, body: bytes, reactor: IReactorTime, complete: Callable[[], None]
    ) -> None:
        self._request = request
        self._body = memoryview(body)
        self._reactor = reactor
        self._complete = complete
        self._written = 0
        self._step = reactor.callLater(0, self._write)

    def _write(self) -> None:
        if self._written < len(self._body):
            piece = self._body[self._written : self._written + DOWNLOAD_CHUNK]
            self._written += len(piece)
            self._step = self._reactor.callLater(0, self._write)
            self._request.write(bytes(piece))
        else:
            self._request.unregisterProducer()
            self._request.finish()
            self._complete()

    def pauseProducing(self) -> None:
        """The transport is full."""
        if self._step.active():
            self._step.cancel()

    def resumeProducing(self) -> None:
        """The transport has room."""
        if not self._step.active():
            self._step = self._reactor.callLater(0, self._write)

    def stopProducing(self) -> None:
        """The client is gone."""
        self.pauseProducing()
