"""Grants the locks that a master could not but grant, and releases locks in its place.

AceBase lets one transaction write at a time, whatever the path, and each asks the master for 6
to 8 locks, one after the other. While a transaction has a lock to write, no other has any lock,
and all of its further requests pass. While it has a lock to read, its further requests to read
pass, because a writer has to wait. So the relay knows the answers and gives them itself, which
saves the way to the master and back.

A lock of the master's *covers* the locks that the relay grants because of it. It is released at
the master after the last of these. In ``acebase/ipc/ipc.js`` and ``node-lock.js`` (1.29.13):

* ``_allowLock`` looks at the locks that others hold, not at those that others wait for.
* A lock expires 120 s after it was granted, and nothing extends that. Then a request of the same
  transaction fails. The locks of the relay's own expire together with the one that covers them.
* A lock that is held can always be moved to the parent node, and keeps its id.
* A worker that is told that a move has failed does not have that lock any more.
"""

from __future__ import annotations

import secrets
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.locks import (
    LOCK,
    MOVE,
    OTHER,
    RequestKind,
    failure,
    is_to_parent,
    moved_to_parent,
    read_grant,
    read_lock_id,
    read_wish,
)
from acebase_ipc.relay.ledger import SMALL, Account, Cover, Lock
from acebase_ipc.relay.own_requests import OwnRequests, master_of
from acebase_ipc.relay.peers import Peer

OWN_LOCK_IDS: Final = 2**40
"""The relay's own ids of locks begin here: AceBase counts from 1 in each process."""

_ID_SPAN: Final = 2**52
"""Each relay begins somewhere above, so that a worker does not know another lock by the same id
that a relay before this one has granted. JavaScript's numbers are exact below 2**53."""

_LIFETIME: Final = 120.0
"""Seconds after which AceBase lets a lock expire."""

_L: Final = ord("l")


