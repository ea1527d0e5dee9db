"""What twistd itself offers: its other reactors, and the daemon."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from tests.integration.peers import Closed, Peers
from tests.integration.raw import RawClient
from tests.integration.relay_process import (
    DEADLINE,
    TWISTD,
    Address,
    Twistd,
    clean_environment,
    endpoint,
    find_addresses,
    on_loopback,
    running_relay,
)
from tests.integration.web import Web


@pytest.mark.parametrize("reactor", ["asyncio", "poll"])
@pytest_twisted.ensureDeferred
async def test_other_reactors(peers: Peers, reactor: str) -> None:
    with running_relay(
        options=("--log-level=debug",), twistd_options=(f"--reactor={reactor}",)
    ) as relay:
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
    ended = r"library: the connection of second from 127\.0\.0\.1:\d+ has ended after \d+ s: 1000"
    assert re.search(rf"#debug\] {ended}", relay.log)


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
            assert await peer.received() == []
        finally:
            os.kill(pid, signal.SIGTERM)
        assert await peer.closed() == Closed(1001, "the server is shutting down")
        ended.register(alive_file, selectors.EVENT_READ)
        assert ended.select(DEADLINE)
        assert alive_file.read() == b""

    assert not pidfile.exists()
    log = logfile.read_text()
    assert log.rstrip().endswith("stopped")
    assert "Traceback" not in log


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback that another process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("nodaemon", [False, True])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--port", "tcp:{taken}:interface=127.0.0.1"), "Address already in use"),
        (("--port", on_loopback(), "--admin", "{taken}"), "Address already in use"),
        (("--port", "ssl:0:privateKey=missing.pem"), "missing.pem"),
        (("--port", "unix:missing/relay.sock"), "missing/relay.sock"),
        (("--port", on_loopback(), "--state-dir", "missing/state"), "missing/state"),
        (("--port", on_loopback(), "--port", "late:"), "too late"),
    ],
)
def test_what_cannot_serve_says_so_in_one_line(
    tmp_path: Path, taken: int, options: tuple[str, ...], says: str, nodaemon: bool
) -> None:
    """As a daemon it neither hangs nor leaves its pid file."""
    pidfile, logfile = tmp_path / "relay.pid", tmp_path / "relay.log"
    started = subprocess.run(
        [
            *(TWISTD, f"--pidfile={pidfile}", f"--logfile={logfile}"),
            *(("--nodaemon",) if nodaemon else ()),
            *("acebase-ipc", *(each.format(taken=taken) for each in options)),
        ],
        cwd=tmp_path,
        env=clean_environment({"PYTHONPATH": with_late_port(tmp_path)}),
        capture_output=True,
        timeout=DEADLINE,
        text=True,
    )

    assert_one_line(started, says)
    assert not pidfile.exists()
    assert not logfile.exists() or "Traceback" not in logfile.read_text()


def assert_one_line(ended: subprocess.CompletedProcess[str], says: str) -> None:
    """The process has failed, and says why in one line."""
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("acebase-ipc: ")
    assert says in line


@pytest.mark.parametrize(
    ("option", "says"), [("--pidfile", "missing/relay.pid"), ("--chroot", "missing/root")]
)
def test_what_twistd_itself_cannot_do_for_a_daemon_is_one_line(
    tmp_path: Path, option: str, says: str
) -> None:
    started = subprocess.run(
        [
            *(TWISTD, "--pidfile=relay.pid", "--logfile=relay.log", f"{option}={tmp_path}/{says}"),
            *("acebase-ipc", "--port", on_loopback()),
        ],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        timeout=DEADLINE,
        text=True,
    )

    assert_one_line(started, says)


def test_a_daemon_that_is_killed_while_it_starts_does_not_let_its_parent_wait(
    tmp_path: Path,
) -> None:
    """The second port opens never, so that the daemon goes on starting."""
    pidfile = tmp_path / "relay.pid"
    with Twistd(
        *(f"--pidfile={pidfile}", f"--logfile={tmp_path}/relay.log", f"--rundir={tmp_path}"),
        *("acebase-ipc", "--port", on_loopback(), "--port", "never:"),
        environment={"PYTHONPATH": with_late_port(tmp_path)},
    ) as parent:
        deadline = time.monotonic() + DEADLINE
        while not pidfile.exists() or not pidfile.read_text():
            assert time.monotonic() < deadline
        os.kill(int(pidfile.read_text()), signal.SIGKILL)
        assert parent.wait_ended() == 1
    assert parent.log == "acebase-ipc: the process has ended while it was starting\n"


LINES = [
    r"acebase-ipc \S+ \((C extension|pure Python)\): token not required, maxPayload 16384 .*",
    r"listening on ws://127\.0\.0\.1:\d+, unix:\S+/relay\.sock",
    "ready",
    r"Received SIGTERM, shutting down\.",
    "stopped",
]


@pytest.mark.parametrize("form", ["text", "json"])
def test_start_up_is_three_lines_and_the_end_two(tmp_path: Path, form: str) -> None:
    ports = on_loopback(), endpoint("unix", str(tmp_path / "relay.sock"))
    options = f"--log-format={form}", "--max-connections=100"  # a limit of files would be told
    with running_relay(*ports, options=options) as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        relay.stop()
    lines = relay.log.splitlines()
    if form == "json":
        objects = list(map(json.loads, lines))
        assert {each["level"] for each in objects} == {"info"}
        texts = [each["message"] for each in objects]
    else:
        texts = [each.partition("#info] ")[2] for each in lines]
    assert len(texts) == len(LINES), relay.log
    for line, text in zip(LINES, texts, strict=True):
        assert re.fullmatch(line, text)


PLUGIN = """
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint, IStreamServerEndpointStringParser
from twisted.plugin import IPlugin
from zope.interface import implementer

