"""A client of bare sockets, for tests in which each byte matters, or its absence."""

from __future__ import annotations

import re
import socket
import ssl
from types import TracebackType
from typing import Self

from acebase_ipc.testing import upgrade_request
from tests.integration.relay_process import DEADLINE, Address


class RawClient:
    """A connection to a relay; a context manager. It blocks, with a deadline."""

    def __init__(self, address: Address, receive_buffer: int | None = None) -> None:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.socket = socket.socket(family if address.path is None else socket.AF_UNIX)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(address.path or (address.host, address.port))
        if address.secure:
            context = ssl.create_default_context(cafile=address.root)
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of *data*."""
        self.socket.sendall(data)

    def receive(self) -> bytes:
        """What one ``recv`` gets."""
        return self.socket.recv(65536)

    def upgrade(self, target: str) -> bytes:
        """Ask for a WebSocket; returns what the first ``recv`` gets."""
        self.send(upgrade_request(target))
        return self.receive()

    def read_until(self, end: bytes) -> bytes:
        """Read until *end*, and return all before it."""
        while end not in self._received:
            self._read_more()
        head, _, self._received = self._received.partition(end)
        return head

    def read_answer(self) -> tuple[int, str]:
        """Read one HTTP response with a Content-Length; returns its status and body."""
        head = self.read_until(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        while len(self._received) < size:
            self._read_more()
        body, self._received = self._received[:size], self._received[size:]
        return int(head.split()[1]), body.decode()

    def _read_more(self) -> None:
        data = self.receive()
        assert data, f"the connection ended after {self._received!r}"
        self._received += data


def post_head(target: str, *headers: str) -> bytes:
    """The request line and headers of a POST."""
    lines = [f"POST {target} HTTP/1.1", "Host: 127.0.0.1", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
