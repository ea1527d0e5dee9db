"""WebSockets over TLS: with the shorter way through TLS, and with Twisted's alone."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from OpenSSL import SSL

from acebase_ipc.testing import (
    DATABASE,
    MemoryConnection,
    MemoryRelay,
    Opcode,
    client_frame,
    close_payload,
    http_request,
    server_frames,
    upgrade_request,
)
from acebase_ipc.websocket import _autobahn
from acebase_ipc.websocket.tls import RECORD, TLSSocket, tls_socket

TARGET = f"/{DATABASE}/connect?id={{}}&v=1.0.0&t="


@pytest.fixture(params=[True, False], ids=["direct", "Twisted"])
def is_direct(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether TLS takes the shorter way."""
    direct: bool = request.param
    if not direct:
        monkeypatch.setattr(_autobahn, "TLS_IS_KNOWN", False)
    return direct


@pytest.fixture
def relay(is_direct: bool) -> MemoryRelay:
    return MemoryRelay(tls=True)


def connections(relay: MemoryRelay) -> list[Any]:
    """The relay's ends of the WebSockets."""
    return list(relay.server._parts.connections.factory.connections)


def end_of(relay: MemoryRelay, client_id: str) -> Any:
    """The relay's end of the WebSocket of a client."""
    (end,) = (each for each in connections(relay) if each.listener.handshake.client_id == client_id)
    return end


class Client:
    """A client whose records a test cuts and delays.

    :ivar session: its session of OpenSSL.
    """

    def __init__(
        self, relay: MemoryRelay, client_id: str, version: int = 0, before: bytes = b""
    ) -> None:
        """:param before: a request that it sends together with the handshake."""
        assert relay.port is not None
        sock = relay.reactor.connect(relay.port, "192.0.2.1")
        self.wire = MemoryConnection(relay.reactor, sock, relay.settle, secure=False)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        if version:
            context.set_max_proto_version(version)
        self.session = SSL.Connection(context, None)
        self.session.set_connect_state()
        self.shake_hands()
        self.say(before + upgrade_request(TARGET.format(client_id)))
        heard = self.hear()
        if before:
            first, _, heard = heard.partition(b"\r\n\r\nok")
            assert first.startswith(b"HTTP/1.1 200 ")
        head, _, rest = heard.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        self.frames = rest

    def shake_hands(self) -> None:
        """Complete a handshake of TLS."""
        for _ in range(4):
            try:
                self.session.do_handshake()
            except SSL.WantReadError:
                self.wire.send(self.records())
                self._receive()
            else:
                break
        self.wire.send(self.records())

    def records(self) -> bytes:
        """What has to be sent."""
        try:
            return self.session.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""

    def encrypt(self, data: bytes) -> bytes:
        """Return the records of *data*."""
        records = b""
        for start in range(0, len(data), RECORD):
            self.session.send(data[start : start + RECORD])
            records += self.records()
        return records

    def say(self, data: bytes) -> None:
        """Send *data*."""
        self.wire.send(self.encrypt(data))

    def _receive(self) -> None:
        data = self.wire.take()
        if data:
            self.session.bio_write(data)

    def hear(self) -> bytes:
        """Return what has come."""
        self._receive()
        heard = b""
        try:
            while True:
                heard += self.session.recv(1 << 20)
        except (SSL.WantReadError, SSL.ZeroReturnError):
            return heard

    def texts(self) -> list[bytes]:
        """Return the messages that have come, and were not returned before."""
        data, self.frames = self.frames + self.hear(), b""
        return [text for opcode, text in server_frames(data) if opcode == Opcode.TEXT]


@pytest.fixture
def clients(relay: MemoryRelay) -> Iterator[tuple[Client, Client]]:
    alice, bobby = Client(relay, "alice"), Client(relay, "bobby")
    assert alice.texts()[1:] == [b"connect:bobby"]
    assert len(bobby.texts()) == 1
    yield alice, bobby
    assert not relay.errors


def test_the_way_through_tls_is_the_one_that_is_tested(
    relay: MemoryRelay, clients: tuple[Client, Client], is_direct: bool
) -> None:
    assert [isinstance(each._socket, TLSSocket) for each in connections(relay)] == [is_direct] * 2
    assert [each._source is not None for each in connections(relay)] == [is_direct] * 2


