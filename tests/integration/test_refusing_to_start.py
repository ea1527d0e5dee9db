"""A relay that cannot serve ends twistd with status 1 and a last line that says why."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.certificates import make_certificate, make_encrypted_pem
from tests.integration.relay_process import Twistd, endpoint, on_loopback, running_relay

SECRET = "n0body-may-read-this"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of loopback that another process listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def refuse(*options: str, environment: Mapping[str, str] | None = None) -> str:
    """Start a relay that must not run; returns the last line of what it says."""
    with Twistd(
        "--nodaemon", "--pidfile=", "acebase-ipc", *options, environment=environment
    ) as twistd:
        assert twistd.wait_ended() == 1, twistd.log
        assert "Traceback" not in twistd.log, twistd.log
        assert SECRET not in twistd.log, twistd.log
        assert "listening on" not in twistd.log
        return twistd.last_line


def test_a_taken_port(taken: int) -> None:
    said = refuse("--token", SECRET, "--port", f"tcp:{taken}:interface=127.0.0.1")

    assert f"127.0.0.1:{taken}" in said
    assert "Address already in use" in said


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--admin", "tcp:0"), "open to the network: give --admin-token-file, or :interface=127.0"),
        (("--admin", "tcp:x"), "whole number"),
        (("--admin-token-file", "token"), "needs admin (--admin)"),
    ],
)
def test_an_admin_endpoint_that_cannot_be_used(options: tuple[str, ...], reason: str) -> None:
    assert reason in refuse("--port", on_loopback(), *options)


def test_a_taken_port_of_the_admin_endpoint(taken: int) -> None:
    with Twistd(
        *("--nodaemon", "--pidfile=", "acebase-ipc"),
        *("--port", on_loopback(), "--admin", f"tcp:{taken}:interface=127.0.0.1"),
    ) as twistd:
        assert twistd.wait_ended() == 1, twistd.log
        assert "Traceback" not in twistd.log, twistd.log
        assert f"127.0.0.1:{taken}" in twistd.last_line


def test_a_state_directory_that_another_relay_uses(tmp_path: Path) -> None:
    state = ("--state-dir", str(tmp_path / "state"))
    with running_relay(options=state):
        assert "another relay uses it" in refuse("--port", on_loopback(), *state)


def test_a_state_directory_that_cannot_be_made(tmp_path: Path) -> None:
    said = refuse("--port", on_loopback(), "--state-dir", str(tmp_path / "missing" / "state"))

    assert f"acebase-ipc: cannot use the state directory '{tmp_path}" in said


def test_one_taken_port_of_two_ends_it(taken: int) -> None:
    with Twistd(
        *("--nodaemon", "--pidfile=", "acebase-ipc"),
        *("--port", on_loopback(), "--port", f"tcp:{taken}:interface=127.0.0.1"),
    ) as twistd:
        assert twistd.wait_ended() == 1, twistd.log
        assert "Traceback" not in twistd.log, twistd.log
        assert f"127.0.0.1:{taken}" in twistd.last_line


def test_a_unix_socket_where_there_is_no_directory(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "relay.sock"

    assert str(path) in refuse("--port", endpoint("unix", str(path)))


@pytest.mark.parametrize(
    ("port", "reason"),
    [
        ("nonsense:9163", "nonsense"),
        ("127.0.0.1:9163", "write 9163, or tcp:9163:interface=127.0.0.1"),
        ("ssl:9163", "the key is missing: write ssl:9163:privateKey=key.pem:certKey=certificate."),
        ("tls:9163", "the directory is missing: write tls:DIRECTORY:9163"),
        ("tls:missing:0", "write tls:DIRECTORY:9163"),
        ("systemd:index=0", "or write 9163 or tcp:9163 in place of systemd:"),
        ("tcp:http:interface=127.0.0.1", "http"),
        ("tcp:99999:interface=127.0.0.1", "99999"),
        ("tcp:0:interface=127.0.0.1:colour=red", "colour"),
        ("ssl:0:interface=127.0.0.1:privateKey=missing/key.pem", "missing/key.pem"),
        (f"pfx:0:path=missing/server.pfx:passphrase={SECRET}", "missing/server.pfx"),
    ],
)
def test_an_endpoint_that_cannot_be_used(port: str, reason: str) -> None:
    assert reason in refuse("--port", port)


def test_a_wrong_passphrase(pfx: Path) -> None:
    said = refuse("--port", on_loopback("pfx", path=pfx, passphrase=SECRET))

    assert "wrong passphrase" in said
    assert pfx.name in said


def test_an_encrypted_pem_key(tmp_path: Path) -> None:
    """``ssl:`` knows no passphrase; OpenSSL must not ask for one either."""
    pem = make_encrypted_pem(make_certificate(tmp_path), SECRET)

    assert "cannot listen on" in refuse("--port", on_loopback("ssl", privateKey=pem))


def test_a_key_without_its_certificate(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)

    said = refuse("--port", on_loopback("ssl", privateKey=certificate.key))
    assert f"{certificate.key} holds no certificate in PEM form: name its file with" in said
    said = refuse("--port", on_loopback("ssl", privateKey=certificate.certificate))
    assert f"{certificate.certificate} holds no private key in PEM form" in said


def test_a_file_that_is_no_key(tmp_path: Path) -> None:
    pem = tmp_path / "no.pem"
    pem.write_text(SECRET)

    assert "no.pem" in refuse("--port", on_loopback("ssl", privateKey=pem))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--colour=red",), "colour"),
        (("--max-payload=large",), "'large' is not a size: write 16384, 16KiB"),
        (
            ("--session-timeout=15s",),
            "--session-timeout: '15s' is not a number of seconds: write",
        ),
        (("--max-connections=10k",), "'10k' is not a whole number such as 20000"),
        (("--token", SECRET, "--token-file", "missing.txt"), "(--token) or token_file"),
        (("--token-file", "missing.txt"), "missing.txt"),
        (("--keepalive-interval=2147483",), "from 1 to 1,000,000 seconds"),
        (("--allow-origin=example.org",), "has no scheme"),
        (("--allow-host=example.org:9163",), "has a port"),
    ],
)
def test_an_option_that_cannot_be_used(options: tuple[str, ...], reason: str) -> None:
    assert reason in refuse(*options, "--port", on_loopback())


@pytest.mark.parametrize("token", ["", "\n"])
def test_an_empty_token_does_not_let_everybody_in(token: str) -> None:
    said = refuse("--port", on_loopback(), environment={"ACEBASE_IPC_TOKEN": token})

    assert "ACEBASE_IPC_TOKEN: the token must not be empty" in said


def test_a_unix_socket_that_another_relay_uses(tmp_path: Path) -> None:
    path = tmp_path / "relay.sock"
    port = endpoint("unix", str(path))

    with running_relay(port):
        assert "another process has locked it" in refuse("--port", port)
        assert path.exists()
