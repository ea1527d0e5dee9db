"""The short ways of texts and frames, and that they change nothing but the speed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from autobahn import websocket
from autobahn.twisted.websocket import WebSocketServerProtocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs, formatEvent

from acebase_ipc.protocol.frames import text_frame
from acebase_ipc.protocol.messages import Message
from acebase_ipc.protocol.native import VARIABLE
from acebase_ipc.testing import LengthForm, Opcode, client_frame, close_frame, ping_frame
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket._autobahn import CLOSE_TIMEOUT
from acebase_ipc.websocket.coalescing import BATCH, BUSY
from acebase_ipc.websocket.fastpath import STATE_OPEN, WebSocketConnection
from tests.wire import (
    ANSWER,
    BIG,
    MemoryTransport,
    Recorder,
    RecorderFactory,
    closed_with,
    connect,
    lose,
)

pytestmark = pytest.mark.usefixtures("code")

A, B, C = (Message(text) for text in (b"a", b"b", b"c"))
ONE, TWO, THREE = (client_frame(text) for text in (b"one", b"two", b"three"))
TEXT, PING, PONG = Opcode.TEXT, Opcode.PING, Opcode.PONG


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def now() -> Clock:
    """The time by which a connection is busy or not; it stands still."""
    clock = Clock()
    clock.advance(100)
    return clock


@pytest.fixture
def factory(clock: Clock, use_private: bool, now: Clock) -> RecorderFactory:
    return RecorderFactory(BIG, clock, now.seconds)


@pytest.fixture
def logged() -> Iterator[Sequence[LogEvent]]:
    with capturedLogs() as events:
        yield events


def lines(events: Sequence[LogEvent], level: LogLevel) -> list[str]:
    """The texts of the events of *level* or above; Autobahn's own are not ours."""
    ours = [each for each in events if each["log_namespace"].startswith("acebase_ipc")]
    return [formatEvent(each) for each in ours if each["log_level"] >= level]


def framed(*messages: Message) -> bytes:
    """The frames of *messages*."""
    return b"".join(text_frame(each.text) for each in messages)


def closing(protocol: Any) -> tuple[int | None, bool]:
    """The code with which we closed, and whether we still wait for the answer."""
    return protocol.localCloseCode, protocol.state == protocol.STATE_CLOSING


# Receiving


