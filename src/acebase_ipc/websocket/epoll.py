"""Reads from many sockets in one turn of the reactor.

A Twisted reactor takes as long for each readable socket as the relay for a message. Here the
sockets are watched by an ``epoll`` of their own, which is one descriptor for the reactor.

Sockets that have sent nothing yet, and, while many are ready at once, those that have sent much
or a message in pieces wait behind all others. So a client that sends little does not wait until
each of them has had its turn.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeGuard

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.relay.limits import KIB
from acebase_ipc.relay.work import SLICE, Work
from acebase_ipc.rotation import TURN

BUFFER = FileDescriptor.bufferSize
"""Bytes read from a socket at a time: as many as Twisted reads."""

CROWD = 16
"""If as many sockets are ready at once, each is read from in smaller pieces."""

CROWD_BUFFER = 16 * KIB
"""Bytes read from a socket at a time while many are ready: 0.5 ms of small messages."""

HEAVY = 4 * KIB
"""If as many bytes are read from a socket at a time while many are ready, it has sent much."""

HEAVY_BUFFER = 32 * KIB
"""Bytes then read from it at a time: others do not wait for it, and less costs more per message."""

SOCKETS = 64
"""Sockets that are read from before the reactor handles its other descriptors and timers: so
many that have sent much, and so many others."""

READ = 64
"""Units of work that each read from a socket counts."""

log = Logger()


def can_use_epoll(reactor: object) -> TypeGuard[IReactorFDSet]:
    """Return whether the system has ``epoll`` and *reactor* can watch its descriptor."""
    return hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor)


class Receiver(Protocol):
    """A connection that receives the data in place of its transport's protocol."""

    transport: Server

    def dataReceived(self, data: bytes) -> None:
        """Receive *data*."""

    def is_within_message(self) -> bool:
        """Return whether a message was received in part."""


class _Source(NamedTuple):
    """A socket to read from: what watches it, how, and for whom."""

    epoll: select.epoll
    receive: Callable[[int], bytes]
    receiver: Receiver


