"""Frames that take the direct way to a socket: real TCP, with a reactor turned by hand."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.tcp import Server
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure

from acebase_ipc.protocol.messages import Message
from acebase_ipc.testing import Opcode, client_frame, close_frame, server_frames
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket.coalescing import BATCH
from tests.tcp import HandReactor
from tests.wire import ANSWER, BIG, Recorder, RecorderFactory, closed_with

A, B, C = (Message(text) for text in (b"a", b"b", b"c"))
LONG = Message(b"x" * 200_000)


def framed(*messages: Message) -> bytes:
    """The frames of *messages*."""
    return b"".join(each.make_frame() for each in messages)


def standing_clock() -> float:
    """A time at which nobody is ever idle."""
    return 0.0


class NarrowSocket(socket.socket):
    """A TCP socket whose system calls are seen, and may be short of room.

    :ivar room: bytes that it takes before it is full.
    :ivar sent: how many bytes each ``send`` took.
    """

    room: float = float("inf")

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.sent: list[int] = []

    def send(self, data: Any, flags: int = 0) -> int:
        if self.room <= 0:
            raise BlockingIOError(errno.EWOULDBLOCK, "full")
        count = super().send(data[: int(min(self.room, len(data)))], flags)
        self.room -= count
        self.sent.append(count)
        return count


class Line:
    """A WebSocket over TCP.

    :ivar peer: the server's end.
    :ivar socket: its socket.
    :ivar client: the client's socket.
    """

    def __init__(self, factory: RecorderFactory, upgrade: bool = True) -> None:
        self.reactor: HandReactor = factory.reactor
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname(), timeout=10)
            accepted, address = listener.accept()
        self.socket = NarrowSocket(accepted.detach())
        self.peer: Any = Recorder(factory)
        port: Any = None
        reactor: Any = self.reactor
        self.transport = Server(self.socket, self.peer, address, port, 0, reactor)
        self.transport.registerProducer(self.transport, True)  # as Twisted's HTTP channel
        if upgrade:
            self.open()
            self.reactor.turn()
            assert self.client.recv(4096) == ANSWER
            self.socket.sent.clear()

    def open(self) -> None:
        """Open the WebSocket."""
        self.transport.unregisterProducer()
        self.peer.open(self.transport, ANSWER, b"")

    @property
    def ended(self) -> bool:
        """Whether the server has closed its socket."""
        return self.socket.fileno() < 0

    def read_to_end(self) -> bytes:
        """All that comes until the connection ends."""
        data = b""
        self.reactor.turn_until(lambda: self.ended)
        while piece := self.client.recv(1 << 20):
            data += piece
        return data

    def read(self, size: int) -> bytes:
        """Read *size* bytes, while the reactor turns."""
        data = bytearray()

        def read_more() -> bool:
            if select.select([self.client], (), (), 0)[0]:
                piece = self.client.recv(size - len(data))
                assert piece, "the connection has ended"
                data.extend(piece)
            return len(data) == size

        self.reactor.turn_until(read_more)
        return bytes(data)

    def is_quiet(self) -> bool:
        """Whether nothing more comes."""
        self.reactor.turn()
        return not select.select([self.client], (), (), 0)[0]

    def end(self) -> None:
        """Leave nothing open."""
        self.client.close()
        if not self.ended:
            self.transport.connectionLost(Failure(ConnectionError()))


@pytest.fixture
def factory() -> RecorderFactory:
    return RecorderFactory(BIG, HandReactor(), standing_clock)


@pytest.fixture
def line(factory: RecorderFactory) -> Iterator[Line]:
    line = Line(factory)
    yield line
    line.end()


def test_a_turns_frames_leave_in_one_segment_without_the_transport(line: Line) -> None:
    line.peer.send(A)
    line.peer.send(B)
    line.reactor.advance(0)
    assert line.socket.sent == [len(framed(A, B))]
    assert line.reactor.getWriters() == []
    assert line.read(len(framed(A, B))) == framed(A, B)
    assert line.peer.unsent == 0


def test_the_public_way_is_through_the_transport(
    factory: RecorderFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_autobahn, "TRANSPORT_IS_KNOWN", False)
    line = Line(RecorderFactory(BIG, factory.reactor, standing_clock))
    line.peer.send(A)
    line.peer.send(B)
    line.reactor.advance(0)
    assert line.socket.sent == []
    assert line.read(len(framed(A, B))) == framed(A, B)
    assert line.socket.sent == [len(framed(A, B))]
    line.end()


def test_the_first_messages_leave_in_one_segment_with_the_101(
    factory: RecorderFactory, monkeypatch: pytest.MonkeyPatch, use_private: bool
) -> None:
    line = Line(RecorderFactory(BIG, factory.reactor, standing_clock), upgrade=False)
    monkeypatch.setattr(line.peer, "on_open", lambda: (line.peer.send(A), line.peer.send(B)))
    line.open()
    line.reactor.turn_until(lambda: line.socket.sent)
    assert line.client.recv(4096) == ANSWER + framed(A, B)
    line.end()


@pytest.mark.parametrize("room", [0, 1, 2, 3, 4, 5, 8])
def test_what_the_socket_does_not_take_follows_in_order(line: Line, room: int) -> None:
    line.socket.room = room
    line.peer.send(A)
    line.peer.send(B)
    line.reactor.turn()
    line.peer.send(C)
    line.reactor.turn()
    line.peer.send_ping(b"?")
    line.peer.send(A)
    line.reactor.turn()
    assert sum(line.socket.sent) == room
    line.socket.room = float("inf")
    expected = framed(A, B, C) + b"\x89\x01?" + framed(A)
    assert line.read(len(expected)) == expected
    line.peer.send(B)
    assert line.read(len(framed(B))) == framed(B)
    assert line.is_quiet()
    assert line.reactor.getWriters() == []


def test_when_all_is_written_the_direct_way_is_open_again(line: Line) -> None:
    line.socket.room = 1
    line.peer.send(A)
    line.reactor.turn()
    line.socket.room = float("inf")
    assert line.read(len(framed(A))) == framed(A)
    line.socket.sent.clear()
    line.peer.send(B)
    line.reactor.advance(0)
    assert line.socket.sent == [len(framed(B))]


def test_a_ping_takes_the_direct_way_too(line: Line) -> None:
    line.peer.send_ping(b"?")
    line.peer.send(A)
    line.reactor.advance(0)
    assert line.socket.sent == [3, len(framed(A))]
    assert line.read(3 + len(framed(A))) == b"\x89\x01?" + framed(A)


def test_a_socket_that_is_full_again_and_again(line: Line) -> None:
    messages = [Message(b"%d" % number) for number in range(300)]
    expected = framed(*messages)
    for number, message in enumerate(messages):
        line.socket.room = number % 5
        line.peer.send(message)
        if number % 3:
            line.reactor.turn()
    line.socket.room = float("inf")
    assert line.read(len(expected)) == expected


def test_a_peer_that_does_not_read(line: Line) -> None:
    frames = 0
    while not line.peer.is_full:
        assert frames < 1000, "its buffers are endless"
        line.peer.send(LONG)
        frames += 1
        line.reactor.turn()
    line.peer.send(A)
    assert framed(*line.peer.reclaim()) == framed(A)
    unsent = line.peer.unsent
    assert 0 < unsent <= len(framed(LONG)) + BATCH  # the transport takes so much before it pauses
    line.peer.send(B)
    line.reactor.turn()
    assert line.peer.unsent == unsent + len(framed(B))
    expected = framed(LONG) * frames + framed(B)
    assert line.read(len(expected)) == expected
    assert line.peer.calls == ["drained"]
    assert not line.peer.is_full
    assert line.peer.unsent == 0


def test_a_peer_that_closes_while_frames_wait_gets_all_of_them(line: Line) -> None:
    line.socket.room = 10
    line.peer.send(LONG)
    line.reactor.turn()
    line.client.sendall(close_frame(1000))
    line.peer.send(A)
    line.reactor.turn()
    line.socket.room = float("inf")
    *texts, end = server_frames(line.read_to_end())
    assert [payload for _, payload in texts] == [LONG.text, b"a"]
    assert end == closed_with(1000, b"")
    assert line.peer.calls[-1] == ("closing", 1000)


def test_a_close_of_ours_waits_behind_all_frames(line: Line) -> None:
    line.socket.room = 10
    line.peer.send(LONG)
    line.reactor.turn()
    line.peer.send(A)
    line.peer.close(1001, "going away")
    line.socket.room = float("inf")
    expected = framed(LONG, A) + b"\x88\x0c\x03\xe9going away"
    assert line.read(len(expected)) == expected
    line.client.sendall(close_frame(1001))
    line.reactor.turn_until(lambda: line.ended)
    assert line.peer.calls[-1] == ("closing", 1001)


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_connection_is_found_and_nothing_raised(line: Line, reset: bool) -> None:
    if reset:
        line.client.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )  # so that closing resets
    line.client.close()
    with capturedLogs() as events:
        for _ in range(3):
            line.peer.send(A)
            line.reactor.advance(0)
        line.reactor.turn()
        assert line.ended
        line.peer.send(B)
        assert framed(*line.peer.reclaim()) == framed(B)
        line.peer.send(B)
        line.reactor.advance(0)
    assert line.peer.calls[-1] == ("closing", None)
    assert [each for each in events if each["log_level"] >= LogLevel.error] == []


def test_a_broken_pipe_leaves_it_to_the_transport(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(data: bytes, flags: int = 0) -> int:
        raise BrokenPipeError(errno.EPIPE, "broken")

    monkeypatch.setattr(line.socket, "send", send)
    line.peer.send(A)
    line.reactor.advance(0)
    assert line.peer.state == line.peer.STATE_OPEN
    line.reactor.turn()
    assert line.peer.calls == [("closing", None)]


def test_an_aborted_connection_sends_nothing_more(line: Line) -> None:
    line.socket.room = 2
    line.peer.send(A)
    line.reactor.turn()
    line.peer.send(B)
    line.peer.abort()
    line.peer.send(C)
    line.socket.room = float("inf")
    for _ in range(3):
        line.reactor.turn()
    assert sum(line.socket.sent) == 2
    assert line.ended
    assert line.peer.calls[-1] == ("closing", None)


def test_texts_come_in_and_answers_go_out(line: Line) -> None:
    line.peer.on_text = lambda text: line.peer.send(Message(text))
    texts = [b"%d" % number * (number % 50) for number in range(200)]
    line.client.sendall(b"".join(map(client_frame, texts)))
    expected = framed(*map(Message, texts))
    assert line.read(len(expected)) == expected
    assert line.peer.heard == [text.decode() for text in texts]
    assert {opcode for opcode, _ in server_frames(expected)} == {Opcode.TEXT}


def test_a_connection_that_closes_can_be_aborted(line: Line) -> None:
    line.socket.room = 10
    line.peer.send(LONG)
    line.reactor.turn()
    line.client.sendall(close_frame(1000))
    line.reactor.turn_until(lambda: line.transport.disconnecting)
    line.reactor.turn()
    assert not line.ended
    line.peer.abort()
    line.reactor.turn_until(lambda: line.ended)
    assert line.peer.calls[-1] == ("closing", 1000)


def test_a_connection_that_closes_is_not_watched_any_more(line: Line) -> None:
    """Else its descriptor, if a forked process has it, too, wakes the reactor for ever."""
    line.socket.room = 10
    line.peer.send(LONG)
    line.reactor.turn()
    assert len(line.reactor.getReaders()) == 1
    line.client.sendall(close_frame(1000))
    line.reactor.turn_until(lambda: line.transport.disconnecting)
    assert line.reactor.getReaders() == []


def test_a_connection_that_is_lost_is_forgotten_while_its_socket_is_open(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_reading = line.peer.factory.stop_reading
    was_open = []

    def look(source: int | None) -> None:
        if source is not None:
            was_open.append(not line.ended)
        stop_reading(source)

    monkeypatch.setattr(line.peer.factory, "stop_reading", look)
    line.transport.connectionLost(Failure(ConnectionError()))
    assert was_open == [True]
    assert line.reactor.getReaders() == []
