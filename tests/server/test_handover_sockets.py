"""Which endpoint of a successor takes over which listening socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from acebase_ipc.errors import ConfigError
from acebase_ipc.server.endpoints import parse_endpoint
from acebase_ipc.server.expansion import expand
from acebase_ipc.server.handover.launch import Command
from acebase_ipc.server.handover.sockets import (
    ADMIN,
    PEERS,
    InheritedSockets,
    ListeningSocket,
    place_of,
)
from acebase_ipc.server.process import PidFile


def place(text: str, role: str = PEERS) -> str:
    """Where an endpoint listens."""
    return place_of(parse_endpoint(text), role)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("9163", "tcp:9163:interface=127.0.0.1"),
        ("tcp:9163", "tcp:9163:backlog=5"),
        ("tcp:9163", "haproxy:tcp:9163"),
        ("tcp:9163", "pfx:9163:path=/a.pfx:passphrase=secret"),
        ("tcp6:9163", "tcp:9163:interface=\\:\\:"),
        ("unix:/run/a", "unix:/run/a:mode=600:lockfile=0"),
        ("unknown:one:two", "unknown:one:two"),
    ],
)
def test_an_endpoint_at_the_same_place_has_the_same_socket(one: str, other: str) -> None:
    assert place(one) == place(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp:9163", "tcp:9164"),
        ("tcp:9163", "tcp6:9163"),
        ("tcp:9163", "tcp:9163:interface=127.0.0.1"),
        ("unix:/run/a", "unix:/run/b"),
        ("systemd:index=0", "systemd:index=1"),
        ("unknown:one", "unknown:two"),
    ],
)
def test_an_endpoint_at_another_place_has_another_socket(one: str, other: str) -> None:
    assert place(one) != place(other)


def test_the_admin_endpoint_has_a_place_of_its_own() -> None:
    assert place("tcp:0", ADMIN) != place("tcp:0")


def test_no_secret_is_part_of_a_place() -> None:
    assert "secret" not in place("pfx:9163:path=/a.pfx:passphrase=secret")


def test_sockets_at_one_place_are_taken_in_their_order() -> None:
    first, second = (ListeningSocket(place("tcp:0"), number, None) for number in (10, 11))
    sockets = InheritedSockets([first, second])
    parsed = parse_endpoint("tcp:0")
    assert [sockets.take(parsed, PEERS) for _ in range(3)] == [first, second, None]


def test_sockets_of_a_service_manager_are_those_of_the_predecessor() -> None:
    places = [place("systemd:index=0"), place("systemd:index=1"), place("tcp:0")]
    sockets = InheritedSockets(ListeningSocket(each, 10, None) for each in places)
    found = expand([parse_endpoint("haproxy:systemd:")], sockets)
    assert [each.text for each in found] == ["haproxy:systemd:index=0", "haproxy:systemd:index=1"]


def test_sockets_that_no_endpoint_has_taken_are_closed() -> None:
    listening, lock = socket.socket(), os.open(os.devnull, os.O_RDONLY)
    InheritedSockets([ListeningSocket("a", listening.detach(), lock)]).close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(lock)


# The process


class Reactor:
    """Notes what is to be started."""

    def spawnProcess(self, *arguments: object, **options: object) -> None:
        self.arguments, self.options = arguments, options


def test_a_successor_is_started_as_its_predecessor_was() -> None:
    reactor = Reactor()
    environment = {"A": "b", "LISTEN_FDS": "1", "LISTEN_PID": "7", "WATCHDOG_PID": "7"}
    command = Command(("twistd", "-n"), "/srv")
    command.start(reactor, environment).close()
    _, executable, arguments, variables, directory = reactor.arguments
    assert arguments == [executable, "twistd", "-n"]
    assert variables == {"A": "b", "ACEBASE_IPC_PREDECESSOR": "3"}
    assert directory == "/srv"


def test_a_successor_that_cannot_be_started_leaves_no_socket() -> None:
    class Full(Reactor):
        def spawnProcess(self, *arguments: object, **options: object) -> None:
            raise BlockingIOError

    before = os.listdir("/proc/self/fd")
    with pytest.raises(BlockingIOError):
        Command((), "/").start(Full(), {})
    assert os.listdir("/proc/self/fd") == before


def test_a_pid_file_is_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    runner = {"pidfile": str(path)}
    file = PidFile(runner)
    file.manage()
    assert runner["pidfile"] == ""
    file.check()
    file.write()
    assert path.read_text() == str(os.getpid())
    with pytest.raises(ConfigError, match="another relay is running"):
        file.check()
    file.remove()
    assert not path.exists()


def test_the_pid_file_of_a_successor_is_left(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    file = PidFile({"pidfile": str(path)})
    file.leave()
    path.write_text("1")
    file.remove()
    assert path.read_text() == "1"


def test_twistd_keeps_its_pid_file_if_there_is_no_successor(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    runner = {"pidfile": str(path)}
    file = PidFile(runner)
    for each in (file.check, file.write, file.remove):
        each()
    assert not path.exists()
    assert runner["pidfile"] == str(path)
