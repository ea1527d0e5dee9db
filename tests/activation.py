"""A relay on a socket that another process holds, as with systemd's socket activation.

with listening_socket() as listener, ActivatedRelay(listener) as relay:
    ...                     # relay has ended, and the socket still listens
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from tests.acebase.cluster import DEADLINE, UNLUCKY_PORT, Address, Process
from tests.integration.relay_process import TWISTD

BACKLOG = 4096
"""Connections that may wait to be accepted; as in contrib/systemd/acebase-ipc.socket."""

STOP_SECONDS = 5.0
"""In which a relay has to end."""

# sd_listen_fds(3): the descriptors from 3 on, for one process by its id. Their names
# (LISTEN_FDNAMES) are left out, as service managers other than systemd do.
LAUNCHER = """
import fcntl, os, sys
given = map(int, sys.argv[1].split(","))
listeners = [fcntl.fcntl(each, fcntl.F_DUPFD, 64) for each in given]
for number, each in enumerate(listeners, 3):
    os.dup2(each, number)
os.closerange(3 + len(listeners), 4096)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(listeners)))
os.environ.pop("ACEBASE_IPC_TOKEN", None)
os.execv(sys.argv[2], sys.argv[2:])
"""


def listening_socket(port: int = 0) -> socket.socket:
    """A socket that listens on a port of loopback; by default on a free one."""
    while True:
        listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        if port or not UNLUCKY_PORT.search(str(listener.getsockname()[1])):
            return listener
        listener.close()


def activated(listeners: Sequence[socket.socket], *command: str | Path) -> list[str]:
    """The command that gives the *listeners* to the process of *command*."""
    descriptors = ",".join(str(each.fileno()) for each in listeners)
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, descriptors, *map(str, command)]


class ActivatedRelay(Process):
    """``twistd -n acebase-ipc`` on a socket that listens already; returns when it serves.

    :ivar seconds_to_serve: how long it took from its start until it answered.
    """

    def __init__(
        self,
        listener: socket.socket,
        *options: str,
        environment: Mapping[str, str] | None = None,
        interpreter: tuple[str | Path, ...] = (),
    ) -> None:
        """:param interpreter: what runs twistd, if not the system by itself."""
        twistd = (*interpreter, TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc")
        endpoint = ("--port", "systemd:")
        self.address = Address(listener.getsockname()[1])
        began = time.monotonic()
        super().__init__(
            "relay",
            activated([listener], *twistd, *endpoint, *options),
            {"PYTHONUNBUFFERED": "1", **(environment or {})},
            inherited=(listener.fileno(),),
        )
        port = f":{self.address.port}"

        def listens() -> bool:
            return any("listening on" in each and each.endswith(port) for each in self.output)

        try:
            self.wait_for("listening", listens)
            with urlopen(f"http://127.0.0.1:{self.address.port}/healthz", timeout=DEADLINE) as page:
                assert page.read() == b"ok"
        except BaseException:
            self.kill()
            raise
        self.seconds_to_serve = time.monotonic() - began

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop it as a service manager does; it must shut down cleanly and in time."""
        self.signal(signal.SIGTERM)
        try:
            status = self.wait_ended(seconds)
        finally:
            self.kill()
        said = self.text()
        assert status in (0, -signal.SIGTERM), f"the relay ended with {status}: {said[-4000:]}"
        assert "stopped" in said, said
        assert "Traceback" not in said, said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None and not self.ended:
            self.stop()
        self.kill()
