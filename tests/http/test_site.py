"""Requests byte by byte: bodies, refusals, connections; protocol sections 4 and 7."""

from __future__ import annotations

import pytest
from twisted.web.resource import Resource
from twisted.web.server import Site

from acebase_ipc.testing import DATABASE, MemoryRelay, chunk, http_head, http_request

SEND = f"/{DATABASE}/send?id=alice"
CLIENTS = http_request("GET", f"/{DATABASE}/clients")
CHUNKED = http_head("POST", SEND, transfer_encoding="chunked")
MEGABYTE = b"x" * (1 << 20)


def post_head(length: int, **headers: str) -> bytes:
    """The head of a POST whose body has *length* bytes."""
    return http_head("POST", SEND, content_length=str(length), **headers)


# Bodies


def test_a_request_may_come_byte_by_byte() -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(*(bytes([each]) for each in http_request("POST", SEND, "漢字 🎉".encode())))
    assert (wire.response().text, bobby.received()) == ("ok", ["msg:漢字 🎉"])


@pytest.mark.parametrize("large", [False, True])
def test_a_chunked_body_is_put_together(large: bool) -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    # Each character but the first is split across chunks.
    pieces = [chunk(bytes([each])) for each in ("x漢字🎉" * (50 if large else 1)).encode()]
    wire.send(CHUNKED, *pieces)
    assert bobby.received() == []
    wire.send(chunk(b""))
    assert wire.response().text == "ok"
    (message,) = bobby.received()
    if large:
        message_id = message.removeprefix("get:")
        body = relay.get(f"/{DATABASE}/receive?id=bobby&msg={message_id}").text
        assert body == "x漢字🎉" * 50
    else:
        assert message == "msg:x漢字🎉"


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "begun",
    [
        post_head(10) + b"to:bobby;",
        post_head(10),
        CHUNKED + chunk(b"hello"),
        CHUNKED + chunk(b"hello") + b"5\r\nhel",
        CHUNKED + chunk(b"hello") + b"0\r\n",
    ],
)
def test_a_body_that_is_cut_off_is_not_relayed(begun: bytes, end: str) -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(begun)
    getattr(wire, end)()
    assert bobby.received() == []
    assert b"200" not in wire.take()
    assert relay.post(SEND, "whole").text == "ok"
    assert bobby.received() == ["msg:whole"]


def test_the_place_of_a_post_is_the_moment_its_body_is_complete() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(post_head(6) + b"post")
    alice.say("meanwhile")
    wire.send(b"ed")
    alice.say("afterwards")
    assert bobby.received() == ["msg:meanwhile", "msg:posted", "msg:afterwards"]


def test_requests_may_be_sent_without_waiting_for_answers() -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    numbers = [str(each) for each in range(5)]
    wire.send(b"".join(http_request("POST", SEND, each.encode()) for each in numbers) + CLIENTS)
    *answers, clients = wire.responses()
    assert [each.text for each in answers] == ["ok"] * 5
    assert '"bobby"' in clients.text
    assert bobby.received() == [f"msg:{each}" for each in numbers]


def test_a_body_that_no_endpoint_reads_is_skipped() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.send(http_request("GET", f"/{DATABASE}/clients", b"a body") + CLIENTS)
    assert [each.text for each in wire.responses()] == ["[]", "[]"]


def test_the_sender_may_leave_before_its_body_is_complete() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(post_head(5) + b"hel")
    alice.leave()
    wire.send(b"lo")
    assert wire.response().status == 401
    assert bobby.received() == ["disconnect:alice"]


def test_a_long_body_does_not_delay_others() -> None:
    relay = MemoryRelay()
    _, bobby, carol = relay.join_all("alice", "bobby", "carol")
    wire = relay.connect()
    wire.send(post_head(10 << 20), *[MEGABYTE] * 5)
    carol.say("to:bobby;hello")
    assert bobby.received() == ["msg:hello"]
    wire.send(*[MEGABYTE] * 5)
    assert wire.response().text == "ok"


