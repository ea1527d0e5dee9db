"""Requests that the relay itself makes to a master, in the name of workers.

It asks a master to release a lock that nobody holds any more, and asks a master that has
arrived for each lock that is held: the answer shows whether it is a new process. Lock ids
count from 1 in each process, so a higher id than ever before is one of the same process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import count
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.locks import (
    done,
    failure,
    invalidate_caches,
    lock_request,
    move_request,
    moved_to_parent,
    read_details,
    read_lock_id,
    unlock_request,
    unlock_result,
)
from acebase_ipc.protocol.messages import MASTER, Message, render
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.journal import Journal
from acebase_ipc.relay.ledger import Account, Ledger, Lock
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.peers import Database, Peer

_PROOF: Final = 100
"""If the highest id was lower than this, a higher one does not show that the process is the same:
a new one may have granted as many."""

_MAX_SEARCH: Final = 1_000
"""Lock ids that a master is asked about to find locks whose ids were lost with a relay."""


class OwnRequests:
    """Makes requests to masters, and acts on the answers.

    :param clock: returns monotonic seconds.
    """

    def __init__(
        self,
        delivery: Delivery,
        budget: MemoryBudget,
        clock: Callable[[], float],
        journal: Journal | None,
    ) -> None:
        self._delivery = delivery
        self._budget = budget
        self._clock = clock
        self._journal = journal
        self._prefix = b"relay-%b-" % secrets.token_hex(4).encode()
        self._numbers = count()

    def send(self, peer: Peer, text: bytes, sender: Peer | None = None) -> None:
        """Send *peer* an envelope, rendered for its dialect."""
        self._delivery.send(peer, Message(render(text, peer.dialect)), sender)

    def is_own(self, request_id: bytes) -> bool:
        """Return whether this is the id of a request of this relay."""
        return request_id.startswith(self._prefix)

    def ledger(self, database: Database) -> Ledger:
        """Return the ledger of *database*, which is made when it is needed first."""
        ledger = database.ledger
        if ledger is None:
            ledger = database.ledger = Ledger(self._budget, self._journal)
        return ledger

    # Locks that nobody holds any more

    def release(self, database: Database, ledger: Ledger, lock: Lock) -> None:
        """Release *lock*, which its holder does not release: now, or when there is a master."""
        lock.is_unwanted = True
        master = master_of(database)
        if master is None:
            ledger.keep_unwanted(lock)
        elif lock.master_id is not None:
            request_id = self._begin(ledger, lock)
            self.send(master, unlock_request(request_id, lock.holder, lock.master_id))
        elif not lock.is_probed:
            ledger.forget(lock)  # the master has refused to grant it again

    def release_unasked(
        self, database: Database, holder: bytes, lock_id: int, granted: bytes, worker: int = 0
    ) -> None:
        """Release a lock that the master has granted to *holder*, which does not wait for it.

        :param worker: the holder's number in the journal; 0 if it is not there.
        """
        ledger = self.ledger(database)
        ledger.highest = max(ledger.highest, lock_id)
        lock = Lock(lock_id, holder.decode(), granted, self._clock(), worker)
        if self._journal is not None and worker:
            self._journal.locked(worker, lock_id, lock_id, granted)
        ledger.count(granted)
        self.release(database, ledger, lock)

    def _begin(self, ledger: Ledger, lock: Lock) -> bytes:
        """Return the id of a request about *lock*; as long as those of published clients."""
        request_id = self._prefix + b"%09d" % next(self._numbers)
        ledger.own[request_id] = lock
        return request_id

    # Locks that a master may not know

    def probe(self, master: Peer, ledger: Ledger, lock: Lock) -> None:
        """Ask *master*, which has just arrived, for *lock* once more."""
        if lock.master_id is not None:
            lock.former_id = lock.master_id
            lock.master_id = None
            lock.is_probed = True
        if lock.is_probed:
            lock.probe = self._begin(ledger, lock)
            self.send(master, lock_request(lock.probe, lock.holder, lock.details))

    def answered(
        self, database: Database, ledger: Ledger, lock: Lock, may_grant: bool, body: bytes
    ) -> None:
        """Note the answer to a request about *lock*.

        :param may_grant: whether that asked for the lock; otherwise it released it.
        """
        if not may_grant:
            ledger.forget(lock)
            return
        lock_id = read_lock_id(body)
        if lock.is_doubtful:
            lock.is_doubtful = False
            tid = read_details(body).tid
            if lock_id == lock.id and (tid == lock.details.tid or tid in ledger.lost):
                self.release(database, ledger, lock)
            else:
                ledger.forget(lock)
            ledger.doubts -= 1
            if not ledger.doubts:
                ledger.lost.clear()
            return
        if lock_id is None:
            if lock.is_probed:
                self._give_up(database, ledger, lock)
            return
        if ledger.is_same_process is None:
            ledger.is_same_process = lock_id > ledger.former_highest >= _PROOF
            if ledger.lost:
                self._search(database, ledger, lock_id)
            for each in [lock, *ledger.own.values()]:
                if each.is_probed and ledger.is_same_process:
                    if each.former_id:
                        self._confirm(database, ledger, each, each.former_id)
                elif each.is_probed:
                    self._answer_waiting(database, each)
        if lock.is_probed:
            ledger.highest = max(ledger.highest, lock_id)
            if lock.former_id and lock_id > ledger.former_highest:
                self._doubt(database, ledger, lock)
            self._confirm(database, ledger, lock, lock_id)
        else:
            self.release_unasked(database, lock.holder.encode(), lock_id, body)

    def _doubt(self, database: Database, ledger: Ledger, lock: Lock) -> None:
        """Find out whether the master, which passes for a new process, has the former lock still.

        If it moves it, that lock is released: otherwise it would stay until it expires. To be
        moved changes nothing, because the path of a lock means nothing to a master.
        """
        master = master_of(database)
        if master is not None:
            former = Lock(lock.former_id, lock.holder, lock.granted, lock.since)
            self._ask_whose(master, ledger, former)

    def _ask_whose(self, master: Peer, ledger: Ledger, lock: Lock) -> None:
        lock.is_unwanted = lock.is_doubtful = True
        ledger.doubts += 1
        ledger.count(lock.granted)
        self.send(master, move_request(self._begin(ledger, lock), lock.holder, lock.id))

    def _search(self, database: Database, ledger: Ledger, below: int) -> None:
        """Find the locks of the transactions in ``ledger.lost`` that the master has.

        AceBase counts the ids of locks as they are requested, so each of them is above what was
        granted before its request, and below what is granted now. A new process has none.

        :param below: the id of the lock that the master has just granted.
        """
        master = master_of(database)
        if master is not None and below > ledger.former_highest:
            above = max(min(ledger.lost.values()), below - 1 - _MAX_SEARCH)
            known = {each.former_id for each in ledger.own.values()}
            for account in ledger.accounts:
                known.update(account.granted, (each.former_id for each in account.locks.values()))
            for lock_id in sorted({*range(above + 1, below)} - known):
                self._ask_whose(master, ledger, Lock(lock_id, MASTER.decode(), b"", self._clock()))
        if not ledger.doubts:
            ledger.lost.clear()

    def _confirm(self, database: Database, ledger: Ledger, lock: Lock, master_id: int) -> None:
        """Note by which id the master knows *lock*, and release it if nobody needs it."""
        if self._journal is not None and lock.worker and master_id != lock.former_id:
            self._journal.confirmed(lock.worker, lock.id, master_id)
        lock.master_id = lock.former_id = master_id
        lock.is_probed = False
        if lock.is_unwanted:
            self.release(database, ledger, lock)
        elif lock.release is not None:  # the master has perhaps done that already
            holder, master = database.peers.get(lock.holder.encode()), master_of(database)
            if holder is not None and holder.account is not None and master is not None:
                holder.account.resent.add(lock.release)
                asked = holder.account.requests[lock.release]
                if asked is not None:
                    self.send(master, lock.translate(asked[0]), holder)

    def _answer_waiting(self, database: Database, lock: Lock) -> None:
        """Tell the holder of *lock*, a lock of the former master, that it is released."""
        request_id, lock.release = lock.release, None
        holder = database.peers.get(lock.holder.encode())
        if request_id is not None and holder is not None and holder.account is not None:
            lock.is_unwanted = True
            self.answer_release(holder, holder.account, request_id, lock.id)

    def _give_up(self, database: Database, ledger: Ledger, lock: Lock) -> None:
        """Note that the master refuses to grant *lock*: it has no such lock."""
        lock.is_probed = False
        self._answer_waiting(database, lock)
        if lock.is_unwanted:
            ledger.forget(lock)

    # What the relay sends to workers

    def answer_release(
        self, worker: Peer, account: Account, request_id: bytes, lock_id: int
    ) -> None:
        """Tell *worker* that a lock is released which the master does not have."""
        account.close(request_id)
        self.send(worker, unlock_result(request_id, worker.client_id, lock_id))

    def answer_done(self, worker: Peer, account: Account, request_id: bytes) -> None:
        """Tell *worker* that the master has done what it must not be asked for twice."""
        account.close(request_id)
        self.send(worker, done(request_id, worker.client_id))

    def invalidate_caches(self, gone: Peer) -> None:
        """Tell all other AceBase peers that *gone* may have left a node half written."""
        message = Message(invalidate_caches(gone.client_id))
        for peer in gone.database.peers.values():
            if peer is not gone and peer.dialect is ACEBASE:
                self._delivery.send(peer, message)

    def answer_move(self, worker: Peer, account: Account, request_id: bytes) -> None:
        """Tell *worker* that its lock is one of the parent node now: while held, it always can."""
        lock = account.close(request_id)
        account.ledger.note_move(request_id)
        if lock is None:
            text = failure(request_id, worker.client_id, "The lock is not known")
        else:
            text = moved_to_parent(request_id, worker.client_id, lock.id, lock.granted)
            account.ledger.regrant(lock, text)
        self.send(worker, text)


def master_of(database: Database) -> Peer | None:
    """Return the master of *database* if it is connected."""
    master = database.peers.get(MASTER)
    return None if master is None or master.connection is None else master
