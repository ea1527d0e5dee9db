"""What peers say and hear, in bytes: protocol sections 1 to 3, 5, and back pressure."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest

from acebase_ipc.relay.router import Router
from acebase_ipc.relay.sessions import Sessions
from acebase_ipc.testing import (
    DATABASE,
    Frame,
    MemoryConnection,
    MemoryPeer,
    MemoryRelay,
    Opcode,
    client_frame,
    close_payload,
    upgrade_request,
)
from acebase_ipc.testing.http import ACCEPT

pytestmark = pytest.mark.usefixtures("use_private")

CONNECT = f"/{DATABASE}/connect?id=alice&v=1.0.0"
ENVELOPE = '{"type":"event","from":"alice","data":1}'


def acebase_relay(**config: Any) -> MemoryRelay:
    """A relay that does nothing for acebase peers but render messages their way."""
    return MemoryRelay(introductions=False, session_timeout=0, **config)


# The handshake


def test_the_welcome_comes_first_and_in_one_write_with_the_101() -> None:
    wire = MemoryRelay(max_payload=1234).upgrade(CONNECT)
    head, _, rest = wire.writes[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert f"Sec-WebSocket-Accept: {ACCEPT}".encode() in head.split(b"\r\n")
    assert rest == b'\x81\x1bwelcome:{"maxPayload":1234}'


def test_the_welcome_comes_before_what_others_say_at_the_same_time() -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice")
    bobby = relay.connect()
    bobby.send(upgrade_request(f"/{DATABASE}/connect?id=bobby&v=1.0.0&t="), settle=False)
    alice.say("hello")  # and the server has both to read in this turn
    heard = MemoryPeer("bobby", bobby).received()
    assert heard[0].startswith("welcome:")
    assert heard[1:] in ([], ["msg:hello"])


def test_a_handshake_may_come_byte_by_byte() -> None:
    relay = MemoryRelay()
    wire = relay.connect()
    wire.send(*(bytes([each]) for each in upgrade_request(CONNECT)))
    assert MemoryPeer("alice", wire).received() == ['welcome:{"maxPayload":16384}']


def test_others_of_the_same_database_hear_who_came() -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice")
    (other,) = relay.join_all("other", database="other_data")
    bobby = relay.join("bobby")
    assert alice.received() == ["connect:bobby"]
    assert bobby.received() == other.received() == []


@pytest.mark.parametrize(
    "header",
    [
        {"sec_websocket_key": ""},
        {"sec_websocket_key": "short"},
        {"sec_websocket_version": ""},
        {"sec_websocket_version": "12"},
        {"connection": "close"},
    ],
    ids=lambda header: "-".join(next(iter(header.items()))),
)
def test_a_malformed_handshake_is_refused_with_one_line(header: dict[str, str]) -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice")
    wire = relay.upgrade(f"/{DATABASE}/connect?id=bobby&v=1.0.0", **header)
    response = wire.response()
    assert response.status == HTTPStatus.BAD_REQUEST
    assert response.text
    assert "\n" not in response.text.strip()
    assert wire.ended is not None
    assert alice.received() == []


def test_a_version_of_websocket_that_is_not_ours_is_told_which_is() -> None:
    wire = MemoryRelay().upgrade(CONNECT, sec_websocket_version="8")
    assert wire.response().headers["sec-websocket-version"] == "13"


def test_no_compression_is_agreed_on() -> None:
    wire = MemoryRelay().upgrade(CONNECT, sec_websocket_extensions="permessage-deflate")
    assert b"extensions" not in wire.take().lower()


def test_a_second_connection_of_an_id_replaces_the_first() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    again = relay.join("alice")
    assert (alice.close_code, alice.close_reason) == (4001, "replaced")
    assert alice.connection.ended is not None
    assert bobby.received() == ["disconnect:alice", "connect:alice"]
    bobby.say("to:alice;hello")
    assert again.received() == ["msg:hello"]
    assert [each.id for each in relay.server.get_clients(DATABASE)] == ["bobby", "alice"]


def test_what_a_replaced_connection_still_says_is_not_relayed() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    alice.answers = False
    relay.join("alice")
    bobby.received()
    alice.say("to:bobby;from the grave")
    assert bobby.received() == []
    alice.connection.close()
    assert bobby.received() == []


def test_the_same_id_in_another_database_is_another_peer() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    relay.join("alice", database="other_data")
    assert alice.close_code is None
    assert bobby.received() == []


# Messages a peer sends


def test_ping_is_answered_pong_and_not_relayed() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.say("ping")
    assert alice.received() == ["pong"]
    assert bobby.received() == []


@pytest.mark.parametrize(
    ("message", "bodies"),
    [
        ("hello", {"bobby": "hello", "carol": "hello"}),
        ("", {"bobby": "", "carol": ""}),
        ("ping ", {"bobby": "ping ", "carol": "ping "}),
        ("to", {"bobby": "to", "carol": "to"}),
        ("TO:bobby;x", {"bobby": "TO:bobby;x", "carol": "TO:bobby;x"}),
        ("disconnect:bobby", {"bobby": "disconnect:bobby", "carol": "disconnect:bobby"}),
        ("to:all;hello", {"bobby": "hello", "carol": "hello"}),
        ("to:bobby;hello", {"bobby": "hello"}),
        ("to:bobby;", {"bobby": ""}),
        ("to:bobby;a;b", {"bobby": "a;b"}),
        ("to:bobby;to:carol;x", {"bobby": "to:carol;x"}),
        ("to:bobby;ping", {"bobby": "ping"}),
        ("to:bobby;grüße 漢字 🎉", {"bobby": "grüße 漢字 🎉"}),
        ("to:bobby;\n\0", {"bobby": "\n\0"}),
        ("to:alice;to myself", {"alice": "to myself"}),
        ("to:nobody;hello", {}),
        ("to:bob;hello", {}),
        ("to: bobby;hello", {}),
        ("to:other;hello", {}),
    ],
)
def test_who_receives_what(message: str, bodies: dict[str, str]) -> None:
    relay = MemoryRelay()
    peers = relay.join_all("alice", "bobby", "carol")
    (other,) = relay.join_all("other", database="other_data")
    peers[0].say(message)
    heard = {each.id: each.received() for each in (*peers, other)}
    assert heard == {
        each.id: [f"msg:{bodies[each.id]}"] if each.id in bodies else [] for each in (*peers, other)
    }
    assert peers[0].close_code is None


@pytest.mark.parametrize("message", ["to:", "to:bobby", "to:;", "to:;hello", "to:bobby:hello"])
def test_a_malformed_address_closes_with_1008_and_delivers_nothing(message: str) -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    alice.say("before", message, "behind")
    assert alice.close_code == 1008
    assert "to:" in alice.close_reason
    assert alice.connection.ended is not None
    assert bobby.received() == ["msg:before", "disconnect:alice"]


def test_a_peer_may_have_an_id_that_is_not_ascii() -> None:
    relay = MemoryRelay()
    alice = relay.join("alice")
    relay.join("%C3%A9l%C3%A8ve")
    assert alice.received() == ["connect:élève"]
    elev = relay.join("%C3%A9l%C3%A8ve")
    alice.say("to:élève;bonjour")
    assert elev.received() == ["msg:bonjour"]


@pytest.mark.parametrize("payload", [b"", b"to:bobby;x", b"ping", bytes(5000)])
def test_binary_messages_are_ignored(payload: bytes) -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.send(payload, Opcode.BINARY)
    alice.say("still here")
    assert bobby.received() == ["msg:still here"]
    assert alice.frames() == []


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"to:bobby;\xc3",
        b"to:\xc3\xff;x",
        b"\xed\xa0\x80",  # a lone surrogate
        b"\xc0\x80",  # a longer form than necessary
        b"\xf4\x90\x80\x80",  # above U+10FFFF
        b"x" * 2000 + b"\xff",
        b"\xffx" * 4000,
    ],
)
def test_invalid_utf8_closes_with_1007(payload: bytes) -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.send(payload, Opcode.TEXT)
    assert alice.close_code == 1007
    assert bobby.received() == ["disconnect:alice"]


def test_invalid_utf8_is_recognised_across_fragments() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.send(b"to:bobby;\xc3", Opcode.TEXT, final=False)
    alice.send(b"x", Opcode.CONTINUATION)
    assert alice.close_code == 1007
    assert bobby.received() == ["disconnect:alice"]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (client_frame(b"", 3), 1002),  # a reserved opcode
        (client_frame(b"x", Opcode.CONTINUATION), 1002),  # continues nothing
        (b"\xc1" + client_frame(b"x")[1:], 1002),  # a reserved bit
        (client_frame(b"", Opcode.PING, final=False), 1002),  # a fragmented ping
        (client_frame(b"x" * 126, Opcode.PING), 1002),  # a long ping
    ],
)
def test_violations_of_rfc_6455_close_the_connection(frame: bytes, code: int) -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.connection.send(client_frame(b"before") + frame + client_frame(b"behind"))
    assert alice.close_code == code
    assert bobby.received() == ["msg:before", "disconnect:alice"]


@pytest.mark.parametrize(
    "payload",
    [
        b"\x03",  # half a code
        close_payload(1005),  # not for the wire
        close_payload(999),
        close_payload(1000) + b"\xff",  # a reason that is not UTF-8
    ],
)
def test_an_invalid_close_frame_ends_the_connection(payload: bytes) -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.connection.send(client_frame(b"before") + client_frame(payload, Opcode.CLOSE))
    assert alice.connection.ended == "closed"
    assert alice.close_code in (1002, 1007)
    assert bobby.received() == ["msg:before", "disconnect:alice"]


# However it is cut to pieces


@pytest.mark.parametrize("size", [0, 1, 125, 126, 1000, 1100, 65535, 65536, 70_000])
def test_a_message_of_any_length_arrives_whole(size: int) -> None:
    alice, bobby = MemoryRelay(max_payload=100_000).join_all("alice", "bobby")
    alice.say("x" * size, "behind")
    assert bobby.received() == ["msg:" + "x" * size, "msg:behind"]


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 13, 100])
def test_frames_may_be_cut_anywhere(piece: int) -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    messages = ["first", "漢字 🎉" * 10, "", "x" * 300, "last"]
    data = b"".join(client_frame(each.encode()) for each in messages)
    alice.connection.send(*(data[i : i + piece] for i in range(0, len(data), piece)))
    assert bobby.received() == [f"msg:{each}" for each in messages]


@pytest.mark.parametrize("cut", [1, 2, 4, 6, 13, 14, 15, 1000, 19_999])
def test_a_long_frame_may_be_cut_anywhere(cut: int) -> None:
    alice, bobby = MemoryRelay(max_payload=20_000).join_all("alice", "bobby")
    data = client_frame(b"y" * 20_000)
    alice.connection.send(data[:cut], data[cut:] + client_frame(b"behind"))
    assert bobby.received() == ["msg:" + "y" * 20_000, "msg:behind"]


def test_messages_may_be_fragmented() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    whole = "to:bobby;漢字🎉".encode()
    alice.say("before")
    alice.send(whole[:1], Opcode.TEXT, final=False)
    alice.send(b"", Opcode.CONTINUATION, final=False)
    alice.send(whole[1:14], Opcode.CONTINUATION, final=False)  # which ends amidst a character
    assert bobby.received() == ["msg:before"]
    alice.send(whole[14:], Opcode.CONTINUATION)
    alice.say("behind")
    assert bobby.received() == ["msg:漢字🎉", "msg:behind"]


def test_a_ping_amidst_fragments_is_answered_at_once() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.send(b"to:bobby;", Opcode.TEXT, final=False)
    alice.send(b"now", Opcode.PING)
    assert alice.frames() == [Frame(Opcode.PONG, b"now")]
    alice.send(b"late", Opcode.CONTINUATION)
    assert bobby.received() == ["msg:late"]


def test_a_message_in_pieces_that_never_ends_is_not_relayed() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.send(b"begun", Opcode.TEXT, final=False)
    alice.connection.send(client_frame(b"more", Opcode.CONTINUATION)[:-1])
    alice.connection.close()
    assert bobby.received() == ["disconnect:alice"]


# Sizes


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("x" * 100, id="ascii"),
        pytest.param("漢" * 100, id="cjk"),  # 300 bytes
        pytest.param("🎉" * 50, id="emoji"),  # 200 bytes
        pytest.param("é" * 100, id="latin"),  # 200 bytes
        pytest.param("漢" * 98 + "🎉", id="cjk and emoji"),
        pytest.param("to:bobby;" + "x" * 91, id="addressed"),
    ],
)
@pytest.mark.parametrize("fragments", [1, 3])
def test_max_payload_counts_utf16_units_prefix_included(body: str, fragments: int) -> None:
    fits, exceeds = MemoryRelay(max_payload=100).join_all("alice", "bobby"), body + "x"
    alice, bobby = fits
    _say_in(alice, body, fragments)
    assert alice.close_code is None
    assert bobby.received() == ["msg:" + body.removeprefix("to:bobby;")]
    _say_in(alice, exceeds, fragments)
    assert alice.close_code == 1009
    assert bobby.received() == ["disconnect:alice"]


def _say_in(peer: MemoryPeer, message: str, fragments: int) -> None:
    data = message.encode()
    size = -(-len(data) // fragments)
    for i in range(fragments):
        last = i == fragments - 1
        piece = data[i * size :] if last else data[i * size : (i + 1) * size]
        peer.send(piece, Opcode.CONTINUATION if i else Opcode.TEXT, final=last)


@pytest.mark.parametrize("length", [301, 1 << 20, 1 << 40])
def test_a_frame_that_announces_too_much_closes_with_1009_at_once(length: int) -> None:
    alice, bobby = MemoryRelay(max_payload=100).join_all("alice", "bobby")
    if length < 1 << 16:
        head = b"\x81\xfe" + length.to_bytes(2, "big")
    else:
        head = b"\x81\xff" + length.to_bytes(8, "big")
    alice.connection.send(client_frame(b"before") + head + b"mask")
    assert alice.close_code == 1009
    assert bobby.received() == ["msg:before", "disconnect:alice"]


def test_fragments_that_add_up_to_too_much_close_with_1009_at_once() -> None:
    alice, bobby = MemoryRelay(max_payload=100).join_all("alice", "bobby")
    alice.send(b"x" * 200, Opcode.TEXT, final=False)
    alice.send(b"x" * 200, Opcode.CONTINUATION, final=False)
    assert alice.close_code == 1009
    assert bobby.received() == ["disconnect:alice"]


def test_ten_thousand_cjk_characters_pass_with_the_default() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.say("漢" * 10_000)
    assert bobby.received() == ["msg:" + "漢" * 10_000]


def test_what_is_relayed_to_a_peer_may_exceed_max_payload_by_its_prefix() -> None:
    alice, bobby = MemoryRelay(max_payload=100).join_all("alice", "bobby")
    alice.say("x" * 100)
    assert bobby.received() == ["msg:" + "x" * 100]


# Messages a peer receives, by dialect


@pytest.mark.parametrize(
    ("body", "documented", "acebase"),
    [
        ("hello", "msg:hello", "msg:hello"),
        ('{"a":1}', 'msg:{"a":1}', '{"a":1}'),
        ("{", "msg:{", "{"),
        ("disconnect:x", "msg:disconnect:x", "msg:disconnect:x"),
        ("pong", "msg:pong", "msg:pong"),
        (' {"a":1}', 'msg: {"a":1}', 'msg: {"a":1}'),
    ],
)
@pytest.mark.parametrize("prefix", ["", "to:bobby;", "to:carol;"])
def test_bodies_are_rendered_in_the_receivers_dialect(
    body: str, documented: str, acebase: str, prefix: str
) -> None:
    relay = acebase_relay()
    alice, bobby = relay.join_all("alice", "bobby")
    carol = relay.join("carol", query="&dialect=acebase")
    for each in (alice, bobby):
        each.received()
    alice.say(prefix + body)
    assert bobby.received() == ([] if prefix == "to:carol;" else [documented])
    assert carol.received() == ([] if prefix == "to:bobby;" else [acebase])


def test_an_acebase_peer_is_known_by_its_handshake() -> None:
    relay = acebase_relay()
    target = f"/{DATABASE}/connect?v=1.0.0&id=abcdefghijklmnopqrstuvwx&t=undefined"
    worker = MemoryPeer("abcdefghijklmnopqrstuvwx", relay.upgrade(target))
    (alice,) = relay.join_all("alice")
    worker.received()
    alice.say('{"a":1}')
    assert worker.received() == ['{"a":1}']


def test_an_acebase_peer_is_known_from_its_first_envelope_on() -> None:
    relay = acebase_relay()
    alice, bobby = relay.join_all("alice", "bobby")
    bobby.say('{"a":1}')
    alice.say("to:alice;" + ENVELOPE)
    bobby.say('{"a":2}')
    assert alice.received() == ['msg:{"a":1}', ENVELOPE, '{"a":2}']
    assert bobby.received() == []


def test_the_dialect_of_the_query_outdoes_an_envelope() -> None:
    relay = acebase_relay()
    (alice,) = relay.join_all("alice", query="&dialect=documented")
    alice.say("to:alice;" + ENVELOPE)
    assert alice.received() == ["msg:" + ENVELOPE]


# Order


def test_messages_arrive_in_the_order_sent() -> None:
    relay = MemoryRelay()
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    for first in range(0, 300, 3):
        alice.say(f"to:bobby;{first}", f"{first + 1}", f"to:bobby;{first + 2}")
    assert bobby.received() == [f"msg:{each}" for each in range(300)]
    assert carol.received() == [f"msg:{each}" for each in range(1, 300, 3)]


def test_a_pong_comes_after_what_was_sent_before_it() -> None:
    (alice,) = MemoryRelay().join_all("alice")
    alice.connection.send(
        client_frame(b"to:alice;one")
        + client_frame(b"1", Opcode.PING)
        + client_frame(b"to:alice;two")
        + client_frame(b"2", Opcode.PING)
        + client_frame(b"ping")
    )
    assert alice.frames() == [
        Frame.from_text("msg:one"),
        Frame(Opcode.PONG, b"1"),
        Frame.from_text("msg:two"),
        Frame(Opcode.PONG, b"2"),
        Frame.from_text("pong"),
    ]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (client_frame(close_payload(1000, "bye"), Opcode.CLOSE), 1000),
        (client_frame(b"to:"), 1008),
        (client_frame(b"\xff"), 1007),
        (client_frame(b"x" * 101), 1009),
        (client_frame(b"x" * 400), 1009),
        (client_frame(b"", 3), 1002),
    ],
)
def test_a_close_frame_comes_after_what_was_sent_before_it(frame: bytes, code: int) -> None:
    (alice,) = MemoryRelay(max_payload=100).join_all("alice")
    alice.connection.send(client_frame(b"to:alice;one") + client_frame(b"ping") + frame)
    *before, close = alice.frames()
    assert before == [Frame.from_text("msg:one"), Frame.from_text("pong")]
    assert (close.opcode, close.close_code) == (Opcode.CLOSE, code)


def test_frames_of_one_turn_leave_in_one_write() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    writes = len(bobby.connection.writes)
    alice.say(*(f"to:bobby;{each}" for each in range(100)))
    assert len(bobby.received()) == 100
    assert len(bobby.connection.writes) == writes + 1


# Leaving

ENDS: dict[str, Callable[[MemoryPeer], object]] = {
    "clean": lambda peer: peer.leave(),
    "going away": lambda peer: peer.leave(1001),
    "without a close frame": lambda peer: peer.connection.close(),
    "reset": lambda peer: peer.connection.reset(),
    "violation": lambda peer: peer.send(b"", 3),
    "refused message": lambda peer: peer.say("to:"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_others_hear_exactly_once_that_a_peer_went(end: Callable[[MemoryPeer], object]) -> None:
    relay = MemoryRelay()
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    (other,) = relay.join_all("other", database="other_data")
    end(alice)
    assert bobby.received() == carol.received() == ["disconnect:alice"]
    relay.pass_time(40)
    assert bobby.received() == carol.received() == other.received() == []
    assert alice.connection.ended is not None
    assert [each.id for each in relay.server.get_clients(DATABASE)] == ["bobby", "carol"]


def test_a_close_frame_is_answered_and_the_connection_closed() -> None:
    (alice,) = MemoryRelay().join_all("alice")
    alice.leave(1000)
    assert [each.opcode for each in alice.frames()] == [Opcode.CLOSE]
    assert alice.close_code == 1000
    assert alice.connection.ended == "closed"


def test_what_comes_behind_a_close_frame_is_not_relayed() -> None:
    alice, bobby = MemoryRelay().join_all("alice", "bobby")
    alice.connection.send(client_frame(close_payload(1000), Opcode.CLOSE) + client_frame(b"behind"))
    assert bobby.received() == ["disconnect:alice"]


def test_a_peer_that_does_not_answer_our_close_frame_is_dropped() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    alice.answers = False
    alice.say("to:")
    assert alice.close_code == 1008
    relay.pass_time(5)
    assert alice.connection.ended is not None
    assert bobby.received() == ["disconnect:alice"]


# Keepalive


def test_a_silent_peer_is_pinged_and_stays_if_it_answers() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    bobby.answers = False
    relay.pass_time(24)
    assert alice.frames() == []
    relay.pass_time(2)
    assert [each.opcode for each in alice.frames()] == [Opcode.PING]
    relay.pass_time(9)
    assert alice.received() == ["disconnect:bobby"]
    relay.pass_time(100)
    assert alice.connection.ended is None
    assert [each.opcode for each in alice.frames()] == [Opcode.PING] * 4


def test_a_half_open_connection_is_found_within_35_s() -> None:
    relay = MemoryRelay()
    relay.pass_time(0.7)  # so that the peers do not come when the clock strikes
    alice, bobby = relay.join_all("alice", "bobby")
    alice.answers = False
    relay.pass_time(33)
    assert alice.connection.ended is None
    assert bobby.received() == []
    relay.pass_time(2)
    assert alice.connection.ended == "reset"
    assert bobby.received() == ["disconnect:alice"]


@pytest.mark.parametrize(
    "data",
    [
        client_frame(b"ping"),
        client_frame(b"", Opcode.PONG),
        client_frame(b"x", Opcode.TEXT, final=False),
        client_frame(b"ping")[:1],
        client_frame(b"", Opcode.BINARY),
    ],
)
def test_whatever_comes_from_a_peer_shows_that_it_lives(data: bytes) -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice")
    alice.answers = False
    relay.pass_time(20)
    alice.connection.send(data)
    relay.pass_time(24)
    pings = [each for each in alice.frames() if each.opcode == Opcode.PING]
    assert len(pings) == 1, "only the one that measures how fast a peer that is not silent answers"
    relay.pass_time(2)
    assert Opcode.PING in [each.opcode for each in alice.frames()]
    relay.pass_time(7)
    assert alice.connection.ended is None
    relay.pass_time(2)
    assert alice.connection.ended == "reset"


def test_keepalive_intervals_can_be_set() -> None:
    relay = MemoryRelay(keepalive_interval=5, keepalive_timeout=2)
    (alice,) = relay.join_all("alice")
    alice.answers = False
    relay.pass_time(6)
    assert [each.opcode for each in alice.frames()] == [Opcode.PING]
    relay.pass_time(1.5)
    assert alice.connection.ended == "reset"


# Back pressure

LONG = "x" * 10_000


def _numbered(numbers: range) -> list[str]:
    return [f"{each} {LONG}" for each in numbers]


def test_frames_for_a_full_transport_wait_in_order() -> None:
    relay = MemoryRelay()
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    carol.connection.stop_reading()
    alice.say(*_numbered(range(50)))
    alice.say(*_numbered(range(50, 100)), "to:carol;last")
    heard = [f"msg:{each}" for each in _numbered(range(100))]
    assert bobby.received() == heard  # and nobody waits for carol
    assert carol.received() == []
    carol.connection.resume_reading()
    assert carol.received() == [*heard, "msg:last"]


def test_a_peer_that_reads_slowly_gets_everything_in_order() -> None:
    relay = MemoryRelay()
    alice, carol = relay.join_all("alice", "carol")
    carol.connection.stop_reading()
    heard: list[str] = []
    for number in range(60):
        alice.say(*_numbered(range(number, number + 1)))
        carol.connection.resume_reading(room=7777)
        heard += carol.received()
    carol.connection.resume_reading()
    assert heard + carol.received() == [f"msg:{each}" for each in _numbered(range(60))]


def test_a_slow_peer_is_served_again_like_the_others() -> None:
    relay = MemoryRelay()
    alice, carol = relay.join_all("alice", "carol")
    for _ in range(3):
        carol.connection.stop_reading()
        alice.say(*_numbered(range(20)))
        assert carol.received() == []
        carol.connection.resume_reading()
        assert len(carol.received()) == 20
        alice.say("now")
        assert carol.received() == ["msg:now"]


def test_a_peer_beyond_max_backlog_is_cut_and_nobody_else() -> None:
    relay = MemoryRelay(max_backlog=300_000)
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    carol.connection.stop_reading()
    alice.say(*_numbered(range(25)))
    assert carol.connection.ended is None
    alice.say(*_numbered(range(25, 50)))
    assert carol.connection.ended == "reset"
    heard = bobby.received()
    assert heard.count("disconnect:carol") == 1
    heard.remove("disconnect:carol")
    assert heard == [f"msg:{each}" for each in _numbered(range(50))]
    assert alice.received() == ["disconnect:carol"]
    assert relay.logged("carol")
    assert not relay.logged("xxx")


def test_two_peers_beyond_max_backlog_are_both_cut() -> None:
    relay = MemoryRelay(max_backlog=100_000)
    alice, bobby, carol, david = relay.join_all("alice", "bobby", "carol", "david")
    carol.connection.stop_reading()
    david.connection.stop_reading()
    alice.say(*_numbered(range(30)))
    assert (carol.connection.ended, david.connection.ended) == ("reset", "reset")
    assert sorted(alice.received()) == ["disconnect:carol", "disconnect:david"]
    heard = [each for each in bobby.received() if each.startswith("msg:")]
    assert heard == [f"msg:{each}" for each in _numbered(range(30))]


def test_max_backlog_is_a_peers_own() -> None:
    relay = MemoryRelay(max_backlog=300_000)
    alice, *others = relay.join_all("alice", "bobby", "carol", "david")
    for each in others:
        each.connection.stop_reading()
    alice.say(*_numbered(range(25)))
    for each in others:
        each.connection.resume_reading()
        assert len(each.received()) == 25


@pytest.mark.parametrize("max_backlog", [1, 1000])
def test_a_message_of_any_legal_size_goes_into_an_empty_backlog(max_backlog: int) -> None:
    relay = acebase_relay(max_backlog=max_backlog)
    (alice,) = relay.join_all("alice")
    carol = relay.join("carol", query="&dialect=acebase")
    carol.connection.stop_reading()
    body = "{" + "x" * 2_000_000
    relay.post(f"/{DATABASE}/send?id=alice", body)
    assert carol.connection.ended is None
    carol.connection.resume_reading()
    assert carol.received() == [body]
    alice.say("behind")
    assert carol.received() == ["msg:behind"]


def test_a_peer_that_does_not_read_can_still_speak() -> None:
    relay = MemoryRelay()
    alice, carol = relay.join_all("alice", "carol")
    carol.connection.stop_reading()
    alice.say(*_numbered(range(20)))
    carol.say("to:alice;I can")
    assert alice.received() == ["msg:I can"]


def test_a_pong_waits_behind_the_frames_of_a_full_transport_or_before_them() -> None:
    relay = MemoryRelay()
    alice, carol = relay.join_all("alice", "carol")
    carol.connection.stop_reading()
    alice.say(*_numbered(range(20)))
    carol.send(b"?", Opcode.PING)
    carol.say("ping")
    carol.connection.resume_reading()
    frames = carol.frames()
    assert Frame(Opcode.PONG, b"?") in frames
    heard = [each.payload.decode() for each in frames if each.opcode == Opcode.TEXT]
    assert heard == [*(f"msg:{each}" for each in _numbered(range(20))), "pong"]


def test_a_full_peer_that_leaves_takes_its_backlog_along() -> None:
    relay = MemoryRelay()
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    carol.connection.stop_reading()
    alice.say(*_numbered(range(50)))
    bobby.received()
    carol.connection.reset()
    assert bobby.received() == ["disconnect:carol"]
    again = relay.join("carol")
    assert again.received() == []


# Our own mistakes


def _break(monkeypatch: pytest.MonkeyPatch, kind: type, method: str, when: bytes = b"") -> None:
    """Let a method of the relay fail, if *when* is among what it is given."""
    right = getattr(kind, method)

    def wrong(self: Any, *args: Any) -> Any:
        if not when or when in args:
            raise RuntimeError("a mistake of ours")
        return right(self, *args)

    monkeypatch.setattr(kind, method, wrong)


def test_an_error_of_ours_closes_with_1011_and_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = MemoryRelay(expect_errors=True)
    _break(monkeypatch, Router, "_deliver", b"fatal")
    alice, bobby = relay.join_all("alice", "bobby")
    alice.say("before", "fatal", "behind")
    assert alice.close_code == 1011
    assert "mistake" not in alice.close_reason
    assert alice.connection.ended is not None
    assert any("a mistake of ours" in each for each in relay.errors)
    assert bobby.received() == ["msg:before", "disconnect:alice"]
    assert bobby.connection.ended is None
    bobby.say("to:bobby;I go on")
    assert bobby.received() == ["msg:I go on"]


def test_an_error_in_a_fragmented_message_closes_with_1011(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay = MemoryRelay(expect_errors=True)
    _break(monkeypatch, Router, "_deliver", b"fatal")
    (alice,) = relay.join_all("alice")
    alice.send(b"fa", Opcode.TEXT, final=False)
    alice.send(b"tal", Opcode.CONTINUATION)
    assert alice.close_code == 1011
    assert any("a mistake of ours" in each for each in relay.errors)


@pytest.mark.parametrize("method", ["admit", "welcome"])
def test_an_error_while_joining_closes_with_1011_and_leaves_no_peer(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    relay = MemoryRelay(expect_errors=True)
    (bobby,) = relay.join_all("bobby")
    with monkeypatch.context() as patch:
        _break(patch, Sessions, method)
        peer = MemoryPeer("alice", relay.upgrade(CONNECT))
    assert peer.close_code == 1011
    assert peer.connection.ended is not None
    assert any("a mistake of ours" in each for each in relay.errors)
    assert [each.id for each in relay.server.get_clients(DATABASE)] == ["bobby"]
    bobby.say("hello")
    assert peer.received() == []


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_an_error_while_leaving_is_logged_and_leaves_no_peer(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[MemoryPeer], object]
) -> None:
    relay = MemoryRelay(expect_errors=True)
    alice = relay.join("alice")
    failures = iter([True])
    lost = Sessions.lost

    def fail_once(*args: Any) -> None:
        if next(failures, False):
            raise RuntimeError("a mistake of ours")
        lost(*args)

    monkeypatch.setattr(Sessions, "lost", fail_once)
    end(alice)
    assert alice.connection.ended is not None
    assert any("a mistake of ours" in each for each in relay.errors)
    relay.pass_time(40)
    assert relay.server.get_clients(DATABASE) == ()


def test_no_message_and_no_token_is_logged() -> None:
    relay = MemoryRelay(token="a-secret-token")
    wire: MemoryConnection = relay.upgrade(f"{CONNECT}&t=a-secret-token")
    alice = MemoryPeer("alice", wire)
    alice.say("to:nobody;a-private-message", "to:a-private-address", "a-private-message")
    assert relay.logged("alice")
    assert not relay.logged("a-private")
    assert not relay.logged("a-secret")
