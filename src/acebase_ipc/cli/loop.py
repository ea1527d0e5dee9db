"""Runs a coroutine in Twisted's reactor, for commands that are clients of the relay."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Return what the coroutine of *main*, which gets the reactor, returns; once a process.

    Nothing is logged: what matters is in the result.

    :raises KeyboardInterrupt: if SIGINT has stopped the reactor.
    """
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred
    from twisted.logger import globalLogBeginner
    from twisted.python.failure import Failure

    reactor: Any = installed
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    outcomes: list[Any] = []

    def ended(outcome: Any) -> None:
        outcomes.append(outcome)
        reactor.stop()

    def start() -> None:
        Deferred.fromCoroutine(main(reactor)).addBoth(ended)

    reactor.callWhenRunning(start)
    reactor.run()
    if not outcomes:
        raise KeyboardInterrupt
    if isinstance(outcomes[0], Failure):
        outcomes[0].raiseException()
    result: T = outcomes[0]
    return result
