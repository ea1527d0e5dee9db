"""Signals, open files and pid files."""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from twisted.logger import capturedLogs, eventAsText

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.process import (
    OTHER_FILES,
    Launch,
    PidFile,
    Signals,
    allow_files,
    keep_freed_memory,
    remove_stale_pid_file,
)
from tests.programs import missing

BOTH = (signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture
def signals() -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in BOTH}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_does_not_end_the_process_and_is_handled_later(
    signals: Signals, number: int
) -> None:
    calls: list[int] = []
    os.kill(os.getpid(), number)
    os.kill(os.getpid(), number)
    signals.handle(number, lambda: calls.append(1))
    assert calls == [1]
    os.kill(os.getpid(), number)
    assert calls == [1, 1]


def test_a_signal_that_did_not_arrive_is_not_handled(signals: Signals) -> None:
    calls: list[int] = []
    os.kill(os.getpid(), signal.SIGUSR1)
    signals.handle(signal.SIGHUP, lambda: calls.append(1))
    assert calls == []


# Open files


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits of open files that were set; the first ones are the process's."""
    found = [(1000, 5000)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: found[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, value: found.append(value))
    return found


@pytest.mark.parametrize(
    ("connections", "soft", "warned"),
    [(100, 1000, False), (3000, 3000 + OTHER_FILES, False), (5000, 5000, True)],
)
def test_the_limit_of_open_files_is_raised(
    limits: list[tuple[int, int]], connections: int, soft: int, warned: bool
) -> None:
    with capturedLogs() as logged:
        allow_files(connections)
    assert limits[-1] == (soft, 5000)
    texts = [eventAsText(each) for each in logged]
    assert any("may open only 5000 files" in each for each in texts) == warned


def test_a_limit_that_cannot_be_raised_is_warned_of(
    limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(kind: int, value: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with capturedLogs() as logged:
        allow_files(3000)
    assert "may open only 1000 files" in eventAsText(logged[0])


def test_unlimited_files_are_enough(limits: list[tuple[int, int]]) -> None:
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    allow_files(1_000_000)
    assert len(limits) == 2


# Memory

COUNT_PAGE_FAULTS = """
import resource
from acebase_ipc.server.process import keep_freed_memory

def use_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        [bytearray(500_000) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

use_memory()
before = use_memory()
keep_freed_memory()
use_memory()
print(before, use_memory())
"""


@pytest.mark.parametrize("set_by_user", [None, "MALLOC_TRIM_THRESHOLD_"])
def test_freed_memory_is_used_again_unless_the_environment_sets_it(
    set_by_user: str | None,
) -> None:
    if platform.libc_ver()[0] != "glibc":
        missing("the C library is not glibc")
    environment = {key: value for key, value in os.environ.items() if "MALLOC" not in key}
    if set_by_user is not None:
        environment[set_by_user] = "0"
    command = [sys.executable, "-c", COUNT_PAGE_FAULTS]
    output = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout
    before, after = map(int, output.split())
    assert before > 1000
    assert (after < 100) == (set_by_user is None)


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()


# The pid file


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "twistd.pid"


def test_a_pid_file_with_the_own_id_is_stale(pid_file: Path) -> None:
    pid_file.write_text(str(os.getpid()))
    remove_stale_pid_file(str(pid_file))
    assert not pid_file.exists()


@pytest.mark.parametrize(("name", "stale"), [("twistd", False), ("another-program", True)])
def test_a_pid_file_of_a_process_that_is_not_twistd_is_stale(
    pid_file: Path, name: str, stale: bool
) -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        pid_file.write_text(str(other.pid))
        remove_stale_pid_file(str(pid_file))
        assert pid_file.exists() != stale
        other.communicate()


@pytest.mark.parametrize("text", ["", "many", "4194305", "-1"])
def test_a_pid_file_that_tells_nothing_is_left_to_twistd(pid_file: Path, text: str) -> None:
    pid_file.write_text(text)
    remove_stale_pid_file(str(pid_file))
    assert pid_file.read_text() == text


def test_without_a_pid_file_there_is_nothing_to_do(pid_file: Path) -> None:
    remove_stale_pid_file(str(pid_file))


def managed(path: Path) -> PidFile:
    """A pid file that ``twistd`` leaves to the relay."""
    runner = {"pidfile": str(path)}
    made = PidFile(runner)
    made.manage()
    assert runner["pidfile"] == ""
    return made


def test_a_pid_file_passes_to_the_successor(pid_file: Path) -> None:
    predecessor = managed(pid_file)
    predecessor.check()
    predecessor.write()
    assert pid_file.read_text() == str(os.getpid())
    pid_file.write_text("1")  # the successor's
    predecessor.remove()
    assert pid_file.read_text() == "1"
    pid_file.write_text(str(os.getpid()))
    predecessor.remove()
    assert not pid_file.exists()
    predecessor.remove()


def test_a_pid_file_of_a_process_that_runs_is_respected(pid_file: Path) -> None:
    pid_file.write_text(str(os.getpid()))
    with pytest.raises(ConfigError, match=f"with the process id {os.getpid()} "):
        managed(pid_file).check()


def test_a_pid_file_that_cannot_be_written_is_logged(tmp_path: Path) -> None:
    with capturedLogs() as logged:
        managed(tmp_path / "missing" / "relay.pid").write()
    assert [each["reason"] for each in logged] == ["No such file or directory"]


def test_a_pid_file_that_twistd_manages_is_left_alone(pid_file: Path) -> None:
    pid_file.write_text("7")
    made = PidFile({"pidfile": str(pid_file)})
    made.check()
    made.write()
    made.remove()
    assert pid_file.read_text() == "7"


# What the start of a process comes to


class Ended(BaseException):
    """The process has ended."""


class Forking:
    """What ``twistd`` does: it forks, and waits in its first process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read, self._write = os.pipe()
        self._stderr = os.fdopen(read, closefd=True)
        self.wait: Callable[[], object] = lambda: None
        self.at_exit: list[Callable[[], object]] = []
        monkeypatch.setattr(os, "dup", lambda _: self._write)
        monkeypatch.setattr(os, "register_at_fork", self._register)
        monkeypatch.setattr(os, "_exit", self._exit)
        monkeypatch.setattr(atexit, "register", self.at_exit.append)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def _register(self, *, after_in_parent: Callable[[], object]) -> None:
        self.wait = after_in_parent

    @staticmethod
    def _exit(status: int) -> None:
        raise Ended(status)

    def said(self) -> str:
        """What was written to standard error; it is closed with the outcome."""
        with suppress(OSError):
            os.close(self._write)
        with self._stderr:
            return self._stderr.read()


@pytest.fixture
def forking(monkeypatch: pytest.MonkeyPatch) -> Forking:
    return Forking(monkeypatch)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (b"0", None),
        (b"1", ""),  # the daemon has said why
        (b"", "acebase-ipc: the process has ended while it was starting\n"),
    ],
    ids=["it serves", "it has failed", "it has ended"],
)
def test_the_first_process_waits_for_the_daemon(
    forking: Forking, told: bytes, said: str | None
) -> None:
    launch = Launch(forks=True)
    assert launch._outcome is not None
    os.write(launch._outcome, told)
    if said is None:
        forking.wait()
    else:
        with pytest.raises(Ended, match="1"):
            forking.wait()
    assert forking.said() == (said or "")


def test_that_it_serves_is_told_once(forking: Forking) -> None:
    launch = Launch(forks=True)
    launch.succeeded()
    launch.succeeded()
    assert forking.said() == ""


def test_a_failure_is_told_when_the_process_ends(forking: Forking) -> None:
    Launch(forks=True).failed("acebase-ipc: the port is taken")
    (end,) = forking.at_exit
    with pytest.raises(Ended, match="1"):
        end()
    assert forking.said() == "acebase-ipc: the port is taken\n"


def test_a_process_can_end_at_once(forking: Forking) -> None:
    with pytest.raises(Ended, match="1"):
        Launch(forks=True).end_now("acebase-ipc: it cannot take over")
    assert forking.said() == "acebase-ipc: it cannot take over\n"


def test_an_exception_that_nobody_catches_is_told(
    forking: Forking, capsys: pytest.CaptureFixture[str]
) -> None:
    Launch(forks=True)
    error = PermissionError("no pid file can be written")
    sys.excepthook(PermissionError, error, None)
    assert forking.said() == "acebase-ipc: no pid file can be written\n"
    assert "PermissionError: no pid file can be written" in capsys.readouterr().err
