"""Recovers open requests and locks when a worker or a master is lost.

The npm package acebase leaves this to nobody: a master never frees the locks of a worker that
is gone, a new master knows neither the locks that are held nor the requests that the former
one has not answered, a request has no timeout, and an answer that was not asked for ends the
process that receives it.

Measured with acebase 1.29.13: a worker killed while it holds the write lock stops all writes
of its cluster for 120 s, and a master killed under load hangs all of its workers.
"""

from __future__ import annotations

from collections.abc import Callable

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.locks import (
    LOCK,
    MOVE,
    OTHER,
    UNLOCK,
    read_answer,
    read_lock_id,
    read_request,
    unlock_result,
    with_lock_id,
)
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.events import LocksFreed, Observer, TooManyRequests
from acebase_ipc.relay.histogram import Histogram
from acebase_ipc.relay.journal import Journal, RestoredWorker
from acebase_ipc.relay.ledger import MAX_RECORDS, Account, Ledger, Lock
from acebase_ipc.relay.lock_sessions import LockSessions
from acebase_ipc.relay.lost_locks import LostLocks
from acebase_ipc.relay.master_arrivals import MasterArrivals
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.own_requests import OwnRequests, master_of
from acebase_ipc.relay.peers import Database, Peer, SessionState
from acebase_ipc.relay.queue import MessageQueue
from acebase_ipc.relay.short_way import ShortWay


