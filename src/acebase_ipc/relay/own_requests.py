"""Requests that the relay itself makes to a master, in the name of workers.

It asks a master to release a lock that nobody holds any more. It asks a master that has
arrived whether it has each lock, and then for the lock itself. The first answer shows whether
it is the former process. Where it does not, the ids of locks do: they count from 1 in each
process, so a higher id than ever before is one of the same process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.locks import (
    LockDetails,
    done,
    failure,
    has_failed,
    invalidate_caches,
    is_about_unknown_lock,
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
from acebase_ipc.relay.events import Observer, ReleaseFailed
from acebase_ipc.relay.journal import Journal
from acebase_ipc.relay.ledger import MAX_OWN, Account, Ledger, Lock
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.peers import FILES, Database, Peer

_PROOF: Final = 100
"""If the highest id was lower than this, a higher one does not show that the process is the same:
a new one may have granted as many."""


class OwnRequests:
    """Makes requests to masters, and acts on the answers.

    :ivar clock: returns monotonic seconds.
    :ivar prefix: the beginning of the ids of its requests.
    :ivar number: the number of the next one.
    """

    def __init__(
        self,
        delivery: Delivery,
        budget: MemoryBudget,
        observer: Observer,
        clock: Callable[[], float],
        journal: Journal | None,
    ) -> None:
        self._delivery = delivery
        self._budget = budget
        self._observer = observer
        self.clock = clock
        self._journal = journal
        self.go_on(b"relay-%b" % secrets.token_hex(4).encode(), 0)

    def go_on(self, prefix: bytes, number: int) -> None:
        """Give the next requests ids with this *prefix*, and numbers from *number* on."""
        self.prefix = prefix
        self._search_prefix = prefix + b"?"
        self.number = number

    def send(self, peer: Peer, text: bytes, sender: Peer | None = None) -> None:
        """Send *peer* an envelope, rendered for its dialect."""
        self._delivery.send(peer, Message(render(text, peer.dialect)), sender)

    def is_own(self, request_id: bytes) -> bool:
        """Return whether this is the id of a request of this relay."""
        return request_id.startswith(self.prefix)

    def is_search(self, request_id: bytes) -> bool:
        """Return whether this is the id of a question of :meth:`ask_about`."""
        return request_id.startswith(self._search_prefix)

    def ledger(self, database: Database) -> Ledger:
        """Return the ledger of *database*, which is made when it is needed first."""
        ledger = database.ledger
        if ledger is None:
            ledger = database.ledger = Ledger(self._budget, self._journal)
        return ledger

    # Locks that nobody holds any more

    def release(self, database: Database, ledger: Ledger, lock: Lock) -> None:
        """Release *lock*, which its holder does not release: now, or when there is a master."""
        master = master_of(database)
        if master is not None and lock.master_id is not None:
            self.send(master, self.begin_release(ledger, lock, lock.master_id))
            return
        lock.is_unwanted = True
        if master is None:
            ledger.keep_unwanted(lock)
        elif not lock.is_probed:
            ledger.forget(lock)  # the master has refused to grant it again

    def begin_release(self, ledger: Ledger, lock: Lock, master_id: int) -> bytes:
        """Return the request that asks the present master to release *lock*, to be sent now.

        :param master_id: its id there.
        """
        lock.is_unwanted = True
        return unlock_request(self._begin(ledger, lock), lock.holder, master_id)

    def release_unasked(
        self, database: Database, holder: bytes, lock_id: int, granted: bytes, worker: int = 0
    ) -> None:
        """Release a lock that the master has granted to *holder*, which does not wait for it.

        :param worker: the holder's number in the journal; 0 if it is not there.
        """
        ledger = self.ledger(database)
        ledger.highest = max(ledger.highest, lock_id)
        for asked in ledger.questions.values():
            if asked.former_id == lock_id:
                asked.is_unknown = True  # a process that has counted up to this id itself
        lock = Lock(lock_id, holder.decode(), granted, self.clock(), worker)
        if self._journal is not None and worker:
            self._journal.locked(worker, lock_id, lock_id, granted)
        ledger.count(granted)
        self.release(database, ledger, lock)

    def _begin(self, ledger: Ledger, lock: Lock) -> bytes:
        """Return the id of a request for *lock*, or to release it."""
        request_id = self._new_id()
        ledger.own[request_id] = lock
        if len(ledger.own) > MAX_OWN:
            ledger.drop_unwanted()
        return request_id

    def _new_id(self) -> bytes:
        """Return the id of a request, as long as those of published clients."""
        return self.prefix + b"-%09d" % self._next()

    def _next(self) -> int:
        self.number += 1
        return self.number - 1

    # Locks that a master may not know

    def ask(self, master: Peer, ledger: Ledger, lock: Lock) -> None:
        """Ask *master*, which has just arrived, whether it has *lock*: to move it to the parent.

        The answer names the lock's transaction, which a new process does not know. To be moved
        changes nothing, because the path of a lock means nothing to a master.
        """
        if lock.master_id is not None:
            lock.former_id = lock.master_id
            lock.master_id = None
            lock.is_probed = True
        lock.is_unknown = False
        if lock.is_probed:
            request_id = self._new_id()
            ledger.questions[request_id] = lock
            self.send(master, move_request(request_id, lock.holder, lock.former_id))

    def ask_about(self, master: Peer, worker: str, lock_id: int) -> bytes:
        """Ask *master* in the name of *worker* whose lock has this id, by a move to the parent.

        :returns: the id of the request.
        """
        request_id = self._search_prefix + b"%09d" % self._next()
        self.send(master, move_request(request_id, worker, lock_id))
        return request_id

    def answered_question(
        self, database: Database, ledger: Ledger, lock: Lock, body: bytes
    ) -> None:
        """Note whether the master has *lock*.

        An answer that shows neither leaves it to the ids of locks.
        """
        lock_id = read_lock_id(body)
        if not lock.is_probed:
            return
        if lock.is_unknown:
            pass
        elif lock_id is None:
            lock.is_unknown = is_about_unknown_lock(body)
        elif lock_id == lock.former_id and read_details(body).tid == lock.details.tid:
            self._delivery.release(database, FILES)  # it is the same process
            self._confirm(database, ledger, lock, lock_id)
        else:
            lock.is_unknown = True
        if lock.is_unknown:
            self._answer_waiting(database, lock)

    def ask_who(self, master: Peer, ledger: Ledger) -> None:
        """Ask *master*, which has just arrived, for a lock that nobody needs.

        Its id shows whether it is the former process, which has opened its files already.
        """
        if ledger.former_highest < _PROOF:
            return  # then it would show nothing
        holder = self.prefix.decode()
        details = LockDetails("", holder, False, "acebase-ipc")
        lock = Lock(0, holder, lock_request(self._new_id(), holder, details), self.clock())
        lock.master_id = None
        lock.is_probed = lock.is_unknown = lock.is_unwanted = True
        self.probe(master, ledger, lock)

    def probe(self, master: Peer, ledger: Ledger, lock: Lock) -> None:
        """Ask *master*, which may not have *lock*, to grant it."""
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
            if has_failed(body):
                path, comment = lock.details.path, lock.details.comment
                self._observer.report(ReleaseFailed(database.name, lock.holder, path, comment))
            ledger.forget(lock)
            return
        lock_id = read_lock_id(body)
        if lock_id is None:
            if lock.is_probed:
                self._give_up(database, ledger, lock)
            return
        if ledger.is_same_process is None:
            ledger.is_same_process = lock_id > ledger.former_highest >= _PROOF
            if ledger.is_same_process:
                self._delivery.release(database, FILES)
            for each in [lock, *ledger.own.values()]:
                if not each.is_probed or each.is_unknown:
                    continue
                if ledger.is_same_process:
                    self._confirm(database, ledger, each, each.former_id)
                else:
                    self._answer_waiting(database, each)
        if lock.is_probed:
            ledger.highest = max(ledger.highest, lock_id)
            self._confirm(database, ledger, lock, lock_id)
        else:
            self.release_unasked(database, lock.holder.encode(), lock_id, body)

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
                asked = holder.account.requests.get(lock.release)
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
        account.ledger.abandon(request_id)
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
