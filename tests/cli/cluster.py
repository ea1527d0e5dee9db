"""A real relay with an admin endpoint, and peers that are played by a test, without a reactor."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote

from acebase_ipc.cli.place import parse_place
from acebase_ipc.testing import FrameReader, Opcode, client_frame, close_frame, upgrade_request
from tests.integration.relay_process import DEADLINE, RelayProcess, on_loopback, running_relay
from tests.relay.core import MASTER
from tests.relay.locks import grant, lock, worker_id

DATABASE = "mydb_data"

_ADMIN = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]):\d+|unix:\S+")


class PlayedPeer:
    """A peer over a blocking socket; a context manager."""

    def __init__(self, port: int, peer_id: str, database: str = DATABASE) -> None:
        self.id = peer_id
        self._reader = FrameReader()
        self._texts: list[str] = []
        self._socket = socket.create_connection(("127.0.0.1", port), DEADLINE)
        head, rest = _shake_hands(self._socket, peer_id, database)
        assert head.startswith("HTTP/1.1 101"), head
        self._feed(rest)
        self.hear("welcome:")

    @staticmethod
    def refused(port: int, peer_id: str, query: str = "") -> str:
        """The first line of the relay's answer to a peer that it does not accept."""
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
            head, _ = _shake_hands(connection, peer_id, DATABASE, query)
        line, _, _ = head.partition("\r\n")
        assert not line.startswith("HTTP/1.1 101"), line
        return line

    @property
    def address(self) -> str:
        """Where it connects from, as the relay reports it."""
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def say(self, text: str) -> None:
        """Send a message."""
        self._socket.sendall(client_frame(text))

    def hear(self, part: str) -> str:
        """Wait for a message that contains *part*; returns it, and forgets all before it."""
        while not any(part in each for each in self._texts):
            data = self._socket.recv(65536)
            assert data, f"{self.id} was disconnected while it waited for {part!r}"
            self._feed(data)
        while part not in (text := self._texts.pop(0)):
            pass
        return text

    def closed(self) -> int:
        """Wait for the relay's close frame; returns its code."""
        while data := self._socket.recv(65536):
            for frame in self._reader.feed(data):
                if frame.opcode == Opcode.CLOSE:
                    return frame.close_code
        raise AssertionError("the connection ended without a close frame")

    def _feed(self, data: bytes) -> None:
        self._texts += [
            frame.text for frame in self._reader.feed(data) if frame.opcode == Opcode.TEXT
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._socket.sendall(close_frame(1000))
            while self._socket.recv(65536):
                pass
        except OSError:
            pass
        self._socket.close()


def _shake_hands(
    connection: socket.socket, peer_id: str, database: str, query: str = ""
) -> tuple[str, bytes]:
    """Send a handshake; returns the head of the answer, and what has come after it."""
    target = f"/{quote(database)}/connect?v=1.0.0&id={peer_id}&dialect=acebase{query}"
    connection.sendall(upgrade_request(target))
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65536)
        assert data, "the connection ended"
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    return head.decode(), rest


@dataclass(frozen=True, slots=True)
class Served:
    """A relay.

    :ivar admin: the URL of its admin endpoint.
    """

    process: RelayProcess
    admin: str
    port: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "port", self.process.address.port)

    @property
    def url(self) -> str:
        """The URL for peers."""
        return f"ws://127.0.0.1:{self.port}"


@contextmanager
def served(*options: str, admin: str = "") -> Iterator[Served]:
    """Run a relay with an admin endpoint.

    :param admin: its endpoint string; by default any free port of loopback.
    """
    arguments = (f"--admin={admin or on_loopback()}", *options)
    with running_relay(options=arguments) as process:
        process.wait_for("admin endpoint", _ADMIN.search)
        found = _ADMIN.search(process.log)
        assert found is not None
        with closing(parse_place(found[0]).connection(DEADLINE)) as connection:
            connection.request("GET", "/healthz")  # its answer shows that all is started
            assert connection.getresponse().status == 200
        yield Served(process, found[0])


@dataclass(frozen=True, slots=True)
class Cluster:
    """A master and two workers, of which the first holds the lock that the second waits for."""

    master: PlayedPeer
    holder: PlayedPeer
    waiter: PlayedPeer


@contextmanager
def cluster(port: int) -> Iterator[Cluster]:
    """Connect the three; they leave at the end of the block."""
    with (
        PlayedPeer(port, quote(MASTER)) as master,
        PlayedPeer(port, worker_id(1)) as holder,
        PlayedPeer(port, worker_id(2)) as waiter,
    ):
        holder.say(lock(holder.id, "r1", tid="t1", path="books/[1]"))
        master.say(grant(master.hear("lock-request"), 5))
        holder.hear("lock-result")
        waiter.say(lock(waiter.id, "r2", tid="t2", path="authors"))
        master.hear('"r2"')
        yield Cluster(master, holder, waiter)
