"""Every limit, seen from a peer: what happens when it is exceeded, and that others go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields

import pytest
from twisted.internet.address import IPv4Address

from acebase_ipc.http.site import SURPLUS
from acebase_ipc.relay.limits import KIB, MIB, Limits
from acebase_ipc.server.logging import LINES_PER_PERIOD
from acebase_ipc.testing import (
    DATABASE,
    AceBaseMemoryPeer,
    MemoryConnection,
    MemoryPeer,
    MemoryRelay,
    Opcode,
    chunk,
    client_frame,
    http_head,
    http_request,
    upgrade_request,
)
from tests.relay import core
from tests.relay.locks import body_of, grant, lock, new_id, to_master, worker_id

SOMEWHERE = IPv4Address("TCP", "192.0.2.1", 50000)
ALICE = f"/{DATABASE}/send?id=alice"
CHANGES = f"/{DATABASE}/changes?path=orders"


def counts(relay: MemoryRelay) -> Counter[str]:
    """How often each kind of event was reported."""
    return relay.server.counts


def try_to_join(
    relay: MemoryRelay, client_id: str, database: str = DATABASE, host: str = "127.0.0.1"
) -> int:
    """The status with which a handshake is answered; who joins stays."""
    wire = relay.connect(host)
    wire.send(upgrade_request(f"/{database}/connect?id={client_id}&v=1"))
    return int(wire.take().split(b" ", 2)[1])


def end_of(
    wire: MemoryConnection, relay: MemoryRelay, seconds: float, drip: bytes = b""
) -> float | None:
    """After how many seconds the server has ended *wire*, if at all; *drip* is sent each second."""
    begin = relay.now
    while relay.now < begin + seconds:
        relay.pass_time(1)
        if wire.ended is not None:
            return relay.now - begin
        if drip:
            wire.send(drip)
    return None


def test_every_limit_is_tested() -> None:
    tested = [each.removeprefix("test_") for each in globals()]
    for limit in fields(Limits):
        assert any(each.startswith(f"{limit.name}_") for each in tested), limit.name


# Sizes


def test_max_payload_is_what_a_message_may_have() -> None:
    relay = MemoryRelay(max_payload=100)
    alice, bobby = relay.join_all("alice", "bobby")
    alice.say("x" * 100)
    assert bobby.received() == ["msg:" + "x" * 100]
    alice.say("x" * 101)
    assert alice.close_code == 1009
    assert bobby.received() == ["disconnect:alice"]
    assert counts(relay)["ProtocolViolated"] == 1


def test_max_message_is_what_may_be_posted() -> None:
    relay = MemoryRelay(max_message=100)
    alice, _ = relay.join_all("alice", "bobby")
    assert relay.post(ALICE, b"to:alice;" + b"x" * 91).status == 200
    wire = relay.connect()
    wire.send(http_head("POST", ALICE, content_length="101"))
    assert wire.response().status == 413  # before any of it has come
    wire = relay.connect()
    wire.send(http_head("POST", ALICE, transfer_encoding="chunked"), chunk(b"x" * 100))
    assert wire.take() == b""
    wire.send(chunk(b"x"))
    assert wire.response().status == 413
    assert alice.received() == ["msg:" + "x" * 91]
    assert counts(relay)["Refused"] == 2


def test_max_stored_pauses_a_post_and_refuses_it_after_30_s() -> None:
    relay = MemoryRelay(max_stored=50_000, max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    message = b"to:bobby;" + b"x" * 40_000
    assert relay.post(ALICE, message).status == 200
    wire = relay.connect()
    wire.send(http_request("POST", ALICE, message))
    for _ in range(29):
        relay.pass_time(1)
        assert wire.take() == b""
    relay.pass_time(1)
    assert wire.response().status == 503
    assert len(bobby.received()) == 1
    assert relay.server._parts.uploads.reserved == 0


def test_max_stored_lets_a_post_go_on_when_there_is_room() -> None:
    relay = MemoryRelay(max_stored=50_000, max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    message = b"to:bobby;" + b"x" * 40_000
    assert relay.post(ALICE, message).status == 200
    wire = relay.connect()
    wire.send(http_request("POST", ALICE, message))
    assert wire.take() == b""
    (announced,) = bobby.received()
    target = f"/{DATABASE}/receive?id=bobby&msg={announced.removeprefix('get:')}"
    assert len(relay.get(target).body) == 40_000
    assert wire.response().status == 200
    assert len(bobby.received()) == 1


def test_message_ttl_is_how_long_a_message_waits() -> None:
    relay = MemoryRelay(message_ttl=30, max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(ALICE, b"to:bobby;" + b"x" * 1000)
    (announced,) = bobby.received()
    target = f"/{DATABASE}/receive?id=bobby&msg={announced.removeprefix('get:')}"
    relay.pass_time(31)
    assert relay.get(target).status == 404
    assert counts(relay)["MessageDropped"] == 1


def test_max_backlog_disconnects_only_the_peer_that_does_not_read() -> None:
    relay = MemoryRelay(max_backlog=200_000)
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    bobby.connection.stop_reading()
    sent = 0
    while bobby.connection.ended is None and sent < 300_000:  # the transport takes some, too
        alice.say("x" * 10_000)
        sent += 10_000
    assert bobby.connection.ended == "reset"
    assert sent >= 200_000
    heard = carol.received()
    assert heard.pop() == "disconnect:bobby"
    assert heard == ["msg:" + "x" * 10_000] * (sent // 10_000)
    assert counts(relay)["SlowConsumer"] == 1
    assert len(relay.logged("bobby from ", " is disconnected: it has not read")) == 1


def test_session_timeout_is_how_long_a_seat_lasts() -> None:
    for session_timeout in (0, 5):
        relay = MemoryRelay(session_timeout=session_timeout)
        alice, worker = relay.join_all("alice", "worker", query="&dialect=acebase")
        worker.connection.reset()
        assert (alice.received() == ["disconnect:worker"]) == (session_timeout == 0)
        relay.pass_time(session_timeout - 1)
        assert alice.received() == []
        relay.pass_time(2)
        assert (alice.received() == ["disconnect:worker"]) == (session_timeout > 0)


def test_max_session_queue_is_what_waits_for_one_seat() -> None:
    relay = MemoryRelay(max_session_queue=30_000)
    alice, worker = relay.join_all("alice", "worker", query="&dialect=acebase")
    worker.connection.reset()
    for _ in range(3):
        alice.say("x" * 9_000)
    relay.pass_time(1)
    assert alice.received() == []
    alice.say("x" * 9_000)
    relay.pass_time(1)
    assert alice.received() == ["disconnect:worker"]
    assert counts(relay)["SessionExpired"] == 1


# Sessions and locks


def join_with_lock(relay: MemoryRelay) -> tuple[AceBaseMemoryPeer, AceBaseMemoryPeer]:
    """A master and a worker that has a lock."""
    master, worker = relay.join_acebase(core.MASTER), relay.join_acebase(worker_id(1))
    request = lock(worker.id, new_id())
    worker.say(request)
    assert master.received()[-1] == body_of(request)
    master.say(grant(body_of(request), 7))
    assert worker.envelopes()[-1]["type"] == "lock-result"
    return master, worker


@pytest.mark.parametrize("timeout", [0, 3])
def test_session_timeout_closed_is_how_long_a_session_lasts_whose_process_has_ended(
    timeout: int,
) -> None:
    relay = MemoryRelay(session_timeout=30, session_timeout_closed=timeout)
    alice, worker = relay.join_all("alice", "worker", query="&dialect=acebase")
    worker.connection.reset()
    assert alice.received() == []
    relay.pass_time(max(0, timeout - 1))
    assert alice.received() == []
    relay.pass_time(2)
    assert alice.received() == ["disconnect:worker"]
    assert counts(relay)["SessionExpired"] == 1


def test_session_timeout_closed_makes_no_session_longer() -> None:
    relay = MemoryRelay(session_timeout=3, session_timeout_closed=30)
    alice, worker = relay.join_all("alice", "worker", query="&dialect=acebase")
    worker.connection.reset()
    relay.pass_time(4)
    assert alice.received() == ["disconnect:worker"]


def test_fence_is_how_long_a_worker_is_refused_whose_lock_was_released() -> None:
    relay = MemoryRelay(fence=60)
    master, worker = join_with_lock(relay)
    worker.lose()
    relay.pass_time(6)
    assert master.envelopes()[-1]["data"] == {"id": 7}
    assert counts(relay)["LocksFreed"] == 1
    for seconds in (0, 30, 20):
        relay.pass_time(seconds)
        assert try_to_join(relay, worker.id) == 500
        assert try_to_join(relay, worker.id, "another") == 101
    assert counts(relay)["ReturnRefused"] == 1
    assert len(relay.logged(f"{worker.id} from ", " is refused with 500")) == 1
    relay.pass_time(11)
    assert try_to_join(relay, worker.id) == 101


def test_lock_warning_is_how_long_a_lock_is_held_while_others_wait() -> None:
    relay = MemoryRelay(lock_warning=20)
    join_with_lock(relay)
    other = relay.join_acebase(worker_id(2))
    relay.pass_time(10)
    other.say(lock(other.id, new_id(), tid="t2"))
    relay.pass_time(19)
    assert counts(relay)["LockHeldLong"] == 0
    relay.pass_time(2)
    (line,) = relay.logged(f"{worker_id(1)} has held a write lock at 'a/b' (transactNode) for")
    assert line.endswith(f"; waiting: {other.id}")
    relay.pass_time(50)
    assert counts(relay)["LockHeldLong"] == 1
    relay.pass_time(15)
    assert counts(relay)["LockHeldLong"] == 2
    assert counts(relay)["RequestOpenLong"] == 0


def test_lock_warning_is_how_long_a_request_is_open() -> None:
    relay = MemoryRelay(lock_warning=20)
    relay.join_acebase(core.MASTER)
    worker = relay.join_acebase(worker_id(1))
    worker.say(lock(worker.id, new_id()))
    relay.pass_time(19)
    assert counts(relay)["RequestOpenLong"] == 0
    relay.pass_time(2)
    assert counts(relay)["RequestOpenLong"] == 1
    assert len(relay.logged(f"{worker.id} has waited", "a lock-request at 'a/b'")) == 1


def test_lock_session_max_is_how_long_a_lock_covers_others() -> None:
    relay = MemoryRelay(lock_session_max=5)
    master, worker = join_with_lock(relay)
    relay.pass_time(4)
    worker.say(lock(worker.id, new_id()))
    assert worker.envelopes()[-1]["type"] == "lock-result"
    asked = len(master.envelopes())
    relay.pass_time(2)
    worker.say(lock(worker.id, new_id()))
    assert len(master.envelopes()) == asked + 1


def test_master_warmup_is_how_long_requests_about_files_wait_for_a_new_master() -> None:
    relay = MemoryRelay(master_warmup=5)
    worker = relay.join_acebase(worker_id(1))
    request = to_master(worker.id, "request", {"type": "fst.allocate", "records": 1}, new_id())
    worker.say(request)
    master = relay.join_acebase(core.MASTER)
    relay.pass_time(4)
    assert not any(each["type"] == "request" for each in master.envelopes())
    relay.pass_time(2)
    assert [each["type"] for each in master.envelopes()][-1:] == ["request"]


@pytest.mark.parametrize("timeout", [0, 2])
def test_quiesce_timeout_is_how_long_a_stop_waits_for_a_transaction(timeout: int) -> None:
    relay = MemoryRelay(quiesce_timeout=timeout)
    _, worker = join_with_lock(relay)
    relay.stop()
    if timeout:
        assert worker.close_code is None
        relay.pass_time(timeout, step=0.1)
    assert worker.close_code == 1001
    assert counts(relay)["NotQuiet"] == 1
    relay.pass_time(5)


# Memory of all together


def test_max_memory_cuts_the_largest_backlog_first() -> None:
    relay = MemoryRelay(max_memory=2 * MIB)
    names = ("alice", "small", "large", "other")
    alice, small, large, other = relay.join_all(*names)
    small.connection.stop_reading()
    large.connection.stop_reading()
    for _ in range(50):
        alice.say("to:small;" + "x" * 10_000)
    for _ in range(190):
        alice.say("to:large;" + "x" * 10_000)
    relay.pass_time(1)
    assert [each.connection.ended for each in (small, large)] == [None, "reset"]
    assert other.received() == alice.received() == ["disconnect:large"]
    assert counts(relay)["EvictedForMemory"] == 1
    assert len(relay.logged("large from ", "is disconnected", "max_memory")) == 1


def test_max_memory_counts_what_is_held_for_a_seat() -> None:
    relay = MemoryRelay(max_memory=MIB, max_session_queue=10 * MIB)
    alice, worker = relay.join_all("alice", "worker", query="&dialect=acebase")
    worker.connection.reset()
    for _ in range(110):
        alice.say("to:worker;" + "x" * 10_000)
    assert alice.received() == []
    relay.pass_time(2)
    assert alice.received() == ["disconnect:worker"]
    assert alice.connection.ended is None


@pytest.mark.parametrize("fragmented", [False, True])
def test_max_memory_counts_what_is_half_received(fragmented: bool) -> None:
    relay = MemoryRelay(max_memory=MIB, max_payload=MIB)
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    message = b"x" * (MIB - 100)
    for peer in (bobby, carol):
        if fragmented:
            peer.send(message, Opcode.TEXT, final=False)
        else:
            peer.connection.send(client_frame(message)[:-1])
    relay.pass_time(1)
    assert sorted(str(each.connection.ended) for each in (bobby, carol)) == ["None", "reset"]
    assert len(alice.received()) == 1


def test_max_memory_counts_a_broadcast_once() -> None:
    # Ten queues of 3 MB share their messages; each transport has a copy of 64 KiB.
    relay = MemoryRelay(max_memory=4 * MIB)
    alice, *others = relay.join_all("alice", *[f"peer{each}" for each in range(10)])
    for each in others:
        each.connection.stop_reading()
    for _ in range(300):
        alice.say("x" * 10_000)
    relay.pass_time(2)
    assert [each.connection.ended for each in others] == [None] * 10


def test_max_memory_is_reserved_for_posts_in_part() -> None:
    relay = MemoryRelay(max_memory=4 * MIB, max_payload=100)
    relay.join_all("alice", "bobby")
    wires = [relay.connect() for _ in range(100)]
    for wire in wires:
        wire.send(http_head("POST", ALICE, content_length="500000") + b"to:bobby;")
    assert relay.server._parts.uploads.reserved == 2 * 500_000
    for wire in wires[:2]:
        wire.reset()
    assert relay.server._parts.uploads.reserved == 2 * 500_000  # the next two


@pytest.mark.parametrize("where", ["elsewhere", "for the master"])
def test_max_memory_cuts_nobody_whose_end_frees_nothing(where: str) -> None:
    relay = core.Core(max_memory=MIB, max_session_queue=MIB)
    workers = [relay.join_acebase("a" * 24, f"db{each}") for each in range(2)]
    innocent = relay.join("innocent", database="another")
    if where == "elsewhere":
        relay.relay.memory.register("test", lambda: 2 * MIB)
    else:
        for worker in workers:
            for _ in range(60):
                worker.says("to:[master];{" + "x" * 10_000)
    relay.relay.delivery.enforce_memory_limit()
    assert not innocent.connection.aborted


# Connections


def test_max_connections_bounds_the_peers() -> None:
    relay = MemoryRelay(max_connections=3)
    peers = relay.join_all("alice", "bobby", "carol")
    response = relay.upgrade(f"/{DATABASE}/connect?id=daisy&v=1").response()
    assert (response.status, response.text) == (503, "Too many connections: try again later")
    assert counts(relay)["Refused"] == 1
    peers[0].leave()
    assert try_to_join(relay, "daisy") == 101


def test_max_connections_bounds_those_that_have_not_asked_yet() -> None:
    relay = MemoryRelay(max_connections=3)
    wires = [relay.connect() for _ in range(3)]
    assert relay.get(f"/{DATABASE}/clients").status == 503
    assert counts(relay)["Refused"] == 1
    wires[0].close()
    assert relay.get(f"/{DATABASE}/clients").status == 200


def test_max_connections_counts_websockets_and_http_together() -> None:
    relay = MemoryRelay(max_connections=3)
    relay.join_all("alice", "bobby")
    wire = relay.connect()
    assert try_to_join(relay, "carol") == 503
    assert relay.post(ALICE, b"ping").status == 503
    wire.close()
    assert try_to_join(relay, "carol") == 101


def test_max_connections_leaves_room_for_a_health_check() -> None:
    relay = MemoryRelay(max_connections=2)
    relay.join_all("alice", "bobby")
    idle = [relay.connect() for _ in range(2 * SURPLUS)]
    response = relay.get("/healthz")
    assert (response.status, response.headers["connection"]) == (200, "close")
    assert sum(each.ended is None for each in idle) < SURPLUS  # the oldest made way


def test_max_database_connections_bounds_one_database() -> None:
    relay = MemoryRelay(max_database_connections=2)
    alice, bobby = relay.join_all("alice", "bobby")
    assert try_to_join(relay, "carol") == 503
    assert try_to_join(relay, "carol", "another") == 101
    assert alice.received() == bobby.received() == []
    assert try_to_join(relay, "alice") == 101  # takes the place of its own connection
    assert alice.close_code == 4001
    bobby.leave()
    assert try_to_join(relay, "carol") == 101


def test_max_address_connections_bounds_one_address() -> None:
    relay = MemoryRelay(max_address_connections=2)
    alice, _ = relay.join_all("alice", "bobby")
    assert try_to_join(relay, "carol") == 503
    assert try_to_join(relay, "carol", host="127.0.0.2") == 101
    alice.leave()
    assert try_to_join(relay, "daisy") == 101
    assert try_to_join(relay, "emily") == 503


def test_max_address_connections_is_off_unless_set() -> None:
    relay = MemoryRelay()
    assert [try_to_join(relay, f"peer{each}") for each in range(50)] == [101] * 50


def status_after(relay: MemoryRelay, worker: AceBaseMemoryPeer, sizes: list[int]) -> int:
    """Write so many changes, and return what a reader that was there before them is answered."""
    stream = relay.connect()
    stream.send(http_request("GET", CHANGES))
    (own,) = (each["from"] for each in worker.envelopes() if each["type"] == "hello")
    worker.say_envelope("hello", own)
    cursor = stream.take().partition(b"id: ")[2].partition(b"\n")[0].decode()
    for size in sizes:
        data = {"path": "orders", "val": "x" * size}
        worker.say_envelope("event", own, path="orders", event="mutations", data=data)
    again = relay.connect()
    again.send(http_request("GET", f"{CHANGES}&since={cursor}"))
    return int(again.take().split(b" ", 2)[1])


@pytest.mark.parametrize(("changes", "status"), [(3, 200), (4, 410)])
def test_history_messages_bounds_the_changes_that_are_kept(changes: int, status: int) -> None:
    relay = MemoryRelay(history_messages=3)
    worker = relay.join_acebase(worker_id(1))
    assert status_after(relay, worker, [1] * changes) == status


@pytest.mark.parametrize(("changes", "status"), [(3, 200), (4, 410)])
def test_history_bytes_bounds_the_changes_that_are_kept(changes: int, status: int) -> None:
    relay = MemoryRelay(history_messages=100, history_bytes=40_000)
    worker = relay.join_acebase(worker_id(1))
    assert status_after(relay, worker, [12_000] * changes) == status


def test_max_databases_bounds_them() -> None:
    relay = MemoryRelay(max_databases=2)
    one, _ = relay.join("alice", "one"), relay.join("alice", "two")
    assert try_to_join(relay, "alice", "three") == 503
    assert try_to_join(relay, "bobby", "two") == 101
    one.leave()
    assert try_to_join(relay, "alice", "three") == 101


# Times


@pytest.mark.parametrize("drip", [b"", b"x", b"x-y: z\r\n"])
def test_handshake_timeout_ends_who_does_not_complete_a_request(drip: bytes) -> None:
    relay = MemoryRelay(handshake_timeout=7)
    wire = relay.connect()
    wire.send(b"GET /healthz HTTP/1.1\r\n" if drip else b"")
    assert end_of(wire, relay, 60, drip) == 7
    assert wire.take() == b""
    assert counts(relay)["RequestTimeout"] == 1


def test_handshake_timeout_does_not_end_a_peer() -> None:
    relay = MemoryRelay(handshake_timeout=7)
    alice = relay.join("alice")
    relay.pass_time(10)
    assert alice.connection.ended is None


@pytest.mark.parametrize("length", [{"content_length": "1000"}, {"transfer_encoding": "chunked"}])
def test_request_timeout_ends_a_body_that_comes_too_slowly(length: dict[str, str]) -> None:
    relay = MemoryRelay(request_timeout=30)
    (alice,) = relay.join_all("alice")
    wire = relay.connect()
    wire.send(http_head("POST", ALICE, **length))
    assert end_of(wire, relay, 60, chunk(b"x")) == 30
    assert alice.received() == []
    assert counts(relay)["RequestTimeout"] == 1


def test_request_timeout_holds_for_later_requests_of_a_connection() -> None:
    relay = MemoryRelay(request_timeout=30)
    wire = relay.connect()
    wire.send(http_request("GET", "/healthz"))
    assert wire.response().status == 200
    relay.pass_time(10)
    wire.send(b"GET /healthz HTTP/1.1\r\n")
    assert end_of(wire, relay, 60, b"x-y: z\r\n") == 30


def test_request_timeout_ends_a_response_that_is_not_read() -> None:
    relay = MemoryRelay(request_timeout=30, message_ttl=5)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(ALICE, b"to:bobby;" + b"x" * 1_000_000)
    (announced,) = bobby.received()
    wire = relay.connect()
    wire.stop_reading(1000)
    target = f"/{DATABASE}/receive?id=bobby&msg={announced.removeprefix('get:')}"
    wire.send(http_request("GET", target))
    assert end_of(wire, relay, 60) == 30
    assert bobby.connection.ended is None


def test_request_timeout_lets_a_response_be_read_slowly() -> None:
    relay = MemoryRelay(request_timeout=30)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(ALICE, b"to:bobby;" + b"x" * 1_000_000)
    (announced,) = bobby.received()
    wire = relay.connect()
    wire.stop_reading(1000)
    target = f"/{DATABASE}/receive?id=bobby&msg={announced.removeprefix('get:')}"
    wire.send(http_request("GET", target))
    for _ in range(4):
        relay.pass_time(20)
        wire.resume_reading(300_000)
    assert len(wire.response().body) == 1_000_000
    wire.resume_reading()
    for _ in range(3):  # and then its time is over
        relay.pass_time(15)
        wire.send(http_request("GET", "/healthz"))
        assert wire.response().status == 200


def test_http_idle_ends_a_connection_that_is_not_used() -> None:
    relay = MemoryRelay(http_idle=17)
    wire = relay.connect()
    for _ in range(3):  # as clients do that keep it for reuse
        wire.send(http_request("GET", "/healthz"))
        assert wire.response().status == 200
        relay.pass_time(15)
    assert wire.ended is None
    relay.pass_time(2)
    assert wire.ended == "closed"


# Dead peers


def test_keepalive_interval_is_when_a_silent_peer_is_pinged() -> None:
    relay = MemoryRelay(keepalive_interval=5, keepalive_timeout=3)
    alice = relay.join("alice")
    relay.pass_time(4)
    assert alice.frames() == []
    relay.pass_time(1.5)
    assert [each.opcode for each in alice.frames()] == [Opcode.PING]
    relay.pass_time(60)
    assert 10 <= len(alice.frames()) <= 12
    assert alice.connection.ended is None


def test_keepalive_timeout_is_when_a_peer_is_cut_that_does_not_answer() -> None:
    relay = MemoryRelay(keepalive_interval=5, keepalive_timeout=3)
    alice, bobby = relay.join_all("alice", "bobby")
    alice.answers = False
    assert end_of(alice.connection, relay, 60) == pytest.approx(8, abs=1)
    assert bobby.received() == ["disconnect:alice"]
    assert counts(relay)["KeepaliveTimeout"] == 1


# Floods


def bad_tokens(relay: MemoryRelay) -> None:
    relay.connect().send(http_request("GET", f"/{DATABASE}/clients?t=wrong"))


def bad_handshakes(relay: MemoryRelay) -> None:
    relay.upgrade("/another/connect?id=x&v=1&t=right")


def bad_paths(relay: MemoryRelay) -> None:
    relay.get("/nothing")


def bad_lines(relay: MemoryRelay) -> None:
    relay.connect().send(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")


def bad_bodies(relay: MemoryRelay) -> None:
    wire = relay.connect()
    wire.send(http_head("POST", ALICE, transfer_encoding="chunked") + b"no size\r\n")


def bad_messages(relay: MemoryRelay) -> None:
    peer = MemoryPeer("mallory", relay.upgrade("/another/connect?id=mallory&v=1&t=right"))
    peer.say("to:")


FLOODS = [bad_tokens, bad_handshakes, bad_paths, bad_lines, bad_bodies, bad_messages]


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: str(flood.__name__))
def test_a_flood_of_bad_input_does_not_fill_the_disk(flood: Callable[[MemoryRelay], None]) -> None:
    relay = MemoryRelay(token="right")
    alice, bobby = relay.join_all("alice", "bobby", query="&t=right")
    before = len(relay.log)
    for _ in range(200):
        flood(relay)
    kinds = 3  # of events that one bad input may cause: joined, violated, left
    assert len(relay.log) - before <= kinds * LINES_PER_PERIOD + 1
    alice.say("to:bobby;still here")
    assert bobby.received() == ["msg:still here"]
    relay.pass_time(61)
    before = len(relay.log)
    flood(relay)
    assert len(relay.log) - before <= 2 * kinds + 1


def test_half_open_handshakes_go_and_leave_few_lines() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    before = len(relay.log)
    wires = [relay.connect() for _ in range(300)]
    alice.say("to:bobby;still here")
    assert bobby.received() == ["msg:still here"]
    relay.pass_time(11)
    assert {each.ended for each in wires} == {"reset"}
    assert counts(relay)["RequestTimeout"] == 300
    assert len(relay.log) - before <= LINES_PER_PERIOD
    assert relay.server._parts.site.channels == set()


def test_endless_headers_are_refused_when_they_are_too_many() -> None:
    relay = MemoryRelay()
    for line in (b"x-y: z\r\n", b"x" * 1000, b"x-y: " + b"z" * 1000 + b"\r\n", b" folded\r\n"):
        wire = relay.connect()
        wire.send(b"GET /healthz HTTP/1.1\r\nx: y\r\n")
        sent = 0
        while wire.ended is None:
            wire.send(line)
            sent += len(line)
            assert sent < 40 * KIB
        assert wire.response().status == 431


def test_frames_announced_and_never_sent_cost_nothing() -> None:
    relay = MemoryRelay(max_memory=MIB, max_payload=MIB)
    alice, bobby = relay.join_all("alice", "bobby")
    announced = client_frame(b"x" * (MIB - 1))[:14]
    liars = relay.join_all(*[f"liar{each}" for each in range(20)])
    for liar in liars:
        liar.connection.send(announced)
    relay.pass_time(5)
    assert {each.connection.ended for each in liars} == {None}
    alice.received()
    alice.say("to:bobby;still here")
    assert bobby.received()[-1] == "msg:still here"


def test_a_hundred_posts_at_once_are_all_relayed_within_the_memory() -> None:
    relay = MemoryRelay(max_memory=4 * MIB, max_stored=4 * MIB, max_payload=100)
    alice, bobby = relay.join_all("alice", "bobby")
    wires = [relay.connect() for _ in range(100)]
    body = b"to:bobby;" + b"x" * 100_000
    request = http_request("POST", ALICE, body)
    for wire in wires:
        wire.send(request[:50_000])
    reserved = relay.server._parts.uploads.reserved
    assert MIB - len(body) <= reserved <= MIB
    alice.say("to:bobby;still here")
    assert bobby.received() == ["msg:still here"]
    fetched = 0
    for wire in wires:
        wire.send(request[50_000:])
        for announced in bobby.received():
            target = f"/{DATABASE}/receive?id=bobby&msg={announced.removeprefix('get:')}"
            fetched += relay.get(target).status == 200
        assert relay.server._parts.uploads.reserved <= MIB
    assert fetched == 100
    assert [wire.response().status for wire in wires] == [200] * 100
    assert relay.server._parts.uploads.reserved == 0
