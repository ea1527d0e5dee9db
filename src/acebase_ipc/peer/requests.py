"""Requests between AceBase processes: those sent and not answered yet, and those to answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callouts, checked_callable
from acebase_ipc.client.errors import PingTimeout, QueueFull, RequestDenied
from acebase_ipc.peer.errors import (
    PeerError,
    PeerGone,
    RemoteError,
    RequestTimedOut,
    UnknownRequest,
)
from acebase_ipc.protocol.envelopes import (
    UNKNOWN_REQUEST,
    Request,
    Result,
    failure,
    result,
    unknown,
)
from acebase_ipc.relay.limits import MIB

MAX_PEER_REQUESTS: Final = 1_000
"""Requests of one process that are answered at a time: each takes some 1.5 KiB beside its
data. A process that has more open is broken, or asks faster than it is answered."""

MAX_REQUESTS: Final = 10_000
"""Requests of all processes that are answered at a time."""

MAX_REQUEST_BYTES: Final = 64 * MIB
"""Bytes of all requests that are answered at a time; one alone may have any size."""

log = Logger()

Answer = Callable[[Any, str], object]
"""Is given the data of a request and the id of the process that asks; may return a
Deferred or a coroutine."""


@dataclass(slots=True)
class _Pending:
    to: str
    grace: float
    deferred: Deferred[Any]
    error: PeerError
    deadline: IDelayedCall


def check_times(timeout: float, grace: float) -> None:
    """Check the times of a request.

    :raises ValueError: unless *timeout* is more than 0 and *grace* not negative.
    """
    if not (timeout > 0 and grace >= 0 and isfinite(timeout) and isfinite(grace)):
        raise ValueError("timeout is more than 0 seconds, grace 0 seconds or more")


class PendingRequests:
    """The requests that have been sent and wait for a result.

    :param callouts: fires their Deferreds.
    :param clock: returns what their timeouts run on.
    """

    def __init__(self, callouts: Callouts, clock: Callable[[], IReactorTime]) -> None:
        self._callouts = callouts
        self._clock = clock
        self._pending: dict[str, _Pending] = {}

    def add(self, id: str, to: str, timeout: float, grace: float) -> Deferred[Any]:
        """Wait for the result of request *id* to process *to*.

        :param timeout: seconds, after which it fails with :exc:`RequestTimedOut`.
        :param grace: seconds for a second result where the first says that the type
            of the request is unknown.
        """
        deferred: Deferred[Any] = Deferred(lambda _: self._forget(id))
        deadline = self._clock().callLater(timeout, self._expire, id)
        error = RequestTimedOut(to, timeout)
        self._pending[id] = _Pending(to, grace, deferred, error, deadline)
        return deferred

    def resolve(self, result: Result) -> bool:
        """Take a result, and return whether a request waits for it.

        In the npm package acebase the storage answers every request at once, and one
        that is the application's with an error; only then the application answers as
        well. So this error is not believed before its grace is over.
        """
        pending = self._pending.get(result.id)
        if pending is None or pending.to != result.sender:
            return False
        if (reason := _reason(result)) is None:
            self._finish(result.id, result.data)
        elif reason.startswith(UNKNOWN_REQUEST):
            pending.error = UnknownRequest(pending.to, reason)
            remaining = pending.deadline.getTime() - self._clock().seconds()
            pending.deadline.reset(max(0, min(pending.grace, remaining)))
        else:
            self._finish(result.id, Failure(RemoteError(pending.to, reason)))
        return True

    def fail(self, id: str, reason: Failure) -> None:
        """Fail a request that could not be sent, unless it has ended already."""
        self._finish(id, reason)

    def leave(self, peer: str) -> None:
        """Fail the requests to *peer*, which is gone."""
        gone = [id for id, each in self._pending.items() if each.to == peer]
        with self._callouts:
            for id in gone:
                self._finish(id, Failure(PeerGone(peer)))

    def cancel(self) -> None:
        """Cancel all requests."""
        with self._callouts:
            for id in tuple(self._pending):
                self._finish(id, Failure(CancelledError()))

    def _finish(self, id: str, outcome: object) -> None:
        pending = self._take(id)
        if pending is not None:
            self._callouts.settle(pending.deferred, outcome)

    def _forget(self, id: str) -> None:
        self._take(id)

    def _take(self, id: str) -> _Pending | None:
        pending = self._pending.pop(id, None)
        if pending is not None and pending.deadline.active():
            pending.deadline.cancel()
        return pending

    def _expire(self, id: str) -> None:
        self._finish(id, Failure(self._pending[id].error))


def _reason(result: Result) -> str | None:
    """Return why a request failed; ``None`` if it did not.

    The npm package acebase puts the errors of its own requests into the data.
    """
    if not result.ok:
        return result.reason
    match result.data:
        case {"ok": False, "reason": str(reason), **rest} if not rest:
            return reason
    return None


@dataclass(slots=True, eq=False)
class _Work:
    """A request that a function is working at."""

    request: Request
    size: int
    deferred: Deferred[Any] | None = None


class Answers:
    """The functions that answer requests, and the requests that they are working at.

    :param callouts: calls the functions.
    :param id: the id of this process.
    :param send: sends a message to the process of that id.
    """

    def __init__(
        self, callouts: Callouts, id: str, send: Callable[[str, str], Deferred[None]]
    ) -> None:
        self._callouts = callouts
        self._id = id
        self._send = send
        self._functions: dict[str, tuple[Answer]] = {}
        self._running: dict[tuple[str, str], _Work] = {}
        self._counts: Counter[str] = Counter()
        self._bytes = 0

    def register(self, type: str, function: Answer) -> Callable[[], None]:
        """Let *function* answer requests of *type*, until the returned function is called.

        :raises ValueError: if another function does.
        :raises TypeError: if it cannot be called.
        """
        if type in self._functions:
            raise ValueError(f"Requests of type {type!r} are answered already")
        entry = (function,)
        checked_callable(function)
        self._functions[type] = entry

        def stop() -> None:
            if self._functions.get(type) is entry:
                del self._functions[type]

        return stop

    def answer(self, request: Request, size: int) -> None:
        """Answer a request of *size* bytes, now or when the function has done its work.

        Exactly once: a second result ends the process of the npm package acebase.
        """
        entry = self._functions.get(request.type)
        key = request.sender, request.id
        if entry is None:
            self._give(request, unknown(self._id, request.sender, request.id, request.type))
        elif key in self._running:
            return
        elif self._is_busy(request.sender, size):
            self._give(
                request, self._failure(request, "too many or too large requests at the same time")
            )
        else:
            work = self._running[key] = _Work(request, size)
            self._counts[request.sender] += 1
            self._bytes += size
            self._callouts.call(self._begin, work, *entry)

    def _is_busy(self, peer: str, size: int) -> bool:
        too_many = len(self._running) >= MAX_REQUESTS or self._counts[peer] >= MAX_PEER_REQUESTS
        return too_many or (bool(self._running) and self._bytes + size > MAX_REQUEST_BYTES)

    def leave(self, peer: str) -> None:
        """Cancel the work for *peer*, which is gone: a process that returns under its id
        does not expect the results."""
        self._cancel([each for key, each in self._running.items() if key[0] == peer])

    def cancel(self) -> None:
        """Cancel all work."""
        self._cancel(list(self._running.values()))

    def _cancel(self, works: list[_Work]) -> None:
        for work in works:
            self._take(work)
        with self._callouts:
            for work in works:
                if work.deferred is not None:
                    self._callouts.call(work.deferred.cancel)

    def _is_running(self, work: _Work) -> bool:
        return self._running.get((work.request.sender, work.request.id)) is work

    def _take(self, work: _Work) -> bool:
        """Remove *work*; returns whether it was still to be answered."""
        if not self._is_running(work):
            return False
        key = work.request.sender, work.request.id
        del self._running[key]
        self._bytes -= work.size
        self._counts[key[0]] -= 1
        if not self._counts[key[0]]:
            del self._counts[key[0]]
        return True

    def _begin(self, work: _Work, function: Answer) -> None:
        request = work.request
        if self._is_running(work):
            working = maybeDeferred(function, request.data, request.sender)
            working.addBoth(self._finished, work)
            if self._is_running(work):
                work.deferred = working
            else:  # it is done, or the function has cancelled it by stopping the peer
                working.cancel()

    def _finished(self, outcome: object, work: _Work) -> None:
        if not self._take(work):
            if isinstance(outcome, Failure) and not outcome.check(CancelledError):
                log.failure("work that was cancelled failed", outcome)
            return
        request = work.request
        if not isinstance(outcome, Failure):
            try:
                text = result(self._id, request.sender, request.id, outcome)
            except Exception:  # of any kind: a value of the user may raise what it likes
                outcome = Failure()
        if isinstance(outcome, Failure):
            log.failure("a request of type {type} failed", outcome, type=request.type)
            text = self._failure(request, _text_of(outcome.value))
        self._give(request, text)

    def _failure(self, request: Request, why: str) -> str:
        return failure(self._id, request.sender, request.id, why)

    def _give(self, request: Request, text: str) -> None:
        """Send an answer; if the relay certainly did not relay it, a short one that says so."""

        def refused(reason: Failure) -> None:
            reason.trap(QueueFull, RequestDenied, PingTimeout)
            log.warn("an answer was not sent: {why}", why=reason.getErrorMessage())
            why = self._failure(request, f"cannot send the answer: {reason.getErrorMessage()}")
            self._send(why, request.sender).addErrback(not_sent)

        def not_sent(reason: Failure) -> None:
            log.warn("not sent: {why}", why=reason.getErrorMessage())

        self._send(text, request.sender).addErrback(refused).addErrback(not_sent)


def _text_of(error: BaseException | None) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__
