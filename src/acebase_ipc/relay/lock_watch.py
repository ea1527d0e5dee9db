"""Warns of locks that are held for long while others wait, and of requests without an answer.

AceBase itself says nothing for 30 s, and only in the master's process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from acebase_ipc.protocol.locks import LOCK, read_details
from acebase_ipc.relay.events import LockHeldLong, Observer, RequestOpenLong
from acebase_ipc.relay.ledger import Request
from acebase_ipc.relay.own_requests import master_of
from acebase_ipc.relay.peers import Database, Peer

_INTERVAL: Final = 60.0
"""Seconds between two warnings about the same."""

_NAMED: Final = 5
"""Waiting peers that a warning names at most."""

_Subject = tuple[str, str, int]
"""What a warning is about: a database, a peer, and the id of a lock or 0."""


class LockWatch:
    """Looks about once a second for what takes too long.

    :ivar patience: seconds after which it does.
    """

    def __init__(self, patience: float, observer: Observer) -> None:
        self.patience = patience
        self._observer = observer
        self._told: dict[_Subject, float] = {}

    def check(self, databases: Iterable[Database], now: float) -> None:
        """Report what takes too long, each lock and each peer at most once a minute.

        :param now: monotonic seconds.
        """
        self._told = {each: at for each, at in self._told.items() if at + _INTERVAL > now}
        for database in databases:
            if database.ledger is not None:
                self._check(database, now)

    def _check(self, database: Database, now: float) -> None:
        since = now - self.patience
        locks: list[tuple[Peer, int, bytes, float]] = []
        requests: list[tuple[Peer, Request]] = []
        for peer in database.peers.values():
            if peer.account is not None:
                locks += [(peer, *each) for each in peer.account.held() if each[2] <= since]
                requests += [(peer, each) for each in peer.account.open_requests(since)]
        if not requests or master_of(database) is None:
            return  # nobody has waited for so long, or the absence of the master is told
        for peer, lock_id, granted, at in locks:
            subject = database.name, peer.client_id, lock_id
            self._check_lock(subject, granted, round(now - at), requests, now)
        for peer, request in requests:
            explained = locks and request.kind is LOCK
            if not explained and self._is_new((database.name, peer.client_id, 0), now):
                details = read_details(request.body)
                self._observer.report(
                    RequestOpenLong(
                        database.name,
                        peer.client_id,
                        request.kind.value,
                        details.path,
                        details.comment,
                        round(now - request.since),
                    )
                )

    def _check_lock(
        self,
        subject: _Subject,
        granted: bytes,
        seconds: int,
        requests: list[tuple[Peer, Request]],
        now: float,
    ) -> None:
        waiting = [each for each in requests if each[1].kind is LOCK]
        if not waiting or not self._is_new(subject, now):
            return
        details = read_details(granted)
        names = [
            peer.client_id
            for peer, request in waiting
            if read_details(request.body).tid != details.tid
        ]
        if names:
            database, holder, _ = subject
            kind = "write" if details.write else "read"
            listed = _list(list(dict.fromkeys(names)))
            self._observer.report(
                LockHeldLong(database, holder, kind, details.path, details.comment, seconds, listed)
            )

    def _is_new(self, subject: _Subject, now: float) -> bool:
        """Return whether *subject* was not reported within the last minute, and note it."""
        if subject in self._told:
            return False
        self._told[subject] = now
        return True


def _list(names: list[str]) -> str:
    """Return the first of *names*, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
