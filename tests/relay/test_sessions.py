"""Recovery: the seats of lost acebase peers, and what waits for an absent master."""

from __future__ import annotations

import pytest

from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.relay.errors import NotAPeer
from acebase_ipc.relay.events import (
    DropReason,
    ExpiryReason,
    MessageDropped,
    PeerLeft,
    PeerReplaced,
    QueueDelivered,
    SessionExpired,
    SessionResumed,
    SessionSuspended,
)
from acebase_ipc.relay.sessions import CLOSE_REPLACED
from tests.relay.core import AT, DATABASE, MASTER, WELCOME, Core, bye, hello, memory_of

LOCK = '{"type":"lock-request","from":"worker1","to":"[master]"}'
NOTE = '{"type":"notification","from":"worker1"}'
TO_MASTER = f"to:[master];{LOCK}"


# A worker loses its connection


@pytest.mark.parametrize("close_code", [None, 1005, 1006, 1009, 1011, 4001])
def test_nobody_hears_of_a_lost_worker_while_its_seat_lasts(close_code: int | None) -> None:
    core = Core(session_timeout=15)
    lost = core.join_acebase("worker1")
    core.join_acebase("worker2")
    core.join("reader1")
    core.hush()
    lost.is_lost(close_code)
    core.wait(14.5)
    assert core.is_quiet()
    assert core.reported(SessionSuspended) == [SessionSuspended(DATABASE, "worker1", AT)]
    assert core.reported(PeerLeft) == []


def test_a_seat_ends_by_time() -> None:
    core = Core(session_timeout=15)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    reader = core.join("reader1")
    core.hush()
    lost.is_lost()
    worker.says(NOTE)
    core.wait(15)
    assert worker.hears() == ["disconnect:worker1"]
    assert reader.hears() == [f"msg:{NOTE}", "disconnect:worker1"]
    assert core.reported(SessionExpired) == [
        SessionExpired(DATABASE, "worker1", ExpiryReason.TIME, 1, memory_of(NOTE))
    ]
    assert core.reported(PeerLeft) == [PeerLeft(DATABASE, "worker1", AT)]
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "worker1", DropReason.RECIPIENT_GONE)
    ]
    core.wait(100)
    assert core.is_quiet()
    assert len(core.reported(SessionExpired)) == 1


def test_the_id_of_an_ended_seat_is_unknown_and_its_return_a_new_join() -> None:
    core = Core(session_timeout=15)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    lost.is_lost()
    worker.says("to:worker1;{}")
    core.wait(15)
    core.hush()
    with pytest.raises(NotAPeer):
        lost.posts("hi")
    worker.says("to:worker1;{}")
    assert core.reported(MessageDropped)[-1] == MessageDropped(
        DATABASE, "worker1", DropReason.UNKNOWN_ADDRESSEE
    )
    back = core.join_acebase("worker1")
    assert back.hears() == [WELCOME, hello("worker2")]
    assert worker.hears() == ["connect:worker1", hello("worker1")]


@pytest.mark.parametrize("close_code", [1000, 1001])
def test_a_clean_close_is_a_departure(close_code: int) -> None:
    core = Core()
    leaver, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    leaver.is_lost(close_code)
    assert worker.hears() == ["disconnect:worker1"]
    assert core.reported(SessionSuspended) == []