@pytest.mark.parametrize("size", [1, 1000, RECORD - 10, RECORD, RECORD + 1, 200_000])
def test_messages_of_any_size_arrive(is_direct: bool, size: int) -> None:
    relay = MemoryRelay(tls=True, max_payload=1 << 20)
    alice, bobby = Client(relay, "alice"), Client(relay, "bobby")
    bobby.texts()
    text = random.Random(size).randbytes(size).hex().encode()[:size]
    alice.say(client_frame(text) + client_frame(b"end"))
    assert bobby.texts() == [b"msg:" + text, b"msg:end"]


def test_records_may_be_cut_anywhere(clients: tuple[Client, Client]) -> None:
    alice, bobby = clients
    records = alice.encrypt(client_frame(b"one")) + alice.encrypt(client_frame(b"two"))
    for cut in range(len(records)):
        alice.wire.send(records[cut : cut + 1])
    assert bobby.texts() == [b"msg:one", b"msg:two"]


def test_many_records_may_arrive_together(clients: tuple[Client, Client]) -> None:
    alice, bobby = clients
    alice.wire.send(b"".join(alice.encrypt(client_frame(b"%d" % each)) for each in range(100)))
    assert bobby.texts() == [b"msg:%d" % each for each in range(100)]


def test_messages_of_one_turn_leave_in_one_record(
    relay: MemoryRelay, clients: tuple[Client, Client]
) -> None:
    alice, bobby = clients
    before = len(bobby.wire.writes)
    alice.say(b"".join(client_frame(b"%d" % each) for each in range(10)))
    assert len(bobby.wire.writes) == before + 1
    assert len(bobby.texts()) == 10


def test_a_client_that_does_not_read_gets_all_in_order_later(
    relay: MemoryRelay, clients: tuple[Client, Client]
) -> None:
    alice, bobby = clients
    bobby.wire.stop_reading(100)
    said = [b"%d" % each + b"x" * 5000 for each in range(200)]
    for each in said:
        alice.say(client_frame(each))
    end = end_of(relay, "bobby")
    assert end.is_full
    assert end.memory > 64 * 1024
    bobby.wire.resume_reading()
    assert bobby.texts() == [b"msg:" + each for each in said]
    assert not end.is_full
    assert end.memory == 0
    alice.say(client_frame(b"again"))
    assert bobby.texts() == [b"msg:again"]


@pytest.mark.parametrize("reads_slowly", [False, True])
def test_the_relay_may_close(
    relay: MemoryRelay, clients: tuple[Client, Client], reads_slowly: bool
) -> None:
    _, bobby = clients
    if reads_slowly:
        bobby.wire.stop_reading(1)
    end_of(relay, "bobby").close(4000, "enough")
    bobby.wire.resume_reading()
    heard = bobby.hear()
    assert list(server_frames(heard)) == [(Opcode.CLOSE, close_payload(4000, b"enough"))]
    bobby.say(client_frame(close_payload(4000, b""), Opcode.CLOSE))
    assert bobby.wire.ended is not None
    assert len(connections(relay)) == 1


@pytest.mark.parametrize("with_message", [False, True])
@pytest.mark.parametrize("ends_tcp", [False, True])
def test_a_client_may_end_tls(
    relay: MemoryRelay, clients: tuple[Client, Client], with_message: bool, ends_tcp: bool
) -> None:
    alice, bobby = clients
    records = alice.encrypt(client_frame(b"bye")) if with_message else b""
    alice.session.shutdown()
    alice.wire.send(records + alice.records())
    if ends_tcp:
        alice.wire.close()
    else:
        assert alice.wire.ended == "closed"
    assert bobby.texts() == [b"msg:bye"] * with_message + [b"disconnect:alice"]
    assert len(connections(relay)) == 1


def test_a_connection_ends_without_the_end_of_tls(
    relay: MemoryRelay, clients: tuple[Client, Client]
) -> None:
    alice, bobby = clients
    alice.wire.close()
    assert bobby.texts() == [b"disconnect:alice"]
    assert len(connections(relay)) == 1


