"""HTTP connections under load and attack: work, memory, ends, refusals."""

from __future__ import annotations

import socket
import tracemalloc

import pytest

from acebase_ipc.http.channel import (
    CLOSE_TIMEOUT,
    MAX_HEAD,
    MAX_HEADER_LINES,
    PIECE,
    WRITE_BUFFER,
    SteppedChannel,
)
from acebase_ipc.http.relay_channel import BODY
from acebase_ipc.http.request import UNIT
from acebase_ipc.relay.limits import KIB, MIB
from acebase_ipc.rotation import STEP, TURN
from acebase_ipc.testing import (
    DATABASE,
    MemoryConnection,
    MemoryPeer,
    MemoryRelay,
    chunk,
    client_frame,
    http_head,
    http_request,
    upgrade_request,
)
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket._autobahn import BadRequestChannel

SEND = f"/{DATABASE}/send?id=alice"
HEALTH = http_request("GET", "/healthz")
SHORTEST = b"GET / HTTP/1.1\r\n\r\n"

STEPS_PER_TURN = TURN // STEP


def counted(relay: MemoryRelay, kind: str) -> int:
    """How often an event was reported."""
    return relay.server.counts[kind]


def statuses(wire: MemoryConnection) -> int:
    """How many answers have come since the last time."""
    return wire.take().count(b"HTTP/1.1 ")


# Work


def test_pipelined_requests_are_answered_some_in_each_turn() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.send(SHORTEST * 1000, settle=False)
    answers = []
    for _ in range(10):
        relay.turn()
        answers.append(statuses(wire))
    assert STEPS_PER_TURN - 1 <= max(answers) <= 2 * STEPS_PER_TURN
    relay.settle()
    assert sum(answers) + statuses(wire) == 1000


def test_connections_are_served_in_rotation() -> None:
    relay = MemoryRelay()
    *greedy, wire = (relay.connect() for _ in range(4))
    for each in greedy:
        each.send(SHORTEST * 1000, settle=False)
    relay.turn()
    wire.send(HEALTH, settle=False)
    for _ in range(3):
        relay.turn()
    assert statuses(wire) == 1
    assert all(0 < statuses(each) < 100 for each in greedy)


def test_many_connections_with_a_request_each_share_the_turns() -> None:
    relay = MemoryRelay()
    wires = [relay.connect() for _ in range(50)]
    for each in wires:
        each.send(HEALTH, settle=False)
    relay.turn()
    assert sum(map(statuses, wires)) <= 2 * STEPS_PER_TURN
    relay.settle()
    assert sum(map(statuses, wires)) >= 50 - 2 * STEPS_PER_TURN


def test_a_body_of_tiny_chunks_is_parsed_some_in_each_turn() -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(http_head("POST", SEND, transfer_encoding="chunked"))
    wire.send(chunk(b"x") * 10_000, settle=False)
    turns = 0
    while relay.turn():
        turns += 1
    assert turns >= 10_000 * 6 // (STEPS_PER_TURN * PIECE)
    wire.send(chunk(b""))
    assert wire.response().text == "ok"
    assert bobby.received() == ["msg:" + "x" * 10_000]


def test_pieces_of_bodies_are_received_some_in_each_turn() -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    body, at_once = b"x" * 100, TURN // BODY
    wires = [relay.connect() for _ in range(2 * at_once)]
    for each in wires:
        each.send(http_head("POST", SEND, content_length=str(2 * len(body))))
    site = relay.server._parts.site
    heads = site.memory
    for each in wires:
        each.send(body, settle=False)
    relay.turn()
    assert site.memory - heads == at_once * len(body)  # what waits for a later turn
    relay.settle()
    assert site.memory == heads
    for each in wires:
        each.send(body)
        assert each.response().text == "ok"
    assert bobby.received() == ["msg:" + "x" * 2 * len(body)] * len(wires)


