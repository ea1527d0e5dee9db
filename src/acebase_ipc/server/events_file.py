"""The last events of a relay that has stopped, in a file for the next one."""

from __future__ import annotations

from struct import Struct
from typing import Final
from zlib import crc32

import cbor2
from twisted.logger import Logger

from acebase_ipc.admin.history import History, Noted
from acebase_ipc.admin.past_events import noted_of, plain
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.server.private_file import InvalidFile, PrivateFile

_MAGIC: Final = b"acebase-ipc events 1\n"
"""The format and its version. It has no need of the state's: without them nothing else is lost."""

_CHECKSUM: Final = Struct("<I")
_START: Final = len(_MAGIC) + _CHECKSUM.size

log = Logger()


class EventsFile:
    """The file in the state directory of a relay, which has locked that.

    :param directory: its absolute path.
    :param history: keeps events.
    """

    def __init__(self, directory: str, history: History) -> None:
        self._file = PrivateFile(directory, "events")
        self._history = history

    def restore(self) -> None:
        """Let the history have the events that were saved, and remove the file.

        If it cannot be used, a warning says why. Events that this version does not know are left
        out.
        """
        try:
            self._history.adopt(_parse(self._file.read()))
        except FileNotFoundError:
            return
        except (OSError, InvalidFile) as error:
            log.warn(
                "the events of the relay before this one are not known: {path}: {reason}",
                path=self._file.path,
                reason=getattr(error, "strerror", None) or str(error),
            )
        self._file.remove()

    def save(self) -> None:
        """Save the events for the next relay; a failure is logged."""
        body = cbor2.dumps(list(map(plain, self._history.past())))
        try:
            self._file.write(_MAGIC, _CHECKSUM.pack(crc32(body)), body)
        except OSError as error:
            self._file.discard()
            log.error(
                "the events cannot be saved in {path}: {reason}",
                path=self._file.path,
                reason=error.strerror or str(error),
            )


def _parse(data: bytes) -> list[Noted[RelayEvent]]:
    """Return the events in *data*, in the order in which they happened.

    :raises InvalidFile: if there are none.
    """
    if not data.startswith(_MAGIC):
        raise InvalidFile("it is of another version, or has no events of a relay")
    body = data[_START:]
    if data[len(_MAGIC) : _START] != _CHECKSUM.pack(crc32(body)):
        raise InvalidFile("it is damaged or incomplete")
    try:
        events = list(map(noted_of, cbor2.loads(body)))
    except Exception as error:  # whatever cbor2 finds
        raise InvalidFile(f"it cannot be read: {type(error).__name__}") from None
    return [each for each in events if each is not None]
