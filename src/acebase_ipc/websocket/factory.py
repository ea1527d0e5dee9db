"""The factory of all WebSockets of a relay: reading, writing, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.tcp import Server
from twisted.logger import Logger

from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.rotation import Rotation
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket.coalescing import WriteCoalescer
from acebase_ipc.websocket.epoll import EpollReader, Socket, can_use_epoll

log = Logger()


class Connection(Protocol):
    """A WebSocket, as its factory knows it."""

    transport: Any

    @property
    def memory(self) -> int:
        """The bytes that it holds."""

    @property
    def may_hold(self) -> bool:
        """Whether it may hold bytes without notice."""

    def collect_slices(self, frames: dict[int, int]) -> int:
        """Note in *frames* the size of each large frame that it writes; returns what is left."""

    def dataReceived(self, data: bytes) -> None:
        """Receive *data*."""

    def is_within_message(self) -> bool:
        """Return whether a message was received in part."""

    def expire(self) -> None:
        """End it, as the other end has not closed in time."""


C = TypeVar("C", bound=Connection)
Opened = TypeVar("Opened", bound=Connection, contravariant=True)


class Owner(Protocol[Opened]):
    """Is told which connections are open."""

    def opened(self, connection: Opened) -> None:
        """Note that *connection* is open."""

    def closed(self, connection: Opened) -> None:
        """Note that *connection*, which was open, has ended."""


class WebSocketFactory(WebSocketServerFactory, Generic[C]):
    """Knows the open WebSockets, reads for them, and decides when they write.

    :param max_message_bytes: bytes that a message may have.
    :param budget: counts the memory that the connections hold.
    :param enforce_memory_limit: called when a check of the budget is due.
    :param owner: is told which connections are open.
    :param rotation: serves connections that have received more than a slice of work.
    :param clock: returns monotonic seconds.
    :ivar connections: the open connections.
    :ivar ticks: the seconds for which the factory has been running, approximately.
    :ivar coalescer: decides when the connections write their messages.
    """

    noisy = False
    log = _autobahn.NullLogger()

    def __init__(
        self,
        max_message_bytes: int,
        budget: MemoryBudget,
        enforce_memory_limit: Callable[[], object],
        owner: Owner[C],
        rotation: Rotation,
        reactor: IReactorTime,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(server=None, reactor=reactor)
        self.max_message_bytes = max_message_bytes
        self.connections: set[C] = set()
        self.ticks = 0
        self.knows_parser = _autobahn.PARSER_IS_KNOWN
        self.knows_transport = _autobahn.TRANSPORT_IS_KNOWN
        self.coalescer = WriteCoalescer(reactor, clock, rotation.work)
        self.rotation = rotation
        self.work = rotation.work
        self._owner = owner
        self._budget = budget
        self._enforce_memory_limit = enforce_memory_limit
        self._holding: set[C] = set()
        self._when_closed: list[Deferred[None]] = []
        self._reader: EpollReader | None = None
        if can_use_epoll(reactor):
            coalescer = self.coalescer
            self._reader = EpollReader(
                reactor, coalescer.begin_turn, coalescer.end_turn, rotation.work
            )
        budget.register("connections", self._memory)
        if _autobahn.MISSING:
            missing = ", ".join(sorted(_autobahn.MISSING))
            log.warn("slower than possible: {missing} is missing", missing=missing)

    # The open connections

    def opened(self, connection: C) -> None:
        """Note that *connection* is open."""
        self.connections.add(connection)
        self._owner.opened(connection)

    def closed(self, connection: C) -> None:
        """Note that *connection* has ended."""
        self._holding.discard(connection)
        if connection in self.connections:
            self.connections.remove(connection)
            self._owner.closed(connection)
        if not self.connections:
            when_closed, self._when_closed = self._when_closed, []
            for each in when_closed:
                each.callback(None)

    def wait_closed(self, timeout: float) -> Deferred[None]:
        """Return a Deferred that fires when all connections have ended.

        After *timeout* seconds they are ended.
        """
        if not self.connections:
            return succeed(None)

        def expire() -> None:
            for connection in tuple(self.connections):
                connection.expire()

        deadline = self.reactor.callLater(timeout, expire)
        closed: Deferred[None] = Deferred()
        closed.addCallback(lambda _: deadline.cancel() if deadline.active() else None)
        self._when_closed.append(closed)
        return closed

    # Memory

    def hold(self, connection: C, size: int) -> None:
        """Note that *connection* holds *size* bytes more than before."""
        self._holding.add(connection)
        budget = self._budget
        budget.growth += size
        if budget.growth >= budget.step:
            self._enforce_memory_limit()

    def release(self, connection: C) -> None:
        """Stop counting *connection*, which is about to end and frees all within this turn."""
        self._holding.discard(connection)

    def _memory(self) -> int:
        """Return the bytes that all connections hold; a frame that many write counts once."""
        held = {each: each.memory for each in self._holding}
        self._holding = {each for each, memory in held.items() if memory or each.may_hold}
        frames: dict[int, int] = {}
        shared = sum(each.collect_slices(frames) for each in self._holding)
        return sum(held.values()) - shared + sum(frames.values())

    # Reading

    def read_for(self, connection: C, handle: Socket, transport: Server) -> int | None:
        """Read for *connection* together with others, if that is possible.

        :param handle: its socket.
        :param transport: the transport of that.
        :returns: the argument of :meth:`stop_reading`; ``None`` if its transport reads.
        """
        return None if self._reader is None else self._reader.add(connection, handle, transport)

    def stop_reading(self, source: int | None) -> None:
        """Do not read for a connection any more."""
        if self._reader is not None and source is not None:
            self._reader.discard(source)

    def pause_reading(self, connection: C, source: int | None) -> None:
        """Read nothing for *connection* until :meth:`resume_reading`."""
        if self._reader is None or source is None or not self._reader.pause(source):
            transport: Any = connection.transport
            transport.pauseProducing()

    def resume_reading(self, connection: C, source: int | None) -> None:
        """Read for *connection* again."""
        if self._reader is None or source is None or not self._reader.resume(source):
            transport: Any = connection.transport
            if not getattr(transport, "disconnecting", False):
                transport.resumeProducing()