def test_large_bodies_that_are_completed_together_are_relayed_one_in_each_turn() -> None:
    relay = MemoryRelay()
    relay.join_all("alice", "bobby")
    body = b"x" * (TURN * UNIT)
    wires = [relay.connect() for _ in range(4)]
    for each in wires:
        each.send(http_head("POST", SEND, content_length=str(len(body))), body[:-1])
    for each in wires:
        each.send(body[-1:], settle=False)
    answers = []
    while relay.turn():
        answers.append(sum(map(statuses, wires)))
    assert sum(answers) == len(wires)
    assert max(answers) == 1


def test_nothing_is_read_while_input_waits() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.send(SHORTEST * 20_000, settle=False)
    before = len(wire.unread)
    for _ in range(10):
        relay.turn()
    assert before - len(wire.unread) == MAX_HEAD  # one read
    wire.reset()


# Memory


def test_of_a_post_that_waits_for_room_no_more_is_read_than_a_head_may_have() -> None:
    relay = MemoryRelay(max_memory=4 * MIB)
    _, bobby = relay.join_all("alice", "bobby")
    body = b"x" * MIB
    head = http_head("POST", SEND, content_length=str(MIB))
    first, *waiting = (relay.connect() for _ in range(4))
    first.send(head, body[:-1])
    for each in waiting:
        each.send(head + body)
    assert relay.server._parts.site.memory <= len(waiting) * (MAX_HEAD + len(head))
    assert all(len(each.unread) >= MIB - MAX_HEAD for each in waiting)
    first.send(body[-1:])
    assert [each.response().text for each in (first, *waiting)] == ["ok"] * 4
    assert len(bobby.received()) == 4


def test_a_body_for_which_there_is_room_is_read_in_larger_pieces() -> None:
    relay = MemoryRelay()
    relay.join_all("alice", "bobby")
    wire = relay.connect()
    for _ in range(2):
        wire.send(http_head("POST", SEND, content_length=str(MIB)))
        wire.send(b"x" * MIB, settle=False)
        relay.turn()
        assert len(wire.unread) == MIB - 64 * KIB
        relay.settle()
        assert wire.response().text == "ok"


def test_no_request_is_answered_while_answers_are_unread() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.stop_reading()
    wire.send(SHORTEST * 5_000)
    unread = 5_000 * len(SHORTEST) - len(wire.unread)
    assert unread <= 128 * KIB
    assert relay.server._parts.site.memory <= WRITE_BUFFER + 128 * KIB
    wire.resume_reading()
    assert statuses(wire) == 5_000


def test_headers_that_nothing_reads_are_not_kept() -> None:
    relay = MemoryRelay()
    wires = [relay.connect() for _ in range(100)]
    head = http_head("GET", "/healthz", content_length="1")[:-2]
    head += b"".join(b"x%d: %s\r\n" % (each, b"y" * 100) for each in range(90)) + b"\r\n"
    tracemalloc.start()
    try:
        for each in wires:
            each.send(head)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100 * 15 * KIB  # 10 KiB of it are the text
    assert [each.ended for each in wires] == [None] * 100


@pytest.mark.parametrize(("lines", "accepted"), [(90, True), (MAX_HEADER_LINES + 1, False)])
def test_the_number_of_headers_is_bounded(lines: int, accepted: bool) -> None:
    wire = MemoryRelay().connect()
    wire.send(HEALTH[:-2] + b"x: y\r\n" * lines + b"\r\n")
    assert wire.response().status == (200 if accepted else 431)


def test_connections_that_hold_more_than_their_share_are_ended() -> None:
    relay = MemoryRelay(max_memory=8 * MIB)
    greedy = [relay.connect() for _ in range(20)]
    for each in greedy:
        each.stop_reading()
        each.send(SHORTEST * 2_000)
    honest = relay.connect()
    relay.pass_time(2)
    assert relay.server._parts.site.memory <= MIB
    assert 0 < sum(each.ended is None for each in greedy) <= MIB // WRITE_BUFFER
    honest.send(HEALTH)
    assert honest.response().status == 200


# The end


