"""Which hellos a database owes its peers.

Published clients never greet each other when they use a relay, though they
answer a greeting with their subscriptions. So a worker that joins late learns
nothing of the others' subscriptions, its writes raise no events for them, and
the subscriptions of a dead peer stay for ever: a client heeds ``disconnect:``
only for peers it has been introduced to. The relay therefore greets on behalf
of each to the other. Measured with acebase 1.29.13: of 5 writes by a late
joiner an earlier subscriber hears none without this, and 5 with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from acebase_ipc.protocol.dialect import json_string
from acebase_ipc.relay.peers import Peer


def hello(about: Peer) -> bytes:
    """The envelope with which *about* would greet another peer."""
    return b'{"type":"hello","from":' + json_string(about.client_id) + b"}"


def introductions(newcomer: Peer, peers: Iterable[Peer]) -> Iterator[tuple[Peer, Peer]]:
    """Whom to greet on whose behalf, now that *newcomer* is an acebase peer.

    :returns: pairs of a recipient and the peer it is told of: *newcomer* to
        each other acebase peer, and each of these to *newcomer*. Who has said
        goodbye is not introduced.
    """
    if not newcomer.is_introduced:
        return
    for other in peers:
        if other is not newcomer and other.is_introduced:
            yield other, newcomer
            yield newcomer, other
