"""The relay's core in a core of fakes: its connections, the time, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.handshake import Handshake, Resume
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.connection import Connection, send_one_by_one
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.relay.journal import Journal
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.memory import ENTRY_OVERHEAD, MESSAGE_OVERHEAD
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.work import do_at_once
from acebase_ipc.server.state_codec import decode, encode

DATABASE = "shop_data"
MASTER = "[master]"
AT = "192.0.2.1:50000"
"""Where each fake connection comes from."""

WELCOME = 'welcome:{"maxPayload":16384}'

_Event = TypeVar("_Event", bound=RelayEvent)


def memory_of(text: str) -> int:
    """The bytes that a message occupies in a queue."""
    return len(text.encode()) + MESSAGE_OVERHEAD + ENTRY_OVERHEAD


def hello(client_id: str) -> str:
    """The envelope that introduces a peer."""
    return f'{{"type":"hello","from":"{client_id}"}}'


def bye(client_id: str) -> str:
    """The envelope with which a published client takes leave."""
    return f'{{"type":"bye","from":"{client_id}"}}'


class FakeConnection:
    """A connection that keeps what it is sent.

    :ivar batching: whether messages wait for :meth:`flush`, as those of one turn
        do in a real connection; otherwise each is written at once.
    :ivar is_full: whether it takes no more.
    :ivar transport: bytes that the transport could not send yet.
    :ivar received: bytes of a message that has arrived in part.
    :ivar room: bytes that the transport takes before it is full.
    :ivar closed: the code and reason with which the relay closed it.
    :ivar silence: seconds since it has received something.
    :ivar lag: seconds that the other end takes to answer a ping.
    :ivar checks: the open checks of the other end: timeout and answer.
    """

    def __init__(self, address: str = AT) -> None:
        self.address = address
        self.silence = 0.0
        self.lag: float | None = None
        self.batching = False
        self.is_full = False
        self.transport = 0
        self.received = 0
        self.room: float = float("inf")
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self.checks: list[tuple[float, Callable[[bool], object]]] = []
        self._batch: list[Message] = []
        self._written: list[Message] = []

    @property
    def unsent(self) -> int:
        return sum(each.size for each in self._batch) + self.transport

    @property
    def memory(self) -> int:
        return self.unsent + self.received

    @property
    def texts(self) -> list[str]:
        """All that it was sent and has not given back."""
        return [each.text.decode() for each in self._written + self._batch]

    @property
    def written(self) -> list[str]:
        """All that it was sent and can no longer give back."""
        return [each.text.decode() for each in self._written]

    def send(self, message: Message) -> None:
        if self.closed or self.aborted:
            return
        self._batch.append(message)
        if not self.batching:
            self.flush()

    def send_text(self, text: bytes) -> None:
        self.send(Message(text))

    def send_texts(self, texts: Sequence[bytes]) -> None:
        for text in texts:
            self.send_text(text)

    def send_each(
        self, message: Message, connections: Sequence[Connection], but: Connection | None
    ) -> None:
        send_one_by_one(message, connections, but)

    def flush(self) -> None:
        """Write the messages of this turn."""
        batch, self._batch = self._batch, []
        self._written += batch
        self.room -= sum(each.size for each in batch)
        if self.room <= 0:
            self.is_full = True

    def reclaim(self) -> list[Message]:
        batch, self._batch = self._batch, []
        return batch

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        self.checks.append((timeout, answer))

    def close(self, code: int, reason: str) -> None:
        if not self.aborted:
            self.flush()
            self.closed = code, reason

    def suspend(self, code: int, reason: str) -> None:
        self.close(code, reason)
        self.is_full = True

    def abort(self) -> None:
        self._batch.clear()
        self.aborted = True


class Process:
    """A client's process: a peer, and its end of the connection.

    :ivar peer: the peer that the relay knows it as.
    """

    def __init__(self, core: Core, peer: Peer, connection: FakeConnection) -> None:
        self.peer = peer
        self.connection = connection
        self._known_as = peer.connection
        self._core = core
        self._relay = core.relay
        self._heard = 0

    @property
    def is_connected(self) -> bool:
        """Whether its connection is the one of its peer."""
        return self._known_as is not None and self.peer.connection is self._known_as

    def follow(self, peers: dict[tuple[str, str], Peer], relay: Relay) -> None:
        """Be a peer of another *relay* in place of the one with these *peers*."""
        key = self.peer.database.name, self.peer.client_id
        if peers.get(key) is self.peer:
            is_used = self.is_connected
            self.peer = relay.registry.peer(*key)
            if is_used:
                self._known_as = self.peer.connection
        self._relay = relay

    def hears(self) -> list[str]:
        """The messages that have come since it was last asked."""
        texts = self.connection.texts
        new, self._heard = texts[self._heard :], len(texts)
        return new

    def says(self, *messages: str) -> int:
        """Send *messages* over the WebSocket, to arrive together; returns how many were relayed."""
        return self._relay.receiver(self.peer)([each.encode() for each in messages])

    def posts(self, message: str) -> None:
        """POST *message*, which needs no connection."""
        peer = self._relay.registry.peer(self.peer.database.name, self.peer.client_id)
        self._relay.post(peer, message.encode(), self._core.now)

    def downloads(self, announcement: str) -> str:
        """Fetch the large message that *announcement* is about."""
        database, store = self.peer.database.name, self._relay.store
        assert announcement.startswith("get:")
        reading = store.open(database, self.peer.id, announcement[4:], lambda: None)
        store.finish(reading, self._core.now)
        return reading.body.decode()

    def stops_reading(self, unsent: int = 0) -> None:
        """Let the connection be full, with *unsent* bytes in it."""
        self.connection.transport = unsent
        self.connection.is_full = True

    def reads_on(self) -> None:
        """Let the connection have room again."""
        self.connection.transport = 0
        self.connection.is_full = False
        if self.peer.connection is self._known_as:
            self._relay.delivery.drain(self.peer)

    def is_lost(self, close_code: int | None = None, has_ended: bool = False) -> None:
        """End the connection; without a close code it breaks."""
        now = self._core.now
        assert self._known_as is not None
        self._relay.sessions.lost(self.peer, self._known_as, close_code, now, has_ended)


class Core:
    """A relay, the time, and all that is reported.

    :ivar now: the time in seconds.
    :ivar reports: all events, in order.
    :param journal: receives what has to outlast the relay.
    :param in_steps: calls a function until it returns that nothing is left to do.
    :param limits: the relay's limits that differ from the defaults.
    """

    def __init__(
        self,
        introduce: bool = True,
        lock_recovery: bool = True,
        lock_sessions: bool = True,
        journal: Journal | None = None,
        in_steps: Callable[[Callable[[], bool]], object] = do_at_once,
        **limits: Any,
    ) -> None:
        self.now = 1000.0
        self.reports: list[RelayEvent] = []
        self._calls: list[tuple[float, Callable[[], object]]] = []
        self._make = lambda: Relay(
            lambda: self.now,
            Limits(**limits),
            self,
            introduce,
            lock_recovery,
            lock_sessions,
            journal,
            in_steps=in_steps,
            call_later=lambda seconds, call: self._calls.append((self.now + seconds, call)),
        )
        self.relay = self._make()
        self._processes: list[Process] = []

    def restart(self, keeps_connections: bool = False) -> None:
        """Let another relay go on with the state of this one.

        :param keeps_connections: whether the connections live on; otherwise they have ended.
        """
        while self.relay.sessions.end_some(self.now):
            pass
        state = decode(encode(self.relay.export(self.now)))
        assert state == self.relay.export(self.now), "to export a state changes nothing"
        peers = {(each.database.name, each.client_id): each for each in self.relay.registry.peers()}
        connections: dict[tuple[str, str], Connection] = {
            (process.peer.database.name, process.peer.client_id): process.connection
            for process in self._processes
            if process.is_connected
        }
        assert keeps_connections or not connections
        self._calls.clear()  # those of the process before
        self.relay = self._make()
        self.relay.adopt(state, self.now, connections)
        assert self.relay.export(self.now) == state
        for process in self._processes:
            process.follow(peers, self.relay)
        self.relay.resume()

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
        restarts: bool = False,
        resume: Resume | None = None,
    ) -> Process:
        """Let a process connect."""
        connection = FakeConnection()
        handshake = Handshake(database, client_id, dialect, settled, restarts, resume)
        self.relay.sessions.check_fence(handshake, connection.address, self.now)
        admitted = self.relay.sessions.admit(handshake, connection, self.wall)
        assert connection.texts == [], "nothing is sent before the connection knows its peer"
        self.relay.sessions.welcome(admitted)
        process = Process(self, admitted.peer, connection)
        self._processes.append(process)
        return process

    def join_acebase(self, client_id: str, database: str = DATABASE) -> Process:
        """Let a published client connect."""
        return self.join(client_id, Dialect.ACEBASE, database=database, restarts=True)

    @property
    def wall(self) -> int:
        """The time in milliseconds since 1970."""
        return 1_600_000_000_000 + round(self.now * 1000)

    def wait(self, seconds: float) -> None:
        """Let time pass, and the relay know."""
        self.now += seconds
        due = [each for each in self._calls if each[0] <= self.now]
        self._calls = [each for each in self._calls if each[0] > self.now]
        for _, call in due:
            call()
        self.relay.expire(self.now)

    def hush(self) -> None:
        """Let everybody forget what has come so far."""
        for process in self._processes:
            process.hears()

    def is_quiet(self) -> bool:
        """Whether nobody has heard anything new; if anybody has, it is forgotten."""
        return not [text for process in self._processes for text in process.hears()]
