"""A relay under attack: its memory is bounded, and its peers' traffic goes on."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from acebase_ipc.server.logging import LINES_PER_PERIOD
from bench.attacks.measurement import MIB, TOKEN, measure
from bench.attacks.peers import Peer, http, upgrade
from bench.attacks.swarms import SWARMS, Swarm
from bench.processes import raise_file_limit
from bench.servers import Server
from tests.integration.peers import Closed, Peers, Refused
from tests.integration.relay_process import DEADLINE, RelayProcess, on_loopback, running_relay
from tests.integration.web import Web

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the memory of a process is read from /proc"
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[RelayProcess]:
    """A relay that requires a token and has little memory."""
    raise_file_limit()  # for the relay, too
    options = ("--token", TOKEN, "--max-memory=64MiB", "--handshake-timeout=1", "--http-idle=60")
    with running_relay(on_loopback(backlog="1024"), options=options) as relay:
        yield relay


def under(process: RelayProcess) -> Server:
    """The relay as the benchmark knows it."""
    return Server(f"ws://{process.address.host}:{process.address.port}", process.pid)


@pytest.mark.parametrize(
    ("name", "count", "all_end", "megabytes"),
    [
        ("half-open handshakes", 1000, True, 24),
        ("slowloris: headers bit by bit", 100, True, 16),
        ("endless headers", 100, True, 24),
        ("idle HTTP connections", 200, False, 16),
        ("wrong tokens", 200, False, 16),
        ("concurrent POSTs of 16 MiB", 100, False, 24),
        ("frames announced, never sent", 100, False, 16),
        ("frames announced as huge", 100, True, 16),
    ],
)
def test_an_attack(
    guarded: RelayProcess, name: str, count: int, all_end: bool, megabytes: int
) -> None:
    """The honest pair fails it if one of its messages does not arrive."""
    (attack,) = [each for each in SWARMS if each.name == name]
    seconds = DEADLINE if all_end else 0.1
    outcome = measure(under(guarded), attack, count, seconds)
    assert outcome.peak < megabytes * MIB
    assert outcome.tally.ended == count or not all_end


def test_a_flood_leaves_few_lines(plain: RelayProcess) -> None:
    address = under(plain).address
    with Swarm(address) as swarm, Peer(address, "honest", "flood") as peer:
        before = plain.log.count("\n")
        swarm.open(300, lambda _: http("GET /nothing"))
        swarm.send(upgrade("/flood/connect?id=x&v=1"))
        peer.send(b"ping")
        peer.receive_until(b"pong")
        lines = plain.log.count("\n") - before
    assert 0 < lines <= 2 * LINES_PER_PERIOD  # a new period may begin meanwhile


# Rotation, by a real signal


def hang_up(relay: RelayProcess, lines: int) -> None:
    """Send SIGHUP, and wait for what the log says of it, the *lines*-th time."""
    os.kill(relay.pid, signal.SIGHUP)
    said = re.compile("the tokens were read again|nothing is reloaded")
    relay.wait_for("reload", lambda log: len(said.findall(log)) >= lines)


@pytest_twisted.ensureDeferred
async def test_tokens_are_rotated_on_sighup(tmp_path: Path, peers: Peers) -> None:
    path = tmp_path / "tokens"
    path.touch(0o600)
    path.write_text("old\n")
    with running_relay(options=(f"--token-file={path}",)) as relay:
        address, web = relay.address, Web(relay.address)
        old = await peers.join(address, "first", t="old")

        path.write_text("# until all have the new one\nold\nlib* new\n")
        hang_up(relay, 1)
        new = await peers.join(address, "second", t="new")
        assert await old.received() == ["connect:second"]
        with pytest.raises(Refused, match=r"\b403\b"):
            await peers.connect(address, "third", database="museum", t="new")

        path.write_text("lib* new\n")
        hang_up(relay, 2)
        assert await old.closed() == Closed(1008, "the token is not valid any more")
        assert (await web.get("/library/clients", t="old")).status == 401
        assert await new.received() == ["disconnect:first"]

        path.write_text("\n")
        hang_up(relay, 3)
        assert (await web.get("/library/clients", t="new")).status == 200
        relay.wait_for("error", lambda log: "#error] nothing is reloaded: " in log)
        assert await new.received() == []
        assert not re.search(r"\bold\b|\bnew\b", relay.log)
