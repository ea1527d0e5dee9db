"""How a frame reaches one peer: at once, later, or not at all."""

from __future__ import annotations

from collections.abc import Callable

from acebase_ipc.backlog import Backlog
from acebase_ipc.limits import KIB, Limits
from acebase_ipc.observer import (
    Awaited,
    Cut,
    Drop,
    Dropped,
    Observer,
    Returned,
    SeatEnd,
    SeatEnded,
)
from acebase_ipc.peers import Connection, Database, Peer, State
from acebase_ipc.protocol import MASTER

_DRAIN_STEP = 64 * KIB
"""Bytes handed to a connection that has room again before asking it once more."""

_MASTER = MASTER.decode()


class Delivery:
    """Hands frames to peers' connections, and keeps what these cannot take yet.

    One rule for all: a frame is handed over while the peer's connection flows;
    otherwise it waits in the peer's backlog, whether the connection is
    congested or the peer away. A backlog that grows too large is the peer's
    end: it is marked ``CUT``, receives nothing more, and leaves as soon as its
    connection reports the loss or the clock ticks. Not at once, because telling
    the others that it went could be one frame too many for the next.

    :param max_backlog: bytes that a connected peer may leave unread.
    :param max_held: bytes that may be held for an absent peer.
    """

    def __init__(self, limits: Limits, observer: Observer) -> None:
        self._max_backlog = limits.max_backlog
        self._max_held = limits.max_held
        self._observer = observer

    def send(self, peer: Peer, frame: bytes, sender: bytes | None = None) -> None:
        """Let *frame* reach *peer*; *sender* is the id of the peer that addressed it."""
        connection = peer.connection
        if peer.state is State.FLOWING and connection is not None:
            connection.send(frame)
        elif peer.state is State.CONGESTED and connection is not None:
            unsent = peer.backlog.size + connection.backlog
            if unsent and unsent + len(frame) > self._max_backlog:
                self._cut(peer, connection, unsent)
            else:
                peer.backlog.append(frame, sender)
        elif peer.state is State.SEATED:
            if self._may_hold(peer.backlog, frame):
                peer.backlog.append(frame, sender)
            else:
                self.report_seat_end(peer, SeatEnd.SIZE)
                peer.state = State.CUT

    def _cut(self, peer: Peer, connection: Connection, unsent: int) -> None:
        name, messages = peer.database.name, len(peer.backlog)
        self._observer.report(Cut(name, peer.client_id, unsent, messages))
        peer.state = State.CUT
        connection.abort()

    def _may_hold(self, held: Backlog, frame: bytes) -> bool:
        return not held or held.size + len(frame) <= self._max_held

    def hold_for_master(self, database: Database, frame: bytes, sender: bytes) -> None:
        """Keep a *frame* addressed to a master that is not there, until one comes."""
        held = database.awaiting_master
        if not self._may_hold(held, frame):
            ended = SeatEnded(database.name, _MASTER, SeatEnd.SIZE, len(held), held.size)
            self._observer.report(ended)
            held.clear()
        if not held:
            self._observer.report(Awaited(database.name, _MASTER))
        held.append(frame, sender)

    def hand_over(self, held: Backlog, peer: Peer) -> None:
        """Deliver what was *held* for *peer*, after all that it was sent since it came."""
        if held:
            name = peer.database.name
            self._observer.report(Returned(name, peer.client_id, len(held)))
        held.move_to(peer.backlog)
        self.drain(peer)

    def drain(self, peer: Peer) -> None:
        """Hand *peer* what waits for it, in order, while its connection has room."""
        connection = peer.connection
        while connection is not None and peer.backlog and peer.state is State.FLOWING:
            for frame in peer.backlog.take(_DRAIN_STEP):
                connection.send(frame)

    def forget_gone_senders(self, peer: Peer) -> None:
        """Drop what was addressed to *peer*, which is away, by peers that are gone."""
        peers = peer.database.peers
        self._discard(peer, lambda sender: sender is not None and sender not in peers)

    def forget_sender(self, gone: Peer) -> None:
        """Drop what *gone* has addressed to absent peers.

        Else a dead worker's held lock request is granted when the master
        returns, and blocks the others until it times out, up to 120 s later.
        """
        database = gone.database
        for peer in database.peers.values():
            if peer.state is State.SEATED:
                self._discard(peer, lambda sender: sender == gone.id)
        dropped = database.awaiting_master.discard_if(lambda sender: sender == gone.id)
        if dropped:
            self._observer.report(Dropped(database.name, _MASTER, Drop.SENDER_GONE, dropped))

    def _discard(self, peer: Peer, unwanted: Callable[[bytes | None], bool]) -> None:
        dropped = peer.backlog.discard_if(unwanted)
        if dropped:
            name = peer.database.name
            self._observer.report(Dropped(name, peer.client_id, Drop.SENDER_GONE, dropped))

    def bequeath(self, master: Peer) -> None:
        """A *master* is gone: what was addressed to it waits for its successor."""
        database, backlog = master.database, master.backlog
        if master.state is not State.CUT and backlog.size <= self._max_held:
            backlog.discard_if(lambda sender: sender not in database.peers)
            backlog.move_to(database.awaiting_master)

    def report_seat_end(self, peer: Peer, reason: SeatEnd) -> None:
        """Report that *peer* is not expected back any more."""
        held = peer.backlog
        self._observer.report(
            SeatEnded(peer.database.name, peer.client_id, reason, len(held), held.size)
        )