@pytest.mark.parametrize("with_message", [False, True])
def test_a_broken_record_ends_the_connection(
    relay: MemoryRelay, clients: tuple[Client, Client], with_message: bool
) -> None:
    alice, bobby = clients
    records = alice.encrypt(client_frame(b"good")) if with_message else b""
    broken = bytearray(alice.encrypt(client_frame(b"bad")))
    broken[-1] ^= 1
    alice.wire.send(records + broken)
    assert alice.wire.ended == "closed"
    assert bobby.texts() == [b"msg:good"] * with_message + [b"disconnect:alice"]
    assert len(connections(relay)) == 1


def test_a_connection_that_is_lost_after_the_end_of_tls_is_ended_once(
    relay: MemoryRelay, clients: tuple[Client, Client]
) -> None:
    alice, bobby = clients
    alice.session.shutdown()
    alice.wire.send(alice.records(), settle=False)
    alice.wire.reset()
    assert bobby.texts() == [b"disconnect:alice"]
    assert len(connections(relay)) == 1


def test_another_handshake_is_refused_at_once(relay: MemoryRelay) -> None:
    alice = Client(relay, "alice", SSL.TLS1_2_VERSION)
    alice.session.renegotiate()
    with pytest.raises(SSL.WantReadError):
        alice.session.do_handshake()
    alice.wire.send(alice.records())
    alice.session.bio_write(alice.wire.take())
    with pytest.raises(SSL.Error, match="no renegotiation"):
        alice.session.do_handshake()
    assert len(connections(relay)) == 1


def test_the_answer_to_the_handshake_does_not_overtake_an_earlier_response(
    relay: MemoryRelay,
) -> None:
    client = Client(relay, "alice", before=http_request("GET", "/healthz"))
    assert len(client.texts()) == 1


def test_a_record_does_not_overtake_what_the_system_has_not_accepted(is_direct: bool) -> None:
    relay = MemoryRelay(tls=True, max_payload=1 << 20)
    alice, bobby = Client(relay, "alice"), Client(relay, "bobby")
    bobby.texts()
    text = b"x" * (2 * RECORD) + b"y" * RECORD
    far = bobby.wire._socket.other
    send, room = far.send, iter([5000, 0])

    def send_a_part(data: bytes, flags: int = 0) -> int:
        """Take a part of the first record, nothing more of it, and then all."""
        return send(data[: next(room, None)], flags)

    far.send = send_a_part  # type: ignore[method-assign]
    alice.say(client_frame(text))
    assert bobby.texts() == [b"msg:" + text]


def test_twisted_need_not_notice_the_end_of_a_connection_that_is_lost(relay: MemoryRelay) -> None:
    alice = Client(relay, "alice")
    handle = tls_socket(end_of(relay, "alice").transport, lambda: None)
    alice.wire.reset()
    if handle is not None:  # on the shorter way
        handle.end()
    assert connections(relay) == []


def test_what_is_read_in_a_crowd_is_what_was_sent(relay: MemoryRelay) -> None:
    peers = relay.join_all(*(f"peer-{each}" for each in range(30)))
    said = random.Random(1)
    for peer in peers:
        peer.received()
    for turn in range(5):
        for peer in peers:
            text = f"{turn} {said.random()}" * said.randrange(1, 300)
            peer.connection.send(client_frame(text.encode()), settle=False)
        relay.settle()
    heard = [peer.received() for peer in peers]
    assert [len(each) for each in heard] == [5 * 29] * 30
    assert {text for each in heard for text in each} == set(heard[0]) | set(heard[1])


def test_a_tls_port_takes_clients_of_the_standard_library(relay: MemoryRelay) -> None:
    assert relay.port is not None
    assert relay.certificate is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(cafile=str(relay.certificate))
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    sock = relay.reactor.connect(relay.port, "192.0.2.1")
    wire = MemoryConnection(relay.reactor, sock, relay.settle, secure=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    wire.send(outgoing.read())
    incoming.write(wire.take())
    client.do_handshake()
    client.write(upgrade_request(TARGET.format("alice")))
    wire.send(outgoing.read())
    incoming.write(wire.take())
    (bobby,) = relay.join_all("bobby")
    bobby.say("hello")
    incoming.write(wire.take())
    heard = b""
    with suppress(ssl.SSLWantReadError):
        while True:
            heard += client.read(1 << 20)
    assert heard.startswith(b"HTTP/1.1 101 ")
    assert heard.endswith(b"msg:hello")
