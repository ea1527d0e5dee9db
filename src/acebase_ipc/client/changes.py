"""Follows the changes under a path of a database, over ``GET /<db>/changes``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callouts
from acebase_ipc.client.errors import HistoryGap, RequestDenied, RequestFailed
from acebase_ipc.protocol.envelopes import Event, InvalidEnvelope, Mutation, parse
from acebase_ipc.relay.limits import KIB

SILENCE: Final = 40.0
"""Seconds after which a stream is taken for broken: the relay sends a comment every 15."""

MAX_FIELDS: Final = 4 * KIB
"""Bytes of an event beside its data."""

_GONE: Final = 410
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Refusals that pass."""

log = Logger()


@dataclass(frozen=True, slots=True)
class Change:
    """What one write has changed under a path.

    :ivar cursor: where to go on after it; store it with what was done.
    :ivar path: the path that is followed.
    :ivar mutations: the changes, each with its target below the path.
    :ivar context: what the writer attached with ``ref.context(…)``.
    :ivar sender: the id of the writing process.
    """

    cursor: str
    path: str
    mutations: tuple[Mutation, ...]
    context: Mapping[str, Any]
    sender: str


class ChangesHTTP(Protocol):
    """What is needed of the relay's HTTP endpoints."""

    def stream(self, path: str, received: Callable[[bytes], None]) -> Deferred[None]:
        """Read an answer that has no end; cancelling the Deferred ends the connection."""


