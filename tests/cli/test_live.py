"""Commands that follow a real relay, in a process of their own, some with a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.cluster import DATABASE, Cluster, PlayedPeer, Served, served
from tests.cli.conftest import Command, finish, start
from tests.integration.relay_process import DEADLINE
from tests.relay.locks import lock, worker_id


@contextmanager
def following(relay: Served, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command that ends with SIGINT only; it must end well."""
    process = start("--admin", relay.admin, *arguments)
    try:
        yield process
        process.send_signal(signal.SIGINT)
        ended = finish(process)
        assert (ended.status, ended.errors) == (0, "")
    finally:
        process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def lines_to(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read lines up to the first that has *text*."""
    lines = [read_line(process)]
    while text not in lines[-1]:
        assert lines[-1], "the command has ended"
        lines.append(read_line(process))
    return lines


def wait_for_reader(relay: Served, process: subprocess.Popen[str], peer: PlayedPeer) -> str:
    """Send messages until the first is shown; returns its line."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    line = ""
    while not line.endswith("\n"):
        assert process.poll() is None, process.stderr and process.stderr.read()
        peer.say("ping")
        peer.hear("pong")
        peer.say(json.dumps({"type": "hello", "from": peer.id}, separators=(",", ":")))
        line += process.stdout.readline() or ""
    os.set_blocking(process.stdout.fileno(), True)
    return line


def test_watch(relay: Served, played: Cluster) -> None:
    with following(relay, "watch", DATABASE, "--bodies") as process:
        first = wait_for_reader(relay, process, played.holder)
        assert f"  {played.holder.id} -> all  hello  " in first
        played.waiter.say(lock(played.waiter.id, "r9", path="a\x1b[2J"))
        while "lock-request" not in (line := read_line(process)):
            pass

    assert f"{played.waiter.id} -> [master]" in line
    assert '"comment":"transactNode"' in line, "the body is shown"
    assert "\x1b" not in line


def test_watch_one_peer_and_type_as_json(relay: Served, played: Cluster) -> None:
    options = ("--peer", played.waiter.id, "--type", "hello", "--json")
    with following(relay, "watch", DATABASE, *options) as process:
        first = json.loads(wait_for_reader(relay, process, played.waiter))

    assert first["from"] == played.waiter.id
    assert (first["to"], first["type"]) == (None, "hello")
    assert "body" not in first


def test_watch_without_bodies(command: Command) -> None:
    with served() as relay:
        shown = command("--admin", relay.admin, "watch", DATABASE, "--bodies")

    assert shown.status == 1
    assert "--admin-bodies" in shown.error


def test_the_end_of_the_relay_ends_the_command() -> None:
    with served() as ending, PlayedPeer(ending.port, worker_id(1)):
        process = start("--admin", ending.admin, "events", "--follow", "--limit", "1")
        assert f"{worker_id(1)} joined" in read_line(process)
        with PlayedPeer(ending.port, worker_id(2)):
            assert f"{worker_id(2)} joined" in read_line(process), "through the stream"
    ended = finish(process)

    assert ended.status == 3
    assert "has ended the stream" in ended.error


def test_events(command: Command, relay: Served, played: Cluster) -> None:
    shown = command("--admin", relay.admin, "events", "--limit", "3")
    listed = command("--admin", relay.admin, "events", "--limit", "3", "--json")

    assert len(shown.lines) == 3
    assert f"{DATABASE}: {played.waiter.id} joined" in shown.output
    kinds = [json.loads(line)["kind"] for line in listed.lines]
    assert kinds == ["PeerJoined"] * 3


def test_events_have_a_level() -> None:
    with served() as own:
        with following(own, "events", "--follow", "--level", "debug") as process:
            with PlayedPeer(own.port, worker_id(1)):
                pass
            assert any(" debug " in line for line in lines_to(process, "has ended"))
            with PlayedPeer(own.port, worker_id(4)):
                lines_to(process, f"{worker_id(4)} joined")
        with following(own, "events", "--follow") as process:
            past = lines_to(process, f"{worker_id(1)} joined")
            with PlayedPeer(own.port, worker_id(2)):
                pass
            with PlayedPeer(own.port, worker_id(3)):
                new = lines_to(process, f"{worker_id(3)} joined")
    assert any(f"{worker_id(2)} joined" in line for line in new)
    assert not any(" debug " in line for line in past + new)


def test_events_go_on(relay: Served, played: Cluster) -> None:
    with following(relay, "events", "--follow", "--limit", "1") as process:
        assert f"{played.waiter.id} joined" in read_line(process)
        with PlayedPeer(relay.port, worker_id(20)):
            assert f"{worker_id(20)} joined" in read_line(process)


def test_a_reader_that_goes_away(relay: Served, played: Cluster) -> None:
    """As with  acebase-ipc events | head -1."""
    process = start("--admin", relay.admin, "events", "--follow", "--limit", "1")
    assert process.stdout is not None
    assert read_line(process)
    process.stdout.close()
    process.stdout = None
    with PlayedPeer(relay.port, worker_id(21)):
        ended = process.wait(DEADLINE)

    assert ended == 1
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == ""


def test_top_prints_once_without_a_terminal(
    command: Command, relay: Served, played: Cluster
) -> None:
    shown = command("--admin", relay.admin, "top")
    sampled = command("--admin", relay.admin, "top", "--json").json

    assert "3 peers of 1 database, 1 lock, 1 open request" in shown.lines[0]
    assert shown.lines[-1].split()[:3] == [DATABASE, "-", "3"]
    assert sampled["databases"][0]["name"] == DATABASE


class Terminal:
    """A terminal that a test plays, with a command on it."""

    def __init__(self, *arguments: str) -> None:
        self._own, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        self.before = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs)
        self.seen = ""

    def wait_for(self, pattern: str) -> None:
        """Wait until what is shown matches *pattern*."""
        while not re.search(pattern, self.seen):
            self.seen += os.read(self._own, 65536).decode()

    def press(self, key: bytes) -> None:
        os.write(self._own, key)

    def wait_ended(self) -> int:
        """Wait for the end of the command; the terminal must be as it was before."""
        status = self.process.wait(DEADLINE)
        assert termios.tcgetattr(self._theirs) == self.before
        os.close(self._own)
        os.close(self._theirs)
        return status


