"""The receivers of what is sent to all peers of a database.

They are not looked up for each message, but known: each peer is where its connection and its
dialect put it (:meth:`acebase_ipc.relay.peers.Peer.attach` and ``speak``). So a message to all
costs little more than the writes to their connections, and those of a turn of the reactor are
written together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from acebase_ipc.protocol.dialect import ACEBASE, DOCUMENTED, Dialect
from acebase_ipc.protocol.messages import Message, render
from acebase_ipc.relay.connection import Connection

PER_UNIT: Final = 32
"""Receivers of a message that count as a unit of work; their writes count besides."""

APART: Final = 4
"""Units of work of a receiver for which the message is queued or numbered."""


class Receiver(Protocol):
    """A peer, as far as it matters here."""

    @property
    def dialect(self) -> Dialect:
        """The dialect that it speaks."""

    @property
    def connection(self) -> Connection | None:
        """Its connection."""

    @property
    def numbering(self) -> object | None:
        """The numbers of what it is sent; ``None`` if it is sent messages as they are."""


P = TypeVar("P", bound=Receiver)

Keep = Callable[[P, Message, None], object]


class _Group(Generic[P]):
    """The peers of one dialect, to which a broadcast is the same message.

    :ivar connected: those that are sent it, by their connections.
    :ivar others: those that have no connection, or number what they are sent.
    """

    __slots__ = ("_full", "_ready", "connected", "others")

    def __init__(self) -> None:
        self.connected: dict[Connection, P] = {}
        self.others: dict[P, None] = {}
        self._full: list[Connection] = []
        self._ready: list[Connection] | None = None  # another one whenever one is removed

    def __len__(self) -> int:
        return len(self.connected) + len(self.others)

    def add(self, peer: P) -> None:
        """Add *peer*."""
        connection = peer.connection
        if connection is None or peer.numbering is not None:
            self.others[peer] = None
            return
        self.connected[connection] = peer
        if self._ready is not None:
            self._ready.append(connection)

    def remove(self, peer: P) -> bool:
        """Remove *peer*; returns whether it was there."""
        connection = peer.connection
        if connection is not None and self.connected.get(connection) is peer:
            del self.connected[connection]
            self._ready, self._full = None, []
            return True
        if peer in self.others:
            del self.others[peer]
            return True
        return False

    def send(self, message: Message, sender: P | None, keep: Keep[P]) -> int:
        """Send *message* to each but *sender*; returns the units of work."""
        full = [each for each in self.connected if each.is_full]
        ready = self._ready
        if ready is None or full != self._full:
            self._full = full
            ready = self._ready = [each for each in self.connected if not each.is_full]
        own = None if sender is None else sender.connection
        if ready:
            ready[0].send_each(message, ready, own if own in self.connected else None)
        others = tuple(self.others)
        for connection in full:
            peer = self.connected.get(connection)  # what is kept may end the sessions of others
            if peer is not None and connection is not own:
                keep(peer, message, None)
        for peer in others:
            if peer is sender:
                continue
            if peer.connection is not None and not peer.connection.is_full:
                peer.connection.send(message)
            else:
                keep(peer, message, None)
        return self.units

    @property
    def units(self) -> int:
        """The units of work of a message to all."""
        return len(self) // PER_UNIT + APART * (len(self._full) + len(self.others))


class Receivers(Generic[P]):
    """The peers of a database, by what they are sent and how."""

    __slots__ = ("_acebase", "_documented")

    def __init__(self) -> None:
        self._acebase: _Group[P] = _Group()
        self._documented: _Group[P] = _Group()

    def __len__(self) -> int:
        return len(self._acebase) + len(self._documented)

    def _group(self, dialect: Dialect) -> _Group[P]:
        return self._acebase if dialect is ACEBASE else self._documented

    @property
    def units(self) -> int:
        """The units of work of a message to all."""
        return self._acebase.units + self._documented.units

    def add(self, peer: P) -> None:
        """Add *peer*, which has this connection and this dialect until it is removed."""
        self._group(peer.dialect).add(peer)

    def remove(self, peer: P) -> bool:
        """Remove *peer*, for good or before it is another; returns whether it was there."""
        return self._group(peer.dialect).remove(peer)

    def broadcast(self, sender: P, body: bytes, keep: Keep[P]) -> int:
        """Send *body* to each but *sender*, rendered once for each dialect.

        :param keep: queues it for those that cannot receive it now.
        :returns: the units of work.
        """
        units = 1
        if self._acebase:
            units += self._acebase.send(Message(render(body, ACEBASE)), sender, keep)
        if self._documented:
            units += self._documented.send(Message(render(body, DOCUMENTED)), sender, keep)
        return units

    def tell(self, message: Message, keep: Keep[P], but: P | None, dialect: Dialect | None) -> int:
        """Send *message* to each.

        :param but: is not sent it.
        :param dialect: of those that are sent it; ``None``: all.
        :returns: the units of work.
        """
        units = 0
        if dialect is not DOCUMENTED:
            units += self._acebase.send(message, but, keep)
        if dialect is not ACEBASE:
            units += self._documented.send(message, but, keep)
        return units
