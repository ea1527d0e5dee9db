"""How long the process of a peer takes to answer a ping, without the network."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from acebase_ipc.relay.work import SLICE
from acebase_ipc.rotation import TURN
from acebase_ipc.testing import MemoryPeer, Opcode
from acebase_ipc.websocket.connection import CHECK
from acebase_ipc.websocket.connections import PING
from acebase_ipc.websocket.network import round_trip
from tests.admin.relay import AdminRelay

TCP_INFO = (socket.IPPROTO_TCP, getattr(socket, "TCP_INFO", 11))

NONE_YET = (2**32 - 1) / 1e6
"""What Linux tells of the shortest time before there is one."""

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="no TCP_INFO")


def tcp_info(smoothed: float, shortest: float) -> bytes:
    """What Linux tells of a connection, as far as it is read."""
    info = bytearray(152)
    struct.pack_into("=I", info, 68, round(smoothed * 1e6))
    struct.pack_into("=I", info, 148, round(shortest * 1e6))
    return bytes(info)


def lag_of(relay: AdminRelay, peer: MemoryPeer) -> float | None:
    peers = relay.see("databases/shop_data")["peers"]
    (lag,) = [each["lag"] for each in peers if each["id"] == peer.id]
    return None if lag is None else float(lag)


def pings_to(peer: MemoryPeer) -> list[bytes]:
    """The payloads of the pings that have come since the last time."""
    return [each.payload for each in peer.frames() if each.opcode == Opcode.PING]


def wait_for_ping(relay: AdminRelay, peer: MemoryPeer) -> bytes:
    for _ in range(30):
        relay.pass_time(1)
        for payload in pings_to(peer):
            return payload
    raise AssertionError("no ping")


def pong(peer: MemoryPeer, payload: bytes) -> None:
    peer.send(payload, Opcode.PONG)


@pytest.mark.parametrize("tls", [False, True])
def test_the_time_to_the_pong_is_the_lag(tls: bool) -> None:
    with AdminRelay(tls=tls) as relay:
        alice = relay.join("alice")
        alice.answers = False
        assert lag_of(relay, alice) is None
        ping = wait_for_ping(relay, alice)
        relay.pass_time(0.7)
        pong(alice, ping)
        assert lag_of(relay, alice) == pytest.approx(0.7)
        alice.answers = True
        relay.pass_time(30)
        assert lag_of(relay, alice) == 0


@pytest.mark.parametrize(("smoothed", "shortest"), [(0.4, 0.2), (0.2, NONE_YET)])
def test_the_network_does_not_count(smoothed: float, shortest: float) -> None:
    with AdminRelay() as relay:
        alice = relay.join("alice")
        alice.answers = False
        alice.connection.options[TCP_INFO] = tcp_info(smoothed, shortest)
        ping = wait_for_ping(relay, alice)
        relay.pass_time(0.7)
        pong(alice, ping)
        assert lag_of(relay, alice) == pytest.approx(0.5)
        alice.connection.options[TCP_INFO] = tcp_info(1, 1)
        pong(alice, wait_for_ping(relay, alice))
        assert lag_of(relay, alice) == 0, "never negative"


def test_a_peer_that_is_not_silent_is_measured_too_and_once_in_an_interval() -> None:
    with AdminRelay() as relay:
        alice = relay.join("alice")
        pings = 0
        for _ in range(200):
            relay.pass_time(1)
            alice.say("x")
            pings += len(pings_to(alice))
        assert 200 // 25 - 1 <= pings <= 200 // 25
        assert lag_of(relay, alice) == 0


def test_a_peer_that_is_pinged_again_before_it_answers_is_measured_by_the_first_ping() -> None:
    with AdminRelay(keepalive_interval=5, keepalive_timeout=60) as relay:
        alice = relay.join("alice")
        alice.answers = False
        first = wait_for_ping(relay, alice)
        relay.pass_time(6)
        (second,) = pings_to(alice)
        pong(alice, first)
        assert lag_of(relay, alice) == pytest.approx(6, abs=0.5)
        third = wait_for_ping(relay, alice)
        relay.pass_time(1)
        pong(alice, second)
        relay.pass_time(1)
        pong(alice, third)
        assert lag_of(relay, alice) == pytest.approx(2, abs=0.5)


def test_a_pong_answers_all_pings_before_it() -> None:
    with AdminRelay(keepalive_interval=5, keepalive_timeout=60) as relay:
        alice = relay.join("alice")
        alice.answers = False
        wait_for_ping(relay, alice)
        relay.pass_time(6)
        pong(alice, pings_to(alice)[-1])
        assert lag_of(relay, alice) == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize("payload", [b"", b"0", b"x", b"\xb2", CHECK])
def test_a_pong_that_nobody_asked_for_measures_nothing(payload: bytes) -> None:
    with AdminRelay() as relay:
        alice = relay.join("alice")
        alice.answers = False
        pong(alice, payload)
        ping = wait_for_ping(relay, alice)
        pong(alice, payload)
        assert lag_of(relay, alice) is None
        if payload != CHECK:
            pong(alice, ping)
            assert lag_of(relay, alice) == pytest.approx(0, abs=0.5)


def test_a_peer_that_is_full_is_not_pinged_unless_it_is_silent() -> None:
    with AdminRelay() as relay:
        alice, bobby = relay.join_all("alice", "bobby")
        bobby.stop_reading()
        while not relay.see("databases/shop_data")["peers"][1]["is_full"]:
            alice.say("to:bobby;" + "x" * 16_000)
        for _ in range(100):
            relay.pass_time(1)
            bobby.say("x")
        bobby.resume_reading()
        assert pings_to(bobby) == []
        assert lag_of(relay, bobby) is None


def test_nothing_is_measured_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(socket, "TCP_INFO")
    with AdminRelay() as relay:
        alice = relay.join("alice")
        relay.pass_time(30)
        assert lag_of(relay, alice) is None


def test_peers_that_have_connected_together_are_pinged_in_several_turns() -> None:
    count = 3 * TURN // PING
    with AdminRelay(keepalive_interval=5, keepalive_timeout=60) as relay:
        peers = []
        for number in range(count):
            peer = relay.join("alice", f"db{number}")
            peer.answers = False
            peers.append(peer)
        relay.pass_time(4)
        assert sum(len(pings_to(each)) for each in peers) == 0
        relay.reactor.turn(1)
        in_turns = [sum(len(pings_to(each)) for each in peers)]
        while relay.turn():
            in_turns.append(sum(len(pings_to(each)) for each in peers))
        assert sum(in_turns) == count
        assert max(in_turns) <= TURN // PING + SLICE // PING


@contextmanager
def connected(family: socket.AddressFamily, address: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection of the system's own."""
    with closing(socket.socket(family)) as listener:
        listener.bind(address)
        listener.listen()
        with closing(socket.socket(family)) as client:
            client.connect(listener.getsockname())
            with closing(listener.accept()[0]) as server:
                yield server


class Transport:
    """A transport with a socket, or one around another."""

    def __init__(self, handle: object, transport: Transport | None = None) -> None:
        self.transport = transport
        self.getHandle = lambda: handle


def test_the_system_tells_the_time_that_a_network_takes() -> None:
    with connected(socket.AF_INET, ("127.0.0.1", 0)) as server:
        inner = Transport(server)
        for transport in (inner, Transport(object(), inner)):
            took = round_trip(transport)
            assert took is not None
            assert 0 < took < 0.5


def test_a_unix_socket_takes_no_time() -> None:
    one, two = socket.socketpair()
    with closing(one), closing(two):
        assert round_trip(Transport(one)) == 0


def test_a_transport_without_a_socket_tells_nothing() -> None:
    assert round_trip(Transport(None)) is None
    assert round_trip(object()) is None
