"""Reads from many sockets in one turn of the reactor.

A Twisted reactor takes as long for each readable socket as the relay for a message. Here the
sockets are watched by an ``epoll`` of their own, which is one descriptor for the reactor.

Sockets that have sent nothing yet, and, while many are ready at once, those that have sent much
or a message in pieces wait behind all others. So a client that sends little does not wait until
each of them has had its turn.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from typing import Final, Protocol, TypeGuard

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

_NUMBER: Final = itemgetter(0)
"""Returns the descriptor of what ``epoll`` has found."""

log = Logger()


def can_use_epoll(reactor: object) -> TypeGuard[IReactorFDSet]:
    """Return whether the system has ``epoll`` and *reactor* can watch its descriptor."""
    return hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor)


class Socket(Protocol):
    """What is read from: a socket, or one that decrypts."""

    def fileno(self) -> int:
        """Return its descriptor."""

    def recv(self, size: int, /) -> bytes:
        """Receive up to *size* bytes."""


class Receiver(Protocol):
    """A connection that receives the data in place of its transport's protocol."""

    def dataReceived(self, data: bytes) -> None:
        """Receive *data*."""

    def is_within_message(self) -> bool:
        """Return whether a message was received in part."""


class _Source:
    """A socket to read from: what watches it, and for whom.

    :ivar events: what is watched: nothing while it is paused.
    :ivar is_new: whether nothing was read from it yet.
    """

    __slots__ = ("epoll", "events", "is_new", "receiver", "socket", "transport")

    def __init__(
        self, epoll: select.epoll, handle: Socket, transport: Server, receiver: Receiver
    ) -> None:
        self.epoll = epoll
        self.socket = handle
        self.receiver = receiver
        self.transport = transport
        self.events = select.EPOLLIN
        self.is_new = True


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
        self._heavy_number = -1
        self._sources: dict[int, _Source] = {}
        self._ready: deque[int] = deque()  # found ready, and not read from yet
        self._heavy_ready: deque[int] = deque()

    def add(self, receiver: Receiver, handle: Socket, transport: Server) -> int | None:
        """Read for *receiver* from now on, in place of the *transport* of its socket.

        :param handle: the socket.
        :returns: the argument of :meth:`discard`; ``None`` if the system has no
            descriptor or memory for it: then the transport reads for itself.
        """
        number = handle.fileno()
        try:
            light = self._epoll or self._begin()
            epoll = self._heavy_epoll or self._begin_heavy(light) or light
            epoll.register(number, select.EPOLLIN)
        except OSError:
            return None
        transport.stopReading()
        self._sources[number] = _Source(epoll, handle, transport, receiver)
        return number

    def _begin(self) -> select.epoll:
        epoll = self._epoll = select.epoll()
        try:
            self._reactor.addReader(self)
        except OSError:
            self._end(epoll)
            raise
        return epoll

    def _begin_heavy(self, light: select.epoll) -> select.epoll | None:
        """Return the ``epoll`` of sockets to read from after all others, if there can be one."""
        with suppress(OSError):
            heavy = select.epoll()
            try:
                light.register(heavy, select.EPOLLIN)
            except OSError:
                heavy.close()
                raise
            self._heavy_epoll = heavy
            self._heavy_number = heavy.fileno()
        return self._heavy_epoll

    def _end(self, epoll: select.epoll) -> None:
        self._reactor.removeReader(self)
        epoll.close()
        self._epoll = None
        self._ready.clear()
        if self._heavy_epoll is not None:
            self._heavy_epoll.close()
            self._heavy_epoll = None
            self._heavy_number = -1
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
        source.events = events
        with suppress(OSError):  # if it is closed, its transport notices
            source.epoll.modify(number, events)
        return True

    def doRead(self) -> None:
        """Receive the data that has arrived, once from each socket that is ready."""
        if self._epoll is not None:
            self._begun()
            self._read_ready(self._epoll)
            self._finished()

    def _read_ready(self, epoll: select.epoll) -> None:
        end = self._work.units + TURN
        ready, heavy_ready = self._ready, self._heavy_ready
        may_be_ready = True
        if not ready:
            found = epoll.poll(0, SOCKETS)
            ready.extend(map(_NUMBER, found))
            may_be_ready = len(found) == SOCKETS
            if self._heavy_number in ready:
                ready.remove(self._heavy_number)
                may_be_ready = True
        heavy = self._heavy_epoll
        if may_be_ready and heavy is not None and not heavy_ready:
            heavy_ready.extend(map(_NUMBER, heavy.poll(0, SOCKETS)))
        is_crowd = len(ready) + len(heavy_ready) >= CROWD
        work = self._work
        self._receive(ready, end, is_crowd, CROWD_BUFFER if is_crowd else BUFFER)
        if heavy_ready:  # they make progress, however many others there are
            heavy_end = max(end, work.units + SLICE)
            self._receive(heavy_ready, heavy_end, is_crowd, HEAVY_BUFFER if is_crowd else BUFFER)

    def _receive(self, ready: deque[int], end: int, is_crowd: bool, size: int) -> None:
        """Read up to *size* bytes from each that is *ready*, until the work reaches *end* units."""
        work, sources, light = self._work, self._sources, self._epoll
        while ready and work.units < end:
            number = ready.popleft()
            source = sources.get(number)
            if source is None:
                continue  # it was discarded when another's data was received
            work.units += READ
            try:
                if source.transport.disconnecting:
                    data = b""
                else:
                    try:
                        data = source.socket.recv(size)
                    except BlockingIOError:
                        continue
                    except OSError:
                        data = b""
                if not data:
                    self._give_back(number, source.transport)
                    continue
                receiver = source.receiver
                receiver.dataReceived(data)
                if source.epoll is not light or (
                    is_crowd and (len(data) >= HEAVY or receiver.is_within_message())
                ):
                    self._sort(number, source, len(data), is_crowd)
            except Exception:
                log.failure("receiving failed")
                self.discard(number)
                source.transport.abortConnection()

    def _sort(self, number: int, source: _Source, size: int, is_crowd: bool) -> None:
        """Note whether a socket from which *size* bytes were read has sent much."""
        if self._sources.get(number) is not source:
            return  # it was discarded
        is_heavy = source.epoll is self._heavy_epoll
        has_sent_much = size >= HEAVY or source.receiver.is_within_message()
        with suppress(OSError):
            if is_crowd and has_sent_much:
                if not is_heavy and self._heavy_epoll is not None:
                    self._move(number, source, self._heavy_epoll)
            elif is_heavy and self._epoll is not None and (source.is_new or size < HEAVY):
                self._move(number, source, self._epoll)
        source.is_new = False

    @staticmethod
    def _move(number: int, source: _Source, epoll: select.epoll) -> None:
        epoll.register(number, source.events)  # what was received may have paused it
        source.epoll.unregister(number)
        source.epoll = epoll

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
            source.transport.connectionLost(reason)
