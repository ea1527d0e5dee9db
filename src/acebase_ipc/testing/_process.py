"""The process of :func:`acebase_ipc.testing.running.running_relay`.

It reads its configuration from stdin, writes its URL to stdout, and stops at the end of
stdin: when the test closes it, and when the test's process has ended. Warnings and errors
go to stderr.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.python.failure import Failure

from acebase_ipc.server.config import AceBaseIPCServerConfig
from acebase_ipc.server.service import AceBaseIPCServer


class _StandardInput(Protocol):
    """Waits for the end of stdin.

    :ivar ended: fires at the end.
    """

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Stdin has ended."""
        self.ended.callback(None)


async def serve(reactor: Any, config: AceBaseIPCServerConfig) -> None:
    """Run a relay until stdin ends."""
    server = AceBaseIPCServer(config, reactor)
    await server.start()
    stdin = _StandardInput()
    StandardIO(stdin, reactor=reactor)
    print(server.url, flush=True)  # noqa: T201
    await stdin.ended
    await server.stop()


def main() -> None:
    """Run a relay with the configuration that stdin gives."""
    warnings = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [warnings])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    config = pickle.load(sys.stdin.buffer)
    react(lambda reactor: Deferred.fromCoroutine(serve(reactor, config)))


if __name__ == "__main__":
    main()
