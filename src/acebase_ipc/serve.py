"""``acebase-ipc serve``: a relay in the foreground, without ``twistd``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from twisted.logger import globalLogBeginner
from twisted.python.usage import UsageError

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.handover.successor import connect
from acebase_ipc.server.logging import StreamOutput
from acebase_ipc.server.process import Launch, Signals
from acebase_ipc.tap import Options

FAILED = 1
WRONG_USAGE = 2


class ServeOptions(Options):
    """The options of ``twistd acebase-ipc``, for a command of another name."""

    def getSynopsis(self) -> str:
        """Return the first line of the help."""
        return "Usage: acebase-ipc serve [options]"


def serve(arguments: Sequence[str]) -> int:
    """Run a relay until SIGTERM or SIGINT; returns the exit status.

    :param arguments: the options of ``twistd acebase-ipc``.
    """
    signals = Signals()  # before the imports below, which take most of the time of a start
    options = ServeOptions()
    try:
        options.parseOptions(list(arguments))
    except UsageError as error:
        return _complain(f"{error} (see  acebase-ipc serve --help)", WRONG_USAGE)
    from twisted.internet import reactor as _reactor

    from acebase_ipc.server.daemon import Daemon
    from acebase_ipc.server.handover.wire import HandOverError

    reactor: Any = _reactor
    writer = options.make_writer(StreamOutput(sys.stdout))
    try:
        link = connect(options.settings.take_over_from, os.environ, time.monotonic)
        daemon = Daemon(
            options.sources, reactor, signals, Launch(), writer, options.log_level, link
        )
    except (ConfigError, HandOverError) as error:
        return _complain(str(error), FAILED)
    globalLogBeginner.beginLoggingTo([writer])
    reactor.addSystemEventTrigger("before", "shutdown", daemon.stopService)
    daemon.startService()
    reactor.run()
    return 0


def _complain(text: str, status: int) -> int:
    assert sys.__stderr__ is not None
    sys.__stderr__.write(f"acebase-ipc: {text}\n")
    return status
