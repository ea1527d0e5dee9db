"""A client's resumable session, with a server that the test plays, and with a whole relay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from acebase_ipc.client.errors import (
    ClientStopped,
    ProtocolError,
    RequestUnanswered,
    TooLargeForRelay,
    Unconfirmed,
)
from acebase_ipc.client.session import Gap, GapReason
from acebase_ipc.protocol.numbers import ACK_AFTER, ACK_EVERY
from acebase_ipc.testing import MemoryRelay
from tests.client.test_connection import Played, answer_http, ok
from tests.clients import PlayedServer, RelayNetwork

LARGE = "x" * 200


def welcome(name: str = "S1", resumed: bool = False, received: int = 0, epoch: str = "E1") -> str:
    """The welcome to a session."""
    said = {"maxPayload": 100, "session": name, "epoch": epoch}
    return "welcome:" + json.dumps(said | {"resumed": resumed, "received": received})


class Session:
    """A client in a session, and the server that a test plays.

    :ivar heard: its messages and gaps, in order.
    :ivar outcomes: what its Deferreds have come to, in order.
    """

    def __init__(self, **options: Any) -> None:
        self.played = Played(**options)
        self.client = self.played.client
        self.heard: list[str | Gap] = []
        self.outcomes: list[object] = []
        self.client.on_message(self.heard.append)
        self.client.on_gap(self.heard.append)
        self.welcomed(self.played.server, welcome())

    @property
    def server(self) -> PlayedServer:
        return self.played.server

    def welcomed(self, server: PlayedServer, said: str) -> None:
        server.accept()
        server.say(said)
        self.settle()

    def settle(self) -> None:
        self.played.settle()

    def says(self, *texts: str) -> None:
        """Let the server say something."""
        self.server.say(*texts)
        self.settle()

    def sends(self, body: str, **options: Any) -> Deferred[None]:
        sent = self.client.send(body, **options)

        def done(outcome: object) -> None:
            is_failure = isinstance(outcome, Failure)
            self.outcomes.append(outcome.value if isinstance(outcome, Failure) else body)
            assert is_failure or outcome is None

        sent.addBoth(done)
        self.settle()
        return sent

    def is_cut(self, said: str) -> str:
        """Lose the connection; returns the target of the next one, which is welcomed."""
        self.server.transport.lose()
        self.settle()
        server = self.played.again()
        target = server.request.split()[1]
        self.welcomed(server, said)
        return target

    def passes(self, seconds: float) -> None:
        self.played.network.pass_time(seconds, ACK_AFTER / 2)


@pytest.fixture
def session() -> Session:
    return Session()


# The handshake


def test_it_names_its_session_and_what_it_has_received(session: Session) -> None:
    session.says("n:1;msg:a", "n:2;msg:b")
    target = session.is_cut(welcome(resumed=True))
    assert target.endswith("&dialect=documented&resume=1&session=S1&last=2")


def test_without_the_option_it_asks_for_none() -> None:
    played = Played(resume=False)
    assert "resume" not in played.server.request
    played.welcomed()
    played.server.say("msg:a")
    played.settle()
    assert played.heard == ["a"]


@pytest.mark.parametrize(
    "said",
    [
        'welcome:{"maxPayload":100}',
        'welcome:{"maxPayload":100,"session":"S1"}',
        'welcome:{"maxPayload":100,"session":"","epoch":"","resumed":false,"received":0}',
        'welcome:{"maxPayload":100,"session":"x","epoch":"","resumed":0,"received":0}',
        'welcome:{"maxPayload":100,"session":"x","epoch":"","resumed":false,"received":-1}',
    ],
)
def test_a_relay_without_sessions_gets_no_numbers(said: str) -> None:
    played = Played().accepted()
    played.server.say(said, "msg:a")
    played.settle()
    assert played.client.connected
    played.client.send("b")
    played.settle()
    assert (played.heard, played.server.received()) == (["a"], ["b"])


def test_a_name_is_quoted(session: Session) -> None:
    session.is_cut(welcome("a&b;c"))
    session.passes(10)  # the connection is a good one, so that it tries again soon
    assert "session=a%26b%3Bc&" in session.is_cut(welcome("S3"))


# Receiving


def test_messages_are_delivered_once(session: Session) -> None:
    session.says("n:1;msg:a", "n:1;msg:a", "n:2;msg:b")
    session.is_cut(welcome(resumed=True))
    session.says("n:2;msg:b", "n:3;msg:c")
    assert session.heard == ["a", "b", "c"]


@pytest.mark.parametrize("said", ["n:3;msg:x", "msg:x", "connect:bobby", "ack:1", welcome()])
def test_what_cannot_be_right_ends_the_connection(session: Session, said: str) -> None:
    session.says("n:1;msg:a", said, "n:2;msg:b")
    assert isinstance(session.client.problem, ProtocolError)
    assert session.heard == ["a"]


@pytest.mark.parametrize("said", ["n:x;msg:x", "n:1", "ack:x", "later:n:1;x"])
def test_what_it_does_not_know_is_ignored(session: Session, said: str) -> None:
    session.says(said, "n:1;msg:a")
    assert session.heard == ["a"]


def test_it_acknowledges_soon_or_after_so_many(session: Session) -> None:
    session.server.received()
    session.says("n:1;msg:a", "n:2;msg:b")
    assert session.server.received() == []
    session.passes(ACK_AFTER)
    assert session.server.received() == ["ack:2"]
    session.says(*[f"n:{each + 3};msg:x" for each in range(ACK_EVERY)])
    assert session.server.received() == [f"ack:{ACK_EVERY + 2}"]
    session.passes(2 * ACK_AFTER)
    assert session.server.received() == []


def test_it_acknowledges_when_the_transport_has_room(session: Session) -> None:
    session.server.transport.room = 0
    session.sends("fills it")
    session.server.received()
    session.says("n:1;msg:a")
    session.passes(ACK_AFTER)
    assert session.server.received() == []
    session.server.transport.drain()
    assert session.server.received() == ["ack:1"]


def test_nothing_is_left_to_do_when_it_is_stopped(session: Session) -> None:
    session.says("n:1;msg:a")
    session.client.stopService()
    session.server.transport.lose()
    session.settle()
    calls = map(repr, session.played.network.reactor.getDelayedCalls())
    assert not [each for each in calls if "acknowledge" in each]


# Sending


def test_what_was_not_acknowledged_is_sent_again_before_all_else(session: Session) -> None:
    session.client.on_connected(lambda: session.sends("first"))
    for each in "abc":
        session.sends(each)
    assert session.server.received() == ["n:1;a", "n:2;b", "n:3;c"]
    session.says("ack:1")
    session.server.transport.lose()
    session.settle()
    session.sends("d")
    session.welcomed(session.played.again(), welcome(resumed=True, received=2))
    assert session.server.received() == ["n:3;c", "n:4;first", "n:5;d"]
    assert session.outcomes == ["a", "b", "c", "first", "d"]


def test_what_is_acknowledged_meanwhile_is_not_sent_again(session: Session) -> None:
    for each in "abc":
        session.sends(each)
    session.server.transport.lose()
    session.settle()
    session.played.again().accept()
    session.sends("d" * 90)
    session.server.transport.room = 0  # after one message it is full
    session.says(welcome(resumed=True, received=1))
    assert session.server.received() == ["n:2;b"]
    session.says("ack:3")
    session.server.transport.drain()
    assert session.server.received() == ["n:4;" + "d" * 90]


def test_what_is_kept_is_bounded() -> None:
    session = Session(max_queue=30)
    session.sends("a" * 10)
    session.sends("b" * 20)
    session.sends("c")
    assert session.server.received() == ["n:1;" + "a" * 10, "n:2;" + "b" * 20]
    session.says("ack:1")
    assert session.server.received() == ["n:3;c"]


def test_a_relay_that_has_received_more_than_was_sent_is_wrong(session: Session) -> None:
    session.sends("a")
    session.is_cut(welcome(resumed=True, received=2))
    assert isinstance(session.client.problem, ProtocolError)


# Confirmation


def test_a_confirmed_message_fires_when_it_is_acknowledged(session: Session) -> None:
    session.sends("a", confirm=True)
    session.sends("b")
    assert session.outcomes == ["b"]
    session.says("ack:1")
    assert session.outcomes == ["b", "a"]


def test_it_asks_at_once(session: Session) -> None:
    session.sends("a", confirm=True)
    assert session.server.received() == ["n:1;a", "ping"]
    session.says("pong")
    assert session.outcomes == ["a"]
    session.is_cut(welcome(resumed=True, received=1))
    assert session.server.received() == []


def test_it_fires_after_a_cut(session: Session) -> None:
    session.sends("a", confirm=True)
    session.sends("b", confirm=True)
    session.is_cut(welcome(resumed=True, received=1))
    assert session.outcomes == ["a"]
    assert session.server.received() == ["n:2;b", "ping"]
    session.says("pong")
    assert session.outcomes == ["a", "b"]


def test_without_a_session_a_pong_confirms() -> None:
    played = Played(resume=False).welcomed()
    outcomes: list[object] = []
    for each in "ab":
        played.client.send(each, confirm=True).addBoth(outcomes.append)
    assert played.server.received() == ["a", "ping", "b", "ping"]
    played.server.say("pong")
    played.settle()
    assert outcomes == [None]
    played.server.transport.lose()
    played.settle()
    assert isinstance(outcomes[1], Failure)
    assert isinstance(outcomes[1].value, Unconfirmed)


def test_a_client_that_is_stopped_confirms_no_more(session: Session) -> None:
    session.sends("a", confirm=True)
    session.client.stopService()
    assert isinstance(session.outcomes[0], ClientStopped)


# Gaps


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (welcome("S2"), GapReason.SESSION_ENDED),
        (welcome("S2", epoch="E2"), GapReason.RELAY_RESTARTED),
        (welcome("S2", resumed=True), GapReason.SESSION_ENDED),
        ('welcome:{"maxPayload":100}', GapReason.NO_SESSION),
    ],
)
def test_a_gap_is_told_at_its_place(session: Session, said: str, reason: GapReason) -> None:
    session.client.on_connected(lambda: session.heard.append("connected"))
    session.says("n:1;msg:a")
    session.sends("confirmed", confirm=True)
    session.says("ack:1")
    for each in ("b", "c"):
        session.sends(each, confirm=each == "c")
    session.is_cut(said)
    assert session.heard == ["a", Gap(reason, 2), "connected"]
    assert session.outcomes[:2] == ["confirmed", "b"]
    assert isinstance(session.outcomes[2], Unconfirmed)
    numbered = "n:1;" if "session" in said else ""
    session.says(f"{numbered}msg:d")
    session.sends("e")
    assert session.heard[3:] == ["d"]
    assert session.server.received() == [f"{numbered}e"], "what may have arrived is not sent again"


def test_there_is_none_before_the_first_connection_and_after_a_start() -> None:
    network = RelayNetwork()
    client = network.client("alice")
    gaps: list[Gap] = []
    client.on_gap(gaps.append)
    for _ in range(2):
        network.start(client)
        client.stopService()
        network.pass_time(1)
    assert gaps == []


def test_without_a_session_each_reconnect_is_a_gap() -> None:
    network = RelayNetwork()
    client = network.started("alice", resume=False)
    gaps: list[Gap] = []
    client.on_gap(gaps.append)
    for _ in range(2):
        network.cut(client)
        network.pass_time(2)
    assert gaps == [Gap(GapReason.NO_SESSION)] * 2


def test_a_gap_waits_for_its_turn_behind_a_download(session: Session) -> None:
    session.says("n:1;get:m1")
    session.is_cut(welcome("S2"))
    assert session.heard == []
    answer_http(session.played, b"/receive?", ok("large"))
    assert session.heard == ["large", Gap(GapReason.SESSION_ENDED)]


def test_a_large_message_that_is_lost_is_a_gap(session: Session) -> None:
    session.says("n:1;get:m1", "n:2;msg:b")
    answer_http(session.played, b"/receive?", "HTTP/1.1 404 N\r\nContent-Length: 0\r\n\r\n")
    assert session.heard == [Gap(GapReason.DOWNLOAD_FAILED), "b"]


def test_peers_that_are_known_are_not_asked_for_again(session: Session) -> None:
    def asked() -> int:
        transports = session.played.network.transports
        return sum(each.sent.count(b"/clients") for each in transports)

    session.is_cut(welcome(resumed=True))
    assert asked() == 2, "the first question was not answered"
    answer_http(session.played, b"/clients", ok('[{"id":"bobby"}]'))
    session.passes(10)
    session.is_cut(welcome(resumed=True))
    assert asked() == 2
    assert session.client.peers == {"bobby"}
    session.passes(10)
    session.is_cut(welcome("S2"))
    assert asked() == 3


def test_a_download_goes_on_after_a_cut(session: Session) -> None:
    session.says("n:1;get:m1", "n:2;connect:bobby", "n:3;msg:b")
    session.is_cut(welcome(resumed=True))
    answer_http(session.played, b"/receive?", ok("large"))
    assert session.heard == ["large", "b"]
    assert "bobby" in session.client.peers


# POSTs


def posts(session: Session) -> list[str]:
    """The bodies of all POSTs."""
    transports = session.played.network.transports
    return [
        bytes(each.sent).partition(b"\r\n\r\n")[2].decode()
        for each in transports
        if each.sent.startswith(b"POST ")
    ]


def test_a_post_without_an_answer_is_repeated(session: Session) -> None:
    session.sends(LARGE)
    session.sends("after")
    answer_http(session.played, b"POST ", None)
    session.passes(1)
    answer_http(session.played, b"POST ", "HTTP/1.1 409 C\r\nContent-Length: 0\r\n\r\n")
    session.passes(4)
    answer_http(session.played, b"POST ", ok("ok"))
    assert posts(session) == [f"s:S1;n:1;{LARGE}"] * 3
    assert session.outcomes == [LARGE, "after"]
    assert session.server.received() == ["n:2;after"]


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_post_that_is_under_way_when_the_connection_is_lost(
    session: Session, is_resumed: bool
) -> None:
    session.sends(LARGE)
    session.settle()
    session.is_cut(welcome("S1", resumed=True) if is_resumed else welcome("S2"))
    first = next(
        each for each in session.played.network.transports if each.sent.startswith(b"POST ")
    )
    assert first.reason is not None, "its answer does not matter any more"
    if is_resumed:
        assert session.outcomes == []
        answer_http(session.played, b"POST ", ok("ok"))
        assert posts(session) == [f"s:S1;n:1;{LARGE}"] * 2
        assert session.outcomes == [LARGE]
    else:
        assert isinstance(session.outcomes[0], Unconfirmed)
        assert posts(session) == [f"s:S1;n:1;{LARGE}"]


def test_a_post_that_was_relayed_is_not_repeated(session: Session) -> None:
    session.sends(LARGE)
    session.is_cut(welcome(resumed=True, received=1))
    assert session.outcomes == [LARGE]
    assert len(posts(session)) == 1


def test_a_post_that_is_given_up_has_no_effect_later(session: Session) -> None:
    session.sends(LARGE)
    session.sends("after")
    for seconds in (1, 4, 0):
        answer_http(session.played, b"POST ", None)
        session.passes(seconds)
    assert isinstance(session.outcomes[0], RequestUnanswered)
    assert session.server.received() == ["skip:1", "n:2;after"]
    session.is_cut(welcome(resumed=True, received=0))
    assert session.server.received() == ["skip:1", "n:2;after"]


def test_a_post_that_is_refused_is_given_up(session: Session) -> None:
    session.sends(LARGE)
    answer_http(session.played, b"POST ", "HTTP/1.1 413 T\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(session.outcomes[0], TooLargeForRelay)
    assert session.server.received() == ["skip:1"]


# With a relay


def test_a_client_that_was_cut_receives_everything_in_order() -> None:
    network = RelayNetwork(max_payload=100)
    alice, bobby = network.started("alice"), network.started("bobby")
    heard: list[str] = []
    left: list[str] = []
    bobby.on_message(heard.append)
    alice.on_peer_left(left.append)
    bobby.on_gap(lambda gap: heard.append("gap"))
    messages = bobby.messages()
    for each in ("1", LARGE, "3"):
        alice.send(each)
    network.cut(bobby)
    alice.send("4")
    network.pass_time(1)
    alice.send("5")
    network.settle()
    assert heard == ["1", LARGE, "3", "4", "5"]
    assert [next_of(messages) for _ in heard] == heard
    assert left == []
    assert alice.peers == {"bobby"}


def test_peers_stay_known_while_they_are_away() -> None:
    network = RelayNetwork()
    alice, bobby = network.started("alice"), network.started("bobby")
    network.refuses = True
    network.cut(bobby)
    alice.fetch_peers()
    network.settle()
    assert alice.peers == {"bobby"}
    network.cut(alice)
    network.refuses = False
    network.pass_time(2)
    assert alice.peers == {"bobby"}
    assert bobby.peers == {"alice"}


def test_a_relay_with_sessions_and_one_without_deliver_the_same() -> None:
    """Nothing but the numbers differs, as long as no connection is lost."""
    heard: dict[bool, list[str]] = {}
    for resume in (True, False):
        network = RelayNetwork(max_payload=100)
        alice = network.started("alice", resume=resume)
        bobby = network.started("bobby", resume=resume)
        texts = heard[resume] = []
        bobby.on_message(texts.append)
        for number in range(150):
            alice.send(f"{number}" + "x" * (number % 3 * 60), "bobby" if number % 2 else None)
            if number % 10 == 0:
                network.settle()
        network.pass_time(1)
    assert heard[True] == heard[False] != []


def test_a_client_comes_back_to_the_relay_after_a_quiet_restart(tmp_path: Any) -> None:
    options: dict[str, Any] = {"state_dir": str(tmp_path / "state"), "introductions": False}
    network = RelayNetwork(**options)
    alice, bobby = network.started("alice"), network.started("bobby")
    heard: list[object] = []
    bobby.on_message(heard.append)
    bobby.on_gap(heard.append)
    network.refuses = True
    stopped: list[object] = []
    network.relay.stop().addBoth(stopped.append)
    while not stopped:
        network.pass_time(0.1, 0.02)
    alice.send("while there is no relay")
    network.relay = MemoryRelay(reactor=network.relay.reactor, **options)
    network.refuses = False
    network.pass_time(30)
    assert heard == ["while there is no relay"]


def next_of(messages: Any) -> str:
    """The next message of an iterator."""
    found: list[str] = []
    messages.__anext__().addCallback(found.append)
    return found[0]
