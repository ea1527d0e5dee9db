"""Waits for a moment in which nothing is under way between the processes of a database.

What the npm package acebase sends while it has no connection is lost, and its requests have no
timeouts: a worker whose connection is closed in the middle of a transaction hangs. A worker that
waits for the answer to a request sends nothing. So requests that begin something new are
withheld from the master, and everything else goes on until it has ended. The connections can be
closed then. The requests are delivered later: by this relay, or by the one that goes on with its
state.

Measured with acebase 1.29.13 and 4 workers that write without a pause: quiet after 0.12 s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.locks import (
    LOCK,
    failure,
    is_about_files,
    is_lock_request,
    read_details,
    read_request,
    tid_member,
)
from acebase_ipc.protocol.messages import MASTER, Message
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.events import NotQuiet, Observer
from acebase_ipc.relay.ledger import Account
from acebase_ipc.relay.peers import BEGINNINGS, FILES, Database, Peer
from acebase_ipc.relay.queue import MessageQueue

SILENCE: Final = 0.1
"""Seconds without a message after which a database is quiet: events follow a lock's release."""

NOISE: Final = 0.5
"""Seconds after which it is quiet without that silence: processes that send notifications all the
time, or are no AceBase processes, must not let all others wait."""

_NAMED: Final = 5
"""Peers of a database that a warning is given about at most."""


@dataclass(slots=True)
class _Waiting:
    """What is known of a database that is to become quiet.

    :ivar since: when that began, in monotonic seconds.
    :ivar received: the messages of its peers so far.
    :ivar silent_since: when the last of them had come.
    :ivar ended_since: since when nobody has a lock or an open request; ``None`` if somebody has.
    :ivar tids: the transactions whose first request is withheld.
    """

    since: float
    received: int
    silent_since: float
    ended_since: float | None = None
    tids: set[bytes] = field(default_factory=set)


