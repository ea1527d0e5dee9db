"""What a reader of the documents types and saves: their commands, and the README's program."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.acebase.cluster import HERE, Process
from tests.documents import README, blocks

MINUTE = 60.0
"""Seconds: what PM2 and OpenSSL may need on a loaded machine."""

INSTALLED = ("npm install acebase ws", "npm install pm2")

TWISTD = "from twisted.scripts.twistd import run; run()"


def commands(path: Path, section: str) -> list[str]:
    """The commands of the shell blocks in a section, without those that install."""
    text = "".join(
        each.text
        for each in blocks(path)
        if each.language == "shell" and each.section and each.section[-1] == section
    )
    lines = text.replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines if line and line not in INSTALLED]


def application(port: int, **more: str | bool) -> str:
    """The README's app.js for a relay on *port*, with *more* of AceBase's settings."""
    (text,) = (each.text for each in blocks(README) if each.language == "javascript")
    assert "port: 9163, role }" in text
    settings = "".join(
        f", {name}: {value!r}" if isinstance(value, str) else f", {name}: {str(value).lower()}"
        for name, value in more.items()
    )
    return text.replace("port: 9163, role }", f"port: {port}, role{settings} }}")


def install(directory: Path) -> None:
    """Make what ``make run`` and ``npm install`` make, of what is there."""
    programs = directory / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in {
        "twistd": f"-c {shlex.quote(TWISTD)}",
        "acebase-ipc": "-m acebase_ipc",
    }.items():
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        script.chmod(0o700)
    (directory / "node_modules").symlink_to(HERE / "node_modules")


def run(command: str, directory: Path, **environment: str) -> str:
    """Run a command of the README; returns what it prints."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * MINUTE,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def started(command: str, directory: Path, **environment: str) -> Iterator[Process]:
    """Run a command that goes on until it is interrupted, as are its own children, of npx, too."""
    line = f"cd {shlex.quote(str(directory))} && exec setsid {command}"
    process = Process(command, ["/bin/sh", "-c", line], environment)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()


def counts(process: Process) -> list[int]:
    """The values of the counter that a worker has printed."""
    return [int(value) for value in re.findall(r"worker \d+: the counter is (\d+)", process.text())]


def wait_count(process: Process, holds: Callable[[list[int]], bool]) -> None:
    process.wait_for("counting", lambda: holds(counts(process)), MINUTE)


@contextmanager
def served(command: str, directory: Path) -> Iterator[int]:
    """A relay by a command of the README; yields its port."""
    listening = re.compile(r"listening on wss?://[\d.]+:(\d+)")
    with started(command, directory) as relay:
        relay.wait_for("listening", lambda: "] ready" in relay.text())
        yield int(listening.findall(relay.text())[0])


@contextmanager
def counting(directory: Path, text: str, **environment: str) -> Iterator[Process]:
    """Run the application of *text* as a master and, when that is ready, a worker; yields it.

    A worker that opens the database while the master creates its files would fail.
    """
    directory.joinpath("app.js").write_text(text)
    with started("node app.js master", directory, **environment) as master:
        master.wait_for("ready", lambda: "ready" in master.text(), MINUTE)
        with started("node app.js worker", directory, **environment) as worker:
            wait_count(worker, lambda values: len(values) > 1)
            yield worker
            assert not master.ended


def assert_works(directory: Path, text: str, **environment: str) -> None:
    """The application of *text* must count, and each value must be larger than the one before."""
    with counting(directory, text, **environment) as worker:
        values = counts(worker)
    assert values == sorted(values)
