"""A relay in memory with an admin endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from acebase_ipc.testing import (
    MemoryConnection,
    MemoryPeer,
    MemoryPort,
    MemoryRelay,
    Response,
    http_head,
)
from tests.relay.core import MASTER
from tests.relay.locks import body_of, grant, lock, new_id, worker_id

LOOPBACK = "tcp:9164:interface=127.0.0.1"
HOST = "127.0.0.1:9164"


@dataclass(frozen=True, slots=True)
class ServerSent:
    """A server-sent event."""

    kind: str
    id: int | None
    data: Any


class AdminRelay(MemoryRelay):
    """A relay in memory; :attr:`port` is that of its peers, ``admin`` the other one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"admin": (LOOPBACK,)} | options))
        self.admin: MemoryPort = self.reactor.ports[-1]

    @contextmanager
    def at_admin(self) -> Iterator[None]:
        """Let requests go to the admin endpoint."""
        port, self.port = self.port, self.admin
        try:
            yield
        finally:
            self.port = port

    def furnish(self) -> MemoryPeer:
        """Let there be something of everything; returns the worker that waits for a lock."""
        master = self.join_acebase(MASTER)
        holder, waiting = (self.join_acebase(worker_id(n)) for n in (1, 2))
        request = lock(holder.id, new_id())
        holder.say(request)
        waiting.say(lock(waiting.id, new_id()))
        master.say(grant(body_of(request), 7))
        alice, _ = self.join_all("alice", "bobby")
        alice.post("to:bobby;" + "x" * 100_000)
        return waiting

    def ask(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> Response:
        """The answer of the admin endpoint."""
        with self.at_admin():
            return self.request(method, target, body, **({"host": HOST} | headers))

    def see(self, path: str, /, **headers: str) -> Any:
        """The object at a path below ``/api/v1/``."""
        response = self.ask("GET", f"/api/v1/{path}", **headers)
        assert response.status == 200, response.text
        return json.loads(response.text)

    def do(self, path: str, /, **members: Any) -> Response:
        """The answer to a command below ``/api/v1/``."""
        body = json.dumps(members).encode()
        return self.ask("POST", f"/api/v1/{path}", body, x_acebase_ipc="1")

    def read_stream(self, query: str = "", **headers: str) -> Reading:
        """A reader of the live stream."""
        with self.at_admin():
            connection = self.connect()
        head = http_head("GET", f"/api/v1/stream?{query}", **({"host": HOST} | headers))
        connection.send(head)
        return Reading(connection)


class Reading:
    """The live stream, as one reader has it."""

    def __init__(self, connection: MemoryConnection) -> None:
        self.connection = connection
        self.head, _, self._chunks = connection.take().partition(b"\r\n\r\n")
        self._text = b""

    def raw(self) -> list[bytes]:
        """The blocks of the stream that have come since the last time."""
        self._chunks += self.connection.take()
        while b"\r\n" in self._chunks:
            size, _, rest = self._chunks.partition(b"\r\n")
            length = int(size, 16)
            if len(rest) < length + 2:
                break
            self._text += rest[:length]
            self._chunks = rest[length + 2 :]
        *blocks, self._text = self._text.split(b"\n\n")
        return blocks

    def take(self, kind: str | None = None) -> list[ServerSent]:
        """The events, of this *kind* or any, that have come since the last time."""
        found = [_parse(each) for each in self.raw() if b"data: " in each]
        return [each for each in found if kind in (None, each.kind)]


def _parse(block: bytes) -> ServerSent:
    lines = dict(line.split(": ", 1) for line in block.decode().split("\n"))
    number = lines.get("id")
    return ServerSent(
        lines["event"], None if number is None else int(number), json.loads(lines["data"])
    )