@pytest.mark.parametrize("by_key", [True, False], ids=["q", "ctrl-c"])
def test_top_is_live(relay: Served, played: Cluster, by_key: bool) -> None:
    terminal = Terminal("--admin", relay.admin, "top", "--interval", "0.1")
    terminal.wait_for(rf"{DATABASE} +- ")
    terminal.wait_for(rf"{DATABASE} +\d")
    with PlayedPeer(relay.port, worker_id(22)):
        terminal.wait_for("4 peers")
    if by_key:
        terminal.press(b"q")
    else:
        terminal.process.send_signal(signal.SIGINT)

    assert terminal.wait_ended() == 0
    assert "Traceback" not in terminal.seen


def test_top_waits_for_a_relay_that_is_away() -> None:
    with served() as relay:
        terminal = Terminal("--admin", relay.admin, "top", "--interval", "0.1")
        terminal.wait_for("acebase-ipc ")
    terminal.wait_for("connection lost")
    terminal.press(b"q")

    assert terminal.wait_ended() == 0


def test_a_command_that_waits_says_so(relay: Served) -> None:
    """After a second; the relay is stopped meanwhile."""
    os.kill(relay.process.pid, signal.SIGSTOP)
    try:
        terminal = Terminal("--admin", relay.admin, "databases")
        terminal.wait_for("waiting for http://")
    finally:
        os.kill(relay.process.pid, signal.SIGCONT)

    terminal.wait_for("DATABASE")
    assert terminal.wait_ended() == 0


def test_ping_shows_its_progress_and_ends_with_ctrl_c(relay: Served) -> None:
    terminal = Terminal("ping", relay.url, "--count", "1000000")
    terminal.wait_for("round trips")
    terminal.process.send_signal(signal.SIGINT)

    assert terminal.wait_ended() == 130


def test_a_narrow_terminal_cuts_no_id(relay: Served, played: Cluster) -> None:
    terminal = Terminal("--admin", relay.admin, "peers", DATABASE)
    terminal.wait_for(rf"{played.waiter.id} .* {os.getpid()} ")

    assert terminal.wait_ended() == 0
