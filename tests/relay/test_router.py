"""The relay: who is connected, and who receives what."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.errors import InvalidAddress, MessageTooLarge
from acebase_ipc.protocol.handshake import Handshake
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
from acebase_ipc.relay.peers import Client, State
from acebase_ipc.relay.router import Relay
from acebase_ipc.relay.sessions import CLOSE_REPLACED
from acebase_ipc.relay.store import ENTRY_SIZE, REFETCH_PERIOD
from tests.relay.core import DATABASE, MASTER, WELCOME, FakeConnection, World, frame_size, hello

BOTH = pytest.mark.parametrize("dialect", list(Dialect))
ENVELOPE = '{"type":"notification","from":"worker1"}'


# Joining


def test_a_newcomer_is_welcomed_first_and_hears_nothing_of_those_before() -> None:
    world = World()
    world.join("reader1")
    newcomer = world.join("reader2")
    assert newcomer.hears() == [WELCOME]


def test_the_welcome_tells_the_payload_limit() -> None:
    newcomer = World(max_payload=77).join("reader1")
    assert newcomer.hears() == ['welcome:{"maxPayload":77}']


@BOTH
def test_all_others_hear_of_a_newcomer(dialect: Dialect) -> None:
    world = World()
    others = [world.join("reader1"), world.join("reader2")]
    world.hush()
    world.join("newcomer", dialect)
    assert [other.hears() for other in others] == [["connect:newcomer"]] * 2


def test_joining_is_reported_with_the_dialect() -> None:
    world = World()
    world.join("reader1")
    world.join_acebase("worker1")
    assert world.reports == [
        PeerJoined(DATABASE, "reader1", "documented"),
        PeerJoined(DATABASE, "worker1", "acebase"),
    ]


def test_it_works_without_limits_and_observer() -> None:
    relay = Relay()
    assert relay.max_payload == 16384
    assert relay.clients(DATABASE) == []


# Leaving


@pytest.mark.parametrize("close_code", [None, 1000, 1001, 1005, 1009, 4000])
def test_the_others_hear_at_once_and_once_that_a_documented_peer_went(
    close_code: int | None,
) -> None:
    world = World()
    leaver, others = world.join("reader1"), [world.join("reader2"), world.join_acebase("worker1")]
    world.hush()
    leaver.is_lost(close_code)
    assert [other.hears() for other in others] == [["disconnect:reader1"]] * 2
    leaver.is_lost(close_code)
    world.wait(100)
    assert world.is_quiet()
    assert world.reported(PeerLeft) == [PeerLeft(DATABASE, "reader1")]


def test_a_peer_that_went_is_unknown() -> None:
    world = World()
    leaver, sender = world.join("reader1"), world.join("reader2")
    leaver.is_lost()
    world.hush()
    sender.says("to:reader1;are you there?")
    assert world.is_quiet()
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader1", DropReason.UNKNOWN_ADDRESSEE)
    ]
    with pytest.raises(NotAPeer):
        leaver.posts("to:reader2;I am not")


def test_what_a_gone_peer_has_not_received_is_counted() -> None:
    world = World(max_payload=10)
    leaver, sender = world.join("reader1"), world.join("reader2")
    leaver.connection.batching = True
    sender.says("taken")
    leaver.stops_reading()
    sender.says("waiting")
    sender.posts("waiting to be downloaded")
    leaver.is_lost()
    # The announcement of the large message is one that waits, too.
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader1", DropReason.RECIPIENT_GONE, 4)
    ]


# Replacing


def test_a_documented_peer_is_replaced_by_a_new_connection_of_its_id() -> None:
    world = World()
    old, other = world.join("reader1"), world.join("reader2")
    world.hush()
    new = world.join("reader1")
    assert old.connection.closed == (CLOSE_REPLACED, "replaced")
    assert CLOSE_REPLACED == 4001
    assert old.hears() == []
    assert new.hears() == [WELCOME]
    assert other.hears() == ["disconnect:reader1", "connect:reader1"]
    assert world.reported(PeerReplaced) == [PeerReplaced(DATABASE, "reader1")]


def test_the_end_of_a_replaced_connection_is_not_the_end_of_its_successor() -> None:
    world = World()
    old, other, new = world.join("reader1"), world.join("reader2"), world.join("reader1")
    world.hush()
    old.is_lost(4001)
    assert world.is_quiet()
    other.says("to:reader1;hi")
    assert new.hears() == ["msg:hi"]
    assert old.hears() == []


def test_a_replaced_connection_cannot_congest_or_drain_its_successor() -> None:
    world = World()
    sender, old = world.join_acebase("worker1"), world.join_acebase("worker2")
    new = world.join_acebase("worker2")
    world.hush()
    world.relay.congested(new.peer, old.connection)
    sender.says("first")
    assert new.hears() == ["msg:first"]
    new.stops_reading()
    sender.says("second")
    world.relay.drained(new.peer, old.connection)
    assert new.hears() == []
    new.reads_on()
    assert new.hears() == ["msg:second"]


def test_what_a_documented_peer_has_not_received_is_lost_with_its_connection() -> None:
    world = World()
    old, sender = world.join("reader1"), world.join("reader2")
    old.stops_reading()
    sender.says("to:reader1;too late")
    new = world.join("reader1")
    world.hush()
    new.reads_on()
    assert world.is_quiet()
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader1", DropReason.RECIPIENT_GONE)
    ]


@pytest.mark.parametrize("wants", list(Dialect))
def test_a_newcomer_of_the_other_dialect_is_another_peer(wants: Dialect) -> None:
    world = World()
    has = Dialect.ACEBASE if wants is Dialect.DOCUMENTED else Dialect.DOCUMENTED
    world.join("worker1", has)
    other = world.join("reader1")
    world.hush()
    new = world.join("worker1", wants)
    assert other.hears() == ["disconnect:worker1", "connect:worker1"]
    assert new.peer.dialect is wants


# Addressing


def test_an_addressed_message_reaches_its_addressee_only() -> None:
    world = World()
    sender, addressee = world.join("reader1"), world.join("reader2")
    world.join("reader3")
    world.hush()
    sender.says("to:reader2;a;b")
    assert addressee.hears() == ["msg:a;b"]
    assert world.is_quiet()


def test_a_peer_may_write_to_itself() -> None:
    world = World()
    sender = world.join("reader1")
    world.join("reader2")
    world.hush()
    sender.says("to:reader1;note")
    assert sender.hears() == ["msg:note"]
    assert world.is_quiet()


def test_ids_and_bodies_may_be_any_text() -> None:
    world = World()
    sender, addressee = world.join("reader1"), world.join("läser-读者-😀")
    world.hush()
    sender.says("to:läser-读者-😀;grüß 读者 😀")
    assert addressee.hears() == ["msg:grüß 读者 😀"]


def test_an_empty_body_is_a_message() -> None:
    world = World()
    sender, other = world.join("reader1"), world.join("reader2")
    world.hush()
    sender.says("")
    sender.says("to:reader2;")
    assert other.hears() == ["msg:", "msg:"]


@pytest.mark.parametrize("addressee", ["nobody", "reader", "READER2", "all ", "__proto__"])
def test_a_message_to_an_unknown_peer_is_dropped_and_counted(addressee: str) -> None:
    world = World()
    sender = world.join("reader1")
    world.join("reader2")
    world.hush()
    sender.says(f"to:{addressee};hi")
    assert world.is_quiet()
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, addressee, DropReason.UNKNOWN_ADDRESSEE)
    ]


@pytest.mark.parametrize("message", ["to:", "to:reader2", "to:;", "to:;hi"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_a_malformed_address_is_refused_and_nothing_delivered(message: str, way: str) -> None:
    world = World()
    sender = world.join("reader1")
    world.join("reader2")
    world.hush()
    with pytest.raises(InvalidAddress):
        getattr(sender, way)(message)
    assert world.is_quiet()


@pytest.mark.parametrize("message", ["hi", "to:all;hi"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_a_broadcast_reaches_every_other_peer_once(message: str, way: str) -> None:
    world = World()
    sender, *others = (world.join(f"reader{n}") for n in range(4))
    world.hush()
    getattr(sender, way)(message)
    assert [other.hears() for other in others] == [["msg:hi"]] * 3
    assert sender.hears() == []


@pytest.mark.parametrize("message", ["to", "TO:reader2;hi", " to:reader2;hi", "ping ", "PING"])
def test_what_is_no_command_is_broadcast_as_it_is(message: str) -> None:
    world = World()
    sender, other = world.join("reader1"), world.join("reader2")
    world.hush()
    sender.says(message)
    assert other.hears() == [f"msg:{message}"]
    assert sender.hears() == []


@BOTH
@pytest.mark.parametrize("way", ["says", "posts"])
def test_ping_is_answered_to_its_sender_only(dialect: Dialect, way: str) -> None:
    world = World()
    sender = world.join("worker1", dialect)
    world.join("reader2")
    world.hush()
    getattr(sender, way)("ping")
    assert sender.hears() == ["pong"]
    assert world.is_quiet()


def test_messages_arrive_in_the_order_sent() -> None:
    world = World()
    sender, other = world.join("reader1"), world.join("reader2")
    world.hush()
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
    world = World()
    sender, receiver = world.join("reader1"), world.join_acebase("worker2")
    world.hush()
    sender.says(prefix + ENVELOPE)
    sender.says(prefix + "{")
    assert receiver.hears() == [ENVELOPE, "{"]


@BOTH
@pytest.mark.parametrize("body", ["disconnect:worker1", "pong", "welcome:{}", "[1]", " {}", ""])
def test_nobody_can_forge_what_the_relay_says(dialect: Dialect, body: str) -> None:
    world = World()
    sender, receiver = world.join_acebase("worker1"), world.join("worker2", dialect)
    world.hush()
    sender.says(body)
    sender.says(f"to:worker2;{body}")
    assert receiver.hears() == [f"msg:{body}"] * 2


def test_a_documented_peer_receives_envelopes_marked_as_messages() -> None:
    world = World()
    sender, receiver = world.join_acebase("worker1"), world.join("reader1")
    world.hush()
    sender.says(ENVELOPE)
    assert receiver.hears() == [f"msg:{ENVELOPE}"]


def test_a_broadcast_is_rendered_for_each_dialect() -> None:
    world = World()
    receivers = [
        world.join("reader1"),
        world.join_acebase("worker2"),
        world.join("reader2"),
        world.join_acebase("worker3"),
    ]
    sender = world.join_acebase("worker1")
    world.hush()
    sender.says(ENVELOPE)
    assert [each.hears() for each in receivers] == [[f"msg:{ENVELOPE}"], [ENVELOPE]] * 2


# Sizes


@pytest.mark.parametrize(
    "message",
    ["x" * 101, "to:reader2;" + "x" * 90, "读" * 101, "😀" * 50 + "x", "é" + "x" * 100],
)
def test_a_message_above_the_payload_limit_is_refused_and_not_delivered(message: str) -> None:
    world = World(max_payload=100)
    sender = world.join("reader1")
    world.join("reader2")
    world.hush()
    with pytest.raises(MessageTooLarge, match="100 UTF-16 code units"):
        sender.says(message)
    assert world.is_quiet()


@pytest.mark.parametrize(
    "message", ["x" * 100, "to:reader2;" + "x" * 89, "读" * 100, "😀" * 50, "é" + "x" * 99]
)
def test_a_message_up_to_the_payload_limit_is_relayed(message: str) -> None:
    world = World(max_payload=100)
    sender, other = world.join("reader1"), world.join("reader2")
    world.hush()
    sender.says(message)
    assert other.hears() == ["msg:" + message.removeprefix("to:reader2;")]


@pytest.mark.parametrize("size", [121, 122, 65531, 65532])
def test_every_length_of_a_frame(size: int) -> None:
    world = World(max_payload=100_000)
    sender, other = world.join("reader1"), world.join("reader2")
    world.hush()
    sender.says("x" * size)
    assert other.hears() == ["msg:" + "x" * size]


# Large messages

LARGE = "large " * 20


def test_a_large_message_is_announced_to_documented_and_inline_to_acebase_peers() -> None:
    world = World(max_payload=100)
    sender = world.join("reader1")
    readers = [world.join("reader2"), world.join("reader3")]
    worker = world.join_acebase("worker1")
    body = '{"large":"' + LARGE + '"}'
    world.hush()
    sender.posts(body)
    assert worker.hears() == [body]
    for reader in readers:
        (announcement,) = reader.hears()
        assert reader.downloads(announcement) == body
    world.wait(REFETCH_PERIOD)
    for reader in readers:
        with pytest.raises(NotFound):
            reader.downloads(announcement)
    assert world.is_quiet()
    assert world.relay.mailbox.stored == 0


def test_nobody_else_can_download_a_large_message() -> None:
    world = World(max_payload=100)
    sender, addressee = world.join("reader1"), world.join("reader2")
    others = [world.join("reader3"), world.join("reader2", database="other_data")]
    world.hush()
    sender.posts(f"to:reader2;{LARGE}")
    (announcement,) = addressee.hears()
    assert world.is_quiet()
    for other in [sender, *others]:
        with pytest.raises(NotFound):
            other.downloads(announcement)
    assert addressee.downloads(announcement) == LARGE


def test_a_large_message_to_acebase_peers_is_not_stored() -> None:
    world = World(max_payload=100)
    sender, worker = world.join("reader1"), world.join_acebase("worker1")
    world.hush()
    sender.posts(LARGE)
    sender.posts(f"to:worker1;{LARGE}")
    sender.posts(f"to:nobody;{LARGE}")
    assert worker.hears() == [f"msg:{LARGE}"] * 2
    assert world.relay.mailbox.stored == 0
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, "nobody", DropReason.UNKNOWN_ADDRESSEE)
    ]


def test_a_peer_may_post_a_large_message_to_itself() -> None:
    world = World(max_payload=100)
    sender = world.join("reader1")
    world.join("reader2")
    world.hush()
    sender.posts(f"to:reader1;{LARGE}")
    (announcement,) = sender.hears()
    assert sender.downloads(announcement) == LARGE
    assert world.is_quiet()


@pytest.mark.parametrize("body", ["x" * 100, "读" * 100])
def test_a_posted_body_up_to_the_payload_limit_comes_inline(body: str) -> None:
    world = World(max_payload=100)
    sender, reader = world.join("reader1"), world.join("reader2")
    world.hush()
    sender.posts(f"to:reader2;{body}")
    assert reader.hears() == [f"msg:{body}"]
    sender.posts(body + "x")
    (announcement,) = reader.hears()
    assert reader.downloads(announcement) == body + "x"


def test_a_large_message_expires() -> None:
    world = World(max_payload=100, message_ttl=60)
    sender, reader = world.join("reader1"), world.join("reader2")
    world.hush()
    sender.posts(LARGE)
    (announcement,) = reader.hears()
    world.wait(59.5)
    assert world.reported(MessageDropped) == []
    world.wait(0.5)
    with pytest.raises(NotFound):
        reader.downloads(announcement)
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader2", DropReason.EXPIRED)
    ]
    assert world.relay.mailbox.stored == 0


def test_a_large_message_is_gone_when_its_recipients_are() -> None:
    world = World(max_payload=100)
    sender, readers = world.join("reader1"), [world.join("reader2"), world.join("reader3")]
    sender.posts(LARGE)
    assert world.relay.mailbox.stored == len(LARGE) + 2 * ENTRY_SIZE
    readers[0].is_lost()
    assert world.relay.mailbox.stored == len(LARGE) + ENTRY_SIZE
    world.join("reader3")
    assert world.relay.mailbox.stored == 0


def test_only_documented_peers_make_the_relay_keep_large_messages() -> None:
    world = World()
    worker = world.join_acebase("worker1")
    world.join("reader1", database="other_data")
    assert not world.relay.keeps_large_messages(worker.peer)
    reader = world.join("reader1")
    assert world.relay.keeps_large_messages(worker.peer)
    reader.is_lost()
    assert not world.relay.keeps_large_messages(worker.peer)


# Congestion


def test_what_a_congested_peer_is_sent_waits_in_order_and_slows_nobody() -> None:
    world = World(max_payload=100)
    sender, slow, quick = world.join("reader1"), world.join("slower"), world.join("quicker")
    world.hush()
    sender.says("0")
    slow.stops_reading()
    sender.says("1")
    sender.says("to:slower;2")
    sender.posts(LARGE)
    newcomer = world.join("newcomer")
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
    world = World(max_payload=100_000)
    sender, slow = world.join("reader1"), world.join("slower")
    slow.stops_reading()
    world.hush()
    messages = [f"{n}" * 40_000 for n in range(8)]
    for message in messages:
        sender.says(message)
    slow.connection.room = 50_000
    slow.connection.when_full = slow.stops_reading
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
    size = frame_size(f"msg:{body}")
    world = World(max_backlog=3 * size)
    sender, slow, quick = world.join("reader1"), world.join("slower"), world.join("quicker")
    slow.stops_reading()
    for _ in range(3):
        sender.says(body)
    assert world.reported(SlowConsumer) == []
    assert not slow.connection.aborted
    world.hush()
    sender.says(body)
    assert slow.connection.aborted
    assert quick.hears() == [f"msg:{body}"]
    assert world.reported(SlowConsumer) == [SlowConsumer(DATABASE, "slower", 3 * size, 3)]
    sender.says("to:slower;still there?")
    slow.reads_on()
    assert world.is_quiet()
    slow.is_lost()
    assert [sender.hears(), quick.hears()] == [["disconnect:slower"]] * 2
    assert world.reported(SlowConsumer) == [SlowConsumer(DATABASE, "slower", 3 * size, 3)]


def test_what_the_connection_could_not_send_counts_as_unread() -> None:
    size = frame_size("msg:hi")
    world = World(max_backlog=1000)
    sender, slow = world.join("reader1"), world.join("slower")
    slow.stops_reading(unsent=1000 - size)
    sender.says("hi")
    assert not slow.connection.aborted
    sender.says("hi")
    assert slow.connection.aborted
    assert world.reported(SlowConsumer) == [SlowConsumer(DATABASE, "slower", 1000, 1)]


def test_a_message_of_any_size_is_accepted_into_an_empty_backlog() -> None:
    world = World(max_backlog=10)
    sender, slow = world.join("reader1"), world.join("slower")
    slow.stops_reading()
    world.hush()
    sender.says("x" * 500)
    assert world.reported(SlowConsumer) == []
    slow.reads_on()
    assert slow.hears() == ["msg:" + "x" * 500]
    slow.stops_reading(unsent=1)
    sender.says("x" * 500)
    assert slow.connection.aborted


def test_a_cut_acebase_peer_keeps_no_seat() -> None:
    world = World(max_backlog=10)
    sender, slow = world.join("reader1"), world.join_acebase("worker1")
    slow.stops_reading()
    sender.says("1" * 50)
    sender.says("2")
    world.hush()
    slow.is_lost()
    assert sender.hears() == ["disconnect:worker1"]
    assert world.reported(SessionSuspended) == []


def test_a_cut_peer_may_join_again_before_its_end_is_known() -> None:
    world = World(max_backlog=10)
    sender, slow = world.join("reader1"), world.join_acebase("worker1")
    slow.stops_reading()
    sender.says("1" * 50)
    sender.says("2")
    world.hush()
    again = world.join_acebase("worker1")
    assert sender.hears() == ["disconnect:worker1", "connect:worker1"]
    assert again.hears() == [WELCOME]
    slow.is_lost()
    assert world.is_quiet()
    assert again.peer.state is State.FLOWING


def test_the_cut_of_one_peer_does_not_disturb_a_broadcast_to_the_others() -> None:
    world = World(max_backlog=10)
    sender = world.join("reader1")
    receivers = [world.join("first"), world.join_acebase("slow1"), world.join("last")]
    receivers[1].stops_reading(unsent=10)
    world.hush()
    sender.says("hi")
    assert [each.hears() for each in receivers] == [["msg:hi"], [], ["msg:hi"]]
    assert receivers[1].connection.aborted


# Closing the relay


def test_closing_hands_everybody_what_waits_and_closes() -> None:
    world = World()
    sender, slow = world.join("reader1"), world.join("slower")
    elsewhere = world.join("reader1", database="other_data")
    lost = world.join_acebase("worker1")
    lost.is_lost()
    slow.stops_reading()
    world.hush()
    sender.says("1")
    sender.says("2")
    world.relay.close(1001, "the server ends")
    assert slow.hears() == ["msg:1", "msg:2"]
    assert lost.hears() == []
    for process in (sender, slow, elsewhere):
        assert process.connection.closed == (1001, "the server ends")
        process.is_lost(1001)
    assert lost.connection.closed is None
    assert world.relay.clients("other_data") == []


# Who is there


def test_clients_are_listed_in_the_order_they_came_with_their_time() -> None:
    world = World()
    first = world.wall
    world.join("reader1")
    world.wait(1.5)
    world.join_acebase("worker1")
    world.join("reader1", database="other_data")
    assert world.relay.clients(DATABASE) == [
        Client("reader1", DATABASE, first),
        Client("worker1", DATABASE, first + 1500),
    ]


def test_clients_that_are_only_expected_back_are_not_listed() -> None:
    world = World()
    worker = world.join_acebase("worker1")
    worker.is_lost()
    assert world.relay.clients(DATABASE) == []
    world.wait(1)
    world.join_acebase("worker1")
    assert world.relay.clients(DATABASE) == [Client("worker1", DATABASE, world.wall)]


def test_an_unknown_database_has_no_clients() -> None:
    world = World()
    world.join("reader1").is_lost()
    assert world.relay.clients(DATABASE) == []
    assert world.relay.clients("constructor") == []


def test_a_peer_is_found_by_database_and_id_while_it_is_connected_or_expected() -> None:
    world = World()
    reader, worker = world.join("läser1"), world.join_acebase("worker1")
    worker.is_lost()
    assert world.relay.peer(DATABASE, "läser1") is reader.peer
    assert world.relay.peer(DATABASE, "worker1") is worker.peer
    for database, client_id in [
        (DATABASE, "worker2"),
        ("other_data", "worker1"),
        (DATABASE, "l\udce4ser1"),
    ]:
        with pytest.raises(NotAPeer):
            world.relay.peer(database, client_id)


def anywhere(database: str) -> bool:
    return True


def test_the_database_of_a_peer_is_told_if_only_one_has_it() -> None:
    world = World()
    world.join("reader1")
    worker = world.join_acebase("worker1", database="other_data")
    worker.is_lost()
    assert world.relay.database_of("reader1", anywhere) == DATABASE
    assert world.relay.database_of("worker1", anywhere) == "other_data"
    for unknown in ("worker2", "\udcff"):
        with pytest.raises(NotFound):
            world.relay.database_of(unknown, anywhere)
    world.join("worker1")
    with pytest.raises(AmbiguousPeer):
        world.relay.database_of("worker1", anywhere)


def test_binary_messages_are_counted() -> None:
    world = World()
    sender = world.join("reader1")
    world.join("reader2")
    world.hush()
    world.relay.binary_ignored(sender.peer)
    assert world.is_quiet()
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader1", DropReason.BINARY)
    ]


# Databases are strictly apart

NAMES = ["shop_data", "shop-x_data", "shop", "constructor", "__proto__", "a b", "数据", "SHOP_DATA"]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_databases_never_hear_of_each_other(dialect: Dialect) -> None:
    world = World(max_payload=100, session_timeout=0)
    actors = {name: world.join("worker1", dialect, database=name) for name in NAMES}
    watchers = {name: world.join("reader1", database=name) for name in NAMES}
    for name, actor in actors.items():
        world.hush()
        body = f'{{"type":"subscribe","from":"worker1","data":"{name}"}}'
        actor.says(body)
        assert watchers[name].hears() == [f"msg:{body}"]
        actor.says("to:reader1;hi")
        assert watchers[name].hears() == ["msg:hi"]
        actor.posts(LARGE)
        (announcement,) = watchers[name].hears()
        assert watchers[name].downloads(announcement) == LARGE
        master = world.join_acebase(MASTER, name)
        assert watchers[name].hears() == [f"connect:{MASTER}"]
        actor.hears()
        master.is_lost()
        assert watchers[name].hears() == [f"disconnect:{MASTER}"]
        actor.is_lost()
        assert watchers[name].hears() == ["disconnect:worker1"]
        actor.hears()
        master.hears()
        assert world.is_quiet()


def test_a_message_to_a_peer_of_another_database_is_dropped() -> None:
    world = World()
    sender = world.join("reader1")
    world.join("reader2", database="other_data")
    world.hush()
    sender.says("to:reader2;hi")
    assert world.is_quiet()
    assert world.reported(MessageDropped) == [
        MessageDropped(DATABASE, "reader2", DropReason.UNKNOWN_ADDRESSEE)
    ]


def test_equal_ids_of_different_databases_do_not_replace_each_other() -> None:
    world = World()
    first, second = world.join("reader1"), world.join("reader1", database="other_data")
    assert first.connection.closed is None
    world.hush()
    first.is_lost()
    assert world.is_quiet()
    assert world.relay.peer("other_data", "reader1") is second.peer


def test_a_forgotten_database_begins_anew() -> None:
    world = World()
    world.join("reader1").is_lost()
    world.join_acebase("worker1").is_lost(1000)
    newcomer = world.join("reader2")
    assert newcomer.hears() == [WELCOME]
    assert [each.id for each in world.relay.clients(DATABASE)] == ["reader2"]


def test_a_database_makes_room_for_another_when_nothing_of_it_is_left() -> None:
    world = World(max_databases=1)
    reader, worker = world.join("reader1"), world.join_acebase("worker1")
    other = Handshake("other_data", "reader1", Dialect.DOCUMENTED, True)
    reader.is_lost()
    worker.is_lost()
    with pytest.raises(Overloaded):
        world.relay.check_room(other)
    world.wait(15)
    world.relay.check_room(other)


# Recognising acebase peers


@pytest.mark.parametrize(
    "kind",
    [
        "hello",
        "bye",
        "pulse",
        "subscribe",
        "unsubscribe",
        "event",
        "lock-request",
        "lock-result",
        "unlock-request",
        "unlock-result",
        "move-lock-request",
        "notification",
        "request",
        "result",
    ],
)
@pytest.mark.parametrize("prefix", ["", "to:all;", "to:reader2;"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_the_first_envelope_makes_a_peer_acebase(kind: str, prefix: str, way: str) -> None:
    world = World()
    sender = world.join("worker1", settled=False)
    other = world.join("reader2")
    world.hush()
    envelope = f'{{"type":"{kind}","from":"worker1"}}'
    getattr(sender, way)(prefix + envelope)
    assert other.hears() == [f"msg:{envelope}"]
    assert sender.peer.dialect is Dialect.ACEBASE
    assert world.reported(DialectDetected) == [DialectDetected(DATABASE, "worker1")]
    other.says('{"x":1}')
    assert sender.hears() == ['{"x":1}']
    sender.says('{"type":"event","from":"worker1"}')
    assert len(world.reported(DialectDetected)) == 1


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
    world = World()
    sender, other = world.join("worker1", settled=False), world.join("reader2")
    world.hush()
    sender.says(message)
    other.says('{"x":1}')
    assert sender.hears() == ['msg:{"x":1}']
    assert world.reported(DialectDetected) == []


def test_a_settled_dialect_does_not_change() -> None:
    world = World()
    sender, worker = world.join("worker1", settled=True), world.join_acebase("worker2")
    world.hush()
    sender.says(ENVELOPE)
    assert worker.hears() == [ENVELOPE]
    assert sender.hears() == []
    assert sender.peer.dialect is Dialect.DOCUMENTED
    sender.is_lost()
    assert worker.hears() == ["disconnect:worker1"]


def test_an_envelope_names_its_sender_as_json() -> None:
    world = World()
    client_id = 'wörk"er\\1'
    sender = world.join(client_id, settled=False)
    world.join_acebase("worker2")
    world.hush()
    sender.says('{"type":"pulse","from":"wörk\\"er\\\\1"}')
    assert sender.peer.dialect is Dialect.ACEBASE
    assert sender.hears() == [hello("worker2")]


def test_a_fake_connection_gives_back_only_what_it_has_not_written() -> None:
    connection = FakeConnection()
    connection.batching = True
    connection.send(b"\x81\x011")
    connection.flush()
    connection.send(b"\x81\x012")
    assert connection.texts == ["1", "2"]
    assert connection.backlog == 3
    assert connection.reclaim() == [b"\x81\x012"]
    assert connection.texts == ["1"]
