"""Finds locks that a master has granted in answers that were lost with its connection.

What a process of the npm package acebase sends while it has no connection is lost. When the
same process is the master again, it is sent the open lock requests again and grants them a
second time. Nobody knows the first lock, so nobody releases it: all writes wait until it
expires after 120 s.

The master numbers its locks when it receives the requests. A lost lock therefore has a lower
id than the second one, close to the ids that were granted last before the connection was cut.
While all wait, the relay asks the master to move each unknown lock with such an id to the
parent node: the answer names the lock's transaction.

What a move does in acebase 1.29.13 (``ipc/ipc.js``, ``node-lock.js``, ``storage/*``):

* A lock that waits, or does not exist, is not found: nothing happens.
* A granted lock gets the path of its parent. No storage that locks through its peers reads
  that path, and no other lock depends on it. The release finds the lock by its object or id.
* The path of the root's parent is ``null``, and to move that fails. An operation of the master
  moves its own lock, at most once for each level of its path. One move by the relay therefore
  cannot make it fail, but a second one can, in the middle of a write: a lock at ``a`` would be
  at ``null``. So no lock is moved twice.
* A lock that has expired may be replaced by a new one, which has to be released.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final

from acebase_ipc.protocol.locks import (
    LOCK,
    is_about_unknown_lock,
    read_details,
    read_lock_id,
)
from acebase_ipc.relay.events import LostLockReleased, Observer
from acebase_ipc.relay.ledger import SMALL, Account, Ledger
from acebase_ipc.relay.own_requests import OwnRequests, master_of
from acebase_ipc.relay.peers import Database
from acebase_ipc.relay.state import SearchState

PATIENCE: Final = 2.0
"""Seconds for which a lock request is open, and a master connected, before all are taken to wait
for a lost lock."""

INTERVAL: Final = 5.0
"""Seconds between two searches while all still wait."""

LIFETIME: Final = 120.0
"""Seconds after which nothing is searched any more: locks have expired by then."""

ABOVE: Final = 500
"""Ids that are searched above the highest one that was known before the connection was cut."""

BELOW: Final = 500
"""Ids that are searched below it: of requests that have waited while later ones passed."""

BATCH: Final = 200
"""Questions to a master at a time."""

MAX_TRANSACTIONS: Final = 1000
"""Transactions of a database that are remembered."""


@dataclass(slots=True)
class Search:
    """What is known of the locks that may be lost in one database.

    :ivar workers: the workers of the transactions whose locks were requested again, by tid.
    :ivar since: when it was first looked at, in monotonic seconds.
    :ivar ids: the ids that are not asked about yet.
    :ivar next_at: when to search again, if all still wait then.
    :ivar questions: the ids that the master was asked about, by the request's id.
    :ivar moved: the ids of locks that the master has moved, or perhaps has.
    """

    workers: dict[str, str] = field(default_factory=dict)
    since: float | None = None
    ids: Iterator[int] = field(default_factory=lambda: iter(()))
    next_at: float = 0.0
    questions: dict[bytes, int] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)


class LostLocks:
    """Searches for lost locks where a master was asked for locks a second time."""

    def __init__(self, own: OwnRequests, observer: Observer) -> None:
        self._own = own
        self._observer = observer
        self._searches: dict[Database, Search] = {}

    def master_arrived(self, database: Database, requested: Iterable[tuple[str, bytes]]) -> None:
        """Note that a master has arrived, and which locks it is asked for again.

        :param requested: of each lock its worker, and the request or a former answer.
        """
        search = self._searches.pop(database, None) or Search()
        search.since, search.ids, search.next_at = None, iter(()), 0.0
        search.questions.clear()
        for worker, body in requested:
            if len(body) <= SMALL:
                search.workers[read_details(body).tid] = worker
        for tid in list(islice(search.workers, max(0, len(search.workers) - MAX_TRANSACTIONS))):
            del search.workers[tid]
        if search.workers:
            self._searches[database] = search

    def export(self, database: Database, now: float) -> SearchState | None:
        """Return what is known of the locks that may be lost in *database*."""
        search = self._searches.get(database)
        if search is None:
            return None
        return SearchState(
            tuple(search.workers.items()),
            None if search.since is None else now - search.since,
            tuple(search.questions.items()),
            tuple(sorted(search.moved)),
        )

    def adopt(self, database: Database, state: SearchState | None, now: float) -> None:
        """Search for what another relay has searched for; the ids are chosen anew."""
        if state is not None:
            self._searches[database] = Search(
                workers=dict(state.workers),
                since=None if state.age is None else now - state.age,
                questions=dict(state.questions),
                moved=set(state.moved),
            )

    def forget(self, database: Database) -> None:
        """Search nothing: the master is a new process."""
        self._searches.pop(database, None)

    def check(self, now: float) -> None:
        """Ask the masters about some ids where all wait; to be called about once a second.

        :param now: monotonic seconds.
        """
        for database, search in list(self._searches.items()):
            if search.since is None:
                search.since = now
            if search.since + LIFETIME <= now:
                self.forget(database)
            elif search.since + PATIENCE <= now:
                self._search(database, search, now)

    def _search(self, database: Database, search: Search, now: float) -> None:
        master, ledger = master_of(database), database.ledger
        if master is None or ledger is None or not _is_stalled(ledger, now):
            return
        if search.next_at <= now:
            search.next_at = now + INTERVAL
            search.ids = _candidates(ledger)
        known = search.moved | _known(ledger, ledger.accounts)
        worker = next(iter(search.workers.values()))
        for lock_id in islice((each for each in search.ids if each not in known), BATCH):
            search.moved.add(lock_id)
            search.questions[self._own.ask_about(master, worker, lock_id)] = lock_id

    def answered(self, database: Database, request_id: bytes, body: bytes) -> None:
        """Release the lock that a question has found, if it is a lost one."""
        search, ledger = self._searches.get(database), database.ledger
        asked = None if search is None else search.questions.pop(request_id, None)
        if search is None or ledger is None or asked is None:
            return  # a late answer
        lock_id = read_lock_id(body)
        if lock_id is None:
            if is_about_unknown_lock(body):
                search.moved.discard(asked)
            return
        details = read_details(body)
        worker = search.workers.get(details.tid)
        if worker is None:
            if lock_id == asked:
                return  # a lock of the master's own
            worker = next(iter(search.workers.values()))
        peer = database.peers.get(worker.encode())
        accounts = [] if peer is None or peer.account is None else [peer.account]
        if lock_id in _known(ledger, accounts) or details.tid in _requested(accounts):
            return
        self._observer.report(
            LostLockReleased(database.name, worker, details.path, details.comment)
        )
        self._own.release_unasked(database, worker.encode(), lock_id, body)


def _is_stalled(ledger: Ledger, now: float) -> bool:
    """Return whether a worker waits for a lock although none has one."""
    accounts = ledger.accounts
    if any(each.granted or each.locks or each.about for each in accounts):
        return False
    until = now - PATIENCE
    return any(each.kind is LOCK for account in accounts for each in account.open_requests(until))


def _candidates(ledger: Ledger) -> Iterator[int]:
    """Return the ids that a lost lock may have, the likely ones first."""
    # If no id is above the former ones, the master is a new process and has lost one since.
    highest = ledger.highest or ledger.former_highest + ABOVE
    middle = min(ledger.former_highest, highest)
    above = range(middle + 1, min(middle + ABOVE, highest) + 1)
    return chain(above, range(middle, max(middle - BELOW, 0), -1))


def _known(ledger: Ledger, accounts: Iterable[Account]) -> set[int]:
    """Return the ids of the locks at the master that *accounts* have, and the relay itself."""
    ids: set[int | None] = set()
    locks = [*ledger.own.values(), *ledger.unwanted]
    for account in accounts:
        ids.update(account.granted)
        locks += [*account.locks.values(), *account.about.values()]
        for asked in account.requests.values():
            if asked is not None and asked[2] is not None:
                ids.add(read_lock_id(asked[2][0]))
    for lock in locks:
        ids |= {lock.master_id, lock.former_id}
    return {each for each in ids if each is not None}


def _requested(accounts: Iterable[Account]) -> set[str]:
    """Return the transactions for which *accounts* wait for a lock, whose answer may come yet."""
    return {
        read_details(each.body).tid
        for account in accounts
        for each in account.open_requests()
        if each.kind is LOCK
    }
