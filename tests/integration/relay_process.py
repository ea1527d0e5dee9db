"""A real ``twistd`` in a process of its own: its log, its sockets and its exit status.

    with running_relay() as relay:
        relay.address           # where to connect
        relay.log               # what it has written

At the end of the block it gets SIGTERM and must shut down cleanly, without a traceback.
Waiting is done by threads: in a test that runs in the reactor, use ``deferToThread`` where the
reactor has to live on meanwhile.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from twisted.internet.endpoints import quoteStringArgument

TWISTD = Path(sys.executable).with_name("twistd")

DEADLINE = 20.0
"""Seconds. A cold twistd takes about one; a loaded machine may take many."""

LISTENING = re.compile(r'listening on ([^";\n]*)')
PORT = re.compile(r"(wss?)://(127\.0\.0\.1|\[::1\]):(\d+)|unix:([^\s,]+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a relay listens, and what a client must know to connect.

    :ivar host: loopback, IPv4 or IPv6.
    :ivar port: a TCP port; 0 for a Unix socket.
    :ivar path: a Unix socket.
    :ivar root: the certificate to trust, where it speaks TLS.
    """

    host: str = "127.0.0.1"
    port: int = 0
    path: str | None = None
    secure: bool = False
    root: Path | None = None


def find_addresses(log: str) -> list[Address]:
    """The addresses that a log tells, in the order of the ports."""
    return [
        Address(path=path)
        if path
        else Address(host=host.strip("[]"), port=int(port), secure=scheme == "wss")
        for line in LISTENING.findall(log)
        for scheme, host, port, path in PORT.findall(line)
    ]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without the relay's variables."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ACEBASE_IPC_")}
    # Unbuffered, so that what is written to stdout and stderr keeps its order.
    return {**inherited, "PYTHONUNBUFFERED": "1", **(extra or {})}


def endpoint(kind: str, where: int | str, /, **arguments: int | str | Path) -> str:
    """An endpoint string, its arguments quoted; *where* is the port or path."""
    pairs = (f"{name}={quoteStringArgument(str(value))}" for name, value in arguments.items())
    return ":".join([kind, quoteStringArgument(str(where)), *pairs])


def on_loopback(kind: str = "tcp", /, **arguments: str | Path) -> str:
    """An endpoint string for any free port of loopback."""
    return endpoint(kind, 0, interface="127.0.0.1", **arguments)


class Twistd:
    """One ``twistd``; *arguments* begin with its own options."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        command: Sequence[str | Path] = (TWISTD,),
    ) -> None:
        """:param directory: where it is started."""
        self.arguments = arguments
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._child = subprocess.Popen(
            [*command, *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(environment),
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    def _read(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as output:
            for line in output:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def log(self) -> str:
        """All that it has written so far."""
        with self._changed:
            return "".join(self._lines)

    @property
    def last_line(self) -> str:
        """The last line it has written that is not empty."""
        lines = self.log.strip().splitlines()
        return lines[-1] if lines else ""

    def wait_for(self, what: str, holds: Callable[[str], object]) -> None:
        """Wait until *holds* of the log; it is asked at every new line."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or holds("".join(self._lines)), DEADLINE)
            log = "".join(self._lines)
            assert holds(log), f"no {what}: {self.arguments} wrote:\n{log}"

    def wait_ended(self, seconds: float = DEADLINE) -> int:
        """Wait for the end of the process and of its output; returns the exit status."""
        status = self._child.wait(seconds)
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, DEADLINE)
        return status

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._child.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = DEADLINE) -> None:
        """Stop it with SIGTERM; it must shut down cleanly.

        Once it has shut down, twistd lets the signal it got end its process.
        """
        self.terminate()
        status = self.wait_ended(seconds)
        assert status in (0, -signal.SIGTERM), self.log
        assert "stopped" in self.log, self.log
        assert "Traceback" not in self.log, self.log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if self._child.poll() is None and error is None:
                self.stop()
        finally:
            self._child.kill()
            self._child.wait(DEADLINE)


class RelayProcess(Twistd):
    """``twistd -n acebase-ipc``, listening.

    :ivar addresses: one for each of *ports*, in their order.
    """

    def __init__(
        self,
        *ports: str,
        options: tuple[str, ...] = (),
        twistd_options: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        root: Path | None = None,
        directory: Path | None = None,
    ) -> None:
        super().__init__(
            *("--nodaemon", "--pidfile=", *twistd_options, "acebase-ipc"),
            *(f"--port={port}" for port in ports),
            *options,
            environment=environment,
            directory=directory,
        )
        try:
            self.wait_for(f"{len(ports)} ports", lambda log: len(find_addresses(log)) == len(ports))
        except BaseException:
            self._child.kill()
            raise
        found = find_addresses(self.log)
        self.addresses = [replace(each, root=root) if each.secure else each for each in found]

    @property
    def address(self) -> Address:
        """Where it listens, if that is one port."""
        (address,) = self.addresses
        return address


@contextmanager
def running_relay(
    *ports: str,
    options: tuple[str, ...] = (),
    twistd_options: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    root: Path | None = None,
    directory: Path | None = None,
) -> Iterator[RelayProcess]:
    """A relay until the end of the block; by default on one port of loopback."""
    relay = RelayProcess(
        *(ports or (on_loopback(),)),
        options=options,
        twistd_options=twistd_options,
        environment=environment,
        root=root,
        directory=directory,
    )
    with relay:
        yield relay
