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
from itertools import count
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.locks import (
    MOVE,
    OTHER,
    UNLOCK,
    is_repeatable,
    read_answer,
    read_lock_id,
    read_request,
    unlock_result,
    with_lock_id,
)
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.events import LocksFreed, MasterRecovered, Observer, TooManyRequests
from acebase_ipc.relay.ledger import MAX_RECORDS, Account, Lock, Request
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.own_requests import OwnRequests, master_of
from acebase_ipc.relay.peers import Database, Peer
from acebase_ipc.relay.queue import MessageQueue

_OWN_LOCK_IDS: Final = 2**40
"""The relay's own ids of locks begin here: AceBase counts from 1 in each process."""


class LockRecovery:
    """Keeps the ledgers, and settles them when a worker or a master comes or goes.

    :param clock: returns monotonic seconds.
    :param enabled: whether anything is recovered; the ledgers are kept nevertheless.
    """

    def __init__(
        self,
        delivery: Delivery,
        budget: MemoryBudget,
        observer: Observer,
        clock: Callable[[], float],
        enabled: bool,
    ) -> None:
        self._delivery = delivery
        self._budget = budget
        self._observer = observer
        self._clock = clock
        self._enabled = enabled
        self._own = OwnRequests(delivery, budget, clock)
        self._lock_ids = count(_OWN_LOCK_IDS)

    # Requests

    def requested(self, worker: Peer, master: Peer | None, body: bytes) -> bytes | None:
        """Note what *worker* asks of the master.

        :param master: the peer that is the master, if there is one.
        :returns: what the master has to receive; ``None`` if it receives nothing.
        """
        found = read_request(body)
        if found is None:
            return body
        kind, request_id = found
        account = worker.account or self._open(worker)
        requests = account.requests
        if request_id in requests:
            return body  # a defect of the client
        if len(requests) + len(account.locks) >= MAX_RECORDS:
            name = worker.database.name
            self._observer.report(TooManyRequests(name, worker.client_id, MAX_RECORDS))
            self._delivery.cut(worker)
            return None
        ledger = account.ledger
        request = Request(kind, request_id, body, self._clock(), ledger.next_number())
        requests[request_id] = request
        ledger.count(body)
        if self._budget.is_due:
            self._delivery.enforce_memory_limit()
        if kind is UNLOCK:
            return self._asked_to_release(worker, master, account, request)
        if kind is MOVE:
            return self._asked_to_move(worker, master, account, request)
        return body

    def _open(self, worker: Peer) -> Account:
        account = worker.account = Account(self._own.ledger(worker.database))
        return account

    def _asked_to_release(
        self, worker: Peer, master: Peer | None, account: Account, request: Request
    ) -> bytes | None:
        lock_id = read_lock_id(request.body) or 0
        lock = request.lock = account.locks.pop(lock_id, None)
        if not self._enabled:
            return request.body
        if lock is None:
            if worker.database.masters <= 1:
                return request.body  # the relay may be younger than the lock
            self._own.answer_release(worker, account, request, lock_id)  # of a former master
            return None
        lock.release = request
        if master is None or master.connection is None:
            return None  # a master that arrives is asked for the lock first
        if lock.master_id is not None:
            return lock.translate(request.body)
        if not lock.is_probed:  # the master has refused to grant it again
            account.ledger.forget(lock)
        elif account.ledger.is_same_process is None:
            return None
        lock.is_unwanted = True
        self._own.answer_release(worker, account, request, lock_id)
        return None

    def _asked_to_move(
        self, worker: Peer, master: Peer | None, account: Account, request: Request
    ) -> bytes | None:
        lock = request.lock = account.locks.get(read_lock_id(request.body) or 0)
        if not self._enabled:
            return request.body
        if lock is None:
            is_passed = worker.database.masters <= 1
        else:
            is_there = master is not None and master.connection is not None
            is_passed = is_there and lock.master_id == lock.id
        if is_passed:
            return request.body
        self._own.answer_move(worker, account, request)
        return None

    # Answers

    def answered(
        self, database: Database, worker: Peer | None, addressee: bytes, body: bytes
    ) -> bytes | None:
        """Note what the master answers.

        :param worker: the peer with the id *addressee*, if there is one.
        :returns: what that has to receive; ``None`` if it must not receive this answer.
        """
        found = read_answer(body)
        if found is None:
            return body
        may_grant, request_id = found
        account = None if worker is None else worker.account
        request = None if account is None else account.requests.pop(request_id, None)
        if worker is None or account is None or request is None:
            if not self._enabled:
                return body
            return self._answered_unasked(database, worker, addressee, request_id, may_grant, body)
        account.ledger.discount(request.body)
        account.remember(request_id)
        if may_grant:
            return self._granted(worker, account, request, body)
        if request.lock is not None:
            return self._released(worker, account, request, request.lock, body)
        return body

    def _granted(self, worker: Peer, account: Account, request: Request, body: bytes) -> bytes:
        lock_id = read_lock_id(body)
        moved = request.lock
        if moved is not None and account.locks.get(moved.id) is moved:
            if lock_id == moved.master_id:
                account.ledger.regrant(moved, body)
                return body
            del account.locks[moved.id]
            if lock_id is None and self._enabled:
                self._own.release(worker.database, account.ledger, moved)  # the holder forgets it
            else:
                account.ledger.forget(moved)  # the master has granted another in its place
        if lock_id is None:
            return body
        return self._add_lock(worker, account, lock_id, body)

    def _add_lock(self, worker: Peer, account: Account, lock_id: int, body: bytes) -> bytes:
        ledger, known_id = account.ledger, lock_id
        if lock_id > ledger.highest:
            ledger.highest = lock_id
        if lock_id in account.locks:
            if self._enabled:  # a lock of the former master has this id
                known_id = next(self._lock_ids)
                body = with_lock_id(body, known_id)
            else:
                ledger.forget(account.locks[lock_id])
        account.locks[known_id] = Lock(known_id, lock_id, worker.client_id, body, self._clock())
        ledger.count(body)
        return body

    def _released(
        self, worker: Peer, account: Account, request: Request, lock: Lock, body: bytes
    ) -> bytes:
        account.ledger.forget(lock)
        if lock.master_id == lock.id and request.id not in account.resent:
            return body
        # Sent again, it fails if the master has released the lock already.
        return unlock_result(request.id, worker.client_id, lock.id)

    def _answered_unasked(
        self,
        database: Database,
        worker: Peer | None,
        addressee: bytes,
        request_id: bytes,
        may_grant: bool,
        body: bytes,
    ) -> bytes | None:
        """Note an answer that the peer *addressee* does not wait for, as far as is known."""
        ledger = database.ledger
        own = None if ledger is None else ledger.own.pop(request_id, None)
        if ledger is not None and own is not None:
            self._own.answered(database, ledger, own, may_grant, body)
            return None
        lock_id = read_lock_id(body) if may_grant else None
        account = None if worker is None else worker.account
        if ledger is not None and request_id in ledger.abandoned:
            del ledger.abandoned[request_id]
            is_awaited = False
        else:
            is_awaited = account is None or not account.has_answered(request_id)
        if lock_id is not None:
            if worker is None or not is_awaited:
                if account is None or not account.holds(lock_id):
                    self._own.release_unasked(database, addressee, lock_id, body)
            elif worker.dialect is ACEBASE:  # the relay is younger than the request
                return self._add_lock(worker, account or self._open(worker), lock_id, body)
        return body if is_awaited else None

    # Departures and arrivals

    def worker_gone(self, worker: Peer) -> bool:
        """Release the locks of *worker*, which has left, and close its open requests.

        :returns: whether it must not go on: it had locks, or waits for an answer about some.
        """
        account, worker.account = worker.account, None
        if account is None:
            return False
        database, ledger = worker.database, account.ledger
        is_about_locks = any(each.kind is not OTHER for each in account.requests.values())
        locks = list(account.locks.values())
        for request in account.requests.values():
            ledger.discount(request.body)
            if request.kind is UNLOCK and request.lock is not None:
                if self._is_forwarded(database, request.lock):
                    request.lock.is_unwanted = True
                    ledger.own[request.id] = request.lock  # the answer ends in the relay
                else:
                    locks.append(request.lock)
            else:
                ledger.abandon(request.id)
        for request_id in account.resent:
            ledger.abandon(request_id)
        if locks and self._enabled:
            self._report_freed(worker, locks)
            if any(each.details.write for each in locks):
                self._own.invalidate_caches(worker)
        for lock in locks:
            if self._enabled:
                self._own.release(database, ledger, lock)
            else:
                ledger.forget(lock)
        return self._enabled and (bool(locks) or is_about_locks)

    def _is_forwarded(self, database: Database, lock: Lock) -> bool:
        """Return whether the master was sent the holder's request to release *lock*."""
        return self._enabled and lock.master_id is not None and master_of(database) is not None

    def _report_freed(self, worker: Peer, locks: list[Lock]) -> None:
        first = locks[0].details
        self._observer.report(
            LocksFreed(
                worker.database.name, worker.client_id, len(locks), first.path, first.comment
            )
        )

    def master_arrived(self, master: Peer, queue: MessageQueue) -> None:
        """Tell *master* of all locks, then of the requests that the former one was handed.

        The master may be a new process, or the former one with a new connection.

        :param queue: the messages that it receives next. Those about locks are removed that
            are settled here.
        """
        database = master.database
        database.masters += 1
        ledger = database.ledger
        if ledger is None or not self._enabled:
            return
        if ledger.highest:
            ledger.former_highest, ledger.highest = ledger.highest, 0
        ledger.is_same_process = None
        asked: dict[bytes, tuple[Peer, Request]] = {}
        locks: dict[Lock, None] = {}  # those that are held come first
        for worker in database.peers.values():
            account = worker.account
            if account is not None and worker is not master:
                account.forget_resent()
                locks.update(dict.fromkeys(account.locks.values()))
                asked.update((each.id, (worker, each)) for each in account.requests.values())
        for _, request in asked.values():
            if request.kind is UNLOCK and request.lock is not None:
                locks[request.lock] = None
        locks.update(dict.fromkeys(ledger.take_unsettled()))
        waiting = self._take_back(database, queue, asked)
        unanswered = [
            (worker, request)
            for request_id, (worker, request) in asked.items()
            if request_id not in waiting and not self._settle(worker, request)
        ]
        for lock in locks:
            self._own.probe(master, ledger, lock)
        for worker, request in sorted(unanswered, key=lambda each: each[1].number):
            if worker.account is not None:
                worker.account.resent.add(request.id)
                self._own.send(master, request.body, worker)
        if locks or unanswered:
            name, client_id = database.name, master.client_id
            self._observer.report(MasterRecovered(name, client_id, len(locks), len(unanswered)))

    def _take_back(
        self, database: Database, queue: MessageQueue, asked: dict[bytes, tuple[Peer, Request]]
    ) -> set[bytes]:
        """Remove from *queue* what is about locks of a former master, and the relay's requests.

        :param asked: the open requests of all workers by id.
        :returns: the ids of the requests that go on waiting there.
        """
        waiting = set()

        def is_settled(message: Message, sender: object) -> bool:
            found = read_request(message.text)
            if found is None:
                return False
            kind, request_id = found
            if self._own.is_own(request_id):
                return True
            if kind is UNLOCK or kind is MOVE:
                request = asked[request_id][1] if request_id in asked else None
                if database.masters > 1 or (request is not None and request.lock is not None):
                    return True
            waiting.add(request_id)
            return False

        queue.discard_if(is_settled)
        return waiting

    def _settle(self, worker: Peer, request: Request) -> bool:
        """Answer what must not be asked a second time, or leave it to what a probe shows.

        :returns: ``False`` for a request that the master is sent again.
        """
        account = worker.account
        if account is None:
            return False
        if request.kind is OTHER and not is_repeatable(request.body):
            self._own.answer_done(worker, account, request)
            return True
        is_unknown = request.lock is None and worker.database.masters <= 1
        if is_unknown or request.kind not in (MOVE, UNLOCK):
            return False
        if request.kind is MOVE:
            self._own.answer_move(worker, account, request)
        elif request.lock is None:
            lock_id = read_lock_id(request.body) or 0
            self._own.answer_release(worker, account, request, lock_id)
        return True
