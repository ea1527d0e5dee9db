"""An HTTP connection to the relay: its bodies, its client, and its end as a WebSocket."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IAddress

from acebase_ipc.addresses import host_of
from acebase_ipc.http.channel import MAX_HEAD, Phase, SteppedChannel
from acebase_ipc.http.head import RequestLine
from acebase_ipc.websocket._autobahn import BadRequestChannel

BODY: Final = 64
"""Units of work of a piece of a body that needs no parsing."""


class RelayChannel(SteppedChannel):
    """An HTTP connection to the relay.

    :ivar host: the host of :attr:`client`, for which the connection is counted.
    :ivar served: the client that a trusted proxy serves; ``None`` if none has said.
    :ivar surplus: whether it was accepted beyond the limit on connections, for a
        health check.
    """

    host = ""
    surplus = False
    served: IAddress | None = None

    @property
    def client(self) -> IAddress:
        """The address of the client: that of the other end, or whom a trusted proxy serves."""
        return self.served or super().client

    def serve(self, client: IAddress | None) -> bool:
        """Serve *client* of a trusted proxy, or ``None``: any; returns whether it has room."""
        self.served = client
        return bool(self.site.attribute(self, host_of(self.client)))

    # Bodies

    def _read_heads(self) -> None:
        """Read no more at a time than a head has: a body after it may have to wait for room."""
        self.transport.bufferSize = MAX_HEAD

    def _read_bodies(self) -> None:
        """Read as much at a time as Twisted does."""
        self.transport.bufferSize = FileDescriptor.bufferSize

    def dataReceived(self, data: bytes) -> None:
        """Receive *data*, a piece of a body at once if this turn has time left for it."""
        if self._continues_body(len(data)) and self.site.rotation.spend(BODY):
            BadRequestChannel.dataReceived(self, data)
        else:
            super().dataReceived(data)

    def _continues_body(self, size: int) -> bool:
        """Whether the next *size* bytes are of a body, and do not complete it."""
        return (
            self.phase is Phase.RECEIVING
            and not (self.line_mode or self._input or self.paused)
            and self.read_deadline is None
            and size < self.requests[-1].missing
        )

    def began(self, line: RequestLine) -> None:
        """Let the request know what it is about before its body comes."""
        self.requests[-1].begin(line.method, line.target, line.version)

    def allHeadersReceived(self) -> None:
        """Read a body in larger pieces, if it has room."""
        super().allHeadersReceived()
        if self.phase is Phase.RECEIVING:
            self._read_bodies()

    def requestDone(self, request: Any) -> None:
        """Wait for the next request, maybe of another client of a proxy."""
        if self.served is not None:
            self.serve(None)
        self._read_heads()
        super().requestDone(request)

    def hold(self) -> None:
        """Neither read nor parse until :meth:`release`; no deadline applies meanwhile."""
        self._enter(Phase.PAUSED)
        self.paused = True
        self._read_while_nothing_waits()

    def release(self, complete: bool) -> None:
        """Read on, or await the answer of a request whose body is *complete*."""
        if complete:
            self._enter(Phase.ANSWERING)
        else:
            self._enter(Phase.RECEIVING, self.site.request_timeout)
            self._read_bodies()
        self.transport.resumeProducing()
        self._go_on()

    # The end

    def upgraded(self) -> bytes:
        """The connection becomes a WebSocket; returns the rest of the input."""
        rest = b"".join((self.clearLineBuffer(), *self._input))
        self._end()
        self._read_bodies()  # or messages, if the transport reads for the WebSocket
        self.paused = True
        return rest
