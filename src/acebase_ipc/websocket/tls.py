"""Sends and receives over TLS without Twisted's buffers.

Twisted encrypts in memory: what it has received passes through a protocol of its own, and what it
sends waits for the next turn, and then for the socket to be writable. Here the ciphertext is read
from the socket and written to it directly. All else, such as the end of TLS, is left to Twisted,
which uses the same session of OpenSSL.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from OpenSSL.SSL import Connection, Error, WantReadError
from twisted.internet.tcp import Server

from acebase_ipc.websocket import _autobahn

RECORD: Final = 1 << 14
"""Bytes of plaintext that a TLS record has at most (RFC 8446, section 5.1)."""

_CIPHERTEXT: Final = RECORD + (1 << 14)
"""Bytes that are read from OpenSSL at a time: a record of the greatest size, and smaller ones."""


class TLSSocket:
    """The socket of a TLS connection, which encrypts and decrypts.

    It has those methods of a socket that a WebSocket's connection and its reader need.

    :ivar transport: the transport of the socket, below TLS.
    """

    __slots__ = ("_ended", "_session", "_socket", "_tls", "transport")

    def __init__(self, tls: Any, ended: Callable[[], object]) -> None:
        """
        :param tls: the transport above TLS; its handshake is complete.
        :param ended: called, later, when TLS has ended or failed, so that Twisted has to notice.
        """
        self._tls = tls
        self._ended = ended
        self._session: Connection = tls.getHandle()
        self.transport: Server = tls.transport
        self._socket: socket.socket = self.transport.getHandle()

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def recv(self, size: int) -> bytes:
        """Receive what up to *size* bytes of ciphertext contain, as ``socket.recv`` does.

        :raises BlockingIOError: if they do not complete a record.
        """
        data = self._socket.recv(size)
        if not data:
            return b""
        session = self._session
        session.bio_write(data)
        parts = []
        try:
            while True:
                parts.append(session.recv(RECORD))
        except WantReadError:
            if not parts:
                self._answer()
        except Error:
            self._tls.transport.reactor.callLater(0, self._ended)
        if not parts:
            raise BlockingIOError
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _answer(self) -> None:
        """Write what OpenSSL answers by itself, to an update of the keys, for example."""
        try:
            answer = self._session.bio_read(_CIPHERTEXT)
        except WantReadError:
            return
        self.transport.write(answer)

    def send(self, data: bytes | memoryview, flags: int = 0, /) -> int:
        """Send *data*, or a part of it, as ``socket.send`` does.

        Of the ciphertext, what the system does not accept is left to the transport.
        """
        sent = 0
        while sent < len(data) and _autobahn.is_empty(self.transport):
            try:
                sent += self._session.send(data[sent : sent + RECORD])
                ciphertext = self._session.bio_read(_CIPHERTEXT)
            except Error:
                break  # which Twisted notices
            try:
                written = self._socket.send(ciphertext, flags)
            except OSError:
                written = 0  # it is full or broken, which the transport notices
            if written < len(ciphertext):
                self.transport.write(ciphertext[written:])
        return sent

    @property
    def is_empty(self) -> bool:
        """Whether Twisted has nothing to send."""
        return _autobahn.is_empty(self.transport) and _autobahn.is_tls_empty(self._tls)

    def end(self) -> None:
        """Let Twisted notice that TLS has ended."""
        if self._tls.connected:
            _autobahn.flush_tls(self._tls)


def tls_socket(transport: Any, ended: Callable[[], object]) -> TLSSocket | None:
    """Return the socket of a *transport*; ``None`` if that is not TLS directly above TCP.

    :param ended: see :class:`TLSSocket`.
    """
    if not _autobahn.TLS_IS_KNOWN or type(transport) is not _autobahn.TLSTransport:
        return None
    below = transport.transport
    return TLSSocket(transport, ended) if type(below) is Server and not below.TLS else None
