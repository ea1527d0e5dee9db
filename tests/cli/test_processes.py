"""The processes of this machine are found by the addresses of their connections."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from acebase_ipc.cli.processes import find_processes

CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
connection.bind((sys.argv[1], int(sys.argv[2])))
connection.connect((sys.argv[1], int(sys.argv[3])))
print(connection.getsockname()[1], flush=True)
sys.stdin.read()
"""

TITLE = b"node /srv/app.js"

CHANGE_TITLE = f"""
with open("/proc/self/stat") as status:
    first, end = map(int, status.read().rpartition(")")[2].split()[45:47])
with open("/proc/self/mem", "r+b", buffering=0) as memory:
    memory.seek(first)
    memory.write({TITLE!r}.ljust(end - first, bytes(1)))
"""
"""Overwrites the memory of the process's arguments, as Node.js does for process.title."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test has begun."""
    with ExitStack() as opened:
        yield opened


def listen(stack: ExitStack, host: str = "127.0.0.1") -> int:
    """Open a port; returns its number."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    port = stack.enter_context(socket.socket(family))
    port.bind((host, 0))
    port.listen()
    number: int = port.getsockname()[1]
    return number


def connect(
    stack: ExitStack, port: int, host: str = "127.0.0.1", own: int = 0, first: str = ""
) -> tuple[int, int]:
    """Connect in a new process; returns its id and the port that it connects from.

    :param own: that port; 0 for any.
    :param first: what the process executes before it connects.
    """
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", first + CONNECT, host, str(own), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stack.callback(process.stdin.close)
    return process.pid, int(process.stdout.readline())


@pytest.mark.parametrize(("host", "form"), [("127.0.0.1", "127.0.0.1:{}"), ("::1", "[::1]:{}")])
def test_a_process(stack: ExitStack, host: str, form: str) -> None:
    relay = listen(stack, host)
    pid, port = connect(stack, relay, host)
    address = form.format(port)

    found = find_processes([address, "127.0.0.1:1", "unix"], [relay])

    assert found.keys() == {address}
    assert found[address].pid == pid
    assert found[address].command.startswith(sys.executable)


def test_another_connection_from_the_same_address(stack: ExitStack) -> None:
    relay, other = listen(stack), listen(stack)
    pid, port = connect(stack, relay)
    connect(stack, other, own=port)
    address = f"127.0.0.1:{port}"

    assert find_processes([address], [relay])[address].pid == pid
    assert find_processes([address], []) == {}, "either of them could be the peer"


def test_behind_a_proxy_the_connection_is_to_its_port(stack: ExitStack) -> None:
    pid, port = connect(stack, listen(stack))

    assert find_processes([f"127.0.0.1:{port}"], [1])[f"127.0.0.1:{port}"].pid == pid


def test_a_process_with_a_title(stack: ExitStack) -> None:
    relay = listen(stack)
    _, port = connect(stack, relay, first=CHANGE_TITLE)
    address = f"127.0.0.1:{port}"

    assert find_processes([address], [relay])[address].command == TITLE.decode()
