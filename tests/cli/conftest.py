"""Relays for the tests of the command, and the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread

from acebase_ipc.cli import loop
from acebase_ipc.cli.main import cli
from tests.cli.cluster import Cluster, Served, cluster, served
from tests.integration.relay_process import DEADLINE, clean_environment


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has printed, and its exit status."""

    status: int
    output: str
    errors: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.output)

    @property
    def error(self) -> str:
        """The only line on standard error."""
        (line,) = self.errors.splitlines()
        return line


Command = Callable[..., Outcome]
ClientCommand = Callable[..., Deferred[Outcome]]

reactor: Any = _reactor


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command in this process."""
    clean = clean_environment()
    for name in set(os.environ) - set(clean):
        monkeypatch.delenv(name)

    def run(*arguments: str, environment: Mapping[str, str] | None = None) -> Outcome:
        result = CliRunner().invoke(
            cli, arguments, env=environment, prog_name="acebase-ipc", catch_exceptions=False
        )
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def client_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> ClientCommand:
    """Run a command that is a client of the relay in a thread of this process.

    A reactor can run only once in a process; the tests' own stands in.
    """

    def run(main: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        return blockingCallFromThread(reactor, lambda: Deferred.fromCoroutine(main(reactor)))

    monkeypatch.setattr(loop, "run", run)
    return lambda *arguments, **options: deferToThread(command, *arguments, **options)


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "acebase_ipc", *arguments],
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": clean_environment(),
            "text": True,
            **options,
        },
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for the end of a process."""
    output, errors = process.communicate(timeout=DEADLINE)
    return Outcome(process.returncode, output, errors)


@pytest.fixture(scope="module")
def relay() -> Iterator[Served]:
    """A relay whose admin endpoint needs no token."""
    with served("--admin-bodies") as running:
        yield running


@pytest.fixture
def played(relay: Served) -> Iterator[Cluster]:
    """A cluster on :func:`relay`, with a lock that is held and one that is waited for."""
    with cluster(relay.port) as peers:
        yield peers
