"""The Site of the admin endpoint: its files, its limits, its start and its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import CannotListenError
from twisted.internet.testing import StringTransport

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig, ConfigError
from acebase_ipc.admin import site
from acebase_ipc.admin.site import MAX_CONNECTIONS, TIMEOUT
from acebase_ipc.relay.events import PeerJoined, RelayEvent
from acebase_ipc.testing import MemoryReactor, MemoryRelay, client_frame, http_request
from tests.admin.relay import HOST, LOOPBACK, AdminRelay

NAMES = ("index.html", "page.css", "page.js")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Other files in place of those of the status page."""
    directory = tmp_path / "page"
    directory.mkdir()
    for name in NAMES:
        (directory / name).write_text(f"this is {name}: ä")
    monkeypatch.setattr(site, "PAGE", directory)
    return directory


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html"),
        ("/page/page.css", "page.css", "text/css"),
        ("/page/page.js", "page.js", "text/javascript"),
    ],
)
def test_the_files_of_the_page_may_load_only_each_other(
    page: Path, path: str, name: str, kind: str
) -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", path)
    assert (response.status, response.text) == (200, f"this is {name}: ä")
    assert response.headers["content-type"] == f"{kind}; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    directives = response.headers["content-security-policy"].split("; ")
    policy = dict(each.split(" ", 1) for each in directives)
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert {policy[f"{each}-src"] for each in ("script", "style", "connect")} == {"'self'"}


@pytest.mark.parametrize(
    "path", ["/page", "/page/", "/page/index.html", "/page/x", "/page/page.js/x", "/index.html"]
)
def test_there_is_nothing_beside_the_files_of_the_page(page: Path, path: str) -> None:
    with AdminRelay() as relay:
        assert relay.ask("GET", path).status == 404


@pytest.mark.parametrize(
    "path",
    ["/page/..%2fsecret", "/page/../secret", "/page/%2e%2e/secret", "/..%2fsecret", "//secret"],
)
def test_a_path_leads_nowhere_else(page: Path, path: str) -> None:
    (page.parent / "secret").write_text("secret")
    with AdminRelay() as relay:
        response = relay.ask("GET", path)
    assert response.status == 404
    assert "secret" not in response.text


def test_it_writes_no_access_log() -> None:
    with AdminRelay() as relay:
        relay.ask("GET", "/api/v1/status?secret=x")
    assert not relay.logged("/api/v1/status")
    assert not relay.logged("secret")


def test_the_oldest_connection_without_a_request_makes_way_for_another_one() -> None:
    with AdminRelay() as relay, relay.at_admin():
        connections = [relay.connect() for _ in range(MAX_CONNECTIONS)]
        connections[0].send(http_request("GET", "/api/v1/stream", host=HOST))
        assert relay.get("/healthz", host=HOST).status == 200
        ended = [each.ended for each in connections]
    assert ended == [None, "reset"] + [None] * (MAX_CONNECTIONS - 2)


def test_connections_that_come_at_once_displace_one_each() -> None:
    with AdminRelay() as relay:
        admin: Any = relay.server._admin
        with relay.at_admin():
            connections = [relay.connect() for _ in range(MAX_CONNECTIONS)]
        for _ in range(3):
            admin._site.buildProtocol(None).makeConnection(StringTransport())
        relay.settle()
        assert [each.ended for each in connections].count("reset") == 3


def test_there_is_a_limit_on_connections_that_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "MAX_CONNECTIONS", 2)
    with AdminRelay() as relay:
        readings = [relay.read_stream() for _ in range(2)]
        with relay.at_admin():
            assert relay.connect().ended == "closed"
        assert [each.connection.ended for each in readings] == [None, None]
        readings[0].connection.close()
        assert relay.ask("GET", "/healthz").status == 200


def test_a_client_that_sends_its_request_little_by_little_gets_no_more_time() -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            slow = relay.connect()
        for each in b"GET /":
            slow.send(bytes([each]))
            relay.pass_time(TIMEOUT / 6)
        assert slow.ended is None
        slow.send(b"h")
        relay.pass_time(TIMEOUT / 6 + 1)
        assert slow.ended == "reset"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_does_not_read_an_answer_gets_no_more_time(version: str) -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            idle = relay.connect()
        idle.stop_reading()
        request = f"GET /page/page.js HTTP/{version}\r\nHost: {HOST}\r\n\r\n"
        idle.send(request.encode() * 100)
        relay.pass_time(TIMEOUT + 1)
        assert idle.ended == "reset"


def test_the_answers_that_nobody_reads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "MAX_UNSENT", 1000)
    with AdminRelay() as relay:
        with relay.at_admin():
            idle = relay.connect()
        idle.stop_reading()
        idle.send(http_request("GET", "/page/page.js", host=HOST) * 100)
        relay.settle()
        assert idle.ended == "reset"
        assert relay.ask("GET", "/page/page.js").status == 200


def test_what_follows_a_request_is_not_read_before_its_answer() -> None:
    with AdminRelay() as relay:
        connection = relay.read_stream().connection
        for _ in range(20):
            connection.send(http_request("GET", "/healthz", host=HOST) * 1000)
        assert len(connection.unread) > 500_000


