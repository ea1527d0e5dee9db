"""The units in contrib/systemd, socket activation, and what systemd is told of a real relay."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

import twisted
from acebase_ipc.relay.limits import Limits
from acebase_ipc.server.endpoints import parse_endpoint
from acebase_ipc.tap import Options
from acebase_ipc.testing import client_frame
from tests.acebase.cluster import Process
from tests.activation import ActivatedRelay, activated, listening_socket
from tests.certificates import make_certificate, make_pfx
from tests.integration.peers import Peers
from tests.integration.raw import RawClient
from tests.integration.relay_process import TWISTD, Address, Twistd, on_loopback, running_relay
from tests.operation.manager import ServiceManager

UNITS = Path(__file__).resolve().parents[2] / "contrib" / "systemd"
SERVICE = UNITS / "acebase-ipc.service"
SOCKET = UNITS / "acebase-ipc.socket"
DEFAULT = UNITS / "acebase-ipc.default"
SYSUSERS = UNITS / "acebase-ipc.sysusers"
TLS = UNITS / "tls.conf"
INSTALLED = "/opt/acebase-ipc/bin/twistd"

SECONDS = 60
"""That systemd-analyze may take on a loaded machine."""

EXPOSURE = 10
"""Tenths of systemd-analyze's scale from 0 to 10: below 2.0 it calls a service safe."""

PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # prctl(2); what MemoryDenyWriteExecute= asks for


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units, with the twistd of these tests."""
    shutil.copy(SOCKET, tmp_path)
    text = SERVICE.read_text(encoding="utf-8")
    assert INSTALLED in text
    tmp_path.joinpath(SERVICE.name).write_text(text.replace(INSTALLED, str(TWISTD)))
    return tmp_path


def analyze(verb: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says."""
    executable = shutil.which("systemd-analyze")
    if executable is None:
        pytest.skip("systemd-analyze is not installed")
    analysis = subprocess.run(
        [executable, verb, *arguments], capture_output=True, text=True, timeout=SECONDS
    )
    if "unrecognized option" in analysis.stderr:
        pytest.skip(f"this systemd-analyze is too old: {analysis.stderr.strip()}")
    return analysis


def settings(unit: Path) -> dict[str, list[str]]:
    """The values of each setting of *unit*."""
    text = unit.read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_the_units_are_valid(units: Path) -> None:
    analysis = analyze("verify", "--man=no", units / SERVICE.name, units / SOCKET.name)

    # What it says of other units of this machine is not ours.
    assert "acebase" not in analysis.stderr
    assert analysis.returncode == 0, analysis.stderr


def test_the_service_is_confined(units: Path) -> None:
    analysis = analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE}", units / SERVICE.name
    )

    assert analysis.returncode == 0, analysis.stdout + analysis.stderr


def test_the_service_runs_the_relay_on_the_socket(tmp_path: Path) -> None:
    (command,) = settings(SERVICE)["ExecStart"]
    executable, *arguments = shlex.split(command)
    token = tmp_path / "token"
    token.write_text("secret")
    options = Options()
    assert executable == INSTALLED
    twistd, _, ours = " ".join(arguments).partition(" acebase-ipc ")
    assert twistd == "--nodaemon --pidfile="
    ours = ours.replace("/etc/acebase-ipc", str(tmp_path)).replace("%S", "/var/lib")
    options.parseOptions(shlex.split(ours))
    assert options.settings.config.endpoints == ("systemd:",)
    assert options.settings.config.token_file == str(token)
    (state,) = settings(SERVICE)["StateDirectory"]
    assert options.settings.config.state_dir == f"/var/lib/{state}"
    assert settings(SERVICE)["StateDirectoryMode"] == ["0700"]
    assert settings(SOCKET)["ListenStream"] == ["127.0.0.1:9163", "[::1]:9163"]


def test_the_environment_file_names_options_of_the_relay() -> None:
    names = re.findall(r"^#?(ACEBASE_IPC_\w+)=", DEFAULT.read_text(encoding="utf-8"), re.MULTILINE)

    assert settings(SERVICE)["EnvironmentFile"] == ["-/etc/default/acebase-ipc"]
    assert names
    options = {each.rstrip("=") for each in Options().longOpt}
    assert {each.removeprefix("ACEBASE_IPC_").lower().replace("_", "-") for each in names} < options


