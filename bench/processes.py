"""The load generator, and the machine that it and the servers share."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench" / "load"

GENERATOR_SECONDS = 300.0
"""Deadline for the generator, which ends before that by itself."""

Sample = dict[str, Any]
"""The generator's figures of one run, or the reason why there are none."""


class BenchError(Exception):
    """A precondition of the measurement is missing."""


# ---- The generator


def find_compiler() -> str | None:
    """Path of a C compiler: ``$CC``, or the system's; ``None`` if there is none."""
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
                output, errors = "", "the load generator did not end in time"
        if not output:
            return {"failure": errors.strip() or f"ended with status {child.returncode}"}
        sample: Sample = json.loads(output)
        if errors:
            sample["failure"] = errors.strip()
        return sample


def compilation(path: Path, sources: Iterable[Path], name: str) -> list[str]:
    """Return the command that compiles a program of C, whose directory is made.

    :param name: of the program, for the error.
    :raises BenchError: without a compiler.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BenchError(f"{name} needs a C compiler: install cc, or set CC")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra"]
    return [compiler, *options, "-o", str(path), *map(str, sources)]


def build_generator(directory: Path) -> Generator:
    """Compile the load generator into *directory*, with TLS if OpenSSL's headers are there.

    :raises BenchError: without a compiler, or if it fails.
    """
    path = directory / "load"
    command = compilation(path, sorted(SOURCES.glob("*.c")), "the load generator")
    secure = subprocess.run(
        [*command, "-DWITH_TLS", "-lssl", "-lcrypto"], capture_output=True, text=True, check=False
    )
    if secure.returncode == 0:
        return Generator(path, True)
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    if plain.returncode != 0:
        raise BenchError(f"the load generator does not compile:\n{plain.stderr}")
    return Generator(path, False)


# ---- The machine


def pin(pid: int, core: int | None) -> None:
    """Restrict a process to one core, if one is given."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU time that a process has used so far, user and system."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def two_cores() -> tuple[int | None, int | None]:
    """A core for the server and one for the generator; none on a machine with a single core."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def raise_file_limit() -> int:
    """Allow this process and its children as many open files as the hard limit; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
