"""The process that takes over all connections of a relay."""

from __future__ import annotations

import os
import resource
import select
import socket
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from acebase_ipc.server.handover.sockets import InheritedSockets, ListeningSocket
from acebase_ipc.server.handover.wire import (
    FORMAT,
    Ended,
    HandOverError,
    Kind,
    Wire,
    check_user,
    close_all,
)

VARIABLE: Final = "ACEBASE_IPC_PREDECESSOR"
"""The variable of the environment with the descriptor of a socket to the predecessor."""

ANSWER_TIMEOUT: Final = 30.0
"""Seconds for a predecessor to offer its sockets, and, once all is built, to begin: it may wait
for a quiet moment first."""

END_TIMEOUT: Final = 1.0
"""Seconds for the process of a predecessor to end after it has closed its socket."""

RESERVE: Final = 32
"""Descriptors that a successor needs beside those of connections."""


def connect(
    path: str | None, environment: MutableMapping[str, str], clock: Callable[[], float]
) -> Link | None:
    """Return the link to the predecessor; ``None`` if there is none.

    :param path: where it may listen.
    :param environment: has the variable :data:`VARIABLE` if the predecessor has started this
        process; it is removed.
    :raises HandOverError: if it does not answer as expected.
    """
    given = environment.pop(VARIABLE, None)
    if given is not None:
        connected = socket.socket(fileno=int(given))
        os.set_inheritable(connected.fileno(), False)
    elif path is not None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            connected.close()
            return None
        except OSError as error:
            connected.close()
            raise HandOverError(f"{path}: {error.strerror or error}") from None
    else:
        return None
    check_user(connected)
    return Link(Wire(connected, clock))


class Receiver(Protocol):
    """Receives the connections of the predecessor."""

    def told_of(self, events: Sequence[Any]) -> None:
        """Note *events* of the past."""

    def announced(self, opened: Sequence[Any], descriptors: Sequence[int]) -> None:
        """Build connections of which the predecessor has sent the *descriptors*."""

    def adopt_connections(self, content: dict[str, Any]) -> None:
        """Adopt the state of all connections."""

    def close(self) -> None:
        """Close the descriptors, as the predecessor has ended too early."""


class Link:
    """The way to the predecessor, from its offer to its last word.

    :ivar wire: the socket to it.
    :ivar sockets: those that it listens on.
    """

    def __init__(self, wire: Wire) -> None:
        """:raises HandOverError: if the predecessor does not answer as expected."""
        self.wire = wire
        self._process = _open_process(wire.process)
        wire.limit(ANSWER_TIMEOUT)
        offer = wire.receive(Kind.SOCKETS)
        if offer.content.get("format") != FORMAT:
            close_all(offer.descriptors)
            wire.refuse("the successor is of another version")
            raise HandOverError("the predecessor is of another version")
        numbers = iter(offer.descriptors)
        self.sockets = InheritedSockets(
            ListeningSocket(place, next(numbers), next(numbers) if has_lock else None)
            for place, has_lock in offer.content["sockets"]
        )
        self._lock: int | None = next(numbers) if offer.content["journal"] else None

    def receive(self, connections: Receiver) -> dict[str, Any]:
        """Tell that everything is built, and receive all *connections*; returns all other state.

        :raises Ended: if the predecessor has ended, so that this process has to start as any.
        :raises HandOverError: if it does not hand over.
        """
        try:
            self.wire.limit(ANSWER_TIMEOUT)
            with suppress(Ended):  # it may have sent its reason before
                self.wire.send(
                    Kind.BUILT, {"format": FORMAT, "pid": os.getpid(), "room": free_descriptors()}
                )
            while True:
                received = self.wire.receive(
                    Kind.EVENTS, Kind.CONNECTIONS, Kind.CONNECTION_STATE, Kind.STATE
                )
                match received.kind:
                    case Kind.STATE:
                        state: dict[str, Any] = received.content
                        return state
                    case Kind.CONNECTION_STATE:
                        connections.adopt_connections(received.content)
                        continue
                    case Kind.EVENTS:
                        connections.told_of(received.content)
                    case _:
                        connections.announced(received.content, received.descriptors)
                self.wire.limit(ANSWER_TIMEOUT)
                self.wire.send(Kind.TAKEN)
        except Ended:
            self._check_ended()
            connections.close()
            raise

    def take_over(self, journal: bool) -> None:
        """Tell that everything is adopted, and wait until the predecessor has released it.

        It may have ended without a word: then nobody else has the connections.

        :param journal: whether its journal is adopted, too.
        :raises HandOverError: if the predecessor goes on itself.
        """
        self.wire.limit(None)  # it is this process that it waits for
        with suppress(Ended):  # it may have sent its reason before
            self.wire.send(Kind.READY, {"journal": journal})
        try:
            self.wire.receive(Kind.GO)
        except Ended:
            self._check_ended()

    def _check_ended(self) -> None:
        """Check that the process of the predecessor has ended, and not only closed its socket.

        :raises HandOverError: if it has not.
        """
        ended = select.poll()
        if self._process is not None:
            ended.register(self._process, select.POLLIN)
        if not ended.poll(END_TIMEOUT * 1000):
            raise HandOverError("the predecessor does not hand over")

    def close(self) -> None:
        """Close everything, as the predecessor has ended."""
        self.release()
        self.wire.close()

    def release(self) -> None:
        """Close what is not needed any more when all is taken over: all but the socket."""
        self.sockets.close()
        lock = self.take_lock()
        if lock is not None:
            os.close(lock)
        if self._process is not None:
            os.close(self._process)
            self._process = None

    def take_lock(self) -> int | None:
        """Return the descriptor of the predecessor's locked state directory, once."""
        lock, self._lock = self._lock, None
        return lock


def _open_process(pid: int) -> int | None:
    """Return a descriptor that tells when a process has ended; ``None`` if there is none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # a kernel before 5.3, or a process in another container


def free_descriptors() -> int:
    """Return how many more descriptors this process can open, as far as connections may use them.

    A process that receives one too many does not get it, and is not told.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 20
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else RESERVE
    return max(0, soft - used - RESERVE)
