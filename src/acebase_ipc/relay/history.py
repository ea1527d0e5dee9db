"""The history of changes: keeps the last events of each path that somebody follows.

AceBase's processes raise events for the processes that have subscribed to them. So the relay
subscribes to ``mutations`` at each path that is followed, in its own name and for as long as a
reader may come back: it asks all writers of the database, and each one that joins later. What they
send it is kept here, and goes nowhere else.

A change is never left out silently. Where one may be missing (a writer's connection has broken, a
master has come that may have written before, a message of a writer was refused), all that was kept
is forgotten, and every reader is told of a gap. The same holds for what is dropped because it is
too much, and for another process of the relay, whose cursors are others.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

from acebase_ipc.protocol.dialect import ACEBASE, EVENT_START, HELLO_START, json_string
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.delivery import Delivery
from acebase_ipc.relay.errors import HistoryGap, NotFound, Overloaded
from acebase_ipc.relay.feed import ENTRY_OVERHEAD, Feed
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.memory import MemoryBudget
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.registry import Registry

IDLE: Final = 24 * 3600.0
"""Seconds for which changes are kept although nobody reads them."""

MAX_FEEDS: Final = 64
"""Paths of one database that are followed. Each costs a writer one event for each write there."""

MAX_DATABASES: Final = 1_000
"""Databases that are followed."""

_PREFIX: Final = b"changes-"
"""Begins the ids under which relays subscribe."""

_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")
"""Line ends between the tokens of JSON; within texts they are escaped."""

_SUBSCRIBE: Final = b'{"type":"subscribe","from":"%b","data":{"path":%b,"event":"mutations"}}'


class History:
    """The feeds of one database.

    :ivar feeds: by path.
    :ivar size: the bytes that all events occupy.
    """

    def __init__(self, now: float) -> None:
        self.feeds: dict[str, Feed] = {}
        self.size = 0
        self.used = now
        self._order: deque[Feed] = deque()

    def add(self, feed: Feed, event: bytes, max_messages: int, max_bytes: int) -> None:
        """Keep an event, and drop the oldest ones beyond the limits."""
        feed.add(event)
        self._order.append(feed)
        self.size += len(event) + ENTRY_OVERHEAD
        while len(self._order) > max_messages or (len(self._order) > 1 and self.size > max_bytes):
            self.size -= self._order.popleft().drop_oldest()

    def forget(self, is_interrupted: bool = False) -> None:
        """Forget all events.

        :param is_interrupted: whether one may be missing, also for the readers that have had all.
        """
        self._order.clear()
        self.size = 0
        for feed in self.feeds.values():
            if is_interrupted:
                feed.interrupt()
            else:
                feed.forget()
            feed.wake()


def is_writer(peer: Peer) -> bool:
    """Return whether *peer* may write: a process of the npm package, or a master."""
    return peer.dialect is ACEBASE and (peer.restarts or peer.is_master)


class Histories:
    """The histories of all databases.

    :param clock: returns monotonic seconds.
    :ivar id: the id under which this relay subscribes.
    """

    def __init__(
        self,
        limits: Limits,
        registry: Registry,
        delivery: Delivery,
        budget: MemoryBudget,
        clock: Callable[[], float],
    ) -> None:
        self._histories: dict[str, History] = {}
        self.apply(limits)
        self._registry = registry
        self._delivery = delivery
        self._budget = budget
        self._clock = clock
        self.id = _PREFIX + secrets.token_hex(8).encode()
        self._hello = Message(b'{"type":"hello","from":"%b"}' % self.id)

    def apply(self, limits: Limits) -> None:
        """Use these *limits* from now on."""
        self._max_messages = limits.history_messages
        self._max_bytes = limits.history_bytes
        if self._max_messages is None:
            self.clear()

    @property
    def memory(self) -> int:
        """The bytes that all events occupy."""
        return sum(each.size for each in self._histories.values())

    # Readers

    def follow(self, database: str, path: str, cursor: str | None) -> tuple[Feed, int | None]:
        """Return the feed of a path, and the number of the last event that a reader has.

        Without a *cursor* the reader has none, and the feed begins now if nobody has followed it.

        :raises NotFound: if this relay keeps no history.
        :raises HistoryGap: if not all events after the cursor are kept.
        :raises Overloaded: if too many paths are followed.
        """
        if self._max_messages is None:
            raise NotFound("This relay keeps no history of changes (--history-messages)")
        history = self._histories.get(database)
        if cursor is None:
            return self._feed(database, history, path), None
        feed = None if history is None else history.feeds.get(path)
        if feed is None:
            raise HistoryGap
        return feed, feed.position(cursor)

    def _feed(self, database: str, history: History | None, path: str) -> Feed:
        if history is None:
            if len(self._histories) >= MAX_DATABASES:
                raise Overloaded("The changes of too many databases are followed")
            history = self._histories[database] = History(self._clock())
        feed = history.feeds.get(path)
        if feed is None:
            if len(history.feeds) >= MAX_FEEDS:
                raise Overloaded("Too many paths of this database are followed")
            feed = history.feeds[path] = Feed(path)
            found = self._registry.databases.get(database)
            for peer in () if found is None else found.peers.values():
                self._ask(peer, [feed])
            feed.wake()
        history.used = self._clock()
        return feed

    def expire(self, now: float) -> None:
        """Forget the histories that nobody has read for a long time."""
        for name, history in tuple(self._histories.items()):
            if any(each.readers for each in history.feeds.values()):
                history.used = now
            elif history.used + IDLE <= now:
                del self._histories[name]
                self._take_leave(name)
            database = self._registry.databases.get(name)
            peers = () if database is None else database.peers.values()
            present = {each.id for each in peers if not each.said_bye}
            for feed in history.feeds.values():
                if feed.awaited:
                    feed.awaited &= present
                    feed.wake()

    def clear(self) -> None:
        """Forget all, as another relay goes on or no history is kept any more."""
        histories, self._histories = self._histories, {}
        for history in histories.values():
            history.forget(is_interrupted=True)

    def give_up(self) -> None:
        """Forget all events, because memory is needed."""
        for history in self._histories.values():
            if history.size:
                history.forget()

    # Writers

    def joined(self, peer: Peer) -> None:
        """Ask a new *peer*, if it may write, for the events of all feeds."""
        history = self._histories.get(peer.database.name)
        if history is not None and history.feeds:
            self._ask(peer, list(history.feeds.values()))

    @property
    def databases(self) -> set[str]:
        """The names of the databases whose changes are kept."""
        return set(self._histories)

    def interrupted(self, peer: Peer) -> None:
        """Note that something that *peer* has sent may be lost."""
        if is_writer(peer):
            self.interrupt(peer.database.name)

    def interrupt(self, database: str) -> None:
        """Note that an event in *database* may be lost."""
        history = self._histories.get(database)
        if history is not None:
            history.forget(is_interrupted=True)

    def _ask(self, peer: Peer, feeds: list[Feed]) -> None:
        """Subscribe at *peer*, and greet it: it answers when it knows the subscriptions."""
        if not is_writer(peer) or peer.said_bye:
            return
        for feed in feeds:
            feed.awaited.add(peer.id)
            self._delivery.send(peer, Message(_SUBSCRIBE % (self.id, json_string(feed.path))))
        self._delivery.send(peer, self._hello)

    def _take_leave(self, name: str) -> None:
        database = self._registry.databases.get(name)
        message = Message(b'{"type":"bye","from":"%b"}' % self.id)
        for peer in () if database is None else database.peers.values():
            if is_writer(peer):
                self._delivery.send(peer, message)

    def received(self, sender: Peer, addressee: bytes, body: bytes) -> bool:
        """Take a message to an *addressee* that is no peer; returns whether that was this one."""
        if not addressee.startswith(_PREFIX):
            return False
        history = self._histories.get(sender.database.name)
        if addressee != self.id or history is None:
            # It has subscribed for a relay that has ended, or that has forgotten the history.
            if body.startswith(EVENT_START):
                bye = b'{"type":"bye","from":%b}' % json_string(addressee.decode())
                self._delivery.send(sender, Message(bye))
        elif body.startswith(EVENT_START):
            self._record(history, sender, body)
        elif body.startswith(HELLO_START):
            self._greeted(history, sender)
        return True

    def _record(self, history: History, sender: Peer, body: bytes) -> None:
        start = b'{"type":"event","from":%b,"to":"%b","path":' % (
            json_string(sender.client_id),
            self.id,
        )
        path, _, _ = body[len(start) :].partition(b',"event":"mutations","data":')
        try:
            feed = history.feeds.get(json.loads(path)) if body.startswith(start) else None
        except (ValueError, TypeError):
            feed = None
        if feed is None or self._max_messages is None:
            return
        if b"\n" in body or b"\r" in body:
            body = body.translate(_LINE_ENDS)
        history.add(feed, body, self._max_messages, self._max_bytes)
        feed.wake()
        self._budget.growth += len(body) + ENTRY_OVERHEAD
        if self._budget.is_due:
            self._delivery.enforce_memory_limit()

    def _greeted(self, history: History, sender: Peer) -> None:
        """Note that *sender* knows all subscriptions now.

        A master may have written before, as it needs no other process for its locks.
        """
        feeds = [each for each in history.feeds.values() if sender.id in each.awaited]
        for feed in feeds:
            feed.awaited.discard(sender.id)
        if sender.is_master and any(each.has_begun for each in feeds):
            history.forget(is_interrupted=True)
        for feed in feeds:
            feed.wake()
