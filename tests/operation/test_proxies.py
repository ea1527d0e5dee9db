"""A relay behind real proxies: nginx and HAProxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from acebase_ipc.testing import http_request, upgrade_request
from tests.acebase.cluster import Process
from tests.integration.relay_process import DEADLINE, RelayProcess, on_loopback, running_relay
from tests.programs import program

CLIENT = "127.0.0.9"
"""The address from which the client connects to the first proxy."""


@contextmanager
def running(
    name: str,
    command: list[str],
    says: str,
    *inherited: int,
    environment: dict[str, str] | None = None,
) -> Iterator[Process]:
    """A proxy, from the moment at which it *says* something."""
    process = Process(name, command, environment or {}, inherited)
    try:
        process.wait_for(says, lambda: says in process.text())
        yield process
        assert not process.ended, process.text()
    finally:
        process.kill()


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback on which nothing listens, until a proxy with SO_REUSEPORT does."""
    with socket.socket() as reserved:  # it does not listen, so that the proxy gets all connections
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@contextmanager
def nginx(directory: Path, port: int) -> Iterator[int]:
    """An nginx in front of a *port*; yields its own port."""
    path = program("nginx")
    directory.mkdir()
    with reserved_port() as own:
        configuration = directory / "nginx.conf"
        configuration.write_text(f"""
            daemon off; master_process off; pid {directory}/pid; error_log stderr notice;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {directory}/a; proxy_temp_path {directory}/b;
                fastcgi_temp_path {directory}/c; uwsgi_temp_path {directory}/d;
                scgi_temp_path {directory}/e;
                server {{
                    listen 127.0.0.1:{own} reuseport;
                    location / {{
                        proxy_pass http://127.0.0.1:{port};
                        proxy_http_version 1.1;
                        proxy_set_header Upgrade $http_upgrade;
                        proxy_set_header Connection "upgrade";
                        proxy_set_header Host $host;
                        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                    }}
                }}
            }}
        """)
        command = [path, "-c", str(configuration), "-p", str(directory), "-e", "stderr"]
        with running("nginx", command, "event method"):
            yield own


@contextmanager
def haproxy(directory: Path, port: int, header: str) -> Iterator[int]:
    """A HAProxy in front of a *port*, in TCP mode; yields its own port."""
    path = program("haproxy")
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        configuration = directory / "haproxy.cfg"
        configuration.write_text(
            "defaults\n  mode tcp\n"
            "  timeout connect 10s\n  timeout client 60s\n  timeout server 60s\n"
            f"listen ipc\n  bind fd@{listener.fileno()}\n"
            f"  server relay 127.0.0.1:{port} {header}\n"
        )
        command = [path, "-db", "-V", "-f", str(configuration)]
        with running("haproxy", command, "Using", listener.fileno()):
            yield listener.getsockname()[1]


def ask(port: int, request: bytes) -> bytes:
    """The beginning of the answer to a *request* of :data:`CLIENT`."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE, (CLIENT, 0)) as client:
        client.sendall(request)
        answer = client.recv(65536)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
        return answer


def wait_logged(relay: RelayProcess, text: str) -> None:
    """Wait for a line with *text*."""
    relay.wait_for(text, lambda log: text in log)


FORGED = "203.0.113.1, 127.0.0.1"


@pytest.mark.parametrize("hops", [1, 2])
def test_nginx_names_its_client(tmp_path: Path, hops: int) -> None:
    with running_relay(options=("--trust-proxy=127.0.0.1", "--token=secret")) as relay:
        port = relay.address.port
        with nginx(tmp_path / "first", port) as first:
            if hops == 1:
                serve_client(relay, first)
            else:
                with nginx(tmp_path / "second", first) as second:
                    serve_client(relay, second)


def serve_client(relay: RelayProcess, port: int) -> None:
    """Let a client connect that claims to be another."""
    refused = http_request("GET", "/library/clients?t=wrong", x_forwarded_for=FORGED)
    assert b" 401 " in ask(port, refused)
    wait_logged(relay, f"] {CLIENT} is refused: 401")
    target = "/library/connect?id=worker1&v=1&t=secret"
    assert b" 101 " in ask(port, upgrade_request(target, x_forwarded_for=FORGED))
    wait_logged(relay, f"worker1 joined from {CLIENT} as")
    wait_logged(relay, f"worker1 left, last connected from {CLIENT}")


def test_nginx_is_not_believed_without_being_trusted(tmp_path: Path) -> None:
    with (
        running_relay(options=("--trust-proxy=127.0.0.2", "--token=secret")) as relay,
        nginx(tmp_path / "nginx", relay.address.port) as port,
    ):
        ask(port, http_request("GET", "/library/clients?t=wrong"))
        wait_logged(relay, "] 127.0.0.1:")
        wait_logged(relay, " is refused: 401")
        assert CLIENT not in relay.log


@pytest.mark.parametrize("header", ["send-proxy", "send-proxy-v2"])
def test_haproxy_names_its_client_and_the_port(tmp_path: Path, header: str) -> None:
    with (
        running_relay(f"haproxy:{on_loopback()}", options=("--trust-proxy=127.0.0.1",)) as relay,
        haproxy(tmp_path / "haproxy", relay.address.port, header) as port,
    ):
        assert b" 101 " in ask(port, upgrade_request("/library/connect?id=worker1&v=1"))
        wait_logged(relay, f"worker1 joined from {CLIENT}:")


def test_haproxy_is_refused_without_being_trusted(tmp_path: Path) -> None:
    with (
        running_relay(f"haproxy:{on_loopback()}", options=("--trust-proxy=127.0.0.2",)) as relay,
        haproxy(tmp_path / "haproxy", relay.address.port, "send-proxy") as port,
    ):
        assert ask(port, http_request("GET", "/healthz")) == b""
        wait_logged(relay, "is refused: 400 it is no trusted proxy (--trust-proxy)")
