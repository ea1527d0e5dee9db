"""Large messages while the store is full: POSTs are paused and resumed in order (section 4)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from acebase_ipc.http.upload import STORE_TIMEOUT, UploadAdmission
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.limits import Limits
from acebase_ipc.relay.store import ENTRY_SIZE, MessageStore
from acebase_ipc.testing import (
    DATABASE,
    MemoryConnection,
    MemoryPeer,
    MemoryReactor,
    MemoryRelay,
    chunk,
    http_head,
    http_request,
)

SEND = f"/{DATABASE}/send?id=alice"


def full_relay(**config: Any) -> tuple[MemoryRelay, MemoryPeer, MemoryPeer, str]:
    """A relay, alice, bobby, and the id of a message to bobby that takes all room but 100 bytes."""
    limits = {"max_payload": 10, "max_message": 1000, "max_stored": 1000 + ENTRY_SIZE, **config}
    relay = MemoryRelay(**limits)
    alice, bobby = relay.join_all("alice", "bobby")
    assert relay.post(SEND, "x" * 900).status == 200
    return relay, alice, bobby, announced(bobby)[0]


def announced(peer: MemoryPeer) -> list[str]:
    """The ids of the messages that were announced to *peer* since the last time."""
    return [each.removeprefix("get:") for each in peer.received()]


def download(relay: MemoryRelay, message_id: str) -> str:
    """Download a message as bobby."""
    response = relay.get(f"/{DATABASE}/receive?id=bobby&msg={message_id}")
    assert response.status == 200
    return response.text


def post(relay: MemoryRelay, body: bytes) -> MemoryConnection:
    """Begin to POST as alice."""
    wire = relay.connect()
    wire.send(http_request("POST", SEND, body))
    return wire


def test_a_post_waits_for_room_and_goes_on_when_there_is() -> None:
    relay, _, bobby, first = full_relay()
    wire = post(relay, b"y" * 200)
    assert wire.take() == b""
    assert bobby.received() == []
    assert download(relay, first) == "x" * 900
    assert wire.response().text == "ok"
    (second,) = announced(bobby)
    assert download(relay, second) == "y" * 200


def test_what_fits_does_not_wait() -> None:
    relay, _, bobby, _ = full_relay()
    assert post(relay, b"y" * 100).response().text == "ok"
    assert len(announced(bobby)) == 1
    assert post(relay, b"y" * 11).take() == b""


def test_a_small_message_does_not_wait() -> None:
    relay, alice, bobby, _ = full_relay()
    waiting = post(relay, b"y" * 200)
    assert post(relay, b"small").response().text == "ok"
    assert post(relay, b"ping").response().text == "ok"
    assert (bobby.received(), alice.received()) == (["msg:small"], ["pong"])
    assert waiting.take() == b""


@pytest.mark.parametrize("others_are_paused", [False, True])
def test_a_large_message_that_nobody_downloads_does_not_wait(others_are_paused: bool) -> None:
    relay, alice, _, _ = full_relay(introductions=False)
    if others_are_paused:
        assert post(relay, b"y" * 200).take() == b""
    carol, david = relay.join_all("carol", "david", database="other_data", query="&dialect=acebase")
    carol.received()
    wire = relay.connect()
    wire.send(http_request("POST", "/other_data/send?id=carol", b"{" + b"y" * 500))
    assert wire.response().text == "ok"
    assert david.received() == ["{" + "y" * 500]
    assert alice.received() == []


def test_a_waiting_post_is_refused_after_30_s() -> None:
    relay, _, bobby, first = full_relay()
    wire = post(relay, b"y" * 200)
    relay.pass_time(29)
    assert wire.take() == b""
    relay.pass_time(2)
    response = wire.response()
    assert response.status == 503
    assert "\n" not in response.text.strip()
    assert wire.ended == "closed"
    download(relay, first)
    relay.pass_time(2)
    assert bobby.received() == []
    assert post(relay, b"z" * 200).response().status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_waiting_body_is_not_read(chunked: bool) -> None:
    relay, _, bobby, first = full_relay()
    wire = relay.connect()
    if chunked:
        wire.send(http_head("POST", SEND, transfer_encoding="chunked"), chunk(b"y" * 200))
        rest = chunk(b"z" * 100) + chunk(b"")
    else:
        wire.send(http_head("POST", SEND, content_length="300") + b"y" * 200)
        rest = b"z" * 100
    wire.send(rest)
    assert wire.unread == rest
    download(relay, first)
    assert wire.unread == b""
    assert wire.response().text == "ok"
    (second,) = announced(bobby)
    assert download(relay, second) == "y" * 200 + "z" * 100


def test_a_body_refused_after_waiting_is_read_to_its_end() -> None:
    relay, _, _, _ = full_relay()
    wire = relay.connect()
    wire.send(http_head("POST", SEND, content_length="300") + b"y" * 200)
    relay.pass_time(31)
    assert wire.response().status == 503
    assert wire.ended is None
    wire.send(b"y" * 100)
    assert wire.ended == "closed"


def test_waiting_is_not_being_idle() -> None:
    relay, _, _, first = full_relay(http_idle=5, request_timeout=5, handshake_timeout=5)
    wire = relay.connect()
    wire.send(http_head("POST", SEND, content_length="300") + b"y" * 299)
    relay.pass_time(28)
    assert wire.ended is None
    download(relay, first)
    wire.send(b"y")
    assert wire.response().text == "ok"


def test_paused_posts_are_served_in_order() -> None:
    relay, _, bobby, first = full_relay()
    wires = [post(relay, b"%d" % number * 400) for number in range(4)]
    download(relay, first)
    assert [each.take() != b"" for each in wires] == [True, True, False, False]
    second, third = announced(bobby)
    assert download(relay, second) == "0" * 400
    assert [each.take() != b"" for each in wires] == [False, False, True, False]
    assert download(relay, third) == "1" * 400
    assert wires[3].response().text == "ok"
    assert [download(relay, each) for each in announced(bobby)] == ["2" * 400, "3" * 400]


def test_a_smaller_message_does_not_overtake_one_that_waits() -> None:
    relay, _, bobby, first = full_relay()
    large, small = post(relay, b"y" * 500), post(relay, b"z" * 50)
    assert (large.take(), small.take(), bobby.received()) == (b"", b"", [])
    download(relay, first)
    assert [download(relay, each) for each in announced(bobby)] == ["y" * 500, "z" * 50]


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_stops_waiting_makes_way(end: str) -> None:
    relay, _, bobby, first = full_relay()
    large, small = post(relay, b"y" * 950), post(relay, b"z" * 50)
    getattr(large, end)()
    download(relay, first)
    relay.pass_time(31)
    heard = [download(relay, each) for each in announced(bobby)]
    assert "z" * 50 in heard
    assert small.response().text == "ok"


def test_a_post_behind_one_that_is_refused_goes_on() -> None:
    relay, _, bobby, _ = full_relay()
    large = post(relay, b"y" * 500)
    relay.pass_time(5)
    small = post(relay, b"z" * 50)
    relay.pass_time(27)
    assert large.response().status == 503
    assert small.response().status == 200
    assert [download(relay, each) for each in announced(bobby)] == ["z" * 50]


def test_room_is_made_when_a_message_expires() -> None:
    relay, _, bobby, _ = full_relay(message_ttl=10)
    wire = post(relay, b"y" * 200)
    relay.pass_time(9)
    assert wire.take() == b""
    relay.pass_time(3)
    assert wire.response().text == "ok"
    assert len(announced(bobby)) == 1


def test_room_is_made_when_a_recipient_leaves() -> None:
    relay, _, bobby, _ = full_relay()
    carol = relay.join("carol")
    bobby.leave()
    carol.received()
    wire = post(relay, b"y" * 200)
    relay.pass_time(2)
    assert wire.response().text == "ok"
    assert len(announced(carol)) == 1


def test_room_is_made_when_a_recipient_leaves_while_a_post_waits() -> None:
    relay, _, bobby, _ = full_relay()
    carol = relay.join("carol")
    wire = post(relay, b"y" * 200)
    assert wire.take() == b""
    bobby.leave()
    carol.received()
    relay.pass_time(2)
    assert wire.response().text == "ok"
    assert len(announced(carol)) == 1


def test_a_message_for_several_makes_room_when_all_have_it() -> None:
    relay = MemoryRelay(max_payload=10, max_stored=1000)
    relay.join_all("alice", "bobby", "carol")
    bobby, carol = relay.join_all("bobby", "carol")
    relay.post(SEND, "x" * 900)
    ((first,), _) = announced(bobby), announced(carol)
    wire = post(relay, b"y" * 200)
    assert download(relay, first) == "x" * 900
    assert wire.take() == b""
    assert relay.get(f"/{DATABASE}/receive?id=carol&msg={first}").status == 200
    assert wire.response().text == "ok"


def test_a_message_of_any_legal_size_goes_where_there_is_nothing_else() -> None:
    relay = MemoryRelay(max_payload=10, max_message=1000, max_stored=1)
    _, bobby = relay.join_all("alice", "bobby")
    for _ in range(3):
        assert relay.post(SEND, "x" * 1000).status == 200
        (message_id,) = announced(bobby)
        waiting = post(relay, b"y" * 11)
        assert waiting.take() == b""
        download(relay, message_id)
        (message_id,) = announced(bobby)
        assert download(relay, message_id) == "y" * 11


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_coming_in_takes_its_room(chunked: bool) -> None:
    relay = MemoryRelay(max_payload=10, max_stored=1000)
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    if chunked:
        wire.send(http_head("POST", SEND, transfer_encoding="chunked"), chunk(b"x" * 900))
        end = chunk(b"")
    else:
        wire.send(http_head("POST", SEND, content_length="900") + b"x")
        end = b"x" * 899
    waiting = post(relay, b"y" * 200)
    assert waiting.take() == b""
    wire.send(end)
    assert wire.response().text == "ok"
    assert waiting.take() == b""
    (first,) = announced(bobby)
    download(relay, first)
    assert waiting.response().text == "ok"


def test_a_chunked_body_of_any_legal_size_goes_where_there_is_nothing_else() -> None:
    relay = MemoryRelay(max_payload=10, max_message=1000, max_stored=1)
    _, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(http_head("POST", SEND, transfer_encoding="chunked"), *[chunk(b"x" * 100)] * 10)
    wire.send(chunk(b""))
    assert wire.response().text == "ok"
    assert download(relay, announced(bobby)[0]) == "x" * 1000


@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_room_of_a_body_that_is_cut_off_is_free_again(end: str) -> None:
    relay = MemoryRelay(max_payload=10, max_stored=1000)
    _, bobby = relay.join_all("alice", "bobby")
    for _ in range(3):
        wire = relay.connect()
        wire.send(http_head("POST", SEND, content_length="900") + b"x" * 500)
        waiting = post(relay, b"y" * 200)
        assert waiting.take() == b""
        getattr(wire, end)()
        assert waiting.response().text == "ok"
        (message_id,) = announced(bobby)
        download(relay, message_id)
    assert relay.post(SEND, "x" * 1000).status == 200


@pytest.mark.parametrize("refused", ["to:;" + "x" * 500, "x" * 500 + "\udcff"])
def test_the_room_of_a_message_that_is_refused_is_free_again(refused: str) -> None:
    relay = MemoryRelay(max_payload=10, max_stored=1000)
    relay.join_all("alice", "bobby")
    for _ in range(5):
        assert relay.post(SEND, refused.encode(errors="surrogateescape")).status == 400
    assert relay.post(SEND, "x" * 1000).status == 200


def test_a_sender_that_leaves_while_it_waits_is_refused() -> None:
    relay, alice, bobby, first = full_relay()
    wire = post(relay, b"y" * 200)
    alice.leave()
    bobby.received()
    download(relay, first)
    assert wire.response().status == 401
    assert bobby.received() == []


def test_a_client_may_send_its_next_request_while_it_waits() -> None:
    relay, _, bobby, first = full_relay()
    wire = relay.connect()
    wire.send(http_request("POST", SEND, b"y" * 200) + http_request("POST", SEND, b"next"))
    assert wire.take() == b""
    download(relay, first)
    assert [each.text for each in wire.responses()] == ["ok", "ok"]
    second, small = bobby.received()
    assert second.startswith("get:")
    assert small == "msg:next"


# Many at once


class Upload:
    """A body that notes what becomes of it."""

    reserved = 0
    wanted = 0
    stores = False

    def __init__(self, done: list[str]) -> None:
        self._done = done

    def pause(self) -> None:
        self._done.append("paused")

    def resume(self) -> None:
        self._done.append("resumed")

    def expire(self, refusal: RequestRefused) -> None:
        self._done.append("expired")


class CountingStore(MessageStore):
    """Counts how often it is asked for room."""

    asked = 0

    def make_room(self, limit: int) -> None:
        self.asked += 1
        super().make_room(limit)


class Uploads:
    """An UploadAdmission in whose store there is no room, and *count* paused uploads."""

    def __init__(self, count: int) -> None:
        self.clock = MemoryReactor()
        self.store = CountingStore(60)
        self.blocker = self.store.put("db", b"x" * 1000, [b"reader"], 0)
        self.done: list[str] = []
        relay: Any = None
        limits = Limits(max_stored=1000)
        self.admission = UploadAdmission(relay, self.store, limits, self.clock, self.clock.seconds)
        self.uploads = [Upload(self.done) for _ in range(count)]
        for each in self.uploads:
            self.admission.store(each)
            self.admission.reserve(each, 1)
        assert self.done == ["paused"] * count
        self.done.clear()
        self.store.asked = 0


@pytest.mark.parametrize("count", [1000, 5000])
def test_paused_uploads_that_end_together_cost_the_same_each(count: int) -> None:
    crowd = Uploads(count)
    for each in crowd.uploads[: count // 2]:
        crowd.admission.release(each)
    crowd.clock.advance(STORE_TIMEOUT)
    crowd.admission.expire(crowd.clock.seconds())
    for each in crowd.uploads[count // 2 :]:
        crowd.admission.release(each)
    crowd.clock.advance(0)
    assert crowd.done == ["expired"] * (count // 2)
    assert crowd.store.asked <= 2
    assert crowd.admission.reserved == 0


@pytest.mark.parametrize("count", [1000, 5000])
def test_paused_uploads_are_resumed_later_and_at_the_same_cost_each(count: int) -> None:
    crowd = Uploads(count)
    crowd.store.forget("db", b"reader")
    crowd.admission.retry()
    crowd.admission.retry()
    assert crowd.done == []  # not from within a call
    crowd.clock.advance(0)
    assert crowd.done == ["resumed"] * 1000  # for which there is room
    assert crowd.store.asked <= 1001
    for each in crowd.uploads[:1000]:
        crowd.admission.release(each)
        crowd.admission.release(each)
    crowd.clock.advance(0)
    assert len(crowd.done) == min(count, 2000)


def test_a_burst_of_complete_posts_is_relayed_when_there_is_room() -> None:
    """More of them than there may be calls within each other."""
    relay = MemoryRelay(max_payload=10, max_stored=100_000)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(SEND, "x" * 100_000)
    (first,) = announced(bobby)
    count = sys.getrecursionlimit() // 3
    wires = [post(relay, b"to:bobby;%011d" % each) for each in range(count)]
    assert {each.take() for each in wires} == {b""}
    assert download(relay, first) == "x" * 100_000
    assert {each.response().text for each in wires} == {"ok"}
    assert len(announced(bobby)) == count
