"""The names by which tests used :mod:`acebase_ipc.testing` before it was public."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from acebase_ipc.testing import (
    DATABASE,
    START,
    Frame,
    MemoryConnection,
    MemoryPeer,
    MemoryReactor,
    MemoryRelay,
    Opcode,
    Response,
    chunk,
    client_frame,
    close_payload,
    http_head,
    http_request,
    parse_responses,
    upgrade_request,
)
from acebase_ipc.testing.http import ACCEPT, KEY

__all__ = [
    "ACCEPT",
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "DATABASE",
    "KEY",
    "PING",
    "PONG",
    "PORT",
    "START",
    "TEXT",
    "Frame",
    "MemoryNetwork",
    "Peer",
    "Response",
    "Wire",
    "World",
    "chunk",
    "client_frame",
    "close_payload",
    "http_head",
    "http_request",
    "parse_responses",
    "text",
    "upgrade_request",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = Opcode
PORT = 9163
MemoryNetwork = MemoryReactor

text = Frame.from_text


class World(MemoryRelay):
    """A relay in memory."""

    def __init__(self, *, fails: bool = False, taken: Iterable[int] = (), **config: Any) -> None:
        reactor = MemoryReactor(taken=taken)
        super().__init__(reactor=reactor, expect_errors=fails, **config)
        self.started: list[object] = []
        self.starting.addBoth(self.started.append)

    @property
    def events(self) -> Any:
        return self.log

    @property
    def failures(self) -> list[str]:
        return self.errors

    def stop(self) -> Any:
        stopped: list[object] = []
        super().stop().addBoth(stopped.append)
        return stopped

    @property
    def factory(self) -> Any:
        return None if self.port is None else self.port.factory

    @factory.setter
    def factory(self, factory: Any) -> None:
        ports = [each for each in self.reactor.ports if each.factory is factory]
        self.port = ports[0] if ports else self.reactor.listenTCP(0, factory)

    def connect(self, host: str = "127.0.0.1") -> Wire:
        connection = super().connect(host)
        connection.__class__ = Wire
        connection.world = self  # type: ignore[attr-defined]
        assert isinstance(connection, Wire)
        return connection

    def upgrade(self, target: str, **headers: str) -> Wire:
        wire = super().upgrade(target, **headers)
        assert isinstance(wire, Wire)
        return wire

    def peer(self, client_id: str, database: str = DATABASE, query: str = "") -> Peer:
        target = f"/{database}/connect?id={client_id}&v=1.0.0&t=none{query}"
        peer = Peer(client_id, self.upgrade(target))
        assert peer.received()[0].startswith("welcome:")
        return peer

    def peers(self, *client_ids: str, database: str = DATABASE, query: str = "") -> list[Peer]:
        peers = [self.peer(each, database, query) for each in client_ids]
        for each in peers:
            each.received()
        return peers


class Wire(MemoryConnection):
    """The client's end of a connection."""

    world: World

    @property
    def socket(self) -> Any:
        return _Socket(self)

    @property
    def reader(self) -> Any:
        return self.on_data

    @reader.setter
    def reader(self, reader: Any) -> None:
        self.on_data = reader

    def read_on(self, room: int | None = None) -> None:
        self.resume_reading(room)


class _Inbox:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def extend(self, data: bytes) -> None:
        self._wire.send(bytes(data), settle=False)

    def __eq__(self, other: object) -> bool:
        return self._wire.unread == other

    def __iadd__(self, data: bytes) -> _Inbox:
        self.extend(data)
        return self


class _Socket:
    """The server's end of a Wire, as far as tests use it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def inbox(self) -> Any:
        return _Inbox(self._wire)

    @inbox.setter
    def inbox(self, inbox: Any) -> None: ...

    @property
    def sent(self) -> list[bytes]:
        return self._wire.writes

    @property
    def ended(self) -> str | None:
        return self._wire.ended

    @property
    def room(self) -> int | None:
        return self._wire._socket.room

    @room.setter
    def room(self, room: int | None) -> None:
        self._wire._socket.room = room

    @property
    def left(self) -> str | None:
        return self._wire._socket.other.left

    @left.setter
    def left(self, left: str) -> None:
        self._wire._reactor.removeReader(self._wire)
        self._wire._socket.other._receive(b"", signal=True)
        self._wire._socket.other.left = left


class Peer(MemoryPeer):
    """A WebSocket client."""

    @property
    def wire(self) -> Wire:
        assert isinstance(self.connection, Wire)
        return self.connection
