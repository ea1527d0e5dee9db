"""The relay: who is connected, and who receives what."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.errors import InvalidAddress, MessageTooLarge
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.errors import AmbiguousPeer, NotAPeer, NotFound, Overloaded
from acebase_ipc.relay.events import (
    DialectDetected,
    DropReason,
    MessageDropped,
    PeerJoined,
    PeerLeft,
    PeerReplaced,
    SessionSuspended,
    SlowConsumer,
)
from acebase_ipc.relay.peers import ConnectedPeer, SessionState
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.sessions import CLOSE_REPLACED
from acebase_ipc.relay.store import ENTRY_SIZE, REFETCH_PERIOD
from tests.protocol.test_dialect import TYPES
from tests.relay.core import AT, DATABASE, MASTER, WELCOME, Core, FakeConnection, hello, memory_of

BOTH = pytest.mark.parametrize("dialect", list(Dialect))
ENVELOPE = '{"type":"notification","from":"worker1"}'


# Joining


def test_a_newcomer_is_welcomed_first_and_hears_nothing_of_those_before() -> None:
    core = Core()
    core.join("reader1")
    newcomer = core.join("reader2")
    assert newcomer.hears() == [WELCOME]


def test_the_welcome_tells_the_payload_limit() -> None:
    newcomer = Core(max_payload=77).join("reader1")
    assert newcomer.hears() == ['welcome:{"maxPayload":77}']


@BOTH
def test_all_others_hear_of_a_newcomer(dialect: Dialect) -> None:
    core = Core()
    others = [core.join("reader1"), core.join("reader2")]
    core.hush()
    core.join("newcomer", dialect)
    assert [other.hears() for other in others] == [["connect:newcomer"]] * 2


def test_joining_is_reported_with_the_dialect() -> None:
    core = Core()
    core.join("reader1")
    core.join_acebase("worker1")
    assert core.reports == [
        PeerJoined(DATABASE, "reader1", "documented", AT),
        PeerJoined(DATABASE, "worker1", "acebase", AT),
    ]


def test_it_works_without_limits_and_observer() -> None:
    relay = Relay(lambda: 0.0)
    assert relay.router.max_payload == 16384
    assert relay.registry.clients(DATABASE) == []


# Leaving


@pytest.mark.parametrize("close_code", [None, 1000, 1001, 1005, 1009, 4000])
def test_the_others_hear_at_once_and_once_that_a_documented_peer_went(
    close_code: int | None,
) -> None:
    core = Core()
    leaver, others = core.join("reader1"), [core.join("reader2"), core.join_acebase("worker1")]
    core.hush()
    leaver.is_lost(close_code)
    assert [other.hears() for other in others] == [["disconnect:reader1"]] * 2
    leaver.is_lost(close_code)
    core.wait(100)
    assert core.is_quiet()
    assert core.reported(PeerLeft) == [PeerLeft(DATABASE, "reader1", AT)]


def test_a_peer_that_went_is_unknown() -> None:
    core = Core()
    leaver, sender = core.join("reader1"), core.join("reader2")
    leaver.is_lost()
    core.hush()
    sender.says("to:reader1;are you there?")
    assert core.is_quiet()
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader1", DropReason.UNKNOWN_ADDRESSEE)
    ]
    with pytest.raises(NotAPeer):
        leaver.posts("to:reader2;I am not")


def test_what_a_gone_peer_has_not_received_is_counted() -> None:
    core = Core(max_payload=10)
    leaver, sender = core.join("reader1"), core.join("reader2")
    leaver.connection.batching = True
    sender.says("taken")
    leaver.stops_reading()
    sender.says("waiting")
    sender.posts("waiting to be downloaded")
    leaver.is_lost()
    # The announcement of the large message is one that waits, too.
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader1", DropReason.RECIPIENT_GONE, 4)
    ]


# Replacing


def test_a_documented_peer_is_replaced_by_a_new_connection_of_its_id() -> None:
    core = Core()
    old, other = core.join("reader1"), core.join("reader2")
    core.hush()
    new = core.join("reader1")
    assert old.connection.closed == (CLOSE_REPLACED, "replaced")
    assert CLOSE_REPLACED == 4001
    assert old.hears() == []
    assert new.hears() == [WELCOME]
    assert other.hears() == ["disconnect:reader1", "connect:reader1"]
    assert core.reported(PeerReplaced) == [PeerReplaced(DATABASE, "reader1", AT)]


def test_the_end_of_a_replaced_connection_is_not_the_end_of_its_successor() -> None:
    core = Core()
    old, other, new = core.join("reader1"), core.join("reader2"), core.join("reader1")
    core.hush()
    old.is_lost(4001)
    assert core.is_quiet()
    other.says("to:reader1;hi")
    assert new.hears() == ["msg:hi"]
    assert old.hears() == []


def test_a_replaced_connection_that_is_full_does_not_hold_up_its_successor() -> None:
    core = Core()
    sender, old = core.join_acebase("worker1"), core.join_acebase("worker2")
    new = core.join_acebase("worker2")
    core.hush()
    old.stops_reading()
    sender.says("first")
    assert new.hears() == ["msg:first"]
    new.stops_reading()
    sender.says("second")
    old.reads_on()
    core.relay.delivery.drain(new.peer)
    assert new.hears() == []
    new.reads_on()
    assert new.hears() == ["msg:second"]


def test_what_a_documented_peer_has_not_received_is_lost_with_its_connection() -> None:
    core = Core()
    old, sender = core.join("reader1"), core.join("reader2")
    old.stops_reading()
    sender.says("to:reader1;too late")
    new = core.join("reader1")
    core.hush()
    new.reads_on()
    assert core.is_quiet()
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader1", DropReason.RECIPIENT_GONE)
    ]


@pytest.mark.parametrize("wants", list(Dialect))
def test_a_newcomer_of_the_other_dialect_is_another_peer(wants: Dialect) -> None:
    core = Core()
    has = Dialect.ACEBASE if wants is Dialect.DOCUMENTED else Dialect.DOCUMENTED
    core.join("worker1", has)
    other = core.join("reader1")
    core.hush()
    new = core.join("worker1", wants)
    assert other.hears() == ["disconnect:worker1", "connect:worker1"]
    assert new.peer.dialect is wants


# Addressing


def test_an_addressed_message_reaches_its_addressee_only() -> None:
    core = Core()
    sender, addressee = core.join("reader1"), core.join("reader2")
    core.join("reader3")
    core.hush()
    sender.says("to:reader2;a;b")
    assert addressee.hears() == ["msg:a;b"]
    assert core.is_quiet()


def test_a_peer_may_write_to_itself() -> None:
    core = Core()
    sender = core.join("reader1")
    core.join("reader2")
    core.hush()
    sender.says("to:reader1;note")
    assert sender.hears() == ["msg:note"]
    assert core.is_quiet()


def test_ids_and_bodies_may_be_any_text() -> None:
    core = Core()
    sender, addressee = core.join("reader1"), core.join("läser-读者-😀")
    core.hush()
    sender.says("to:läser-读者-😀;grüß 读者 😀")
    assert addressee.hears() == ["msg:grüß 读者 😀"]


def test_an_empty_body_is_a_message() -> None:
    core = Core()
    sender, other = core.join("reader1"), core.join("reader2")
    core.hush()
    sender.says("")
    sender.says("to:reader2;")
    assert other.hears() == ["msg:", "msg:"]


@pytest.mark.parametrize("addressee", ["nobody", "reader", "READER2", "all ", "__proto__"])
def test_a_message_to_an_unknown_peer_is_dropped_and_counted(addressee: str) -> None:
    core = Core()
    sender = core.join("reader1")
    core.join("reader2")
    core.hush()
    sender.says(f"to:{addressee};hi")
    assert core.is_quiet()
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, addressee, DropReason.UNKNOWN_ADDRESSEE)
    ]


@pytest.mark.parametrize("message", ["to:", "to:reader2", "to:;", "to:;hi"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_a_malformed_address_is_refused_and_nothing_delivered(message: str, way: str) -> None:
    core = Core()
    sender = core.join("reader1")
    core.join("reader2")
    core.hush()
    with pytest.raises(InvalidAddress):
        getattr(sender, way)(message)
    assert core.is_quiet()


@pytest.mark.parametrize("message", ["hi", "to:all;hi"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_a_broadcast_reaches_every_other_peer_once(message: str, way: str) -> None:
    core = Core()
    sender, *others = (core.join(f"reader{n}") for n in range(4))
    core.hush()
    getattr(sender, way)(message)
    assert [other.hears() for other in others] == [["msg:hi"]] * 3
    assert sender.hears() == []


@pytest.mark.parametrize("message", ["to", "TO:reader2;hi", " to:reader2;hi", "ping ", "PING"])
def test_what_is_no_command_is_broadcast_as_it_is(message: str) -> None:
    core = Core()
    sender, other = core.join("reader1"), core.join("reader2")
    core.hush()
    sender.says(message)
    assert other.hears() == [f"msg:{message}"]
    assert sender.hears() == []


@BOTH
@pytest.mark.parametrize("way", ["says", "posts"])
def test_ping_is_answered_to_its_sender_only(dialect: Dialect, way: str) -> None:
    core = Core()
    sender = core.join("worker1", dialect)
    core.join("reader2")
    core.hush()
    getattr(sender, way)("ping")
    assert sender.hears() == ["pong"]
    assert core.is_quiet()


def test_messages_arrive_in_the_order_sent() -> None:
    core = Core()
    sender, other = core.join("reader1"), core.join("reader2")
    core.hush()
    for n in range(5):
        sender.says(f"broadcast {n}")
        sender.posts(f"to:reader2;posted {n}")
        sender.says(f"to:reader2;addressed {n}")
    assert other.hears() == [
        f"msg:{kind} {n}" for n in range(5) for kind in ("broadcast", "posted", "addressed")
    ]


# Dialects


@pytest.mark.parametrize("prefix", ["", "to:all;", "to:worker2;"])
def test_an_acebase_peer_receives_envelopes_verbatim(prefix: str) -> None:
    core = Core()
    sender, receiver = core.join("reader1"), core.join_acebase("worker2")
    core.hush()
    sender.says(prefix + ENVELOPE)
    sender.says(prefix + "{")
    assert receiver.hears() == [ENVELOPE, "{"]


@BOTH
@pytest.mark.parametrize("body", ["disconnect:worker1", "pong", "welcome:{}", "[1]", " {}", ""])
def test_nobody_can_forge_what_the_relay_says(dialect: Dialect, body: str) -> None:
    core = Core()
    sender, receiver = core.join_acebase("worker1"), core.join("worker2", dialect)
    core.hush()
    sender.says(body)
    sender.says(f"to:worker2;{body}")
    assert receiver.hears() == [f"msg:{body}"] * 2


def test_a_documented_peer_receives_envelopes_marked_as_messages() -> None:
    core = Core()
    sender, receiver = core.join_acebase("worker1"), core.join("reader1")
    core.hush()
    sender.says(ENVELOPE)
    assert receiver.hears() == [f"msg:{ENVELOPE}"]


def test_a_broadcast_is_rendered_for_each_dialect() -> None:
    core = Core()
    receivers = [
        core.join("reader1"),
        core.join_acebase("worker2"),
        core.join("reader2"),
        core.join_acebase("worker3"),
    ]
    sender = core.join_acebase("worker1")
    core.hush()
    sender.says(ENVELOPE)
    assert [each.hears() for each in receivers] == [[f"msg:{ENVELOPE}"], [ENVELOPE]] * 2


# Sizes


@pytest.mark.parametrize(
    "message",
    ["x" * 101, "to:reader2;" + "x" * 90, "读" * 101, "😀" * 50 + "x", "é" + "x" * 100],
)
def test_a_message_above_the_payload_limit_is_refused_and_not_delivered(message: str) -> None:
    core = Core(max_payload=100)
    sender = core.join("reader1")
    core.join("reader2")
    core.hush()
    with pytest.raises(MessageTooLarge, match="100 UTF-16 code units"):
        sender.says(message)
    assert core.is_quiet()


@pytest.mark.parametrize(
    "message", ["x" * 100, "to:reader2;" + "x" * 89, "读" * 100, "😀" * 50, "é" + "x" * 99]
)
def test_a_message_up_to_the_payload_limit_is_relayed(message: str) -> None:
    core = Core(max_payload=100)
    sender, other = core.join("reader1"), core.join("reader2")
    core.hush()
    sender.says(message)
    assert other.hears() == ["msg:" + message.removeprefix("to:reader2;")]


@pytest.mark.parametrize("size", [121, 122, 65531, 65532])
def test_every_length_of_a_frame(size: int) -> None:
    core = Core(max_payload=100_000)
    sender, other = core.join("reader1"), core.join("reader2")
    core.hush()
    sender.says("x" * size)
    assert other.hears() == ["msg:" + "x" * size]


# Large messages

LARGE = "large " * 20


def test_a_large_message_is_announced_to_documented_and_inline_to_acebase_peers() -> None:
    core = Core(max_payload=100)
    sender = core.join("reader1")
    readers = [core.join("reader2"), core.join("reader3")]
    worker = core.join_acebase("worker1")
    body = '{"large":"' + LARGE + '"}'
    core.hush()
    sender.posts(body)
    assert worker.hears() == [body]
    for reader in readers:
        (announcement,) = reader.hears()
        assert reader.downloads(announcement) == body
    core.wait(REFETCH_PERIOD)
    for reader in readers:
        with pytest.raises(NotFound):
            reader.downloads(announcement)
    assert core.is_quiet()
    assert core.relay.store.stored == 0


def test_nobody_else_can_download_a_large_message() -> None:
    core = Core(max_payload=100)
    sender, addressee = core.join("reader1"), core.join("reader2")
    others = [core.join("reader3"), core.join("reader2", database="other_data")]
    core.hush()
    sender.posts(f"to:reader2;{LARGE}")
    (announcement,) = addressee.hears()
    assert core.is_quiet()
    for other in [sender, *others]:
        with pytest.raises(NotFound):
            other.downloads(announcement)
    assert addressee.downloads(announcement) == LARGE


def test_a_large_message_to_acebase_peers_is_not_stored() -> None:
    core = Core(max_payload=100)
    sender, worker = core.join("reader1"), core.join_acebase("worker1")
    core.hush()
    sender.posts(LARGE)
    sender.posts(f"to:worker1;{LARGE}")
    sender.posts(f"to:nobody;{LARGE}")
    assert worker.hears() == [f"msg:{LARGE}"] * 2
    assert core.relay.store.stored == 0
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "nobody", DropReason.UNKNOWN_ADDRESSEE)
    ]


def test_a_peer_may_post_a_large_message_to_itself() -> None:
    core = Core(max_payload=100)
    sender = core.join("reader1")
    core.join("reader2")
    core.hush()
    sender.posts(f"to:reader1;{LARGE}")
    (announcement,) = sender.hears()
    assert sender.downloads(announcement) == LARGE
    assert core.is_quiet()


@pytest.mark.parametrize("body", ["x" * 100, "读" * 100])
def test_a_posted_body_up_to_the_payload_limit_comes_inline(body: str) -> None:
    core = Core(max_payload=100)
    sender, reader = core.join("reader1"), core.join("reader2")
    core.hush()
    sender.posts(f"to:reader2;{body}")
    assert reader.hears() == [f"msg:{body}"]
    sender.posts(body + "x")
    (announcement,) = reader.hears()
    assert reader.downloads(announcement) == body + "x"


def test_a_large_message_expires() -> None:
    core = Core(max_payload=100, message_ttl=60)
    sender, reader = core.join("reader1"), core.join("reader2")
    core.hush()
    sender.posts(LARGE)
    (announcement,) = reader.hears()
    core.wait(59.5)
    assert core.reported(MessageDropped) == []
    core.wait(0.5)
    with pytest.raises(NotFound):
        reader.downloads(announcement)
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader2", DropReason.EXPIRED)
    ]
    assert core.relay.store.stored == 0


def test_a_large_message_is_gone_when_its_recipients_are() -> None:
    core = Core(max_payload=100)
    sender, readers = core.join("reader1"), [core.join("reader2"), core.join("reader3")]
    sender.posts(LARGE)
    assert core.relay.store.stored == len(LARGE) + 2 * ENTRY_SIZE
    readers[0].is_lost()
    assert core.relay.store.stored == len(LARGE) + ENTRY_SIZE
    core.join("reader3")
    assert core.relay.store.stored == 0


def test_only_documented_peers_make_the_relay_keep_large_messages() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    core.join("reader1", database="other_data")
    assert not core.relay.router.stores_large_messages(worker.peer)
    reader = core.join("reader1")
    assert core.relay.router.stores_large_messages(worker.peer)
    reader.is_lost()
    assert not core.relay.router.stores_large_messages(worker.peer)


# Congestion


def test_what_a_congested_peer_is_sent_waits_in_order_and_slows_nobody() -> None:
    core = Core(max_payload=100)
    sender, slow, quick = core.join("reader1"), core.join("slower"), core.join("quicker")
    core.hush()
    sender.says("0")
    slow.stops_reading()
    sender.says("1")
    sender.says("to:slower;2")
    sender.posts(LARGE)
    newcomer = core.join("newcomer")
    newcomer.is_lost()
    assert slow.hears() == ["msg:0"]
    assert [text.partition(":")[0] for text in quick.hears()] == [
        "msg",
        "msg",
        "get",
        "connect",
        "disconnect",
    ]
    slow.reads_on()
    first, second, announcement, *rest = slow.hears()
    assert [first, second, *rest] == ["msg:1", "msg:2", "connect:newcomer", "disconnect:newcomer"]
    assert slow.downloads(announcement) == LARGE
    sender.says("3")
    assert slow.hears() == ["msg:3"]


def test_what_waits_is_handed_over_only_while_there_is_room() -> None:
    core = Core(max_payload=100_000)
    sender, slow = core.join("reader1"), core.join("slower")
    slow.stops_reading()
    core.hush()
    messages = [f"{n}" * 40_000 for n in range(8)]
    for message in messages:
        sender.says(message)
    slow.connection.room = 50_000
    heard: list[str] = []
    rounds = 0
    while len(heard) < len(messages):
        slow.connection.room = 50_000
        slow.reads_on()
        new = slow.hears()
        assert 0 < sum(map(len, new)) < 150_000
        heard += new
        rounds += 1
    assert heard == [f"msg:{message}" for message in messages]
    assert rounds > 2


def test_a_peer_that_leaves_too_much_unread_is_cut() -> None:
    body = "x" * 100
    size = memory_of(f"msg:{body}")
    core = Core(max_backlog=3 * size)
    sender, slow, quick = core.join("reader1"), core.join("slower"), core.join("quicker")
    slow.stops_reading()
    for _ in range(3):
        sender.says(body)
    assert core.reported(SlowConsumer) == []
    assert not slow.connection.aborted
    core.hush()
    sender.says(body)
    assert slow.connection.aborted
    assert quick.hears() == [f"msg:{body}"]
    assert core.reported(SlowConsumer) == [SlowConsumer(DATABASE, "slower", 3 * size, 3, AT)]
    sender.says("to:slower;still there?")
    slow.reads_on()
    assert core.is_quiet()
    slow.is_lost()
    assert [sender.hears(), quick.hears()] == [["disconnect:slower"]] * 2
    assert core.reported(SlowConsumer) == [SlowConsumer(DATABASE, "slower", 3 * size, 3, AT)]


def test_peers_that_are_cut_leave_in_the_order_in_which_they_were_cut() -> None:
    core = Core(max_backlog=1)
    sender = core.join("reader1")
    slow = [core.join(f"slower{n}") for n in range(20)]
    core.hush()
    for each in slow[::-1]:
        each.stops_reading(unsent=1)
        sender.says(f"to:{each.peer.client_id};hi")
    core.wait(1)
    assert sender.hears() == [f"disconnect:{each.peer.client_id}" for each in slow[::-1]]


def test_what_the_connection_could_not_send_counts_as_unread() -> None:
    size = memory_of("msg:hi")
    core = Core(max_backlog=1000)
    sender, slow = core.join("reader1"), core.join("slower")
    slow.stops_reading(unsent=1000 - size)
    sender.says("hi")
    assert not slow.connection.aborted
    sender.says("hi")
    assert slow.connection.aborted
    assert core.reported(SlowConsumer) == [SlowConsumer(DATABASE, "slower", 1000, 1, AT)]


def test_a_message_of_any_size_is_accepted_into_an_empty_backlog() -> None:
    core = Core(max_backlog=10)
    sender, slow = core.join("reader1"), core.join("slower")
    slow.stops_reading()
    core.hush()
    sender.says("x" * 500)
    assert core.reported(SlowConsumer) == []
    slow.reads_on()
    assert slow.hears() == ["msg:" + "x" * 500]
    slow.stops_reading(unsent=1)
    sender.says("x" * 500)
    assert slow.connection.aborted


def test_a_cut_acebase_peer_keeps_no_seat() -> None:
    core = Core(max_backlog=10)
    sender, slow = core.join("reader1"), core.join_acebase("worker1")
    slow.stops_reading()
    sender.says("1" * 50)
    sender.says("2")
    core.hush()
    slow.is_lost()
    assert sender.hears() == ["disconnect:worker1"]
    assert core.reported(SessionSuspended) == []


def test_a_cut_peer_may_join_again_before_its_end_is_known() -> None:
    core = Core(max_backlog=10)
    sender, slow = core.join("reader1"), core.join_acebase("worker1")
    slow.stops_reading()
    sender.says("1" * 50)
    sender.says("2")
    core.hush()
    again = core.join_acebase("worker1")
    assert sender.hears() == ["disconnect:worker1", "connect:worker1"]
    assert again.hears() == [WELCOME]
    slow.is_lost()
    assert core.is_quiet()
    assert again.peer.state is SessionState.CONNECTED


def test_the_cut_of_one_peer_does_not_disturb_a_broadcast_to_the_others() -> None:
    core = Core(max_backlog=10)
    sender = core.join("reader1")
    receivers = [core.join("first"), core.join_acebase("slow1"), core.join("last")]
    receivers[1].stops_reading(unsent=10)
    core.hush()
    sender.says("hi")
    assert [each.hears() for each in receivers] == [["msg:hi"], [], ["msg:hi"]]
    assert receivers[1].connection.aborted


# Closing the relay


def test_closing_hands_everybody_what_waits_and_closes() -> None:
    core = Core()
    sender, slow = core.join("reader1"), core.join("slower")
    elsewhere = core.join("reader1", database="other_data")
    lost = core.join_acebase("worker1")
    lost.is_lost()
    slow.stops_reading()
    core.hush()
    sender.says("1")
    sender.says("2")
    core.relay.close(1001, "the server ends")
    assert slow.hears() == ["msg:1", "msg:2"]
    assert lost.hears() == []
    for process in (sender, slow, elsewhere):
        assert process.connection.closed == (1001, "the server ends")
        process.is_lost(1001)
    assert lost.connection.closed is None
    assert core.relay.registry.clients("other_data") == []


# Who is there


def test_clients_are_listed_in_the_order_they_came_with_their_time() -> None:
    core = Core()
    first = core.wall
    core.join("reader1")
    core.wait(1.5)
    core.join_acebase("worker1")
    core.join("reader1", database="other_data")
    assert core.relay.registry.clients(DATABASE) == [
        ConnectedPeer("reader1", DATABASE, first),
        ConnectedPeer("worker1", DATABASE, first + 1500),
    ]


def test_clients_that_are_only_expected_back_are_not_listed() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    worker.is_lost()
    assert core.relay.registry.clients(DATABASE) == []
    core.wait(1)
    core.join_acebase("worker1")
    assert core.relay.registry.clients(DATABASE) == [ConnectedPeer("worker1", DATABASE, core.wall)]


def test_an_unknown_database_has_no_clients() -> None:
    core = Core()
    core.join("reader1").is_lost()
    assert core.relay.registry.clients(DATABASE) == []
    assert core.relay.registry.clients("constructor") == []


def test_a_peer_is_found_by_database_and_id_while_it_is_connected_or_expected() -> None:
    core = Core()
    reader, worker = core.join("läser1"), core.join_acebase("worker1")
    worker.is_lost()
    assert core.relay.registry.peer(DATABASE, "läser1") is reader.peer
    assert core.relay.registry.peer(DATABASE, "worker1") is worker.peer
    for database, client_id in [
        (DATABASE, "worker2"),
        ("other_data", "worker1"),
        (DATABASE, "l\udce4ser1"),
    ]:
        with pytest.raises(NotAPeer):
            core.relay.registry.peer(database, client_id)


def test_the_database_of_a_peer_is_told_if_only_one_has_it() -> None:
    core = Core()
    core.join("reader1")
    worker = core.join_acebase("worker1", database="other_data")
    worker.is_lost()
    registry = core.relay.registry

    def all_databases(name: str) -> bool:
        return True

    assert registry.database_of("reader1", all_databases) == DATABASE
    assert registry.database_of("worker1", all_databases) == "other_data"
    for unknown in ("worker2", "\udcff"):
        with pytest.raises(NotFound):
            registry.database_of(unknown, all_databases)
    core.join("worker1")
    with pytest.raises(AmbiguousPeer):
        registry.database_of("worker1", all_databases)
    assert registry.database_of("worker1", DATABASE.__eq__) == DATABASE
    with pytest.raises(NotFound):
        registry.database_of("reader1", "other_data".__eq__)


def test_binary_messages_are_counted() -> None:
    core = Core()
    sender = core.join("reader1")
    core.join("reader2")
    core.hush()
    core.relay.router.ignore_binary(sender.peer)
    assert core.is_quiet()
    assert core.reported(MessageDropped) == [MessageDropped(DATABASE, "reader1", DropReason.BINARY)]


# Databases are strictly apart

NAMES = ["shop_data", "shop-x_data", "shop", "constructor", "__proto__", "a b", "数据", "SHOP_DATA"]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_databases_never_hear_of_each_other(dialect: Dialect) -> None:
    core = Core(max_payload=100, session_timeout=0)
    actors = {name: core.join("worker1", dialect, database=name) for name in NAMES}
    watchers = {name: core.join("reader1", database=name) for name in NAMES}
    for name, actor in actors.items():
        core.hush()
        body = f'{{"type":"subscribe","from":"worker1","data":"{name}"}}'
        actor.says(body)
        assert watchers[name].hears() == [f"msg:{body}"]
        actor.says("to:reader1;hi")
        assert watchers[name].hears() == ["msg:hi"]
        actor.posts(LARGE)
        (announcement,) = watchers[name].hears()
        assert watchers[name].downloads(announcement) == LARGE
        master = core.join_acebase(MASTER, name)
        assert watchers[name].hears() == [f"connect:{MASTER}"]
        actor.hears()
        master.is_lost()
        assert watchers[name].hears() == [f"disconnect:{MASTER}"]
        actor.is_lost()
        assert watchers[name].hears() == ["disconnect:worker1"]
        actor.hears()
        master.hears()
        assert core.is_quiet()


def test_a_message_to_a_peer_of_another_database_is_dropped() -> None:
    core = Core()
    sender = core.join("reader1")
    core.join("reader2", database="other_data")
    core.hush()
    sender.says("to:reader2;hi")
    assert core.is_quiet()
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader2", DropReason.UNKNOWN_ADDRESSEE)
    ]


def test_equal_ids_of_different_databases_do_not_replace_each_other() -> None:
    core = Core()
    first, second = core.join("reader1"), core.join("reader1", database="other_data")
    assert first.connection.closed is None
    core.hush()
    first.is_lost()
    assert core.is_quiet()
    assert core.relay.registry.peer("other_data", "reader1") is second.peer


def test_a_forgotten_database_begins_anew() -> None:
    core = Core()
    core.join("reader1").is_lost()
    core.join_acebase("worker1").is_lost(1000)
    newcomer = core.join("reader2")
    assert newcomer.hears() == [WELCOME]
    assert [each.id for each in core.relay.registry.clients(DATABASE)] == ["reader2"]


def test_a_database_makes_room_for_another_when_nothing_of_it_is_left() -> None:
    core = Core(max_databases=1)
    reader, worker = core.join("reader1"), core.join_acebase("worker1")
    other = Handshake("other_data", "reader1", Dialect.DOCUMENTED, True)
    reader.is_lost()
    worker.is_lost()
    with pytest.raises(Overloaded):
        core.relay.registry.check_room(other)
    core.wait(15)
    core.relay.registry.check_room(other)


# Recognising acebase peers


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("prefix", ["", "to:all;", "to:reader2;"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_the_first_envelope_makes_a_peer_acebase(kind: str, prefix: str, way: str) -> None:
    core = Core()
    sender = core.join("worker1", settled=False)
    other = core.join("reader2")
    core.hush()
    envelope = f'{{"type":"{kind}","from":"worker1"}}'
    getattr(sender, way)(prefix + envelope)
    assert other.hears() == [f"msg:{envelope}"]
    assert sender.peer.dialect is Dialect.ACEBASE
    assert core.reported(DialectDetected) == [DialectDetected(DATABASE, "worker1")]
    other.says('{"x":1}')
    assert sender.hears() == ['{"x":1}']
    sender.says('{"type":"event","from":"worker1"}')
    assert len(core.reported(DialectDetected)) == 1


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"event","from":"worker2"}',
        '{"type":"event","from":"worker1',
        '{"type":"unheard-of","from":"worker1"}',
        '{"type":"eventual","from":"worker1"}',
        '{ "type":"event","from":"worker1"}',
        '{"from":"worker1","type":"event"}',
        'event {"type":"event","from":"worker1"}',
        '{"type":"event","pad":"' + "x" * 512 + '","from":"worker1"}',
    ],
)
def test_other_messages_leave_a_peer_documented(message: str) -> None:
    core = Core()
    sender, other = core.join("worker1", settled=False), core.join("reader2")
    core.hush()
    sender.says(message)
    other.says('{"x":1}')
    assert sender.hears() == ['msg:{"x":1}']
    assert core.reported(DialectDetected) == []


def test_a_settled_dialect_does_not_change() -> None:
    core = Core()
    sender, worker = core.join("worker1", settled=True), core.join_acebase("worker2")
    core.hush()
    sender.says(ENVELOPE)
    assert worker.hears() == [ENVELOPE]
    assert sender.hears() == []
    assert sender.peer.dialect is Dialect.DOCUMENTED
    sender.is_lost()
    assert worker.hears() == ["disconnect:worker1"]


def test_an_envelope_names_its_sender_as_json() -> None:
    core = Core()
    client_id = 'wörk"er\\1'
    sender = core.join(client_id, settled=False)
    core.join_acebase("worker2")
    core.hush()
    sender.says('{"type":"pulse","from":"wörk\\"er\\\\1"}')
    assert sender.peer.dialect is Dialect.ACEBASE
    assert sender.hears() == [hello("worker2")]


def test_a_fake_connection_gives_back_only_what_it_has_not_written() -> None:
    connection = FakeConnection()
    connection.batching = True
    first, second = Message(b"1"), Message(b"22")
    connection.send(first)
    connection.flush()
    connection.send(second)
    assert connection.texts == ["1", "22"]
    assert connection.unsent == 2
    assert connection.reclaim() == [second]
    assert connection.texts == ["1"]