def test_the_user_of_the_service_is_the_one_that_is_created() -> None:
    (user,) = re.findall(r"^u (\S+) ", SYSUSERS.read_text(encoding="utf-8"), re.MULTILINE)

    assert settings(SERVICE)["User"] == settings(SERVICE)["Group"] == [user]


def test_the_service_may_open_enough_files() -> None:
    (limit,) = settings(SERVICE)["LimitNOFILE"]

    assert int(limit) >= Limits().max_connections * 1.5


@pytest.mark.parametrize("where", ["in the file system", "abstract"])
def test_systemd_is_kept_informed(tmp_path: Path, where: str) -> None:
    path = tmp_path / "notify"
    token_file = tmp_path / "token"
    token_file.write_text("first")
    token_file.chmod(0o600)
    with (
        ServiceManager(path if where == "in the file system" else f"@{path}") as manager,
        running_relay(
            options=("--token-file", str(token_file)), environment=manager.environment
        ) as relay,
    ):
        assert manager.next_state() == {"READY": "1"}
        manager.wait_for_ticks(2)

        token_file.write_text("second")
        before = time.monotonic_ns() // 1000
        os.kill(relay.pid, signal.SIGHUP)
        reloading = manager.next_state()
        assert reloading.pop("RELOADING") == "1"
        assert before < int(reloading.pop("MONOTONIC_USEC")) < time.monotonic_ns() // 1000
        assert not reloading
        assert manager.next_state() == {"READY": "1"}
        relay.wait_for("reading", lambda log: "the tokens were read again" in log)

        relay.stop()
        assert manager.next_state() == {"STOPPING": "1"}


def test_without_a_watchdog_there_are_no_signs_of_life(tmp_path: Path) -> None:
    with ServiceManager(tmp_path / "notify", watchdog=None) as manager:
        with running_relay(environment=manager.environment):
            assert manager.receive() == {"READY": "1"}
        assert manager.receive() == {"STOPPING": "1"}


def test_a_service_manager_that_is_gone_is_no_reason_to_end(tmp_path: Path) -> None:
    with contextlib.ExitStack() as manager_leaves:
        manager = manager_leaves.enter_context(ServiceManager(tmp_path / "notify"))
        with running_relay(environment=manager.environment) as relay:
            assert manager.next_state() == {"READY": "1"}
            manager_leaves.close()
            os.kill(relay.pid, signal.SIGHUP)
            relay.wait_for("reload", lambda log: "the configuration was read again" in log)


def test_a_relay_that_cannot_listen_is_never_ready(manager: ServiceManager) -> None:
    with Twistd(
        *("--nodaemon", "--pidfile=", "acebase-ipc", "--port", on_loopback(), "--port"),
        "systemd:index=0",  # there is none
        environment=manager.environment,
    ) as twistd:
        assert twistd.wait_ended() != 0
        assert "acebase-ipc: cannot listen" in twistd.last_line


@pytest_twisted.ensureDeferred
async def test_who_connects_during_a_restart_waits(peers: Peers) -> None:
    with listening_socket() as listener:
        with ActivatedRelay(listener) as relay:
            address = Address(port=relay.address.port)
            first = await peers.join(address, "first")
            await deferToThread(relay.stop)
            assert (await first.closed()).code == 1001
        # No process serves the port now.
        connecting = [
            Deferred.fromCoroutine(peers.join(address, name)) for name in ("first", "second")
        ]
        with ActivatedRelay(listener):
            joined = [await each for each in connecting]
            joined[0].tell("again")
            heard = [await joined[1].next()]
            if heard == ["connect:first"]:
                heard.append(await joined[1].next())
            assert heard[-1] == "msg:again"
            for each in joined:
                await each.leave()


