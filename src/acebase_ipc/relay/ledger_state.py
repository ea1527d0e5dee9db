"""The ledger of a database as plain values, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from acebase_ipc.relay.ledger import Account, Cover, Ledger, Lock
from acebase_ipc.relay.state import (
    AccountState,
    CoverState,
    LedgerState,
    LockState,
    RequestState,
    SearchState,
)


class LedgerExport:
    """Exports the ledger of one database, with each lock once.

    :param now: monotonic seconds.
    """

    def __init__(self, ledger: Ledger, now: float) -> None:
        self._ledger = ledger
        self._now = now
        self._locks: dict[Lock, int] = {}

    def account(self, account: Account) -> AccountState:
        """Return the state of an *account*."""
        now = self._now
        requests = []
        for request_id, (body, since, released) in account.requests.items():
            granted = None if released is None else (released[0], now - released[1])
            requests.append(RequestState(request_id, body, now - since, granted))
        return AccountState(
            tuple(requests),
            tuple(account.answered),
            tuple((key, body, now - since) for key, (body, since) in account.granted.items()),
            tuple((key, self._index(lock)) for key, lock in account.locks.items()),
            tuple((key, self._index(lock)) for key, lock in account.about.items()),
            tuple(sorted(account.resent)),
            tuple(
                CoverState(
                    each.lock_id,
                    each.tid,
                    each.is_write,
                    each.expires,
                    now - each.since,
                    each.is_kept,
                    account.current.get(each.tid) is each,
                )
                for each in account.covers.values()
            ),
            tuple(
                (key, body, now - since, cover.lock_id)
                for key, (body, since, cover) in account.own.items()
            ),
        )

    def ledger(self, search: SearchState | None) -> LedgerState:
        """Return the rest; to be called after all accounts were exported."""
        ledger = self._ledger
        own = tuple((key, self._index(lock)) for key, lock in ledger.own.items())
        questions = tuple((key, self._index(lock)) for key, lock in ledger.questions.items())
        unwanted = tuple(map(self._index, ledger.unwanted))
        return LedgerState(
            tuple(self._lock(each) for each in self._locks),
            own,
            questions,
            unwanted,
            tuple(ledger.abandoned),
            tuple(ledger.moves),
            tuple(ledger.lost),
            ledger.highest,
            ledger.former_highest,
            ledger.is_same_process,
            ledger.large,
            search,
        )

    def _index(self, lock: Lock) -> int:
        return self._locks.setdefault(lock, len(self._locks))

    def _lock(self, lock: Lock) -> LockState:
        return LockState(
            lock.id,
            lock.master_id,
            lock.former_id,
            lock.holder,
            lock.granted,
            self._now - lock.since,
            lock.probe,
            lock.is_probed,
            lock.release,
            lock.is_unwanted,
            lock.is_unknown,
        )


class LedgerAdoption:
    """Makes a ledger of its state.

    :param number: returns the number in the journal of the worker with a client id.
    :param has_sessions: whether the relay grants locks itself.
    :param now: monotonic seconds.
    """

    def __init__(
        self,
        state: LedgerState,
        ledger: Ledger,
        number: Callable[[str], int],
        has_sessions: bool,
        now: float,
    ) -> None:
        self._ledger = ledger
        self._has_sessions = has_sessions
        self._now = now
        self._locks = [self._lock(each, number(each.holder)) for each in state.locks]
        ledger.own.update(self._pick(state.own))
        ledger.questions.update(self._pick(state.questions))
        ledger.unwanted.update(dict.fromkeys(self._locks[each] for each in state.unwanted))
        ledger.abandoned.update(dict.fromkeys(state.abandoned, 0))
        ledger.moves.update(dict.fromkeys(state.moves, 0))
        ledger.lost += state.lost
        ledger.highest = state.highest
        ledger.former_highest = state.former_highest
        ledger.is_same_process = state.is_same_process
        ledger.large = state.large

    def account(self, state: AccountState, holder: str, number: int) -> Account:
        """Return the account of the worker *holder*."""
        now = self._now
        account = Account(self._ledger, holder, number)
        for each in state.requests:
            released = each.released
            granted = None if released is None else (released[0], now - released[1])
            account.requests[each.id] = each.body, now - each.age, granted
        account.answered.extend(state.answered)
        account.granted.update((key, (body, now - age)) for key, body, age in state.granted)
        account.locks.update((key, self._locks[index]) for key, index in state.locks)
        account.about.update(self._pick(state.about))
        account.resent.update(state.resent)
        account.count_large()
        self._covers(account, state)
        return account

    def _covers(self, account: Account, state: AccountState) -> None:
        """Add the locks of the relay's own, and what covers them."""
        now = self._now
        used = {cover_id for _, _, _, cover_id in state.own}
        for each in state.covers:
            if not (self._has_sessions or each.lock_id in used):
                continue
            cover = Cover(each.lock_id, each.tid, each.is_write, each.expires, now - each.age)
            cover.is_kept = each.is_kept
            account.covers[each.lock_id] = cover
            if self._has_sessions and each.is_current:
                account.current[each.tid] = cover
        for lock_id, body, age, cover_id in state.own:
            account.own[lock_id] = body, now - age, account.covers[cover_id]
            account.covers[cover_id].open += 1

    def _pick(self, locks: Iterable[tuple[bytes, int]]) -> dict[bytes, Lock]:
        return {key: self._locks[index] for key, index in locks}

    def _lock(self, state: LockState, worker: int) -> Lock:
        lock = Lock(state.id, state.holder, state.granted, self._now - state.age, worker)
        lock.master_id = state.master_id
        lock.former_id = state.former_id
        lock.probe = state.probe
        lock.is_probed = state.is_probed
        lock.release = state.release
        lock.is_unwanted = state.is_unwanted
        lock.is_unknown = state.is_unknown
        return lock