class Quiesce:
    """Withholds what begins something new, and tells when nothing is under way any more.

    :ivar timeout: seconds after which it is not waited for any longer.
    """

    def __init__(self, delivery: Delivery, timeout: float, observer: Observer) -> None:
        self._delivery = delivery
        self.timeout = timeout
        self._observer = observer
        self._waiting: dict[Database, _Waiting] = {}

    def begin(self, databases: Iterable[Database], now: float) -> None:
        """Withhold requests that begin something new in *databases*, until :meth:`end`.

        :param now: monotonic seconds.
        """
        for database in databases:
            if database not in self._waiting and _has_work(database):
                self.adopt(database, now)

    def includes(self, database: Database) -> bool:
        """Return whether *database* is to become quiet."""
        return database in self._waiting

    def adopt(self, database: Database, now: float) -> None:
        """Withhold what another relay has withheld, until :meth:`end`."""
        database.withheld |= BEGINNINGS
        self._waiting[database] = _Waiting(now, _received(database), now)

    def is_quiet(self, now: float) -> bool:
        """Return whether nothing is under way in any of the databases, or it has taken too long.

        To be called every few hundredths of a second after :meth:`begin`.

        :param now: monotonic seconds.
        """
        is_quiet = True
        for database, waiting in self._waiting.items():
            received = _received(database)
            if received != waiting.received:
                waiting.received, waiting.silent_since = received, now
            if now >= waiting.since + self.timeout or not _has_work(database):
                continue
            if not _has_ended(database):
                waiting.ended_since = None
                is_quiet = False
                continue
            if waiting.ended_since is None:
                waiting.ended_since = now
            is_silent = now >= waiting.silent_since + SILENCE
            is_quiet = is_quiet and (is_silent or now >= waiting.ended_since + NOISE)
        return is_quiet

    def report_unfinished(self, now: float) -> None:
        """Report what is under way although :meth:`is_quiet` is true.

        :param now: monotonic seconds.
        """
        for database in self._waiting:
            busy = _busy(database) if _has_work(database) else []
            for peer, account in busy[:_NAMED]:
                self._report(peer, account, len(busy), now)

    def _report(self, peer: Peer, account: Account, busy: int, now: float) -> None:
        held = [(since, granted) for _, granted, since in account.held()]
        asked = [(each.since, each.body) for each in account.open_requests()]
        since, body = min(held or asked)
        details = read_details(body)
        self._observer.report(
            NotQuiet(
                peer.database.name,
                peer.client_id,
                len(held),
                len(asked),
                details.path,
                details.comment,
                round(now - since),
                busy,
            )
        )

    def end(self) -> None:
        """Withhold nothing any more, and deliver what has waited."""
        waiting, self._waiting = self._waiting, {}
        for database in waiting:
            self._delivery.release(database, BEGINNINGS)

    def discard(self, name: str) -> None:
        """Forget a database, which is no more."""
        for database in [each for each in self._waiting if each.name == name]:
            del self._waiting[database]

    def clear(self) -> None:
        """Forget the databases, which are no more."""
        self._waiting.clear()

    def refuse(self, reason: str) -> None:
        """Answer each request that has waited with a failure, and withhold the next ones.

        A published client's write fails with *reason* then; without an answer it would hang.
        """
        for database in self._waiting:
            queue = database.awaiting_master
            for message, sender in tuple(queue.entries()):
                found = read_request(message.text)
                if found is None or found[0] is not LOCK or not isinstance(sender, Peer):
                    continue
                account = sender.account
                if account is not None and found[1] in account.requests:
                    account.close(found[1])
                    text = failure(found[1], sender.client_id, reason)
                    self._delivery.send(sender, Message(text))
            queue.discard_if(lambda message, _: is_lock_request(message.text))

    # What the router and sessions ask

    def withholds(self, sender: Peer, body: bytes) -> bool:
        """Return whether a request of *sender* to the master, which is noted, has to wait."""
        database = sender.database
        if database.withheld & FILES and is_about_files(body):
            return True
        waiting = self._waiting.get(database)
        return waiting is not None and is_lock_request(body) and self._begins(sender, body, waiting)

    def take_back(self, master: Peer, queue: MessageQueue) -> None:
        """Withhold what begins something new of *queue*, which *master* receives next."""
        waiting = self._waiting.get(master.database)
        if waiting is None:
            return
        begins = {
            id(message)
            for message, sender in queue.entries()
            if isinstance(sender, Peer)
            and is_lock_request(message.text)
            and self._begins(sender, message.text, waiting)
        }
        held = queue.take_if(lambda message: id(message) in begins)
        if held:
            held.move_to(self._delivery.awaiting(master.database))

    @staticmethod
    def _begins(sender: Peer, body: bytes, waiting: _Waiting) -> bool:
        """Return whether a lock request is the first one of its transaction, and note that."""
        tid, account = tid_member(body), sender.account
        if tid in waiting.tids:
            return True
        if account is not None and _has_begun(account, tid, body):
            return False
        waiting.tids.add(tid)
        return True


def _has_begun(account: Account, tid: bytes, body: bytes) -> bool:
    """Return whether a worker has locks for a transaction, or has asked for one before *body*."""
    if any(tid in granted for _, granted, _ in account.held()):
        return True
    return any(tid in asked[0] and asked[0] != body for asked in account.requests.values())


def _has_work(database: Database) -> bool:
    """Return whether a database has a process that may have something under way."""
    return any(
        each.dialect is ACEBASE and each.connection is not None for each in database.peers.values()
    )


def _received(database: Database) -> int:
    """Return how many messages a database has received that are relayed."""
    received = sum(each.traffic.received for each in database.peers.values())
    return received + database.traffic.received - database.pings


def _has_ended(database: Database) -> bool:
    """Return whether nobody has a lock, or waits for what is not withheld."""
    ledger = database.ledger
    return ledger is None or not (ledger.own or _busy(database))


def _busy(database: Database) -> list[tuple[Peer, Account]]:
    """Return the peers that have a lock, or wait for an answer of the master."""
    waiting: list[tuple[Peer, Account]] = []
    for peer in database.peers.values():
        account = peer.account
        if account is not None and (account.records):
            waiting.append((peer, account))
    withheld = _withheld(database) if waiting else Counter()
    return [
        (peer, account)
        for peer, account in waiting
        if account.held_count or account.about or len(account.requests) > withheld[peer]
    ]


def _withheld(database: Database) -> Counter[object]:
    """Return how many requests of each peer to the master wait here."""
    master = database.peers.get(MASTER)
    queues = [database.awaiting_master]
    if master is not None and master.connection is None:
        queues.append(master.queue)
    return Counter(
        sender
        for queue in queues
        for message, sender in queue.entries()
        if read_request(message.text) is not None
    )
