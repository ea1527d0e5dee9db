"""Relays of a cluster in processes of their own, which can be killed and suspended."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from acebase_ipc import AceBaseIPCServerConfig


class RelayProcess:
    """A relay in a process of its own.

    :ivar url: where clients connect to.
    """

    def __init__(self, config: AceBaseIPCServerConfig) -> None:
        self._config = config
        self.url = ""
        self._child: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it, without waiting."""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "acebase_ipc.testing._process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._child.stdin is not None
        self._child.stdin.write(pickle.dumps(self._config))
        self._child.stdin.flush()

    def wait_listening(self) -> None:
        """Wait until it listens."""
        assert self._child is not None
        assert self._child.stdout is not None
        self.url = self._child.stdout.readline().decode().strip()
        assert self.url, "the relay has not started: its process wrote the reason to stderr"

    @property
    def http(self) -> str:
        """The URL for requests."""
        return self.url.replace("ws", "http", 1)

    def _signal(self, number: int) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def freeze(self) -> None:
        """Suspend it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> float:
        """End it at once, as SIGKILL does; returns the time."""
        self._signal(signal.SIGKILL)
        killed = time.monotonic()
        assert self._child is not None
        self._child.wait()
        return killed

    def end(self) -> None:
        """End it if it is running."""
        child = self._child
        if child is not None and child.poll() is None:
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.wait()
        if child is not None and child.stdin is not None and child.stdout is not None:
            with suppress(BrokenPipeError):
                child.stdin.close()
            child.stdout.close()


@contextmanager
def relay_processes(
    configs: list[AceBaseIPCServerConfig], begun: int
) -> Iterator[list[RelayProcess]]:
    """Run relays until the end of the block; the first *begun* of them are started."""
    relays = list(map(RelayProcess, configs))
    try:
        for each in relays[:begun]:
            each.begin()
        for each in relays[:begun]:
            each.wait_listening()
        yield relays
    finally:
        for each in relays:
            each.end()