class LockSessions:
    """Answers requests about locks in the place of masters.

    :param enabled: whether it does; locks of its own that a relay before this one has granted are
        settled nevertheless.
    :param seconds: for which a lock covers others after it was granted.
    :ivar answered: how many requests for a lock, or to move one, it has answered.
    :ivar next_id: the next id of a lock that the relay gives.
    """

    def __init__(self, own: OwnRequests, enabled: bool, seconds: float) -> None:
        self._own = own
        self.enabled = enabled
        self.seconds = seconds
        self.answered = 0
        self.next_id = OWN_LOCK_IDS + secrets.randbelow(_ID_SPAN)

    def new_id(self) -> int:
        """Return an id that no other lock has."""
        self.next_id += 1
        return self.next_id - 1

    def answer(
        self, worker: Peer, account: Account, kind: RequestKind, request_id: bytes, body: bytes
    ) -> bool:
        """Answer a request of *worker* if its answer is known.

        :returns: whether it is; otherwise the master has to be asked.
        """
        now = self._own.clock()
        lock: Lock | None = None
        if kind is OTHER:
            return False
        if kind is LOCK:
            reply = self._answer_lock(worker, account, request_id, body, now)
        elif kind is MOVE:
            reply, lock = self.move(account, request_id, body, now)
        else:
            reply, lock = self.release(account, request_id, read_lock_id(body) or 0)
        if lock is not None:
            self._own.release(worker.database, account.ledger, lock)
        if reply is None:
            return False
        self._own.send(worker, reply)
        return True

    def _answer_lock(
        self, worker: Peer, account: Account, request_id: bytes, body: bytes, now: float
    ) -> bytes | None:
        master = master_of(worker.database)
        if not account.current or master is None or master.dialect is not ACEBASE:
            return None
        _, _, start, end, length = account.request_layouts[_L]
        if len(body) > SMALL or body[:length] != start + request_id + end:
            return None
        return self.grant(account, request_id, body, now)

    def begin(self, account: Account, lock_id: int, body: bytes, now: float) -> None:
        """Note that the master has granted a lock by the envelope *body*: it covers others."""
        _, _, start, _, length = account.answer_layouts[_L]
        if not self.enabled or lock_id in account.covers or not body.startswith(start):
            return
        found = read_grant(body, length)
        if found is None:
            return
        tid, is_write, expires = found
        cover = account.covers[lock_id] = Cover(lock_id, tid, is_write, expires, now)
        current = account.current.get(tid)
        if current is None or is_write or not current.is_write or not self._covers(current, now):
            account.current[tid] = cover

    def _covers(self, cover: Cover, now: float) -> bool:
        return now - cover.since < self.seconds

    def grant(self, account: Account, request_id: bytes, body: bytes, now: float) -> bytes | None:
        """Return the answer to a usual request for a lock; ``None`` if the master has to decide.

        :param now: monotonic seconds.
        """
        wish = read_wish(body, account.request_layouts[_L][4])
        if wish is None:
            return None
        cover = account.current.get(wish[2])
        if cover is None or not self._covers(cover, now):
            return None
        if not cover.is_write and wish[3] == b"true":
            return None
        lock_id = self.next_id
        self.next_id += 1
        _, _, start, end, _ = account.answer_layouts[_L]
        reply = b'%b%b%b%d,%b"expires":%b,%b' % (
            start,
            request_id,
            end,
            lock_id,
            wish[1],
            cover.expires,
            wish[4],
        )
        account.own[lock_id] = reply, now, cover
        cover.open += 1
        self.answered += 1
        return reply

    def release(
        self, account: Account, request_id: bytes, lock_id: int
    ) -> tuple[bytes | None, Lock | None]:
        """Return the answer to a request to release a lock, and the lock to release at the master.

        Without an answer, the master has to be asked.
        """
        own = account.own.pop(lock_id, None)
        covering = account.covers.get(lock_id)
        lock: Lock | None = None
        if own is not None:
            lock = self._uncovered(account, own[2])
        elif covering is not None and covering.open:
            covering.is_kept = True
        else:
            lock = account.take(lock_id) if self.enabled else None
            # A master is never asked for an id of the relay's own: a relay before this one has
            # given it, or the lock is released already.
            if lock is None and (lock_id < OWN_LOCK_IDS or lock_id in account.locks):
                return None, None
        return account.released(request_id, lock_id), lock

    def _uncovered(self, account: Account, cover: Cover) -> Lock | None:
        """Note that a lock of the relay's own is released; returns what has to be released, too."""
        cover.open -= 1
        if cover.open:
            return None
        if cover.is_kept:
            return account.take(cover.lock_id)
        if not self.enabled:
            account.uncover(cover.lock_id)
        return None

    def move(
        self, account: Account, request_id: bytes, body: bytes, now: float
    ) -> tuple[bytes | None, Lock | None]:
        """Return the answer to a request to move a lock, and the lock to release at the master.

        :param now: monotonic seconds.
        """
        lock_id = read_lock_id(body) or 0
        own = account.own.get(lock_id)
        cover = account.covers.get(lock_id) if own is None else own[2]
        if cover is None or (own is None and not self._can_move(account, cover, body, now)):
            if lock_id < OWN_LOCK_IDS or lock_id in account.locks:
                return None, None
            return failure(request_id, account.holder, "The lock is not known"), None
        if not is_to_parent(body) or now - cover.since >= _LIFETIME:
            # To the worker, the lock is released.
            _, lock = self.release(account, request_id, lock_id)
            reason = "The lock has expired, or there is no such move"
            return failure(request_id, account.holder, reason), lock
        if own is None:
            record = account.granted.get(lock_id)
            granted = account.locks[lock_id].granted if record is None else record[0]
            reply = moved_to_parent(request_id, account.holder, lock_id, granted)
            account.regrant(lock_id, reply)
        else:
            reply = moved_to_parent(request_id, account.holder, lock_id, own[0])
            account.own[lock_id] = reply, own[1], cover
        self.answered += 1
        return reply, None

    def _can_move(self, account: Account, cover: Cover, body: bytes, now: float) -> bool:
        """Return whether the relay moves a lock of the master's.

        The master may replace one that has expired by another. One that covers others must stay.
        """
        if cover.open or not is_to_parent(body):
            return cover.open > 0
        current = account.current.get(cover.tid)
        is_writing = current is not None and current.is_write and self._covers(current, now)
        return self.enabled and is_writing and cover.lock_id in account.granted
