"""The parent of relays that hand over: what it does at each event, without a process."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from acebase_ipc import supervise as module
from acebase_ipc.supervise import NOT_FOUND, WRONG_USAGE, Supervisor, supervise


class Processes:
    """The system's processes, as far as a supervisor has to do with them.

    :ivar ended: what ``waitpid`` tells next: a process and its status.
    :ivar killed: the signals that were sent.
    """

    def __init__(self) -> None:
        self.ended: list[tuple[int, int]] = []
        self.killed: list[tuple[int, int]] = []
        self.handlers: dict[int, Any] = {}

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        if not self.ended:
            raise ChildProcessError
        return self.ended.pop(0)

    def kill(self, pid: int, number: int) -> None:
        if pid == 666:
            raise ProcessLookupError
        self.killed.append((pid, number))


class FakeProcess:
    """A started relay."""

    pid = 41

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        if command[0] == "missing":
            raise FileNotFoundError(2, "No such file or directory")
        self.environment = env


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(os, "waitpid", made.waitpid)
    monkeypatch.setattr(os, "kill", made.kill)
    monkeypatch.setattr(signal, "signal", made.handlers.__setitem__)
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda *_, **__: -1)
    monkeypatch.setattr(subprocess, "Popen", FakeProcess)
    library = type("Library", (), {"prctl": staticmethod(lambda *_: 0)})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    return made


@pytest.fixture
def supervisor(processes: Processes) -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    for each in (made._wakes, made._wakeup, made._notified):
        each.close()


def tell(supervisor: Supervisor, state: bytes) -> None:
    """Notify the supervisor, as a relay does."""
    address = supervisor._environment["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifying:
        notifying.sendto(state, address)


@pytest.mark.parametrize(("command", "status"), [([], WRONG_USAGE), (["--help"], 0), (["-h"], 0)])
def test_its_usage(command: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert supervise(command) == status
    assert "acebase-ipc supervise COMMAND" in capsys.readouterr().out


def test_a_command_that_cannot_be_started(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert supervisor.run(["missing"]) == NOT_FOUND
    assert capsys.readouterr().err == (
        "acebase-ipc: cannot run missing: No such file or directory\n"
    )


def test_it_ends_with_the_status_of_the_relay(supervisor: Supervisor, processes: Processes) -> None:
    supervisor._wakeup.send(bytes([signal.SIGCHLD]))
    processes.ended = [(40, 0), (41, 3 << 8)]
    assert supervisor.run(["relay"]) == 3
    assert set(module.PASSED_ON) < processes.handlers.keys()


def test_the_relay_is_the_process_that_has_taken_over(
    supervisor: Supervisor, processes: Processes
) -> None:
    tell(supervisor, b"READY=1\nMAINPID=42")
    supervisor._wakeup.send(bytes([signal.SIGHUP, signal.SIGCHLD]))
    processes.ended = [(41, 0), (42, 0)]  # the predecessor ends first
    assert supervisor.run(["relay"]) == 0
    assert processes.killed == [(42, signal.SIGHUP)]


def test_a_signal_for_a_relay_that_has_ended_is_dropped(
    supervisor: Supervisor, processes: Processes
) -> None:
    tell(supervisor, b"MAINPID=666")
    supervisor._wakeup.send(bytes([signal.SIGTERM]))
    processes.ended = [(666, 0)]
    assert supervisor.run(["relay"]) == 0


def test_it_goes_on_while_the_relay_runs(supervisor: Supervisor, processes: Processes) -> None:
    supervisor._main = 41
    assert supervisor._reap() is None  # it has no child
    processes.ended = [(0, 0)]
    assert supervisor._reap() is None  # none has ended
    assert supervisor._signals() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_by_the_signal_that_has_ended_the_relay(
    supervisor: Supervisor, processes: Processes, number: int
) -> None:
    supervisor._main = 41
    processes.ended = [(41, number)]
    assert supervisor._reap() == 128 + number  # where the signal is ignored
    assert processes.killed == [(os.getpid(), number)]
    assert processes.handlers.get(number) == (None if number == signal.SIGKILL else signal.SIG_DFL)
