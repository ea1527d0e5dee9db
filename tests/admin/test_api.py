"""``/api/v1/``: the status as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

from acebase_ipc.admin import answers, api, census
from acebase_ipc.admin.endpoint import MAX_BODY
from acebase_ipc.admin.turns import Turns
from acebase_ipc.relay.events import DropReason, MessageDropped
from acebase_ipc.testing import DATABASE, START, chunk, http_head
from tests.admin.relay import HOST, AdminRelay
from tests.relay.core import MASTER
from tests.relay.locks import body_of, grant, lock, new_id, worker_id

MAX_SMALL = 16 * 1024


def test_the_status_of_a_server() -> None:
    with AdminRelay(max_connections=50) as relay:
        alice, bob = relay.join_all("alice", "bobby")
        alice.say("to:bobby;hello")
        bob.received()
        relay.pass_time(10, 0.25)
        status = relay.see("status")
    assert status["version"] == version("acebase-ipc")
    assert status["pid"] == os.getpid()
    assert status["state"] == "serving"
    assert status["started"] == START * 1000
    assert status["uptime"] == 10
    assert status["endpoints"] == ["ws://127.0.0.1:9163"]
    assert status["token_required"] is False
    assert status["connections"] == {"websockets": 2, "http": 0, "max": 50}
    assert (status["peers"], status["databases"]) == (2, 1)
    assert (status["traffic"]["received"], status["traffic"]["received_bytes"]) == (1, 14)
    assert status["loop_lag"] == {"last": 0, "max": 0}
    assert status["memory"]["resident"] > 10_000_000
    assert status["limits"]["max_payload"] == 16384
    assert status["limits"]["max_address_connections"] is None


def test_the_memory_is_told_by_what_holds_it() -> None:
    with AdminRelay() as relay:
        alice, bob = relay.join_all("alice", "bobby")
        bob.stop_reading()
        for _ in range(20):
            alice.post("to:bobby;" + "x" * MAX_SMALL)
        alice.post("to:bobby;" + "x" * 100_000)
        memory = relay.see("status")["memory"]
        (peer,) = (
            each for each in relay.see("databases/shop_data")["peers"] if each["id"] == "bobby"
        )
    parts = ("queues", "stored", "connections", "ledger")
    assert memory["used"] == sum(memory[each] for each in parts)
    assert memory["stored"] >= 100_000
    assert memory["connections"] + memory["queues"] >= 20 * MAX_SMALL
    assert peer["is_full"] is True
    assert peer["queued_bytes"] + peer["memory"] >= 20 * MAX_SMALL


def test_messages_of_databases_that_are_gone_count_for_the_server() -> None:
    with AdminRelay() as relay:
        alice, bob = relay.join_all("alice", "bobby")
        alice.say("to:bobby;hello")
        before = relay.see("status")["traffic"]
        for each in (alice, bob):
            each.connection.close()
        relay.pass_time(1)
        assert relay.see("databases") == {"databases": []}
        after = relay.see("status")["traffic"]
        assert after["received"] == before["received"] == 1
        assert after["sent"] >= before["sent"]
        relay.join("alice")  # of a database that is opened again, nothing counts twice
        assert relay.see("status")["traffic"]["received"] == 1


def test_messages_of_a_database_that_is_opened_again_count_once() -> None:
    """It is remembered without peers, because a lock has to be released there."""
    with AdminRelay(session_timeout=1) as relay:
        master, worker = relay.join_acebase(MASTER), relay.join_acebase(worker_id(1))
        request = lock(worker.id, new_id())
        worker.say(request)
        master.say(grant(body_of(request), 7))
        for each in (master, worker):
            each.connection.reset()
        relay.pass_time(3)
        assert relay.see("databases") == {"databases": []}
        before = relay.see("status")["traffic"]["received"]
        assert before == 2
        relay.join_acebase(MASTER)
        assert relay.see("status")["traffic"]["received"] == before
        assert relay.see("databases")["databases"][0]["traffic"]["received"] == 0


def test_the_databases() -> None:
    with AdminRelay() as relay:
        relay.join_all("alice", "bobby")
        relay.join("carla", "other_data")
        databases = relay.see("databases")["databases"]
    assert [(each["name"], each["peers"], each["has_master"]) for each in databases] == [
        (DATABASE, 2, False),
        ("other_data", 1, False),
    ]
    assert databases[0]["traffic"]["sent"] >= 3


def test_a_database_with_its_peers_and_locks() -> None:
    with AdminRelay() as relay:
        master = relay.join_acebase(MASTER)
        holder, waiting = (relay.join_acebase(worker_id(n)) for n in (1, 2))
        request = lock(holder.id, new_id(), path="orders/ä")
        holder.say(request)
        waiting.say(lock(waiting.id, new_id(), path="orders"))
        master.say(grant(body_of(request), 7))
        relay.pass_time(3)
        database = relay.see(f"databases/{DATABASE}")
    assert database["summary"]["has_master"] is True
    assert database["summary"]["locks"] == database["summary"]["requests"] == 1
    peers = {each["id"]: each for each in database["peers"]}
    assert list(peers) == [MASTER, holder.id, waiting.id]
    assert peers[MASTER]["is_master"] is True
    assert peers[holder.id]["dialect"] == "acebase"
    assert peers[holder.id]["connected"] == START * 1000
    assert peers[holder.id]["locks"] == 1
    assert peers[holder.id]["silent"] == 3
    assert peers[holder.id]["address"].startswith("127.0.0.1:")
    (held,) = database["locks"]
    assert (held["holder"], held["path"], held["age"]) == (holder.id, "orders/ä", 3)
    (open_request,) = database["requests"]
    assert (open_request["worker"], open_request["kind"]) == (waiting.id, "lock-request")
    assert database["large_messages"] == []


def steps_of(relay: AdminRelay, path: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any]:
    """The steps in which the answer to a request for *path* was made, and that answer."""
    steps = 0
    original = Turns.do

    def do(turns: Turns, step: Callable[[], bool]) -> None:
        def counted() -> bool:
            nonlocal steps
            steps += 1
            return step()

        original(turns, counted)

    with monkeypatch.context() as patch:
        patch.setattr(Turns, "do", do)
        shown = relay.see(path)
    return steps, shown


def furnish(relay: AdminRelay) -> dict[str, int]:
    """Let many peers wait for locks and for large messages."""
    worker, master = relay.join_acebase(worker_id(1)), relay.join_acebase(MASTER)
    for number in range(10):
        asked = lock(worker.id, new_id(), f"t{number}")
        worker.say(asked)
        master.say(grant(body_of(asked), number))
        worker.say(lock(worker.id, new_id(), "waits"))
    alice, *_ = relay.join_all(*(f"peer{number}" for number in range(10)))
    for _ in range(3):
        alice.post("to:peer1;" + "x" * 20_000)
    return {"peers": 12, "locks": 10, "requests": 10, "large_messages": 3}


@pytest.mark.parametrize(
    ("module", "name", "size", "more"),
    [
        (answers, "SLICE", 10, 35),  # each object is a step
        (api, "RECORDS", 1, 12),  # each peer
        (census, "PEERS", 1, 11),  # each peer
    ],
)
def test_a_database_with_much_to_show_is_shown_in_slices(
    module: ModuleType, name: str, size: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"databases/{DATABASE}"
    with AdminRelay() as relay:
        expected = furnish(relay)
        steps, whole = steps_of(relay, path, monkeypatch)
        assert {name: len(whole[name]) for name in expected} == expected
        monkeypatch.setattr(module, name, size)
        assert steps_of(relay, path, monkeypatch) == (steps + more, whole)
        with relay.at_admin():
            connection = relay.connect()
        connection.send(http_head("GET", f"/api/v1/{path}", host=HOST), settle=False)
        connection.reset()  # nobody waits for the answer
        assert relay.see(path) == whole


def test_the_peers_of_a_server_are_counted_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    with AdminRelay() as relay:
        relay.join_all(*(f"peer{number}" for number in range(9)))
        steps, _ = steps_of(relay, "status", monkeypatch)
        monkeypatch.setattr(census, "PEERS", 1)
        more, status = steps_of(relay, "status", monkeypatch)
    assert more == steps + 8
    assert status["peers"] == 9


@pytest.mark.parametrize("path", ["status", "databases", f"databases/{DATABASE}"])
def test_an_answer_that_cannot_be_made_is_500(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with AdminRelay(expect_errors=True) as relay:
        relay.join("alice")
        monkeypatch.setattr(census.Census, "step", fail)
        response = relay.ask("GET", f"/api/v1/{path}")
        assert response.status == 500
        assert set(json.loads(response.text)) == {"error"}
        (error,) = relay.errors
        assert "ZeroDivisionError" in error
        monkeypatch.undo()
        relay.see(path)


def test_a_large_message_that_waits() -> None:
    with AdminRelay() as relay:
        alice, _ = relay.join_all("alice", "bobby")
        alice.post("to:bobby;" + "x" * 100_000)
        relay.pass_time(10)
        (large,) = relay.see(f"databases/{DATABASE}")["large_messages"]
    assert large == {"size": 100_000, "recipients": ["bobby"], "unfetched": 1, "expires": 50}


@pytest.mark.parametrize("name", ["a/b", "ü ?#%", "<script>", "__proto__", "..", '"\\'])
def test_any_name_can_be_asked_for(name: str) -> None:
    with AdminRelay() as relay:
        quoted = quote(name, safe="")
        relay.join("alice", quoted)
        assert relay.see("databases")["databases"][0]["name"] == name
        assert relay.see(f"databases/{quoted}")["summary"]["name"] == name


@pytest.mark.parametrize("name", ["nowhere", "%00%0a%1b[2J", "%ff", "", "%F0%9F", "x" * 5000])
def test_a_name_that_no_database_has_is_not_found(name: str) -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", f"/api/v1/databases/{name}")
    assert response.status == 404
    assert set(json.loads(response.text)) == {"error"}
    assert response.text.isascii()
    assert response.text.isprintable()


@pytest.mark.parametrize(
    "path", ["", "/", "/x", "/status/", "/status/x", "/databases/a/b", "/databases/a/peers/b"]
)
def test_other_paths_are_not_found(path: str) -> None:
    with AdminRelay() as relay:
        assert relay.ask("GET", f"/api/v1{path}").status == 404
        assert relay.ask("GET", f"/api{path}").status == 404


# Events


def test_events_are_told_in_order() -> None:
    with AdminRelay() as relay:
        relay.pass_time(1.5)
        relay.join("alice")
        relay.get("/nowhere")
        answer = relay.see("events")
    joined, refused = answer["events"]
    assert joined == {
        "id": joined["id"],
        "time": "2023-11-14T22:13:21.500+00:00",
        "kind": "PeerJoined",
        "severity": "info",
        "database": DATABASE,
        "peer": "alice",
        "text": f"{DATABASE}: alice joined from 127.0.0.1:40000 as documented peer",
        "fields": {
            "database": DATABASE,
            "peer": "alice",
            "dialect": "documented",
            "address": "127.0.0.1:40000",
        },
    }
    assert (refused["kind"], refused["database"], refused["fields"]["status"]) == (
        "Refused",
        None,
        404,
    )
    assert answer["last"] == refused["id"] == joined["id"] + 1


def test_events_after_one_are_the_next_ones() -> None:
    with AdminRelay() as relay:
        begin = relay.see("events")["last"]
        relay.join_all("alice", "bobby", "carla")
        first = relay.see(f"events?after={begin}&limit=2")
        second = relay.see(f"events?after={first['last']}&limit=2")
        third = relay.see(f"events?after={second['last']}")
    assert [each["peer"] for each in first["events"] + second["events"]] == [
        "alice",
        "bobby",
        "carla",
    ]
    assert third == {"events": [], "last": second["last"]}


def test_events_of_a_level_and_above() -> None:
    with AdminRelay() as relay:
        relay.join("alice").say("to:nobody;hello")
        kinds = {
            level: [each["kind"] for each in relay.see(f"events?limit=1&level={level}")["events"]]
            for level in ("debug", "info", "warn")
        }
    assert kinds == {"debug": ["MessageDropped"], "info": ["PeerJoined"], "warn": []}


def test_a_reason_is_told_by_its_name() -> None:
    with AdminRelay() as relay:
        relay.join("alice").say("to:nobody;hello")
        (*_, dropped) = relay.see("events")["events"]
    assert dropped["kind"] == MessageDropped.__name__
    assert dropped["fields"]["reason"] == "unknown_addressee"
    assert DropReason.UNKNOWN_ADDRESSEE.value in dropped["text"]


def test_connections_that_have_ended_are_told_with_the_reason() -> None:
    with AdminRelay() as relay:
        alice, bob = relay.join_all("alice", "bobby")
        relay.pass_time(4)
        alice.connection.close()
        relay.pass_time(1)
        bob.say("to:")
        relay.pass_time(1)
        newest, oldest = relay.see("connections/closed")["connections"]
        assert relay.see("connections/closed?limit=1")["connections"] == [newest]
    assert (oldest["database"], oldest["peer"], oldest["code"]) == (DATABASE, "alice", 1006)
    assert (oldest["clean"], oldest["seconds"]) == (False, 4)
    assert oldest["address"].startswith("127.0.0.1:")
    assert newest["peer"] == "bobby"
    assert newest["id"] > oldest["id"]


@pytest.mark.parametrize(
    "query",
    [
        "events?limit=0",
        "events?limit=1001",
        "events?limit=-1",
        "events?limit=x",
        "events?limit=",
        "events?limit=1.5",
        "events?limit=%D9%A1",
        "events?after=-1",
        "events?after=99999999999999999999",
        "events?level=INFO",
        "connections/closed?limit=0",
        "stream?events=2",
        "stream?messages=true",
    ],
)
def test_a_value_that_cannot_be_used_is_refused(query: str) -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", f"/api/v1/{query}")
    assert response.status == 400
    assert "error" in json.loads(response.text)


# HTTP


def test_answers_are_not_stored_and_not_guessed_at() -> None:
    with AdminRelay() as relay:
        for path in ("/api/v1/status", "/api/v1/nothing", "/healthz"):
            headers = relay.ask("GET", path).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"
        assert relay.ask("GET", "/api/v1/status").headers["content-type"] == "application/json"


def test_head_has_the_headers_alone() -> None:
    with AdminRelay() as relay, relay.at_admin():
        connection = relay.connect()
        connection.send(http_head("HEAD", "/api/v1/databases", host=HOST))
        head, _, body = connection.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: %d" % len('{"databases":[]}') in head.lower()
    assert body == b""


@pytest.mark.parametrize(
    ("path", "methods"),
    [("status", "GET, HEAD, OPTIONS"), ("stream", "GET, OPTIONS"), ("drain", "POST, OPTIONS")],
)
def test_options_and_other_methods_tell_what_is_allowed(path: str, methods: str) -> None:
    with AdminRelay() as relay:
        options = relay.ask("OPTIONS", f"/api/v1/{path}")
        assert (options.status, options.headers["allow"]) == (204, methods)
        for method in ("PUT", "DELETE", "PATCH", "TRACE", "BREW"):
            refused = relay.ask(method, f"/api/v1/{path}", x_acebase_ipc="1")
            assert (refused.status, refused.headers["allow"]) == (405, methods)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b'{"drain":1}',
        b'{"drain":null}',
        b'{"drain":true,"x":1}',
        b"[" * 4000,
    ],
)
def test_a_body_that_is_not_what_is_asked_for_is_refused(body: bytes) -> None:
    with AdminRelay() as relay:
        response = relay.ask("POST", "/api/v1/drain", body, x_acebase_ipc="1")
        assert response.status == 400
        assert relay.see("status")["state"] == "serving"


def test_a_body_that_is_too_large_is_refused_and_not_kept() -> None:
    body = b" " * MAX_BODY + b'{"drain":true}'
    with AdminRelay() as relay:
        assert relay.ask("POST", "/api/v1/drain", body, x_acebase_ipc="1").status == 413
        with relay.at_admin():
            connection = relay.connect()
        headers = {"x_acebase_ipc": "1", "transfer_encoding": "chunked", "host": HOST}
        connection.send(http_head("POST", "/api/v1/drain", **headers))
        connection.send(chunk(body[:3000]), chunk(body[3000:]), chunk(b""))
        assert connection.response().status == 413
        assert relay.see("status")["state"] == "serving"


def test_the_paths_of_peers_and_of_the_admin_endpoint_are_apart() -> None:
    admin: Any = ("/api/v1/status", "/readyz", "/metrics", "/page/page.js")
    with AdminRelay() as relay:
        relay.join("alice")
        assert [relay.get(path).status for path in admin] == [404] * len(admin)
        for path in (f"/{DATABASE}/clients", f"/{DATABASE}/connect?id=bobby&v=1", "/send?id=alice"):
            assert relay.ask("GET", path).status == 404
        assert relay.ask("POST", f"/{DATABASE}/send?id=alice", b"hello").status == 404
