"""Which other peers of its database a client knows."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred

from acebase_ipc.client.callouts import Callbacks, Callouts
from acebase_ipc.client.errors import NotConnected

MAX_PEERS = 65_536
"""Peers that are known at a time, far more than a relay lets into one database: a server
that announces others without end must not fill the memory."""


class Peers:
    """The other peers that are connected.

    The relay's answer to a question is true for some moment between question and
    answer. A notice that arrives in between is later than that, or is followed by one
    that is.

    :param own_id: the client's own id, which the relay lists, too.
    :ivar is_known: whether the relay was asked who is connected, and has answered.
    :ivar joined: is called with the id of each peer that is new.
    :ivar left: is called with the id of each peer that is gone.
    """

    def __init__(self, callouts: Callouts, own_id: str) -> None:
        self._own_id = own_id
        self._callouts = callouts
        self._ids: set[str] = set()
        self.is_known = False
        self.joined = Callbacks(callouts)
        self.left = Callbacks(callouts)
        self._asked: list[dict[str, bool]] = []

    @property
    def ids(self) -> frozenset[str]:
        """The peers' ids."""
        return frozenset(self._ids)

    def changed(self, peer_id: str, is_there: bool) -> None:
        """The relay has sent a notice: a peer connected or disconnected."""
        if len(self._ids) >= MAX_PEERS and is_there:
            return
        for changes in self._asked:
            changes[peer_id] = is_there
        if is_there and peer_id not in self._ids:
            self._ids.add(peer_id)
            self.joined.call(peer_id)
        elif not is_there and peer_id in self._ids:
            self._ids.discard(peer_id)
            self.left.call(peer_id)

    def ask(self, clients: Callable[[], Deferred[frozenset[str]]]) -> Deferred[frozenset[str]]:
        """Find out who is connected by means of *clients*, and return their ids."""
        changes: dict[str, bool] = {}
        self._asked.append(changes)

        def forgotten() -> bool:
            return not any(each is changes for each in self._asked)

        def answered(found: frozenset[str]) -> frozenset[str]:
            came = {peer_id for peer_id, is_there in changes.items() if is_there}
            went = changes.keys() - came
            self._set((found - {self._own_id} - went) | came)
            return self.ids

        async def ask() -> frozenset[str]:
            try:
                found = await clients()
                if forgotten():
                    raise NotConnected
                return answered(found)
            except CancelledError:
                if forgotten():
                    raise NotConnected from None
                raise
            finally:
                self._asked = [each for each in self._asked if each is not changes]

        with self._callouts:
            return self._callouts.expose(Deferred.fromCoroutine(ask()))

    def forget(self) -> None:
        """Let all unanswered questions fail: their connection has ended."""
        self._asked.clear()

    def _set(self, ids: frozenset[str]) -> None:
        self.is_known = True
        before, self._ids = self._ids, set(ids)
        with self._callouts:
            for peer_id in sorted(before - ids):
                self.left.call(peer_id)
            for peer_id in sorted(ids - before):
                self.joined.call(peer_id)
