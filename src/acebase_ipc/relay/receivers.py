"""Who receives the broadcasts of a peer.

A peer that broadcasts something often broadcasts more, and meanwhile nobody comes or goes. So the
receivers are looked up once, and kept until something changes that decides who receives what
(:attr:`acebase_ipc.relay.peers.Database.receivers`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE, DOCUMENTED, Dialect
from acebase_ipc.protocol.messages import Message, render
from acebase_ipc.relay.peers import Connection, Peer

Keep = Callable[[Peer, Message, None], object]
"""Queues a message for a peer that cannot receive it now."""


class _Group:
    """The receivers of one dialect, to which a broadcast is the same message.

    :ivar connected: those that are sent it, by their connections.
    :ivar others: those that have no connection, or number what they are sent.
    """

    __slots__ = ("_dialect", "_full", "_ready", "connected", "others")

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.connected: dict[Connection, Peer] = {}
        self.others: list[Peer] = []
        self._full: list[Connection] = []
        self._ready: list[Connection] | None = None

    def send(self, body: bytes, keep: Keep) -> None:
        """Send a message with *body* to each."""
        message = Message(render(body, self._dialect))
        full = [each for each in self.connected if each.is_full]
        ready = self._ready
        if ready is None or full != self._full:
            self._full = full
            ready = self._ready = [each for each in self.connected if not each.is_full]
        if ready:
            ready[0].send_each(message, ready)
        for connection in full:
            keep(self.connected[connection], message, None)
        for peer in self.others:
            if peer.connection is not None and not peer.connection.is_full:
                peer.connection.send(message)
            else:
                keep(peer, message, None)


class Receivers:
    """The receivers of what *sender* broadcasts, as long as none comes, goes or changes.

    :ivar sender: the peer that broadcasts.
    """

    __slots__ = ("_groups", "sender")

    def __init__(self, sender: Peer) -> None:
        self.sender: Final = sender
        groups = {each: _Group(each) for each in (ACEBASE, DOCUMENTED)}
        for peer in sender.database.peers.values():
            if peer is sender:
                continue
            group = groups[peer.dialect]
            if peer.connection is None or peer.numbering is not None:
                group.others.append(peer)
            else:
                group.connected[peer.connection] = peer
        self._groups = [each for each in groups.values() if each.connected or each.others]

    def send(self, body: bytes, keep: Keep) -> None:
        """Send *body* to each, rendered once for each dialect.

        :param keep: queues it for those that cannot receive it now.
        """
        for group in self._groups:
            group.send(body, keep)
