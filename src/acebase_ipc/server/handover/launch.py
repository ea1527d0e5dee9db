"""Starts the successor of a relay: the same command, in a new process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twisted.internet.protocol import ProcessProtocol

from acebase_ipc.server.handover.successor import VARIABLE

_DESCRIPTOR: Final = 3
"""The number that the socket has in the new process."""

_OF_THIS_PROCESS: Final = frozenset({"LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_PID"})
"""Variables of a service manager that are meant for one process only."""


@dataclass(frozen=True, slots=True)
class Command:
    """The command with which this process was started.

    :ivar arguments: its arguments, without the interpreter.
    :ivar directory: where it was started.
    """

    arguments: tuple[str, ...] = field(default_factory=lambda: tuple(sys.orig_argv[1:]))
    directory: str = field(default_factory=os.getcwd)

    def start(self, reactor: Any, environment: Mapping[str, str]) -> socket.socket:
        """Run it again; returns a socket to the new process.

        :raises OSError: if it cannot be started.
        """
        own, others = socket.socketpair()
        variables = {
            name: each for name, each in environment.items() if name not in _OF_THIS_PROCESS
        }
        variables[VARIABLE] = str(_DESCRIPTOR)
        descriptors = {0: 0, 1: 1, 2: 2, _DESCRIPTOR: others.fileno()}
        try:
            reactor.spawnProcess(
                ProcessProtocol(),
                sys.executable,
                [sys.executable, *self.arguments],
                variables,
                self.directory,
                childFDs=descriptors,
            )
        except BaseException:
            own.close()
            raise
        finally:
            others.close()
        return own
