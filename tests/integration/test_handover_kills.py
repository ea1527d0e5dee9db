"""``kill -9`` of either process of a hand-over, after each message between them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from acebase_ipc.testing import client_frame
from tests.integration.raw import RawClient
from tests.integration.relay_process import (
    DEADLINE,
    Address,
    RelayProcess,
    Twistd,
    clean_environment,
    on_loopback,
)

BETWEEN = Path(__file__).with_name("between.py")
MESSAGES = 8
STATE = 6
"""The number of the message with which the successor has everything."""


class Successor(Twistd):
    """A relay that takes over from the one at *path*."""

    def __init__(self, path: Path) -> None:
        port = on_loopback()
        options = ("--port", port, "--take-over-from", str(path))
        super().__init__("--nodaemon", "--pidfile=", "acebase-ipc", *options)

    def kill(self) -> None:
        """SIGKILL the process."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_ended()


@contextmanager
def between(predecessor: Path, successor: Path, messages: int) -> Iterator[subprocess.Popen[str]]:
    """A process that passes on so many messages."""
    child = subprocess.Popen(
        [sys.executable, BETWEEN, predecessor, successor, str(messages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "listening\n"
        yield child
    finally:
        child.kill()
        child.wait(DEADLINE)
        child.stdin.close()
        child.stdout.close()


def wait_passed(child: subprocess.Popen[str]) -> None:
    """Wait until all messages are passed on."""
    assert child.stdout is not None
    assert child.stdout.readline() == "passed on\n"


def join(address: Address, client_id: str) -> RawClient:
    """A peer; its welcome is read."""
    client = RawClient(address)
    client.send(
        f"GET /library/connect?id={client_id}&v=1.0.0 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    client.read_until(b"}")
    return client


def has_failed(times: int, log: str) -> bool:
    """Whether a hand-over has failed so many times."""
    return log.count("and goes on") == times


def exchange(sender: RawClient, receiver: RawClient, text: str) -> None:
    """Send a message that arrives."""
    sender.send(client_frame(f"to:reader;{text}"))
    assert receiver.read_until(text.encode()).endswith(b"msg:")


def test_a_successor_that_is_killed_before_it_is_ready_changes_nothing(tmp_path: Path) -> None:
    path, other = tmp_path / "socket", tmp_path / "other"
    with RelayProcess(on_loopback(), options=("--take-over-from", str(path))) as relay:
        relay.wait_for("ready", lambda log: "#info] ready" in log)
        with join(relay.address, "reader") as reader, join(relay.address, "writer") as writer:
            for messages in range(1, STATE + 1):
                begun = client_frame(f"to:reader;begun {messages}")
                writer.send(begun[:9])
                with between(path, other, messages) as child, Successor(other) as successor:
                    wait_passed(child)
                    successor.kill()
                other.unlink()
                relay.wait_for("the failure", partial(has_failed, messages))
                writer.send(begun[9:])
                assert reader.read_until(b"begun %d" % messages).endswith(b"msg:")
                exchange(writer, reader, f"after {messages}")


@pytest.mark.parametrize("messages", range(1, MESSAGES + 1))
def test_a_predecessor_that_is_killed_at_any_step_has_a_successor(
    tmp_path: Path, messages: int
) -> None:
    path, other = tmp_path / "socket", tmp_path / "other"
    relay = RelayProcess(on_loopback(), options=("--take-over-from", str(path)))
    relay.wait_for("ready", lambda log: "#info] ready" in log)
    with (
        join(relay.address, "reader") as reader,
        join(relay.address, "writer") as writer,
        between(path, other, messages) as child,
        Successor(other) as successor,
    ):
        wait_passed(child)
        os.kill(relay.pid, signal.SIGKILL)
        relay.wait_ended()
        child.kill()
        successor.wait_for("ready", lambda log: "#info] ready" in log)
        if messages >= STATE:
            exchange(writer, reader, "go on")
        with join(relay.address, "newcomer"):
            pass  # it is not refused
        successor.stop()
