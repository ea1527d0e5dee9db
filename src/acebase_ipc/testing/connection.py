"""The client's end of a connection in memory, byte by byte."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.testing.http import Response, parse_responses
from acebase_ipc.testing.reactor import MemoryReactor
from acebase_ipc.testing.sockets import MemorySocket

_READ_SIZE = 1 << 20


@implementer(IReadDescriptor)
class MemoryConnection:
    """The client's end of a connection to a relay in memory.

    What the relay sends is read at once, unless :meth:`stop_reading` was called.

    :param secure: whether to speak TLS; the certificate of a relay is not verified.
    :param settle: lets the relay do all that it can do now.
    :ivar settle: the same.
    :ivar on_data: called with what comes, instead of keeping it for :meth:`take`.
    """

    def __init__(
        self,
        reactor: MemoryReactor,
        sock: MemorySocket,
        settle: Callable[[], object],
        *,
        secure: bool = False,
    ) -> None:
        self.on_data: Callable[[bytes], object] | None = None
        self._received = bytearray()
        self._reactor = reactor
        self._socket = sock
        self.settle = settle
        self._tls = _TLSClient(self, reactor) if secure else None
        reactor.addReader(self)

    def send(self, *pieces: bytes, settle: bool = True) -> None:
        """Send each piece, and let the relay deal with it before the next.

        :param settle: ``False``: let it find all of them when something else settles.
        """
        for piece in pieces:
            if self.ended is None:
                if self._tls is not None:
                    self._tls.write(piece)
                else:
                    self._socket.send(piece)
                if settle:
                    self.settle()

    def take(self) -> bytes:
        """What has come since the last time."""
        data = bytes(self._received)
        self._received.clear()
        return data

    def response(self) -> Response:
        """The one HTTP response that has come since the last time."""
        (response,) = self.responses()
        return response

    def responses(self) -> list[Response]:
        """The HTTP responses that have come since the last time."""
        return list(parse_responses(self.take()))

    @property
    def ended(self) -> str | None:
        """How the relay has ended the connection: ``"closed"``, ``"reset"`` or not."""
        return self._socket.left

    @property
    def writes(self) -> list[bytes]:
        """What the relay has written so far, in the pieces of its system calls."""
        return self._socket.other.writes

    @property
    def unread(self) -> bytes:
        """What was sent and the relay has not read, encrypted where TLS is spoken."""
        return bytes(self._socket.other.inbox)

    @property
    def options(self) -> dict[tuple[int, int], object]:
        """The socket options that the relay has set."""
        return self._socket.other.options

    def stop_sending(self) -> None:
        """Send nothing more, as after ``shutdown(SHUT_WR)``, and read on; not over TLS."""
        self._socket.shutdown(socket.SHUT_WR)
        self.settle()

    def close(self) -> None:
        """End the connection; what was sent arrives before."""
        if self._tls is not None:
            self._tls.lose()
            self.settle()
        self._end(self._socket.close)

    def reset(self) -> None:
        """End the connection as the system does for a killed process."""
        self._end(self._socket.reset)

    def cut(self) -> None:
        """Let the network break the connection."""
        self._reactor.removeReader(self)
        self._socket.cut()
        self.settle()

    def _end(self, end: Callable[[], object]) -> None:
        self._reactor.removeReader(self)
        end()
        self.settle()

    def stop_reading(self, room: int = 0) -> None:
        """Read nothing after another *room* bytes."""
        self._socket.room = room

    def resume_reading(self, room: int | None = None) -> None:
        """Read another *room* bytes; default: all that comes."""
        self._socket.room = room
        self.settle()

    # Called by the reactor

    def doRead(self) -> None:
        """Read what has come."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._reactor.removeReader(self)
        elif self._tls is not None:
            self._tls.feed(data)
        else:
            self.received(data)

    def received(self, data: bytes) -> None:
        """Take what has come, decrypted."""
        (self.on_data or self._received.extend)(data)

    def fileno(self) -> int:
        """The descriptor that the reactor waits for."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """What Twisted may call it in a log."""
        return "client in memory"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""


class _TLSClient:
    """The client's side of TLS: between what is read and written, and the socket."""

    def __init__(self, connection: MemoryConnection, reactor: MemoryReactor) -> None:
        protocol = Protocol()
        protocol.dataReceived = connection.received  # type: ignore[method-assign]
        factory = TLSMemoryBIOFactory(CertificateOptions(), True, _Once(protocol), clock=reactor)
        self._protocol: Any = factory.buildProtocol(None)
        self._protocol.makeConnection(_Ciphertext(connection._socket))

    def feed(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def write(self, data: bytes) -> None:
        self._protocol.write(data)

    def lose(self) -> None:
        self._protocol.loseConnection()


class _Once(Factory):
    """Makes one protocol that exists already."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: object) -> Protocol:
        return self._protocol


class _Ciphertext:
    """The transport of TLS: writes to a socket at once."""

    def __init__(self, sock: MemorySocket) -> None:
        self._socket = sock
        self.disconnecting = False

    def write(self, data: bytes) -> None:
        if self._socket.left != "reset" and self._socket.fileno() >= 0:
            self._socket.send(data)

    def writeSequence(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None: ...

    def unregisterProducer(self) -> None: ...

    def loseConnection(self) -> None: ...

    def abortConnection(self) -> None: ...

    def getPeer(self) -> None: ...

    def getHost(self) -> None: ...
