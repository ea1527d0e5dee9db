"""The live stream: what it shows, and that it costs the relay nothing that matters."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acebase_ipc.admin import stream, view
from acebase_ipc.admin.census import RelayCensus
from acebase_ipc.admin.reader import MAX_UNSENT
from acebase_ipc.admin.stream import (
    COMMENT_INTERVAL,
    MAX_MESSAGES,
    MAX_READERS,
)
from acebase_ipc.relay.events import PeerJoined
from acebase_ipc.relay.limits import KIB
from acebase_ipc.testing import DATABASE, MemoryRelay, http_head
from tests.admin.relay import HOST, AdminRelay, Reading


def shown(reading: Reading) -> list[tuple[Any, ...]]:
    """Sender, recipient, type and size of each message that has come."""
    names = ("from", "to", "type", "size")
    return [tuple(each.data[name] for name in names) for each in reading.take("message")]


def watch(relay: MemoryRelay) -> object:
    """What the router calls for each message."""
    return relay.server._parts.relay.router.watch


# Events and status


def test_a_stream_is_one_of_server_sent_events() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream()
        assert reading.head.startswith(b"HTTP/1.1 200 ")
        head = reading.head.lower()
        assert b"content-type: text/event-stream; charset=utf-8" in head
        assert b"cache-control: no-store" in head
        first, *_ = reading.raw()
    assert first == b"retry: 2000"


def test_a_reader_that_missed_many_events_is_sent_them_in_steps_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "REPLAY", 1)
    ids = [f"peer{number}" for number in range(50)]
    with AdminRelay() as relay:
        relay.join_all(*ids)
        with relay.at_admin():
            connection = relay.connect()
        head = http_head("GET", "/api/v1/stream?events=1", host=HOST, last_event_id="0")
        connection.send(head, settle=False)
        while not connection.writes:
            relay.turn()
        observer: Any = relay.server._parts.relay.sessions._observer
        observer.report(PeerJoined(DATABASE, "late0", "documented", "127.0.0.1:1"))
        relay.settle()
        reading = Reading(connection)
        assert [each.data["peer"] for each in reading.take("event")] == [*ids, "late0"]


def test_without_parameters_it_shows_events_and_the_status() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream()
        (status,) = reading.take()
        assert (status.kind, status.id) == ("status", None)
        status.data["status"].pop("memory")  # that of the process grows
        now = relay.see("status")
        now.pop("memory")
        assert status.data == {"status": now, "databases": []}
        alice, _ = relay.join_all("alice", "bobby")
        alice.say("to:bobby;hello")
        events = reading.take()
        assert [each.data["peer"] for each in events] == ["alice", "bobby"]
        assert [each.data for each in events] == relay.see("events")["events"]
        assert [each.id for each in events] == [each.data["id"] for each in events]
        relay.pass_time(3, 0.25)
        statuses = reading.take()
    assert [each.kind for each in statuses] == ["status"] * 3
    assert [each.data["status"]["uptime"] for each in statuses] == [1, 2, 3]
    assert statuses[-1].data["databases"][0]["peers"] == 2


@pytest.mark.parametrize("asked", ["events", "status", "messages"])
def test_it_shows_only_what_is_asked_for(asked: str) -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream(f"{asked}=1")
        relay.join("alice").say("hello")
        relay.pass_time(1)
        assert {f"{each.kind}s".replace("statuss", "status") for each in reading.take()} == {asked}


def test_a_reader_that_was_cut_off_goes_on_where_it_was() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("events=1")
        relay.join("alice")
        (seen,) = reading.take()
        reading.connection.close()
        relay.join_all("bobby", "carla")
        again = relay.read_stream("events=1", last_event_id=str(seen.id))
        relay.join("david")
        assert [each.data["peer"] for each in again.take()] == ["bobby", "carla", "david"]
        odd = relay.read_stream("events=1", last_event_id="x" * 50)
        assert odd.take() == []


def test_a_stream_can_be_about_one_database_or_peer() -> None:
    with AdminRelay() as relay:
        of_database = relay.read_stream("events=1&messages=1&status=1&database=other_data")
        of_peer = relay.read_stream("events=1&messages=1&peer=bobby")
        of_database.take()
        alice, bob = relay.join_all("alice", "bobby")
        carla, _ = relay.join("carla", "other_data"), relay.join("david", "other_data")
        relay.get("/nowhere")  # an event of neither
        alice.say("to:bobby;1", "22")
        bob.say("333")
        carla.say("to:david;4444")
        assert [each.data["peer"] for each in of_peer.take("event")] == ["bobby"]
        relay.pass_time(1)
        seen = of_database.take()
    assert [each.data["peer"] for each in seen if each.kind == "event"] == ["carla", "david"]
    assert [each.data["from"] for each in seen if each.kind == "message"] == ["carla"]
    (status,) = (each.data for each in seen if each.kind == "status")
    assert [each["name"] for each in status["databases"]] == ["other_data"]
    assert status["status"]["databases"] == 2


def test_messages_of_one_peer_are_those_that_it_sends_and_those_to_it() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("messages=1&peer=bobby")
        alice, bob = relay.join_all("alice", "bobby")
        alice.say("to:bobby;1", "22")
        bob.say("333")
        assert shown(reading) == [("alice", "bobby", "text", 1), ("bobby", None, "text", 3)]


def test_a_comment_tells_that_a_quiet_stream_goes_on() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("events=1")
        reading.raw()
        relay.pass_time(2 * COMMENT_INTERVAL)
        comments = reading.raw()
    assert len(comments) == 2
    assert all(each.startswith(b": ") for each in comments)


def test_a_status_lists_a_bounded_number_of_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_DATABASES", 3)
    with AdminRelay() as relay:
        for number in range(4):
            relay.join("alice", f"db{number}_data")
        relay.join("bobby", "db3_data")
        (status,) = relay.read_stream("status=1").take()
    assert status.data["status"]["databases"] == 4
    names = [each["name"] for each in status.data["databases"]]
    assert len(names) == 3
    assert names[0] == "db3_data"  # the one with most peers


def test_readers_of_different_databases_are_sent_what_each_wants() -> None:
    with AdminRelay() as relay:
        relay.join("alice", "db1_data")
        relay.join("bobby", "db2_data")
        queries = ("", "&database=db1_data", "&database=db2_data", "&database=none")
        readings = [relay.read_stream(f"status=1{each}") for each in queries]
        for each in readings:
            each.take()
        relay.pass_time(1)
        shown = [
            [
                database["name"]
                for status in each.take("status")
                for database in status.data["databases"]
            ]
            for each in readings
        ]
    assert shown == [["db1_data", "db2_data"], ["db1_data"], ["db2_data"], []]


@pytest.mark.parametrize("broken", ["census", "view"])
def test_a_status_that_cannot_be_made_is_made_again_later(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with AdminRelay(expect_errors=True) as relay:
        reading = relay.read_stream("status=1")
        reading.take()
        if broken == "census":
            monkeypatch.setattr(RelayCensus, "step", fail)
        else:
            monkeypatch.setattr(view, "server", fail)
        relay.pass_time(2)
        assert reading.take() == []
        assert len(relay.errors) == 2
        assert all("making the status failed" in each for each in relay.errors)
        monkeypatch.undo()
        relay.pass_time(1)
        assert len(reading.take("status")) == 1


def test_a_status_that_takes_long_is_made_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("status=1")
        reading.take()
        step = RelayCensus.step

        def take_long(census: RelayCensus) -> bool:
            relay.reactor.rightNow += 0.1  # the clock's time, without its calls
            return step(census)

        monkeypatch.setattr(RelayCensus, "step", take_long)
        relay.pass_time(20)
        assert 3 <= len(reading.take("status")) <= 5


# Messages


def test_messages_are_shown_without_their_bodies() -> None:
    with AdminRelay(admin_bodies=True) as relay:
        reading = relay.read_stream("messages=1")
        alice, bob = relay.join_all("alice", "bobby")
        relay.pass_time(0.5)
        alice.say("to:bobby;secret", "to all", "ping")
        (first, second) = reading.take("message")
        assert first.data == {
            "time": "2023-11-14T22:13:20.500+00:00",
            "database": DATABASE,
            "from": "alice",
            "to": "bobby",
            "type": "text",
            "size": 6,
        }
        assert (second.data["to"], second.data["size"]) == (None, 6)
        assert bob.received() == ["msg:secret", "msg:to all"]
        alice.post("to:bobby;" + "x" * 100_000)
        assert shown(reading) == [("alice", "bobby", "text", 100_000)]


def test_bodies_are_shown_where_they_are_allowed_up_to_a_size() -> None:
    with AdminRelay(admin_bodies=True) as relay:
        reading = relay.read_stream("messages=1&bodies=1")
        alice, _ = relay.join_all("alice", "bobby")
        alice.say('to:bobby;{"a":"ä\\n"}')
        alice.post("to:bobby;" + "x" * 100_000)
        small, large = reading.take("message")
    assert small.data["body"] == '{"a":"ä\\n"}'
    assert large.data["body"] == "x" * stream.MAX_BODY
    assert large.data["size"] == 100_000


def test_bodies_are_not_shown_without_the_option() -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", "/api/v1/stream?messages=1&bodies=1")
        assert response.status == 403
        assert "--admin-bodies" in json.loads(response.text)["error"]
        assert watch(relay) is None


def test_messages_have_the_type_of_their_envelope() -> None:
    with AdminRelay() as relay:
        of_all = relay.read_stream("messages=1")
        of_type = relay.read_stream("messages=1&type=event")
        alice = relay.join("alice")
        alice.say('{"type":"event","from":"x"}', '{"type":"hello"}', '{"type":"', "event")
        assert [each[2] for each in shown(of_all)] == ["event", "hello", "text", "text"]
        assert [each[2] for each in shown(of_type)] == ["event"]


def test_names_with_odd_characters_forge_no_event() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("events=1&messages=1")
        alice = relay.join("a%E2%80%A8%22%3C/script%3E", "x%E2%80%A8%22%7D_data")
        alice.say('{"type":"a\ndata: x"}')
        joined, message = reading.take()
    assert joined.data["database"] == 'x\u2028"}_data'
    assert message.data["from"] == alice.id.replace("%E2%80%A8", "\u2028").replace(
        "%22%3C/script%3E", '"</script>'
    )


def test_the_canary_is_not_shown() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("messages=1")
        relay.pass_time(5)
        assert relay.ask("GET", "/readyz").status == 200  # it has sent some
        assert reading.take() == []


# Cost


def test_nothing_watches_the_messages_while_nobody_reads() -> None:
    with AdminRelay() as relay:
        assert watch(relay) is None
        events = relay.read_stream("events=1")
        assert watch(relay) is None
        messages = [relay.read_stream("messages=1") for _ in range(2)]
        assert watch(relay) is not None
        messages[0].connection.close()
        assert watch(relay) is not None
        messages[1].connection.reset()
        assert watch(relay) is None
        relay.join("alice")
        assert len(events.take("event")) == 1
        events.connection.close()
        calls = len(relay.reactor.getDelayedCalls())
        relay.read_stream("events=1").connection.close()
        assert len(relay.reactor.getDelayedCalls()) == calls


def test_a_reader_that_does_not_read_is_cut_and_others_are_not() -> None:
    with AdminRelay(admin_bodies=True) as relay:
        slow, quick = (relay.read_stream("messages=1&bodies=1") for _ in range(2))
        alice, bob = relay.join_all("alice", "bobby")
        slow.connection.stop_reading()
        sent = 0
        while slow.connection.ended is None and sent < 200:
            alice.say("to:bobby;" + "x" * 16_000)
            sent += 1
            relay.pass_time(0.5)  # so that each is shown
        assert MAX_UNSENT <= sent * 16_000 <= 1.2 * MAX_UNSENT
        assert quick.connection.ended is None
        assert len(quick.take("message")) == sent
        assert len(bob.received()) == sent
        assert relay.logged("127.0.0.1", "too slowly")


def test_a_reader_that_reads_nothing_for_a_minute_is_cut() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("status=1")
        reading.connection.stop_reading()
        relay.pass_time(30)
        assert reading.connection.ended is None
        relay.pass_time(120)
        assert reading.connection.ended == "reset"
        assert relay.server.counts["RequestTimeout"] == 1


def test_a_reader_that_sends_nothing_more_is_taken_for_gone() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("messages=1")
        reading.connection.stop_sending()
        assert reading.connection.ended == "reset"
        assert watch(relay) is None


def test_what_a_reader_has_not_read_counts_as_memory() -> None:
    with AdminRelay(admin_bodies=True) as relay:
        reading = relay.read_stream("messages=1&bodies=1")
        alice = relay.join("alice")
        before = relay.see("status")["memory"]["used"]
        reading.connection.stop_reading()
        for _ in range(10):
            alice.say("x" * 16_000)
            relay.pass_time(1)
        buffer = 64 * KIB  # of the transport
        assert relay.see("status")["memory"]["used"] - before > 160_000 - buffer
        reading.connection.resume_reading()
        assert len(reading.take("message")) == 10
        assert relay.see("status")["memory"]["used"] == before


def test_a_reader_that_reads_late_receives_everything_in_order() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("messages=1")
        alice = relay.join("alice")
        reading.connection.stop_reading(100)
        for number in range(MAX_MESSAGES):
            alice.say("x" * (number + 1))
        relay.settle()
        reading.connection.resume_reading()
        assert [each[3] for each in shown(reading)] == list(range(1, MAX_MESSAGES + 1))


def test_a_flood_of_messages_is_counted_but_not_shown() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream("messages=1")
        alice, bob = relay.join_all("alice", "bobby")
        alice.say(*["to:bobby;x"] * (MAX_MESSAGES + 234))
        relay.settle()
        assert len(bob.received()) == MAX_MESSAGES + 234
        assert len(reading.take("message")) == MAX_MESSAGES
        relay.pass_time(1)
        assert [each.data for each in reading.take("skipped")] == [{"messages": 234}]
        alice.say("to:bobby;x")
        assert len(reading.take("message")) == 1


def test_large_bodies_count_as_several_messages() -> None:
    with AdminRelay(admin_bodies=True) as relay:
        reading = relay.read_stream("messages=1&bodies=1")
        relay.join("alice").say(*["x" * 10 * 1024] * 200)
        relay.settle()
        assert len(reading.take("message")) == pytest.approx(MAX_MESSAGES / 11, abs=1)


def test_there_is_a_limit_on_readers() -> None:
    with AdminRelay() as relay:
        readings = [relay.read_stream() for _ in range(MAX_READERS)]
        refused = relay.ask("GET", "/api/v1/stream")
        assert refused.status == 503
        readings[0].connection.close()
        assert relay.read_stream().head.startswith(b"HTTP/1.1 200 ")


def test_streams_end_with_the_server() -> None:
    with AdminRelay() as relay:
        reading = relay.read_stream()
        relay.stop()
        assert reading.connection.ended is not None
