"""Requests between AceBase processes: those sent and not answered yet, and those to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

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

log = Logger()

Answer = Callable[[Any, str], object]
"""Given the data of a request and the id of who asks; may return a Deferred or a coroutine."""


@dataclass(slots=True)
class _Pending:
    to: str
    grace: float
    deferred: Deferred[Any]
    error: PeerError
    deadline: IDelayedCall


class PendingRequests:
    """The requests that have been sent and wait for a result.

    :param clock: returns what their timeouts run on.
    """

    def __init__(self, clock: Callable[[], IReactorTime]) -> None:
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
        """Take a result, and return whether somebody waits for it.

        In a published client AceBase's own storage answers every request at once,
        and one that is the application's with an error; only then the application
        answers as well. So this error is not believed before its grace is over.
        """
        pending = self._pending.get(result.id)
        if pending is None or pending.to != result.sender:
            return False
        if (reason := _reason(result)) is None:
            self._finish(result.id).callback(result.data)
        elif reason.startswith(UNKNOWN_REQUEST):
            pending.error = UnknownRequest(pending.to, reason)
            remaining = pending.deadline.getTime() - self._clock().seconds()
            pending.deadline.reset(min(pending.grace, remaining))
        else:
            self._finish(result.id).errback(RemoteError(pending.to, reason))
        return True

    def fail(self, id: str, reason: Failure) -> None:
        """End a request that could not be sent, unless it has ended already."""
        if id in self._pending:
            self._finish(id).errback(reason)

    def leave(self, peer: str) -> None:
        """*peer* is gone: it answers no more."""
        for id in [id for id, each in self._pending.items() if each.to == peer]:
            self._finish(id).errback(PeerGone(peer))

    def cancel(self) -> None:
        """Nobody is listening any more: cancel every Deferred."""
        for pending in list(self._pending.values()):
            pending.deferred.cancel()

    def _finish(self, id: str) -> Deferred[Any]:
        deferred = self._pending[id].deferred
        self._forget(id)
        return deferred

    def _forget(self, id: str) -> None:
        pending = self._pending.pop(id)
        if pending.deadline.active():
            pending.deadline.cancel()

    def _expire(self, id: str) -> None:
        error = self._pending[id].error
        self._finish(id).errback(error)


def _reason(result: Result) -> str | None:
    """Why a request failed; ``None`` if it did not.

    Published clients put the errors of their own requests into the data.
    """
    if not result.ok:
        return result.reason
    match result.data:
        case {"ok": False, "reason": str(reason), **rest} if not rest:
            return reason
    return None


class Answers:
    """The functions that answer requests, and the requests that they work at.

    :param id: of the own process.
    :param send: hands a message to the process of that id.
    """

    def __init__(self, id: str, send: Callable[[str, str], object]) -> None:
        self._id = id
        self._send = send
        self._functions: dict[str, Answer] = {}
        self._running: dict[tuple[str, str], Deferred[Any]] = {}

    def register(self, type: str, function: Answer) -> Callable[[], None]:
        """Let *function* answer requests of *type*, until what is returned is called.

        :raises ValueError: if another function does.
        """
        if type in self._functions:
            raise ValueError(f"Requests of type {type!r} are answered already")
        self._functions[type] = function

        def stop() -> None:
            if self._functions.get(type) is function:
                del self._functions[type]

        return stop

    def answer(self, request: Request) -> None:
        """Answer a request, now or when the function has done its work: exactly once,
        because a published client ends over a second result."""
        function = self._functions.get(request.type)
        key = request.sender, request.id
        if function is None:
            self._send(unknown(self._id, request.sender, request.id, request.type), request.sender)
        elif key not in self._running:
            working = maybeDeferred(function, request.data, request.sender)
            self._running[key] = working
            working.addCallbacks(
                self._succeeded, self._failed, callbackArgs=(request,), errbackArgs=(request,)
            )
            working.addErrback(lambda reason: log.failure("cannot answer a request", reason))

    def leave(self, peer: str) -> None:
        """*peer* is gone: forget what it asked for, because whoever returns under its id
        would not expect the results."""
        for key in [key for key in self._running if key[0] == peer]:
            self._running.pop(key).cancel()

    def cancel(self) -> None:
        """End all work."""
        for peer in {peer for peer, _ in self._running}:
            self.leave(peer)

    def _succeeded(self, data: Any, request: Request) -> None:
        try:
            text = result(self._id, request.sender, request.id, data)
        except (TypeError, ValueError):
            self._failed(Failure(), request)
        else:
            self._finish(request, text)

    def _failed(self, reason: Failure, request: Request) -> None:
        if (request.sender, request.id) not in self._running and reason.check(CancelledError):
            return
        log.failure("a request of type {type} failed", reason, type=request.type)
        why = str(reason.value) or type(reason.value).__name__
        self._finish(request, failure(self._id, request.sender, request.id, why))

    def _finish(self, request: Request, text: str) -> None:
        if self._running.pop((request.sender, request.id), None) is not None:
            self._send(text, request.sender)
