"""The proxy that stands for a network: builds, starts and asks ``delay.c``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from bench.processes import BenchError, compilation

SOURCE = Path(__file__).with_name("delay.c")

PROBES = 300
"""Round trips of one measurement of the exactness."""


def build_proxy(directory: Path) -> Path:
    """Compile the proxy into *directory*.

    :raises BenchError: without a compiler, or if it fails.
    """
    path = directory / "delay"
    command = compilation(path, [SOURCE], "the proxy")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"the proxy does not compile:\n{done.stderr}")
    return path


@dataclass(frozen=True, slots=True)
class Exactness:
    """How much longer a round trip takes than twice the delay and one without, in microseconds."""

    median: float
    p99: float


def measure_exactness(proxy: Path, milliseconds: float, probes: int = PROBES) -> Exactness:
    """Send bytes through the proxy and back while nothing else happens."""
    without = median(_round_trips(proxy, 0, probes))
    nanoseconds = round(milliseconds * 1e6)
    delayed = _round_trips(proxy, nanoseconds, probes)
    extra = [each - without - 2 * nanoseconds for each in delayed]
    hundredths = quantiles(extra, n=100)
    return Exactness(hundredths[49] / 1000, hundredths[98] / 1000)


def _round_trips(proxy: Path, nanoseconds: int, probes: int) -> list[int]:
    command = [str(proxy), "probe", str(nanoseconds), str(probes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(each) for each in done.stdout.split()]


class Proxy:
    """A running proxy.

    :ivar port: the port to connect to.
    :ivar is_real_time: whether the system lets it run as soon as something is due.
    """

    def __init__(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        self._commands, self._answers = child.stdin, child.stdout
        _, port, kind = self._answers.readline().split()
        self.port = int(port)
        self.is_real_time = kind == "real-time"

    def delay(self, milliseconds: float) -> None:
        """Deliver what arrives from now on so much later."""
        self._commands.write(f"delay {round(milliseconds * 1e6)}\n")
        self._commands.flush()

    def lateness(self) -> dict[str, Any]:
        """How much later than due it has delivered since the last call: p50, p99 and maximum."""
        self._commands.write("report\n")
        self._commands.flush()
        late: dict[str, Any] = json.loads(self._answers.readline())
        return late


@contextmanager
def running_proxy(program: Path, target: int) -> Iterator[Proxy]:
    """Run a proxy for the port *target* of loopback; at first it delivers at once."""
    with subprocess.Popen(
        [str(program), str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield Proxy(child)
        finally:
            child.kill()