@pytest.mark.parametrize("prefix", ["", "to:all;"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_who_has_said_goodbye_keeps_no_seat(prefix: str, way: str) -> None:
    core = Core()
    leaver, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    getattr(leaver, way)(prefix + bye("worker1"))
    assert worker.hears() == [bye("worker1")]
    leaver.is_lost()
    assert worker.hears() == ["disconnect:worker1"]


def test_goodbye_to_one_peer_is_none_to_all() -> None:
    core = Core()
    worker, other = core.join_acebase("worker1"), core.join_acebase("worker2")
    worker.says(f"to:worker2;{bye('worker1')}")
    core.hush()
    worker.is_lost()
    assert other.hears() == []


def test_a_documented_peer_keeps_no_seat() -> None:
    core = Core()
    lost, worker = core.join("worker1", settled=False), core.join_acebase("worker2")
    core.hush()
    lost.is_lost()
    assert worker.hears() == ["disconnect:worker1"]


def test_a_peer_that_is_recognised_keeps_a_seat_and_its_dialect() -> None:
    core = Core()
    lost, worker = core.join("worker1", settled=False), core.join_acebase("worker2")
    lost.says(NOTE)
    core.hush()
    lost.is_lost()
    worker.says(NOTE)
    back = core.join("worker1", settled=False)
    assert back.hears() == [WELCOME, NOTE]
    assert worker.hears() == []


def test_without_recovery_every_loss_is_a_departure() -> None:
    core = Core(session_timeout=0)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    lost.is_lost()
    assert worker.hears() == ["disconnect:worker1"]
    worker.says(TO_MASTER)
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, MASTER, DropReason.UNKNOWN_ADDRESSEE)
    ]
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker2")]


def test_each_loss_begins_a_seat_of_full_length() -> None:
    core = Core(session_timeout=15)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    lost.is_lost()
    core.wait(10)
    back = core.join_acebase("worker1")
    core.hush()
    core.wait(10)
    back.is_lost()
    core.wait(14.5)
    assert worker.hears() == []
    core.wait(0.5)
    assert worker.hears() == ["disconnect:worker1"]


# A worker returns


def test_a_worker_returns_silently_to_what_was_sent_in_order() -> None:
    core = Core(max_payload=50)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    reader = core.join("reader1")
    core.hush()
    lost.is_lost()
    worker.says('{"n":1}')
    worker.says("to:worker1;{2}")
    reader.posts('{"n":3,"large":"' + "x" * 50 + '"}')
    core.join_acebase("worker3")
    worker.says("4")
    reader.is_lost()
    core.hush()
    back = core.join_acebase("worker1")
    assert back.hears() == [
        'welcome:{"maxPayload":50}',
        '{"n":1}',
        "{2}",
        '{"n":3,"large":"' + "x" * 50 + '"}',
        "connect:worker3",
        hello("worker3"),
        "msg:4",
        "disconnect:reader1",
    ]
    assert core.is_quiet()
    assert lost.hears() == []
    assert core.reported(SessionResumed) == [SessionResumed(DATABASE, "worker1", 7, AT)]
    worker.says("5")
    assert back.hears() == ["msg:5"]


def test_a_return_to_an_empty_queue_is_silent_too() -> None:
    core = Core()
    lost = core.join_acebase("worker1")
    core.join_acebase("worker2")
    core.hush()
    lost.is_lost()
    assert core.join_acebase("worker1").hears() == [WELCOME]
    assert core.is_quiet()
    assert core.reported(SessionResumed) == [SessionResumed(DATABASE, "worker1", 0, AT)]


def test_what_was_not_handed_to_the_transport_comes_before_the_queue() -> None:
    core = Core()
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    lost.connection.batching = True
    worker.says("1")
    lost.connection.flush()
    core.hush()
    worker.says("2")
    worker.says("3")
    lost.stops_reading()
    worker.says("4")
    lost.is_lost()
    worker.says("5")
    assert lost.hears() == []
    assert core.join_acebase("worker1").hears() == [WELCOME, "msg:2", "msg:3", "msg:4", "msg:5"]


def test_a_worker_that_stops_reading_while_it_receives_its_queue_misses_nothing() -> None:
    core = Core(max_payload=100_000)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    lost.is_lost()
    messages = [f"{{{n}" + "x" * 50_000 for n in range(5)]
    for message in messages:
        worker.says(message)
    back = core.join_acebase("worker1")
    back.stops_reading()
    back.is_lost()
    worker.says("last")
    again = core.join_acebase("worker1")
    heard = [text for text in back.hears() + again.hears() if not text.startswith("welcome")]
    assert heard == [*messages, "msg:last"]