class LockRecovery:
    """Keeps the ledgers, and settles them when a worker or a master comes or goes.

    :param max_payload: UTF-16 code units that a message may have.
    :param clock: returns monotonic seconds.
    :param enabled: whether anything is recovered; the ledgers are kept nevertheless.
    :param has_sessions: whether the relay grants locks itself, if it recovers them, too.
    :param session: seconds for which a lock of a master's covers others.
    :param journal: receives what the next relay needs if this one ends without warning.
    :ivar lock_waits: the durations from a request for a lock, or to move one, to its answer.
    :ivar answer_times: the durations from another request to the master to its answer.
    :ivar short_way: notes the usual requests and answers.
    :ivar own: makes the relay's own requests.
    :ivar lost: searches for lost locks.
    :ivar sessions: grants and releases locks in the place of masters.
    """

    def __init__(
        self,
        max_payload: int,
        delivery: Delivery,
        budget: MemoryBudget,
        observer: Observer,
        clock: Callable[[], float],
        enabled: bool,
        has_sessions: bool,
        session: float,
        journal: Journal | None = None,
    ) -> None:
        self._delivery = delivery
        self.lock_waits = Histogram()
        self.answer_times = Histogram()
        self._budget = budget
        self._observer = observer
        self._clock = clock
        self._enabled = enabled
        self._journal = journal
        self.own = OwnRequests(delivery, budget, observer, clock, journal)
        self.sessions = LockSessions(self.own, enabled and has_sessions, session)
        self.short_way = ShortWay(
            max_payload, self.lock_waits, self.answer_times, self.own, self.sessions, journal, clock
        )
        self.lost = LostLocks(self.own, observer)
        self._arrivals = MasterArrivals(self.own, self.lost, observer)

    # What a worker asks of the master

    def requested(self, worker: Peer, body: bytes) -> bytes | None:
        """Note what *worker* asks of the master.

        :returns: what the master has to receive; ``None`` if it receives nothing.
        """
        account = worker.account or self._open(worker)
        found = read_request(body)
        if found is None:
            return body
        kind, request_id = found
        if account.records >= MAX_RECORDS:
            name = worker.database.name
            self._observer.report(
                TooManyRequests(name, worker.client_id, account.records, worker.address)
            )
            self._delivery.cut(worker)
            return None
        is_known = request_id in account.requests  # a defect of the client
        may_answer = not (is_known and kind is LOCK)
        if may_answer and self.sessions.answer(worker, account, kind, request_id, body):
            return None
        if is_known:
            return body
        account.open(request_id, body, self._clock())
        if self._journal is not None and kind is LOCK:
            self._journal.asked(account.worker, request_id, body)
        if self._budget.is_due:
            self._delivery.enforce_memory_limit()
        if self._enabled and kind is UNLOCK:
            return self._asked_to_release(worker, account, request_id, body)
        if self._enabled and kind is MOVE:
            return self._asked_to_move(worker, account, request_id, body)
        if kind is UNLOCK:
            account.forget_lock(read_lock_id(body) or 0)
        return body

    def _open(self, worker: Peer) -> Account:
        if self._journal is not None and not worker.number:
            name = worker.database.name
            worker.number = self._journal.joined(name, worker.client_id, restarts=False)
        ledger = self.own.ledger(worker.database)
        account = worker.account = Account(ledger, worker.client_id, worker.number)
        return account

    def _asked_to_release(
        self, worker: Peer, account: Account, request_id: bytes, body: bytes
    ) -> bytes | None:
        lock_id = read_lock_id(body) or 0
        is_there = master_of(worker.database) is not None
        if lock_id in account.granted and is_there:
            account.release(request_id, lock_id)
            return body
        if lock_id in account.granted:
            account.settle_locks()
        lock = account.locks.pop(lock_id, None)
        if lock is None:
            if worker.database.masters <= 1:
                return body  # the relay may be younger than the lock
            self.own.answer_release(worker, account, request_id, lock_id)  # of a former master
            return None
        lock.release = request_id
        account.about[request_id] = lock
        if not is_there:
            return None  # a master that arrives is asked for the lock first
        if lock.master_id is not None:
            return lock.translate(body)
        if not lock.is_probed:  # the master has refused to grant it again
            account.ledger.forget(lock)
        elif account.ledger.is_same_process is None and not lock.is_unknown:
            return None
        lock.release, lock.is_unwanted = None, True
        self.own.answer_release(worker, account, request_id, lock_id)
        return None

    def _asked_to_move(
        self, worker: Peer, account: Account, request_id: bytes, body: bytes
    ) -> bytes | None:
        lock_id = read_lock_id(body) or 0
        # The relay's own question has moved a lock that a former master has granted, too.
        is_own = lock_id in account.granted
        if is_own:
            account.settle_locks()
        lock = account.locks.get(lock_id)
        if lock is None:
            is_passed = worker.database.masters <= 1
        else:
            account.about[request_id] = lock
            is_passed = is_own and master_of(worker.database) is not None
        if is_passed:
            return body
        self.own.answer_move(worker, account, request_id)
        return None

    # What the master answers

    def answered(
        self, database: Database, worker: Peer | None, addressee: bytes, body: bytes
    ) -> bytes | None:
        """Note what the master answers.

        :param worker: the peer with the id *addressee*, if there is one.
        :returns: what that has to receive; ``None`` if it must not receive this answer.
        """
        account = None if worker is None else worker.account
        found = read_answer(body)
        if found is None:
            return body
        may_grant, request_id = found
        lock_id = read_lock_id(body) if may_grant else None
        if account is None or request_id not in account.requests:
            if not self._enabled:
                return body
            return self._answered_unasked(
                database, worker, account, addressee, request_id, may_grant, lock_id, body
            )
        waited = self._clock() - account.requests[request_id][1]
        (self.lock_waits if may_grant else self.answer_times).observe(waited)
        lock = account.close(request_id)
        if lock is None:
            return body if lock_id is None else self._add_lock(account, lock_id, body)
        if not may_grant:
            account.ledger.forget_released(lock)
            if lock.master_id == lock.id and request_id not in account.resent:
                return body
            # Sent again, it fails if the master has released the lock already.
            return unlock_result(request_id, account.holder, lock.id)
        if account.locks.get(lock.id) is lock:
            if lock_id == lock.master_id:
                account.ledger.regrant(lock, body)
                return body
            del account.locks[lock.id]
            account.uncover(lock.id)
            account.ledger.forget(lock)  # the master has granted another in its place, or none
        return body if lock_id is None else self._add_lock(account, lock_id, body)

    def _add_lock(self, account: Account, lock_id: int, body: bytes) -> bytes:
        ledger = account.ledger
        ledger.highest = max(ledger.highest, lock_id)
        if lock_id in account.locks and self._enabled:  # a lock of the former master has this id
            lock = Lock(lock_id, account.holder, body, self._clock(), account.worker)
            lock.id = self.sessions.new_id()
            account.locks[lock.id] = lock
            ledger.count(body)
            if self._journal is not None:
                self._journal.locked(account.worker, lock.id, lock_id, body)
            return with_lock_id(body, lock.id)
        now = self._clock()
        account.grant(lock_id, body, now)
        self.sessions.begin(account, lock_id, body, now)
        if self._journal is not None:
            self._journal.locked(account.worker, lock_id, lock_id, body)
        return body

    def _answered_unasked(
        self,
        database: Database,
        worker: Peer | None,
        account: Account | None,
        addressee: bytes,
        request_id: bytes,
        may_grant: bool,
        lock_id: int | None,
        body: bytes,
    ) -> bytes | None:
        """Note an answer that the peer *addressee* does not wait for, as far as is known."""
        ledger = database.ledger
        own = None if ledger is None else ledger.own.pop(request_id, None)
        if ledger is not None and own is not None:
            self.own.answered(database, ledger, own, may_grant, body)
            return None
        asked = None if ledger is None else ledger.questions.pop(request_id, None)
        if ledger is not None and asked is not None:
            self.own.answered_question(database, ledger, asked, body)
            if asked.is_unknown and asked.release is None and not asked.is_unwanted:
                self.lost.forget(database)  # a new process: the former one would have this lock
            return None
        if self.own.is_search(request_id):
            self.lost.answered(database, request_id, body)
            return None
        if ledger is not None and request_id in ledger.moves:
            del ledger.moves[request_id]
            return None
        number = 0
        if ledger is not None and request_id in ledger.abandoned:
            number = ledger.abandoned.pop(request_id)
            is_awaited = False
        elif self.own.is_own(request_id):
            is_awaited = False
        else:
            is_awaited = account is None or not account.has_answered(request_id)
        if lock_id is not None:
            if worker is None or not is_awaited:
                if account is None or not account.holds(lock_id):
                    self.own.release_unasked(database, addressee, lock_id, body, number)
            elif worker.dialect is ACEBASE:  # the relay is younger than the request
                return self._add_lock(account or self._open(worker), lock_id, body)
        if self._journal is not None and number:
            self._journal.closed(number, request_id)
        return body if is_awaited else None

    # Departures, arrivals, and the time

    def expire(self, now: float) -> None:
        """Search for lost locks; to be called about once a second.

        :param now: monotonic seconds.
        """
        self.lost.check(now)

    def restore(self, database: Database, worker: RestoredWorker, peer: Peer | None) -> None:
        """Note what the relay before this one has known of a worker.

        :param peer: its session, which has its locks until it ends; ``None`` if there is none.
        """
        ledger, now = self.own.ledger(database), self._clock()
        if peer is not None:
            peer.number = worker.number
            account = peer.account = Account(ledger, peer.client_id, worker.number)
        for each in worker.locks:
            lock = Lock(each.id, worker.client_id, each.body, now, worker.number)
            lock.master_id = lock.former_id = each.master_id
            ledger.count(each.body)
            if peer is None:
                self.own.release(database, ledger, lock)
            else:
                account.locks[each.id] = lock
        for request in worker.requests:
            # The master may have granted it: nobody knows the id of that lock.
            ledger.abandon(request.id, worker.number)
            ledger.lost.append((worker.client_id, request.body))

    def worker_gone(self, worker: Peer) -> bool:
        """Release the locks of *worker*, which has left, and close its open requests.

        :returns: whether it must not go on: it had locks, or waits for an answer about some.
        """
        account, worker.account = worker.account, None
        if account is None:
            return False
        database, ledger = worker.database, account.ledger
        account.settle_locks()
        ledger.accounts.discard(account)
        locks = list(account.locks.values())
        is_about_locks = False
        for request in account.open_requests():
            ledger.discount(request.body)
            is_about_locks = is_about_locks or request.kind is not OTHER
            lock = account.about.get(request.id)
            if request.kind is not UNLOCK or lock is None:
                ledger.abandon(request.id, account.worker)
            elif self._enabled and lock.master_id is not None and master_of(database):
                lock.is_unwanted = True
                ledger.own[request.id] = lock  # the master was asked; the answer ends here
            else:
                locks.append(lock)
        for request_id in account.resent:
            ledger.abandon(request_id, account.worker)
        if not self._enabled:
            for lock in locks:
                ledger.forget(lock)
            return False
        if locks:
            if worker.state is not SessionState.RESTORED:  # that was reported when it was restored
                first = locks[0].details
                name, client_id = database.name, worker.client_id
                self._observer.report(
                    LocksFreed(name, client_id, len(locks), first.path, first.comment)
                )
            if any(each.details.write for each in locks):
                self.own.invalidate_caches(worker)
        for lock in locks:
            self.own.release(database, ledger, lock)
        return bool(locks or account.own) or is_about_locks

    def master_arrived(self, master: Peer, queue: MessageQueue) -> None:
        """Tell *master* what it may not know; see :meth:`MasterArrivals.arrived`."""
        master.database.masters += 1
        if self._journal is not None:
            self._journal.master_arrived(master.database.name)
            if master.database.ledger is not None:
                self._rename_unwanted(self._journal, master.database.ledger)
        if self._enabled:
            self._arrivals.arrived(master, queue)

    def _rename_unwanted(self, journal: Journal, ledger: Ledger) -> None:
        """Note the locks that are to be released under other ids.

        A new process may grant their holders, which have released them, others of the same ids.
        """
        for lock in (*ledger.own.values(), *ledger.unwanted):
            if lock.is_unwanted and lock.worker:
                former, lock.id = lock.id, self.sessions.new_id()
                journal.locked(lock.worker, lock.id, lock.former_id, lock.granted)
                journal.released(lock.worker, former)
