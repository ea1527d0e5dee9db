"""What twistd itself offers: its other reactors, and the daemon."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from pathlib import Path

import pytest
import pytest_twisted

from tests.integration.peers import Closed, Peers
from tests.integration.relay_process import (
    DEADLINE,
    TWISTD,
    Twistd,
    clean_environment,
    find_addresses,
    on_loopback,
    running_relay,
)
from tests.integration.web import Web


@pytest.mark.parametrize("reactor", ["asyncio", "poll"])
@pytest_twisted.ensureDeferred
async def test_other_reactors(peers: Peers, reactor: str) -> None:
    with running_relay(twistd_options=(f"--reactor={reactor}",)) as relay:
        assert reactor in relay.log.partition("reactor class: ")[2].partition("\n")[0].lower()
        first = await peers.join(relay.address, "first")
        second = await peers.join(relay.address, "second")
        second.tell("hello")
        assert (
            await Web(relay.address).post("/library/send", "x" * 20_000, id="second")
        ).status == 200
        assert await first.take(2) == ["connect:second", "msg:hello"]
        assert (await first.next()).startswith("get:")
        await first.leave()
        await second.leave()


@pytest_twisted.ensureDeferred
async def test_the_daemon_starts_serves_and_stops(peers: Peers, tmp_path: Path) -> None:
    pidfile, logfile = tmp_path / "relay.pid", tmp_path / "relay.log"
    # The daemon inherits the pipe: it reads as ended when the last process that has it is gone.
    alive, inherited = os.pipe()
    with os.fdopen(alive, "rb") as alive_file, selectors.DefaultSelector() as ended:
        started = subprocess.run(
            [
                *(TWISTD, f"--pidfile={pidfile}", f"--logfile={logfile}", f"--rundir={tmp_path}"),
                *("acebase-ipc", "--port", on_loopback()),
            ],
            env=clean_environment(),
            pass_fds=(inherited,),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE,
            text=True,
        )
        os.close(inherited)
        assert started.returncode == 0, started.stdout
        pid = int(pidfile.read_text())
        try:
            (address,) = find_addresses(logfile.read_text())
            peer = await peers.join(address, "first")
            assert await peer.heard() == []
        finally:
            os.kill(pid, signal.SIGTERM)
        assert await peer.closed() == Closed(1001, "the server is shutting down")
        ended.register(alive_file, selectors.EVENT_READ)
        assert ended.select(DEADLINE)
        assert alive_file.read() == b""

    assert not pidfile.exists()
    log = logfile.read_text()
    assert log.rstrip().endswith("Server Shut Down.")
    assert "Traceback" not in log


def test_a_daemon_that_cannot_listen_says_so(tmp_path: Path) -> None:
    logfile = tmp_path / "relay.log"
    with Twistd(
        *(f"--pidfile={tmp_path / 'relay.pid'}", f"--logfile={logfile}"),
        *("acebase-ipc", "--port", "ssl:0:privateKey=missing.pem"),
    ) as twistd:
        assert twistd.wait_ended() == 1
        assert "missing.pem" in twistd.last_line
    assert not (tmp_path / "relay.pid").exists()


def test_the_version_is_ours() -> None:
    with Twistd("acebase-ipc", "--version") as twistd:
        assert twistd.wait_ended() == 0
        assert twistd.log.startswith("acebase-ipc ")