@pytest.mark.parametrize("session_timeout", [0, 15])
def test_a_worker_replaces_its_own_living_connection_silently(session_timeout: float) -> None:
    core = Core(session_timeout=session_timeout)
    old, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    new = core.join_acebase("worker1")
    assert old.connection.closed == (CLOSE_REPLACED, "replaced")
    assert new.hears() == [WELCOME]
    assert core.is_quiet()
    assert core.reported(PeerReplaced) == [PeerReplaced(DATABASE, "worker1", AT)]
    old.is_lost(4001)
    core.wait(100)
    assert core.is_quiet()
    worker.says("hi")
    assert new.hears() == ["msg:hi"]


def test_on_replacement_what_is_still_here_goes_to_the_new_connection() -> None:
    core = Core()
    old, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    old.connection.batching = True
    worker.says("1")
    old.connection.flush()
    worker.says("2")
    old.stops_reading()
    worker.says("3")
    new = core.join_acebase("worker1")
    assert old.hears()[-1] == "msg:1"
    assert new.hears() == [WELCOME, "msg:2", "msg:3"]
    assert new.connection.closed is None
    worker.says("4")
    assert new.hears() == ["msg:4"]


def test_a_worker_that_returns_after_goodbye_joins_anew() -> None:
    core = Core()
    old, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    old.says(bye("worker1"))
    core.hush()
    new = core.join_acebase("worker1")
    assert worker.hears() == ["disconnect:worker1", "connect:worker1", hello("worker1")]
    assert new.hears() == [WELCOME, hello("worker2")]
    core.hush()
    new.is_lost()
    assert core.is_quiet()


def test_a_documented_process_does_not_take_the_seat_of_an_acebase_peer() -> None:
    core = Core()
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    lost.is_lost()
    worker.says("to:worker1;{}")
    core.hush()
    other = core.join("worker1", Dialect.DOCUMENTED)
    assert worker.hears() == ["disconnect:worker1", "connect:worker1"]
    assert other.hears() == [WELCOME]


# While a worker is away


def test_a_seated_peer_may_post() -> None:
    core = Core(max_payload=20)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    lost.is_lost()
    lost.posts(NOTE)
    lost.posts("to:worker2;hi")
    assert worker.hears() == [NOTE, "msg:hi"]
    lost.posts("ping")
    lost.posts("to:worker1;note")
    back = core.join_acebase("worker1")
    assert back.hears()[1:] == ["pong", "msg:note"]


def test_what_a_gone_sender_addressed_to_an_absent_worker_is_dropped() -> None:
    core = Core()
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    reader, other = core.join("reader1"), core.join("reader2")
    lost.is_lost()
    reader.says("to:worker1;addressed")
    reader.posts("to:worker1;posted")
    reader.says("broadcast")
    other.says("to:worker1;another's")
    reader.is_lost()
    core.hush()
    assert core.join_acebase("worker1").hears() == [
        WELCOME,
        "msg:broadcast",
        "msg:another's",
        "disconnect:reader1",
    ]
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "worker1", DropReason.SENDER_GONE, 2)
    ]
    assert worker.hears() == []


def test_the_large_broadcast_of_a_gone_sender_stays() -> None:
    core = Core(max_payload=50)
    lost, reader = core.join_acebase("worker1"), core.join("reader1")
    core.join("reader2")
    lost.is_lost()
    reader.posts("x" * 51)
    reader.is_lost()
    heard = core.join_acebase("worker1").hears()
    assert heard[1:] == ["msg:" + "x" * 51, "disconnect:reader1"]


def test_what_a_sender_gone_before_addressed_to_a_worker_is_dropped_with_its_connection() -> None:
    core = Core()
    slow, reader = core.join_acebase("worker1"), core.join("reader1")
    core.join("reader2")
    core.hush()
    slow.stops_reading()
    reader.says("to:worker1;addressed")
    reader.says("broadcast")
    reader.is_lost()
    slow.is_lost()
    assert core.join_acebase("worker1").hears() == [WELCOME, "msg:broadcast", "disconnect:reader1"]
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "worker1", DropReason.SENDER_GONE)
    ]


