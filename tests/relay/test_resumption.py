"""Resumable sessions in the core: what a peer has not acknowledged is sent again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.errors import (
    InvalidAddress,
    InvalidNumber,
    MessageRefused,
    MissingMessages,
    WrongSession,
)
from acebase_ipc.protocol.handshake import Handshake, Resume
from acebase_ipc.protocol.numbers import ACK_AFTER, ACK_EVERY
from acebase_ipc.relay.events import EvictedForMemory, ExpiryReason, SessionExpired
from acebase_ipc.relay.memory import MESSAGE_OVERHEAD
from acebase_ipc.relay.work import SLICE
from tests.relay.core import AT, DATABASE, MASTER, Core, Process, bye, memory_of


class Client:
    """A peer with a resumable session, played by the test.

    :ivar process: its process.
    :ivar welcome: what the relay has told it last.
    """

    def __init__(self, core: Core, client_id: str = "alice", dialect: str = "documented") -> None:
        self._core = core
        self._id = client_id
        self._dialect = Dialect(dialect)
        self.welcome: dict[str, Any] = {}
        self.connect(Resume())

    def connect(self, resume: Resume | None) -> None:
        """Open a connection."""
        self.process = self._core.join(self._id, self._dialect, resume=resume)
        welcome = self.process.connection.texts[0]
        assert welcome.startswith("welcome:")
        self.welcome = json.loads(welcome.removeprefix("welcome:"))
        self._heard = 1

    def resume(self, last: int) -> None:
        """Come back, having received everything up to *last*."""
        self.connect(Resume(self.welcome["session"], last))

    def hears(self) -> list[str]:
        """What has come since the last time."""
        texts = self.process.connection.texts
        new, self._heard = texts[self._heard :], len(texts)
        return new

    def posts(self, message: str, session: str = "") -> None:
        """POST a numbered message."""
        self.process.posts(f"s:{session or self.welcome['session']};{message}")


@pytest.fixture
def core() -> Core:
    return Core(max_session_queue=4000, session_timeout=15)


@pytest.fixture
def alice(core: Core) -> Client:
    return Client(core)


@pytest.fixture
def bobby(core: Core, alice: Client) -> Process:
    """A peer without a session."""
    bobby = core.join("bobby")
    assert alice.hears() == ["n:1;connect:bobby"]
    bobby.hears()
    return bobby


# The welcome


def test_a_session_has_a_name_that_is_new_each_time(core: Core) -> None:
    first, second = Client(core, "alice").welcome, Client(core, "bobby").welcome
    assert len(first["session"]) == 32
    assert first["session"] != second["session"]
    assert first["epoch"] == second["epoch"]
    assert (first["resumed"], first["received"], first["maxPayload"]) == (False, 0, 16384)


def test_a_peer_that_does_not_ask_has_none(core: Core) -> None:
    core.join("bobby")
    (peer,) = core.relay.registry.peers()
    assert peer.numbering is None
    assert peer.connection is not None
    assert type(peer.connection).__name__ == "FakeConnection", "nothing is in between"


@pytest.mark.parametrize(("client_id", "timeout"), [(MASTER, 15), ("alice", 0)])
def test_where_none_is_kept_nothing_has_a_number(client_id: str, timeout: float) -> None:
    core = Core(session_timeout=timeout)
    client = Client(core, client_id)
    assert list(client.welcome) == ["maxPayload"]
    core.join("bobby").says(f"to:{client_id};hello")
    assert client.hears() == ["connect:bobby", "msg:hello"]
    client.process.says("to:bobby;hello")


# Messages to the peer


@pytest.mark.parametrize("dialect", ["documented", "acebase"])
def test_what_was_not_received_is_sent_again(core: Core, dialect: str) -> None:
    alice = Client(core, dialect=dialect)
    bobby = core.join("bobby")
    bobby.says("to:alice;1", "to:alice;2", '{"x":3}')
    last = '{"x":3}' if dialect == "acebase" else 'msg:{"x":3}'
    expected = ["n:1;connect:bobby", "n:2;msg:1", "n:3;msg:2", f"n:4;{last}"]
    assert alice.hears() == expected
    alice.process.says("ack:1")
    alice.process.is_lost()
    bobby.says("to:alice;5")
    alice.resume(2)
    assert alice.welcome["resumed"]
    assert alice.hears() == [*expected[2:], "n:5;msg:5"]
    alice.process.is_lost()
    alice.resume(5)
    assert alice.hears() == []
    bobby.says("to:alice;6")
    assert alice.hears() == ["n:6;msg:6"]


def test_nobody_hears_of_a_cut(core: Core, alice: Client, bobby: Process) -> None:
    alice.process.is_lost(has_ended=True)
    core.wait(14)
    assert [each.id for each in core.relay.registry.clients(DATABASE)] == ["alice", "bobby"]
    alice.resume(1)
    assert bobby.hears() == []


def test_a_connection_that_comes_back_replaces_the_one_that_is_open(
    core: Core, alice: Client, bobby: Process
) -> None:
    former = alice.process
    former.connection.batching = True
    bobby.says("to:alice;1")
    alice.resume(1)
    assert former.connection.closed == (4001, "replaced")
    assert alice.hears() == ["n:2;msg:1"]
    former.is_lost(4001)
    assert bobby.hears() == []
    decisions: list[bool] = []
    core.relay.sessions.check_conflict(
        Handshake(DATABASE, "alice", Dialect.DOCUMENTED, True), AT, core.now, decisions.append
    )
    assert decisions == [True], "it is the same process: no conflict"


def test_a_pong_of_a_former_connection_is_not_delivered(core: Core, alice: Client) -> None:
    alice.process.stops_reading()
    alice.process.says("ping", "n:1;to:alice;x", "ping")
    alice.process.is_lost()
    alice.resume(0)
    assert alice.welcome["received"] == 1
    assert alice.hears() == ["n:1;msg:x"]


def test_more_than_half_the_queue_waits_for_acknowledgements(
    core: Core, alice: Client, bobby: Process
) -> None:
    body = "x" * 500
    bobby.says(*[f"to:alice;{each}{body}" for each in range(5)])
    heard = alice.hears()
    assert [each[:8] for each in heard] == ["n:2;msg:", "n:3;msg:", "n:4;msg:"]
    assert len(alice.process.peer.queue) == 2
    alice.process.says("ack:3")
    assert [each[:9] for each in alice.hears()] == ["n:5;msg:3", "n:6;msg:4"]


def test_what_is_kept_counts_as_memory(core: Core, alice: Client, bobby: Process) -> None:
    assert core.relay.memory.in_queues == memory_of("connect:bobby")
    alice.process.says("ack:1")
    assert core.relay.memory.in_queues == 0
    bobby.says("to:alice;hello")
    assert core.relay.memory.in_queues == memory_of("msg:hello")
    assert alice.process.peer.memory == memory_of("msg:hello")
    alice.process.is_lost()
    assert core.relay.memory.in_queues == memory_of("msg:hello")
    core.wait(15)
    assert core.relay.memory.in_queues == 0


def test_a_broadcast_that_many_have_not_acknowledged_counts_once(core: Core) -> None:
    for number in range(10):
        Client(core, f"alice{number}")
    bobby = core.join("bobby")
    for each in core.relay.registry.peers():
        if each.numbering is not None:
            each.numbering.acknowledge(each.numbering.sent.highest)
    bobby.says("x" * 1000)
    entries = memory_of("msg:" + "x" * 1000) - 1004 - MESSAGE_OVERHEAD
    assert core.relay.memory.in_queues == 1004 + MESSAGE_OVERHEAD + 10 * entries


def test_a_peer_that_uses_most_memory_is_evicted() -> None:
    core = Core(max_session_queue=1 << 22, max_memory=1 << 20)
    alice = Client(core)
    bobby = core.join("bobby")
    bobby.says(*["to:alice;" + "x" * 10_000] * 110)
    core.wait(1)
    assert [each.peer for each in core.reported(EvictedForMemory)] == ["alice"]
    assert core.relay.memory.in_queues == 0
    alice.resume(0)
    assert not alice.welcome["resumed"]


# Where it cannot go on


def test_a_session_that_has_expired_is_not_resumed(
    core: Core, alice: Client, bobby: Process
) -> None:
    before = alice.welcome
    alice.process.is_lost()
    bobby.says("to:alice;1")
    core.wait(15)
    assert bobby.hears() == ["disconnect:alice"]
    alice.resume(1)
    assert not alice.welcome["resumed"]
    assert alice.welcome["session"] != before["session"]
    assert alice.welcome["epoch"] == before["epoch"]
    assert bobby.hears() == ["connect:alice"]
    bobby.says("to:alice;2")
    assert alice.hears() == ["n:1;msg:2"]


def test_a_queue_that_is_too_long_ends_the_session(
    core: Core, alice: Client, bobby: Process
) -> None:
    alice.process.is_lost()
    bobby.says(*["to:alice;" + "x" * 1000] * 4)
    assert [each.reason for each in core.reported(SessionExpired)] == [ExpiryReason.SIZE]
    alice.resume(1)
    assert not alice.welcome["resumed"]
    assert alice.hears() == []


@pytest.mark.parametrize("close_code", [1000, 1001])
def test_a_peer_that_closes_has_left(
    core: Core, alice: Client, bobby: Process, close_code: int
) -> None:
    alice.process.is_lost(close_code)
    assert bobby.hears() == ["disconnect:alice"]
    alice.resume(1)
    assert not alice.welcome["resumed"]


def test_an_acebase_peer_that_has_said_bye_has_left(core: Core) -> None:
    alice = Client(core, dialect="acebase")
    alice.process.says(f"n:1;{bye('alice')}")
    alice.process.is_lost()
    alice.resume(0)
    assert not alice.welcome["resumed"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda name: None,
        lambda name: Resume(),
        lambda name: Resume("x" * 32, 1),
        lambda name: Resume("\udcff", 1),
        lambda name: Resume(name, 3),  # more than was sent
        lambda name: Resume(name, 0),  # less than was acknowledged
    ],
)
def test_another_client_of_the_same_id_takes_its_place(
    core: Core, alice: Client, bobby: Process, wrong: Callable[[str], Resume | None]
) -> None:
    bobby.says("to:alice;1")
    alice.process.says("ack:1")
    former = alice.welcome["session"]
    alice.connect(wrong(former))
    assert alice.welcome.get("session") != former
    assert not alice.welcome.get("resumed")
    assert bobby.hears() == ["disconnect:alice", "connect:alice"]
    assert alice.hears() == []


def test_a_session_goes_on_with_the_state_of_a_relay(
    core: Core, alice: Client, bobby: Process
) -> None:
    before = alice.welcome
    bobby.says("to:alice;1", "to:alice;2")
    alice.process.says("n:1;to:bobby;hello")
    alice.process.is_lost(1012)
    bobby.is_lost(1012)
    core.restart()
    alice.resume(2)
    assert alice.welcome == before | {"resumed": True, "received": 1}
    assert alice.hears() == ["n:3;msg:2", "n:4;disconnect:bobby"]


def test_a_session_goes_on_with_its_connection(core: Core, alice: Client, bobby: Process) -> None:
    bobby.says("to:alice;1", "to:alice;2")
    alice.process.says("ack:2", "n:1;to:bobby;hello")
    alice.hears()
    core.restart(keeps_connections=True)
    core.wait(ACK_AFTER)
    bobby.says("to:alice;3")
    assert alice.hears() == ["ack:1", "n:4;msg:3"]
    alice.process.is_lost()
    alice.resume(2)
    assert alice.hears() == ["n:3;msg:2", "n:4;msg:3"]


def test_a_relay_without_the_state_has_another_epoch() -> None:
    assert Client(Core()).welcome["epoch"] != Client(Core()).welcome["epoch"]


# Messages from the peer


def test_each_message_is_relayed_once(core: Core, alice: Client, bobby: Process) -> None:
    assert alice.process.says("n:1;to:bobby;1", "n:2;2", "n:1;to:bobby;1", "n:2;2") == 4
    assert bobby.hears() == ["msg:1", "msg:2"]
    alice.process.is_lost()
    alice.resume(1)
    assert alice.welcome["received"] == 2
    alice.process.says("n:2;2", "n:3;3")
    assert bobby.hears() == ["msg:3"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("hello", InvalidNumber),
        ("to:bobby;x", InvalidNumber),
        ("n:x;hello", InvalidNumber),
        ("n:1", InvalidNumber),
        ("ack:x", InvalidNumber),
        ("ack:2", InvalidNumber),
        ("skip:", InvalidNumber),
        ("n:2;hello", MissingMessages),
        ("skip:2", MissingMessages),
        ("n:1;to:bobby", InvalidAddress),
    ],
)
def test_what_cannot_be_right_is_refused(
    alice: Client, bobby: Process, text: str, error: type[MessageRefused]
) -> None:
    with pytest.raises(error) as raised:
        alice.process.says(text)
    assert raised.value.close_code == 1008
    assert bobby.hears() == []


def test_a_message_that_was_refused_is_not_to_be_sent_again(alice: Client, bobby: Process) -> None:
    with pytest.raises(InvalidAddress):
        alice.process.says("n:1;to:bobby")
    alice.process.is_lost(1008)
    alice.resume(1)
    assert alice.welcome["received"] == 1


def test_acknowledgements_come_soon_or_after_so_many(
    core: Core, alice: Client, bobby: Process
) -> None:
    alice.process.says("n:1;to:bobby;1")
    assert alice.hears() == []
    core.wait(ACK_AFTER)
    assert alice.hears() == ["ack:1"]
    core.wait(ACK_AFTER)
    alice.process.says(*[f"n:{each + 2};x" for each in range(ACK_EVERY)])
    core.wait(ACK_AFTER)
    assert alice.hears() == [f"ack:{ACK_EVERY + 1}"]


def test_a_full_connection_is_told_when_it_has_room(core: Core, alice: Client) -> None:
    alice.process.stops_reading()
    alice.process.says("n:1;x")
    core.wait(ACK_AFTER)
    assert alice.hears() == []
    alice.process.reads_on()
    core.wait(ACK_AFTER)
    assert alice.hears() == ["ack:1"]


def test_work_is_done_in_slices(core: Core, alice: Client, bobby: Process) -> None:
    for number in range(100):
        core.join(f"peer{number}")
    count = SLICE
    texts = [f"n:{each + 1};x" for each in range(count)]
    taken = alice.process.says(*texts)
    assert 0 < taken < count
    while taken < count:
        taken += alice.process.says(*texts[taken:])
    assert [each for each in bobby.hears() if each == "msg:x"] == ["msg:x"] * count


# Large messages


def test_a_post_is_relayed_once(core: Core, alice: Client, bobby: Process) -> None:
    large = "x" * 20_000
    alice.process.says("n:1;to:bobby;1")
    for _ in range(2):
        alice.posts(f"n:2;to:bobby;{large}")
    first, announcement = bobby.hears()
    assert first == "msg:1"
    assert bobby.downloads(announcement) == large
    alice.process.says("n:2;to:bobby;another", "n:3;to:bobby;3")
    assert bobby.hears() == ["msg:3"]


@pytest.mark.parametrize(
    ("message", "session", "error", "status"),
    [
        ("n:1;x", "another", WrongSession, 410),
        ("n:2;x", "", MissingMessages, 409),
        ("x", "", InvalidNumber, 400),
        ("n:1;to:bobby", "", InvalidAddress, 400),
    ],
)
def test_a_post_that_cannot_be_right_is_refused(
    alice: Client,
    bobby: Process,
    message: str,
    session: str,
    error: type[MessageRefused],
    status: int,
) -> None:
    with pytest.raises(error) as raised:
        alice.posts(message, session)
    assert raised.value.status == status
    assert bobby.hears() == []


def test_a_post_without_a_session_is_refused(alice: Client) -> None:
    with pytest.raises(InvalidNumber):
        alice.process.posts("n:1;hello")


def test_a_peer_that_is_away_may_post(core: Core, alice: Client, bobby: Process) -> None:
    alice.process.is_lost()
    alice.posts("n:1;to:bobby;1")
    assert bobby.hears() == ["msg:1"]
    alice.resume(1)
    assert alice.welcome["received"] == 1


def test_a_message_can_be_given_up(alice: Client, bobby: Process) -> None:
    alice.process.says("skip:1", "n:2;to:bobby;2")
    alice.posts("n:1;to:bobby;late")
    alice.process.says("skip:2")
    assert bobby.hears() == ["msg:2"]


def test_the_announcement_of_a_large_message_is_sent_again(
    core: Core, alice: Client, bobby: Process
) -> None:
    large = "x" * 20_000
    bobby.posts(f"to:alice;{large}")
    alice.process.is_lost()
    core.wait(10)
    alice.resume(1)
    (heard,) = alice.hears()
    number, _, announcement = heard.partition(";")
    assert number == "n:2"
    assert alice.process.downloads(announcement) == large


def test_what_a_sender_has_addressed_arrives_after_it_has_left(
    core: Core, alice: Client, bobby: Process
) -> None:
    alice.process.is_lost()
    bobby.says("to:alice;1")
    bobby.is_lost(1000)
    alice.resume(1)
    assert alice.hears() == ["n:2;msg:1", "n:3;disconnect:bobby"]


def test_a_relay_that_restarts_tells_what_it_has_received(
    core: Core, alice: Client, bobby: Process
) -> None:
    core.relay.sessions.suspend_all(1012, "restart")
    alice.process.says("n:1;to:bobby;1")
    alice.process.is_lost(1012)
    alice.resume(1)
    assert alice.welcome["received"] == 1
    assert alice.process.connection.closed == (1012, "restart")
