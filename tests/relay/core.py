"""The relay's core in a world of fakes: its connections, the time, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.router import Relay

DATABASE = "shop_data"
MASTER = "[master]"
WELCOME = 'welcome:{"maxPayload":16384}'

_Event = TypeVar("_Event", bound=RelayEvent)


def read_frames(data: bytes) -> Iterator[str]:
    """The texts of whole, unmasked text frames (RFC 6455, section 5.2)."""
    while data:
        assert data[0] == 0x81, f"not a final text frame: {data[:2]!r}"
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
            assert length >= 126, "the length has a shorter form"
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
            assert length >= 65536, "the length has a shorter form"
        assert length == len(data[start : start + length]), "a frame is masked or cut off"
        yield data[start : start + length].decode()
        data = data[start + length :]


def frame_size(text: str) -> int:
    """The bytes of the frame that carries *text*."""
    length = len(text.encode())
    return length + (2 if length < 126 else 4 if length < 65536 else 10)


def hello(client_id: str) -> str:
    """The envelope that introduces a peer."""
    return f'{{"type":"hello","from":"{client_id}"}}'


def bye(client_id: str) -> str:
    """The envelope with which a published client takes leave."""
    return f'{{"type":"bye","from":"{client_id}"}}'


class FakeConnection:
    """A connection that keeps what it is sent.

    :ivar batching: whether frames wait for :meth:`flush`, as those of one turn
        do in a real connection; otherwise each is written at once.
    :ivar unsent: bytes that the transport could not send yet.
    :ivar unfinished: bytes of a message that has come in part.
    :ivar room: bytes that the transport takes before it is full.
    :ivar when_full: what the connection does then.
    :ivar closed: the code and reason with which the relay closed it.
    :ivar probes: the open questions for a sign of life: timeout and answer.
    """

    def __init__(self, address: str = "192.0.2.1:50000") -> None:
        self.address = address
        self.batching = False
        self.unsent = 0
        self.unfinished = 0
        self.room: float = float("inf")
        self.when_full: Callable[[], object] = lambda: None
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self.probes: list[tuple[float, Callable[[bool], object]]] = []
        self._batch: list[bytes] = []
        self._written: list[bytes] = []

    @property
    def backlog(self) -> int:
        return sum(map(len, self._batch)) + self.unsent

    @property
    def texts(self) -> list[str]:
        """All that it was sent and has not given back."""
        return list(read_frames(b"".join(self._written + self._batch)))

    @property
    def written(self) -> list[str]:
        """All that it was sent and can no longer give back."""
        return list(read_frames(b"".join(self._written)))

    def send(self, frame: bytes) -> None:
        if self.closed or self.aborted:
            return
        self._batch.append(frame)
        if not self.batching:
            self.flush()

    def flush(self) -> None:
        """Write the frames of this turn."""
        batch, self._batch = self._batch, []
        self._written += batch
        self.room -= sum(map(len, batch))
        if self.room <= 0:
            self.when_full()

    def reclaim(self) -> list[bytes]:
        batch, self._batch = self._batch, []
        return batch

    def probe(self, timeout: float, answer: Callable[[bool], object]) -> None:
        self.probes.append((timeout, answer))

    def close(self, code: int, reason: str) -> None:
        if not self.aborted:
            self.flush()
            self.closed = code, reason

    def abort(self) -> None:
        self._batch.clear()
        self.aborted = True


class Process:
    """A client's process: a peer, and its end of the connection.

    :ivar peer: the peer that the relay knows it as.
    """

    def __init__(self, world: World, peer: Peer, connection: FakeConnection) -> None:
        self.peer = peer
        self.connection = connection
        self._world = world
        self._relay = world.relay
        self._heard = 0

    def hears(self) -> list[str]:
        """The messages that have come since it was last asked."""
        texts = self.connection.texts
        new, self._heard = texts[self._heard :], len(texts)
        return new

    def says(self, message: str) -> None:
        """Send *message* over the WebSocket."""
        self._relay.receive(self.peer, message.encode())

    def posts(self, message: str) -> None:
        """POST *message*, which needs no connection."""
        peer = self._relay.peer(self.peer.database.name, self.peer.client_id)
        self._relay.post(peer, message.encode(), self._world.now)

    def downloads(self, announcement: str) -> str:
        """Fetch the large message that *announcement* is about."""
        database, mailbox = self.peer.database.name, self._relay.mailbox
        assert announcement.startswith("get:")
        reading = mailbox.open(database, self.peer.id, announcement[4:], lambda: None)
        mailbox.finish(reading, self._world.now)
        return reading.body.decode()

    def stops_reading(self, unsent: int = 0) -> None:
        """Let the connection be full, with *unsent* bytes in it."""
        self.connection.unsent = unsent
        self._relay.congested(self.peer, self.connection)

    def reads_on(self) -> None:
        """Let the connection have room again."""
        self.connection.unsent = 0
        self._relay.drained(self.peer, self.connection)

    def is_lost(self, close_code: int | None = None) -> None:
        """End the connection; without a close code it breaks."""
        self._relay.lost(self.peer, self.connection, close_code, self._world.now)


class World:
    """A relay, the time, and all that is reported.

    :ivar now: the time in seconds.
    :ivar reports: all events, in order.
    :param limits: the relay's limits that differ from the defaults.
    """

    def __init__(self, introduce: bool = True, **limits: Any) -> None:
        self.now = 1000.0
        self.reports: list[RelayEvent] = []
        self.relay = Relay(Limits(**limits), self, introduce)
        self._processes: list[Process] = []

    def report(self, event: RelayEvent) -> None:
        """Take note of *event*, and see that it can be logged."""
        assert event.text.format(**asdict(event))
        self.reports.append(event)

    def reported(self, kind: type[_Event]) -> list[_Event]:
        """The events of one *kind*."""
        return [event for event in self.reports if isinstance(event, kind)]

    def join(
        self,
        client_id: str,
        dialect: Dialect = Dialect.DOCUMENTED,
        settled: bool = True,
        database: str = DATABASE,
    ) -> Process:
        """Let a process connect."""
        connection = FakeConnection()
        handshake = Handshake(database, client_id, dialect, settled)
        peer = self.relay.join(handshake, connection, self.wall)
        process = Process(self, peer, connection)
        self._processes.append(process)
        return process

    def join_acebase(self, client_id: str, database: str = DATABASE) -> Process:
        """Let a published client connect."""
        return self.join(client_id, Dialect.ACEBASE, database=database)

    @property
    def wall(self) -> int:
        """The time in milliseconds since 1970."""
        return 1_600_000_000_000 + round(self.now * 1000)

    def wait(self, seconds: float) -> None:
        """Let time pass, and the relay know."""
        self.now += seconds
        self.relay.expire(self.now)

    def hush(self) -> None:
        """Let everybody forget what has come so far."""
        for process in self._processes:
            process.hears()

    def is_quiet(self) -> bool:
        """Whether nobody has heard anything new; if anybody has, it is forgotten."""
        return not [text for process in self._processes for text in process.hears()]