def test_whole_texts_do_not_reach_autobahn(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = connect(RecorderFactory(BIG, clock))
    long = b"y" * 70_000
    stream = ONE + TWO + client_frame(long) + THREE
    seen: list[bytes] = []
    monkeypatch.setattr(Recorder, "_dataReceived", lambda self, data: seen.append(data))
    for start in range(0, len(stream), 1000):
        peer.dataReceived(stream[start : start + 1000])
    for byte in stream[:16]:
        peer.dataReceived(bytes((byte,)))
    assert seen == []
    assert peer.heard == ["one", "two", long.decode(), "three", "one"]


STREAM = b"".join(
    [
        ONE,
        client_frame("日本語".encode()),
        client_frame(),
        ping_frame(b"?"),
        client_frame(b"frag", final=False),
        ping_frame(b"between"),
        client_frame("mé".encode()[:2], Opcode.CONTINUATION, final=False),
        client_frame("é".encode()[1:] + b"nt", Opcode.CONTINUATION),
        client_frame(b"\xff\x00", Opcode.BINARY),
        client_frame(b"x" * 126),
        client_frame(b"!", Opcode.PONG),
        client_frame("😀".encode()),
    ]
)
HEARD = ["one", "日本語", "", "fragmént", b"binary", "x" * 126, "😀"]
PONGS = [(PONG, b"?"), (PONG, b"between")]


def test_a_pipelined_stream_cut_once_anywhere(factory: RecorderFactory) -> None:
    for cut in range(len(STREAM) + 1):
        peer = connect(factory)
        peer.dataReceived(STREAM[:cut])
        peer.dataReceived(STREAM[cut:])
        assert peer.heard == HEARD, f"cut at {cut}"
        assert peer.frames == PONGS, f"cut at {cut}"
        assert peer.calls == [("pong", b"!")], f"cut at {cut}"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_a_pipelined_stream_in_small_pieces(factory: RecorderFactory, size: int) -> None:
    peer = connect(factory)
    for start in range(0, len(STREAM), size):
        peer.dataReceived(STREAM[start : start + size])
    assert (peer.heard, peer.frames, peer.state) == (HEARD, PONGS, STATE_OPEN)


def test_a_message_is_heard_as_soon_as_its_last_byte_has_come(factory: RecorderFactory) -> None:
    peer = connect(factory)
    peer.dataReceived(ONE[:-1])
    assert peer.heard == []
    peer.dataReceived(ONE[-1:] + TWO[:3])
    assert peer.heard == ["one"]
    peer.dataReceived(TWO[3:-1])
    assert peer.heard == ["one"]
    peer.dataReceived(TWO[-1:])
    assert peer.heard == ["one", "two"]


@pytest.mark.parametrize("opcode", [PING, Opcode.BINARY])
def test_what_looks_like_a_text_within_a_frame_is_none(
    factory: RecorderFactory, opcode: Opcode
) -> None:
    peer = connect(factory)
    frame = client_frame(ONE, opcode, mask=bytes(4))
    peer.dataReceived(frame[:6])
    peer.dataReceived(frame[6:] + TWO)
    assert peer.heard == (["two"] if opcode is PING else [b"binary", "two"])
    assert peer.frames == ([(PONG, ONE)] if opcode is PING else [])


def test_messages_in_the_same_read_as_the_handshake(factory: RecorderFactory) -> None:
    for cut in range(len(ONE)):
        peer = Recorder(factory)
        peer.open(MemoryTransport(), ANSWER, ONE[:cut])
        peer.dataReceived(ONE[cut:] + TWO)
        assert peer.heard == ["one", "two"], f"cut at {cut}"


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 1023, 1024, 65535, 65536, 65537])
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_sizes_around_the_forms_of_a_length(
    factory: RecorderFactory, length: int, pieces: int
) -> None:
    peer = connect(factory)
    stream = client_frame(b"x" * length) + ONE
    step = len(stream) // pieces + 1
    for start in range(0, len(stream), step):
        peer.dataReceived(stream[start : start + step])
    assert peer.heard == ["x" * length, "one"]


@pytest.mark.parametrize("character", ["x", "語", "😀"])
@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_message_of_the_largest_size_is_heard_and_a_larger_one_closes(
    clock: Clock, use_private: bool, character: str, fragments: int, pieces: int
) -> None:
    text = character * 2000
    data = text.encode()
    for limit, heard in ((len(data), [text]), (len(data) - 1, [])):
        peer = connect(RecorderFactory(limit, clock))
        if fragments == 1:
            stream = client_frame(data)
        else:
            stream = client_frame(data[:-1], final=False)
            stream += client_frame(data[-1:], Opcode.CONTINUATION)
        middle = len(stream) // pieces
        peer.dataReceived(stream[:middle])
        peer.dataReceived(stream[middle:])
        assert peer.heard == heard
        assert closing(peer) == ((None, False) if heard else (1009, True))


def test_a_message_that_would_be_too_large_closes_with_its_header(factory: RecorderFactory) -> None:
    peer = connect(factory)
    header = client_frame(length=BIG + 1)
    peer.dataReceived(header[:-1])
    assert closing(peer) == (None, False)
    peer.dataReceived(header[-1:])
    assert closing(peer) == (1009, True)


