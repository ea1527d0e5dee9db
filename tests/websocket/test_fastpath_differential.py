"""Whatever comes, in whatever pieces: the short way gives exactly what Autobahn alone gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from acebase_ipc.protocol.messages import Message
from acebase_ipc.testing import (
    Frame,
    LengthForm,
    Opcode,
    client_frame,
    close_frame,
    ping_frame,
    server_frames,
    upgrade_request,
)
from acebase_ipc.websocket.fastpath import WebSocketConnection
from acebase_ipc.websocket.incoming import FEED
from tests.wire import MemoryTransport, Recorder, RecorderFactory, connect, lose

pytestmark = pytest.mark.usefixtures("code")

SHORT_LIMIT, LONG_LIMIT = 130, 2100

ECHO, LEAVE = "echo", "leave"
"""How a text begins that is answered with itself, or with our close."""


class Answering(Recorder):
    """What is tested."""

    def received(self, text: bytes) -> None:
        super().received(text)
        if text.startswith(ECHO.encode()):
            self.send(Message(text))
        elif text.startswith(LEAVE.encode()):
            self.close(4001, "as you wish")


class AnsweringFactory(RecorderFactory):
    """Makes connections of the kind that is tested.

    :param knows_parser: whether it takes the short way.
    """

    protocol = Answering

    def __init__(self, limit: int, clock: Clock, knows_parser: bool) -> None:
        super().__init__(limit, clock)
        self.knows_parser = knows_parser


class Stock(WebSocketServerProtocol):
    """Autobahn alone, doing the same."""

    transport: MemoryTransport

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str | bytes] = []
        self.calls: list[Any] = []

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.state != self.STATE_OPEN:
            return
        self.heard.append(b"binary" if isBinary else payload.decode())
        if not isBinary and payload[:4] == ECHO.encode():
            self.sendMessage(payload)
        elif not isBinary and payload[:5] == LEAVE.encode():
            self.sendCloseFrame(4001, b"as you wish")

    def onPong(self, payload: bytes) -> None:
        if payload:
            self.calls.append(("pong", payload))

    def dropConnection(self, abort: bool = False) -> None:
        # The one thing that ours does differently: 1002 arrives before the end.
        super().dropConnection(abort and not (self.wasClean and self.failedByMe))


def open_all(limit: int, clock: Clock) -> list[Any]:
    """A connection of each kind, with the same options."""
    stock = WebSocketServerFactory(server=None, reactor=clock)
    stock.protocol = Stock
    stock.setProtocolOptions(
        versions=[13],
        failByDrop=False,
        echoCloseCodeReason=True,
        maxMessagePayloadSize=limit,
        openHandshakeTimeout=0,
        closeHandshakeTimeout=0,
    )
    factories = [AnsweringFactory(limit, clock, knows) for knows in (True, False)]
    return [shake_hands(stock), *(connect(each) for each in factories)]


def shake_hands(factory: WebSocketServerFactory) -> Any:
    """Open a WebSocket of Autobahn alone in memory; what that writes is not kept."""
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(MemoryTransport())
    protocol.dataReceived(upgrade_request("/"))
    assert protocol.transport.written.startswith(b"HTTP/1.1 101 ")
    protocol.transport.writes.clear()
    return protocol


def seen(peer: Any) -> dict[str, object]:
    """All that the other end, or the listener, gets to know of *peer*."""
    return {
        "heard": peer.heard,
        "pongs": [each for each in peer.calls if each[0] == "pong"],
        "written": without_early_pongs(server_frames(peer.transport.written)),
        "state": peer.state,
        "closed": (peer.localCloseCode, peer.remoteCloseCode, peer.remoteCloseReason),
        "clean": (peer.wasClean, peer.failedByMe, peer.closedByMe, peer.droppedByMe),
        "dropped": (peer.transport.disconnecting, peer.transport.aborted),
    }


def without_early_pongs(frames: list[Frame]) -> list[Frame]:
    """Of pongs that follow each other only the last one (RFC 6455, section 5.5.3)."""
    kept: list[Frame] = []
    for frame in frames:
        if kept and frame.opcode == kept[-1].opcode == Opcode.PONG:
            kept.pop()
        kept.append(frame)
    return kept


def compare(pieces: list[bytes], limit: int) -> dict[str, object]:
    """Feed *pieces* to all kinds and compare them after each; returns what was seen last."""
    clock = Clock()
    stock, *others = open_all(limit, clock)

    def check(after: str) -> None:
        clock.advance(0)
        expected = seen(stock)
        for way, each in zip(("short", "public"), others, strict=True):
            assert seen(each) == expected, f"the {way} way differs after {after}"

    for number, piece in enumerate(pieces):
        for start in range(0, len(piece), FEED):
            stock.dataReceived(piece[start : start + FEED])
        for peer in others:
            peer.dataReceived(piece)
        check(f"piece {number}: {piece[:40]!r}")
    for peer in (stock, *others):
        lose(peer)
    check("the end")
    for each in others:
        codes = [code for name, code in each.calls if name == "closing"]
        regular = stock.remoteCloseCode or 1005
        assert codes[-1] == (regular if stock.wasClean and not stock.failedByMe else None)
    return seen(stock)


def test_the_kinds_are_what_they_are_called() -> None:
    stock, private, public = open_all(SHORT_LIMIT, Clock())
    assert not isinstance(stock, WebSocketConnection)
    assert (private.factory.knows_parser, public.factory.knows_parser) == (True, False)
    assert stock.maxMessagePayloadSize == private.maxMessagePayloadSize == SHORT_LIMIT


# Any frames in any pieces

sizes = st.one_of(
    st.integers(0, 12),
    st.sampled_from([124, 125, 126, 127, 129, 130, 131, 132]),
    st.sampled_from([1023, 1024, 1025, 2099, 2100, 2101]),
)
characters = st.one_of(
    st.characters(exclude_categories=["Cs"]), st.sampled_from(["x", "é", "語", "😀", "\x7f", "￿"])
)
texts = st.one_of(
    st.text(characters, max_size=12).map(str.encode),
    st.tuples(st.sampled_from([ECHO, ECHO, LEAVE]), st.text(characters, max_size=6)).map(
        lambda parts: "".join(parts).encode()
    ),
    st.tuples(characters, sizes).map(lambda parts: (parts[0] * parts[1]).encode()),
)
spoils = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from(
        [b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"\xed\xbf", b"\xf0\x9f\x98", b"\xf4\x90", b"\xc0"]
    ),
)
almost_texts = st.tuples(texts, spoils, texts, st.booleans()).map(
    lambda parts: parts[0] + parts[1] + (parts[2] if parts[3] else b"")
)
keys = st.one_of(st.binary(min_size=4, max_size=4), st.just(bytes(4)))
payloads = st.one_of(texts, texts, texts, almost_texts)

whole = st.builds(client_frame, payloads, st.just(Opcode.TEXT), mask=keys)
binary = st.builds(client_frame, st.binary(max_size=5), st.just(Opcode.BINARY), mask=keys)
controls = st.builds(
    client_frame, st.binary(max_size=6), st.sampled_from([Opcode.PING, Opcode.PONG]), mask=keys
)
closes = st.one_of(
    st.just(close_frame()),
    st.builds(
        close_frame,
        st.one_of(
            st.sampled_from([1000, 1001, 1005, 1011, 1016, 3000, 4999]), st.integers(0, 65535)
        ),
        st.one_of(st.just(b""), texts.map(lambda text: text[:123]), st.binary(max_size=4)),
    ),
)


@st.composite
def fragments(draw: st.DrawFn) -> bytes:
    """A message in fragments, with control frames between them; sometimes it has no end."""
    payload = draw(payloads)
    opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY]))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    stream = b""
    for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        fin = end == len(payload) and draw(st.integers(0, 9)) > 0
        stream += client_frame(payload[start:end], opcode, final=fin, mask=draw(keys))
        stream += draw(st.one_of(st.just(b""), controls))
        opcode = Opcode.CONTINUATION
    return stream


@st.composite
def anything(draw: st.DrawFn) -> bytes:
    """A frame with whatever header; most break a rule."""
    payload = draw(st.one_of(texts, st.binary(max_size=8)))
    forms = [
        each for each in LengthForm if len(payload) < 1 << each and (each > 7 or len(payload) < 126)
    ]
    return client_frame(
        payload,
        draw(st.integers(0, 15)),
        final=draw(st.booleans()),
        rsv=draw(st.sampled_from([0, 0, 0, 1, 2, 4, 7])),
        mask=draw(st.one_of(keys, keys, st.none())),
        form=draw(st.sampled_from(forms)),
    )


streams = st.lists(
    st.one_of(
        whole,
        whole,
        whole,
        whole,
        binary,
        controls,
        fragments(),
        closes,
        anything(),
        st.binary(max_size=9),
    ),
    min_size=1,
    max_size=8,
).map(b"".join)


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """A stream in pieces: all at once, byte by byte, or cut anywhere."""
    stream = draw(streams)
    if len(stream) < 150 and draw(st.booleans()):
        return [bytes((byte,)) for byte in stream]
    cuts = sorted(set(draw(st.lists(st.integers(0, len(stream)), max_size=12))))
    ends = [*cuts, len(stream)]
    return [stream[start:end] for start, end in zip([0, *cuts], ends, strict=True) if start < end]


@given(chunked(), st.sampled_from([SHORT_LIMIT, LONG_LIMIT]))
def test_any_frames_in_any_pieces(pieces: list[bytes], limit: int) -> None:
    compare(pieces, limit)


# Certain frames in all pieces

BEFORE, BEHIND = (
    client_frame(b"echo 1"),
    client_frame(b"echo 2") + ping_frame(b"?") + close_frame(1000),
)

CASES = {
    "texts": client_frame("日本".encode()) + client_frame() + client_frame("😀".encode()),
    "fragments": client_frame(b"echo ", final=False)
    + ping_frame()
    + client_frame("é".encode()[:1], Opcode.CONTINUATION, final=False)
    + client_frame("é".encode()[1:], Opcode.CONTINUATION),
    "the 16-bit form": client_frame(b"x" * 126),
    "more than allowed": client_frame(b"x" * 131),
    "our close": client_frame(b"leave"),
    "our close, then a violation": client_frame(b"leave") + client_frame(b"\xff"),
    "the peer's close": close_frame(4000, "bye 日".encode()) + client_frame(b"late"),
    "a bad close": close_frame(1005),
    "a close of one byte": client_frame(b"\x03", Opcode.CLOSE),
    "a close that is not UTF-8": close_frame(1000, b"\xff"),
    "not masked": client_frame(b"hi", mask=None),
    "RSV": client_frame(b"hi", rsv=1),
    "a reserved opcode": client_frame(b"hi", 3),
    "a reserved control opcode": client_frame(b"hi", 11),
    "not the shortest of 16 bits": client_frame(b"short", form=LengthForm.BITS_16),
    "not the shortest of 64 bits": client_frame(b"short", form=LengthForm.BITS_64),
    "a length of 2**63": client_frame(length=1 << 63, form=LengthForm.BITS_64),
    "a control frame in fragments": client_frame(b"hi", Opcode.PING, final=False),
    "a control frame in the 16-bit form": client_frame(b"hi", Opcode.PING, form=LengthForm.BITS_16),
    "a continuation of nothing": client_frame(b"hi", Opcode.CONTINUATION),
    "a message within a message": client_frame(b"a", final=False) + client_frame(b"b"),
    "a text that ends in a character": client_frame(b"a\xe2\x82"),
    "a lone continuation byte": client_frame(b"a\x80b"),
    "an overlong form": client_frame(b"a\xe0\x80\x80b"),
    "half a surrogate": client_frame(b"a\xed\xa0\x80b"),
    "above all characters": client_frame(b"a\xf4\x90\x80\x80b"),
    "invalid twice": client_frame(b"a\xffb\xffc"),
    "invalid in a fragment": client_frame(b"a", final=False)
    + client_frame(b"\xff", Opcode.CONTINUATION),
}


def ways_to_cut(stream: bytes, start: int, end: int) -> Iterator[list[bytes]]:
    """Cut *stream* once, anywhere from *start* to *end*; and then into bytes."""
    for cut in range(start, end + 1):
        yield [stream[:cut], stream[cut:]]
    yield [bytes((byte,)) for byte in stream]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_certain_frames_in_all_pieces(case: bytes) -> None:
    stream, start = BEFORE + case + BEHIND, len(BEFORE)
    end = start + (len(case) if len(case) < 100 else 9)
    for pieces in ways_to_cut(stream, start, end):
        last = compare(pieces, SHORT_LIMIT)
        assert last["state"] == WebSocketConnection.STATE_CLOSED


@pytest.mark.parametrize("size", [65535, 65536, 65537])
@pytest.mark.parametrize("limit", [65535, 65536, 65537])
@pytest.mark.parametrize("cut", [9, 13, 14, 4000, -1])
def test_the_largest_messages(size: int, limit: int, cut: int) -> None:
    stream = client_frame(b"echo" + b"x" * (size - 4))
    last = compare([stream[:cut], stream[cut:] + BEHIND], limit)
    assert len(last["heard"]) == (2 if size <= limit else 0)  # type: ignore[arg-type]
