"""A parent that stays while relays take over from each other: for containers and PM2."""

from __future__ import annotations

import os
import re
import signal
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from acebase_ipc.supervise import NOT_FOUND, USAGE, WRONG_USAGE, supervise
from acebase_ipc.testing import client_frame
from tests.integration.raw import RawClient
from tests.integration.relay_process import Twistd, find_addresses, on_loopback

COMMAND = (sys.executable, "-m", "acebase_ipc")
SERVE = ("serve", "--port", on_loopback())


def has_started(times: int, log: str) -> bool:
    """Whether so many relays have started."""
    return log.count("#info] ready") == times


class Supervised(Twistd):
    """A supervised relay."""

    def __init__(self) -> None:
        super().__init__("supervise", *COMMAND, *SERVE, command=COMMAND)
        self.wait_for("start", lambda log: "#info] ready" in log)

    def relays(self) -> list[psutil.Process]:
        """The children that have not ended."""
        return psutil.Process(self.pid).children()


def test_a_hand_over_is_not_its_end(tmp_path: Path) -> None:
    with Supervised() as supervisor:
        (address,) = find_addresses(supervisor.log)
        (first,) = supervisor.relays()
        with RawClient(address) as client:
            assert client.upgrade("/library/connect?id=reader&v=1.0.0").startswith(b"HTTP/1.1 101 ")
            for number in (1, 2):
                (relay,) = supervisor.relays()
                os.kill(supervisor.pid, signal.SIGUSR2)
                supervisor.wait_for("the successor", partial(has_started, number + 1))
                relay.wait(20)
            (last,) = supervisor.relays()
            assert last != first
            client.send(client_frame(b"ping"))
            assert client.read_until(b"pong")
        supervisor.terminate()
        assert supervisor.wait_ended() == 0
        assert not last.is_running()
        assert re.search("stopped", supervisor.log)


def test_it_ends_as_its_relay_does() -> None:
    with Supervised() as supervisor:
        (relay,) = supervisor.relays()
        relay.kill()
        assert supervisor.wait_ended() == -signal.SIGKILL


def test_a_relay_that_cannot_start_is_its_end() -> None:
    with Twistd("supervise", *COMMAND, "serve", "--port", "tcp:x", command=COMMAND) as supervisor:
        assert supervisor.wait_ended() == 2


def test_a_command_that_is_not_there_is_named() -> None:
    with Twistd("supervise", "/nonexistent", command=COMMAND) as supervisor:
        assert supervisor.wait_ended() == NOT_FOUND
        assert "cannot run /nonexistent" in supervisor.log


def test_its_usage_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert supervise([]) == WRONG_USAGE
    assert supervise(["--help"]) == 0
    assert capsys.readouterr().out == USAGE * 2
