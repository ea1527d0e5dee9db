"""The soak's ledger finds lost, duplicated, reordered and misdelivered messages."""

from __future__ import annotations

import pytest

from tests.soak.ledger import ALL, UNSETTLED, Ledger, Presence, Receiver


class Room:
    """A database with two members that are present from 10 s to 100 s."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.sender = self.ledger.receiver("db", "alice")
        self.receiver = self.ledger.receiver("db", "bob")
        self.receiver.presences.append(Presence(10, 10, 100))
        self.sender.presences.append(Presence(10, 10, 100))
        self._serial = 0

    def send(self, addressee: str = "bob", at: float = 20, settled: float = 21) -> str:
        self._serial += 1
        sent, mark = self.ledger.send(self.sender, "c1", self._serial, addressee, at)
        sent.settled = settled
        return mark

    def receive(self, *marks: str, receiver: Receiver | None = None) -> None:
        for mark in marks:
            by = receiver or self.receiver
            self.ledger.arrive(by, f"msg of {mark} and more", self.ledger.place(by))

    def wrong(self) -> dict[str, int]:
        self.ledger.check(UNSETTLED)
        return {kind: count for kind, count in self.ledger.wrong.items() if count}


def test_messages_that_arrive_as_sent_are_no_fault() -> None:
    room = Room()
    room.receive(*(room.send(each) for each in ("bob", ALL, "bob")))
    assert room.wrong() == {}
    assert (room.ledger.sent, room.ledger.delivered, room.ledger.required) == (3, 3, 3)


@pytest.mark.parametrize("addressee", ["bob", ALL])
def test_a_message_that_does_not_arrive_is_lost(addressee: str) -> None:
    room = Room()
    room.send(addressee)
    assert room.wrong() == {"lost": 1}


@pytest.mark.parametrize(("at", "settled"), [(9, 11), (20, 101), (20, UNSETTLED), (101, 102)])
def test_a_message_that_was_not_settled_in_a_presence_may_be_lost(
    at: float, settled: float
) -> None:
    room = Room()
    room.send(at=at, settled=settled)
    assert room.wrong() == {}


def test_a_queued_message_may_be_lost_if_its_sender_leaves() -> None:
    room = Room()
    room.receiver.presences[0].welcomed = 50
    room.sender.departures.append((30, 31))
    room.send("bob")
    assert room.wrong() == {}
    room.send(ALL)
    assert room.wrong() == {"lost": 1}


def test_a_duplicate_is_found() -> None:
    room = Room()
    mark = room.send()
    room.receive(mark, mark)
    assert room.wrong() == {"duplicated": 1, "reordered": 1}


def test_another_order_is_found() -> None:
    room = Room()
    first, second = room.send(), room.send()
    room.receive(second, first)
    assert room.wrong() == {"reordered": 1}


def test_posts_are_in_the_order_of_their_announcements() -> None:
    room = Room()
    marks = [room.ledger.send(room.sender, "post", each, "bob", 20)[1] for each in (1, 2)]
    places = [room.ledger.place(room.receiver) for _ in marks]
    for mark, place in zip(marks, reversed(places), strict=True):
        room.ledger.arrive(room.receiver, mark, place)
    assert room.wrong() == {"reordered": 1}


def test_a_message_at_a_wrong_peer_is_found() -> None:
    room = Room()
    room.receive(room.send("alice"))
    room.receive(room.send(ALL, at=5), receiver=room.sender)
    assert room.wrong() == {"wrong peer": 2, "lost": 1}


def test_a_message_in_another_database_is_found() -> None:
    room = Room()
    other = room.ledger.receiver("other", "bob")
    room.receive(room.send(at=5), receiver=other)
    assert room.wrong() == {"wrong database": 1}


def test_a_message_that_was_never_sent_is_found() -> None:
    room = Room()
    room.ledger.arrive(room.receiver, "msg:undeliverable", 1)
    room.ledger.arrive(room.receiver, "msg:#cut off", 2)
    assert room.wrong() == {"undeliverable": 1, "garbled": 1}
