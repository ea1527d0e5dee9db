"""A file in a state directory, which one relay leaves to the next one.

It is written under another name, and then takes the place of the former one: at no moment is there
half a file. It belongs to its owner alone, because it tells of clients and may hold their messages.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from twisted.logger import Logger

from acebase_ipc.errors import IPCError

log = Logger()


class InvalidFile(IPCError):
    """This file cannot be used; the text says why in one line."""


class PrivateFile:
    """One of the files in the state directory of a relay, which has locked that.

    :param directory: its absolute path.
    :ivar path: where it is.
    """

    def __init__(self, directory: str, name: str) -> None:
        self._directory = directory
        self.path = os.path.join(directory, name)
        self._new = f"{self.path}.new"

    def read(self) -> bytes:
        """Return what is in the file.

        :raises FileNotFoundError: if there is none.
        :raises OSError: if it cannot be read.
        :raises InvalidFile: if it is none, or was put there by another user.
        """

        def open_at_once(path: str, flags: int) -> int:
            return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)

        with open(self.path, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidFile("it is no file")
            if status.st_uid not in (os.geteuid(), 0):
                raise InvalidFile("it belongs to another user")
            return file.read()

    def prepare(self, *parts: bytes) -> None:
        """Write *parts* under another name.

        :raises OSError: if that is not possible.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(self._new, flags, 0o600), "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())

    def write(self, *parts: bytes) -> None:
        """Let *parts* take the place of what is in the file.

        :raises OSError: if that is not possible.
        """
        self.prepare(*parts)
        os.replace(self._new, self.path)
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def discard(self) -> None:
        """Remove what was written under another name."""
        with suppress(OSError):
            os.unlink(self._new)

    def set_aside(self) -> str:
        """Keep the file under another name; returns its path."""
        kept = f"{self.path}.unusable"
        try:
            os.replace(self.path, kept)
        except OSError:
            return self.path
        return kept

    def remove(self) -> None:
        """Remove the file; a failure is logged."""
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.error("cannot remove {path}: {reason}", path=self.path, reason=error.strerror)
