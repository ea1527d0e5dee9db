"""Calling user code: callbacks, and the Deferreds that users hold.

A user's function may do anything with the client that calls it: send, cancel, stop it,
start it again. So one rule holds for each such call: the client first brings its own
state in order and only then calls, and no call is made while another one runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from inspect import iscoroutine
from types import TracebackType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

T = TypeVar("T")

log = Logger()


class Callouts:
    """A queue of calls of user code, which are made one after the other.

    Used in a ``with`` statement it defers the calls to the end of the block, where the
    state is consistent again. A call that is queued while another one runs is made
    after it, not within it. Steps of our own that have to take place between two calls
    are queued like them.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._blocks = 0
        self._calling = False

    def __enter__(self) -> None:
        self._blocks += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._blocks -= 1
        self._run()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call *function* when its turn has come; its errors are logged."""
        self._waiting.append((function, arguments))
        self._run()

    def settle(self, deferred: Deferred[Any], outcome: object = None) -> None:
        """Fire *deferred* with a result or a ``Failure``, unless it is cancelled before."""
        self.call(_settle, deferred, outcome)

    def settle_all(self, deferreds: Iterable[Deferred[Any]], outcome: object = None) -> None:
        """Fire all of *deferreds*, like :meth:`settle`."""
        with self:
            for each in tuple(deferreds):
                self.settle(each, outcome)

    def expose(self, inner: Deferred[T]) -> Deferred[T]:
        """A Deferred for users, which fires as *inner* does; cancelling it cancels *inner*."""
        outer: Deferred[T] = Deferred(lambda _: inner.cancel())
        inner.addBoth(lambda outcome: self.settle(outer, outcome))
        return outer

    def _run(self) -> None:
        if self._blocks or self._calling:
            return
        self._calling = True
        try:
            while self._waiting:
                function, arguments = self._waiting.popleft()
                try:
                    result = function(*arguments)
                except Exception:
                    log.failure("a callback failed")
                else:
                    if result is not None:
                        _log_failure_of(result)
        finally:
            self._calling = False


def _settle(deferred: Deferred[Any], outcome: object) -> None:
    if not deferred.called:
        deferred.callback(outcome)


def _log_failure_of(result: object) -> None:
    """Run what an ``async def`` returned; nothing else waits for it."""
    if iscoroutine(result):
        result = Deferred.fromCoroutine(result)
    if isinstance(result, Deferred):
        result.addErrback(lambda failure: log.failure("a callback failed", failure))


class Callbacks:
    """Functions to call when something happens.

    :param callouts: makes the calls.
    """

    def __init__(self, callouts: Callouts) -> None:
        self._callouts = callouts
        self._registered: dict[object, Callable[..., object]] = {}

    def add(self, callback: Callable[..., object]) -> Callable[[], None]:
        """Call *callback* from now on.

        :returns: a function that ends this, and nothing else: if the same function is
            added twice, each addition ends separately.
        :raises TypeError: if it cannot be called.
        """
        key = object()
        self._registered[key] = checked_callable(callback)

        def stop() -> None:
            self._registered.pop(key, None)

        return stop

    def call(self, *arguments: Any) -> None:
        """Call them in the order they were added, except those that are removed meanwhile."""
        with self._callouts:
            for key in tuple(self._registered):
                self._callouts.call(self._call, key, arguments)

    def _call(self, key: object, arguments: tuple[Any, ...]) -> object:
        callback = self._registered.get(key)
        return None if callback is None else callback(*arguments)


def checked_callable(function: Callable[..., object]) -> Callable[..., object]:
    """Return *function*.

    :raises TypeError: if it cannot be called.
    """
    if not callable(function):
        raise TypeError(f"a callback is a function, not {type(function).__name__}")
    return function
