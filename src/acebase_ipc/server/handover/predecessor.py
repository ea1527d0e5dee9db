"""The relay that hands its connections over, and goes on if that fails."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.handover.snapshot import Departure, Snapshot
from acebase_ipc.server.handover.sockets import ListeningSocket, descriptors_of
from acebase_ipc.server.handover.wire import (
    FORMAT,
    MAX_DESCRIPTORS,
    Ended,
    HandOverError,
    Kind,
    Wire,
    check_user,
    without_collection,
)

START_TIMEOUT: Final = 60.0
"""Seconds that a successor has to build everything; the relay serves meanwhile."""

TIMEOUT: Final = 5.0
"""Seconds in which a successor has to take over everything; the relay does nothing meanwhile."""

MAX_ANNOUNCED: Final = 64
"""Connections that are announced at a time: 1 ms, in which the relay does not serve."""

MAX_EVENTS: Final = 250
"""Events of the past that are told of at a time: 2 ms, in which the relay does not serve."""

WORD: Final = 1.0
"""Seconds for a message that has begun to come."""

log = Logger()


class Server(Protocol):
    """The relay, as its hand-over knows it."""

    def listening_sockets(self) -> list[ListeningSocket]:
        """Return the sockets that it listens on.

        :raises ConfigError: if one cannot be handed over.
        """

    @property
    def journal_lock(self) -> int | None:
        """The descriptor of the locked state directory; ``None`` without one."""

    def prepare(self) -> Deferred[None]:
        """Do what has to be done while the relay still serves; fires when it is done."""

    def depart(self) -> Departure:
        """Return the connections that it hands over."""

    def take_snapshot(self, departure: Departure) -> Snapshot:
        """Return all connections that it hands over; it changes nothing.

        :raises HandOverError: if it is about to stop.
        """

    def export(self) -> dict[str, Any]:
        """Return all else that it hands over."""

    def release(self, snapshot: Snapshot, journal_is_taken: bool) -> None:
        """Forget what a successor has now."""

    def go_on(self) -> None:
        """Go on after :meth:`prepare`, because the hand-over has failed."""


@implementer(IReadDescriptor)
class Reader:
    """Calls *read* when something comes to a socket."""

    def __init__(self, fileno: Callable[[], int], read: Callable[[], object]) -> None:
        self.fileno = fileno
        self._read = read

    def doRead(self) -> None:
        """Read what has come."""
        self._read()

    def logPrefix(self) -> str:
        """Return the name of the descriptor in Twisted's log."""
        return "hand-over"

    def connectionLost(self, reason: Failure) -> None:
        """Ignore that the reactor has stopped."""