@pytest.mark.parametrize("path", ["/page/page.js", "/none"])
def test_many_requests_at_once_do_not_hold_up_peers(path: str) -> None:
    with AdminRelay() as relay:
        alice, bobby = relay.join_all("alice", "bobby")
        with relay.at_admin():
            connections = [relay.connect() for _ in range(5)]
        for each in connections:
            each.send(http_request("GET", path, host=HOST) * 100, settle=False)
        for _ in range(3):
            relay.turn()
        alice.connection.send(client_frame(b"to:bobby;hello"), settle=False)
        for _ in range(3):
            relay.turn()
        assert bobby.received() == ["msg:hello"]
        assert sum(len(each.responses()) for each in connections) < 150
        relay.settle()
        assert sum(len(each.responses()) for each in connections) > 300


def test_an_idle_connection_is_ended() -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            idle, incomplete = relay.connect(), relay.connect()
        incomplete.send(b"GET /healthz HT")
        relay.pass_time(59)
        assert (idle.ended, incomplete.ended) == (None, None)
        relay.pass_time(2)
        assert None not in (idle.ended, incomplete.ended)
        assert not relay.logged("Timing out")


def test_a_connection_serves_one_request_after_the_other() -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            connection = relay.connect()
        connection.send(http_request("GET", "/healthz", host=HOST) * 3)
        assert [each.text for each in connection.responses()] == ["ok"] * 3


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/readyz", "/metrics", "/none"]
    + [f"/api/v1/{each}" for each in ("status", "databases", "databases/shop_data", "events")],
)
def test_a_client_that_sends_nothing_more_is_sent_the_whole_answer(path: str) -> None:
    with AdminRelay() as relay:
        relay.join("alice")
        relay.pass_time(2)
        with relay.at_admin():
            connection, other = relay.connect(), relay.connect()
        connection.stop_reading(100)
        connection.send(http_request("GET", path, host=HOST), settle=False)
        connection.stop_sending()
        assert connection.ended is None
        connection.resume_reading()
        assert connection.ended == "closed"
        other.send(http_request("GET", path, host=HOST))
        assert connection.response().status == other.response().status


@pytest.mark.parametrize("data", [b"", b"GET /healthz HT", http_request("GET", "/healthz") + b"G"])
def test_the_connection_of_a_client_that_sends_nothing_more_ends(data: bytes) -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            connection = relay.connect()
        connection.send(data)
        connection.stop_sending()
        assert connection.ended == "closed"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"x" * 20_000,
        b"POST /api/v1/drain HTTP/1.1\r\nContent-Length: " + b"9" * 5000,
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            connection = relay.connect()
        connection.send(data + b"\r\n\r\n")
        response = connection.response()
        assert response.status in (400, 431)
        assert list(json.loads(response.text)) == ["error"]
        assert connection.ended is not None
        assert relay.server.counts.total() == 1  # Refused, or TLSFailed
        assert relay.ask("GET", "/healthz").status == 200


# The server as a whole


def test_without_the_option_there_is_no_admin_endpoint() -> None:
    with MemoryRelay() as relay:
        assert len(relay.reactor.ports) == 1
        relay.join("alice")
        assert relay.get("/api/v1/status").status == 404


def test_it_listens_on_every_endpoint_and_says_so() -> None:
    with AdminRelay(admin=(LOOPBACK, "tcp:0:interface=127.0.0.1")) as relay:
        assert relay.logged("the admin endpoint is http://127.0.0.1:9164")
        assert len(relay.logged("the admin endpoint is")) == 1
        assert len(relay.logged("listening on")) == 1
        for port in relay.reactor.ports[1:]:
            relay.admin = port
            assert relay.ask("GET", "/healthz").status == 200


def test_a_port_that_cannot_be_opened_undoes_the_start() -> None:
    reactor = MemoryReactor(taken=[9164])
    relay = AdminRelay(reactor=reactor, expect_errors=True)
    failures: list[Any] = []
    relay.starting.addErrback(failures.append)
    relay.settle()
    assert failures[0].check(CannotListenError)
    assert not [each for each in reactor.ports if each.listening]
    relay.pass_time(6)
    assert reactor.getDelayedCalls() == []
    reactor.taken.clear()
    relay.server.start()
    relay.settle()
    assert len([each for each in reactor.ports if each.listening]) == 2
    relay.server.stop()
    relay.pass_time(6)


def test_after_stopping_nothing_is_left_to_do() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("messages=1")
        with relay.at_admin():
            idle = relay.connect()
        relay.stop()
        relay.pass_time(6)
        assert not [each for each in relay.reactor.ports if each.listening]
        assert None not in (reading.connection.ended, idle.ended)
        assert relay.reactor.getDelayedCalls() == []


class Kept:
    """An observer of a user."""

    def __init__(self) -> None:
        self.events: list[RelayEvent] = []

    def report(self, event: RelayEvent) -> None:
        self.events.append(event)
        raise ValueError("a mistake of the user's")


@pytest.mark.parametrize("admin", [(), (LOOPBACK,)])
def test_a_users_observer_is_added_to_the_others(admin: tuple[str, ...]) -> None:
    kept = Kept()
    with AdminRelay(admin=admin, observer=kept, expect_errors=True) as relay:
        relay.join("alice")
        assert kept.events == [PeerJoined("shop_data", "alice", "documented", "127.0.0.1:40000")]
        assert relay.server.counts == {"PeerJoined": 1}
        assert len(relay.logged("alice joined")) == 1
        if admin:
            assert [each["peer"] for each in relay.see("events")["events"]] == ["alice"]
    assert len(relay.logged("an observer failed")) == 1


def test_a_token_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    config = AceBaseIPCServerConfig(admin=(LOOPBACK,), admin_token_file=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="cannot read the token file"):
        AceBaseIPCServer(config, MemoryReactor())
