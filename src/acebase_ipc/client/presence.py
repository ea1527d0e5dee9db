"""Which other peers of its database a client knows."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred

from acebase_ipc.client.errors import NotConnected
from acebase_ipc.client.iterators import Callbacks


class Peers:
    """The other peers that are connected.

    What the relay answers when it is asked is true for some moment between question
    and answer. What it tells meanwhile of those who come and go is later than that, or
    is followed by what is.

    :param own_id: the client's own id, which the relay lists, too.
    :ivar ids: the peers' ids.
    """

    def __init__(self, own_id: str) -> None:
        self._own_id = own_id
        self.ids: frozenset[str] = frozenset()
        self.joined = Callbacks()
        self.left = Callbacks()
        self._asked: list[dict[str, bool]] = []

    def changed(self, peer_id: str, is_there: bool) -> None:
        """The relay tells that a peer came or went."""
        for changes in self._asked:
            changes[peer_id] = is_there
        self._set(self.ids | {peer_id} if is_there else self.ids - {peer_id})

    def ask(self, clients: Callable[[], Deferred[frozenset[str]]]) -> Deferred[frozenset[str]]:
        """Find out who is there by means of *clients*, and return their ids."""
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

        return Deferred.fromCoroutine(ask())

    def forget(self) -> None:
        """Let all questions that are not answered yet fail: their connection has ended."""
        self._asked.clear()

    def _set(self, ids: frozenset[str]) -> None:
        before, self.ids = self.ids, ids
        for peer_id in sorted(before - ids):
            self.left.call(peer_id)
        for peer_id in sorted(ids - before):
            self.joined.call(peer_id)
