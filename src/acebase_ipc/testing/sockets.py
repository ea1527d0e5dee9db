"""TCP connections in memory, which Twisted's own transports read and write."""

from __future__ import annotations

import errno
import socket
from typing import Any

_SIGNAL = b"!"
MORE_FOLLOWS = getattr(socket, "MSG_MORE", 0)


class MemorySocket(socket.socket):
    """One end of a TCP connection in memory; see :func:`connected_sockets`.

    It is a real socket to whatever waits for it (``select``, ``epoll``, Twisted's
    transports): its descriptor is readable when :meth:`recv` has something to tell. The
    data itself is kept here, so a test decides how much fits into the connection, and
    sees each ``send``.

    :ivar inbox: bytes that the other end has sent and this one has not received.
    :ivar room: bytes that this end still takes; ``None``: any number.
    :ivar writes: the bytes that each ``send`` of this end took; those of one with ``MSG_MORE``
        are with those of the next.
    :ivar options: the socket options that were set.
    :ivar left: how the other end has ended the connection, ``"closed"`` or ``"reset"``.
    :ivar other: the other end.
    """

    other: MemorySocket

    def __init__(self, end: socket.socket, address: tuple[Any, ...]) -> None:
        super().__init__(end.family, end.type, end.proto, end.detach())
        super().setblocking(False)
        self.inbox = bytearray()
        self.room: int | None = None
        self.writes: list[bytes] = []
        self._more_follows = False
        self.options: dict[tuple[int, int], object] = {}
        self.left: str | None = None
        self._address = address

    def __del__(self) -> None:
        super().close()  # it leaves nothing open in the system: no warning is due

    # What transports call

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Receive up to *size* bytes, as ``socket.recv`` does."""
        if self.inbox:
            data = bytes(self.inbox[:size])
            del self.inbox[:size]
            if not self.inbox and self.left is None:
                super().recv(1)
            return data
        if self.left == "reset":
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        if self.left == "closed":
            return b""
        raise BlockingIOError(errno.EWOULDBLOCK, "nothing has come")

    def send(self, data: Any, flags: int = 0) -> int:
        """Send as much of *data* as the other end takes, as ``socket.send`` does."""
        if self.left == "reset":
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        room = self.other.room
        if room is not None:
            if room <= 0:
                raise BlockingIOError(errno.EWOULDBLOCK, "full")
            data = data[:room]
            self.other.room = room - len(data)
        taken = bytes(data)
        if self._more_follows:
            self.writes[-1] += taken
        else:
            self.writes.append(taken)
        self._more_follows = bool(flags & MORE_FOLLOWS)
        self.other._receive(taken)
        return len(taken)

    def close(self) -> None:
        """End the connection; with ``SO_LINGER`` set it is reset."""
        if self.fileno() >= 0:
            lingers = (socket.SOL_SOCKET, socket.SO_LINGER) not in self.options
            self.other.left = self.other.left or ("closed" if lingers else "reset")
            super().close()

    def reset(self) -> None:
        """End the connection as the system does for a killed process: what waits is lost."""
        self.other.left = "reset"
        self.other.inbox.clear()
        super().close()

    def cut(self) -> None:
        """Let the network break the connection, which both ends notice."""
        for each in (self, self.other):
            each._receive(b"", signal=True)
            each.left = each.left or "reset"

    def _receive(self, data: bytes, *, signal: bool = False) -> None:
        if self.fileno() < 0:
            return
        if (data or signal) and not self.inbox and self.left is None and self.other.fileno() >= 0:
            socket.socket.send(self.other, _SIGNAL)
        self.inbox += data

    @property
    def writable(self) -> bool:
        """Whether :meth:`send` takes something, or fails."""
        return self.other.room is None or self.other.room > 0 or self.left == "reset"

    def setsockopt(self, level: int, option: int, value: Any, length: int = 0) -> None:
        """Note an option, which has no effect but for ``SO_LINGER``."""
        self.options[level, option] = value

    def getsockopt(self, level: int, option: int, length: int = 0) -> Any:
        """What was set; zeros by default, *length* bytes of them or a number."""
        return self.options.get((level, option), bytes(length) if length else 0)

    def getsockname(self) -> tuple[Any, ...]:
        """The address of this end."""
        return self._address

    def getpeername(self) -> tuple[Any, ...]:
        """The address of the other end."""
        return self.other._address

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    def shutdown(self, how: int) -> None:
        """Send nothing more; all else has no effect."""
        if how == socket.SHUT_WR:
            super().shutdown(how)
            self.other.left = self.other.left or "closed"


def connected_sockets(
    client: tuple[Any, ...], server: tuple[Any, ...]
) -> tuple[MemorySocket, MemorySocket]:
    """The two ends of a new connection between two addresses: the client's, the server's.

    >>> near, far = connected_sockets(("127.0.0.1", 40000), ("127.0.0.1", 9163))
    >>> near.send(b"hello"), far.recv(100)
    (5, b'hello')
    """
    one, two = socket.socketpair()
    near, far = MemorySocket(one, client), MemorySocket(two, server)
    near.other, far.other = far, near
    return near, far