@implementer(IReadDescriptor)
class EpollReader:
    """Reads for TCP transports as long as only data arrives.

    The end of a connection is left to its transport, which then reads for itself as if it
    had not been added. (It treats a reset as an end, because the error was read here.)
    """

    def __init__(
        self,
        reactor: IReactorFDSet,
        begun: Callable[[], object],
        finished: Callable[[], object],
        work: Work,
    ) -> None:
        """:param begun: called before data of several connections is received.
        :param finished: called after that.
        :param work: counts the work, which is limited in each turn of the reactor.
        """
        self._reactor = reactor
        self._begun = begun
        self._finished = finished
        self._work = work
        self._epoll: select.epoll | None = None
        self._heavy_epoll: select.epoll | None = None  # which the first one watches
        self._sources: dict[int, _Source] = {}
        self._ready: deque[int] = deque()  # found ready, and not read from yet
        self._heavy_ready: deque[int] = deque()

    def add(self, receiver: Receiver) -> int | None:
        """Read for the transport of *receiver* from now on.

        :returns: the argument of :meth:`discard`; ``None`` if the system has no
            descriptor or memory for it: then the transport reads for itself.
        """
        handle: socket.socket = receiver.transport.getHandle()
        number = handle.fileno()
        try:
            epoll = self._epoll or self._begin()
            epoll.register(number, select.EPOLLIN)
        except OSError:
            return None
        receiver.transport.stopReading()
        source = _Source(epoll, handle.recv, receiver)
        self._sources[number] = source
        self._make_heavy(number, source)
        return number

    def _begin(self) -> select.epoll:
        epoll = self._epoll = select.epoll()
        try:
            self._reactor.addReader(self)
        except OSError:
            self._end(epoll)
            raise
        return epoll

    def _end(self, epoll: select.epoll) -> None:
        self._reactor.removeReader(self)
        epoll.close()
        self._epoll = None
        self._ready.clear()
        if self._heavy_epoll is not None:
            self._heavy_epoll.close()
            self._heavy_epoll = None
            self._heavy_ready.clear()

    def discard(self, number: int) -> None:
        """Remove a transport that was added, while its socket is still open.

        A socket that is closed stays in the ``epoll`` if a forked process has it, too.
        """
        source = self._sources.pop(number, None)
        if source is not None and self._epoll is not None:
            with suppress(OSError):  # if it is closed, the system has removed it
                source.epoll.unregister(number)
            if not self._sources:
                self._end(self._epoll)

    def pause(self, number: int) -> bool:
        """Read nothing from a socket until :meth:`resume`.

        :returns: whether it is one that was added.
        """
        return self._watch(number, 0)

    def resume(self, number: int) -> bool:
        """Read from a socket again; returns whether it is one that was added."""
        return self._watch(number, select.EPOLLIN)

    def _watch(self, number: int, events: int) -> bool:
        source = self._sources.get(number)
        if source is None:
            return False
        with suppress(OSError):  # if it is closed, its transport notices
            source.epoll.modify(number, events)
        return True

    def doRead(self) -> None:
        """Receive the data that has arrived."""
        if self._epoll is None:
            return
        self._begun()
        heavy = self._heavy_epoll
        may_be_ready = True
        if not self._ready:
            found = self._epoll.poll(0, SOCKETS)
            self._ready.extend(number for number, _ in found)
            may_be_ready = len(found) == SOCKETS or (
                heavy is not None and heavy.fileno() in self._ready
            )
        if may_be_ready and heavy is not None and not self._heavy_ready:
            self._heavy_ready.extend(number for number, _ in heavy.poll(0, SOCKETS))
        is_crowd = len(self._ready) + len(self._heavy_ready) >= CROWD
        work = self._work
        end = work.units + TURN
        self._receive(self._ready, end, is_crowd, CROWD_BUFFER if is_crowd else BUFFER)
        if self._heavy_ready:  # they make progress, however many others there are
            end = max(end, work.units + SLICE)
            self._receive(self._heavy_ready, end, is_crowd, HEAVY_BUFFER if is_crowd else BUFFER)
        self._finished()

    def _receive(self, ready: deque[int], end: int, is_crowd: bool, size: int) -> None:
        """Read up to *size* bytes from each that is *ready*, until the work reaches *end* units."""
        work = self._work
        while ready and work.units < end:
            number = ready.popleft()
            source = self._sources.get(number)
            if source is None:
                continue  # it was discarded when another's data was received, or is an epoll
            work.units += READ
            try:
                data = self._read(source, size)
                if data:
                    source.receiver.dataReceived(data)
                    if number in self._sources:
                        self._sort(number, source, len(data), is_crowd)
                elif data is not None:
                    self._give_back(number, source.receiver.transport)
            except Exception:
                log.failure("receiving failed")
                source.receiver.transport.abortConnection()

    def _sort(self, number: int, source: _Source, size: int, is_crowd: bool) -> None:
        """Note whether a socket from which *size* bytes were read has sent much."""
        is_heavy = source.epoll is self._heavy_epoll
        if size >= HEAVY or (is_crowd and source.receiver.is_within_message()):
            if is_crowd and not is_heavy:
                self._make_heavy(number, source)
        elif is_heavy:
            self._make_light(number, source)

    def _make_heavy(self, number: int, source: _Source) -> None:
        """Read from a socket after all others from now on, if the system allows it."""
        with suppress(OSError):
            if self._heavy_epoll is None:
                heavy = select.epoll()
                try:
                    source.epoll.register(heavy, select.EPOLLIN)
                except OSError:
                    heavy.close()
                    raise
                self._heavy_epoll = heavy
            self._move(number, source, self._heavy_epoll)

    def _make_light(self, number: int, source: _Source) -> None:
        """Read from a socket together with all that send little."""
        if self._epoll is not None:
            with suppress(OSError):
                self._move(number, source, self._epoll)

    def _move(self, number: int, source: _Source, epoll: select.epoll) -> None:
        epoll.register(number, select.EPOLLIN)
        self._sources[number] = source._replace(epoll=epoll)
        source.epoll.unregister(number)

    @staticmethod
    def _read(source: _Source, size: int) -> bytes | None:
        """Return the data that has arrived, or ``None``; ``b""`` if the transport has to read."""
        if source.receiver.transport.disconnecting:
            return b""
        try:
            return source.receive(size)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _give_back(self, number: int, transport: Server) -> None:
        """Let a transport read for itself, to notice what has happened to its connection."""
        self.discard(number)
        if not transport.disconnecting:
            transport.startReading()

    def fileno(self) -> int:
        """Return the descriptor that the reactor watches."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def logPrefix(self) -> str:
        """Return the name of the descriptor in Twisted's log."""
        return "acebase-ipc"

    def connectionLost(self, reason: Failure) -> None:
        """End the transports, which the reactor does not know, because the reactor has stopped."""
        for source in tuple(self._sources.values()):
            source.receiver.transport.connectionLost(reason)
