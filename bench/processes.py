"""The processes of a run: the servers, the load generator, and their cores."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench" / "load"
TWISTD = Path(sys.executable).with_name("twistd")
LISTENING = re.compile(r"listening on (wss?://127\.0\.0\.1:\d+)")

START_SECONDS = 30.0
STOP_SECONDS = 10.0
GENERATOR_SECONDS = 300.0
"""The generator ends itself before that."""

Sample = dict[str, Any]
"""What the generator has measured in one run, or why it has not."""


class BenchError(Exception):
    """Something without which nothing can be measured."""


# ---- The generator


def find_compiler() -> str | None:
    """A C compiler: ``$CC``, or the system's."""
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")


@dataclass(frozen=True, slots=True)
class Generator:
    """The compiled load generator.

    :ivar tls: whether it was built with OpenSSL.
    """

    path: Path
    tls: bool

    def run(self, arguments: Sequence[str], core: int | None = None) -> Sample:
        """Run it once, pinned to *core*; a failed run is a sample with a ``failure``."""
        with subprocess.Popen(
            [str(self.path), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            pin(child.pid, core)
            try:
                output, errors = child.communicate(timeout=GENERATOR_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                output, errors = "", "it did not end"
        if not output:
            return {"failure": errors.strip() or f"ended with status {child.returncode}"}
        sample: Sample = json.loads(output)
        if errors:
            sample["failure"] = errors.strip()
        return sample


def build_generator(directory: Path) -> Generator:
    """Compile the load generator into *directory*, with TLS if OpenSSL's headers are there.

    :raises BenchError: without a compiler, or if it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BenchError("the load generator needs a C compiler: install cc, or set CC")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "load"
    command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(path)]
    command += map(str, sorted(SOURCES.glob("*.c")))
    secure = subprocess.run(
        [*command, "-DWITH_TLS", "-lssl", "-lcrypto"], capture_output=True, text=True, check=False
    )
    if secure.returncode == 0:
        return Generator(path, True)
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    if plain.returncode != 0:
        raise BenchError(f"the load generator does not compile:\n{plain.stderr}")
    return Generator(path, False)


# ---- The servers


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: where, and as which process (0: unknown)."""

    url: str
    pid: int = 0


def our_command(pem: Path | None) -> list[str]:
    """acebase-ipc as its users start it."""
    endpoint = "tcp:0:interface=127.0.0.1"
    if pem is not None:
        path = str(pem).replace("\\", r"\\").replace(":", r"\:")
        endpoint = f"ssl:0:interface=127.0.0.1:privateKey={path}"
    return [str(TWISTD), "-n", "--pidfile=", "acebase-ipc", "--port", endpoint]


def baseline_command(pem: Path | None) -> list[str]:
    """The plain Autobahn relay."""
    tls = [] if pem is None else ["--tls", str(pem)]
    return [sys.executable, "-m", "bench.stock_relay", "--port", "0", *tls]


COMMANDS = {"ours": our_command, "baseline": baseline_command}


@contextmanager
def running_server(
    kind: str, log: Path, pem: Path | None = None, core: int | None = None
) -> Iterator[Server]:
    """A fresh server process on a free port of loopback, until the end of the block.

    :param kind: ``ours`` or ``baseline``.
    :param log: a file for all that it says.
    :param pem: key and certificate, to speak TLS.
    :param core: the core to pin it to.
    :raises BenchError: if it does not listen in time.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACEBASE_IPC_")}
    environment["PYTHONUNBUFFERED"] = "1"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            COMMANDS[kind](pem),
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
        match = LISTENING.search(log.read_text(errors="replace"))
        if match is not None:
            return match[1]
        time.sleep(0.02)
    raise BenchError(f"no server: {child.args!r} wrote:\n{log.read_text(errors='replace')}")


# ---- The machine


def pin(pid: int, core: int | None) -> None:
    """Keep a process on one core."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def two_cores() -> tuple[int | None, int | None]:
    """A core for the server and one for the generator, if there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def raise_file_limit() -> None:
    """Let this process and its children open as many files as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