def test_what_a_gone_sender_addressed_to_a_connected_peer_still_arrives() -> None:
    core = Core()
    slow, reader = core.join_acebase("worker1"), core.join("reader1")
    core.hush()
    slow.stops_reading()
    reader.says("to:worker1;addressed")
    reader.is_lost()
    slow.reads_on()
    assert slow.hears() == ["msg:addressed", "disconnect:reader1"]


def test_what_an_absent_sender_addressed_is_kept_while_its_seat_lasts() -> None:
    core = Core(session_timeout=15)
    receiver, sender = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.join("reader1")
    sender.is_lost()
    sender.posts("to:worker1;first")
    assert receiver.hears()[-1] == "msg:first"
    core.wait(10)
    receiver.is_lost()
    sender.posts("to:worker1;second")
    sender.posts("third")
    core.wait(4)
    back = core.join_acebase("worker1")
    assert back.hears() == [WELCOME, "msg:second", "msg:third"]
    back.is_lost()
    sender.posts("to:worker1;fourth")
    sender.posts("fifth")
    core.wait(1)
    assert core.join_acebase("worker1").hears() == [WELCOME, "msg:fifth", "disconnect:worker2"]


# Too much waits for a worker


def test_a_seat_ends_when_too_much_waits() -> None:
    size = memory_of("msg:hi")
    core = Core(max_session_queue=2 * size)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    lost.is_lost()
    worker.says("hi")
    worker.says("hi")
    assert core.reported(SessionExpired) == []
    worker.says("hi")
    worker.says("hi")
    assert core.reported(SessionExpired) == [
        SessionExpired(DATABASE, "worker1", ExpiryReason.SIZE, 2, 2 * size)
    ]
    core.wait(1)
    assert worker.hears() == ["disconnect:worker1"]
    assert len(core.reported(SessionExpired)) == 1
    assert core.join_acebase("worker1").hears() == [WELCOME, hello("worker2")]


def test_who_returns_to_a_seat_that_has_just_ended_joins_anew() -> None:
    core = Core(max_session_queue=10)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    lost.is_lost()
    worker.says("123456")
    worker.says("789")
    back = core.join_acebase("worker1")
    assert back.hears() == [WELCOME, hello("worker2")]
    assert worker.hears() == ["disconnect:worker1", "connect:worker1", hello("worker1")]
    core.wait(100)
    assert core.is_quiet()


def test_a_message_of_any_size_is_accepted_into_an_empty_queue() -> None:
    core = Core(max_session_queue=10)
    lost, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    lost.is_lost()
    worker.says("x" * 100)
    core.wait(1)
    assert core.join_acebase("worker1").hears() == [WELCOME, "msg:" + "x" * 100]


def test_a_message_of_any_size_that_was_left_unread_is_held_too() -> None:
    core = Core(max_session_queue=10)
    slow, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    slow.stops_reading()
    worker.says("x" * 100)
    slow.is_lost()
    assert core.join_acebase("worker1").hears() == [WELCOME, "msg:" + "x" * 100]


def test_who_left_too_much_unread_before_its_loss_keeps_no_seat() -> None:
    core = Core(max_session_queue=20)
    slow, worker = core.join_acebase("worker1"), core.join_acebase("worker2")
    slow.stops_reading()
    worker.says("12345678")
    worker.says("12345678")
    core.hush()
    slow.is_lost()
    assert worker.hears() == ["disconnect:worker1"]