VIOLATIONS = {
    "a frame that is not masked": (client_frame(b"hi", mask=None), 1002),
    "an empty frame that is not masked": (client_frame(b"", mask=None), 1002),
    "RSV1": (client_frame(b"hi", rsv=4), 1002),
    "RSV2": (client_frame(b"hi", rsv=2), 1002),
    "RSV3": (client_frame(b"hi", rsv=1), 1002),
    **{f"opcode {n}": (client_frame(b"hi", n), 1002) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "5 bytes in the 16-bit form": (client_frame(b"short", form=LengthForm.BITS_16), 1002),
    "125 bytes in the 16-bit form": (client_frame(b"x" * 125, form=LengthForm.BITS_16), 1002),
    "5 bytes in the 64-bit form": (client_frame(b"short", form=LengthForm.BITS_64), 1002),
    "126 bytes in the 64-bit form": (client_frame(b"x" * 126, form=LengthForm.BITS_64), 1002),
    "65535 bytes in the 64-bit form": (client_frame(b"x" * 65535, form=LengthForm.BITS_64), 1002),
    "a length above 2**63": (client_frame(length=1 << 63, form=LengthForm.BITS_64), 1002),
    "a ping in fragments": (client_frame(b"hi", PING, final=False), 1002),
    "a close frame in fragments": (client_frame(b"\x03\xe8", Opcode.CLOSE, final=False), 1002),
    "a ping of 126 bytes": (ping_frame(b"x" * 126), 1002),
    "a close frame of 126 bytes": (close_frame(1000, b"x" * 124), 1002),
    "a close frame of 1 byte": (client_frame(b"\x03", Opcode.CLOSE), 1002),
    **{
        f"close code {code}": (close_frame(code), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2999, 5000, 65535)
    },
    "a close reason that is not UTF-8": (close_frame(1000, b"\xff"), 1007),
    "a close reason that ends in a character": (close_frame(1000, b"\xe2\x82"), 1007),
    "a continuation of nothing": (client_frame(b"hi", Opcode.CONTINUATION), 1002),
    "the end of nothing": (client_frame(b"", Opcode.CONTINUATION), 1002),
    "a text within a message": (client_frame(b"a", final=False) + ONE, 1002),
    "a binary within a message": (
        client_frame(b"a", final=False) + client_frame(b"b", Opcode.BINARY),
        1002,
    ),
    "a character cut off": (client_frame(b"abc\xe2\x82"), 1007),
    "a character cut off by a text's end": (
        client_frame(b"\xe2", final=False) + client_frame(b"\x82", Opcode.CONTINUATION),
        1007,
    ),
    **{
        f"{bad.hex()} in a text": (client_frame(b"ab" + bad + b"c"), 1007)
        for bad in (
            b"\x80",
            b"\xff",
            b"\xc0\xaf",
            b"\xc3\x28",
            b"\xe0\x80\x80",
            b"\xed\xa0\x80",
            b"\xed\xbf\xbf",
            b"\xf0\x8f\xbf\xbf",
            b"\xf4\x90\x80\x80",
            b"\xf5\x80\x80\x80",
        )
    },
    "invalid UTF-8 in a long text": (client_frame(b"x" * 1500 + b"\xff" + b"x" * 99), 1007),
    "invalid UTF-8 in a second fragment": (
        client_frame("é".encode(), final=False) + client_frame(b"\xe9", Opcode.CONTINUATION),
        1007,
    ),
}


@pytest.mark.parametrize(("bad", "code"), VIOLATIONS.values(), ids=VIOLATIONS)
@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "byte by byte"])
def test_what_breaks_a_rule_closes(
    factory: RecorderFactory, bad: bytes, code: int, bytewise: bool
) -> None:
    peer = connect(factory)
    stream = ONE + TWO + bad + THREE
    if bytewise and len(stream) < 1000:
        for byte in stream:
            peer.dataReceived(bytes((byte,)))
    else:
        peer.dataReceived(stream)
    assert peer.heard == ["one", "two"]
    assert peer.localCloseCode == code
    (opcode, payload), *more = peer.frames
    assert (opcode, payload[:2]) == (Opcode.CLOSE, code.to_bytes(2, "big"))
    assert more == []


def test_a_zero_length_message(factory: RecorderFactory) -> None:
    peer = connect(factory)
    peer.dataReceived(client_frame() + client_frame())
    peer.dataReceived(client_frame())
    assert peer.heard == ["", "", ""]


@pytest.mark.parametrize("data", [ONE, ONE[:1], ONE[:4], ONE[:-1], ping_frame(), b"\x82"])
def test_whatever_comes_is_a_sign_of_life(factory: RecorderFactory, data: bytes) -> None:
    peer = connect(factory)
    factory.ticks = 34
    peer.dataReceived(data)
    assert peer.last_received == 34


