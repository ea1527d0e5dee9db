"""Server processes: acebase-ipc of this or of another Python environment, and the baselines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.processes import ROOT, BenchError, cpu_seconds, pin

START_SECONDS = 30.0
STOP_SECONDS = 10.0
LISTENING = re.compile(r"listening on (wss?)://(127\.0\.0\.1):(\d+)")

BACKLOG = 4096
"""Connections that wait to be accepted: an attack opens thousands at once."""

THIS_PYTHON = Path(sys.executable)
PROJECT = "acebase-ipc"
TOOLS = frozenset({PROJECT, "pip", "setuptools", "wheel"})
"""Distributions that may differ between two environments that are compared."""

LIST_DISTRIBUTIONS = """
import importlib.metadata, json, sys
found = {each.name.lower(): each.version for each in importlib.metadata.distributions()}
print(json.dumps({"python": sys.version, **found}))
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that accepts connections.

    :ivar pid: its process; 0 if that is unknown.
    """

    url: str
    pid: int = 0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a socket."""
        host, _, port = self.url.partition("://")[2].partition(":")
        return host, int(port)

    def memory(self, kind: str = "VmRSS") -> int:
        """Bytes of resident memory: at present, or (``VmHWM``) the peak.

        :raises BenchError: if the system does not tell.
        """
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        if found is None:
            raise BenchError(f"/proc/{self.pid}/status has no {kind}")
        return int(found[1]) * 1024

    def reset_peak(self) -> None:
        """Start a new peak of the resident memory."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        """Seconds of CPU time used so far, user and system."""
        return cpu_seconds(self.pid)


@dataclass(frozen=True, slots=True)
class Program:
    """A server that can be started.

    :ivar command: the command line, given a file with key and certificate (``None``: no TLS).
    :ivar isolated: whether it must not see this process's ``PYTHONPATH``.
    :ivar environment: variables that it gets besides.
    :ivar has_http: whether messages can be sent to it and downloaded over HTTP.
    """

    command: Callable[[Path | None], list[str]]
    isolated: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    has_http: bool = True


def relay(python: Path = THIS_PYTHON, *options: str) -> Program:
    """The acebase-ipc that is installed for *python*, started as its users start it."""

    def command(pem: Path | None) -> list[str]:
        endpoint = f"tcp:0:interface=127.0.0.1:backlog={BACKLOG}"
        if pem is not None:
            path = str(pem).replace("\\", r"\\").replace(":", r"\:")
            endpoint = f"ssl:0:interface=127.0.0.1:privateKey={path}:backlog={BACKLOG}"
        twistd = str(python.with_name("twistd"))
        fixed = (twistd, "-n", "--pidfile=", PROJECT, "--port", endpoint)
        return [*fixed, *_without_warm_up(python), *options]

    return Program(command, isolated=python != THIS_PYTHON)


@cache
def _without_warm_up(python: Path) -> tuple[str, ...]:
    """The option that lets a master be asked about its files at once, where there is one.

    The master of a workload has none to open.
    """
    code = "from acebase_ipc.relay.limits import Limits; print(hasattr(Limits, 'master_warmup'))"
    found = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
    return ("--master-warmup=0",) if found.stdout.strip() == "True" else ()


def _baseline(module: str, has_http: bool) -> Program:
    def command(pem: Path | None) -> list[str]:
        tls = [] if pem is None else ["--tls", str(pem)]
        return [sys.executable, "-m", module, "--port", "0", *tls]

    return Program(command, has_http=has_http)


BASELINE = _baseline("bench.stock_relay", has_http=True)
"""The plain Autobahn relay."""

PICOWS = _baseline("bench.picows_relay", has_http=False)
"""The bare relay on picows and uvloop."""


@contextmanager
def running_server(
    program: Program,
    log: Path,
    pem: Path | None = None,
    core: int | None = None,
    options: Sequence[str] = (),
) -> Iterator[Server]:
    """Start *program* on a free port of loopback, and stop it at the end of the block.

    :param log: a file for its output.
    :param pem: key and certificate, for TLS.
    :param core: the core to pin it to.
    :param options: further ones of its command line.
    :raises BenchError: if it does not listen within :data:`START_SECONDS`.
    """
    ignored = ("ACEBASE_IPC_", "PYTHONPATH") if program.isolated else ("ACEBASE_IPC_",)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ignored)}
    environment |= {"PYTHONUNBUFFERED": "1", **program.environment}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*program.command(pem), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
        ) as child,
    ):
        try:
            pin(child.pid, core)
            yield Server(_wait_for_url(child, log), child.pid)
            child.terminate()
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            child.kill()


def _wait_for_url(child: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        found = LISTENING.search(log.read_text(errors="replace"))
        if found is not None:
            return f"{found[1]}://{found[2]}:{found[3]}"
        time.sleep(0.02)
    raise BenchError(f"no server: {child.args!r} wrote:\n{log.read_text(errors='replace')}")


def distributions(python: Path) -> dict[str, str]:
    """Versions of *python* itself and of all distributions that are installed for it.

    :raises BenchError: if it cannot be run.
    """
    try:
        output = subprocess.run(
            [python, "-I", "-c", LIST_DISTRIBUTIONS], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"{python} cannot be run: {error}") from error
    found: dict[str, str] = json.loads(output)
    return found


def require_equal(here: dict[str, str], there: dict[str, str]) -> None:
    """Check that two environments differ in nothing but acebase-ipc.

    The environment *here* may have more distributions, such as this benchmark's.

    :raises BenchError: if *there* anything is missing or has another version than *here*.
    """
    if PROJECT not in there:
        raise BenchError(f"{PROJECT} is not installed there")
    different = [
        f"{name} {here.get(name, 'missing')} and {there[name]}"
        for name in sorted(there.keys() - TOOLS)
        if here.get(name) != there[name]
    ]
    if different:
        raise BenchError(f"the environments cannot be compared: {'; '.join(different)}")
