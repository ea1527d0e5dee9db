"""How a frame reaches one peer: at once, later, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.frames import frame_payload, text_frame
from acebase_ipc.protocol.messages import MASTER, render
from acebase_ipc.relay.events import (
    DropReason,
    EvictedForMemory,
    ExpiryReason,
    MasterAbsent,
    MessageDropped,
    Observer,
    SessionExpired,
    SessionResumed,
    SlowConsumer,
)
from acebase_ipc.relay.limits import KIB, Limits
from acebase_ipc.relay.peers import FLOWING, Connection, Database, Peer, State
from acebase_ipc.relay.queue import MessageQueue

_DRAIN_STEP = 64 * KIB
"""Bytes handed to a connection that has room again before asking it once more."""

_MASTER = MASTER.decode()


def _render_documented(frame: bytes) -> bytes:
    """A *frame* for an acebase peer, as a documented one expects it."""
    payload = frame_payload(frame)
    return text_frame(render(payload, Dialect.DOCUMENTED)) if payload[:1] == b"{" else frame


class Delivery:
    """Hands frames to peers' connections, and keeps what these cannot take yet.

    One rule for all: a frame is handed over while the peer's connection flows;
    otherwise it waits in the peer's backlog, whether the connection is
    congested or the peer away. A backlog that grows too large is the peer's
    end: it is marked ``CUT``, receives nothing more, and leaves as soon as its
    connection reports the loss or the clock ticks. Not at once, because telling
    the others that it went could be one frame too many for the next.

    :param max_backlog: bytes that a connected peer may leave unread.
    :param max_session_queue: bytes that may be held for an absent peer.
    """

    def __init__(self, limits: Limits, observer: Observer) -> None:
        self._max_backlog = limits.max_backlog
        self._max_session_queue = limits.max_session_queue
        self._holds = limits.session_timeout > 0
        self._observer = observer
        self._backlogged: set[Peer] = set()

    def send(self, peer: Peer, frame: bytes, sender: bytes | None = None) -> None:
        """Let *frame* reach *peer*; *sender* is the id of the peer that addressed it."""
        connection = peer.connection
        if peer.state is FLOWING and connection is not None:
            connection.send(frame)
        elif peer.state is State.CONGESTED and connection is not None:
            unsent = peer.backlog.size + connection.backlog
            if unsent and unsent + len(frame) > self._max_backlog:
                self._cut(peer, connection, unsent)
            else:
                self._wait(peer, frame, sender)
        elif peer.state is State.SEATED:
            if peer.backlog.fits(self._max_session_queue, len(frame)):
                self._wait(peer, frame, sender)
            else:
                self.report_seat_end(peer, ExpiryReason.SIZE)
                peer.state = State.CUT
                self.send(peer, frame, sender)
        elif sender is not None and self.has_successor(peer):
            self.hold_for_master(peer.database, frame, sender)

    def _wait(self, peer: Peer, frame: bytes, sender: bytes | None) -> None:
        peer.backlog.append(frame, sender)
        self._backlogged.add(peer)

    def _cut(self, peer: Peer, connection: Connection, unsent: int) -> None:
        name, messages = peer.database.name, len(peer.backlog)
        self._observer.report(SlowConsumer(name, peer.client_id, unsent, messages))
        peer.state = State.CUT
        connection.abort()

    def holds_for_master(self, sender: Peer) -> bool:
        """Whether messages of *sender* to an absent master wait for it."""
        return self._holds and sender.dialect is Dialect.ACEBASE

    def hold_for_master(self, database: Database, frame: bytes, sender: bytes) -> None:
        """Keep a *frame* addressed to a master that is not there, until one comes."""
        held = database.awaiting_master
        if not held.fits(self._max_session_queue, len(frame)):
            self.give_up_awaiting(database)
        if not held:
            self._observer.report(MasterAbsent(database.name, _MASTER))
        held.append(frame, sender)

    def give_up_awaiting(self, database: Database) -> None:
        """Too much waits for the master of *database*: drop it."""
        held = database.awaiting_master
        ended = SessionExpired(database.name, _MASTER, ExpiryReason.SIZE, len(held), held.size)
        self._observer.report(ended)
        held.clear()

    def deliver_queued(self, held: MessageQueue, peer: Peer) -> None:
        """Deliver what was *held* for *peer*, after all that it was sent since it came."""
        if held:
            name = peer.database.name
            self._observer.report(SessionResumed(name, peer.client_id, len(held)))
        if peer.dialect is Dialect.DOCUMENTED:  # a master, and it was awaited as an acebase peer
            held.change_each(_render_documented)
        held.move_to(peer.backlog)
        self._backlogged.add(peer)
        self.drain(peer)

    def drain(self, peer: Peer) -> None:
        """Hand *peer* what waits for it, in order, while its connection has room."""
        connection = peer.connection
        while connection is not None and peer.backlog and peer.state is State.FLOWING:
            for frame in peer.backlog.take(_DRAIN_STEP):
                connection.send(frame)

    def backlogged(self) -> Iterable[Peer]:
        """The peers for which something waits."""
        self._backlogged = {each for each in self._backlogged if each.backlog}
        return self._backlogged

    def give_up(self, peer: Peer) -> None:
        """Let *peer* go for the memory it needs."""
        self._observer.report(EvictedForMemory(peer.database.name, peer.client_id, peer.weight))
        peer.state = State.CUT
        peer.backlog.clear()
        if peer.connection is not None:
            peer.connection.abort()

    def forget_gone_senders(self, peer: Peer) -> None:
        """DropReason what was addressed to *peer*, which is away, by peers that are gone."""
        self._backlogged.add(peer)
        peers = peer.database.peers
        self._discard(peer, lambda sender: sender is not None and sender not in peers)

    def forget_sender(self, gone: Peer) -> None:
        """DropReason what *gone* has addressed to absent peers.

        Else a dead worker's held lock request is granted when the master
        returns, and blocks the others until it times out, up to 120 s later.
        """
        database = gone.database
        for peer in database.peers.values():
            if peer.state is State.SEATED:
                self._discard(peer, lambda sender: sender == gone.id)
        dropped = database.awaiting_master.discard_if(lambda sender: sender == gone.id)
        if dropped:
            self._observer.report(
                MessageDropped(database.name, _MASTER, DropReason.SENDER_GONE, dropped)
            )

    def _discard(self, peer: Peer, unwanted: Callable[[bytes | None], bool]) -> None:
        dropped = peer.backlog.discard_if(unwanted)
        if dropped:
            name = peer.database.name
            self._observer.report(
                MessageDropped(name, peer.client_id, DropReason.SENDER_GONE, dropped)
            )

    def has_successor(self, peer: Peer) -> bool:
        """Whether what is addressed to *peer* waits for its successor when it is gone."""
        return self._holds and peer.is_master and peer.dialect is Dialect.ACEBASE

    def pass_to_successor(self, gone: Peer) -> None:
        """Keep what was addressed to a master that is *gone* for its successor."""
        database, backlog = gone.database, gone.backlog
        if (
            self.has_successor(gone)
            and gone.state is not State.CUT
            and backlog.fits(self._max_session_queue)
        ):
            backlog.discard_if(lambda sender: sender not in database.peers)
            backlog.move_to(database.awaiting_master)

    def report_seat_end(self, peer: Peer, reason: ExpiryReason) -> None:
        """Report that *peer* is not expected back any more."""
        held = peer.backlog
        self._observer.report(
            SessionExpired(peer.database.name, peer.client_id, reason, len(held), held.size)
        )