# Mistakes of ours


def fail_at(bad: bytes) -> Callable[[bytes], None]:
    """Something that fails with the text *bad*."""

    def fail(text: bytes) -> None:
        if text == bad:
            raise LookupError("a mistake")

    return fail


@pytest.mark.parametrize("cut", [0, 3, len(ONE), len(ONE) + 3, len(ONE + TWO)])
def test_nothing_that_follows_a_message_that_fails_is_relayed(
    factory: RecorderFactory, logged: Sequence[LogEvent], cut: int
) -> None:
    peer, other = connect(factory), connect(factory)
    peer.on_text = fail_at(b"one")
    stream = ONE + TWO + ping_frame(b"?") + THREE
    other.send(A)
    peer.dataReceived(stream[:cut])
    peer.dataReceived(stream[cut:])
    assert peer.heard == ["one"]
    assert peer.frames == [closed_with(1011, b"internal error")]
    assert len(lines(logged, LogLevel.critical)) == 1
    factory.reactor.advance(0)
    assert other.frames == [(TEXT, b"a")]
    assert other.state == STATE_OPEN


def test_the_answer_to_a_close_for_a_failure_ends_the_connection(
    factory: RecorderFactory, logged: Sequence[LogEvent]
) -> None:
    peer = connect(factory)
    peer.on_text = fail_at(b"one")
    peer.dataReceived(ONE + TWO + close_frame(1011))
    assert (peer.transport.aborted, peer.wasClean) == (True, True)
    assert len(lines(logged, LogLevel.critical)) == 1


def test_a_failure_closes_after_what_was_sent(
    factory: RecorderFactory, logged: Sequence[LogEvent]
) -> None:
    peer = connect(factory)

    def answer(text: bytes) -> None:
        peer.send(Message(b"re " + text))
        fail_at(b"two")(text)

    peer.on_text = answer
    peer.dataReceived(ONE + TWO + THREE)
    assert peer.frames == [
        (TEXT, b"re one"),
        (TEXT, b"re two"),
        closed_with(1011, b"internal error"),
    ]
    assert len(lines(logged, LogLevel.critical)) == 1


@pytest.mark.parametrize(
    ("frame", "method"),
    [
        (client_frame(b"?", Opcode.BINARY), "received_binary"),
        (client_frame(b"?", Opcode.PONG), "received_pong"),
        (client_frame(b"?", final=False) + client_frame(b"", Opcode.CONTINUATION), "received"),
    ],
)
def test_a_failure_elsewhere_closes_too(
    factory: RecorderFactory,
    logged: Sequence[LogEvent],
    monkeypatch: pytest.MonkeyPatch,
    frame: bytes,
    method: str,
) -> None:
    peer = connect(factory)

    def fail(*_: object) -> None:
        raise LookupError("a mistake")

    peer.dataReceived(ONE)
    monkeypatch.setattr(Recorder, method, fail)
    peer.dataReceived(frame + TWO)
    assert peer.heard == ["one"]
    assert peer.frames == [closed_with(1011, b"internal error")]
    assert len(lines(logged, LogLevel.critical)) == 1
    assert not factory.coalescer.receiving


