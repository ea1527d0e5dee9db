"""The process of the relay of a soak, and those that follow it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self

from tests.certificates import make_certificate
from tests.integration.relay_process import Twistd, endpoint, find_addresses
from tests.soak.member import KEEPALIVE, MAX_PAYLOAD, RESTARTED_TIMEOUT, SESSION_TIMEOUT, TOKEN

OPTIONS: Final[dict[str, Any]] = {
    "token": TOKEN,
    "limits": {
        "max_payload": MAX_PAYLOAD,
        "max_backlog": 4 << 20,
        "session_timeout": SESSION_TIMEOUT,
        "session_timeout_closed": SESSION_TIMEOUT,
        "message_ttl": 30.0,
        "keepalive_interval": KEEPALIVE / 2,
        "keepalive_timeout": KEEPALIVE / 2,
        "handshake_timeout": 30,
        "request_timeout": 30,
        "http_idle": 20,
    },
}

SCRIPT: Final = Path(__file__).with_name("relay.py")


class Change(Enum):
    """How another process becomes the relay."""

    HAND_OVER = "hand-over"
    RESTART = "restart"


class SoakedRelay:
    """The relay under test, with its gauges, and those that follow it.

    :ivar change: how each follows the one before; ``None``: none does.
    :ivar is_secure: whether the second one of its ports speaks TLS.
    :ivar ports: its ports, which stay the same.
    :ivar present: the id of the present process.
    :ivar changes: how many processes have followed the first one.
    """

    def __init__(self, directory: Path, change: Change | None) -> None:
        self.change = change
        self._earlier = ""
        self.changes = 0
        self.is_secure = change is not Change.HAND_OVER
        self._pem = make_certificate(directory).pem
        self._state = None if change is None else str(directory / "state")
        self._start((0, 0))
        self.ports = [each.port for each in find_addresses(self.log)]

    def _start(self, ports: tuple[int, ...]) -> None:
        plain = [endpoint("tcp", each, interface="127.0.0.1") for each in ports]
        if self.is_secure:
            plain[1] = endpoint("ssl", ports[1], interface="127.0.0.1", privateKey=self._pem)
        options = OPTIONS | {"endpoints": plain, "state_dir": self._state}
        if self.change is Change.RESTART:
            options["limits"] = OPTIONS["limits"] | {"session_timeout": RESTARTED_TIMEOUT}
        path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._twistd = Twistd(
            *("--nodaemon", "--pidfile=", "--python", str(SCRIPT)),
            environment={
                "SOAK": json.dumps(options),
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
            },
        )
        self.present = self._twistd.pid
        self._wait_gauges(1)

    def _wait_gauges(self, count: int) -> None:
        """Wait until the log of the present process, or of its predecessors, too, has them."""
        self._twistd.wait_for("gauges", lambda log: log.count("gauges at") == count)
        self._gauges = int(self._twistd.log.rpartition("gauges at ")[2].split()[0])

    @property
    def log(self) -> str:
        """What all processes have written."""
        return self._earlier + self._twistd.log

    def follow(self) -> None:
        """Let a new process be the relay."""
        self.changes += 1
        if self.change is Change.RESTART:
            self._twistd.stop()
            self._earlier += self._twistd.log
            self._start(tuple(self.ports))
            return
        os.kill(self.present, signal.SIGUSR2)
        count = self.changes
        self._twistd.wait_for("successor", lambda log: log.count(" has taken over") == count)
        self._wait_gauges(count + 1)
        self.present = int(self.log.rpartition(" has taken over")[0].rpartition(" ")[2])

    def describe_changes(self) -> str:
        """What the processes say of how they have followed each other."""
        if self.change is Change.RESTART:
            stops = map(float, re.findall(r"the state is saved, ([\d.]+) s", self.log))
            restored = len(re.findall(r"is restored: ", self.log))
            return f"stopped within {max(stops, default=0):.2f} s, {restored} states restored"
        pauses = re.findall(r"are taken over, in (\d+) ms", self.log)
        return f"handed over in at most {max(map(int, pauses))} ms"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self.present != self._twistd.pid:
            os.kill(self.present, signal.SIGTERM)  # the first process has ended
            self._twistd.wait_for("its end", lambda log: "stopped" in log)
        self._twistd.__exit__(kind, error, traceback)

    async def gauges(self) -> dict[str, Any]:
        """The numbers that it reports."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._gauges)
        data = await reader.read()
        writer.close()
        numbers: dict[str, Any] = json.loads(data)
        return numbers

    def fds(self) -> int:
        """The number of its open file descriptors; 0 while there is no process."""
        try:
            return len(list(Path(f"/proc/{self.present}/fd").iterdir()))
        except OSError:
            return 0

    def rss(self) -> int:
        """Its resident memory in bytes; 0 while there is no process."""
        try:
            pages = Path(f"/proc/{self.present}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * 4096