class Changes:
    """An asynchronous iterator of :class:`Change`, which goes on after a lost connection.

    Made by :meth:`.AceBasePeer.changes`. It ends when the client is stopped. It raises
    :exc:`~acebase_ipc.client.errors.HistoryGap` where changes may be missing, and
    :exc:`~acebase_ipc.client.errors.RequestDenied` if the relay refuses it.

    :ivar cursor: where to go on after the change that was returned last; ``None`` until the
        relay has told where it begins.
    """

    def __init__(
        self,
        http: ChangesHTTP,
        path: str,
        since: str | None,
        callouts: Callouts,
        reactor: Any,
        retry_policy: Callable[[int], float],
        max_queue: int,
        max_message: int,
        ended: Callable[[Changes], object],
    ) -> None:
        self.cursor = since
        self._http = http
        self._path = path
        self._received_until = since
        self._callouts = callouts
        self._reactor = reactor
        self._retry_policy = retry_policy
        self._max_queue = max_queue
        self._max_message = max_message
        self._on_end = ended
        self._arrived: deque[tuple[Change, int]] = deque()
        self._size = 0
        self._readers: deque[Deferred[Change]] = deque()
        self._is_ready = False
        self._waiting: list[Deferred[None]] = []
        self._ended: Exception | None = None
        self._unread = bytearray()
        self._searched = 0
        self._is_full = False
        self._has_heard = False
        self._room: Deferred[None] | None = None
        self._stream: Deferred[None] | None = None
        self._pause: Deferred[None] | None = None
        self._deadline: IDelayedCall | None = None
        Deferred.fromCoroutine(self._run()).addErrback(self._failed)

    # For its user

    def when_ready(self) -> Deferred[None]:
        """Wait until every later change will come: read the database then.

        :returns: a Deferred that fires at once if that is so. It fails as the iterator does.
        """
        if self._is_ready:
            return succeed(None)
        if self._ended is not None:
            return fail(self._ended)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def __aiter__(self) -> Changes:
        return self

    def __anext__(self) -> Deferred[Change]:
        if self._arrived:
            return succeed(self._take())
        if self._ended is not None:
            return fail(self._ended)
        reader: Deferred[Change] = Deferred(self._readers.remove)
        self._readers.append(reader)
        return reader

    async def aclose(self) -> None:
        """Follow the changes no more, and discard those that wait."""
        self._arrived.clear()
        self._size = 0
        self.end(StopAsyncIteration())

    # From here on for the client

    def end(self, error: Exception) -> None:
        """Raise *error* after what has arrived."""
        if self._ended is None:
            self._ended = error
            self._on_end(self)
            self._callouts.call(self._serve)
            for each in (self._stream, self._pause):
                if each is not None:
                    each.cancel()

    async def _run(self) -> None:
        failures = 0
        while self._ended is None:
            self._has_heard = self._is_full = False
            self._unread.clear()
            self._searched = 0
            try:
                await self._follow()
            except RequestDenied as error:
                if error.status == _GONE:
                    self.end(HistoryGap())
                elif error.status not in _AGAIN:
                    self.end(error)
            except (RequestFailed, CancelledError):
                pass
            failures = 1 if self._has_heard else failures + 1
            if self._ended is None:
                await self._rest(failures)

    async def _rest(self, failures: int) -> None:
        """Wait until what has arrived is read, or until it is time for another attempt."""
        if self._is_full and self._arrived:
            self._room = self._pause = Deferred()
        else:
            self._pause = deferLater(self._reactor, self._retry_policy(failures))
        try:
            await self._pause
        except CancelledError:
            pass
        finally:
            self._room = self._pause = None

    async def _follow(self) -> None:
        query = f"changes?path={quote(self._path, safe='')}"
        if self._received_until is not None:
            query += f"&since={self._received_until}"
        self._stream = self._http.stream(query, self._received)
        self._deadline = self._reactor.callLater(SILENCE, self._stream.cancel)
        try:
            await self._stream
        finally:
            self._stream = None
            if self._deadline.active():
                self._deadline.cancel()

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            log.failure("{doing} failed", failure, doing="following changes")
            self.end(RequestFailed("following changes failed; see the log"))

    def _received(self, data: bytes) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.reset(SILENCE)
        if self._is_full or self._ended is not None:
            return  # the relay is asked for it again
        self._unread += data
        for fields in self._events():
            self._handle(fields)
            if self._is_full or self._ended is not None:
                break
        if len(self._unread) > self._max_message + MAX_FIELDS:
            self._refuse()

    def _refuse(self) -> None:
        reason = f"a change exceeds {self._max_message} bytes: raise max_message"
        self.end(RequestFailed(reason))

    def _events(self) -> Iterator[dict[str, str]]:
        """Yield the fields of each event that is complete."""
        while (end := self._unread.find(b"\n\n", max(0, self._searched - 1))) >= 0:
            block = self._unread[:end].decode("utf-8", "replace")
            del self._unread[: end + 2]
            self._searched = 0
            lines = (line.partition(":") for line in block.split("\n"))
            yield {name: value.removeprefix(" ") for name, _, value in lines if name}
        self._searched = len(self._unread)

    def _handle(self, fields: dict[str, str]) -> None:
        kind, cursor = fields.get("event"), fields.get("id")
        if kind == "gap":
            self.end(HistoryGap())
        elif cursor is None:
            return
        self._has_heard = True
        if kind == "ready":
            self._received_until = cursor
            if self.cursor is None and not self._arrived:
                self.cursor = cursor
            self._is_ready = True
            waiting, self._waiting = self._waiting, []
            self._callouts.settle_all(waiting)
        elif kind is None and cursor is not None:
            self._received_until = cursor
            self._add(cursor, fields.get("data", ""))

    def _add(self, cursor: str, text: str) -> None:
        if len(text) > self._max_message:
            self._refuse()
            return
        try:
            event = parse(text)
        except InvalidEnvelope:
            return
        if not isinstance(event, Event):
            return
        change = Change(cursor, self._path, event.mutations, event.context, event.sender)
        self._arrived.append((change, len(text)))
        self._size += len(text)
        if self._readers:
            self._callouts.call(self._serve)
        if self._arrived and self._size > self._max_queue and self._stream is not None:
            self._is_full = True
            self._reactor.callLater(0, self._stream.cancel)

    def _serve(self) -> None:
        while self._readers and (self._arrived or self._ended is not None):
            reader = self._readers.popleft()
            if self._arrived:
                reader.callback(self._take())
            else:
                reader.errback(Failure(self._ended))
        if self._ended is not None:
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                each.errback(Failure(self._ended))

    def _take(self) -> Change:
        change, size = self._arrived.popleft()
        self._size -= size
        self.cursor = change.cursor
        if not self._arrived and self._room is not None:
            self._callouts.settle(self._room)
        return change
