"""The soak's ledger notices all that it is there to notice."""

from __future__ import annotations

import pytest

from tests.soak.ledger import EVERYBODY, UNSETTLED, Ear, Ledger, Stay


class Room:
    """A database with two members, of which one listens from 10 s to 100 s."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.sender = self.ledger.ear("db", "alice")
        self.ear = self.ledger.ear("db", "bob")
        self.ear.stays.append(Stay(10, 10, 100))
        self.sender.stays.append(Stay(10, 10, 100))
        self._serial = 0

    def send(self, addressee: str = "bob", at: float = 20, settled: float = 21) -> str:
        self._serial += 1
        sent, mark = self.ledger.send(self.sender, "c1", self._serial, addressee, at)
        sent.settled = settled
        return mark

    def hear(self, *marks: str, ear: Ear | None = None) -> None:
        for mark in marks:
            whose = ear or self.ear
            self.ledger.arrive(whose, f"msg of {mark} and more", self.ledger.place(whose))

    def wrong(self) -> dict[str, int]:
        self.ledger.judge(UNSETTLED)
        return {kind: count for kind, count in self.ledger.wrong.items() if count}


def test_what_arrives_as_sent_is_right() -> None:
    room = Room()
    room.hear(*(room.send(each) for each in ("bob", EVERYBODY, "bob")))
    assert room.wrong() == {}
    assert (room.ledger.sent, room.ledger.delivered, room.ledger.required) == (3, 3, 3)


@pytest.mark.parametrize("addressee", ["bob", EVERYBODY])
def test_what_does_not_arrive_is_lost(addressee: str) -> None:
    room = Room()
    room.send(addressee)
    assert room.wrong() == {"lost": 1}


@pytest.mark.parametrize(("at", "settled"), [(9, 11), (20, 101), (20, UNSETTLED), (101, 102)])
def test_what_was_not_settled_while_somebody_listened_may_be_lost(
    at: float, settled: float
) -> None:
    room = Room()
    room.send(at=at, settled=settled)
    assert room.wrong() == {}


def test_what_is_held_for_one_who_is_away_may_be_lost_with_its_sender() -> None:
    room = Room()
    room.ear.stays[0].welcomed = 50
    room.sender.departures.append((30, 31))
    room.send("bob")
    assert room.wrong() == {}
    room.send(EVERYBODY)
    assert room.wrong() == {"lost": 1}


def test_what_arrives_twice_is_noticed() -> None:
    room = Room()
    mark = room.send()
    room.hear(mark, mark)
    assert room.wrong() == {"duplicated": 1, "reordered": 1}


def test_what_arrives_in_another_order_is_noticed() -> None:
    room = Room()
    first, second = room.send(), room.send()
    room.hear(second, first)
    assert room.wrong() == {"reordered": 1}


def test_posts_are_in_the_order_of_their_announcements() -> None:
    room = Room()
    marks = [room.ledger.send(room.sender, "post", each, "bob", 20)[1] for each in (1, 2)]
    places = [room.ledger.place(room.ear) for _ in marks]
    for mark, place in zip(marks, reversed(places), strict=True):
        room.ledger.arrive(room.ear, mark, place)
    assert room.wrong() == {"reordered": 1}


def test_what_comes_to_the_wrong_one_is_noticed() -> None:
    room = Room()
    room.hear(room.send("alice"))
    room.hear(room.send(EVERYBODY, at=5), ear=room.sender)
    assert room.wrong() == {"wrong peer": 2, "lost": 1}


def test_what_comes_to_another_database_is_noticed() -> None:
    room = Room()
    other = room.ledger.ear("other", "bob")
    room.hear(room.send(at=5), ear=other)
    assert room.wrong() == {"wrong database": 1}


def test_what_was_never_sent_is_noticed() -> None:
    room = Room()
    room.ledger.arrive(room.ear, "msg:ghost", 1)
    room.ledger.arrive(room.ear, "msg:#cut off", 2)
    assert room.wrong() == {"ghosts": 1, "garbled": 1}
