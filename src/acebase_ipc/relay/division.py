"""Divides the state of a relay by database, so that another relay can go on with one of them."""

from __future__ import annotations

from acebase_ipc.relay.state import DatabaseState, PeerState, Queue, RelayState, StoreState


def part_of(state: RelayState, name: str) -> RelayState:
    """Return what *state* has of the database *name*.

    Nothing is withheld there any more. What the relay has counted in total is left out.
    """
    part = _Part()
    databases = tuple(part.database(each) for each in state.databases if each.name == name)
    left = tuple((part.database(each), time) for each, time in state.left if each.name == name)
    return state._replace(
        messages=tuple(state.messages[index] for index in part.indices),
        databases=databases,
        left=left,
        expiries=tuple(each for each in state.expiries if each[0] == name),
        ending=tuple(each for each in state.ending if each[0] == name),
        fences=tuple(each for each in state.fences if each.database == name),
        conflicts=tuple(each for each in state.conflicts if each[0] == name),
        store=_store(state.store, name),
        departed=(),
        lock_waits=(tuple(0 for _ in state.lock_waits[0]), 0.0),
        answer_times=(tuple(0 for _ in state.answer_times[0]), 0.0),
        locks_answered=0,
    )


class _Part:
    """Numbers the messages of a database anew.

    :ivar indices: the former indices, in the new order.
    """

    def __init__(self) -> None:
        self.indices: dict[int, int] = {}

    def database(self, state: DatabaseState) -> DatabaseState:
        return state._replace(
            peers=tuple(map(self._peer, state.peers)),
            awaiting_master=self._queue(state.awaiting_master),
            is_quiescing=False,
        )

    def _peer(self, state: PeerState) -> PeerState:
        numbering = state.numbering
        if numbering is not None:
            numbering = numbering._replace(kept=self._queue(numbering.kept))
        return state._replace(queue=self._queue(state.queue), numbering=numbering)

    def _queue(self, queue: Queue) -> Queue:
        return tuple(
            (self.indices.setdefault(index, len(self.indices)), sender) for index, sender in queue
        )


def _store(state: StoreState, name: str) -> StoreState:
    messages = tuple(each for each in state.messages if each.database == name)
    ids = {each.id for each in messages}
    return StoreState(
        messages=messages,
        fetched=tuple(each for each in state.fetched if each[0] == name),
        reclaimable=tuple(each for each in state.reclaimable if each in ids),
        received=0,
        downloaded=0,
    )
