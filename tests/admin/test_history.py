"""The last events and the last connections that have ended."""

from __future__ import annotations

from acebase_ipc.admin.history import MAX_KEPT, MAX_TEXT, History
from acebase_ipc.relay.events import (
    ConnectionClosed,
    DropReason,
    LocksFreed,
    MessageDropped,
    PeerJoined,
    Severity,
    TokenGuessing,
)

JOINED = PeerJoined("shop_data", "alice", "acebase")
DROPPED = MessageDropped("shop_data", "alice", DropReason.BINARY)


def closed(peer: str) -> ConnectionClosed:
    """The end of a connection."""
    return ConnectionClosed("shop_data", peer, "127.0.0.1:5", 1006, "lost", False, 3.0)


def test_ids_go_on_after_a_restart() -> None:
    before, after = History(lambda: 1000.0), History(lambda: 1010.0)
    for _ in range(9_000):
        before.report(JOINED)
    after.report(JOINED)
    assert after.last > before.last


def test_the_oldest_events_are_forgotten() -> None:
    history = History(lambda: 0.0)
    for _ in range(MAX_KEPT + 5):
        history.report(JOINED)
    ids = [each.id for each in history.events(10_000)]
    assert ids == list(range(6, MAX_KEPT + 6))


def test_many_events_of_one_severity_displace_none_of_another() -> None:
    assert DROPPED.severity is Severity.DEBUG
    history = History(lambda: 0.0)
    history.report(TokenGuessing("192.0.2.1"))
    history.report(JOINED)
    for _ in range(2 * MAX_KEPT):
        history.report(DROPPED)
    kept = [each.event for each in history.events(10_000)]
    assert kept[:2] == [TokenGuessing("192.0.2.1"), JOINED]
    assert len(kept) == MAX_KEPT + 2


def test_the_newest_connections_that_have_ended_come_first() -> None:
    history = History(lambda: 7.0)
    for number in range(MAX_KEPT + 2):
        history.report(closed(f"peer{number}"))
        history.report(JOINED)
    newest = [each.event.peer for each in history.closed(3)]
    assert newest == [f"peer{MAX_KEPT + 1}", f"peer{MAX_KEPT}", f"peer{MAX_KEPT - 1}"]
    assert len(history.closed(10_000)) == MAX_KEPT
    assert history.closed(1)[0].time == 7.0


def test_long_texts_are_cut_before_they_are_kept() -> None:
    history = History(lambda: 0.0)
    history.report(LocksFreed("shop_data", "alice", 1, "p" * 1_000_000, "short"))
    (noted,) = history.events(1)
    assert isinstance(noted.event, LocksFreed)
    assert noted.event.path == "p" * MAX_TEXT + "…"
    assert noted.event.comment == "short"


def test_subscribers_are_told_until_they_have_enough() -> None:
    history = History(lambda: 0.0)
    told: list[int] = []

    def subscriber(noted: object) -> None:
        told.append(history.last)
        history.unsubscribe(subscriber)

    history.subscribe(subscriber)
    history.report(JOINED)
    history.report(JOINED)
    assert told == [1]
