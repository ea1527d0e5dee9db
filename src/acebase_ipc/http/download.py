"""A response body that is written as fast as the client reads it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IPullProducer, IPushProducer, IReactorTime
from twisted.web.server import Request
from zope.interface import implementer

from acebase_ipc.relay.limits import KIB

DOWNLOAD_CHUNK = 256 * KIB
"""Bytes of a download written in one reactor turn, so that others get theirs."""


@implementer(IPushProducer)
class Download:
    """Writes a response body as fast as the transport takes it.

    *complete* is called when all of it has left for the client, and not when
    the download breaks: then it may be repeated.
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
        piece = self._body[self._written : self._written + DOWNLOAD_CHUNK]
        self._written += len(piece)
        if self._written < len(self._body):
            self._step = self._reactor.callLater(0, self._write)
            self._request.write(bytes(piece))
        else:
            self._request.write(bytes(piece))
            self._await_departure()

    def _await_departure(self) -> None:
        """A streaming producer is told that the transport is empty only if it was full
        before; another one always is. TLS has no such producers: one turn must do."""
        transport = self._request.transport
        if isinstance(transport, FileDescriptor):
            transport.unregisterProducer()
            transport.registerProducer(_Departure(self._finish), False)
        else:
            self._step = self._reactor.callLater(0, self._finish)

    def _finish(self) -> None:
        request = self._request
        channel = request.channel
        if isinstance(request.transport, FileDescriptor):
            request.transport.unregisterProducer()
            request.transport.registerProducer(channel, True)
        request.unregisterProducer()
        channel.resumeProducing()
        request.finish()
        self._complete()

    def pauseProducing(self) -> None:
        """The transport is full."""
        if self._written < len(self._body) and self._step.active():
            self._step.cancel()

    def resumeProducing(self) -> None:
        """The transport has room."""
        if self._written < len(self._body) and not self._step.active():
            self._step = self._reactor.callLater(0, self._write)

    def stopProducing(self) -> None:
        """The client is gone."""
        if self._step.active():
            self._step.cancel()


@implementer(IPullProducer)
class _Departure:
    """Finds out when a transport has written everything: then it asks for more."""

    def __init__(self, departed: Callable[[], None]) -> None:
        self._departed = departed
        self._asked = False

    def resumeProducing(self) -> None:
        """The transport asks at once, and again when it is empty."""
        if self._asked:
            self._departed()
        self._asked = True

    def stopProducing(self) -> None:
        """The client is gone."""