# Refusals before the body is complete


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (SEND, {"content_length": "101"}, 413),
        (SEND, {"content_length": str(1 << 60)}, 413),
        (f"/{DATABASE}/send?id=nobody", {"content_length": "50"}, 401),
        (f"/{DATABASE}/send?id=nobody", {"transfer_encoding": "chunked"}, 401),
        ("/send?id=nobody", {"content_length": "50"}, 404),
        (SEND, {"content_length": "50", "origin": "https://evil.example"}, 403),
    ],
)
def test_a_refusal_does_not_wait_for_the_body(
    target: str, headers: dict[str, str], status: int
) -> None:
    relay = MemoryRelay(max_payload=100, max_message=100)
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(http_head("POST", target, **headers))
    response = wire.response()
    assert response.status == status
    assert response.headers["connection"] == "close"
    assert "\n" not in response.text.strip()
    assert wire.ended is None
    assert bobby.received() == []


def test_max_message_bytes_are_accepted_and_not_one_more() -> None:
    relay = MemoryRelay(max_message=99)
    _, bobby = relay.join_all("alice", "bobby")
    assert relay.post(SEND, "漢" * 33).status == 200
    refused = relay.post(SEND, "漢" * 33 + "x")
    assert refused.status == 413
    assert "99" in refused.text
    assert bobby.received() == ["msg:" + "漢" * 33]


def test_chunks_that_add_up_to_too_much_are_refused_at_once() -> None:
    relay = MemoryRelay(max_message=100)
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(CHUNKED, chunk(b"x" * 100))
    assert wire.take() == b""
    wire.send(chunk(b"x"))
    assert wire.response().status == 413
    wire.send(chunk(b"more"), chunk(b""))
    assert wire.ended == "closed"
    assert bobby.received() == []


def test_the_rest_of_a_refused_body_is_read_and_discarded() -> None:
    relay = MemoryRelay(max_message=1 << 20)
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(post_head(10 << 20), *[MEGABYTE] * 9)
    assert wire.response().status == 413
    assert wire.ended is None
    assert wire.unread == b""
    wire.send(MEGABYTE)
    assert wire.ended == "closed"  # and not reset, so that the client sees the status
    assert wire.take() == b""
    assert bobby.received() == []


def test_what_is_read_of_a_refused_body_is_bounded() -> None:
    relay = MemoryRelay(max_message=100)
    relay.join_all("alice")
    wire = relay.connect()
    wire.send(post_head(1 << 40))
    read = 0
    while wire.ended is None and read < 200:
        wire.send(MEGABYTE)
        read += 1
    assert 16 < read < 200


def test_how_long_an_unwanted_body_is_read_is_bounded() -> None:
    relay = MemoryRelay(request_timeout=60)
    wire = relay.connect()
    wire.send(http_head("POST", "/nothing", transfer_encoding="chunked"))
    for _ in range(70):
        wire.send(chunk(MEGABYTE))
        relay.pass_time(1, step=1)
    assert wire.ended is not None


def test_a_connection_with_a_refused_request_takes_no_other() -> None:
    relay = MemoryRelay(max_message=10)
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(http_request("POST", SEND, b"much too long") + http_request("POST", SEND, b"hello"))
    assert wire.response().status == 413
    assert wire.ended == "closed"
    assert bobby.received() == []


def test_refusals_known_only_from_the_body_keep_the_connection() -> None:
    relay = MemoryRelay()
    relay.join_all("alice")
    wire = relay.connect()
    wire.send(http_request("POST", SEND, b"\xff"), http_request("POST", SEND, b"to:"), CLIENTS)
    assert [each.status for each in wire.responses()] == [400, 400, 200]


# Expect: 100-continue


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_a_client_that_expects_100_continue_gets_it(expect: str) -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(post_head(5, expect=expect))
    assert wire.response().status == 100
    wire.send(b"hello")
    assert wire.response().status == 200
    assert bobby.received() == ["msg:hello"]


@pytest.mark.parametrize(
    ("target", "length", "status"),
    [(SEND, 101, 413), (f"/{DATABASE}/send?id=nobody", 5, 401)],
)
def test_a_client_that_expects_100_continue_is_refused_at_once(
    target: str, length: int, status: int
) -> None:
    relay = MemoryRelay(max_message=100)
    relay.join_all("alice")
    wire = relay.connect()
    wire.send(
        http_head("POST", target, content_length=str(length), expect="100-continue"),
    )
    assert wire.response().status == status  # and no 100 before or after it


# Connections


def test_a_connection_serves_many_requests() -> None:
    relay = MemoryRelay()
    relay.join_all("alice", "bobby")
    wire = relay.connect()
    for _ in range(5):
        wire.send(http_request("POST", SEND, b"hello"))
        assert wire.response().text == "ok"
        wire.send(CLIENTS)
        assert wire.response().status == 200
    assert wire.ended is None


