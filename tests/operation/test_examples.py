"""The examples of how to run the relay do run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from urllib.request import urlopen

import psutil

from acebase_ipc.tap import Options
from tests.integration.relay_process import (
    DEADLINE,
    TWISTD,
    clean_environment,
    find_addresses,
    on_loopback,
)
from tests.programs import program

PROJECT = Path(__file__).resolve().parents[2]
DAEMON = PROJECT / "examples" / "daemon" / "relay.sh"
PM2 = PROJECT / "examples" / "pm2" / "ecosystem.config.js"


def test_the_daemon(tmp_path: Path) -> None:
    log = tmp_path / "relay.log"
    token = tmp_path / "token"
    token.write_text("secret")

    def relay(*arguments: str | Path) -> None:
        environment = clean_environment(
            {
                "ACEBASE_IPC_TWISTD": str(TWISTD),
                "ACEBASE_IPC_DIRECTORY": str(tmp_path),
                "ACEBASE_IPC_KEEP": "2",
            }
        )
        subprocess.run([DAEMON, *arguments], env=environment, timeout=DEADLINE, check=True)

    def wait_handled() -> None:
        """Signals that came before have then been dealt with."""
        for _ in range(2):
            with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=DEADLINE) as page:
                assert page.read() == b"ok"

    relay("start", "--port", on_loopback(), "--token-file", token)
    try:
        (address,) = find_addresses(log.read_text())
        port = address.port
        for _ in range(4):
            relay("reload")
            wait_handled()
            relay("rotate")
            wait_handled()
        assert "the tokens were read again" in tmp_path.joinpath("relay.log.1").read_text()
        assert "the tokens were read again" not in log.read_text()
        assert {each.name for each in tmp_path.glob("relay.log.*")} == {
            "relay.log.1",
            "relay.log.2",
        }
    finally:
        relay("stop")
    assert not tmp_path.joinpath("relay.pid").exists()
    assert log.read_text().rstrip().endswith("stopped")
    assert log.stat().st_mode & 0o077 == 0


def test_the_daemon_is_upgraded(tmp_path: Path) -> None:
    pid_file, log = tmp_path / "relay.pid", tmp_path / "relay.log"
    environment = clean_environment(
        {"ACEBASE_IPC_TWISTD": str(TWISTD), "ACEBASE_IPC_DIRECTORY": str(tmp_path)}
    )

    def relay(*arguments: str) -> None:
        subprocess.run([DAEMON, *arguments], env=environment, timeout=DEADLINE, check=True)

    relay("start", "--port", on_loopback())
    former = psutil.Process(int(pid_file.read_text()))
    try:
        (address,) = find_addresses(log.read_text())
        relay("upgrade")
        former.wait(DEADLINE)
        assert int(pid_file.read_text()) != former.pid
        with urlopen(f"http://127.0.0.1:{address.port}/healthz", timeout=DEADLINE) as page:
            assert page.read() == b"ok"
    finally:
        relay("stop")
    assert not pid_file.exists()
    assert "Traceback" not in log.read_text()


def test_pm2_runs_a_relay_one_master_and_workers() -> None:
    node = program("node")
    shown = subprocess.run(
        [node, "-p", f"JSON.stringify(require({json.dumps(str(PM2))}).apps)"],
        env={**os.environ, "ACEBASE_IPC_PORT": "9163", "ACEBASE_IPC_TWISTD": str(TWISTD)},
        capture_output=True,
        check=True,
        timeout=DEADLINE,
    )
    relay, *members = json.loads(shown.stdout)

    assert relay["script"] == str(TWISTD.with_name("acebase-ipc"))
    twistd = relay["args"].index("acebase-ipc")
    assert relay["args"][:twistd] == ["supervise", str(TWISTD), "--nodaemon", "--pidfile="]
    options = Options()
    options.parseOptions(relay["args"][twistd + 1 :])
    assert options.settings.config.endpoints == ("tcp:9163:interface=127.0.0.1",)
    assert relay["kill_timeout"] > 5000
    assert [each["env"]["ROLE"] for each in members] == ["master", "worker"]
    assert members[0].get("instances", 1) == 1
    for each in members:
        subprocess.run([node, "--check", each["script"]], check=True, timeout=DEADLINE)
