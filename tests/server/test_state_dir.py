"""A server with a state directory: it starts, crashes, stops and starts again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.python.failure import Failure

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig, ConfigError, Dialect
from acebase_ipc.server.service import State
from acebase_ipc.testing import DATABASE, HandshakeRefused, MemoryReactor, MemoryRelay
from tests.relay.core import MASTER
from tests.relay.locks import grant, lock, new_id, worker_id

WORKER = worker_id(1)

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="this system has no boot id"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


def after_crash(directory: Path, **options: Any) -> MemoryRelay:
    """The next relay, if the one on *directory* is killed now."""
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy)
    return MemoryRelay(state_dir=str(copy), **options)


def test_after_a_crash_workers_are_refused_and_one_warning_says_so(directory: Path) -> None:
    with MemoryRelay(state_dir=str(directory)) as relay:
        master = relay.join_acebase(MASTER)
        worker = relay.join_acebase(WORKER)
        request = lock(WORKER, new_id())
        worker.say(request)
        master.say(grant(request.partition(";")[2], 7))
        with after_crash(directory) as successor:
            (line,) = successor.logged("has crashed")
            assert "1 worker(s) of 1 database(s)" in line
            assert "1 lock(s)" in line
            with pytest.raises(HandshakeRefused, match="500"):
                successor.join_acebase(WORKER)
            assert "lock-request" in successor.join_acebase(MASTER).received()[-1]
            successor.join_acebase(worker_id(2))


@pytest.mark.parametrize(
    ("dialect", "query", "is_refused"),
    [
        (Dialect.ACEBASE, "", True),
        (Dialect.ACEBASE, "&dialect=acebase", False),
        (None, "&dialect=acebase", False),
        (None, "", False),
    ],
)
def test_only_processes_that_start_afresh_are_refused(
    directory: Path, dialect: Dialect | None, query: str, is_refused: bool
) -> None:
    with MemoryRelay(state_dir=str(directory), dialect=dialect) as relay:
        relay.join("worker1", query=query)
        with after_crash(directory, dialect=dialect) as successor:
            try:
                successor.join("worker1", query=query)
            except HandshakeRefused:
                assert is_refused
            else:
                assert not is_refused


def test_after_a_clean_end_nobody_is_refused(directory: Path) -> None:
    with MemoryRelay(state_dir=str(directory)) as relay:
        relay.join_acebase(WORKER)
    with MemoryRelay(state_dir=str(directory)) as successor:
        successor.join_acebase(WORKER)
        assert not successor.logged("has crashed")


def test_a_server_that_was_stopped_starts_again_with_its_journal(directory: Path) -> None:
    with MemoryRelay(state_dir=str(directory)) as relay:
        relay.join_acebase(WORKER).leave()
        relay.stop()
        relay.pass_time(6)
        relay.server.start()
        relay.port = relay.reactor.ports[-1]
        relay.join_acebase(WORKER)
        with after_crash(directory) as successor, pytest.raises(HandshakeRefused):
            successor.join_acebase(WORKER)


def start(server: AceBaseIPCServer) -> None:
    failures: list[Failure] = []
    server.start().addErrback(failures.append)
    for each in failures:
        each.raiseException()


@pytest.mark.parametrize("starting", [start, AceBaseIPCServer.startService])
def test_a_directory_that_cannot_be_used_is_told_and_no_port_is_open(
    tmp_path: Path, starting: Callable[[AceBaseIPCServer], None]
) -> None:
    reactor = MemoryReactor()
    config = AceBaseIPCServerConfig(state_dir=str(tmp_path / "missing" / "state"))
    server = AceBaseIPCServer(config, reactor)
    with pytest.raises(ConfigError, match="missing"):
        starting(server)
    assert not [each for each in reactor.ports if each.listening]
    tmp_path.joinpath("missing").mkdir()
    starting(server)
    assert server.state is State.RUNNING
    server.stop()


def test_a_directory_that_the_later_user_cannot_use_closes_the_ports(tmp_path: Path) -> None:
    reactor = MemoryReactor()
    config = AceBaseIPCServerConfig(state_dir=str(tmp_path / "missing" / "state"))
    server = AceBaseIPCServer(config, reactor)
    server.privilegedStartService()
    with pytest.raises(ConfigError, match="missing"):
        server.startService()
    assert [each.listening for each in reactor.ports] == [False]


def test_the_journal_belongs_to_the_user_that_the_relay_runs_as(directory: Path) -> None:
    reactor = MemoryReactor()
    server = AceBaseIPCServer(AceBaseIPCServerConfig(state_dir=str(directory)), reactor)
    server.privilegedStartService()
    assert reactor.ports
    assert not directory.exists()
    server.startService()
    assert directory.joinpath("journal").exists()
    server.stopService()


def test_without_a_state_directory_nobody_is_refused() -> None:
    with MemoryRelay() as relay:
        relay.join_acebase(WORKER)
    with MemoryRelay() as successor:
        successor.join_acebase(WORKER)
        assert successor.server.get_clients(DATABASE)