def test_an_idle_connection_is_kept_for_15_s_and_closed_after_20_s() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    for _ in range(3):
        wire.send(CLIENTS)
        assert wire.response().status == 200
        relay.pass_time(15)
    wire.send(CLIENTS)
    assert wire.response().status == 200
    relay.pass_time(19)
    assert wire.ended is None
    relay.pass_time(2)
    assert wire.ended == "closed"


def test_a_connection_without_a_request_is_closed_after_10_s() -> None:
    relay = MemoryRelay()
    silent, slow = relay.connect(), relay.connect()
    for _ in range(9):
        slow.send(b"G")
        relay.pass_time(1)
    assert (silent.ended, slow.ended) == (None, None)
    relay.pass_time(2)
    assert silent.ended is not None
    assert slow.ended is not None


def test_a_request_has_60_s_to_come_in() -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    wire, slow = relay.connect(), relay.connect()
    for each in (wire, slow):
        each.send(post_head(120))
    for _ in range(55):
        for each in (wire, slow):
            each.send(b"x")
        relay.pass_time(1, step=1)
    wire.send(b"x" * 65)
    assert wire.response().status == 200
    for _ in range(7):
        slow.send(b"x")
        relay.pass_time(1, step=1)
    assert slow.ended is not None
    assert bobby.received() == ["msg:" + "x" * 120]


def test_a_websocket_is_not_bound_by_the_limits_of_http() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    relay.pass_time(100)
    alice.say("hello")
    assert bobby.received() == ["msg:hello"]


def test_a_download_may_take_longer_than_a_connection_may_be_idle() -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    body = "x" * 500_000
    relay.post(SEND, body)
    message_id = bobby.received()[0].removeprefix("get:")
    wire = relay.connect()
    wire.stop_reading()
    wire.send(http_request("GET", f"/{DATABASE}/receive?id=bobby&msg={message_id}"))
    for _ in range(10):
        relay.pass_time(5)
        wire.resume_reading(room=50_000)
    wire.resume_reading()
    assert wire.response().text == body


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        http_head("POST", SEND, content_length="ten"),
        http_head("POST", SEND, content_length="-1"),
        http_head("POST", SEND, transfer_encoding="chunked") + b"nonsense\r\n",
        http_head("POST", SEND, content_length="5", transfer_encoding="chunked"),
    ],
)
def test_nonsense_is_400_and_nothing_is_relayed(request_: bytes) -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(request_)
    assert wire.take().startswith(b"HTTP/1.1 400 ")
    assert wire.ended == "closed"
    assert bobby.received() == []


def test_no_url_is_logged() -> None:
    relay = MemoryRelay(token="a-secret-token")
    relay.get(f"/{DATABASE}/clients?t=a-secret-token")
    relay.get(f"/{DATABASE}/clients?t=another-secret")
    relay.get("/unknown-path?t=a-secret-token")
    assert relay.logged("secret") == relay.logged("GET") == []


# Stopping


def test_stopping_ends_idle_connections_and_admits_nothing() -> None:
    relay = MemoryRelay()
    idle, begun = relay.connect(), relay.connect()
    begun.send(CLIENTS + CLIENTS[:-2])
    assert begun.response().status == 200
    stopped = relay.stop()
    assert idle.ended == "closed"
    assert not stopped.called
    begun.send(b"\r\n")
    assert begun.response().status == 503
    assert begun.ended == "closed"
    relay.pass_time(0.5)
    assert stopped.called


def test_stopping_aborts_what_does_not_end() -> None:
    relay = MemoryRelay()
    relay.join_all("alice")
    wire = relay.connect()
    wire.send(post_head(5) + b"hel")
    stopped = relay.stop()
    relay.pass_time(3)
    assert wire.ended == "reset"
    assert stopped.called


def test_a_stopped_relay_in_a_foreign_site_admits_nothing_until_it_starts_again() -> None:
    relay = MemoryRelay(port=None)
    root = Resource()
    root.putChild(b"ipc", relay.server.resource())
    relay.port = relay.reactor.listenTCP(8080, Site(root, reactor=relay.reactor))
    relay.stop()
    assert relay.get("/ipc/healthz").status == 503
    assert relay.upgrade(f"/ipc/{DATABASE}/connect?id=alice&v=1").response().status == 503
    relay.server.start()
    assert relay.get("/ipc/healthz").status == 200