def test_the_end_of_one_seat_may_be_too_much_for_another() -> None:
    core = Core(session_timeout=15, max_session_queue=30)
    first, second = core.join_acebase("worker1"), core.join_acebase("worker2")
    watcher = core.join("reader1")
    core.hush()
    first.is_lost()
    core.wait(1)
    second.is_lost()
    watcher.says("x" * 20)
    core.wait(14)
    core.wait(1)
    assert watcher.hears() == ["disconnect:worker1", "disconnect:worker2"]
    assert [(each.peer, each.reason) for each in core.reported(SessionExpired)] == [
        ("worker1", ExpiryReason.TIME),
        ("worker2", ExpiryReason.SIZE),
    ]


# The master


def test_a_master_that_returns_may_be_a_new_process() -> None:
    core = Core()
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    reader = core.join("reader1")
    core.hush()
    master.is_lost()
    assert core.is_quiet()
    worker.says(TO_MASTER)
    worker.says(NOTE)
    reader.hears()
    new = core.join_acebase(MASTER)
    assert new.hears() == [WELCOME, hello("worker1"), LOCK, NOTE]
    assert worker.hears() == [f"disconnect:{MASTER}", f"connect:{MASTER}", hello(MASTER)]
    assert reader.hears() == [f"disconnect:{MASTER}", f"connect:{MASTER}"]
    assert core.reported(SessionResumed) == [SessionResumed(DATABASE, MASTER, 2, AT)]


def test_a_master_that_replaces_its_living_connection_may_be_a_new_process() -> None:
    core = Core()
    old, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    core.hush()
    old.stops_reading()
    worker.says(TO_MASTER)
    new = core.join_acebase(MASTER)
    assert old.connection.closed == (CLOSE_REPLACED, "replaced")
    assert old.hears() == []
    assert new.hears() == [WELCOME, hello("worker1"), LOCK]
    assert worker.hears() == [f"disconnect:{MASTER}", f"connect:{MASTER}", hello(MASTER)]


def test_messages_to_a_master_wait_for_its_first_arrival_without_limit() -> None:
    core = Core(session_timeout=15)
    worker = core.join_acebase("worker1")
    worker.says(TO_MASTER)
    worker.says(TO_MASTER)
    worker.says(NOTE)
    core.wait(10_000)
    assert core.reported(MessageDropped) == []
    core.hush()
    master = core.join_acebase(MASTER)
    assert master.hears() == [WELCOME, hello("worker1"), LOCK, LOCK]
    assert worker.hears() == [f"connect:{MASTER}", hello(MASTER)]
    assert core.reported(QueueDelivered) == [QueueDelivered(DATABASE, MASTER, 2, AT)]
    assert core.reported(SessionResumed) == []
    worker.says(TO_MASTER)
    assert master.hears() == [LOCK]


def test_messages_to_a_master_go_on_waiting_after_its_seat_but_broadcasts_do_not() -> None:
    core = Core(session_timeout=15)
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    core.hush()
    master.is_lost()
    worker.says("to:[master];{1}")
    worker.says("{broadcast}")
    worker.says("to:[master];{2}")
    core.wait(15)
    assert worker.hears() == [f"disconnect:{MASTER}"]
    worker.says("to:[master];{3}")
    worker.says("{broadcast}")
    core.wait(10_000)
    new = core.join_acebase(MASTER)
    assert new.hears() == [WELCOME, hello("worker1"), "{1}", "{2}", "{3}"]
    assert worker.hears() == [f"connect:{MASTER}", hello(MASTER)]


@pytest.mark.parametrize("close_code", [1000, 1001])
def test_what_a_master_left_unread_waits_for_its_successor(close_code: int) -> None:
    core = Core()
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    master.stops_reading()
    worker.says(TO_MASTER)
    worker.says(NOTE)
    core.hush()
    master.is_lost(close_code)
    assert worker.hears() == [f"disconnect:{MASTER}"]
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker1"), LOCK]


def test_what_waits_for_a_master_is_delivered_once() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    worker.says(TO_MASTER)
    first = core.join_acebase(MASTER)
    assert LOCK in first.hears()
    first.is_lost(1000)
    second = core.join_acebase(MASTER)
    assert second.hears() == [WELCOME, hello("worker1")]


