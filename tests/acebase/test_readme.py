"""What the README shows can be done, with real AceBase processes, PM2 and the real relay.

The tests run its JavaScript and shell blocks as they stand there, but on free ports. They leave out
what installs: ``npm install`` and ``make run``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acebase.cluster import HERE, Process, Relay, node, running_relay
from tests.documents import PROJECT, README, blocks

MINUTE = 60.0
"""Seconds: what PM2 and OpenSSL may need on a loaded machine."""

APPLICATION = "Your own application"
INSTALLED = ("npm install acebase ws", "npm install pm2")

TWISTD = "from twisted.scripts.twistd import run; run()"


def commands(section: str) -> list[str]:
    """The commands of the shell blocks in a section, without those that install."""
    text = "".join(
        each.text
        for each in blocks(README)
        if each.language == "shell" and each.section == (section,)
    )
    lines = text.replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines if line not in INSTALLED]


def application(port: int, **more: str | bool) -> str:
    """The README's app.js for a relay on *port*, with *more* of AceBase's settings."""
    (text,) = (each.text for each in blocks(README) if each.language == "javascript")
    assert "port: 9163, role }" in text
    settings = "".join(
        f", {name}: {value!r}" if isinstance(value, str) else f", {name}: {str(value).lower()}"
        for name, value in more.items()
    )
    return text.replace("port: 9163, role }", f"port: {port}, role{settings} }}")


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """The directory of somebody who has installed what the README says."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, arguments in {
        "twistd": f"-c {shlex.quote(TWISTD)}",
        "acebase-ipc": "-m acebase_ipc",
    }.items():
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        script.chmod(0o700)
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    return tmp_path


