"""Asynchronous iterators of messages."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callouts
from acebase_ipc.client.errors import ClientError, ClientStopped, SlowReader
from acebase_ipc.client.outbox import MAX_MESSAGES


class Messages:
    """An asynchronous iterator of messages.

    Made by :meth:`~acebase_ipc.client.service.IPCClient.messages`.
    """

    # callouts fires the Deferreds of readers. awaited holds the iterators that have readers,
    # so that a reader need not hold the iterator, as in "await anext(client.messages())".
    def __init__(self, callouts: Callouts, max_bytes: int, awaited: set[Messages]) -> None:
        self._callouts = callouts
        self._max_bytes = max_bytes
        self._size = 0
        self._arrived: deque[tuple[str, int]] = deque()
        self._readers: deque[Deferred[str]] = deque()
        self._awaited = awaited
        self._ended: Exception | None = None

    def put(self, text: str, size: int) -> None:
        """Add a message of *size* bytes."""
        if self._ended is not None:
            return
        too_large = self._size and self._size + size > self._max_bytes
        if not self._readers and (too_large or len(self._arrived) >= MAX_MESSAGES):
            self.end(SlowReader(self._max_bytes))
            return
        self._arrived.append((text, size))
        self._size += size
        if self._readers:
            self._callouts.call(self._serve)

    def end(self, error: ClientError | None = None) -> None:
        """Add no more: raise *error* after what has arrived, unless it is a normal end."""
        if self._ended is None:
            normal = error is None or isinstance(error, ClientStopped)
            self._ended = StopAsyncIteration() if normal else error
            self._callouts.call(self._serve)

    def __aiter__(self) -> Messages:
        return self

    def __anext__(self) -> Deferred[str]:
        if self._arrived:
            return succeed(self._take())
        if self._ended is not None:
            return fail(self._ended)
        reader: Deferred[str] = Deferred(self._forget)
        self._readers.append(reader)
        self._awaited.add(self)
        return reader

    def _serve(self) -> None:
        while self._readers and (self._arrived or self._ended is not None):
            reader = self._readers[0]
            self._forget(reader)
            if self._arrived:
                reader.callback(self._take())
            else:
                reader.errback(Failure(self._ended))

    def _take(self) -> str:
        text, size = self._arrived.popleft()
        self._size -= size
        return text

    def _forget(self, reader: Deferred[str]) -> None:
        self._readers.remove(reader)
        if not self._readers:
            self._awaited.discard(self)

    async def aclose(self) -> None:
        """Receive no more messages, and discard those that wait."""
        self._arrived.clear()
        self._size = 0
        self.end()
