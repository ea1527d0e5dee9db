"""Introduces acebase peers to each other.

The npm package acebase does not send greetings through a relay, although it answers a
greeting with its subscriptions. So a worker that joins late does not learn the
subscriptions of the others, its writes raise no events for them, and the subscriptions of
a dead peer are never dropped: a client reacts to ``disconnect:`` only for peers that were
introduced to it. Therefore the relay greets each peer on behalf of the other.

Measured with acebase 1.29.13: of 5 writes by a worker that joins late, an earlier
subscriber receives 5 with introductions and none without.
"""

from __future__ import annotations

from acebase_ipc.protocol.dialect import ACEBASE, json_string
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.history import Histories
from acebase_ipc.relay.peers import Peer


def hello(about: Peer) -> bytes:
    """Return the envelope with which the peer *about* would greet another peer."""
    return b'{"type":"hello","from":' + json_string(about.client_id) + b"}"


def _introduction(about: Peer) -> Message:
    """Return the message that introduces *about*, which is made once for all receivers."""
    if about.introduction is None:
        about.introduction = Message(hello(about))
    return about.introduction


class Introductions:
    """Greets acebase peers on each other's behalf.

    :param histories: learn of new peers.
    :ivar enabled: whether peers are introduced.
    """

    def __init__(self, delivery: Delivery, histories: Histories, enabled: bool) -> None:
        self._delivery = delivery
        self._histories = histories
        self.enabled = enabled

    def greet(self, peer: Peer, about: Peer) -> None:
        """Greet *peer* on behalf of another one: it answers that with all its subscriptions."""
        self._delivery.send(peer, _introduction(about))

    def introduce(self, newcomer: Peer) -> None:
        """Introduce *newcomer* and each other acebase peer of its database to each other.

        A peer that has broadcast ``bye`` is not introduced.
        """
        self._histories.joined(newcomer)
        if not self.enabled or not newcomer.is_introduced:
            return
        database, about_newcomer = newcomer.database, _introduction(newcomer)
        acebase = [
            each
            for each in database.peers.values()
            if each.dialect is ACEBASE and each is not newcomer
        ]
        others = [each for each in acebase if not each.said_bye]
        self._delivery.work.units += len(database.peers)
        if len(others) == len(acebase):
            self._delivery.tell(database, about_newcomer, but=newcomer, dialect=ACEBASE)
        else:  # some have broadcast bye
            for other in others:
                self._delivery.send(other, about_newcomer)
        for other in others:
            self._delivery.send(newcomer, _introduction(other))
