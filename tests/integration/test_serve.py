"""``acebase-ipc serve``, as a user or a container starts it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.certificates import Certificate
from tests.integration.raw import RawClient
from tests.integration.relay_process import (
    DEADLINE,
    Address,
    Twistd,
    clean_environment,
    find_addresses,
    on_loopback,
)

COMMAND: list[str | Path] = [sys.executable, "-m", "acebase_ipc"]

WITHOUT_EXTRAS = "import sys; sys.modules.update(click=None, rich=None, psutil=None)"


def serving(*options: str, environment: dict[str, str] | None = None) -> Twistd:
    """Run the command with these options."""
    return Twistd("serve", *options, command=COMMAND, environment=environment)


def is_healthy(address: Address) -> bool:
    with RawClient(address) as client:
        return client.upgrade("/healthz").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_ends_with_status_0(number: signal.Signals) -> None:
    with serving("--port", on_loopback(), "--token", "a") as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        (address,) = find_addresses(relay.log)
        assert is_healthy(address)
        os.kill(relay.pid, number)
        assert relay.wait_ended() == 0
    assert relay.log.rstrip().endswith("stopped")
    assert "Traceback" not in relay.log


WITH_A_SIGNAL = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "acebase_ipc.tap":
            os.kill(os.getpid(), signal.{})

sys.meta_path.insert(0, Finder())
from acebase_ipc.__main__ import main
main()
"""


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_a_signal_while_it_starts_does_not_end_it(name: str) -> None:
    command = [sys.executable, "-c", WITH_A_SIGNAL.format(name)]
    with Twistd("serve", "--port", on_loopback(), command=command) as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        assert "read again" not in relay.log
        relay.stop()


def test_ctrl_c_while_it_starts_leaves_no_traceback() -> None:
    command = [sys.executable, "-c", WITH_A_SIGNAL.format("SIGINT")]
    with Twistd("serve", "--port", on_loopback(), command=command) as relay:
        assert relay.wait_ended() == 130
        assert relay.log == ""


def test_options_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('port = ["unix:relay.sock"]\ntoken = "a"\n')
    variables = {"ACEBASE_IPC_LOG_FORMAT": "json"}
    with serving("--config", str(file), environment=variables) as relay:
        relay.wait_for("start", lambda log: '"ready"' in log)
        assert f"listening on unix:{tmp_path}/relay.sock" in relay.log
        assert is_healthy(Address(path=str(tmp_path / "relay.sock")))


def test_a_changed_file_is_read_on_sighup(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('port = ["0"]\n')
    with serving("--config", str(file)) as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        file.write_text('port = ["0"]\nlog_level = "warn"\nmax_memory = true\n')
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait_for("error", lambda log: f"nothing is reloaded: {file}, line 3: max_" in log)
        file.write_text('port = ["0"]\nlog_level = "debug"\ntoken = "a"\nlog_format = "json"')
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait_for("change", lambda log: "changed: log_level" in log)
        assert "changed: token\n" in relay.log
        relay.wait_for("restart", lambda log: "needs a restart: log_format" in log)
        relay.stop()
        assert "Main loop terminated." in relay.log


def test_fewer_files_are_told_once() -> None:
    limited: list[str | Path] = ["/bin/sh", "-c", 'ulimit -n 1000; exec "$@"', "sh", *COMMAND]
    with Twistd("serve", "--port", on_loopback(), command=limited) as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        os.kill(relay.pid, signal.SIGHUP)
        relay.wait_for("reload", lambda log: "read again" in log)
    assert relay.log.count("#warn]") == 1
    assert "max_connections is 900, as the process may open only 1000 files" in relay.log


def ended(*options: str) -> tuple[int, str, str]:
    """The status of the command, its output and its errors."""
    run = subprocess.run(
        [*COMMAND, "serve", *options],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return run.returncode, run.stdout, run.stderr


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--nonsense",), 2, "option --nonsense not recognized (see  acebase-ipc serve --help)"),
        (("--fence", "15s"), 2, "--fence: '15s' is not a number of seconds: write 15 (see "),
        (("--config", "missing.toml"), 2, "cannot read the configuration file "),
        (("--token-file", "missing"), 1, "cannot read the token file "),
        (("--port", "ssl:0:privateKey=missing.pem"), 1, "cannot listen on 'ssl:"),
        (("--port", "unix:missing/relay.sock"), 1, "No such file or directory"),
    ],
)
def test_what_cannot_be_served_ends_it_with_one_line(
    options: tuple[str, ...], status: int, says: str
) -> None:
    found, _, errors = ended(*options)

    assert found == status
    (line,) = errors.splitlines()
    assert line.startswith("acebase-ipc: ")
    assert says in line


def test_its_help_is_that_of_twistd() -> None:
    status, output, _ = ended("--help")

    assert status == 0
    assert output.startswith("Usage: acebase-ipc serve [options]\n")
    with Twistd("acebase-ipc", "--help") as twistd:
        assert twistd.wait_ended() == 0
    assert twistd.log.partition("\n")[2] == output.partition("\n")[2]


def test_it_needs_nothing_that_only_other_commands_need() -> None:
    code = f"{WITHOUT_EXTRAS}; from acebase_ipc.__main__ import main; main()"
    with Twistd(*("serve", "--port", on_loopback()), command=[sys.executable, "-c", code]) as relay:
        relay.wait_for("start", lambda log: "ready" in log)


def test_a_number_serves_both_addresses_of_loopback() -> None:
    """``localhost`` may be either."""
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.create_server(("127.0.0.1", six.getsockname()[1])) as four,
    ):
        port = four.getsockname()[1]
    with serving("--port", str(port)) as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        for host in ("127.0.0.1", "::1"):
            assert is_healthy(Address(host=host, port=port))


def test_tls_serves_both_families_if_it_listens_on_ipv6(self_signed: Certificate) -> None:
    port = f"ssl:0:privateKey={self_signed.pem}:interface=\\:\\:"
    with serving("--port", port, "--token", "a") as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        number = int(re.findall(r"listening on wss://\[::\]:(\d+)", relay.log)[0])
        for host in ("127.0.0.1", "::1"):
            address = Address(host=host, port=number, secure=True, root=self_signed.root)
            assert is_healthy(address)


def test_tcp6_serves_both_families() -> None:
    with serving("--port", "tcp6:0", "--token", "a") as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        port = int(re.findall(r"listening on ws://\[::\]:(\d+)", relay.log)[0])
        for host in ("127.0.0.1", "::1"):
            assert is_healthy(Address(host=host, port=port))


def test_a_worker_over_tcp6_is_known_by_its_ipv4_address() -> None:
    options = ("--port", "tcp6:0", "--max-address-connections", "1", "--log-level", "debug")
    with serving(*options) as relay:
        relay.wait_for("start", lambda log: "ready" in log)
        port = int(re.findall(r"listening on ws://\[::\]:(\d+)", relay.log)[0])
        with RawClient(Address(port=port)) as client:
            head = client.upgrade("/books_data/connect?id=alice&v=1.0.0")
            assert head.startswith(b"HTTP/1.1 101 ")
            relay.wait_for("peer", lambda log: "alice joined from 127.0.0.1:" in log)
