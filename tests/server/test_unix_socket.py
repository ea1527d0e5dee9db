"""Unix ports: locked while they are used, and usable again after a crash."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory

from acebase_ipc.server.unix_socket import (
    LockedUnixEndpoint,
    lock_path,
    release,
    remove_stale_socket,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "relay.sock")


def leave_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
        left.listen()


@pytest.fixture
def listening(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(path)
        used.listen(0)
        yield used


def test_a_stale_socket_is_removed(path: str) -> None:
    leave_socket(path)
    remove_stale_socket(path)
    assert not os.path.exists(path)
    remove_stale_socket(path)


def test_a_socket_that_is_used_stays(path: str, listening: socket.socket) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        remove_stale_socket(path)
    assert os.path.exists(path)


def test_a_socket_whose_queue_is_full_stays(path: str, listening: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for each in (one, other):
            each.setblocking(False)
        one.connect(path)
        with pytest.raises(BlockingIOError):
            other.connect(path)
        with pytest.raises(OSError, match="Address already in use"):
            remove_stale_socket(path)


def test_a_file_that_is_no_socket_stays(path: str) -> None:
    Path(path).write_text("precious")
    remove_stale_socket(path)
    assert Path(path).read_text() == "precious"


def test_a_path_is_locked_once(path: str) -> None:
    lock = lock_path(path)
    with pytest.raises(OSError, match="another process has locked it"):
        lock_path(path)
    release(path, lock)
    assert not os.path.exists(path)
    release(path, lock_path(path))


def test_a_lock_ends_with_the_process_that_holds_it(path: str) -> None:
    """Whatever its id, which in a container is in use again at once."""
    code = (
        "import os, signal, sys\n"
        "from acebase_ipc.server.unix_socket import lock_path\n"
        "lock_path(sys.argv[1])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    assert os.path.exists(path)
    release(path, lock_path(path))


def test_a_lock_of_a_file_that_was_replaced_is_not_removed(path: str) -> None:
    lock = lock_path(path)
    os.unlink(path)
    successor = lock_path(path)
    release(path, lock)
    assert os.path.exists(path)
    release(path, successor)


class BindingEndpoint:
    """An endpoint that binds a socket, and whose port is not Twisted's."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.reading = True
        self.socket = socket.socket(socket.AF_UNIX)

    def listen(self, factory: Any) -> Deferred[Any]:
        self.socket.bind(self.path)
        self.socket.listen()
        return succeed(self)

    def stopReading(self) -> None:
        self.reading = False


class FailingEndpoint:
    """An endpoint that cannot listen."""

    def listen(self, factory: Any) -> Deferred[Any]:
        return fail(OSError("no"))


def listen(endpoint: Any, path: str, lock: bool = True) -> Any:
    results: list[Any] = []
    LockedUnixEndpoint(endpoint, path, lock).listen(Factory()).addBoth(results.append)
    return results[0]


def test_the_lock_is_held_as_long_as_the_port_is_open(path: str) -> None:
    endpoint = BindingEndpoint(path)
    port = listen(endpoint, path)
    refused = listen(BindingEndpoint(path), path)
    assert refused.check(CannotListenError)
    assert path in str(refused.value)
    port.stopListening()
    assert (endpoint.reading, endpoint.socket.fileno()) == (False, -1)
    assert os.listdir(os.path.dirname(path)) == []
    listen(BindingEndpoint(path), path).stopListening()


def test_a_port_whose_path_is_gone_is_closed_nevertheless(path: str) -> None:
    endpoint = BindingEndpoint(path)
    port = listen(endpoint, path)
    os.unlink(path)
    port.stopListening()
    assert endpoint.socket.fileno() == -1


def test_the_path_of_a_successor_is_not_removed(path: str) -> None:
    port = listen(BindingEndpoint(path), path, lock=False)
    os.unlink(path)
    successor = listen(BindingEndpoint(path), path, lock=False)
    port.stopListening()
    assert os.path.exists(path)
    successor.stopListening()
    assert not os.path.exists(path)


def test_a_port_that_cannot_be_opened_is_not_locked(path: str) -> None:
    assert listen(FailingEndpoint(), path).check(OSError)
    assert os.listdir(os.path.dirname(path)) == []


def test_the_lock_can_be_turned_off(path: str) -> None:
    leave_socket(path)
    port = listen(BindingEndpoint(path), path, lock=False)
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
    port.stopListening()