@pytest.mark.parametrize("absence", ["never came", "is expected back", "is not expected back"])
def test_the_lock_request_of_a_dead_worker_does_not_reach_the_next_master(absence: str) -> None:
    core = Core(session_timeout=15)
    worker, other = core.join_acebase("worker1"), core.join_acebase("worker2")
    if absence != "never came":
        core.join_acebase(MASTER).is_lost()
    if absence == "is not expected back":
        core.wait(15)
    worker.says(TO_MASTER)
    other.says('to:[master];{"n":2}')
    worker.is_lost(1000)
    master = core.join_acebase(MASTER)
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, MASTER, DropReason.SENDER_GONE)
    ]
    heard = master.hears()
    assert LOCK not in heard
    assert heard[-1 if absence != "is expected back" else -2] == '{"n":2}'


def test_the_lock_request_of_a_worker_that_is_expected_back_waits_with_it() -> None:
    core = Core(session_timeout=15)
    worker, other = core.join_acebase("worker1"), core.join_acebase("worker2")
    worker.says(TO_MASTER)
    worker.is_lost()
    core.wait(14.5)
    assert core.reported(MessageDropped) == []
    core.wait(0.5)
    other.says("to:[master];{}")
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker2"), "{}"]
    assert core.reported(MessageDropped)[-1] == MessageDropped(
        DATABASE, MASTER, DropReason.SENDER_GONE
    )


def test_a_dead_worker_leaves_nothing_behind_when_the_master_went_first() -> None:
    core = Core(session_timeout=15)
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    core.join_acebase("worker2")
    master.is_lost()
    worker.says(TO_MASTER)
    core.wait(5)
    worker.is_lost()
    core.wait(10)
    core.wait(5)
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker2")]


def test_a_database_whose_last_peer_left_keeps_nothing_for_a_master() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    worker.says(TO_MASTER)
    worker.is_lost(1000)
    assert core.join_acebase(MASTER).hears() == [WELCOME]


def test_what_waits_for_a_master_stays_in_its_database() -> None:
    core = Core()
    core.join_acebase("worker1").says(TO_MASTER)
    assert core.join_acebase(MASTER, "other_data").hears() == [WELCOME]
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker1"), LOCK]


def test_only_what_acebase_peers_address_waits_for_a_master() -> None:
    core = Core()
    core.join("reader1").says("to:[master];hi")
    core.join_acebase("worker1").says("to:[masters];hi")
    assert [each.reason for each in core.reported(MessageDropped)] == [
        DropReason.UNKNOWN_ADDRESSEE
    ] * 2


def test_too_much_that_waits_for_a_master_is_given_up_and_reported() -> None:
    size = memory_of("{12}")
    core = Core(max_session_queue=2 * size)
    worker = core.join_acebase("worker1")
    for n in (1, 2, 3):
        worker.says(f"to:[master];{{1{n}}}")
    assert core.reported(SessionExpired) == [
        SessionExpired(DATABASE, MASTER, ExpiryReason.SIZE, 2, 2 * size)
    ]
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker1"), "{13}"]


def test_a_master_that_is_not_recognised_receives_what_waits_as_a_documented_peer() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    worker.says(TO_MASTER)
    worker.says("to:[master];plain")
    master = core.join(MASTER, settled=False)
    assert master.hears() == [WELCOME, "msg:" + LOCK, "msg:plain"]
    master.says('{"type":"pulse","from":"[master]"}')
    assert master.hears() == [hello("worker1")]


def test_what_is_sent_to_a_master_before_and_after_it_is_recognised_arrives_in_order() -> None:
    core = Core()
    worker = core.join_acebase("worker1")
    worker.says("to:[master];{1}")
    master = core.join(MASTER, settled=False)
    worker.says("to:[master];{2}")
    master.says('{"type":"pulse","from":"[master]"}')
    worker.says("to:[master];{3}")
    heard = [text.removeprefix("msg:") for text in master.hears()]
    assert [text for text in heard if text in ("{1}", "{2}", "{3}")] == ["{1}", "{2}", "{3}"]


