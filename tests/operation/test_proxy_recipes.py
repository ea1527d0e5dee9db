"""The recipes of docs/proxies.rst: each is run as it stands there, with other ports and paths."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from acebase_ipc.testing import upgrade_request
from tests.acebase.cluster import Process
from tests.certificates import Certificate, make_certificate
from tests.documents import DOCS, block, blocks
from tests.integration.relay_process import DEADLINE, clean_environment, running_relay
from tests.operation.test_proxies import CLIENT, reserved_port, running, wait_logged
from tests.programs import program

TOKEN = "0123456789abcdef"
OPTIONS = ("--max-payload=16MiB", "--trust-proxy=127.0.0.1", f"--token={TOKEN}")
"""Those of the page, but for the token's file."""

PAGE = DOCS / "proxies.rst"

REFUSED_SECONDS = 0.5
"""A proxy that does not wait for the relay answers sooner."""

Proxy = Callable[[Path, int, Certificate], AbstractContextManager[tuple[int, Process]]]
"""Runs a proxy in a directory, before a port; yields its own port and its process."""


def adapt(text: str, *changes: tuple[str, str]) -> str:
    """Replace what a recipe says of this machine; each has to occur."""
    for old, new in changes:
        assert old in text, f"the recipe has no {old!r}"
        text = text.replace(old, new)
    return text


def nginx(section: str) -> Proxy:
    """An nginx with the recipe of a section."""

    @contextmanager
    def run(directory: Path, port: int, certificate: Certificate) -> Iterator[tuple[int, Process]]:
        path = program("nginx")
        with reserved_port() as own:
            recipe = adapt(
                block(PAGE, "nginx", section),
                ("listen 443 ssl;", f"listen 127.0.0.1:{own} ssl reuseport;"),
                ("key.pem", str(certificate.key)),
                ("certificate cert.pem", f"certificate {certificate.certificate}"),
                ("/var/log/nginx/ipc.log", "/dev/stderr"),
                ("127.0.0.1:9163", f"127.0.0.1:{port}"),
            )
            configuration = directory / "nginx.conf"
            configuration.write_text(f"""
                daemon off; master_process off; pid {directory}/pid; error_log stderr notice;
                events {{}}
                http {{
                    client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
                    fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;
                    scgi_temp_path {directory}/e;
                    {recipe}
                }}
            """)
            command = [path, "-c", str(configuration), "-p", str(directory), "-e", "stderr"]
            with running("nginx", command, "event method") as process:
                yield own, process

    return run


def haproxy(additions: str = "") -> Proxy:
    """An HAProxy with the recipe, and *additions* to its frontend."""

    @contextmanager
    def run(directory: Path, port: int, certificate: Certificate) -> Iterator[tuple[int, Process]]:
        path = program("haproxy")
        bundle = directory / "bundle.pem"
        bundle.write_bytes(certificate.pem.read_bytes())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            recipe = adapt(
                block(PAGE, "text", "HAProxy"),
                ("bind :443 ssl crt server.pem", f"bind fd@{listener.fileno()} ssl crt {bundle}"),
                ("    default_backend", f"{additions}\n    default_backend"),
                ("127.0.0.1:9163", f"127.0.0.1:{port}"),
            )
            configuration = directory / "haproxy.cfg"
            configuration.write_text(f"defaults\n    log stderr format raw local0\n{recipe}")
            command = [path, "-db", "-V", "-f", str(configuration)]
            with running("haproxy", command, "Using", listener.fileno()) as process:
                yield listener.getsockname()[1], process

    return run


def haproxy_additions() -> str:
    """What moves the token into a header."""
    return next(each.text for each in blocks(PAGE) if "http-request set-query" in each.text)


@contextmanager
def caddy(directory: Path, port: int, certificate: Certificate) -> Iterator[tuple[int, Process]]:
    """A Caddy with the recipe."""
    path = program("caddy")
    with reserved_port() as own:
        recipe = block(PAGE, "text", "Caddy")
        assert recipe.startswith("{\n")
        site = f"https://localhost:{own} {{ \n bind 127.0.0.1"
        recipe = "{\n    admin off\n    auto_https disable_redirects\n" + adapt(
            recipe.removeprefix("{\n"),
            ("ipc.example.org {", f"{site}\n tls {certificate.certificate} {certificate.key}"),
            ("127.0.0.1:9163", f"127.0.0.1:{port}"),
        )
        configuration = directory / "Caddyfile"
        configuration.write_text(recipe)
        command = [path, "run", "--config", str(configuration), "--adapter", "caddyfile"]
        own_files = {"HOME": str(directory), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}
        with running("caddy", command, "serving", environment=own_files) as process:
            yield own, process


IN_THE_URL = [
    pytest.param(nginx("nginx"), id="nginx"),
    pytest.param(haproxy(), id="haproxy"),
    pytest.param(caddy, id="caddy"),
]
IN_A_HEADER = [
    pytest.param(nginx("The token in a header"), id="nginx-header"),
    pytest.param(haproxy(haproxy_additions()), id="haproxy-header"),
]


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    directory = tmp_path / "certificate"
    directory.mkdir()
    return make_certificate(directory)


