"""What others test their programs with is itself tested here."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import (
    CannotListenError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

import acebase_ipc.testing
from acebase_ipc import AceBaseIPCServerConfig, Dialect, SSLConfig
from acebase_ipc.testing import (
    Frame,
    FrameError,
    FrameReader,
    HandshakeRefused,
    LengthForm,
    MemoryPeer,
    MemoryReactor,
    MemoryRelay,
    Opcode,
    RelayNotStarted,
    chunk,
    client_frame,
    close_frame,
    http_request,
    parse_responses,
    ping_frame,
    running_relay,
    server_frames,
)
from acebase_ipc.testing.sockets import connected_sockets
from tests.certificates import make_certificate, make_pfx

PROJECT = Path(__file__).parents[1]
PAGE = PROJECT / "docs" / "testing-programs.rst"
MODULES = ("connection", "frames", "http", "peers", "reactor", "relay", "running", "sockets")

COMMAND_TIMEOUT = 120.0
"""Seconds. A command takes a few; a loaded machine may take many."""

CLIENT = ("127.0.0.1", 40_000)
SERVER = ("127.0.0.1", 9163)


def environment() -> dict[str, str]:
    """An environment in which the package can be imported from anywhere."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


# The documents


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"acebase_ipc.testing.{module}"))
    assert result.failed == 0