def test_a_client_that_reads_no_last_answer_is_aborted() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.stop_reading()
    wire.send(http_request("GET", "/healthz", connection="close"))
    relay.pass_time(CLOSE_TIMEOUT - 1)
    assert wire.ended is None
    relay.pass_time(2)
    assert wire.ended == "reset"
    assert relay.server._parts.site.channels == set()


def test_a_client_that_sends_nothing_more_is_sent_all_answers() -> None:
    relay = MemoryRelay(token="secret")
    relay.join("alice", token="secret")
    for _ in range(10):
        relay.get(f"/{DATABASE}/clients?t=wrong")
    late = http_request("GET", f"/{DATABASE}/clients?t=wrong")
    wire = relay.connect()
    wire.send(HEALTH * 100 + http_request("POST", f"{SEND}&t=secret", b"hi") + late, settle=False)
    wire.stop_sending()
    assert wire.ended is None
    relay.pass_time(3)
    statuses = [each.status for each in wire.responses()]
    assert statuses == [200] * 101 + [401]
    assert wire.ended == "closed"


@pytest.mark.parametrize("body", [b"", b"to:bobby;"])
def test_a_request_that_will_not_be_complete_ends_with_the_input(body: bytes) -> None:
    relay = MemoryRelay()
    relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(http_head("POST", SEND, content_length="10") + body)
    wire.stop_sending()
    assert wire.ended == "closed"
    assert wire.take() == b""


def test_a_download_goes_on_when_the_client_sends_nothing_more() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    alice.post("to:bobby;" + "x" * MIB)
    (announced,) = bobby.received()
    message_id = announced.removeprefix("get:")
    wire = relay.connect()
    wire.stop_reading(KIB)
    wire.send(http_request("GET", f"/{DATABASE}/receive?id=bobby&msg={message_id}"))
    wire.stop_sending()
    wire.resume_reading()
    assert wire.response().text == "x" * MIB
    assert wire.ended == "closed"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        http_request("POST", "/db/send?id=nobody", b"refused"),
        b"GET /healthz HTTP/1.0\r\n\r\n",
        upgrade_request("/db/connect?id=alice&v=1", sec_websocket_key="short"),
        b"GET /" + b"x" * 20_000,
    ],
)
def test_every_close_has_a_deadline(data: bytes) -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.stop_reading()
    wire.send(data)
    relay.pass_time(CLOSE_TIMEOUT + 1)
    assert wire.ended is not None


def test_a_slow_request_behind_a_whole_one_has_a_deadline() -> None:
    relay = MemoryRelay(request_timeout=10, http_idle=5)
    wire = relay.connect()
    wire.send(HEALTH + b"GET /hea")
    assert wire.response().status == 200
    for _ in range(11):
        wire.send(b"x")
        relay.pass_time(1)
    assert wire.ended is not None
    assert counted(relay, "RequestTimeout") == 1


def test_a_request_that_has_begun_is_not_idle() -> None:
    relay = MemoryRelay(request_timeout=10, http_idle=5)
    wire = relay.connect()
    wire.send(HEALTH + b"GET /hea")
    relay.pass_time(9)
    assert wire.ended is None
    relay.pass_time(2)
    assert wire.ended is not None


def test_a_slow_request_behind_one_that_waits_has_a_deadline() -> None:
    relay = MemoryRelay(token="secret", request_timeout=10)
    for _ in range(10):
        relay.get(f"/{DATABASE}/clients?t=wrong")
    wire = relay.connect()
    wire.send(http_request("GET", f"/{DATABASE}/clients?t=wrong"))
    wire.send(b"GET /hea")
    relay.pass_time(3)
    assert wire.response().status == 401
    relay.pass_time(11)
    assert wire.ended is not None


def test_the_system_probes_an_idle_connection() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    assert wire.options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1


