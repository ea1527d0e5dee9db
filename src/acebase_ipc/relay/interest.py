"""Drops the events from which an acebase peer has certainly unsubscribed.

In the npm package acebase an ``unsubscribe`` of another process has no effect: it compares the
path with the kind of event. So a writer goes on to send events to each process that has ever
subscribed, which goes on to read and discard them.

An ``unsubscribe`` alone shows little: a process subscribes once for all its callbacks at a path,
and unsubscribes when one of them is removed. But it answers each greeting with a ``hello`` and all
its subscriptions. So when an event comes from which a peer may have unsubscribed, the relay greets
that peer twice, in the name of the event's sender, which knows the answer already. If the
subscription is not among what comes between the two answers, the peer has none, and from then on
such events are dropped until it subscribes again. While that is not certain they are relayed:
after a connection has broken, too, as a message of the peer may have been lost with it.

Measured with the npm package acebase 1.29.13: of 200 events that were sent to it after it had
unsubscribed, a Node process received 1 and a Python peer 9, those before its answer; without this
module both received all 200.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from acebase_ipc.protocol.dialect import EVENT_START, HELLO_START, json_string
from acebase_ipc.protocol.messages import OTHERS, Audience
from acebase_ipc.relay.events import DropReason, MessageDropped, Observer
from acebase_ipc.relay.introductions import Introductions
from acebase_ipc.relay.limits import KIB
from acebase_ipc.relay.peers import Database, Peer
from acebase_ipc.relay.unsubscribed import Certainty, Unsubscribed

MAX_ENVELOPE: Final = 2 * KIB
"""Bytes of an ``unsubscribe`` that is noted: paths are shorter."""

ROOM: Final = KIB
"""Bytes by which an answer to a greeting may be longer. One above maxPayload would be posted, and
could arrive after a later one."""

_TO: Final = b"to:"
_SUBSCRIBE: Final = b'{"type":"subscribe",'
_UNSUBSCRIBE: Final = b'{"type":"unsubscribe",'


class Interest:
    """Notes subscriptions that end, and tells which events nobody wants.

    :param max_payload: UTF-16 code units of the largest message over a WebSocket.
    :param clock: returns monotonic seconds.
    """

    def __init__(
        self,
        introductions: Introductions,
        max_payload: int,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._introductions = introductions
        self._max_payload = max_payload
        self._largest = min(MAX_ENVELOPE, max_payload - ROOM)
        self._observer = observer
        self._clock = clock

    # What acebase peers say about their subscriptions

    def note(self, sender: Peer, addressee: bytes | Audience, body: bytes) -> None:
        """Note an envelope of an acebase peer, if it is about its subscriptions."""
        database = sender.database
        if body.startswith(_UNSUBSCRIBE):
            if addressee is OTHERS and len(body) <= self._largest:
                self._ended(sender, body)
        elif not database.unsubscribed:
            return
        elif body.startswith(_SUBSCRIBE):
            self._began(database, sender, body)
        elif body.startswith(HELLO_START):
            ended = database.unsubscribed.get(sender.id)
            if ended is not None:
                ended.greeted()

    def _ended(self, sender: Peer, body: bytes) -> None:
        who, key = _read(body)
        if who == sender.client_id and key and self._introductions.enabled:
            kept = sender.database.unsubscribed
            ended = kept.get(sender.id)
            if ended is None:
                ended = kept[sender.id] = Unsubscribed(sender.connection)
            ended.add(key)

    def _began(self, database: Database, sender: Peer, body: bytes) -> None:
        who, key = _read(body) if len(body) <= self._largest + ROOM else (None, b"")
        for each in {sender.id, sender.id if who is None else who.encode(errors="replace")}:
            ended = database.unsubscribed.get(each)
            if ended is None:
                continue
            ended.listed += 1
            for ending in (key,) if key else tuple(ended.states):
                ended.discard(ending)

    def expire(self, databases: Iterable[Database], now: float) -> None:
        """Forget the peers that are subscribed to all again, and may be asked again.

        :param now: monotonic seconds.
        """
        for database in databases:
            if database.unsubscribed:
                kept = database.unsubscribed.items()
                database.unsubscribed = {
                    peer: each for peer, each in kept if each.states or not each.may_be_asked(now)
                }

    # Events

    def drop_unwanted(self, sender: Peer, texts: list[bytes]) -> None:
        """Remove from *texts*, messages of *sender*'s WebSocket, the events that nobody wants."""
        limit = self._max_payload
        kept = [each for each in texts if len(each) > limit or not self.is_unwanted(sender, each)]
        if len(kept) != len(texts):
            sender.traffic.received += len(texts) - len(kept)
            sender.traffic.received_bytes += sum(map(len, texts)) - sum(map(len, kept))
            texts[:] = kept

    def is_unwanted(self, sender: Peer, text: bytes) -> bool:
        """Return whether *text* is an event from which its addressee has certainly unsubscribed.

        If it may have, it is asked.
        """
        to, _, body = text.partition(b";")
        if to[:3] != _TO or not body.startswith(EVENT_START):
            return False
        database = sender.database
        ended = database.unsubscribed.get(to[3:])
        peer = None if ended is None else database.peers.get(to[3:])
        if ended is None or peer is None or peer is sender:
            return False
        names = json_string(sender.client_id), json_string(peer.client_id)
        start = b'{"type":"event","from":%b,"to":%b,' % names
        if not body.startswith(start):
            return False
        # A quotation mark within a text is written with a backslash.
        key = body[len(start) : body.find(b',"data":', len(start))]
        state = ended.state(key, peer.connection)
        if state is None:
            return False
        if state is Certainty.CERTAIN:
            reason = DropReason.UNSUBSCRIBED
            self._observer.report(MessageDropped(database.name, peer.client_id, reason))
            return True
        now = self._clock()
        can_answer = peer.connection is not None and sender.is_introduced
        if can_answer and ended.may_be_asked(now):
            ended.asked(now)
            for _ in range(2):
                self._introductions.greet(peer, sender)
        return False


def _read(body: bytes) -> tuple[str | None, bytes]:
    """Return the sender of an envelope, and the path and kind of event that it is about.

    They are ``None`` and nothing where it does not name them.
    """
    try:
        message: Any = json.loads(body)
        who, data = message["from"], message["data"]
        path, event = data["path"], data["event"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None, b""
    if not all(isinstance(each, str) for each in (who, path, event)):
        return None, b""
    try:
        return who, b'"path":%b,"event":%b' % (json_string(path), json_string(event))
    except UnicodeEncodeError:  # a lone surrogate: no event is compared with it
        return who, b""
