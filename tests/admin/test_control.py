"""Commands: kick, drain, reload."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from acebase_ipc.relay.sessions import CLOSE_KICKED
from acebase_ipc.testing import DATABASE, Opcode, upgrade_request
from tests.admin.relay import AdminRelay
from tests.relay.core import MASTER
from tests.relay.locks import body_of, grant, lock, new_id, worker_id


def kick(relay: AdminRelay, client_id: str, end_process: bool = False) -> None:
    """Kick a peer."""
    path = f"databases/{DATABASE}/peers/{quote(client_id, safe='')}/kick"
    response = relay.do(path, end_process=end_process)
    assert (response.status, json.loads(response.text)) == (200, {"kicked": True})


def handshake(relay: AdminRelay, client_id: str, dialect: str = "acebase") -> int:
    """The status with which a handshake is answered."""
    if dialect == "acebase":
        query = f"v=1.29.13&id={quote(client_id)}&t=none"
    else:
        query = f"id={client_id}&v=1.0.0&t=none"
    connection = relay.connect()
    connection.send(upgrade_request(f"/{DATABASE}/connect?{query}"))
    return int(connection.take().split(b" ", 2)[1])


# Kick


def test_a_peer_that_is_kicked_is_closed_and_may_come_back() -> None:
    with AdminRelay() as relay:
        alice, bob = relay.join_all("alice", "bobby")
        kick(relay, "alice")
        (frame,) = (each for each in alice.frames() if each.opcode == Opcode.CLOSE)
        assert int.from_bytes(frame.payload[:2], "big") == CLOSE_KICKED
        assert b"administrator" in frame.payload
        relay.pass_time(1)
        assert bob.received() == ["disconnect:alice"]
        kicked = [each for each in relay.see("events")["events"] if each["kind"] == "PeerKicked"]
        assert [(each["peer"], each["severity"]) for each in kicked] == [("alice", "warn")]
        relay.join("alice")


def test_the_session_of_a_worker_that_is_kicked_goes_on() -> None:
    with AdminRelay() as relay:
        relay.join_acebase(MASTER)
        worker, other = (relay.join_acebase(worker_id(n)) for n in (1, 2))
        other.received()
        kick(relay, worker.id)
        relay.pass_time(0.1)
        other.say_envelope("event", to=worker.id, text="missed")
        assert other.received() == []
        again = relay.join_acebase(worker.id)
        assert "missed" in again.received()[-1]


def test_a_worker_whose_process_is_to_end_is_refused_from_now_on() -> None:
    with AdminRelay() as relay:
        relay.join_acebase(MASTER)
        worker, other = (relay.join_acebase(worker_id(n)) for n in (1, 2))
        other.received()
        kick(relay, worker.id, end_process=True)
        relay.pass_time(0.1)
        assert [each for each in worker.frames() if each.opcode == Opcode.CLOSE]
        assert f"disconnect:{worker.id}" in other.received()
        assert [handshake(relay, worker.id) for _ in range(2)] == [500, 500]
        assert handshake(relay, worker_id(3)) == 101  # the process that was started afresh
        relay.pass_time(601, 1)
        assert handshake(relay, worker.id) == 101


@pytest.mark.parametrize("fence", [600, 0])
@pytest.mark.parametrize(("client_id", "dialect"), [(MASTER, "acebase"), ("alice", "documented")])
def test_a_process_that_starts_again_under_the_same_id_is_refused_once(
    client_id: str, dialect: str, fence: float
) -> None:
    with AdminRelay(fence=fence) as relay:
        assert handshake(relay, client_id, dialect) == 101
        kick(relay, client_id, end_process=True)
        assert handshake(relay, client_id, dialect) == 500
        assert handshake(relay, client_id, dialect) == 101


def test_a_refusal_that_nobody_needs_ends() -> None:
    with AdminRelay(fence=0) as relay:
        relay.join("alice")
        kick(relay, "alice", end_process=True)
        relay.pass_time(62, 1)
        assert handshake(relay, "alice", "documented") == 101


def test_the_locks_of_a_process_that_is_ended_are_released() -> None:
    with AdminRelay() as relay:
        master, worker = relay.join_acebase(MASTER), relay.join_acebase(worker_id(1))
        request = lock(worker.id, new_id())
        worker.say(request)
        master.say(grant(body_of(request), 7))
        master.received()
        kick(relay, worker.id, end_process=True)
        assert [each for each in master.received() if "unlock-request" in each]
        assert relay.see(f"databases/{DATABASE}")["locks"] == []
        assert [handshake(relay, worker.id) for _ in range(2)] == [500, 500]


def test_a_suspended_session_ends_when_it_is_kicked() -> None:
    with AdminRelay() as relay:
        relay.join_acebase(MASTER)
        worker, other = (relay.join_acebase(worker_id(n)) for n in (1, 2))
        worker.connection.reset()
        other.received()
        kick(relay, worker.id)
        assert f"disconnect:{worker.id}" in other.received()


@pytest.mark.parametrize(
    "path", [f"{DATABASE}/peers/nobody", "nowhere/peers/alice", "a%00/peers/%ff"]
)
def test_only_a_peer_can_be_kicked(path: str) -> None:
    with AdminRelay() as relay:
        relay.join("alice")
        assert relay.do(f"databases/{path}/kick").status == 404


def test_a_peer_with_an_odd_id_can_be_kicked() -> None:
    with AdminRelay() as relay:
        relay.join("a/b%3Fc%23%25d")
        peer = relay.see(f"databases/{DATABASE}")["peers"][0]["id"]
        kick(relay, peer)
        relay.pass_time(1)
        assert relay.see("databases")["databases"] == []


# Drain


def test_a_server_that_drains_refuses_new_peers_and_keeps_the_others() -> None:
    with AdminRelay() as relay:
        alice, bob = relay.join_all("alice", "bobby")
        worker = relay.join_acebase(worker_id(1))
        assert relay.do("drain", drain=True).text == '{"draining":true}'
        assert relay.see("status")["state"] == "draining"
        assert handshake(relay, "carla", "documented") == 503
        assert handshake(relay, worker_id(2)) == 503
        bob.received()
        alice.say("to:bobby;hello")
        assert bob.received() == ["msg:hello"]
        assert alice.post("to:bobby;posted").status == 200
        worker.connection.reset()
        assert handshake(relay, worker.id) == 101  # its session goes on
        assert relay.do("drain", drain=False).text == '{"draining":false}'
        assert relay.see("status")["state"] == "serving"
        relay.join("carla")


# Reload


def test_the_tokens_of_peers_are_read_again(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    with AdminRelay(token_file=str(tokens)) as relay:
        alice = relay.join("alice", token="first")
        tokens.write_text("second\n")
        assert relay.get(f"/{DATABASE}/clients?t=second").status == 401
        assert relay.do("reload").text == '{"reloaded":true}'
        assert relay.get(f"/{DATABASE}/clients?t=second").status == 200
        assert [each for each in alice.frames() if each.opcode == Opcode.CLOSE]


@pytest.mark.parametrize("which", ["token_file", "admin_token_file"])
def test_if_one_file_cannot_be_used_all_tokens_stay(tmp_path: Path, which: str) -> None:
    files = {name: tmp_path / name for name in ("token_file", "admin_token_file")}
    for path in files.values():
        path.write_text("first\n")
    with AdminRelay(**{name: str(path) for name, path in files.items()}) as relay:
        for path in files.values():
            path.write_text("second\n")
        files[which].write_text("")
        headers = {"x_acebase_ipc": "1", "authorization": "Bearer first"}
        response = relay.ask("POST", "/api/v1/reload", **headers)
        assert response.status == 500
        assert json.loads(response.text)["error"].startswith("Nothing is reloaded")
        assert str(tmp_path) not in response.text
        assert relay.get(f"/{DATABASE}/clients?t=first").status == 200
        assert relay.ask("GET", "/api/v1/status", authorization="Bearer first").status == 200
        assert relay.logged("nothing is reloaded", which)


def test_without_token_files_there_is_nothing_to_read() -> None:
    with AdminRelay() as relay:
        alice = relay.join("alice")
        assert relay.do("reload").status == 200
        assert alice.connection.ended is None