def run(command: str, directory: Path, **environment: str) -> str:
    """Run a command of the README; returns what it prints."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * MINUTE,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def started(command: str, directory: Path, **environment: str) -> Iterator[Process]:
    """Run a command that goes on until it is interrupted."""
    line = f"cd {shlex.quote(str(directory))} && exec {command}"
    process = Process(command, ["/bin/sh", "-c", line], environment)
    try:
        yield process
    finally:
        process.kill()


def counts(process: Process) -> list[int]:
    """The values of the counter that a worker has printed."""
    return [int(value) for value in re.findall(r"worker \d+: the counter is (\d+)", process.text())]


def wait_count(process: Process, holds: Callable[[list[int]], bool]) -> None:
    process.wait_for("counting", lambda: holds(counts(process)), MINUTE)


def test_every_section_with_commands_is_run() -> None:
    sections = {each.section for each in blocks(README) if each.language == "shell"}
    hangs = "My cluster hangs: what to do?"
    assert sections == {(each,) for each in ("Start", APPLICATION, "PM2", "Token", "TLS", hangs)}


def test_the_targets_of_make_exist() -> None:
    targets = {*re.findall(r"^ *make (\w+)$|``make (\w+)``", README.read_text(), re.MULTILINE)}
    names = {name for found in targets for name in found if name}
    assert {"run", "cluster"} <= names
    subprocess.run(["make", "--dry-run", *names], cwd=PROJECT, check=True, capture_output=True)


def test_the_application_counts_in_two_terminals(tcp_relay: Relay, reader: Path) -> None:
    master, worker = commands(APPLICATION)
    (shown,) = (
        each.text for each in blocks(README) if each.section == (APPLICATION,) and not each.language
    )
    reader.joinpath("app.js").write_text(application(tcp_relay.address.port))
    with started(master, reader) as first:
        first.wait_for("ready", lambda: "ready" in first.text())
        with started(worker, reader) as second, started(worker, reader) as third:
            wait_count(second, lambda values: len(values) > 2)
            wait_count(third, lambda values: len(values) > 2)
            wait_count(second, lambda values: values[-1] >= max(counts(third)[:3]))
    pattern = re.sub(r"\d+", r"\\d+", re.escape(shown.splitlines()[0]))
    for process in (second, third):
        assert counts(process) == sorted(counts(process))
        assert re.search(pattern, process.text())
    assert "counter" not in first.text()


@pytest.mark.parametrize("role", ["master", "worker"])
def test_the_application_notices_that_it_is_refused(reader: Path, role: str) -> None:
    with running_relay(token="right") as relay:
        reader.joinpath("app.js").write_text(application(relay.address.port, token="wrong"))
        with started(f"node app.js {role}", reader) as process:
            process.wait_for("reason", lambda: "unauthorized" in process.text())
            assert process.wait_ended() != 0
    if role == "worker":  # a master may end sooner, as it cannot create the database
        assert "no connection to the relay" in process.text()
    assert "ready" not in process.text()


def test_the_application_notices_that_the_master_is_missing(tcp_relay: Relay, reader: Path) -> None:
    reader.joinpath("app.js").write_text(application(tcp_relay.address.port))
    with started("node app.js worker", reader) as worker:
        assert worker.wait_ended() != 0
    assert "no answer" in worker.text()


def test_the_commands_show_a_cluster(reader: Path) -> None:
    with running_relay("--admin=tcp:0:interface=127.0.0.1") as relay:
        relay.wait_for("start", lambda: "] ready" in relay.text())
        (admin,) = re.findall(r"the admin endpoint is (\S+)", relay.text())
        reader.joinpath("app.js").write_text(application(relay.address.port))
        with (
            started("node app.js master", reader) as master,
            started("node app.js worker", reader) as worker,
        ):
            wait_count(worker, bool)
            peers, locks, doctor = (
                run(
                    command.replace("9163", str(relay.address.port)),
                    reader,
                    ACEBASE_IPC_ADMIN=admin,
                )
                for command in commands("My cluster hangs: what to do?")
            )
            assert not master.ended
    assert "[master]" in peers
    assert "HOLDER" in locks or "No lock is held." in locks
    assert "has a master and 1 other peer" in doctor


def test_the_token(reader: Path) -> None:
    create, serve = commands("Token")
    token = run(create, reader).strip()
    assert reader.joinpath("token.txt").read_text().strip() == token
    with served(f"{serve} --port tcp:0:interface=127.0.0.1", reader) as port:
        assert_works(reader, application(port, token=token))


def test_tls(reader: Path) -> None:
    reader.joinpath("token.txt").write_text("secret")
    certificate, serve = commands("TLS")
    run(certificate, reader)
    assert "ssl:9163:" in serve
    serve = serve.replace("ssl:9163:", "ssl:0:interface=127.0.0.1:")
    with served(serve, reader) as port:
        text = application(port, token="secret", ssl=True)
        assert "host: '127.0.0.1'" in text
        text = text.replace("host: '127.0.0.1'", "host: 'localhost'")
        assert_works(reader, text, NODE_EXTRA_CA_CERTS="cert.pem")


@contextmanager
def served(command: str, directory: Path) -> Iterator[int]:
    """A relay by a command of the README; yields its port."""
    listening = re.compile(r"listening on wss?://[\d.]+:(\d+)")
    with started(command, directory) as relay:
        relay.wait_for("listening", lambda: "] ready" in relay.text())
        yield int(listening.findall(relay.text())[0])


def assert_works(directory: Path, text: str, **environment: str) -> None:
    """The application must run as it stands in *text*."""
    directory.joinpath("app.js").write_text(text)
    with (
        started("node app.js master", directory, **environment),
        started("node app.js worker", directory, **environment) as worker,
    ):
        wait_count(worker, lambda values: len(values) > 1)


def test_pm2_runs_and_reloads_the_application(tcp_relay: Relay, reader: Path) -> None:
    start, logs, reload_all = commands("PM2")
    reader.joinpath("app.js").write_text(application(tcp_relay.address.port))
    home = {"PM2_HOME": str(reader / "pm2"), "PATH": f"{Path(node()).parent}:{os.environ['PATH']}"}
    try:
        run(start, reader, **home)
        with started(f"{logs} --raw --lines 1000", reader, **home) as printed:
            old = wait_workers(printed, set(), 2)
            run(reload_all, reader, **home)
            new = wait_workers(printed, old, 2)
    finally:
        run("npx pm2 kill", reader, **home)
    assert len(new) == 2
    values = [int(value) for value in re.findall(r"the counter is (\d+)", printed.text())]
    assert values[-1] > 2


def wait_workers(printed: Process, but: set[str], count: int) -> set[str]:
    """Wait until this many processes, *but* these, have each counted twice; return all of them."""

    def found() -> set[str]:
        numbers = re.findall(r"worker (\d+): the counter is", printed.text())
        return {each for each in numbers if each not in but and numbers.count(each) > 1}

    printed.wait_for(f"{count} workers", lambda: len(found()) >= count, MINUTE)
    return found()
