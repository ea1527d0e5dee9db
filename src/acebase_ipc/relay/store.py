"""Large messages that wait for their recipients to download them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from acebase_ipc.relay.errors import NotFound

_ID_BYTES = 24
"""Random bytes of a message's id: nobody guesses 192 bits (RFC 4086 asks for 128)."""


@dataclass(slots=True)
class StoredMessage:
    database: str
    body: bytes
    waiting: set[bytes]
    expires: float


class MessageStore:
    """Keeps each large message until every recipient has downloaded it.

    :ivar stored: the bytes of all waiting messages together.
    """

    def __init__(self, ttl: float) -> None:
        """:param ttl: seconds after which an unfetched message is dropped."""
        self._ttl = ttl
        self._letters: dict[str, StoredMessage] = {}  # in the order they expire
        self._by_recipient: dict[tuple[str, bytes], set[str]] = {}
        self.stored = 0

    def put(self, database: str, body: bytes, recipients: Iterable[bytes], now: float) -> str:
        """Keep *body* for *recipients*, at least one, until *now* + ttl.

        :returns: the message's id, which cannot be guessed.
        :raises ValueError: without recipients.
        """
        message_id = secrets.token_urlsafe(_ID_BYTES)
        waiting = set(recipients)
        if not waiting:
            raise ValueError("a message that nobody is to fetch")
        self._letters[message_id] = StoredMessage(database, body, waiting, now + self._ttl)
        for recipient in waiting:
            self._by_recipient.setdefault((database, recipient), set()).add(message_id)
        self.stored += len(body)
        return message_id

    def get(self, database: str, recipient: bytes, message_id: str) -> bytes:
        """The body of a message that waits for *recipient*.

        It stays until :meth:`taken` says that the recipient has all of it.

        :raises NotFound: if no such message waits for this very peer.
        """
        if message_id not in self._by_recipient.get((database, recipient), ()):
            raise NotFound("No such message waits for this peer")
        return self._letters[message_id].body

    def taken(self, database: str, recipient: bytes, message_id: str) -> None:
        """*recipient* has downloaded the message and cannot do so again."""
        mine = self._by_recipient.get((database, recipient))
        if mine is None or message_id not in mine:
            return
        mine.remove(message_id)
        if not mine:
            del self._by_recipient[database, recipient]
        letter = self._letters[message_id]
        letter.waiting.remove(recipient)
        if not letter.waiting:
            del self._letters[message_id]
            self.stored -= len(letter.body)

    def forget(self, database: str, recipient: bytes) -> int:
        """*recipient* is gone: nothing waits for it any more.

        :returns: how many messages it has not fetched.
        """
        unfetched = tuple(self._by_recipient.get((database, recipient), ()))
        for message_id in unfetched:
            self.taken(database, recipient, message_id)
        return len(unfetched)

    def expire(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Drop what has waited too long; yields each database and recipient."""
        while self._letters:
            message_id, letter = next(iter(self._letters.items()))
            if letter.expires > now:
                return
            for recipient in tuple(letter.waiting):
                self.taken(letter.database, recipient, message_id)
                yield letter.database, recipient
