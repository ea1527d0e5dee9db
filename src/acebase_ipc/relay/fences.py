"""Workers that must not come back, because their locks were given to others.

A process whose connection was lost may still run, and take the locks for its own. A handshake
of its id is answered with 500, which ends a published client's process, so that its supervisor
starts it afresh under another id.

Measured with acebase 1.29.13: 500, 403 and 409 on a reconnect end the process within 0.1 s;
only the text of 500 is not misleading, and 503 is retried indefinitely.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.events import Observer, ReturnRefused
from acebase_ipc.relay.journal import Journal
from acebase_ipc.relay.state import FenceState

_KICKED: Final = 60.0
"""Seconds for which the id of a client that was kicked is refused: it is back within a second."""

_MAX_FENCES: Final = 10_000
"""Ids that are refused at most; the oldest is admitted first."""


class Fenced(RequestRefused):
    """The session of this client ended while it held locks: its process has to start afresh."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self) -> None:
        super().__init__("The session has ended and its locks were released: restart the process")


class Fences:
    """The ids that are refused, and until when.

    :param journal: learns of them.
    :ivar seconds: how long an id is refused.
    """

    def __init__(self, seconds: float, observer: Observer, journal: Journal | None) -> None:
        self.seconds = seconds
        self._observer = observer
        self._journal = journal
        self._until: dict[tuple[str, str], float] = {}
        self._reported: set[tuple[str, str]] = set()
        self._once: set[tuple[str, str]] = set()

    def add(self, database: str, client_id: str, now: float, is_reported: bool = False) -> None:
        """Refuse the id of a peer from now on.

        :param is_reported: whether there is no need to report that it is refused.
        """
        self.restore(database, client_id, now + self.seconds)
        if is_reported:
            self._reported.add((database, client_id))

    def add_kicked(self, database: str, client_id: str, now: float, once: bool) -> None:
        """Refuse the id of a peer that was kicked, even if others are not refused.

        :param once: accept the id after that, because its process starts again under the same.
        """
        key = database, client_id
        if key not in self._until:
            self._refuse(database, client_id, now + max(self.seconds, _KICKED))
        self._reported.add(key)
        if once:
            self._once.add(key)

    def restore(self, database: str, client_id: str, until: float) -> None:
        """Refuse the id of a peer until then, in monotonic seconds."""
        if self.seconds:
            self._refuse(database, client_id, until)

    def _refuse(self, database: str, client_id: str, until: float) -> None:
        key = database, client_id
        self._until.pop(key, None)
        self._until[key] = until
        if self._journal is not None:
            self._journal.fenced(database, client_id, until)
        if len(self._until) > _MAX_FENCES:
            self._remove(next(iter(self._until)))

    def check(self, handshake: Handshake, newcomer: str, now: float) -> None:
        """Refuse a client whose locks were released.

        :param newcomer: the client's address, for the log.
        :raises Fenced: with 500.
        """
        key = handshake.database, handshake.client_id
        if self._until.get(key, now) <= now:
            return
        if key not in self._reported:
            self._reported.add(key)
            self._observer.report(ReturnRefused(*key, newcomer))
        if key in self._once:
            self._remove(key)
        raise Fenced

    @property
    def databases(self) -> set[str]:
        """The databases in which ids are refused."""
        return {database for database, _ in self._until}

    def __bool__(self) -> bool:
        return bool(self._until)

    def clear(self) -> None:
        """Refuse nobody any more."""
        self._until.clear()
        self._reported.clear()
        self._once.clear()

    def export(self, now: float) -> tuple[FenceState, ...]:
        """Return the fences that are not over."""
        return tuple(
            FenceState(*key, until - now, key in self._reported, key in self._once)
            for key, until in self._until.items()
            if until > now
        )

    def adopt(self, fences: tuple[FenceState, ...], now: float) -> None:
        """Refuse the ids that another relay has refused."""
        for each in fences:
            key = each.database, each.client_id
            self._refuse(*key, now + each.left)
            if each.is_reported:
                self._reported.add(key)
            if each.once:
                self._once.add(key)

    def expire(self, now: float) -> None:
        """Remove the fences that are over."""
        for key in [key for key, until in self._until.items() if until <= now]:
            self._remove(key)

    def _remove(self, key: tuple[str, str]) -> None:
        del self._until[key]
        self._reported.discard(key)
        self._once.discard(key)