def examples() -> dict[str, str]:
    """The files that the page shows."""
    core, nodes = (importlib.import_module(f"docutils.{each}") for each in ("core", "nodes"))
    tree = core.publish_doctree(
        PAGE.read_text(encoding="utf-8").replace(":class:", "").replace(":func:", ""),
        settings_overrides={"report_level": 5},
    )
    blocks = tree.findall(nodes.literal_block)
    return {name: each.astext() + "\n" for each in blocks for name in each["names"]}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the page shows."""
    directory = tmp_path_factory.mktemp("shown")
    for name, text in examples().items():
        directory.joinpath(name).write_text(text, encoding="utf-8")
    return directory


def run_python(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python until it, and all that has inherited its stderr, has ended."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT,
    )


def run(directory: Path, *command: str) -> str:
    """What a command writes, which has to succeed."""
    result = run_python("-m", *command, directory=directory)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_examples_of_the_page_pass_with_pytest(shown: Path) -> None:
    names = [each for each in examples() if each.startswith("test_") and "trial" not in each]
    assert len(names) == 6
    output = run(shown, "pytest", "-p", "no:cacheprovider", "-q", *names)
    assert "10 passed" in output, output


def test_the_fixture_needs_no_reactor(shown: Path) -> None:
    output = run(
        shown, "pytest", "-p", "no:cacheprovider", "-p", "no:twisted", "-q", "test_with_pytest.py"
    )
    assert "1 passed" in output, output


def test_the_example_of_the_page_passes_with_trial(shown: Path) -> None:
    assert "PASSED (successes=1)" in run(shown, "twisted.trial", "test_with_trial")


def test_the_public_names_are_there() -> None:
    for name in acebase_ipc.testing.__all__:
        assert getattr(acebase_ipc.testing, name) is not None
    reference = PROJECT.joinpath("docs", "api-testing.rst").read_text(encoding="utf-8")
    constants = {"DATABASE", "START"}
    missing = [each for each in acebase_ipc.testing.__all__ if f":: {each}\n" not in reference]
    assert set(missing) == constants


def test_only_the_plugin_needs_pytest() -> None:
    code = "import sys, acebase_ipc.testing; print('pytest' in sys.modules)"
    loaded = run_python("-c", code)
    assert loaded.stdout == "False\n"


# Frames


@given(
    payload=st.binary(max_size=200) | st.just(b"x" * 70_000),
    opcode=st.sampled_from(Opcode),
    mask=st.none() | st.binary(min_size=4, max_size=4),
    piece=st.integers(1, 50),
)
def test_what_is_written_can_be_read_whatever_the_pieces(
    payload: bytes, opcode: Opcode, mask: bytes | None, piece: int
) -> None:
    data = client_frame(payload, opcode, mask=mask)
    reader = FrameReader(masked=mask is not None)
    step = max(piece, len(data) // 50)
    frames: list[Frame] = []
    for start in range(0, len(data), step):
        assert frames == []
        frames += reader.feed(data[start : start + step])
    assert frames == [Frame(opcode, payload)]
    assert reader.unread == b""


@pytest.mark.parametrize(
    ("frame", "head"),
    [
        (client_frame("ab"), "81 82 37 fa 21 3d"),
        (client_frame("ab", mask=None), "81 02"),
        (client_frame("ab", final=False), "01 82 37 fa 21 3d"),
        (client_frame("ab", Opcode.CONTINUATION, rsv=5), "d0 82 37 fa 21 3d"),
        (client_frame("ab", form=LengthForm.BITS_16), "81 fe 00 02 37 fa 21 3d"),
        (client_frame("ab", form=LengthForm.BITS_64), "81 ff" + 7 * " 00" + " 02 37 fa 21 3d"),
        (client_frame("ab", length=70_000), "81 ff 00 00 00 00 00 01 11 70 37 fa 21 3d"),
        (client_frame(b"x" * 126, mask=None)[:4], "81 7e 00 7e"),
        (client_frame(b"x" * 65_536, mask=None)[:10], "81 7f 00 00 00 00 00 01 00 00"),
    ],
)
def test_a_frame_can_be_written_in_every_form(frame: bytes, head: str) -> None:
    assert frame.hex(" ").startswith(head)


def test_control_frames() -> None:
    reader = FrameReader(masked=True)
    assert reader.feed(ping_frame(b"?")) == [Frame(Opcode.PING, b"?")]
    (close,) = reader.feed(close_frame(1001, "going away"))
    assert (close.close_code, close.close_reason) == (1001, "going away")
    (empty,) = FrameReader(masked=True).feed(close_frame())
    assert (empty.close_code, empty.close_reason) == (0, "")


@pytest.mark.parametrize(
    "data",
    [
        client_frame("masked"),
        client_frame("a fragment", mask=None, final=False),
        client_frame("a reserved bit", mask=None, rsv=4),
        client_frame("too long a form", mask=None, form=LengthForm.BITS_16),
        client_frame(b"x" * 300, mask=None, form=LengthForm.BITS_64),
        client_frame(b"\x03\xe8", Opcode.CLOSE, mask=None) + client_frame("late", mask=None),
        client_frame("cut off", mask=None)[:-1],
    ],
)
def test_what_a_relay_never_sends_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        server_frames(data)


def test_an_unmasked_frame_of_a_client_is_refused() -> None:
    with pytest.raises(FrameError):
        FrameReader(masked=True).feed(client_frame("hello", mask=None))


# Responses


def test_responses_are_read_one_after_the_other() -> None:
    data = (
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunk(b"hel")
        + chunk(b"lo")
        + chunk(b"")
        + b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x00"
    )
    found = [(each.status, each.text) for each in parse_responses(data)]
    assert found == [(100, ""), (200, "ok"), (200, "hello"), (101, "")]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    ],
)
def test_a_response_that_is_cut_off_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|whole"):
        list(parse_responses(data))


# Sockets


def readable(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


def test_a_socket_is_readable_exactly_while_there_is_something_to_read() -> None:
    near, far = connected_sockets(CLIENT, SERVER)
    assert not readable(far)
    with pytest.raises(BlockingIOError):
        far.recv(10)
    near.send(b"hello")
    near.send(b" world")
    assert readable(far)
    assert far.recv(3) == b"hel"
    assert readable(far)
    assert far.recv(100) == b"lo world"
    assert not readable(far)
    assert (far.getsockname(), far.getpeername()) == (SERVER, CLIENT)


def test_what_was_sent_is_read_before_the_end() -> None:
    near, far = connected_sockets(CLIENT, SERVER)
    near.send(b"bye")
    near.close()
    assert far.recv(10) == b"bye"
    assert readable(far)
    assert far.recv(10) == b""


def test_a_reset_loses_what_was_not_read() -> None:
    near, far = connected_sockets(CLIENT, SERVER)
    near.send(b"lost")
    near.reset()
    assert readable(far)
    with pytest.raises(ConnectionResetError):
        far.recv(10)
    with pytest.raises(ConnectionResetError):
        far.send(b"too late")


def test_the_network_can_break_a_connection_for_both_ends() -> None:
    near, far = connected_sockets(CLIENT, SERVER)
    near.cut()
    for each in (near, far):
        assert readable(each)
        with pytest.raises(ConnectionResetError):
            each.recv(10)


def test_a_full_socket_takes_as_much_as_there_is_room() -> None:
    near, far = connected_sockets(CLIENT, SERVER)
    near.room = 3
    assert far.writable
    assert far.send(b"hello") == 3
    assert not far.writable
    with pytest.raises(BlockingIOError):
        far.send(b"lo")
    near.room = None
    assert far.send(b"lo") == 2
    assert near.recv(10) == b"hello"
    assert far.writes == [b"hel", b"lo"]


# The reactor


class Echo(Protocol):
    """Sends back what comes; closes after ``bye``, aborts after ``abort``."""

    def __init__(self) -> None:
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)
        if data == b"bye":
            transport.loseConnection()
        if data == b"abort":
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Sender(Echo):
    """Sends something and keeps what comes."""

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.heard = b""
        self._pieces = pieces

    def connectionMade(self) -> None:
        transport: Any = self.transport
        for each in self._pieces:
            transport.write(each)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data


def connect(reactor: MemoryReactor, port: int, protocol: Protocol) -> list[object]:
    """What connecting with an endpoint results in."""
    results: list[object] = []
    factory = Factory.forProtocol(lambda: protocol)
    connecting: Deferred[Any] = TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
    connecting.addBoth(results.append)
    reactor.settle()
    return results


@pytest.fixture
def reactor() -> MemoryReactor:
    """A reactor on which an echo listens at port 7."""
    reactor = MemoryReactor()
    reactor.listenTCP(7, Factory.forProtocol(Echo))
    return reactor


@pytest.mark.parametrize("size", [1, 100, 1_000_000])
def test_clients_of_twisted_connect_to_servers_of_twisted(
    reactor: MemoryReactor, size: int
) -> None:
    sender = Sender(b"x" * size)
    assert connect(reactor, 7, sender) == [sender]
    assert sender.heard == b"x" * size
    transport: Any = sender.transport
    assert (transport.getPeer().port, transport.getHost().port) == (7, 40_000)


@pytest.mark.parametrize(("word", "reason"), [(b"bye", ConnectionDone), (b"abort", ConnectionLost)])
def test_a_client_learns_how_the_server_ends_its_connection(
    reactor: MemoryReactor, word: bytes, reason: type[Exception]
) -> None:
    sender = Sender(word)
    connect(reactor, 7, sender)
    assert sender.lost is not None
    assert sender.lost.check(reason)


def test_where_nobody_listens_a_connection_is_refused(reactor: MemoryReactor) -> None:
    (failure,) = connect(reactor, 8, Sender())
    assert isinstance(failure, Failure)
    assert failure.check(ConnectionRefusedError)
    reactor.ports[0].stopListening()
    (failure,) = connect(reactor, 7, Sender())
    assert isinstance(failure, Failure)


def test_the_network_breaks_all_connections(reactor: MemoryReactor) -> None:
    sender = Sender(b"hello")
    connect(reactor, 7, sender)
    reactor.cut_connections()
    reactor.settle()
    assert sender.lost is not None
    assert sender.lost.check(ConnectionLost)


def test_a_port_that_is_taken_cannot_be_listened_on(reactor: MemoryReactor) -> None:
    with pytest.raises(CannotListenError):
        reactor.listenTCP(7, Factory.forProtocol(Echo))
    reactor.ports[0].stopListening()
    reactor.taken.add(7)
    with pytest.raises(CannotListenError):
        reactor.listenTCP(7, Factory.forProtocol(Echo))
    reactor.taken.remove(7)
    assert reactor.listenTCP(7, Factory.forProtocol(Echo)).number == 7


def test_any_port_is_one_that_is_free() -> None:
    reactor = MemoryReactor(taken=[9163])
    ports = [reactor.listenTCP(0, Factory.forProtocol(Echo)).number for _ in range(2)]
    assert ports == [9164, 9165]


def test_time_passes_in_steps(reactor: MemoryReactor) -> None:
    times: list[float] = []

    def note() -> None:
        times.append(reactor.seconds())
        reactor.callLater(1, note)

    reactor.callLater(1, note)
    reactor.pass_time(3.2)
    assert times == [1, 2, 3]
    assert reactor.seconds() == pytest.approx(3.2)


def test_what_is_scheduled_in_a_turn_is_done_in_the_next_one(reactor: MemoryReactor) -> None:
    done: list[str] = []

    def first() -> None:
        done.append("first")
        reactor.callLater(0, done.append, "later")

    reactor.callLater(0, first)
    reactor.callLater(0, done.append, "second")
    assert reactor.turn()
    assert done == ["first", "second"]
    assert reactor.turn()
    assert done == ["first", "second", "later"]
    assert not reactor.turn()


@pytest.mark.parametrize("change", ["cancel", "reset"])
def test_what_is_due_can_be_cancelled_and_delayed_in_the_same_turn(
    reactor: MemoryReactor, change: str
) -> None:
    done: list[float] = []
    changes: dict[str, Callable[[], None]] = {
        "cancel": lambda: call.cancel(),
        "reset": lambda: call.reset(2),
    }
    reactor.callLater(1, changes[change])
    call: Any = reactor.callLater(1, lambda: done.append(reactor.seconds()))
    reactor.pass_time(5)
    assert done == ([] if change == "cancel" else [3])


def test_turns_are_not_nested(reactor: MemoryReactor) -> None:
    nested: list[bool] = []
    reactor.callLater(0, lambda: nested.append(reactor.turn()))
    reactor.callLater(0, lambda: reactor.pass_time(1))
    with pytest.raises(RuntimeError):
        reactor.turn()
    assert nested == [False]


def test_a_relay_can_be_watched_turn_by_turn() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    alice.connection.send(client_frame(b"hello"), settle=False)
    assert bobby.received() == []
    assert relay.turn()
    relay.turn()
    assert bobby.received() == ["msg:hello"]
    relay.settle()
    assert not relay.turn()


def test_a_reactor_that_is_closed_has_forgotten_its_timers(reactor: MemoryReactor) -> None:
    for seconds in range(10):
        reactor.callLater(seconds, print)
    reactor.close()
    assert reactor.getDelayedCalls() == []


def test_a_reactor_that_is_closed_holds_no_descriptors() -> None:
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = held()
    relay = MemoryRelay()
    relay.join_all("alice", "bobby")
    assert held() > before
    MemoryReactor.close_all()
    assert held() == before


# A relay in memory


@pytest.fixture(params=["plain", "tls"])
def relay(request: pytest.FixtureRequest) -> Iterator[MemoryRelay]:
    with MemoryRelay(tls=request.param == "tls", max_payload=1000) as relay:
        yield relay


def test_the_relay_reads_its_websockets_by_one_descriptor() -> None:
    """As in production: see acebase_ipc.websocket.epoll."""
    relay = MemoryRelay()
    relay.settle()
    before = len(relay.reactor.getReaders())
    peers = relay.join_all("alice", "bobby", "carol")
    readers = len(relay.reactor.getReaders()) - before - len(peers)
    assert readers == (1 if hasattr(select, "epoll") else len(peers))
    peers[0].say("hello")
    assert [each.received() for each in peers[1:]] == [["msg:hello"]] * 2


def test_what_is_read_together_leaves_in_one_write() -> None:
    relay = MemoryRelay()
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    alice.say("1")  # alice and bobby have just been written to, so what follows is collected
    carol.received()
    before = len(carol.connection.writes)
    for each in (alice, bobby):
        each.connection.send(client_frame("to:carol;x") * 3, settle=False)
    relay.settle()
    assert carol.received() == ["msg:x"] * 6
    assert len(carol.connection.writes) - before == 1


def test_tls_is_spoken_on_the_wire() -> None:
    with MemoryRelay(tls=True) as relay:
        alice = relay.join("alice")
        alice.say("ping")
        assert alice.received() == ["pong"]
        data = b"".join(alice.connection.writes)
        assert data.startswith(b"\x16\x03\x03")  # a handshake record of TLS 1.2 or 1.3
        assert b"welcome" not in data
        assert relay.url == "wss://localhost:9163"


def test_tls_works_with_certificates_of_ones_own(tmp_path: Path) -> None:
    bundle = make_pfx(make_certificate(tmp_path), "passphrase")
    config = SSLConfig(pfx_path=str(bundle), passphrase="passphrase")
    with MemoryRelay(ssl=config) as relay:
        alice = relay.join("alice")
        alice.say("ping")
        assert alice.received() == ["pong"]


def test_clients_verify_the_certificate_made_for_the_occasion() -> None:
    with MemoryRelay(tls=True) as relay:
        trusting, doubting = relay.client("trusting"), relay.client("doubting", trust_root=None)
        for each in (trusting, doubting):
            each.startService()
        relay.pass_time(1)
        assert [each.id for each in relay.server.get_clients("shop_data")] == ["trusting"]
        for each in (trusting, doubting):
            each.stopService()


def test_peers_talk_post_and_download(relay: MemoryRelay) -> None:
    alice, bobby = relay.join_all("alice", "bobby")
    alice.say("one", "to:bobby;two")
    assert bobby.received() == ["msg:one", "msg:two"]
    assert alice.post("three").text == "ok"
    assert bobby.received() == ["msg:three"]
    alice.post(2000 * "x")
    (announcement,) = bobby.received()
    assert bobby.download(announcement).text == 2000 * "x"
    assert bobby.download("get:nothing").status == 404


def test_peers_may_have_any_id_and_database(relay: MemoryRelay) -> None:
    one = relay.join("ä & b", "my shop_data")
    other = relay.join_acebase("[master]", "my shop_data")
    assert [each.id for each in relay.server.get_clients("my shop_data")] == ["ä & b", "[master]"]
    other.say_envelope("notification", to="ä & b", data={"some": "thing"})
    assert json.loads(one.received()[-1].removeprefix("msg:")) == {
        "type": "notification",
        "from": "[master]",
        "to": "ä & b",
        "data": {"some": "thing"},
    }
    assert one.post("to:[master];{}").status == 200
    assert other.envelopes() == [{}]


@pytest.mark.parametrize("client_id", ["[master]", "a1b2c3d4e5f6g7h8i9j0k1l2", "short"])
def test_an_acebase_peer_is_one_to_the_relay(client_id: str) -> None:
    relay = MemoryRelay()
    relay.join_acebase(client_id)
    assert relay.logged(client_id, Dialect.ACEBASE.value)


@pytest.mark.parametrize("dialect", ["documented", "acebase"])
def test_a_peer_leaves_or_is_lost(dialect: str, relay: MemoryRelay) -> None:
    join = relay.join if dialect == "documented" else relay.join_acebase
    alice, left, lost = relay.join("alice"), join("leaver"), join("loser")
    alice.received()
    left.leave()
    assert left.close_code == 1000
    assert left.connection.ended is not None
    assert alice.received() == ["disconnect:leaver"]
    lost.lose()
    relay.pass_time(0 if dialect == "documented" else 16)
    assert alice.received() == ["disconnect:loser"]


def test_a_peer_that_does_not_read_gets_what_waited(relay: MemoryRelay) -> None:
    alice, bobby = relay.join_all("alice", "bobby")
    bobby.stop_reading(100)
    alice.say(*(f"to:bobby;{number:900}" for number in range(20)))
    assert len(bobby.received()) == 0
    bobby.resume_reading(5000)
    assert len(bobby.received()) < 20
    bobby.resume_reading()
    bobby.say("ping")
    assert bobby.received()[-1] == "pong"


def test_pings_and_close_frames_are_answered_unless_a_test_says_no() -> None:
    relay = MemoryRelay(keepalive_interval=5, keepalive_timeout=2)
    alice, bobby = relay.join_all("alice", "bobby")
    bobby.answers = False
    relay.pass_time(10)
    assert Opcode.PING in [each.opcode for each in alice.frames()]
    assert alice.connection.ended is None
    assert bobby.connection.ended is not None


def test_a_relay_is_told_why_a_handshake_is_refused() -> None:
    with MemoryRelay(token="secret") as relay:
        with pytest.raises(HandshakeRefused, match="403"):
            relay.join("alice", token="wrong")
        assert relay.join("alice", token="secret").id == "alice"
        assert relay.get("/shop_data/clients?t=secret").status == 200


def test_ports_can_be_chosen_for_the_peers_of_an_embedded_relay() -> None:
    relay = MemoryRelay(endpoints=("tcp:1000:interface=127.0.0.1", "tcp:2000"))
    alice = relay.join("alice")
    relay.port = relay.reactor.ports[1]
    relay.join("bobby")
    assert alice.received() == ["connect:bobby"]
    without = MemoryRelay(port=None)
    with pytest.raises(ValueError, match="no port"):
        without.connect()


def test_clients_may_come_from_other_hosts() -> None:
    relay = MemoryRelay()
    for host in ("192.0.2.7", "2001:db8::7"):
        connection = relay.connect(host)
        connection.send(http_request("GET", "/healthz"))
        assert connection.response().status == 200


def test_two_relays_can_share_a_reactor() -> None:
    one = MemoryRelay()
    other = MemoryRelay(reactor=one.reactor, port=0)
    assert (one.url, other.url) == ("ws://127.0.0.1:9163", "ws://127.0.0.1:9164")
    one.join("alice")
    other.join("bobby")
    assert [each.id for each in other.server.get_clients("shop_data")] == ["bobby"]


def test_a_relay_that_cannot_start_says_why() -> None:
    reactor = MemoryReactor(taken=[9163])
    with pytest.raises(CannotListenError):
        MemoryRelay(reactor=reactor)


def test_an_error_that_is_logged_fails_the_test_unless_it_is_expected() -> None:
    def fail() -> None:
        Logger().failure("the program is wrong", Failure(ZeroDivisionError()))

    strict = MemoryRelay()
    strict.reactor.callLater(1, fail)
    with pytest.raises(AssertionError, match="the program is wrong"):
        strict.pass_time(2)
    lenient = MemoryRelay(expect_errors=True)
    lenient.reactor.callLater(1, fail)
    lenient.pass_time(2)
    assert len(lenient.errors) == 1
    assert lenient.logged("the program is wrong")


def test_a_peer_that_acts_while_it_is_called_does_not_turn_the_reactor_again() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    acting: list[bool] = []
    said = 0

    def answer(data: bytes) -> None:
        nonlocal said
        assert not acting
        if said < 3:
            acting.append(True)
            alice.say("to:bobby;again")
            acting.clear()
            said += 1

    bobby.connection.on_data = answer
    alice.say("hello")
    assert said == 3


def test_a_relay_stops_at_the_end_of_the_block() -> None:
    with MemoryRelay() as relay:
        alice = relay.join("alice")
        client = relay.client("client")
        client.startService()
        relay.settle()
        client.stopService()
    assert alice.close_code == 1001
    assert relay.reactor.getDelayedCalls() == []


# A real relay


def test_a_real_relay_runs_as_it_is_configured() -> None:
    config = AceBaseIPCServerConfig(port=0, token="secret")
    with running_relay(config) as url:
        assert url.startswith("ws://127.0.0.1:")
        target = url.replace("ws", "http", 1) + "/shop_data/clients?t="
        with urlopen(target + "secret") as answer:
            assert answer.read() == b"[]"
        with pytest.raises(OSError, match="401"):
            urlopen(target + "wrong")
        with urlopen(url.replace("ws", "http", 1) + "/healthz") as answer:
            assert answer.status == 200
    with pytest.raises(OSError, match="refused"):
        urlopen(target + "secret")


def test_a_real_relay_that_does_not_start_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(RelayNotStarted),
            running_relay(AceBaseIPCServerConfig(port=port)),
        ):
            pass


def test_a_real_relay_ends_with_the_process_that_started_it() -> None:
    code = (
        "import os\n"
        "from acebase_ipc.testing import running_relay\n"
        "with running_relay() as url:\n"
        "    print(url, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    parent = run_python("-c", code)  # and the relay, which has inherited its stderr
    assert parent.returncode == -9
    port = int(parent.stdout.strip().rpartition(":")[2])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_peer_can_be_made_of_any_connection() -> None:
    relay = MemoryRelay()
    wire = relay.upgrade("/shop_data/connect?id=alice&v=1.0.0")
    peer = MemoryPeer("alice", wire)
    assert peer.welcome() == 16384
    with pytest.raises(HandshakeRefused):
        peer.welcome()
    with pytest.raises(TypeError):
        peer.post("hello")
