"""Decides when the messages that connections collect are written.

A system call costs 10 µs, as much as relaying five messages. So messages for one connection
should be written together, without the latency of waiting for more. Broadcasts are collected once
for all their receivers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.connection import send_one_by_one
from acebase_ipc.relay.limits import KIB
from acebase_ipc.relay.work import Work

BATCH = 64 * KIB
"""Bytes that are collected for one write: as many as Twisted's transports buffer before
they pause a producer (``FileDescriptor.bufferSize``)."""

BUSY = 0.0002
"""Seconds. A connection that was flushed within this time is busy: it is flushed again at the
end of the reactor's turn, and any other one at once."""

WRITE = 8
"""Units of work that writing to a connection counts."""

FEW = 4
"""Fewer receivers collect the messages of a broadcast each for itself."""

log = Logger()


class Flushable(Protocol):
    """A connection that collects messages, or several together.

    :ivar last_flush: when it was last flushed, in monotonic seconds.
    """

    last_flush: float

    def flush(self) -> None:
        """Write the collected messages."""

    def abort(self) -> None:
        """End the connection at once."""


class Sharing(Flushable, Protocol):
    """A connection that collects messages by itself or together with others."""

    def send(self, message: Message) -> None:
        """Collect *message* by itself."""

    def share(self, batch: SharedBatch) -> bool:
        """Take part in *batch* if nothing is collected; returns whether it does.

        If something else is to be collected it leaves with what the batch holds
        (:meth:`SharedBatch.leave`).
        """

    def part_from(self, batch: SharedBatch) -> None:
        """Leave *batch*, if it takes part, and go on to collect by itself."""

    def write_shared(self, batch: SharedBatch, data: bytes, count: int) -> None:
        """Write *data*, all *count* messages of *batch*, unless it has left."""


class SharedBatch:
    """Messages of broadcasts, collected once for all that have not left.

    :ivar connections: those that are sent them, to which others may be added; none once it was
        flushed.
    :ivar frames: the messages that were collected.
    :ivar size: their bytes.
    """

    def __init__(
        self, connections: Sequence[Sharing], open_batches: dict[int, SharedBatch], work: Work
    ) -> None:
        """:param open_batches: those that are not flushed, by the identity of their sequence."""
        self.connections = connections
        self._open_batches = open_batches
        open_batches[id(connections)] = self
        self.frames: list[bytes] = []
        self.size = 0
        self.last_flush = connections[0].last_flush
        self._others = [each for each in connections if not each.share(self)]
        self._known = len(connections)
        self._work = work

    def send(self, message: Message, but: Sharing | None) -> None:
        """Collect *message*; those that have left, or were added, collect it by themselves.

        :param but: one that is not sent it.
        """
        if self._known < len(self.connections):
            self._others += self.connections[self._known :]
            self._known = len(self.connections)
        if but is not None:
            but.part_from(self)
        frame = message.frame or message.make_frame()
        self.frames.append(frame)
        self.size += len(frame)
        # More may leave meanwhile, with this message.
        send_one_by_one(message, tuple(self._others), but)

    def leave(self, connection: Sharing) -> tuple[list[bytes], int]:
        """Note that *connection* takes part no longer; returns what it has to write, and its size.

        What is collected from now on it collects by itself.
        """
        self._others.append(connection)
        return self.frames, self.size

    def flush(self) -> None:
        """Write the messages to those that have not left, if that has not been done."""
        data, count = b"".join(self.frames), len(self.frames)
        for each in self._close():
            try:
                each.write_shared(self, data, count)
            except Exception:
                _abort(each)
        self.frames, self.size, self._others = [], 0, []  # it holds no connection any more

    def _close(self) -> Sequence[Sharing]:
        """Collect nothing more; returns the connections, of which some may have left."""
        connections, self.connections = self.connections, ()
        if connections:
            del self._open_batches[id(connections)]
            self._work.units += WRITE * max(self._known - len(self._others), 0)
        return connections

    def abort(self) -> None:
        """End all connections, because of a defect."""
        for each in self._close():
            each.abort()


class WriteCoalescer:
    """Flushes connections, each as late as possible without adding latency.

    :param clock: returns monotonic seconds.
    :param work: counts the writes.
    :ivar receiving: whether data of a connection is being processed: messages that are
        sent in the meantime wait until :meth:`flush_idle`.
    """

    def __init__(self, reactor: IReactorTime, clock: Callable[[], float], work: Work) -> None:
        self._reactor = reactor
        self._clock = clock
        self._work = work
        self.receiving = False
        self._in_turn = False
        self._unflushed: list[Flushable] = []
        self._busy: list[Flushable] = []
        self._shared: dict[int, SharedBatch] = {}

    def flush_soon(self, connection: Flushable) -> None:
        """Flush *connection* after the data that is being processed, or at the end of this turn."""
        if self.receiving:
            self._unflushed.append(connection)
        else:
            self._flush_later(connection)

    def send_each(
        self, message: Message, connections: Sequence[Sharing], but: Sharing | None
    ) -> None:
        """Send *message* to each of these *connections*.

        As long as that is the same sequence, messages are collected once for all.

        :param but: one that is not sent it.
        """
        shared = self._shared.get(id(connections))
        if shared is None:
            if len(connections) < FEW:
                send_one_by_one(message, connections, but)
                return
            shared = SharedBatch(connections, self._shared, self._work)
            self.flush_soon(shared)
        shared.send(message, but)
        if shared.size >= BATCH:
            shared.flush()

    def _flush_later(self, connection: Flushable) -> None:
        if not self._busy and not self._in_turn:
            self._reactor.callLater(0, self._flush_busy)
        self._busy.append(connection)

    def flush_idle(self) -> None:
        """Flush the idle connections; busy ones wait until the end of the turn."""
        if self._unflushed:
            unflushed, self._unflushed = self._unflushed, []
            now = self._clock()
            for connection in unflushed:
                if now - connection.last_flush < BUSY:
                    self._flush_later(connection)
                    continue
                connection.last_flush = now
                self._work.units += WRITE
                try:
                    connection.flush()
                except Exception:
                    _abort(connection)

    def begin_turn(self) -> None:
        """Note that data of several connections is about to be processed."""
        self._in_turn = True

    def end_turn(self) -> None:
        """Flush every connection, because all data was processed."""
        self._in_turn = False
        self._flush_busy()

    def _flush_busy(self) -> None:
        if self._busy:
            busy, self._busy = self._busy, []
            now = self._clock()
            self._work.units += WRITE * len(busy)
            for connection in busy:
                connection.last_flush = now
                try:
                    connection.flush()
                except Exception:
                    _abort(connection)


def _abort(connection: Flushable) -> None:
    log.failure("writing failed")
    connection.abort()