def test_it_serves_without_writable_executable_memory() -> None:
    """As MemoryDenyWriteExecute= has it; this kernel call does the same."""
    deny = (
        "import ctypes, os, sys\n"
        f"if ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0):\n"
        "    sys.exit('not known')\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    interpreter = (sys.executable, "-c", deny)
    trial = subprocess.run([*interpreter, "-c", ""], stderr=subprocess.PIPE, timeout=SECONDS)
    if trial.stderr.strip() == b"not known":
        pytest.skip("this kernel cannot deny memory that is writable and executable")
    with (
        listening_socket() as listener,
        ActivatedRelay(listener, interpreter=interpreter) as relay,
        RawClient(Address(port=relay.address.port)) as client,
    ):
        answer = client.upgrade("/library/connect?id=reader&v=1.0.0")
        assert answer.startswith(b"HTTP/1.1 101 ")
        client.send(client_frame("é".encode() * 2000))
        client.send(client_frame(b"ping"))
        assert client.receive() == b"\x81\x04pong"


def test_a_dual_stack_socket_shows_the_addresses_of_its_clients(tmp_path: Path) -> None:
    """As systemd makes it of ``ListenStream=9163``."""
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    listener.listen()
    port = listener.getsockname()[1]
    with listener, ActivatedRelay(listener) as relay:
        for host in ("127.0.0.1", "::1"):
            with RawClient(Address(host=host, port=port)) as client:
                client.send(b"GET /library/clients HTTP/1.1\r\nHost: evil.example\r\n\r\n")
                assert client.read_answer()[0] == 403
        relay.wait_for("both", lambda: relay.text().count("is refused: 403") == 2)
        assert re.search(r" 127\.0\.0\.1:\d+ is refused: 403", relay.text())
        assert re.search(r" \[::1\]:\d+ is refused: 403", relay.text())


def test_it_listens_on_both_sockets_of_the_unit() -> None:
    with (
        listening_socket() as ipv4,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as ipv6,
    ):
        command = (TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc", "--port", "systemd:")
        inherited = [ipv4.fileno(), ipv6.fileno()]
        relay = Process("relay", activated([ipv4, ipv6], *command), {}, inherited)
        try:
            relay.wait_for("start", lambda: "#info] ready" in relay.text())
            for host, listener in (("127.0.0.1", ipv4), ("[::1]", ipv6)):
                url = f"http://{host}:{listener.getsockname()[1]}/healthz"
                with urlopen(url, timeout=SECONDS) as page:
                    assert page.read() == b"ok"
        finally:
            relay.kill()


def certificate_at(listener: socket.socket, root: Path, host: str) -> str:
    """The certificate that a server presents to a client that trusts *root*, as PEM."""
    context = ssl.create_default_context(cafile=root)
    with (
        socket.create_connection(listener.getsockname()[:2], timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as connected,
    ):
        connected.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connected.recv(1000).startswith(b"HTTP/1.1 200 ")
        presented = connected.getpeercert(binary_form=True)
    assert presented is not None
    return ssl.DER_cert_to_PEM_cert(presented)


@pytest.mark.parametrize("kind", ["ssl", "pfx", "tls"])
def test_tls_on_the_sockets_of_the_unit(tmp_path: Path, kind: str) -> None:
    """And with another certificate after SIGHUP, which no connection notices."""
    if kind == "tls" and tuple(map(int, twisted.__version__.split(".")[:2])) < (26, 4):
        pytest.skip("this version of Twisted has no tls: for servers")
    old, new = make_certificate(tmp_path), make_certificate(tmp_path, name="new")
    directory = tmp_path / "by_name"
    directory.mkdir()
    shutil.copy(old.pem, directory / "localhost.pem")
    port, renewed = {
        "ssl": (f"ssl:systemd:privateKey={old.pem}", old.pem),
        "pfx": (f"pfx:systemd:path={make_pfx(old)}", old.pem.with_suffix(".pfx")),
        "tls": (f"tls:{directory}:systemd", directory / "localhost.pem"),
    }[kind]
    with (
        listening_socket() as ipv4,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as ipv6,
    ):
        command = (TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc", "--port", port)
        inherited = [ipv4.fileno(), ipv6.fileno()]
        relay = Process("relay", activated([ipv4, ipv6], *command), {}, inherited)
        try:
            relay.wait_for("start", lambda: "#info] ready" in relay.text())
            assert f"listening on wss://127.0.0.1:{ipv4.getsockname()[1]}, wss://" in relay.text()
            for listener, host in ((ipv4, "127.0.0.1"), (ipv6, "::1"), (ipv6, "localhost")):
                assert certificate_at(listener, old.root, host) == old.certificate.read_text()
            with RawClient(
                Address(port=ipv4.getsockname()[1], secure=True, root=old.root)
            ) as client:
                assert client.upgrade("/library/connect?id=reader&v=1.0.0").startswith(
                    b"HTTP/1.1 101 "
                )
                shutil.copy(make_pfx(new) if kind == "pfx" else new.pem, renewed)
                relay.signal(signal.SIGHUP)
                relay.wait_for("reload", lambda: "the certificates were read" in relay.text())
                for listener in (ipv4, ipv6):
                    assert certificate_at(listener, new.root, "localhost") == (
                        new.certificate.read_text()
                    )
                client.send(client_frame(b"ping"))
                client.read_until(b"\x81\x04pong")
        finally:
            relay.kill()


def test_one_socket_with_tls_and_one_without(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    ports = (f"ssl:systemd:index=1:privateKey={certificate.pem}", "systemd:index=0")
    with listening_socket() as plain, listening_socket() as secure:
        command = (TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc")
        options = [word for port in ports for word in ("--port", port)]
        inherited = [plain.fileno(), secure.fileno()]
        relay = Process("relay", activated([plain, secure], *command, *options), {}, inherited)
        try:
            relay.wait_for("start", lambda: "#info] ready" in relay.text())
            shown = certificate_at(secure, certificate.root, "localhost")
            assert shown == certificate.certificate.read_text()
            with urlopen(f"http://127.0.0.1:{plain.getsockname()[1]}/healthz") as page:
                assert page.read() == b"ok"
        finally:
            relay.kill()


def test_the_drop_in_for_tls_differs_only_in_the_port(units: Path) -> None:
    drop_in = units / f"{SERVICE.name}.d"
    drop_in.mkdir()
    text = TLS.read_text(encoding="utf-8")
    drop_in.joinpath(TLS.name).write_text(text.replace(INSTALLED, str(TWISTD)))
    analysis = analyze("verify", "--man=no", units / SERVICE.name, units / SOCKET.name)
    assert "acebase" not in analysis.stderr
    assert analysis.returncode == 0, analysis.stderr

    _, command = settings(TLS)["ExecStart"]
    _, _, given = command.partition(" acebase-ipc ")
    _, _, plain = settings(SERVICE)["ExecStart"][0].partition(" acebase-ipc ")
    port = "ssl:systemd:privateKey=/etc/acebase-ipc/key.pem:certKey=/etc/acebase-ipc/cert.pem"
    assert shlex.split(given) == shlex.split(plain.replace("--port systemd:", f"--port {port}"))
    assert parse_endpoint(port).is_inherited
    assert settings(TLS)["ExecReload"] == ["", "/bin/kill -HUP $MAINPID"]
    assert settings(TLS)["MemoryDenyWriteExecute"] == ["no"]


def test_an_admin_endpoint_on_a_socket_that_is_open_to_the_network_needs_a_token() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        command: list[str | Path] = [TWISTD, "--nodaemon", "--pidfile=", "acebase-ipc"]
        options = ("--port", on_loopback(), "--admin", "systemd:index=0")
        ended = subprocess.run(
            activated([listener], *command, *options),
            pass_fds=(listener.fileno(),),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.endswith(" is open to the network: give a token file")


def test_a_socket_that_is_not_there_is_named() -> None:
    with listening_socket() as listener:
        command: list[str | Path] = [
            TWISTD,
            "--nodaemon",
            "--pidfile=",
            "acebase-ipc",
            "--port",
            "systemd:index=1",
        ]
        ended = subprocess.run(
            activated([listener], *command),
            pass_fds=(listener.fileno(),),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    assert ended.returncode == 1
    assert "0 inherited sockets match, of 0: unknown" in ended.stderr + ended.stdout