# Refusals


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (HEALTH.replace(b"host", b"a b"), 400),
        (HEALTH[:-2] + b"Host: localhost\r\n\r\n", 400),
        (HEALTH[:-2] + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n", 400),
        (HEALTH[:-2] + b"Content-Length: \xb2\r\n\r\n", 400),
        (HEALTH[:-2] + b"x: " + b"y" * 17_000, 431),
        (HEALTH[:-2] + b"x: yyyyyyyy\r\n" * 2000, 431),
        (http_head("POST", SEND, transfer_encoding="chunked") + b"size\r\n", 400),
        (http_head("POST", SEND, transfer_encoding="chunked") + b"\xff" * 2000, 400),
    ],
)
def test_what_cannot_be_parsed_is_answered_with_a_line_and_reported(
    data: bytes, status: int
) -> None:
    relay = MemoryRelay()  # fails the test if a traceback is logged
    relay.join_all("alice")
    wire = relay.connect()
    wire.send(data + HEALTH)
    response = wire.response()
    assert response.status == status
    assert response.text.strip()
    assert "\n" not in response.text
    assert response.headers["connection"] == "close"
    assert wire.ended == "closed"
    assert counted(relay, "Refused") == 1


def test_whatever_the_parser_raises_is_400(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SteppedChannel) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(SteppedChannel, "allHeadersReceived", fail)
    relay = MemoryRelay()
    wire = relay.connect()
    wire.send(HEALTH)
    assert wire.response().status == 400
    assert relay.logged("400", "ZeroDivisionError")


def test_without_twisteds_private_method_its_bare_refusal_remains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _autobahn.REFUSES_BAD_REQUESTS
    monkeypatch.delattr(BadRequestChannel, "_respondToBadRequestAndDisconnect")
    relay = MemoryRelay()
    relay.join_all("alice")
    wire = relay.connect()
    wire.send(http_head("POST", SEND, transfer_encoding="chunked") + b"size\r\n")
    assert wire.response().status == 400
    assert wire.ended == "closed"
    assert counted(relay, "Refused") == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_a_message_above_max_message_is_warned_of(chunked: bool) -> None:
    relay = MemoryRelay(max_message=100)
    relay.join_all("alice")
    wire = relay.connect()
    if chunked:
        wire.send(http_head("POST", SEND, transfer_encoding="chunked"), chunk(b"x" * 101))
    else:
        wire.send(http_head("POST", SEND, content_length="101"))
    assert wire.response().status == 413
    (line,) = relay.logged("#warn]", DATABASE, "alice", "max_message", "100 bytes")
    assert "is lost" in line


# Requests in other forms


def test_a_request_in_absolute_form_is_answered() -> None:
    relay = MemoryRelay()
    assert relay.get("http://127.0.0.1:9163/healthz").text == "ok"
    assert relay.get("http://localhost/healthz", host="evil.example").text == "ok"
    assert relay.get("http://evil.example/healthz").status == 403


def test_a_websocket_may_be_asked_for_in_absolute_form() -> None:
    relay = MemoryRelay()
    MemoryPeer("alice", relay.upgrade(f"http://localhost/{DATABASE}/connect?id=alice&v=1"))
    assert [each.id for each in relay.server.get_clients(DATABASE)] == ["alice"]


def test_an_upgrade_over_http_1_0_is_505() -> None:
    wire = MemoryRelay().connect()
    request = upgrade_request(f"/{DATABASE}/connect?id=alice&v=1")
    wire.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert wire.response().status == 505


def test_frames_that_come_with_the_upgrade_are_taken() -> None:
    relay = MemoryRelay()
    (bobby,) = relay.join_all("bobby")
    request = upgrade_request(f"/{DATABASE}/connect?id=alice&v=1")
    wire = relay.connect()
    wire.send(request + client_frame(b"hello") + client_frame(b"ping"))
    alice = MemoryPeer("alice", wire)
    assert bobby.received() == ["connect:alice", "msg:hello"]
    assert alice.received()[-1] == "pong"
    alice.say("again")
    assert bobby.received() == ["msg:again"]


def test_frames_that_come_after_a_refused_upgrade_are_not_requests() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.send(upgrade_request("/db/connect?id=alice&v=1", sec_websocket_key="short") + HEALTH)
    assert wire.response().status == 400
    assert wire.ended == "closed"
