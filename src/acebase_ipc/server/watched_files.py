"""Notices that files have changed, so that nobody has to send a signal.

Kubernetes mounts secrets as symbolic links and swaps these; certificate tools write new files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

WATCH_INTERVAL: Final = 2
"""Seconds between two looks at the files."""


class WatchedFiles:
    """Files that are looked at from time to time."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.read(paths)

    def read(self, paths: Iterable[str]) -> None:
        """Watch *paths*, which are about to be read: a change in the meantime is noticed, too."""
        self._paths = tuple(dict.fromkeys(paths))
        self._known = self._seen = tuple(map(_look_at, self._paths))

    def have_changed(self) -> bool:
        """Return whether the files have changed, once, and only when they change no more.

        A file that is being written, or a key without its certificate, cannot be used yet.
        """
        before, self._seen = self._seen, tuple(map(_look_at, self._paths))
        if self._seen != before or self._seen == self._known:
            return False
        self._known = self._seen
        return True


def _look_at(path: str) -> tuple[int, ...] | None:
    """Return what differs if the file at *path* is written or replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
