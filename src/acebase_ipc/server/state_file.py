"""The state of a relay that has stopped, in a file for the next one.

It is written to a file of another name, which then takes the place of the former one: at no
moment is there half a state. It belongs to its owner alone, because it holds messages.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Final
from zlib import crc32

from twisted.logger import Logger

from acebase_ipc.relay.state import RelayState
from acebase_ipc.server.state_codec import InvalidState, decode, encode

_MAGIC: Final = b"acebase-ipc restart 1\n"
"""The format and its version."""

_TIMES: Final = Struct("<dd")
"""When the state was saved, in seconds since 1970, and how many seconds the stop took by then."""

_CHECKSUM: Final = Struct("<I")
_HEADER: Final = len(_MAGIC) + _TIMES.size + _CHECKSUM.size

log = Logger()


class StateFile:
    """The file in the state directory of a relay, which has locked that.

    :param directory: its absolute path.
    :param wall: returns the seconds since 1970.
    """

    def __init__(self, directory: str, wall: Callable[[], float]) -> None:
        self._directory = directory
        self._path = os.path.join(directory, "state")
        self._new = f"{self._path}.new"
        self._wall = wall

    def read(self, session_timeout: float) -> RelayState | None:
        """Return the state that was saved, if there is one that can be used.

        A file that cannot be used is kept under another name, and a warning says why.

        :param session_timeout: the seconds for which a session is kept; a state that is older
            than these and the time that its relay took to stop is of no use.
        """
        try:
            saved, took, state = _parse(self._load())
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warn("cannot read {path}: {reason}", path=self._path, reason=error.strerror)
            return None
        except InvalidState as error:
            self.set_aside(str(error))
            return None
        age = self._wall() - saved
        if abs(age) <= session_timeout + took:  # below 0 if the clock was set back
            log.info(
                "the state of the relay that stopped {age} s ago is restored: {peers} peer(s) of"
                " {databases} database(s)",
                age=round(age),
                peers=sum(len(each.peers) for each in state.databases),
                databases=len(state.databases),
            )
            return state
        log.warn(
            "the state in {path} is {age} s old: the sessions in it have expired",
            path=self._path,
            age=round(age),
        )
        self.remove()
        return None

    def _load(self) -> bytes:
        """Return what is in the file.

        :raises InvalidState: if it is none, or was put there by another user.
        """

        def open_at_once(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)

        with open(self._path, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidState("it is no file")
            if status.st_uid not in (os.geteuid(), 0):
                raise InvalidState("it belongs to another user")
            return file.read()

    def set_aside(self, reason: str) -> None:
        """Keep the file under another name, and warn of the *reason*."""
        kept = f"{self._path}.unusable"
        try:
            os.replace(self._path, kept)
        except OSError:
            kept = self._path
        log.warn(
            "the state of the relay before this one cannot be used: {reason}; it is kept as {path}",
            reason=reason,
            path=kept,
        )

    def remove(self) -> None:
        """Remove the file, whose state is used or of no use; a failure is logged."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.error("cannot remove {path}: {reason}", path=self._path, reason=error.strerror)

    def prepare(self, state: RelayState) -> bool:
        """Write *state* under another name, to see whether there is room for it.

        :returns: whether there is; if not, an error is logged.
        """
        return self._attempt(lambda: self._write(b"", encode(state)))

    def save(self, state: RelayState, took: float) -> bool:
        """Save *state* for the next relay.

        :param took: the seconds that the stop has taken.
        :returns: whether it is saved; if not, an error is logged.
        """
        return self._attempt(lambda: self._save(state, took))

    def _attempt(self, step: Callable[[], object]) -> bool:
        try:
            step()
        except OSError as error:
            log.error(
                "the state cannot be saved in {directory}: {reason}",
                directory=self._directory,
                reason=error.strerror or str(error),
            )
            with suppress(OSError):
                os.unlink(self._new)
            return False
        return True

    def _save(self, state: RelayState, took: float) -> None:
        times = _TIMES.pack(self._wall(), took)
        self._write(_MAGIC + times + _CHECKSUM.pack(crc32(times)), encode(state))
        os.replace(self._new, self._path)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _write(self, head: bytes, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(self._new, flags, 0o600), "wb") as file:
            file.write(head)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _parse(data: bytes) -> tuple[float, float, RelayState]:
    """Return when a state was saved, how long the stop took, and the state.

    :raises InvalidState: if *data* is none.
    """
    if not data.startswith(_MAGIC):
        raise InvalidState("it is of another version, or no state of a relay")
    times = data[len(_MAGIC) : len(_MAGIC) + _TIMES.size]
    checksum = data[len(_MAGIC) + _TIMES.size : _HEADER]
    if len(data) < _HEADER or checksum != _CHECKSUM.pack(crc32(times)):
        raise InvalidState("it is damaged or incomplete")
    saved, took = _TIMES.unpack(times)
    if not (math.isfinite(saved) and math.isfinite(took)):
        raise InvalidState("it has no time where one must be")
    return saved, took, decode(data[_HEADER:])
