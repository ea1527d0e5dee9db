"""The admin endpoint of a real ``twistd``: its Unix socket, its TCP port, its signals."""

from __future__ import annotations

import http.client
import json
import re
import socket
import stat
from pathlib import Path

from tests.integration.relay_process import RelayProcess, endpoint, on_loopback, running_relay

ADMIN = re.compile(r"the admin endpoint is .*http://127\.0\.0\.1:(\d+)")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, str]:
    """The status and the body of an answer."""
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    return response.status, response.read().decode()


def admin_port(relay: RelayProcess) -> int:
    """The number of the TCP port of the admin endpoint, from the log."""
    relay.wait_for("admin endpoint", ADMIN.search)
    (number,) = ADMIN.findall(relay.log)
    return int(number)


def test_a_unix_socket_is_for_the_relays_user_and_needs_no_token(tmp_path: Path) -> None:
    path, token_file = tmp_path / "admin.sock", tmp_path / "token"
    token_file.write_text("secret\n")
    token_file.chmod(0o600)
    options = (
        *("--admin", endpoint("unix", str(path)), "--admin", on_loopback()),
        *("--admin-token-file", str(token_file)),
    )
    with running_relay(options=options) as relay:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        local = UnixConnection(path)
        status, body = ask(local, "/api/v1/status")
        assert (status, json.loads(body)["state"]) == (200, "serving")
        network = http.client.HTTPConnection("127.0.0.1", admin_port(relay), timeout=20)
        assert ask(network, "/api/v1/status")[0] == 401
        assert ask(network, "/api/v1/status", Authorization="Bearer secret")[0] == 200
        assert ask(network, "/healthz") == (200, "ok")
        token_file.write_text("other\n")
        assert ask(local, "/api/v1/reload", "POST", X_AceBase_IPC="1")[0] == 200
        assert ask(network, "/api/v1/status", Authorization="Bearer secret")[0] == 401
        for each in (local, network):
            each.close()
    assert not path.exists()
    assert "secret" not in relay.log
