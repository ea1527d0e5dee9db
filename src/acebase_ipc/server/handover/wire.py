"""What the two processes of a hand-over send each other: messages with descriptors.

The socket is a stream. A message is a header, which the descriptors accompany, and a body. Both
sides wait for each other, with a deadline.
"""

from __future__ import annotations

import array
import gc
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import cbor2

from acebase_ipc.relay.limits import MIB

FORMAT: Final = 2
"""The version of the messages, which both sides have to know."""

MAX_DESCRIPTORS: Final = 253
"""Descriptors that Linux passes in a message (SCM_MAX_FD)."""

_HEADER: Final = struct.Struct("!4sBHQ")
_MAGIC: Final = b"aiho"
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred``: the process, the user and the group of the other end."""


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    SOCKETS = 2
    BUILT = 3
    CONNECTIONS = 4
    TAKEN = 5
    STATE = 6
    READY = 7
    GO = 8
    REFUSED = 9
    POSTED = 10
    ANSWERED = 11
    FETCHED = 12
    EVENTS = 13
    CONNECTION_STATE = 14


class HandOverError(Exception):
    """The hand-over has failed; its text says why."""


class Ended(HandOverError):
    """The other process has closed the socket, or has ended."""


class Refused(HandOverError):
    """The other process does not go on; the text is its reason."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message.

    :ivar content: its body as plain values.
    :ivar descriptors: those that came with it.
    """

    kind: Kind
    content: Any
    descriptors: list[int]


class Wire:
    """One end of the socket between the two processes.

    :param clock: returns monotonic seconds.
    :ivar deadline: until when a call may wait, in monotonic seconds; ``None``: without limit.
    """

    def __init__(self, connected: socket.socket, clock: Callable[[], float]) -> None:
        self._socket = connected
        self._clock = clock
        self.deadline: float | None = None

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._socket.fileno()

    @property
    def process(self) -> int:
        """The id of the process at the other end; 0 if it is in another container."""
        return _credentials(self._socket)[0]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def limit(self, seconds: float | None) -> None:
        """Let all that follows take this many seconds together; ``None``: as long as it takes."""
        self.deadline = None if seconds is None else self._clock() + seconds

    def _wait(self) -> None:
        """Let the next call wait as long as it may.

        :raises HandOverError: if no time is left.
        """
        left = None if self.deadline is None else self.deadline - self._clock()
        if left is not None and left <= 0:
            raise HandOverError("the other process has not answered in time")
        self._socket.settimeout(left)

    def send(self, kind: Kind, content: Any = None, descriptors: Sequence[int] = ()) -> None:
        """Send a message.

        :param content: plain values: what CBOR can represent.
        :param descriptors: at most :data:`MAX_DESCRIPTORS`; they stay open here, too.
        :raises HandOverError: if that is not possible.
        """
        body = cbor2.dumps(content)
        header = _HEADER.pack(_MAGIC, kind, len(descriptors), len(body))
        try:
            self._wait()
            if descriptors:
                numbers = array.array("i", descriptors)
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)
                sent = self._socket.sendmsg([header], [rights])
                header = header[sent:]
            if header:
                self._socket.sendall(header)
            view = memoryview(body)
            for begin in range(0, len(view), MIB):
                self._wait()
                self._socket.sendall(view[begin : begin + MIB])
        except OSError as error:
            raise _failure(error) from None

    def receive(self, *expected: Kind) -> Received:
        """Receive a message of one of the *expected* kinds.

        :raises Refused: if the other process refuses to go on.
        :raises HandOverError: if something else comes, or nothing.
        """
        descriptors: list[int] = []
        try:
            return self._receive(expected, descriptors)
        except OSError as error:
            close_all(descriptors)
            raise _failure(error) from None
        except BaseException:
            close_all(descriptors)
            raise

    def _receive(self, expected: Sequence[Kind], descriptors: list[int]) -> Received:
        header = b""
        while len(header) < _HEADER.size:
            self._wait()
            data, ancillary, flags, _ = self._socket.recvmsg(
                _HEADER.size - len(header), _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    numbers = array.array("i")
                    numbers.frombytes(rights[: len(rights) - len(rights) % numbers.itemsize])
                    descriptors += numbers
            if flags & socket.MSG_CTRUNC:
                raise HandOverError("descriptors were lost (ulimit -n, LimitNOFILE=)")
            if not data:
                raise Ended("the other process has ended")
            header += data
        magic, number, count, size = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise HandOverError("the other process is no relay")
        if count != len(descriptors):
            raise HandOverError(f"{len(descriptors)} of {count} descriptors have come")
        content = _decode(self._receive_body(size))
        if number == Kind.REFUSED:
            raise Refused(str(content))
        if number not in expected:
            raise HandOverError(f"the other process has sent an unexpected message ({number})")
        return Received(Kind(number), content, descriptors)

    def _receive_body(self, size: int) -> bytearray:
        body = bytearray(size)
        view = memoryview(body)
        while view:
            self._wait()
            received = self._socket.recv_into(view[:MIB])
            if not received:
                raise Ended("the other process has ended")
            view = view[received:]
        return body

    def refuse(self, reason: str) -> None:
        """Tell the other process why this one does not go on, if it still listens."""
        with suppress(HandOverError):
            self.send(Kind.REFUSED, reason)


def _decode(body: bytearray) -> Any:
    try:
        return cbor2.loads(body)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise HandOverError(f"the other process has sent no valid message: {error}") from None


def _failure(error: OSError) -> HandOverError:
    if isinstance(error, TimeoutError):
        return HandOverError("the other process has not answered in time")
    if isinstance(error, BrokenPipeError | ConnectionResetError):
        return Ended("the other process has ended")
    return HandOverError(error.strerror or str(error))


def close_all(descriptors: Sequence[int]) -> None:
    """Close *descriptors* that nobody uses."""
    for each in descriptors:
        with suppress(OSError):
            os.close(each)


def _credentials(connected: socket.socket) -> tuple[int, int]:
    """Return the ids of the process at the other end, and of its user."""
    option = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(option)
    return process, user


def check_user(connected: socket.socket) -> None:
    """Check that the process at the other end belongs to the same user, or to root.

    :raises HandOverError: if it does not.
    """
    _, user = _credentials(connected)
    if user not in (os.geteuid(), 0):
        raise HandOverError(f"the other process belongs to another user ({user})")


@contextmanager
def without_collection() -> Iterator[None]:
    """Search for no unreachable objects meanwhile: very many are made, and most of them stay.

    They are left out of later searches, too, until ``gc.unfreeze`` is called: the first one would
    take longest.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
