"""How a client's users hear of what happens: callbacks, and iterators of messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from inspect import iscoroutine
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.errors import ClientError, ClientStopped, SlowReader
from acebase_ipc.client.outbox import MAX_MESSAGES

log = Logger()


def settle(waiting: Iterable[Deferred[None]], outcome: Failure | None = None) -> None:
    """Fire all of *waiting*, except those that are cancelled meanwhile.

    :param outcome: with what they fail, if they do.
    """
    for each in tuple(waiting):  # cancelling one may change the original
        if not each.called:
            each.callback(outcome)


class Callbacks:
    """Functions to be called, all of them, whatever one of them does."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[..., object]] = []

    def add(self, callback: Callable[..., object]) -> Callable[[], None]:
        """Call *callback* from now on; returns a function that ends this."""
        # Each time it is added it is another one, which can be removed alone.
        entry = _Entry(callback)
        self._callbacks.append(entry)

        def stop() -> None:
            if entry in self._callbacks:
                self._callbacks.remove(entry)

        return stop

    def call(self, *arguments: Any) -> None:
        """Call them in the order they were added; their errors are logged."""
        for callback in tuple(self._callbacks):
            try:
                result = callback(*arguments)
            except Exception:
                log.failure("a callback failed")
            else:
                _run(result)


class _Entry:
    def __init__(self, callback: Callable[..., object]) -> None:
        self._callback = callback

    def __call__(self, *arguments: Any) -> object:
        return self._callback(*arguments)


def _run(result: object) -> None:
    """Let go on what a callback has begun: nobody else waits for it."""
    if iscoroutine(result):
        result = Deferred.fromCoroutine(result)
    if isinstance(result, Deferred):
        result.addErrback(lambda failure: log.failure("a callback failed", failure))


class Messages:
    """An asynchronous iterator of messages.

    Made by :meth:`~acebase_ipc.client.service.IPCClient.messages`.

    :param max_bytes: how much may wait to be read.
    :param awaited: holds the iterators that somebody waits for: who waits need not hold
        the iterator, as in ``await anext(client.messages())``.
    """

    def __init__(self, max_bytes: int, awaited: set[Messages]) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._arrived: deque[tuple[str, int]] = deque()
        self._readers: deque[Deferred[str]] = deque()
        self._awaited = awaited
        self._ended: Exception | None = None

    def put(self, text: str, size: int) -> None:
        """A message of *size* bytes has come."""
        if self._ended is not None:
            return
        if self._readers:
            self._next_reader().callback(text)
        elif (self._size and self._size + size > self._max_bytes) or (
            len(self._arrived) >= MAX_MESSAGES
        ):
            self.end(SlowReader(self._max_bytes))
        else:
            self._arrived.append((text, size))
            self._size += size

    def end(self, error: ClientError | None = None) -> None:
        """There is no more: after what has come, raise *error*, unless it is no error."""
        if self._ended is None:
            normal = error is None or isinstance(error, ClientStopped)
            self._ended = StopAsyncIteration() if normal else error
            while self._readers:
                self._next_reader().errback(Failure(self._ended))

    def __aiter__(self) -> Messages:
        return self

    def __anext__(self) -> Deferred[str]:
        if self._arrived:
            text, size = self._arrived.popleft()
            self._size -= size
            return succeed(text)
        if self._ended is not None:
            return fail(self._ended)
        reader: Deferred[str] = Deferred(self._wait_no_longer)
        self._readers.append(reader)
        self._awaited.add(self)
        return reader

    def _next_reader(self) -> Deferred[str]:
        reader = self._readers[0]
        self._wait_no_longer(reader)
        return reader

    def _wait_no_longer(self, reader: Deferred[str]) -> None:
        self._readers.remove(reader)
        if not self._readers:
            self._awaited.discard(self)

    async def aclose(self) -> None:
        """Take no more messages."""
        self._arrived.clear()
        self._size = 0
        self.end()