@implementer(IStreamServerEndpoint)
class Late:
    def __init__(self, reactor):
        self.reactor = reactor

    def listen(self, factory):
        def fail():
            listening.errback(CannotListenError("late", 1, OSError("too late")))

        listening = Deferred()
        self.reactor.callWhenRunning(self.reactor.callLater, 0, fail)
        return listening

@implementer(IPlugin, IStreamServerEndpointStringParser)
class LateParser:
    prefix = "late"

    def parseStreamServer(self, reactor, *arguments):
        return Late(reactor)

@implementer(IStreamServerEndpoint)
class Never:
    def listen(self, factory):
        return Deferred()

@implementer(IPlugin, IStreamServerEndpointStringParser)
class NeverParser:
    prefix = "never"

    def parseStreamServer(self, reactor, *arguments):
        return Never()

late = LateParser()
never = NeverParser()
"""
"""An endpoint that fails when the reactor runs, and one that is never open."""


def with_late_port(directory: Path) -> str:
    """Make the endpoints known below *directory*; returns a PYTHONPATH with it."""
    plugins = directory / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    plugins.joinpath("late_endpoint.py").write_text(PLUGIN)
    return os.pathsep.join((str(directory), os.environ.get("PYTHONPATH", "")))


@pytest.mark.parametrize("command", ["twistd", "twist"])
def test_a_port_that_fails_later_ends_it_with_an_error(tmp_path: Path, command: str) -> None:
    own = ("--nodaemon", "--pidfile=") if command == "twistd" else ()
    with Twistd(
        *(*own, "acebase-ipc", "--port", on_loopback(), "--port", "late:"),
        command=[TWISTD.with_name(command)],
        environment={"PYTHONPATH": with_late_port(tmp_path)},
    ) as twistd:
        assert twistd.wait_ended() == 1, twistd.log
    assert twistd.last_line == "acebase-ipc: Couldn't listen on late:1: too late."
    assert "listening on" not in twistd.log
    assert "Traceback" not in twistd.log


def test_the_version_is_ours() -> None:
    with Twistd("acebase-ipc", "--version") as twistd:
        assert twistd.wait_ended() == 0
        assert twistd.log.startswith("acebase-ipc ")


# Signals, crashes and locales


def is_healthy(address: Address) -> bool:
    """Return whether a relay answers; its reactor runs by then, which handles SIGTERM."""
    with RawClient(address) as client:
        client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return client.read_answer() == (200, "ok")


def test_a_relay_that_logs_to_standard_output_survives_the_signals() -> None:
    with running_relay() as relay:
        os.kill(relay.pid, signal.SIGUSR1)
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait_for("reload", lambda log: "the configuration was read again" in log)


def signals_ignored_or_caught(pid: int) -> int:
    """The signals that do not end a process, as a set of bits."""
    status = Path(f"/proc/{pid}/status").read_text()
    sets = re.findall(r"^Sig(?:Ign|Cgt):\s+([0-9a-f]+)$", status, re.MULTILINE)
    return int(sets[0], 16) | int(sets[1], 16)


def test_a_reload_during_the_start_is_not_lost() -> None:
    with Twistd("--nodaemon", "--pidfile=", "acebase-ipc", "--port", on_loopback()) as twistd:
        deadline = time.monotonic() + DEADLINE
        while not signals_ignored_or_caught(twistd.pid) & 1 << signal.SIGHUP - 1:
            assert time.monotonic() < deadline
        os.kill(twistd.pid, signal.SIGHUP)
        twistd.wait_for("port", find_addresses)
        assert is_healthy(find_addresses(twistd.log)[0])
        assert "Traceback" not in twistd.log


def test_signals_that_were_ignored_at_the_start_are_handled() -> None:
    """In the time before the relay can handle them they would end the process otherwise."""
    shell: list[str | Path] = ["/bin/sh", "-c", 'trap "" HUP USR1; kill -HUP $$; exec "$@"', "sh"]
    arguments = ("--nodaemon", "--pidfile=", "acebase-ipc", "--port", on_loopback())
    with Twistd(*arguments, command=[*shell, TWISTD]) as twistd:
        twistd.wait_for("start", lambda log: "ready" in log)
        os.kill(twistd.pid, signal.SIGHUP)
        twistd.wait_for("reload", lambda log: "the configuration was read again" in log)


@pytest.mark.parametrize("lock", [True, False])
def test_a_unix_port_is_opened_again_after_a_crash(tmp_path: Path, lock: bool) -> None:
    path = tmp_path / "relay.sock"
    port = endpoint("unix", str(path), lockfile=int(lock))
    with Twistd("--nodaemon", "--pidfile=", "acebase-ipc", "--port", port) as twistd:
        twistd.wait_for("port", find_addresses)
        assert path.stat().st_mode & 0o777 == 0o660
        os.kill(twistd.pid, signal.SIGKILL)
        twistd.wait_ended()
    assert path.exists()
    with running_relay(port) as relay:
        assert is_healthy(relay.address)
    assert list(tmp_path.iterdir()) == []


def test_a_unix_port_that_is_open_to_all_users_is_warned_of(tmp_path: Path) -> None:
    port = endpoint("unix", str(tmp_path / "relay.sock"), mode=666)
    with running_relay(port) as relay:
        assert is_healthy(relay.address)
        assert "is open to every user without a token" in relay.log
    with running_relay(port, options=("--token=secret",)) as relay:
        assert is_healthy(relay.address)
        assert "is open to every user" not in relay.log


@pytest_twisted.ensureDeferred
async def test_a_line_that_the_locale_cannot_encode_is_written(peers: Peers) -> None:
    with running_relay(environment={"PYTHONIOENCODING": "ascii"}) as relay:
        peer = await peers.join(relay.address, "日本語ですね")
        await peer.leave()
        assert r"\u65e5\u672c\u8a9e\u3067\u3059\u306d joined" in relay.log


def test_a_relative_token_file_is_found_again_after_rundir(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    tmp_path.joinpath("token.txt").write_text("first")
    with running_relay(
        options=("--token-file=token.txt",),
        twistd_options=(f"--rundir={state}",),
        directory=tmp_path,
    ) as relay:
        tmp_path.joinpath("token.txt").unlink()
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait_for("error", lambda log: "#error] nothing is reloaded" in log)
        tmp_path.joinpath("token.txt").write_text("second")
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait_for("reload", lambda log: "the tokens were read again" in log)


@pytest.mark.parametrize("form", ["text", "json"])
def test_twist_writes_its_log_as_the_options_say(form: str) -> None:
    twist: list[str | Path] = [TWISTD.with_name("twist"), "acebase-ipc", "--log-format", form]
    with Twistd("--port", on_loopback(), command=twist) as running:
        running.wait_for("port", lambda log: "listening on" in log)
        lines = [each for each in running.log.splitlines() if "listening on" in each]
        assert lines[0].startswith("{") == (form == "json")
        running.terminate()
        running.wait_ended()