def test_a_failure_while_opening_closes(
    factory: RecorderFactory, logged: Sequence[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise LookupError("a mistake")

    monkeypatch.setattr(Recorder, "on_open", staticmethod(fail))
    peer = connect(factory)
    assert peer.localCloseCode == 1011
    assert len(lines(logged, LogLevel.critical)) == 1


@pytest.mark.parametrize("when", ["our close", "the peer's close", "the end"])
def test_a_failure_of_the_listener_at_the_end_is_logged_and_ends_nothing_else(
    factory: RecorderFactory,
    logged: Sequence[LogEvent],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    def fail(self: Recorder, code: int | None) -> None:
        raise LookupError("a mistake")

    peer = connect(factory)
    monkeypatch.setattr(Recorder, "closing", fail)
    if when == "our close":
        peer.close(1001, "")
        assert peer.frames == [closed_with(1001, b"")]
    elif when == "the peer's close":
        peer.dataReceived(close_frame(1000))
        assert peer.frames == [closed_with(1000, b"")]
    lose(peer)
    assert peer not in factory.connections
    assert lines(logged, LogLevel.critical)


# Closing


def test_what_comes_after_our_close_is_not_heard_but_the_answer_is(
    factory: RecorderFactory,
) -> None:
    stream = ONE + TWO + client_frame(b"", Opcode.BINARY) + close_frame(4001) + THREE
    for cut in range(len(stream) + 1):
        peer = connect(factory)
        peer.on_text = lambda text, peer=peer: peer.close(4001, "replaced")
        peer.dataReceived(stream[:cut])
        peer.dataReceived(stream[cut:])
        assert peer.heard == ["one"], f"cut at {cut}"
        assert peer.frames == [closed_with(4001, b"replaced")]
        assert peer.transport.aborted
        lose(peer)
        assert peer.wasClean
        assert [*dict.fromkeys(peer.calls)] == [("closing", None), ("closing", 4001)]
        assert peer.calls[-1] == ("closing", 4001)


def test_a_peer_that_does_not_answer_our_close_is_dropped(
    factory: RecorderFactory, clock: Clock
) -> None:
    peer = connect(factory)
    peer.close(4001, "replaced")
    clock.advance(CLOSE_TIMEOUT - 0.1)
    assert not peer.transport.aborted
    clock.advance(0.1)
    assert peer.transport.aborted


def test_a_second_close_is_ignored(factory: RecorderFactory) -> None:
    peer = connect(factory)
    peer.close(4001, "replaced")
    peer.close(1001, "going away")
    assert peer.frames == [closed_with(4001, b"replaced")]


def test_a_long_reason_is_cut_within_what_a_close_frame_holds(factory: RecorderFactory) -> None:
    peer = connect(factory)
    peer.close(1008, "語" * 50)
    assert peer.frames == [closed_with(1008, "語".encode() * 41)]


@pytest.mark.parametrize("code", [None, 1000, 1001, 3000, 4999])
def test_the_peers_close_is_answered_with_its_code(
    factory: RecorderFactory, code: int | None
) -> None:
    peer = connect(factory)
    peer.dataReceived(close_frame(code) + ONE)
    payload = b"" if code is None else code.to_bytes(2, "big")
    assert peer.frames == [(Opcode.CLOSE, payload)]
    assert peer.transport.disconnecting
    assert peer.heard == []
    assert peer.calls == [("closing", code or 1005)]
    lose(peer)
    assert peer.wasClean
    assert {*peer.calls} == {("closing", code or 1005)}


def test_a_connection_that_breaks_is_not_a_clean_close(factory: RecorderFactory) -> None:
    peer = connect(factory)
    peer.dataReceived(ONE[:4])
    lose(peer)
    assert peer.calls == [("closing", None)]
    assert peer.heard == []


# Sending


def test_the_first_messages_leave_with_the_answer_to_the_handshake(
    factory: RecorderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer: Any = Recorder(factory)
    monkeypatch.setattr(peer, "on_open", lambda: (peer.send(A), peer.send(B)), raising=False)
    peer.open(MemoryTransport(), ANSWER, b"")
    head, _, messages = peer.transport.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert messages == framed(A, B)


def test_what_one_turn_sends_leaves_in_one_write(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    peer.send(A)
    peer.send(B)
    peer.send(C)
    assert peer.transport.writes == []
    assert peer.unsent == len(framed(A, B, C))
    clock.advance(0)
    assert peer.transport.writes == [framed(A, B, C)]
    assert peer.unsent == 0
    assert clock.getDelayedCalls() == []
    peer.send(A)
    clock.advance(0)
    assert peer.transport.writes == [framed(A, B, C), framed(A)]


def test_answers_leave_in_one_write_with_the_end_of_the_data(
    factory: RecorderFactory, clock: Clock
) -> None:
    peer, other = connect(factory), connect(factory)
    peer.on_text = lambda text: (peer.send(Message(text)), other.send(A))
    peer.dataReceived(ONE + TWO)
    assert peer.transport.writes == [text_frame(b"one") + text_frame(b"two")]
    assert other.transport.writes == [framed(A, A)]
    assert clock.getDelayedCalls() == []  # nothing is left to do


def test_the_first_messages_do_not_wait_even_if_all_are_busy(
    factory: RecorderFactory, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "last_flush", now.seconds())
    peer = Recorder(factory)
    monkeypatch.setattr(peer, "on_open", lambda: peer.send(A))
    peer.open(MemoryTransport(), ANSWER, b"")
    assert peer.transport.written.endswith(framed(A))


def test_who_is_busy_waits_for_the_end_of_the_turn(
    factory: RecorderFactory, clock: Clock, now: Clock
) -> None:
    peer, other = connect(factory), connect(factory)
    peer.on_text = lambda text: other.send(Message(text))
    peer.dataReceived(ONE)
    assert len(other.transport.writes) == 1
    now.advance(BUSY * 0.9)
    peer.dataReceived(TWO)
    peer.dataReceived(THREE)
    assert len(other.transport.writes) == 1
    clock.advance(0)
    assert other.transport.writes[1:] == [text_frame(b"two") + text_frame(b"three")]
    now.advance(BUSY * 0.9)
    peer.dataReceived(ONE)
    assert len(other.transport.writes) == 2
    now.advance(BUSY * 1.1)
    peer.dataReceived(TWO)
    assert len(other.transport.writes) == 2
    clock.advance(0)
    assert other.transport.writes[2:] == [text_frame(b"one") + text_frame(b"two")]
    clock.advance(0)
    assert len(other.transport.writes) == 3


def test_much_does_not_wait_for_the_end_of_the_turn(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    half = Message(b"x" * (BATCH // 2 - 5))
    other_half = Message(b"x" * (BATCH // 2 - 5))
    peer.send(half)
    peer.send(other_half)
    assert peer.transport.writes == []
    peer.send(A)
    peer.send(B)
    assert peer.transport.writes == [framed(half, other_half, A)][: len(peer.transport.writes)]
    clock.advance(0)
    assert peer.transport.written == framed(half, other_half, A, B)
    assert len(peer.transport.writes) == 2


def test_autobahns_own_frames_keep_their_place(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    peer.send(A)
    peer.send_ping(b"1")
    peer.send(B)
    peer.dataReceived(ping_frame(b"2"))
    peer.send(C)
    peer.close(1001, "")
    peer.send(A)
    clock.advance(0)
    assert peer.frames == [
        (TEXT, b"a"),
        (PING, b"1"),
        (TEXT, b"b"),
        (PONG, b"2"),
        (TEXT, b"c"),
        closed_with(1001, b""),
    ]


def test_answers_to_pings_keep_their_place(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    peer.on_text = lambda text: peer.send(Message(text))
    peer.dataReceived(ONE + ping_frame(b"?") + TWO + close_frame(1000))
    clock.advance(0)
    assert peer.frames == [(TEXT, b"one"), (PONG, b"?"), (TEXT, b"two"), closed_with(1000, b"")]


@pytest.mark.parametrize("bad", [client_frame(b"\xff"), client_frame(b"hi", rsv=1)])
def test_frames_that_wait_leave_before_a_close_for_a_violation(
    factory: RecorderFactory, bad: bytes
) -> None:
    peer = connect(factory)
    peer.send(A)
    peer.dataReceived(bad)
    assert [opcode for opcode, _ in peer.frames] == [TEXT, Opcode.CLOSE]


def test_a_peer_that_closes_while_frames_wait_gets_them_before_the_answer(
    factory: RecorderFactory, clock: Clock
) -> None:
    peer = connect(factory)
    peer.send(A)
    peer.send(B)
    peer.dataReceived(close_frame(1000))
    clock.advance(0)
    assert peer.frames == [(TEXT, b"a"), (TEXT, b"b"), closed_with(1000, b"")]
    assert peer.transport.disconnecting


def test_a_peer_that_is_lost_while_frames_wait_leaves_them(
    factory: RecorderFactory, clock: Clock, logged: Sequence[LogEvent]
) -> None:
    peer, other = connect(factory), connect(factory)
    peer.send(A)
    other.send(B)
    lose(peer)
    assert framed(*peer.reclaim()) == framed(A)
    clock.advance(0)
    assert peer.transport.writes == []
    assert other.transport.writes == [framed(B)]
    assert lines(logged, LogLevel.warn) == []


def test_what_is_reclaimed_is_not_written(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    peer.send(A)
    clock.advance(0)
    peer.send(B)
    peer.send(C)
    assert framed(*peer.reclaim()) == framed(B, C)
    assert peer.unsent == 0
    clock.advance(0)
    assert peer.transport.writes == [framed(A)]
    assert peer.reclaim() == []
    peer.send(C)
    clock.advance(0)
    assert peer.transport.writes == [framed(A), framed(C)]


@pytest.mark.parametrize("end", ["our close", "the peer's close", "abort"])
def test_what_is_sent_to_a_connection_that_ends_can_be_reclaimed(
    factory: RecorderFactory, clock: Clock, end: str
) -> None:
    peer = connect(factory)
    if end == "our close":
        peer.close(1009, "too large")
    elif end == "abort":
        peer.abort()
    else:
        peer.dataReceived(close_frame(1000))
    peer.transport.writes.clear()
    peer.send(A)
    clock.advance(0)
    peer.send(B)
    clock.advance(0)
    lose(peer)
    assert framed(*peer.reclaim()) == framed(A, B)
    assert peer.transport.writes == []


def test_an_aborted_connection_writes_nothing(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    peer.send(A)
    peer.abort()
    peer.abort()
    clock.advance(0)
    assert peer.transport.aborted
    assert peer.transport.writes == []
    assert framed(*peer.reclaim()) == framed(A)
    peer.dataReceived(ONE)
    assert peer.heard == []
    lose(peer)
    assert peer.calls == [("closing", None)]


def test_an_aborted_connection_is_silent_for_the_rest_of_the_data(
    factory: RecorderFactory,
) -> None:
    peer = connect(factory)
    peer.on_text = lambda text: peer.abort()
    peer.dataReceived(
        ONE + TWO + ping_frame() + close_frame(1000) + client_frame(b"", mask=None) + THREE
    )
    assert peer.heard == ["one"]
    assert peer.transport.writes == []


# A peer that does not read


def test_a_connection_is_full_until_its_transport_is_empty(
    factory: RecorderFactory, clock: Clock
) -> None:
    peer = connect(factory)
    peer.transport.room = 0
    peer.send(A)
    assert not peer.is_full
    clock.advance(0)
    assert peer.is_full
    assert peer.unsent == len(framed(A))
    peer.transport.drain()
    assert peer.calls == ["drained"]
    assert not peer.is_full
    assert peer.unsent == 0


def test_all_that_a_full_transport_holds_is_unsent(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    peer.transport.room = 0
    for _ in range(3):
        peer.send(A)
        clock.advance(0)
    peer.send(B)
    assert peer.unsent == len(framed(A, A, A, B))
    assert framed(*peer.reclaim()) == framed(B)
    assert peer.unsent == len(framed(A, A, A))
    peer.transport.drain()
    assert peer.unsent == 0
    assert peer.transport.written == framed(A, A, A)


def test_what_is_sent_to_a_full_transport_stays_in_order(
    factory: RecorderFactory, clock: Clock
) -> None:
    peer = connect(factory)
    peer.transport.room = 0
    peer.send(A)
    clock.advance(0)
    peer.send(B)
    peer.send_ping(b"?")
    peer.send(C)
    peer.close(1001, "")
    assert peer.frames == [
        (TEXT, b"a"),
        (TEXT, b"b"),
        (PING, b"?"),
        (TEXT, b"c"),
        closed_with(1001, b""),
    ]


def test_what_is_sent_when_the_transport_is_empty_again_leaves(
    factory: RecorderFactory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = connect(factory)
    monkeypatch.setattr(Recorder, "drained", lambda self: self.send(B))
    peer.transport.room = 0
    peer.send(A)
    clock.advance(0)
    peer.transport.drain()
    clock.advance(0)
    assert peer.transport.writes == [framed(A), framed(B)]


def test_a_connection_that_ends_while_it_is_full(factory: RecorderFactory, clock: Clock) -> None:
    peer = connect(factory)
    peer.transport.room = 0
    peer.send(A)
    clock.advance(0)
    peer.send(B)
    peer.stopProducing()
    lose(peer)
    clock.advance(0)
    assert peer.transport.written == framed(A)
    assert peer.calls == [("closing", None)]


# Which way is taken


def test_names_that_are_missing_are_logged_once(
    clock: Clock, logged: Sequence[LogEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_autobahn, "MISSING", frozenset({"offset", "current_frame"}))
    monkeypatch.setattr(_autobahn, "PARSER_IS_KNOWN", False)
    monkeypatch.setattr(_autobahn, "TRANSPORT_IS_KNOWN", False)
    factory = RecorderFactory(BIG, clock)
    peers = [connect(factory) for _ in range(3)]
    for peer in peers:
        peer.dataReceived(STREAM)
        assert (peer.heard, peer.frames) == (HEARD, PONGS)
    assert lines(logged, LogLevel.info) == [
        "slower than possible: current_frame, offset is missing"
    ]


def test_nothing_is_missing(clock: Clock, logged: Sequence[LogEvent]) -> None:
    connect(RecorderFactory(BIG, clock))
    assert not _autobahn.MISSING
    assert lines(logged, LogLevel.info) == []


def test_an_open_connection_keeps_little(clock: Clock) -> None:
    peer = connect(RecorderFactory(BIG, clock))
    let_go = {"http_headers", "http_request_data", "http_response_data", "trafficStats"}
    let_go |= {"utf8validator", "send_queue", "_wskey"}
    assert not let_go & set(vars(peer))
    assert not set(WebSocketServerProtocol.CONFIG_ATTRS) & set(vars(peer))
    # What it needs again is made then.
    peer.dataReceived(client_frame("é".encode(), final=False))
    peer.dataReceived(client_frame(b"", Opcode.CONTINUATION))
    assert peer.heard == ["é"]


def test_every_option_of_autobahn_is_decided_here() -> None:
    for option in WebSocketServerProtocol.CONFIG_ATTRS:
        assert hasattr(WebSocketConnection, option), f"{option} would be missing"


def test_the_factory_knows_who_is_open(factory: RecorderFactory) -> None:
    peers = {connect(factory), connect(factory)}
    assert factory.connections == peers


def receive_long_texts() -> None:
    """Receive texts on both sides of where the native masker begins, whole and in pieces."""
    clock = Clock()
    factory = RecorderFactory(BIG, clock)
    texts = [unit * count for unit in ("x", "語") for count in (1, 341, 342, 1024, 30_000)]
    stream = b"".join(client_frame(text.encode()) for text in texts)
    for size in (len(stream), 997, 64):
        peer = connect(factory)
        for start in range(0, len(stream), size):
            peer.dataReceived(stream[start : start + size])
        assert peer.heard == texts
        peer.dataReceived(client_frame("é".encode(), final=False))
        peer.dataReceived(client_frame(b"x" * 2000, Opcode.CONTINUATION) + ping_frame(b"?"))
        assert peer.heard[-1] == "é" + "x" * 2000
        assert peer.frames == [(PONG, b"?")]
        peer.dataReceived(client_frame(b"x" * 1500 + b"\xff" + b"x" * 1500)[:-1000])
        assert peer.localCloseCode == 1007


def test_long_texts() -> None:
    receive_long_texts()


@pytest.mark.skipif(
    not hasattr(websocket, "USES_NVX"), reason="this Autobahn does not tell whether it uses NVX"
)
def test_long_texts_without_native_code() -> None:
    script = (
        "import autobahn.websocket as websocket, tests.websocket.test_fastpath as test_fast\n"
        "assert not websocket.USES_NVX\n"
        "test_fast.receive_long_texts()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"AUTOBAHN_USE_NVX": "0", VARIABLE: "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", [*(each.name for each in LogLevel.iterconstants()), "error", "failure", "trace"]
)
def test_whatever_autobahn_logs_is_not_written(logged: Sequence[LogEvent], name: str) -> None:
    getattr(WebSocketConnection.log, name)("{what} is wrong", what="something")
    assert logged == []
