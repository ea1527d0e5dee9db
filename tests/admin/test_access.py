"""Who may use the admin endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.logger import eventAsText
from twisted.web.http_headers import Headers

from acebase_ipc import AceBaseIPCServerConfig, ConfigError
from acebase_ipc.admin.access import AdminAccess
from acebase_ipc.http.errors import Unauthorized
from acebase_ipc.http.responses import FAILURE_DELAY
from acebase_ipc.http.tokens import FREE_FAILURES, Rule, Tokens
from tests.admin.relay import HOST, AdminRelay

SECRET = "correct-horse"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with :data:`SECRET`."""
    path = tmp_path / "admin-token"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def bearer(token: str) -> dict[str, str]:
    """The headers that present *token*."""
    return {"authorization": f"Bearer {token}"}


# On loopback, without a token


@pytest.mark.parametrize("host", [HOST, "localhost", "localhost:9164", "[::1]:9164", "a.localhost"])
def test_a_name_of_loopback_is_accepted(host: str) -> None:
    with AdminRelay() as relay:
        assert relay.ask("GET", "/api/v1/status", host=host).status == 200


@pytest.mark.parametrize("path", ["/api/v1/status", "/healthz", "/readyz", "/", "/nowhere"])
def test_a_name_that_a_page_has_bound_to_loopback_is_refused(path: str) -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", path, host="rebound.example:9164")
    assert response.status == 403
    assert "host name" in response.text


def test_a_request_with_several_hosts_is_refused() -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            connection = relay.connect()
        hosts = f"Host: attacker.example\r\nHost: {HOST}\r\n"
        connection.send(f"GET /api/v1/status HTTP/1.1\r\n{hosts}\r\n".encode())
        assert connection.response().status == 400


def test_the_status_page_itself_may_ask() -> None:
    with AdminRelay() as relay:
        assert relay.ask("GET", "/api/v1/status", origin=f"http://{HOST}").status == 200


@pytest.mark.parametrize(
    "origin", ["https://example.org", "null", "http://127.0.0.1:9163", "http://[", "127.0.0.1:9164"]
)
def test_the_page_of_another_origin_is_refused(origin: str) -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", "/api/v1/status", origin=origin)
        assert response.status == 403
        preflight = relay.ask("OPTIONS", "/api/v1/drain", origin=origin)
    assert preflight.status == 403
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert not [name for name in preflight.headers if name.startswith("access-control")]


@pytest.mark.parametrize("command", ["drain", "reload", "databases/shop_data/peers/alice/kick"])
@pytest.mark.parametrize("headers", [{}, {"x_acebase_ipc": "0"}, {"x_acebase_ipc": "11"}])
def test_a_command_without_the_header_is_refused(command: str, headers: dict[str, str]) -> None:
    with AdminRelay() as relay:
        alice = relay.join("alice")
        response = relay.ask("POST", f"/api/v1/{command}", b'{"drain":true}', **headers)
        assert response.status == 403
        assert "X-AceBase-IPC" in response.text
        assert relay.see("status")["state"] == "serving"
        assert alice.connection.ended is None


# With a token


def test_a_token_is_needed_where_there_is_a_token_file(token_file: Path) -> None:
    with AdminRelay(admin_token_file=str(token_file)) as relay:
        for path in ("status", "databases", "events", "stream", "openapi.json", "nowhere"):
            response = relay.ask("GET", f"/api/v1/{path}")
            assert (response.status, response.text) == (401, '{"error":"Unauthorized"}')
            assert response.headers["www-authenticate"] == "Bearer"
        assert relay.ask("GET", "/api/v1/status", **bearer("wrong")).status == 401
        assert relay.ask("GET", f"/api/v1/status?t={SECRET}").status == 401  # seen in too many logs
        assert relay.ask("GET", "/api/v1/status", **bearer(SECRET)).status == 200
        assert relay.ask("POST", "/api/v1/drain", b"{}", x_acebase_ipc="1").status == 401


def test_health_and_the_page_need_no_token(token_file: Path) -> None:
    with AdminRelay(admin_token_file=str(token_file)) as relay:
        relay.pass_time(2)
        assert relay.ask("GET", "/healthz").status == 200
        assert relay.ask("GET", "/readyz").status == 200
        assert relay.ask("GET", "/").status != 401


def test_the_token_of_the_peers_is_another_one(token_file: Path) -> None:
    with AdminRelay(admin_token_file=str(token_file), token="of-the-peers") as relay:
        assert relay.ask("GET", "/api/v1/status", **bearer("of-the-peers")).status == 401
        assert relay.get("/shop_data/clients", **bearer(SECRET)).status == 401