def tls(certificate: Certificate, port: int) -> ssl.SSLSocket:
    """A connection of :data:`CLIENT` to a proxy."""
    context = ssl.create_default_context(cafile=str(certificate.root))
    plain = socket.create_connection(("127.0.0.1", port), DEADLINE, (CLIENT, 0))
    return context.wrap_socket(plain, server_hostname="localhost")


def as_acebase(path: str = "/library_data/connect") -> bytes:
    """The handshake of the npm package acebase, its token last."""
    target = f"{path}?v=1.0.0&id=abcdefghijklmnopqrstuvwx&t={TOKEN}"
    return upgrade_request(target, host="localhost")


@pytest.mark.parametrize("proxy", IN_THE_URL + IN_A_HEADER)
def test_a_recipe_gives_clients_all_they_need(
    tmp_path: Path, certificate: Certificate, proxy: Proxy
) -> None:
    with (
        running_relay(options=OPTIONS) as relay,
        proxy(tmp_path, relay.address.port, certificate) as (port, process),
    ):
        with tls(certificate, port) as client:
            client.sendall(as_acebase())
            answer = b""
            while b"welcome:" not in answer:
                answer += client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 101 ")
        wait_logged(relay, f"library_data: abcdefghijklmnopqrstuvwx joined from {CLIENT}")
        doctor(port, certificate)
        assert TOKEN not in process.text()


def doctor(port: int, certificate: Certificate) -> None:
    """Every step of a client has to work."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "acebase_ipc", "doctor", f"wss://localhost:{port}"),
            *("--ca", str(certificate.root)),
        ],
        env=clean_environment({"ACEBASE_IPC_TOKEN": TOKEN}),
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "large messages: one of 2.0 MiB is back" in done.stdout


@pytest.mark.parametrize("proxy", IN_A_HEADER)
def test_a_recipe_moves_the_token_out_of_the_query(
    tmp_path: Path, certificate: Certificate, proxy: Proxy
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as relay:
        relay.settimeout(DEADLINE)
        with proxy(tmp_path, relay.getsockname()[1], certificate) as (port, _):
            for query in (
                "id=[master]&msg=1&t=abc",
                "t=abc&id=[master]&msg=1",
                "id=[master]&t=abc&msg=1",
            ):
                with tls(certificate, port) as client:
                    head = f"GET /a%20b_data/receive?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n"
                    client.sendall(head.encode())
                    lines = accept_request(relay)
                    assert lines[0] == "GET /a%20b_data/receive?id=[master]&msg=1 HTTP/1.1"
                    assert [each for each in lines if each.lower().startswith("auth")] == [
                        "Authorization: Bearer abc"
                    ]


def accept_request(listener: socket.socket) -> list[str]:
    """Accept a connection, and refuse its request; returns the lines of its head."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(DEADLINE)
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(65536)
            assert received
            head += received
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    return [line.replace("authorization:", "Authorization:") for line in head.decode().splitlines()]


@pytest.mark.parametrize("proxy", IN_THE_URL + IN_A_HEADER)
def test_a_recipe_shows_no_token_while_the_relay_is_away(
    tmp_path: Path, certificate: Certificate, proxy: Proxy
) -> None:
    with (
        reserved_port() as nobody,
        proxy(tmp_path, nobody, certificate) as (port, process),
        tls(certificate, port) as client,
    ):
        client.sendall(as_acebase("/away_data/connect"))
        assert client.recv(65536).startswith(b"HTTP/1.1 50")
        process.wait_for("log line", lambda: "/away_data/connect" in process.text())
        assert TOKEN not in process.text()


@pytest.mark.parametrize("proxy", [haproxy(), caddy], ids=["haproxy", "caddy"])
def test_a_recipe_waits_for_a_relay_that_restarts(
    tmp_path: Path, certificate: Certificate, proxy: Proxy
) -> None:
    with socket.socket() as relay:
        relay.bind(("127.0.0.1", 0))  # connections are refused
        with (
            proxy(tmp_path, relay.getsockname()[1], certificate) as (port, _),
            tls(certificate, port) as client,
        ):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.settimeout(REFUSED_SECONDS)
            with pytest.raises(TimeoutError):
                client.recv(65536)
            client.settimeout(DEADLINE)
            relay.listen()
            relay.settimeout(DEADLINE)
            accept_request(relay)
            assert client.recv(65536).startswith(b"HTTP/1.1 403 ")


def test_nginx_does_not_wait(tmp_path: Path, certificate: Certificate) -> None:
    """So a restart needs a port that stays open."""
    proxy = nginx("nginx")
    with (
        reserved_port() as nobody,
        proxy(tmp_path, nobody, certificate) as (port, _),
        tls(certificate, port) as client,
    ):
        client.settimeout(DEADLINE)
        client.sendall(as_acebase())
        assert client.recv(65536).startswith(b"HTTP/1.1 502 ")