def test_messages_to_a_master_whose_seat_has_just_ended_by_size_wait() -> None:
    core = Core(max_session_queue=30)
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    master.is_lost()
    worker.says("x" * 20)
    worker.says("x" * 20)
    assert [each.reason for each in core.reported(SessionExpired)] == [ExpiryReason.SIZE]
    worker.says(TO_MASTER)
    core.wait(1)
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker1"), LOCK]


def test_the_message_that_ends_a_masters_seat_by_size_waits_if_it_is_addressed() -> None:
    core = Core(max_session_queue=30)
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    master.is_lost()
    worker.says("to:[master];given up")
    worker.says(TO_MASTER)
    assert [each.reason for each in core.reported(SessionExpired)] == [ExpiryReason.SIZE]
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker1"), LOCK]


def test_too_much_that_a_master_left_unread_does_not_wait_for_its_successor() -> None:
    size = memory_of("{1}")
    core = Core(max_session_queue=2 * size)
    for unread, inherited in [(2, ["{1}", "{2}"]), (3, [])]:
        master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
        master.stops_reading()
        for n in range(unread):
            worker.says(f"to:[master];{{{n + 1}}}")
        master.is_lost(1000)
        successor = core.join_acebase(MASTER)
        assert successor.hears() == [WELCOME, hello("worker1"), *inherited]


def test_messages_to_a_master_that_is_being_cut_wait() -> None:
    core = Core(max_backlog=10)
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    master.stops_reading(unsent=10)
    worker.says("too much")
    assert master.connection.aborted
    worker.says(TO_MASTER)
    worker.says(NOTE)
    master.is_lost()
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker1"), LOCK]


def test_a_message_of_any_size_to_a_master_goes_on_waiting_after_its_seat() -> None:
    core = Core(session_timeout=15, max_session_queue=10)
    master, worker = core.join_acebase(MASTER), core.join_acebase("worker1")
    master.is_lost()
    worker.says(TO_MASTER)
    core.wait(15)
    assert core.join_acebase(MASTER).hears() == [WELCOME, hello("worker1"), LOCK]


def test_without_introductions_a_master_receives_what_waits() -> None:
    core = Core(introduce=False)
    worker = core.join_acebase("worker1")
    worker.says(TO_MASTER)
    assert core.join_acebase(MASTER).hears() == [WELCOME, LOCK]


# Goodbyes


@pytest.mark.parametrize("prefix", ["", "to:all;", "to:worker2;"])
@pytest.mark.parametrize("way", ["says", "posts"])
def test_a_goodbye_for_another_peer_is_not_relayed(prefix: str, way: str) -> None:
    core = Core()
    sender = core.join_acebase("worker1")
    core.join_acebase("worker2")
    core.join("reader1")
    core.hush()
    getattr(sender, way)(prefix + bye("worker2"))
    assert core.is_quiet()
    assert core.reported(MessageDropped) == [
        MessageDropped(DATABASE, "worker1", DropReason.FOREIGN_BYE)
    ]
    sender.is_lost()
    assert core.is_quiet()


def test_a_goodbye_of_its_sender_is_relayed_and_not_the_end() -> None:
    core = Core()
    sender, other = core.join_acebase("worker1"), core.join_acebase("worker2")
    core.hush()
    sender.says(bye("worker1"))
    sender.says(NOTE)
    other.says("to:worker1;{}")
    assert other.hears() == [bye("worker1"), NOTE]
    assert sender.hears() == ["{}"]


def test_documented_peers_may_say_goodbye_for_others() -> None:
    core = Core()
    sender, other = core.join("reader1", settled=False), core.join("reader2")
    core.hush()
    sender.says(bye("worker2"))
    assert other.hears() == [f"msg:{bye('worker2')}"]
