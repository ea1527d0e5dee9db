"""What the README shows can be done, with real AceBase processes, PM2 and the real relay.

The tests run its JavaScript and shell blocks as they stand there, but on free ports. They leave out
what installs: ``npm install`` and ``make run``.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.acebase.cluster import Process, Relay, node, running_relay
from tests.acebase.typed import (
    MINUTE,
    application,
    assert_works,
    commands,
    counting,
    counts,
    install,
    run,
    served,
    started,
    wait_count,
)
from tests.documents import DOCS, PROJECT, README, blocks

APPLICATION = "Your own application"


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """The directory of somebody who follows the README."""
    install(tmp_path)
    return tmp_path


def free(serve: str) -> str:
    """Return a command with a free port for its admin endpoint."""
    assert "--admin 9164" in serve
    return serve.replace("--admin 9164", "--admin tcp:0:interface=127.0.0.1")


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
    master, worker = commands(README, APPLICATION)
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
    """Those of the README, and the same and one more in docs/hangs.rst."""
    shown = commands(README, "My cluster hangs: what to do?")
    show_events = ".venv/bin/acebase-ipc events --limit 20"
    assert {*commands(DOCS / "hangs.rst", "Look first")} == {*shown, show_events}
    with running_relay("--admin=tcp:0:interface=127.0.0.1") as relay:
        relay.wait_for("start", lambda: "] ready" in relay.text())
        (admin,) = re.findall(r"the admin endpoint is (\S+)", relay.text())
        with counting(reader, application(relay.address.port)):
            peers, locks, doctor, events = (
                run(
                    command.replace("9163", str(relay.address.port)),
                    reader,
                    ACEBASE_IPC_ADMIN=admin,
                )
                for command in (*shown, show_events)
            )
    assert "[master]" in peers
    assert "HOLDER" in locks or "No lock is held." in locks
    assert "has a master and 1 other peer" in doctor
    assert "[master] joined" in events


def test_the_token(reader: Path) -> None:
    create, serve = commands(README, "Token")
    token = run(create, reader).strip()
    assert reader.joinpath("token.txt").read_text().strip() == token
    with served(f"{free(serve)} --port tcp:0:interface=127.0.0.1", reader) as port:
        assert_works(reader, application(port, token=token))


def test_tls(reader: Path) -> None:
    reader.joinpath("token.txt").write_text("secret")
    certificate, serve = commands(README, "TLS")
    run(certificate, reader)
    assert "ssl:9163:" in serve
    serve = free(serve).replace("ssl:9163:", "ssl:0:interface=127.0.0.1:")
    with served(serve, reader) as port:
        assert_works(
            reader,
            application(port, token="secret", ssl=True),
            NODE_EXTRA_CA_CERTS="cert.pem",
        )


def test_pm2_runs_and_reloads_the_application(tcp_relay: Relay, reader: Path) -> None:
    start, logs, reload_all = commands(README, "PM2")
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
