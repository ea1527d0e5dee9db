"""What a master is told when it arrives: locks first, then requests, then what has waited.

It may be a new process, or the former one with a new connection: the handshake does not show
it, the answers do (:mod:`acebase_ipc.relay.own_requests`).
"""

from __future__ import annotations

from acebase_ipc.protocol.locks import (
    LOCK,
    MOVE,
    OTHER,
    UNLOCK,
    is_repeatable,
    read_lock_id,
    read_request,
)
from acebase_ipc.protocol.messages import Message, render
from acebase_ipc.relay.events import MasterRecovered, Observer
from acebase_ipc.relay.ledger import Account, Lock, Request
from acebase_ipc.relay.lost_locks import LostLocks
from acebase_ipc.relay.own_requests import OwnRequests
from acebase_ipc.relay.peers import Database, Peer
from acebase_ipc.relay.queue import MessageQueue

Asked = tuple[Peer, Account, Request]
"""An open request, and who has made it."""


class MasterArrivals:
    """Takes up what a former master has left undone."""

    def __init__(self, own: OwnRequests, lost: LostLocks, observer: Observer) -> None:
        self._own = own
        self._lost = lost
        self._observer = observer

    def arrived(self, master: Peer, queue: MessageQueue) -> None:
        """Tell *master* of all locks, then of the requests that the former one was handed.

        :param queue: the messages that it receives next. Those about locks are removed that
            are settled here, and requests that are not about locks are added.
        """
        database, ledger = master.database, master.database.ledger
        if ledger is None:
            return
        if ledger.highest:
            ledger.former_highest, ledger.highest = ledger.highest, 0
        ledger.is_same_process = None
        asked: list[Asked] = []
        held: list[Lock] = []
        released: list[Lock] = []
        for worker in database.peers.values():
            account = worker.account
            if account is not None and worker is not master:
                account.settle_locks()
                account.forget_resent()
                asked += [(worker, account, each) for each in account.open_requests()]
                held += account.locks.values()
                released += account.about.values()
        waiting = self._take_back(database, queue, asked)
        unanswered = [
            each for each in asked if each[2].id not in waiting and not self._settle(*each)
        ]
        # Those that are held come first: a lock that is not needed any more may have to wait.
        locks = dict.fromkeys((*held, *released, *ledger.take_unsettled()))
        lost = ledger.lost + [(each.holder, each.granted) for each in locks if each.is_probed]
        ledger.lost = []
        if ledger.asks_who and not locks:
            self._own.ask_who(master, ledger)
        ledger.asks_who = False
        for lock in locks:
            self._own.ask(master, ledger, lock)
        for lock in locks:
            self._own.probe(master, ledger, lock)
        for worker, account, request in sorted(unanswered, key=lambda each: each[2].since):
            account.resent.add(request.id)
            if request.kind is OTHER:
                queue.append(Message(render(request.body, master.dialect)), worker)
            else:
                self._own.send(master, request.body, worker)
            if request.kind is LOCK:
                lost.append((worker.client_id, request.body))
        self._lost.master_arrived(database, lost)
        if locks or unanswered:
            name, client_id = database.name, master.client_id
            self._observer.report(MasterRecovered(name, client_id, len(locks), len(unanswered)))

    def _take_back(self, database: Database, queue: MessageQueue, asked: list[Asked]) -> set[bytes]:
        """Remove from *queue* what is about locks of a former master, and the relay's requests.

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
            if (kind is UNLOCK or kind is MOVE) and database.masters > 1:
                return True
            waiting.add(request_id)
            return False

        queue.discard_if(is_settled)
        return waiting

    def _settle(self, worker: Peer, account: Account, request: Request) -> bool:
        """Answer what must not be asked a second time, or leave it to what a probe shows.

        :returns: ``False`` for a request that the master is sent again.
        """
        if request.kind is OTHER and not is_repeatable(request.body):
            self._own.answer_done(worker, account, request.id)
            return True
        if worker.database.masters <= 1 or request.kind not in (MOVE, UNLOCK):
            return False
        if request.kind is MOVE:
            self._own.answer_move(worker, account, request.id)
        elif request.id not in account.about:
            lock_id = read_lock_id(request.body) or 0
            self._own.answer_release(worker, account, request.id, lock_id)
        return True