class HandOver:
    """Hands a relay over to a successor; to one at a time.

    :param handed_over: called with the id of the successor's process, and the socket to it, when
        the relay is handed over.
    :param clock: returns monotonic seconds.
    """

    def __init__(
        self,
        server: Server,
        reactor: Any,
        clock: Callable[[], float],
        handed_over: Callable[[int, Wire], object],
    ) -> None:
        self._server = server
        self._reactor = reactor
        self._clock = clock
        self._handed_over = handed_over
        self._wire: Wire | None = None
        self._reader: Reader | None = None
        self._timeout: IDelayedCall | None = None
        self._outcome: Deferred[int] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether there is a successor that has not taken over yet."""
        return self._wire is not None

    def begin(self, connected: socket.socket) -> Deferred[int]:
        """Hand over to the process at the other end of *connected*.

        :returns: fires with the id of its process, or fails with :exc:`HandOverError`: then the
            relay goes on.
        """
        self._outcome = outcome = Deferred[int]()
        self._wire = wire = Wire(connected, self._clock)
        self._timeout = self._reactor.callLater(START_TIMEOUT, self._expire)
        try:
            self._offer(wire)
        except (HandOverError, ConfigError) as error:
            self._fail(error)
        else:
            self._await(self._receive_built)
        return outcome

    def give_up(self, reason: str) -> None:
        """Let the successor end, if there is one that has not taken over yet.

        One that is told nothing would start as any other process when this one has ended.
        """
        if self._wire is not None:
            self._fail(HandOverError(reason))

    def _offer(self, wire: Wire) -> None:
        """Send the listening sockets, with which the successor builds everything."""
        sockets, lock = self._server.listening_sockets(), self._server.journal_lock
        descriptors = [number for each in sockets for number in descriptors_of(each)]
        wire.limit(WORD)
        wire.send(
            Kind.SOCKETS,
            {
                "format": FORMAT,
                "sockets": [(each.place, each.lock is not None) for each in sockets],
                "journal": lock is not None,
            },
            descriptors if lock is None else [*descriptors, lock],
        )

    def _expire(self) -> None:
        self._fail(HandOverError(f"the successor is not ready after {START_TIMEOUT:g} s"))

    def _await(self, read: Callable[[Wire], object]) -> None:
        """Call *read* when the successor has sent something; the relay serves meanwhile."""
        wire = self._wire
        assert wire is not None

        def receive() -> None:
            self._stop_reading()
            try:
                wire.limit(WORD)
                read(wire)
            except Exception as error:
                self._fail_with(error)

        self._reader = Reader(wire.fileno, receive)
        self._reactor.addReader(self._reader)

    def _receive_built(self, wire: Wire) -> None:
        """Receive the word that the successor has built everything, and prepare."""
        try:
            built = wire.receive(Kind.BUILT).content
        except Ended:
            raise Ended("the successor has ended while it was starting") from None
        if built["format"] != FORMAT:
            raise HandOverError("the successor is of another version")
        prepared = self._server.prepare()
        prepared.addCallback(lambda _: self._announce(wire, built, None))
        prepared.addErrback(lambda failure: self._fail_with(failure.value))

    def _announce(self, wire: Wire, built: dict[str, Any], departure: Departure | None) -> None:
        """Tell of some events, or announce some connections; when all are, hand over."""
        if self._wire is not wire:
            return  # it was given up
        wire.limit(TIMEOUT)
        if departure is None:
            departure = self._server.depart()
            if departure.total > built["room"]:
                raise HandOverError(
                    f"the successor may open {built['room']} more files, but there are"
                    f" {departure.total} connections (ulimit -n, LimitNOFILE=)"
                )
        if events := departure.past(MAX_EVENTS):
            wire.send(Kind.EVENTS, events)
        else:
            opened, descriptors = departure.announce(MAX_ANNOUNCED)
            if not opened:
                self._hand_over(wire, built, departure)
                return
            wire.send(Kind.CONNECTIONS, opened, descriptors)

        def taken(wire: Wire) -> None:
            wire.receive(Kind.TAKEN)  # descriptors on their way count for this process's limit
            self._announce(wire, built, departure)

        self._await(taken)

    def _hand_over(self, wire: Wire, built: dict[str, Any], departure: Departure) -> None:
        """Hand over; nothing else is done meanwhile."""
        with without_collection():
            snapshot = self._server.take_snapshot(departure)
            opened, descriptors = snapshot.batch
            for begin in range(0, len(opened), MAX_DESCRIPTORS):
                some = slice(begin, begin + MAX_DESCRIPTORS)
                wire.send(Kind.CONNECTIONS, opened[some], descriptors[some])
                wire.receive(Kind.TAKEN)
            wire.send(Kind.CONNECTION_STATE, snapshot.content)
            wire.send(Kind.STATE, self._server.export())
            ready = wire.receive(Kind.READY).content
            wire.send(Kind.GO)
        outcome, self._outcome = self._outcome, None
        self._forget()
        try:
            self._server.release(snapshot, ready["journal"])
        except Exception:
            log.failure("releasing what is handed over failed")
        if outcome is not None:
            outcome.callback(built["pid"])
        self._handed_over(built["pid"], wire)

    def _fail_with(self, error: BaseException | None) -> None:
        """Go on after an *error*, which is logged if it is a defect."""
        if not isinstance(error, HandOverError):
            log.failure("the hand-over failed", Failure(error))
        self._fail(error or HandOverError("it failed"))

    def _fail(self, error: BaseException) -> None:
        """Go on as if nothing had happened."""
        reason = str(error) or type(error).__name__
        if self._wire is not None:
            self._wire.limit(WORD)
            self._wire.refuse(reason)
            self._wire.close()
        outcome, self._outcome = self._outcome, None
        self._forget()
        self._server.go_on()
        log.error("the relay is not handed over, and goes on: {reason}", reason=reason)
        if outcome is not None:
            outcome.errback(HandOverError(reason))

    def _forget(self) -> None:
        self._stop_reading()
        self._wire = None
        timeout, self._timeout = self._timeout, None
        if timeout is not None and timeout.active():
            timeout.cancel()

    def _stop_reading(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            self._reactor.removeReader(reader)


class Door:
    """A unix socket at which successors can ask for the hand-over; of the same user only.

    :param asked: called with the connected socket of each.
    :ivar path: where it is.
    """

    def __init__(self, path: str, reactor: Any, asked: Callable[[socket.socket], object]) -> None:
        self.path = path
        self._reactor = reactor
        self._asked = asked
        self._socket: socket.socket | None = None
        self._reader: Reader | None = None
        self._own: os.stat_result | None = None

    def open(self) -> None:
        """Listen there, in place of a predecessor that does.

        :raises OSError: if that is not possible.
        """
        temporary = f"{self.path}.{os.getpid()}"
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            listening.bind(temporary)
            os.chmod(temporary, stat.S_IRUSR | stat.S_IWUSR)
            listening.listen()
            listening.setblocking(False)
            os.replace(temporary, self.path)
            self._own = os.stat(self.path, follow_symlinks=False)
        except BaseException:
            listening.close()
            with suppress(OSError):
                os.unlink(temporary)
            raise
        self._socket = listening
        self._reader = Reader(listening.fileno, self._accept)
        self._reactor.addReader(self._reader)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connected, _ = self._socket.accept()
        except OSError:
            return
        try:
            check_user(connected)
        except HandOverError as error:
            log.error("the relay is not handed over: {reason}", reason=str(error))
            connected.close()
            return
        self._asked(connected)

    def close(self) -> None:
        """Stop listening; the path is removed unless it is that of a successor."""
        listening, self._socket = self._socket, None
        if listening is None:
            return
        self._reactor.removeReader(self._reader)
        listening.close()
        with suppress(OSError):
            if self._own is not None and os.path.samestat(
                self._own, os.stat(self.path, follow_symlinks=False)
            ):
                os.unlink(self.path)
