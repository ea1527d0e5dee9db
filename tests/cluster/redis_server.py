"""A Redis of the tests, on a Unix socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.programs import program

START_SECONDS = 20.0
"""Seconds. It starts within hundredths of one; a loaded machine may take longer."""


class RedisServer:
    """A process of redis-server that can be killed, suspended and started again."""

    def __init__(self, directory: Path, executable: str) -> None:
        self._directory = directory
        self._executable = executable
        self.socket = str(directory / "redis.sock")
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [self._executable, "--port", "0", "--unixsocket", self.socket, "--save", ""]
        with open(self._directory / "redis.log", "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "redis-server has ended"
            assert time.monotonic() < deadline, "redis-server does not answer"
            os.sched_yield()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.settimeout(START_SECONDS)
            client.connect(self.socket)
            client.sendall(b"PING\r\n")
            return client.recv(100).startswith(b"+PONG")
        return False

    def kill(self) -> None:
        """End it at once, as SIGKILL does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Suspend it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_server(directory: Path) -> Iterator[RedisServer]:
    """Run a Redis until the end of the block; skip the test where there is none."""
    server = RedisServer(directory, program("redis-server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()
