"""WebSockets that go on in another relay: what was received and written in part."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from acebase_ipc.testing import Opcode, client_frame
from acebase_ipc.websocket.handing_over import ConnectionState
from tests.handing_over import Successors

LONG = "é" * 64


@pytest.fixture
def successors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Successors]:
    """A relay in memory, and those that take over from it."""
    relays = Successors(monkeypatch)
    yield relays
    relays.close()


STREAMS = {
    "texts": client_frame(b"one") + client_frame(b"two") + client_frame(b"three"),
    "a long text": client_frame(LONG.encode()) + client_frame(b"next"),
    "fragments": (
        client_frame(b"hel", final=False)
        + client_frame("lö".encode()[:2], Opcode.CONTINUATION, final=False)
        + client_frame(b"", Opcode.CONTINUATION, final=False)
        + client_frame("lö".encode()[2:], Opcode.CONTINUATION)
        + client_frame(b"next")
    ),
    "a binary message": (
        client_frame(b"", Opcode.BINARY, final=False)
        + client_frame(b"\xff\xfe", Opcode.CONTINUATION)
        + client_frame(b"", final=False)
        + client_frame(b"next", Opcode.CONTINUATION)
    ),
    "pings": (
        client_frame(b"one", Opcode.PING)
        + client_frame(b"begin ", final=False)
        + client_frame(b"two", Opcode.PING)
        + client_frame(b"end", Opcode.CONTINUATION)
        + client_frame(b"three", Opcode.PING)
        + client_frame(b"next")
    ),
}
EXPECTED = {
    "texts": ["msg:one", "msg:two", "msg:three"],
    "a long text": [f"msg:{LONG}", "msg:next"],
    "fragments": ["msg:hellö", "msg:next"],
    "a binary message": ["msg:next"],
    "pings": ["msg:begin end", "msg:next"],
}
PONGS = {"pings": [b"one", b"two", b"three"]}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_can_be_handed_over_at_every_byte(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stream = STREAMS[kind]
    successors = Successors(monkeypatch)
    sender, receiver = successors.relay.join_all("sender", "receiver")
    for cut in range(len(stream) + 1):
        sender.connection.send(stream[:cut])
        successors.hand_over()
        sender.connection.send(stream[cut:])
        assert receiver.received() == EXPECTED[kind], cut
        pongs = [each.payload for each in sender.frames() if each.opcode == Opcode.PONG]
        assert pongs == PONGS.get(kind, []), cut
    successors.close()


def test_messages_that_wait_for_their_turn_are_handed_over(successors: Successors) -> None:
    sender, receiver = successors.relay.join_all("sender", "receiver")
    sender.connection.send(
        b"".join(client_frame(b"%d" % each) for each in range(500)), settle=False
    )
    successors.relay.turn()  # a slice of them is relayed

    taken = successors.hand_over()

    assert any(taken.content["websockets"][ConnectionState._fields.index("received")])
    assert receiver.received() == [f"msg:{each}" for each in range(500)]


def test_bytes_that_the_system_does_not_take_are_written_by_the_successor(
    successors: Successors,
) -> None:
    sender, receiver = successors.relay.join_all("sender", "receiver")
    receiver.stop_reading(10)
    sender.say("first", "second", "third")
    successors.hand_over()
    sender.say("fourth")
    assert receiver.received() == []

    receiver.resume_reading()

    assert receiver.received() == ["msg:first", "msg:second", "msg:third", "msg:fourth"]


def test_a_large_frame_that_many_receive_is_handed_over_once(successors: Successors) -> None:
    large = "x" * (300 << 10)
    (sender,) = successors.relay.join_all("sender", query="&dialect=acebase")
    names = ["receiver1", "receiver2", "receiver3"]
    receivers = successors.relay.join_all(*names, query="&dialect=acebase")
    for each in receivers:
        each.stop_reading(1000)
    body = '{"type":"event","from":"sender","data":"' + large + '"}'
    sender.post(body)
    sender.say('{"type":"notification","from":"sender"}')

    taken = successors.hand_over()

    assert len(taken.content["frames"]) == 1
    for each in receivers:
        each.resume_reading()
        assert each.received() == [body, '{"type":"notification","from":"sender"}']


def test_the_order_of_what_is_written_and_what_waits_is_kept(successors: Successors) -> None:
    sender, receiver = successors.relay.join_all("sender", "receiver")
    receiver.stop_reading(100)
    texts = [f"{each} " + "x" * 1000 for each in range(300)]
    sender.say(*texts[:200])
    successors.hand_over()
    sender.say(*texts[200:])
    successors.hand_over()

    receiver.resume_reading()

    assert receiver.received() == [f"msg:{each}" for each in texts]


def test_a_ping_that_was_not_answered_yet_is_answered(successors: Successors) -> None:
    sender, receiver = successors.relay.join_all("sender", "receiver")
    receiver.stop_reading(0)
    sender.say("x" * 10_000, *["y" * 10_000] * 8)
    receiver.send(b"still here?", Opcode.PING)
    successors.hand_over()
    assert receiver.frames() == []

    receiver.resume_reading()

    assert [each.payload for each in receiver.frames() if each.opcode == Opcode.PONG] == [
        b"still here?"
    ]


def test_a_silent_peer_is_pinged_when_it_would_have_been(successors: Successors) -> None:
    (peer,) = successors.relay.join_all("silent")
    successors.relay.pass_time(20)
    assert not peer.frames()
    successors.hand_over()

    successors.relay.pass_time(6)

    assert [each.opcode for each in peer.frames()] == [Opcode.PING]


def test_a_dead_peer_is_found_when_it_would_have_been(successors: Successors) -> None:
    (peer,) = successors.relay.join_all("silent")
    peer.answers = False
    successors.relay.pass_time(20)
    successors.hand_over()
    successors.relay.pass_time(10)
    assert peer.connection.ended is None
    successors.hand_over()

    successors.relay.pass_time(6)

    assert peer.connection.ended is not None


def test_an_answer_to_a_ping_is_measured_over_a_hand_over(successors: Successors) -> None:
    (peer,) = successors.relay.join_all("silent")
    peer.answers = False
    successors.relay.pass_time(26)
    (ping,) = peer.frames()
    successors.hand_over()
    successors.relay.pass_time(1)

    peer.send(ping.payload, Opcode.PONG)

    (connection,) = successors.relay.server._parts.connections.factory.connections
    assert connection.lag is not None
    assert 1.0 <= connection.lag < 3.0


def test_a_peer_is_not_welcomed_again_and_nobody_is_told(successors: Successors) -> None:
    first, second = successors.relay.join_all("first", "second")
    acebase = successors.relay.join_acebase("third")
    for each in (first, second, acebase):
        each.received()

    successors.hand_over()

    for each in (first, second, acebase):
        assert each.frames() == []


def test_connections_count_for_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    successors = Successors(monkeypatch, max_address_connections=2)
    successors.relay.join_all("first", "second")
    successors.hand_over()
    assert successors.relay.get("/shop_data/clients").status == 503
    successors.close()


def test_the_handshake_of_a_connection_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is revoked after a hand-over closes the connections that have presented it."""
    successors = Successors(monkeypatch, token="secret")
    peer = successors.relay.join("first", token="secret")
    successors.hand_over()
    parts = successors.relay.server._parts
    parts.connections.check_access(lambda database, tokens: f"{database} {[*tokens]}")
    successors.relay.settle()
    assert peer.close_reason == "shop_data ['secret']"
    successors.close()


def test_the_system_is_told_of_another_keepalive(successors: Successors) -> None:
    option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    (peer,) = successors.relay.join_all("first")
    assert peer.connection.options[option] == 35_000
    successors.options["keepalive_interval"] = 5
    successors.hand_over()
    assert peer.connection.options[option] == 15_000