def test_many_wrong_tokens_are_answered_late(token_file: Path) -> None:
    with AdminRelay(admin_token_file=str(token_file)) as relay:
        for _ in range(FREE_FAILURES):
            assert relay.ask("GET", "/api/v1/status", **bearer("wrong")).status == 401
        late = relay.read_stream(**bearer("wrong"))
        relay.pass_time(FAILURE_DELAY - 0.5)
        assert not late.head
        assert not late.connection.take()
        relay.pass_time(0.5)
        assert late.connection.response().status == 401


def test_no_token_is_told_or_logged(token_file: Path) -> None:
    with AdminRelay(admin_token_file=str(token_file)) as relay:
        answers = [
            relay.ask("GET", path, **bearer(token)).text
            for path in ("/api/v1/status", "/api/v1/events", "/api/v1/x", "/readyz")
            for token in (SECRET, "wrong-battery")
        ]
    texts = "\n".join([*answers, *map(eventAsText, relay.log)])
    assert SECRET not in texts
    assert "wrong-battery" not in texts
    assert str(token_file) not in "\n".join(answers)


def test_a_token_that_was_removed_ends_the_streams_that_presented_it(token_file: Path) -> None:
    token_file.write_text(f"{SECRET}\nother-horse\n")
    with AdminRelay(admin_token_file=str(token_file)) as relay:
        first, second = (relay.read_stream(**bearer(each)) for each in (SECRET, "other-horse"))
        token_file.write_text("other-horse\n")
        reload = relay.ask("POST", "/api/v1/reload", x_acebase_ipc="1", **bearer(SECRET))
        assert (reload.status, reload.text) == (200, '{"reloaded":true}')
        assert first.connection.ended is not None
        assert second.connection.ended is None
        assert relay.ask("GET", "/api/v1/status", **bearer(SECRET)).status == 401


# Where it may listen


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:9164",
        "tcp:9164:interface=0.0.0.0",
        "tcp:9164:interface=192.0.2.1",
        "tcp:9164:interface=\\:\\:",
        "tcp6:9164",
        "ssl:9164:privateKey=key.pem",
    ],
)
def test_a_port_that_is_open_to_the_network_needs_a_token(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="open to the network: give --admin-token-file"):
        AceBaseIPCServerConfig(admin=(endpoint,))
    AceBaseIPCServerConfig(admin=(endpoint,), admin_token_file="tokens.txt")


@pytest.mark.parametrize(
    "endpoint", ["tcp:9164:interface=127.0.0.1", "tcp6:9164:interface=\\:\\:1", "unix:admin.sock"]
)
def test_a_port_of_this_machine_needs_none(endpoint: str) -> None:
    AceBaseIPCServerConfig(admin=(endpoint,))


def test_a_unix_socket_is_open_to_its_user_alone() -> None:
    (parsed,) = AceBaseIPCServerConfig(admin=("unix:admin.sock",)).parsed_admin
    assert parsed.mode == 0o600
    assert "mode=600" in parsed.description
    (group,) = AceBaseIPCServerConfig(admin=("unix:admin.sock:mode=660",)).parsed_admin
    assert group.mode == 0o660
    with pytest.raises(ConfigError, match="every user"):
        AceBaseIPCServerConfig(admin=("unix:admin.sock:mode=666",))


def test_the_proxy_protocol_which_could_claim_any_address_is_not_accepted() -> None:
    with pytest.raises(ConfigError, match="PROXY protocol"):
        AceBaseIPCServerConfig(
            admin=("haproxy:tcp:9164:interface=127.0.0.1",), admin_token_file="tokens.txt"
        )


class FakeRequest:
    """A request as :class:`AdminAccess` sees it."""

    def __init__(self, address: object, **headers: bytes) -> None:
        self._address = address
        self.requestHeaders = Headers({name.encode(): [each] for name, each in headers.items()})

    def getHost(self) -> object:
        return self._address

    def getHeader(self, name: bytes) -> bytes | None:
        values = self.requestHeaders.getRawHeaders(name, [])
        return values[-1] if values else None


def test_a_socket_whose_place_was_not_known_before_is_refused_without_a_token() -> None:
    """An inherited one, or that of a plugin."""
    everywhere = FakeRequest(IPv4Address("TCP", "192.0.2.1", 9164), host=b"localhost")
    with pytest.raises(Unauthorized, match="only processes of this machine"):
        AdminAccess(Tokens(None)).check_page(everywhere)  # type: ignore[arg-type]
    AdminAccess(Tokens([Rule(b"x")])).check_page(everywhere)  # type: ignore[arg-type]


def test_a_unix_socket_needs_no_token() -> None:
    local = FakeRequest(UNIXAddress(b"/run/admin.sock"), host=b"anything")
    access = AdminAccess(Tokens([Rule(b"x")]))
    access.check_page(local)  # type: ignore[arg-type]
    access.check_token(local)  # type: ignore[arg-type]
