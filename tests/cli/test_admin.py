"""What a command says where there is no admin endpoint, or another one than it needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from acebase_ipc.cli import admin
from acebase_ipc.cli import place as place_module
from acebase_ipc.cli.place import parse_place
from tests.cli.cluster import Served, served
from tests.cli.conftest import Command
from tests.cli.servers import closed_port, saying


@contextmanager
def answering(status: int, body: str, content_type: str = "application/json") -> Iterator[str]:
    """Run a server that gives every request this answer; gives its URL."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, '{"error": "This host name is not allowed"}', "use one in --admin"),
        (403, '{"error": "The header is missing"}', "refuses this: The header is missing"),
        (503, '{"error": "too\\nmany"}', "answered 503: too many"),
        (404, "Not found", "is no admin endpoint of a relay (it answered 404)"),
        (200, "<html>", "is no admin endpoint of a relay (it answered 200)"),
        (200, "[" * 100_000, "is no admin endpoint of a relay (it answered 200)"),
        (200, "{}", "answered with something else than this command expects: version is missing"),
        (500, "[1]", "is no admin endpoint of a relay (it answered 500)"),
    ],
)
def test_answers(command: Command, status: int, body: str, says: str) -> None:
    with answering(status, body) as url:
        shown = command("--admin", url, "status")
        streamed = command("--admin", url, "watch", "mydb_data")

    assert (shown.status, shown.output) == (1, "")
    assert says in shown.error
    if status != 200:
        assert (streamed.status, streamed.error) == (1, shown.error)


@pytest.mark.parametrize(("name", "limit"), [("ANSWER_TIMEOUT", -1.0), ("MAX_ANSWER", 1)])
def test_an_answer_without_an_end(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, limit: float
) -> None:
    monkeypatch.setattr(admin, name, limit)
    with answering(200, "{}") as url:
        shown = command("--admin", url, "status")
    assert (shown.status, shown.output) == (3, "")
    assert "broke off its answer" in shown.error


@pytest.mark.parametrize("limit", [18, 1000])
def test_a_line_of_the_stream_without_an_end(
    command: Command, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(admin, "MAX_LINE", limit)
    lines = 'event: skipped\ndata: {"messages": 1}\n\n'
    with answering(200, lines, "text/event-stream") as url:
        streamed = command("--admin", url, "watch", "mydb_data")
    assert streamed.status == 3
    assert "has ended the stream" in streamed.errors
    assert ("1 messages were not shown" in streamed.errors) == (limit == 1000)


def test_an_answer_that_is_not_complete(command: Command) -> None:
    with saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}") as port:
        shown = command("--admin", f"http://127.0.0.1:{port}", "status")
    assert shown.status == 3
    assert "broke off its answer" in shown.error


def test_the_port_of_the_peers(command: Command, relay: Served) -> None:
    shown = command("--admin", f"http://127.0.0.1:{relay.port}", "status")

    assert shown.status == 1
    assert "not the port of the peers" in shown.error


def test_a_closed_port(command: Command) -> None:
    shown = command("--admin", f"http://127.0.0.1:{closed_port()}", "status", "--json")

    assert (shown.status, shown.output) == (3, "")
    assert "Connection refused" in shown.error
    assert "--admin" in shown.error


def test_https_at_a_plain_port(command: Command) -> None:
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        shown = command("--admin", f"https://127.0.0.1:{port}", "status")

    assert shown.status == 3
    assert "TLS" in shown.error


def test_a_unix_socket_that_is_not_there(command: Command, tmp_path: Path) -> None:
    shown = command("--admin", f"unix:{tmp_path}/none.sock", "status")

    assert shown.status == 3
    assert "No such file or directory" in shown.error


def test_a_unix_socket_of_another_user(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may use every socket, so the refusal is played."""

    def refuse(connection: place_module.UnixHTTPConnection) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(place_module.UnixHTTPConnection, "connect", refuse)
    shown = command("--admin", f"unix:{tmp_path}/admin.sock", "status")

    assert shown.status == 3
    assert "the relay's own user" in shown.error


def test_the_default_places(
    command: Command, relay: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setattr(place_module, "DEFAULT_PLACES", (nowhere, relay.admin))
    found = command("status")
    monkeypatch.setattr(place_module, "DEFAULT_PLACES", (nowhere, nowhere))
    none = command("status")

    assert found.status == 0
    assert none.status == 3
    assert f"no relay answers at {nowhere} or {nowhere}" in none.error
    assert "ACEBASE_IPC_ADMIN" in none.error


def test_the_option_comes_before_the_variable(command: Command, relay: Served) -> None:
    variable = {"ACEBASE_IPC_ADMIN": "http://nowhere.invalid"}

    assert command("status", environment=variable).status == 3
    assert command("--admin", relay.admin, "status", environment=variable).status == 0


def test_an_ipv6_host(command: Command) -> None:
    with served(admin="tcp:0:interface=\\:\\:1") as relay:
        assert "[::1]" in relay.admin
        assert command("--admin", relay.admin, "status").status == 0


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:9164", "ws://127.0.0.1", "unix:admin.sock", "http://", "http://a:b", "http://a/b"],
)
def test_what_is_no_place(command: Command, text: str) -> None:
    shown = command("--admin", text, "status")

    assert shown.status == 2
    assert "write http://host:port" in shown.error


def test_places() -> None:
    assert parse_place("unix:///run/a.sock").socket == "/run/a.sock"
    assert parse_place("https://example.org/").port == 443
    assert parse_place("http://[::1]:1").host == "::1"


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("9164", "http://127.0.0.1:9164"),
        ("tcp:9164", "http://127.0.0.1:9164"),
        (r"tcp:9164:interface=\:\:1", "http://[::1]:9164"),
        ("ssl:9164:privateKey=key.pem:interface=10.0.0.1", "https://10.0.0.1:9164"),
        ("unix:/run/a.sock:mode=660", "unix:/run/a.sock"),
    ],
)
def test_what_the_relay_takes_is_a_place_too(endpoint: str, url: str) -> None:
    assert parse_place(endpoint) == parse_place(url)


def test_a_token_file_that_holds_none(command: Command, relay: Served, tmp_path: Path) -> None:
    empty = tmp_path / "tokens"
    empty.touch()
    shown = command("--admin", relay.admin, "--token-file", str(empty), "status")

    assert shown.status == 1
    assert "holds no token" in shown.error


@pytest.mark.parametrize(
    "arguments", [("peers", "n\udcc3\udca9"), ("kick", "n\udcc3\udca9", "\udcff")]
)
def test_a_name_that_the_encoding_of_the_terminal_cannot_hold(
    command: Command, relay: Served, arguments: tuple[str, ...]
) -> None:
    shown = command("--admin", relay.admin, *arguments)
    assert shown.status == 1
    assert "the relay has no database" in shown.error
