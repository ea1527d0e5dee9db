"""How the processes of a cluster learn of a peer and its subscriptions, and it of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import Deferred

from acebase_ipc.peer.subscriptions import Subscriptions
from acebase_ipc.protocol.envelopes import Hello, hello, subscribe
from acebase_ipc.relay.limits import Limits

MAX_PEERS: Final = Limits().max_database_connections
"""Processes that a peer knows at a time: as many as a relay accepts in one database."""


class Pinging(Protocol):
    """What tells when the relay has read something."""

    @property
    def connected(self) -> bool: ...
    def ping(self) -> Deferred[float]: ...


class Introductions:
    """The greetings of a peer, with its subscriptions.

    :param id: the peer's id.
    :param client: its connection.
    :param send: sends a message to one process, or to all others.
    :ivar known: the ids of the processes that have greeted and not left.
    """

    def __init__(
        self,
        id: str,
        client: Pinging,
        subscriptions: Subscriptions,
        send: Callable[[str, str | None], None],
    ) -> None:
        self._id = id
        self._client = client
        self._subscriptions = subscriptions
        self._send = send
        self._announcing: object | None = None  # while the broadcasts are on their way
        self._unreached: set[str] = set()
        self.known: set[str] = set()

    def announce(self) -> None:
        """Greet all other processes, after connecting.

        Also after a session was resumed: that is not known here, and processes that know
        a subscription ignore it. Not every relay introduces peers to each other.
        """
        announcing = self._announcing = object()
        self._unreached.clear()
        # The ping goes first: when it is answered, every process that was reported until
        # then was connected before the relay read the broadcasts, and has received them.
        reached = self._client.ping()
        self._send(hello(self._id), None)
        for path, event in self._subscriptions:
            self._send(subscribe(self._id, path, event), None)
        reached.addBoth(self._announced, announcing)

    def _announced(self, _: object, announcing: object) -> None:
        if self._announcing is not announcing:
            return
        self._announcing = None
        # A process that only HTTP has reported may have connected later.
        unreached, self._unreached = self._unreached, set()
        if self._client.connected:
            for peer in sorted(unreached - self.known):
                self._introduce(peer)

    def joined(self, peer: str) -> None:
        """*peer* is connected.

        Processes of the npm package do not greet when they join. Where the relay does not
        do it for them, this is how they learn the subscriptions.
        """
        if self._announcing is not None:
            self._unreached.add(peer)
        elif peer not in self.known:
            self._introduce(peer)

    def left(self, peer: str) -> None:
        """*peer* is not connected any more."""
        self.known.discard(peer)
        self._unreached.discard(peer)

    def greeted(self, greeting: Hello) -> bool:
        """A process has greeted; returns whether it is accepted as one more."""
        sender = greeting.sender
        if sender == self._id:
            return True
        if len(self.known) >= MAX_PEERS and sender not in self.known:
            return False
        self.known.add(sender)
        if greeting.to != self._id and self._announcing is None:
            self._introduce(sender)
        return True

    def clear(self) -> None:
        """Forget all processes."""
        self.known.clear()
        self._unreached.clear()
        self._announcing = None

    def _introduce(self, peer: str) -> None:
        self._send(hello(self._id, peer), peer)
        for path, event in self._subscriptions:
            self._send(subscribe(self._id, path, event, peer), peer)
