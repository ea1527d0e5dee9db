"""The state of a relay that has stopped, in a file for the next one."""

from __future__ import annotations

import math
from collections.abc import Callable
from struct import Struct
from typing import Final
from zlib import crc32

from twisted.logger import Logger

from acebase_ipc.relay.state import RelayState
from acebase_ipc.server.private_file import InvalidFile, PrivateFile
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
        self._file = PrivateFile(directory, "state")
        self._wall = wall

    def read(self, session_timeout: float) -> RelayState | None:
        """Return the state that was saved, if there is one that can be used.

        A file that cannot be used is kept under another name, and a warning says why.

        :param session_timeout: the seconds for which a session is kept; a state that is older
            than these and the time that its relay took to stop is of no use.
        """
        try:
            saved, took, state = _parse(self._file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warn("cannot read {path}: {reason}", path=self._file.path, reason=error.strerror)
            return None
        except InvalidFile as error:
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
            path=self._file.path,
            age=round(age),
        )
        self.remove()
        return None

    def set_aside(self, reason: str) -> None:
        """Keep the file under another name, and warn of the *reason*."""
        log.warn(
            "the state of the relay before this one cannot be used: {reason}; it is kept as {path}",
            reason=reason,
            path=self._file.set_aside(),
        )

    def remove(self) -> None:
        """Remove the file, whose state is used or of no use; a failure is logged."""
        self._file.remove()

    def prepare(self, state: RelayState) -> bool:
        """Write *state* under another name, to see whether there is room for it.

        :returns: whether there is; if not, an error is logged.
        """
        return self._attempt(lambda: self._file.prepare(encode(state)))

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
            self._file.discard()
            return False
        return True

    def _save(self, state: RelayState, took: float) -> None:
        times = _TIMES.pack(self._wall(), took)
        self._file.write(_MAGIC, times, _CHECKSUM.pack(crc32(times)), encode(state))


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
