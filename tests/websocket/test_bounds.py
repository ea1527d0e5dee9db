"""What one connection may cost the others: work per turn, memory, and time to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, capturedLogs

from acebase_ipc.protocol.frames import MAX_TEXTS
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.limits import KIB, MIB
from acebase_ipc.relay.work import SLICE
from acebase_ipc.rotation import TURN
from acebase_ipc.testing import Opcode, client_frame, close_frame, ping_frame, server_frames
from acebase_ipc.websocket._autobahn import CLOSE_TIMEOUT
from acebase_ipc.websocket.epoll import BUFFER
from acebase_ipc.websocket.fastpath import STATE_OPEN
from acebase_ipc.websocket.incoming import CONTROL, FEED, FRAGMENT_OVERHEAD, MAX_FRAGMENTS, TEXT
from acebase_ipc.websocket.slices import SLICE_BYTES
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

MOST = TURN + SLICE + 2 * MAX_TEXTS * TEXT
"""Units of work that a connection may do in a turn if no other has work: its share of the
turn, of which the last step may exceed its slice."""

MOST_TEXTS = MOST // TEXT
"""The same in texts."""


class TurnClock(Clock):
    """A reactor of which one turn can be done; ``advance(0)`` does all that is due."""

    def turn(self, count: int = 1) -> None:
        """Call what is due now, but not what is to follow then; *count* times."""
        for _ in range(count):
            for call in [each for each in self.calls if each.getTime() <= self.seconds()]:
                if call.active():
                    self.calls.remove(call)
                    call.called = 1
                    call.func(*call.args, **call.kw)


@pytest.fixture
def clock() -> TurnClock:
    return TurnClock()


@pytest.fixture
def factory(clock: TurnClock, use_private: bool) -> RecorderFactory:
    return RecorderFactory(16 * MIB, clock)


def numbered(count: int, first: int = 0) -> bytes:
    """Frames with the numbers from *first* on as texts."""
    return b"".join(client_frame(b"%d" % number) for number in range(first, first + count))


def texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


# Work per turn


def test_many_texts_are_relayed_in_slices_in_order(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer = connect(factory)
    count = BUFFER // len(client_frame(b"9999"))
    peer.dataReceived(numbered(count))
    turns = [len(peer.heard)]
    while len(peer.heard) < count:
        assert not peer.transport.reading
        clock.turn()
        turns.append(len(peer.heard) - sum(turns))
    assert turns[0] <= SLICE // TEXT + 2 * MAX_TEXTS
    assert max(turns) <= MOST_TEXTS
    assert min(turns) > 0
    assert peer.heard == texts(count)
    clock.turn()
    assert peer.transport.reading
    assert clock.getDelayedCalls() == []


KINDS = {
    "texts": client_frame(b"x"),
    "pings": ping_frame(),
    "pings with payload": ping_frame(b"?"),
    "pongs": client_frame(b"", Opcode.PONG),
    "pongs with payload": client_frame(b"!", Opcode.PONG),
    "fragments": client_frame(b"", Opcode.CONTINUATION, final=False),
    "pings between fragments": ping_frame(),
    "pongs between fragments": client_frame(b"", Opcode.PONG),
    "binary messages": client_frame(b"", Opcode.BINARY),
    "texts and pings": client_frame(b"x") + ping_frame(),
}
FRAGMENTED = {"fragments", "pings between fragments", "pongs between fragments"}


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_of_frame_costs_more_than_a_turn(
    factory: RecorderFactory, clock: TurnClock, kind: str
) -> None:
    frame = KINDS[kind]
    peer = connect(factory)
    if kind in FRAGMENTED:
        peer.dataReceived(client_frame(b"x", final=False))
    taken = 0
    # Each frame that is taken calls one of these.
    for name in ("received", "received_binary", "onPing", "onPong", "onMessageFrameBegin"):
        method = getattr(peer, name)

        def count(*args: Any, method: Callable[..., Any] = method) -> Any:
            nonlocal taken
            taken += 1
            return method(*args)

        setattr(peer, name, count)
    peer.dataReceived(frame * (BUFFER // 4 // len(frame)))
    most = taken
    while peer._incoming is not None and peer._incoming.is_postponed:
        before = taken
        clock.turn()
        most = max(most, taken - before)
    assert most <= MOST // CONTROL
    if kind != "fragments":
        assert peer.state == STATE_OPEN


def test_a_broadcast_to_many_is_work_for_each_of_them(
    factory: RecorderFactory, clock: TurnClock, use_private: bool
) -> None:
    # What Autobahn is fed at a time it parses to the end.
    most = TURN + SLICE + 2 * 1000 + (0 if use_private else 1000 * FEED // len(client_frame(b"9")))
    peer = connect(factory)

    def broadcast(text: bytes) -> None:
        factory.work.units += 1000

    peer.on_text = broadcast
    count = BUFFER // len(client_frame(b"9999"))
    peer.dataReceived(numbered(count))
    assert factory.work.units <= most
    for _ in range(20):
        before = factory.work.units
        clock.turn()
        assert 0 < factory.work.units - before <= most
    while peer._incoming is not None and peer._incoming.is_postponed:
        clock.turn()
    assert peer.heard == texts(count)


def test_a_broadcast_to_few_is_work_too(factory: RecorderFactory) -> None:
    peer = connect(factory)

    def broadcast(text: bytes) -> None:
        factory.work.units += 4

    peer.on_text = broadcast
    peer.dataReceived(numbered(2000))
    assert factory.work.units <= 2 * SLICE + 4 * MAX_TEXTS


def test_two_connections_with_much_work_alternate(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peers = [connect(factory) for _ in range(2)]
    order: list[int] = []
    for number, peer in enumerate(peers):
        peer.on_text = lambda text, number=number: order.append(number)
        peer.dataReceived(numbered(3000))
    order.clear()
    clock.turn()
    assert set(order) == {0, 1}
    assert max(map(order.count, (0, 1))) <= (MOST // 2 + SLICE) // TEXT
    clock.turn(100)
    assert [peer.heard for peer in peers] == [texts(3000)] * 2


def test_a_turn_serves_only_some_of_many_connections(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peers = [connect(factory) for _ in range(40)]
    for peer in peers:
        peer.dataReceived(numbered(1000))
    before = sum(len(peer.heard) for peer in peers)
    clock.turn()
    assert 0 < sum(len(peer.heard) for peer in peers) - before <= MOST_TEXTS
    clock.turn(400)
    assert all(peer.heard == texts(1000) for peer in peers)


def test_what_arrives_while_work_is_postponed_comes_after_it(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    """As over TLS, where a read may be passed on in several pieces."""
    peer = connect(factory)
    stream = numbered(3000) + ping_frame(b"?")
    for start in range(0, len(stream), 5000):
        peer.dataReceived(stream[start : start + 5000])
    assert len(peer.heard) <= MOST + MAX_TEXTS
    clock.turn(100)
    assert peer.heard == texts(3000)
    assert peer.frames == [(Opcode.PONG, b"?")]


ENDS: dict[str, Callable[[Any], object]] = {
    "lost": lose,
    "aborted": lambda peer: peer.abort(),
    "closed by us": lambda peer: peer.close(1001, ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_connection_that_ends_relays_nothing_of_what_is_postponed(
    factory: RecorderFactory, clock: TurnClock, end: str
) -> None:
    peer, other = connect(factory), connect(factory)
    peer.dataReceived(numbered(3000) + close_frame(1001))
    other.dataReceived(numbered(1000))
    heard = len(peer.heard)
    ENDS[end](peer)
    clock.turn(200)
    assert len(peer.heard) == heard
    assert other.heard == texts(1000)
    if end == "closed by us":
        assert peer.wasClean  # its answer was found behind the texts
    if end != "lost":
        lose(peer)
    assert peer.memory == peer._batched_bytes == 0


def test_a_close_behind_postponed_texts_comes_after_them(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer = connect(factory)
    peer.dataReceived(numbered(3000) + close_frame(1000) + client_frame(b"late"))
    clock.turn(100)
    assert peer.heard == texts(3000)
    assert peer.frames == [closed_with(1000, b"")]


def test_a_failure_in_postponed_work_ends_one_connection(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer, other = connect(factory), connect(factory)
    peer.dataReceived(numbered(1000))
    other.dataReceived(numbered(1000))

    def fail(text: bytes) -> None:
        raise LookupError("a mistake")

    peer.on_text = fail
    heard = len(peer.heard)
    with capturedLogs() as events:
        clock.turn(100)
    assert [each["log_level"] for each in events] == [LogLevel.critical]
    assert len(peer.heard) == heard + 1
    assert peer.frames == [closed_with(1011, b"internal error")]
    assert other.heard == texts(1000)


# Memory


def full(factory: RecorderFactory) -> Any:
    """A connection whose other end reads nothing."""
    peer = connect(factory)
    peer.transport.room = 0
    peer.send(Message(b"x"))
    factory.reactor.turn()
    assert peer.is_full
    peer.transport.writes.clear()
    return peer


def test_pongs_to_a_client_that_reads_nothing_do_not_grow(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer = full(factory)
    unsent = peer.unsent
    for number in range(1000):
        peer.dataReceived(ping_frame(b"%d" % number) * 3)
        clock.turn()
    assert peer.transport.writes == []
    assert peer.unsent == unsent
    peer.transport.drain()
    assert peer.frames == [(Opcode.PONG, b"999")]


def test_a_large_message_to_many_is_copied_in_slices(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    message = Message(b"x" * (2 * MIB))
    peers = [full(factory) for _ in range(20)]
    for peer in peers:
        peer.transport.drain_to(0)
        peer.send(message)
    clock.turn()
    for peer in peers:
        assert len(peer.transport.written) <= SLICE_BYTES
        assert max(map(len, peer.transport.writes)) <= SLICE_BYTES
        assert peer.is_full
        assert peer.unsent >= message.size
    while peers[0].is_full:
        for peer in peers:
            peer.transport.drain_to(0)
    for peer in peers:
        assert peer.transport.written == message.make_frame()
        assert max(map(len, peer.transport.writes)) <= SLICE_BYTES
        assert "drained" in peer.calls


def test_what_is_sent_behind_slices_keeps_its_place(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer = connect(factory)
    large = b"x" * (3 * SLICE_BYTES)
    peer.transport.room = 0
    peer.send(Message(large))
    clock.turn()
    peer.send(Message(b"behind"))
    peer.send_ping(b"1")
    peer.close(1001, "bye")
    assert len(peer.transport.written) <= SLICE_BYTES
    for _ in range(10):
        peer.transport.drain_to(0)
    assert peer.frames == [
        (Opcode.TEXT, large),
        (Opcode.TEXT, b"behind"),
        (Opcode.PING, b"1"),
        closed_with(1001, b"bye"),
    ]


def test_a_client_that_closes_still_gets_the_slices(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer = connect(factory)
    large = b"x" * (3 * SLICE_BYTES)
    peer.transport.room = 0
    peer.send(Message(large))
    clock.turn()
    peer.dataReceived(close_frame(1000))
    assert not peer.transport.ended
    for _ in range(10):
        peer.transport.drain_to(0)
    assert peer.frames == [(Opcode.TEXT, large), closed_with(1000, b"")]
    assert peer.transport.ended


def test_nothing_is_pinged_behind_a_close_frame(factory: RecorderFactory) -> None:
    peer = connect(factory)
    peer.close(1001, "")
    peer.send_ping()
    assert peer.frames == [closed_with(1001, b"")]


@pytest.mark.usefixtures("use_private")
def test_everything_that_a_connection_holds_is_counted(clock: TurnClock) -> None:
    factory = RecorderFactory(16 * MIB, clock)

    def held() -> int:
        return factory.budget.used

    assert held() == 0
    batched = connect(factory)
    batched.send(Message(b"x" * 100))
    assert batched.unsent == batched.memory == 102
    unread = full(factory)
    assert unread.unsent == unread.memory == held() == 3
    sliced = full(factory)
    before = sliced.unsent
    sliced.send(Message(b"x" * MIB))
    clock.turn()
    assert sliced.unsent == sliced.memory == before + MIB + 10
    lose(sliced)
    half = connect(factory)
    before = held()
    half.dataReceived(client_frame(b"x" * 1000)[:-500])
    assert half.memory >= 500
    assert held() - before == half.memory
    half.dataReceived(b"y" * 100)
    assert held() - before == half.memory >= 600
    lose(half)
    assert held() == before
    fragments = connect(factory)
    fragments.dataReceived(client_frame(b"xx", final=False))
    fragments.dataReceived(client_frame(b"", Opcode.CONTINUATION, final=False) * 10)
    assert fragments.memory == 2 + 11 * FRAGMENT_OVERHEAD == held() - before
    fragments.dataReceived(client_frame(b"", Opcode.CONTINUATION))
    assert fragments.memory == 0
    postponed = connect(factory)
    before = held()
    postponed.dataReceived(numbered(3000))
    assert postponed.memory > 10_000
    assert held() - before == postponed.memory
    clock.turn(100)
    assert held() == before


def test_a_message_of_endless_fragments_is_refused(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer = connect(factory)
    peer.dataReceived(client_frame(b"x", final=False))
    for _ in range(MAX_FRAGMENTS // 64 + 1):
        peer.dataReceived(client_frame(b"", Opcode.CONTINUATION, final=False) * 64)
        clock.turn(3)
    assert peer.localCloseCode == 1009
    assert peer.memory <= (MAX_FRAGMENTS + 200) * FRAGMENT_OVERHEAD


HOLDERS: dict[str, Callable[[Any, TurnClock], object]] = {
    "half a text": lambda peer, clock: peer.dataReceived(client_frame(b"x" * MIB)[:-1]),
    "half a message in fragments": lambda peer, clock: peer.dataReceived(
        client_frame(b"x" * MIB, final=False)
    ),
    "an unread message": lambda peer, clock: peer.send(Message(b"x" * MIB)),
    "unread small messages": lambda peer, clock: [
        peer.send(Message(b"x" * 1000)) for _ in range(1000)
    ],
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_growth_makes_the_limit_be_checked(clock: TurnClock, use_private: bool, kind: str) -> None:
    factory = RecorderFactory(16 * MIB, clock, max_memory=256 * KIB)
    peer = connect(factory)
    peer.transport.room = 0
    HOLDERS[kind](peer, clock)
    clock.turn(100)
    assert factory.enforced


# Deadlines


def test_a_client_that_never_answers_our_close_is_ended(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    for peer in (connect(factory), full(factory)):
        peer.close(1001, "")
        clock.advance(CLOSE_TIMEOUT)
        assert peer.transport.aborted


def test_a_client_that_closes_and_stays_is_ended(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    for peer in (connect(factory), full(factory)):
        peer.dataReceived(close_frame(1000))
        assert peer.calls == [("closing", 1000)]  # told at once
        clock.advance(CLOSE_TIMEOUT)
        assert peer.transport.aborted


def test_a_client_that_trickles_does_not_move_the_deadline(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peer = connect(factory)
    peer.close(1001, "")
    for _ in range(11):
        peer.dataReceived(client_frame(b"x"))
        clock.advance(CLOSE_TIMEOUT / 10)
    assert peer.transport.aborted


def test_what_arrives_after_the_end_is_not_kept(factory: RecorderFactory) -> None:
    peer = connect(factory)
    peer.dataReceived(close_frame(1000))
    for _ in range(100):
        peer.dataReceived(client_frame(b"x" * 1000)[:-1])
    assert len(peer.data) < 1000
    assert peer.heard == []


def failures(events: Sequence[LogEvent]) -> list[LogEvent]:
    return [each for each in events if each["log_level"] is LogLevel.critical]


def test_an_end_leaves_no_timer(factory: RecorderFactory, clock: TurnClock) -> None:
    peer = connect(factory)
    assert clock.getDelayedCalls() == []
    peer.close(1001, "")
    lose(peer)
    assert clock.getDelayedCalls() == []


# Whether it is full


def test_a_connection_that_becomes_full_while_it_opens_stays_full(
    factory: RecorderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Recorder(factory)
    transport = MemoryTransport()
    transport.room = 0
    peer.on_open = lambda: peer.send(Message(b"x" * BIG))
    peer.open(transport, ANSWER, b"")
    assert peer.is_full
    transport.drain()
    assert not peer.is_full
    assert peer.calls == ["drained"]
    _, _, rest = transport.written.partition(b"\r\n\r\n")
    assert server_frames(rest) == [(Opcode.TEXT, b"x" * BIG)]


def test_a_large_frame_that_many_receive_is_counted_once(
    factory: RecorderFactory, clock: TurnClock
) -> None:
    peers = [connect(factory) for _ in range(100)]
    message = Message(b"x" * MIB)
    for peer in peers:
        peer.transport.room = 0
        peer.send(message)
        peer.flush()
    assert all(peer.memory > MIB - 2 * SLICE_BYTES for peer in peers)
    assert factory.budget.used < MIB + 100 * 2 * SLICE_BYTES
    for peer in peers[:-1]:
        peer.abort()
    assert factory.budget.used > MIB - 2 * SLICE_BYTES
    peers[-1].abort()
    assert factory.budget.used == 0
