"""Stores large messages until their recipients have downloaded them."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.limits import MIB
from acebase_ipc.relay.state import StoredState, StoreState

_ID_BYTES: Final = 24
"""Random bytes of a message's id: 192 bits cannot be guessed (RFC 4086 asks for 128)."""

REFETCH_PERIOD: Final = 10.0
"""Seconds for which a message can be downloaded again after it was written completely:
the kernel takes up to some megabytes before it notices that the connection is broken."""

REFETCH_BYTES: Final = 32 * MIB
"""Bytes of messages that are kept for that alone, or one message: of each connection the kernel
holds a part only. More would be memory that no cache has any more when it is written to again:
messages of 1 MB, posted and downloaded one after the other, would take a fifth longer."""

ENTRY_SIZE: Final = 120
"""Bytes that each recipient of a message uses, beside the body; measured."""

Key = tuple[str, bytes, str]
"""A database, a recipient and the id of a message."""


@dataclass(slots=True, eq=False)
class StoredMessage:
    """A message that waits to be downloaded.

    :ivar expires: when it is dropped, in monotonic seconds.
    :ivar entries: how many recipients may download it.
    :ivar unfetched: how many of these have not downloaded it yet.
    :ivar readers: how many downloads are in progress.
    """

    database: str
    body: bytes
    recipients: tuple[bytes, ...]
    expires: float
    entries: int
    unfetched: int
    readers: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A download in progress, which keeps its body even if the message is dropped.

    :ivar interrupt: called when a newer download of the same recipient takes its place.
    """

    key: Key
    message: StoredMessage = field(repr=False)
    interrupt: Callable[[], object] = field(repr=False)

    @property
    def body(self) -> bytes:
        """The bytes to write."""
        return self.message.body


class MessageStore:
    """Keeps each large message until every recipient has downloaded it.

    :ivar stored: bytes of all messages and their entries, including those that have
        expired and are still being read.
    :ivar received: how many messages were put here so far.
    :ivar downloaded: how many downloads were completed so far.
    :ivar pass_on: called with the database, recipient and id of each download that is completed,
        when another relay has these messages, too.
    """

    def __init__(self, ttl: float) -> None:
        """:param ttl: seconds after which a message that was not downloaded is dropped."""
        self.ttl = ttl
        self._messages: OrderedDict[str, StoredMessage] = OrderedDict()  # in the order they expire
        self._by_recipient: dict[tuple[str, bytes], set[str]] = {}
        self._readings: dict[Key, Reading] = {}
        self._fetched: OrderedDict[Key, float] = OrderedDict()  # when each is dropped, in order
        self._reclaimable: OrderedDict[str, StoredMessage] = (
            OrderedDict()
        )  # kept only to be fetched again
        self._reclaimable_bytes = 0
        self.stored = 0
        self.received = 0
        self.downloaded = 0
        self.pass_on: Callable[[Key], object] | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, database: str, body: bytes, recipients: Iterable[bytes], now: float) -> str:
        """Keep *body* for *recipients*, at least one, until *now* + ttl.

        :returns: the message's id, which cannot be guessed.
        :raises ValueError: without recipients.
        """
        unique = tuple(dict.fromkeys(recipients))
        if not unique:
            raise ValueError("a message without recipients")
        message_id = secrets.token_urlsafe(_ID_BYTES)
        count = len(unique)
        self._messages[message_id] = StoredMessage(
            database, body, unique, now + self.ttl, entries=count, unfetched=count
        )
        for recipient in unique:
            self._by_recipient.setdefault((database, recipient), set()).add(message_id)
        self.stored += len(body) + count * ENTRY_SIZE
        self.received += 1
        return message_id

    def messages_of(self, database: str) -> Iterator[StoredMessage]:
        """Yield the messages of *database* that wait to be downloaded, the oldest first."""
        for message in self._messages.values():
            if message.database == database and message.unfetched:
                yield message

    def open(
        self, database: str, recipient: bytes, message_id: str, interrupt: Callable[[], object]
    ) -> Reading:
        """Begin a download, which the caller has to :meth:`finish` or :meth:`abandon`.

        A recipient has one download of a message at a time: an earlier one, whose
        connection may be broken unnoticed, is interrupted.

        :raises NotFound: if no such message waits for this peer.
        """
        if message_id not in self._by_recipient.get((database, recipient), ()):
            raise NotFound("No such message waits for this peer")
        key = (database, recipient, message_id)
        message = self._messages[message_id]
        previous = self._readings.get(key)
        message.readers += 1
        self._take_back(message_id)
        if previous is not None:
            self.abandon(previous)
        reading = self._readings[key] = Reading(key, message, interrupt)
        if previous is not None:
            previous.interrupt()
        return reading

    def finish(self, reading: Reading, now: float) -> None:
        """Note that a download was written completely; it may be repeated for some seconds."""
        if self._readings.get(reading.key) is reading:
            self.note_fetched(reading.key, now)
            if self.pass_on is not None:
                self.pass_on(reading.key)
        self.abandon(reading)

    def note_fetched(self, key: Key, now: float) -> None:
        """Note that a recipient has a message, which it may download again for some seconds.

        :param key: the database, recipient and id.
        """
        database, recipient, message_id = key
        waits = message_id in self._by_recipient.get((database, recipient), ())
        if waits and key not in self._fetched:
            self._fetched[key] = now + REFETCH_PERIOD
            message = self._messages[message_id]
            message.unfetched -= 1
            self.downloaded += 1
            self._settle(message_id, message)

    def abandon(self, reading: Reading) -> None:
        """End a download; without :meth:`finish` it counts as broken."""
        if self._readings.get(reading.key) is not reading:
            return
        del self._readings[reading.key]
        message = reading.message
        message.readers -= 1
        self._settle(reading.key[2], message)

    def make_room(self, limit: int) -> None:
        """Drop messages that all recipients have downloaded while more than *limit* is stored."""
        while self.stored > limit and self._reclaimable:
            self._reclaim_first()

    def _reclaim_first(self) -> None:
        message_id, message = next(iter(self._reclaimable.items()))
        for recipient in message.recipients:
            self._drop((message.database, recipient, message_id))

    def _take_back(self, message_id: str) -> None:
        """Note that a message is not, or no longer, kept only to be fetched again."""
        message = self._reclaimable.pop(message_id, None)
        if message is not None:
            self._reclaimable_bytes -= len(message.body)

    def forget(self, database: str, recipient: bytes) -> int:
        """Drop the messages for *recipient*, which has left.

        :returns: how many of them it has not downloaded.
        """
        keys = [(database, recipient, each) for each in self._ids(database, recipient)]
        unfetched = sum(key not in self._fetched for key in keys)
        for key in keys:
            self._drop(key)
        return unfetched

    def expire(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Drop messages that have expired, and yield the database and recipient of each loss."""
        while self._fetched:
            key, until = next(iter(self._fetched.items()))
            if until > now:
                break
            self._drop(key)
        while self._messages:
            message_id, message = next(iter(self._messages.items()))
            if message.expires > now:
                return
            for recipient in message.recipients:
                key = (message.database, recipient, message_id)
                lost = key not in self._fetched
                if self._drop(key) and lost:
                    yield message.database, recipient

    def export(self, now: float) -> StoreState:
        """Return all that can be downloaded.

        :param now: monotonic seconds.
        """
        waiting: dict[str, list[bytes]] = {each: [] for each in self._messages}
        for (_, recipient), message_ids in self._by_recipient.items():
            for each in message_ids:
                waiting[each].append(recipient)
        return StoreState(
            tuple(
                StoredState(
                    message_id,
                    message.database,
                    message.body,
                    message.recipients,
                    tuple(each for each in message.recipients if each in waiting[message_id]),
                    message.expires - now,
                )
                for message_id, message in self._messages.items()
            ),
            tuple((*key, until - now) for key, until in self._fetched.items()),
            tuple(self._reclaimable),
            self.received,
            self.downloaded,
        )

    def adopt(self, state: StoreState, now: float) -> None:
        """Keep what another relay has kept.

        :param now: monotonic seconds.
        """
        for each in state.messages:
            count = len(each.waiting)
            self._messages[each.id] = StoredMessage(
                each.database, each.body, each.recipients, now + each.left, count, count
            )
            for recipient in each.waiting:
                self._by_recipient.setdefault((each.database, recipient), set()).add(each.id)
            self.stored += len(each.body) + count * ENTRY_SIZE
        for database, recipient, message_id, left in state.fetched:
            self._fetched[database, recipient, message_id] = now + left
            self._messages[message_id].unfetched -= 1
        kept = (*state.reclaimable, *self._messages)  # downloads have ended with the other relay
        for message_id in kept:
            if message_id in self._messages:  # no other has taken its place
                self._settle(message_id, self._messages[message_id])
        self.received += state.received
        self.downloaded += state.downloaded

    def clear(self) -> None:
        """Drop all messages; downloads in progress keep theirs until they end."""
        for database, recipient in tuple(self._by_recipient):
            self.forget(database, recipient)

    def _ids(self, database: str, recipient: bytes) -> tuple[str, ...]:
        return tuple(self._by_recipient.get((database, recipient), ()))

    def _drop(self, key: Key) -> bool:
        """Drop a message for one recipient, and return whether it was stored for that."""
        database, recipient, message_id = key
        mine = self._by_recipient.get((database, recipient))
        if mine is None or message_id not in mine:
            return False
        mine.remove(message_id)
        if not mine:
            del self._by_recipient[database, recipient]
        message = self._messages[message_id]
        message.entries -= 1
        if self._fetched.pop(key, None) is None:
            message.unfetched -= 1
        self.stored -= ENTRY_SIZE
        if not message.entries:
            del self._messages[message_id]
        self._settle(message_id, message)
        return True

    def _settle(self, message_id: str, message: StoredMessage) -> None:
        """Drop a message without readers and recipients, or mark it as one that may be dropped."""
        if message.readers:
            return
        if not message.entries:
            self._take_back(message_id)
            self.stored -= len(message.body)
        elif not message.unfetched and message_id not in self._reclaimable:
            self._reclaimable[message_id] = message
            self._reclaimable_bytes += len(message.body)
            while self._reclaimable_bytes > REFETCH_BYTES and len(self._reclaimable) > 1:
                self._reclaim_first()
