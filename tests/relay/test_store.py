"""Large messages that wait to be downloaded, compared with a model of them."""

from __future__ import annotations

import random
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.store import (
    ENTRY_SIZE,
    REFETCH_BYTES,
    REFETCH_PERIOD,
    Key,
    MessageStore,
    Reading,
)

DATABASE = "mydb_data"
TTL = 60.0


def nothing() -> None: ...


def read(store: MessageStore, message_id: str, recipient: bytes = b"peer1") -> Reading:
    """Begin a download."""
    return store.open(DATABASE, recipient, message_id, nothing)


def fetch(
    store: MessageStore, message_id: str, recipient: bytes = b"peer1", now: float = 0
) -> None:
    """Download a message to its end."""
    store.finish(read(store, message_id, recipient), now)


def size(body: bytes, recipients: int) -> int:
    """What a message counts."""
    return len(body) + recipients * ENTRY_SIZE


def test_a_message_waits_for_each_recipient() -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    for recipient in (b"peer1", b"peer2"):
        assert read(store, message_id, recipient).body == b"body"


def test_a_broken_download_may_be_repeated() -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1"], now=0)
    for _ in range(3):
        store.abandon(read(store, message_id))
    assert list(store.expire(REFETCH_PERIOD)) == []
    assert read(store, message_id).body == b"body"


def test_a_message_may_be_fetched_again_for_a_while_and_waits_on_for_the_others() -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    fetch(store, message_id, now=1)
    assert list(store.expire(REFETCH_PERIOD + 0.9)) == []
    fetch(store, message_id, now=REFETCH_PERIOD)  # does not prolong it
    assert list(store.expire(REFETCH_PERIOD + 1)) == []
    with pytest.raises(NotFound):
        read(store, message_id)
    assert read(store, message_id, b"peer2").body == b"body"
    assert store.stored == size(b"body", 1)


def test_a_message_is_dropped_with_its_last_recipient() -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    fetch(store, message_id)
    assert store.forget(DATABASE, b"peer2") == 1
    assert store.forget(DATABASE, b"peer1") == 0  # it has fetched it
    assert store.stored == 0


def test_a_body_counts_until_its_last_reader_has_ended() -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    readings = [read(store, message_id, each) for each in (b"peer1", b"peer2")]
    assert len(list(store.expire(TTL))) == 2
    for reading, left in zip(readings, (4, 0), strict=True):
        assert (reading.body, store.stored) == (b"body", 4)
        store.finish(reading, TTL)
        store.abandon(reading)  # a second end changes nothing
        assert store.stored == left


def test_a_newer_download_of_the_same_peer_interrupts_the_older() -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    interrupted: list[int] = []

    def begin(number: int, recipient: bytes = b"peer1") -> Reading:
        def interrupt() -> None:
            interrupted.append(number)
            store.abandon(readings[number])  # as its connection does when it is aborted

        return store.open(DATABASE, recipient, message_id, interrupt)

    readings: list[Reading] = []
    for number in range(3):
        readings.append(begin(number))
    readings.append(begin(3, b"peer2"))
    assert interrupted == [0, 1]
    store.finish(readings[0], 0)  # too late: it does not count
    store.finish(readings[2], 0)
    store.finish(readings[3], 0)
    assert list(store.expire(REFETCH_PERIOD)) == []
    assert store.stored == 0


def test_room_is_made_only_of_what_all_have_fetched_and_nobody_reads() -> None:
    store = MessageStore(TTL)
    recipients = [b"peer1", b"peer2"]
    first, second, third, read_again = (
        store.put(DATABASE, b"body", recipients, now=0) for _ in range(4)
    )
    for message_id in (second, first, read_again):
        for recipient in recipients:
            fetch(store, message_id, recipient)
    fetch(store, third)
    reading = read(store, read_again)
    each = size(b"body", 2)
    store.make_room(4 * each)
    assert store.stored == 4 * each
    store.make_room(4 * each - 1)  # the one that was fetched first
    with pytest.raises(NotFound):
        read(store, second)
    store.make_room(0)
    assert store.stored == 2 * each
    store.abandon(reading)
    store.make_room(0)
    assert store.stored == each
    assert read(store, third).body == b"body"


@pytest.mark.parametrize(
    ("database", "recipient"),
    [(DATABASE, b"peer2"), ("other", b"peer1"), ("other", b"peer2"), ("", b"peer1")],
)
def test_nobody_else_gets_it(database: str, recipient: bytes) -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1"], now=0)
    store.put("other", b"another body", [b"peer1", b"peer2"], now=0)
    with pytest.raises(NotFound) as caught:
        store.open(database, recipient, message_id, nothing)
    assert caught.value.status == 404
    assert read(store, message_id).body == b"body"


@pytest.mark.parametrize(("later", "expired"), [(59.9, []), (60.0, [b"peer1"]), (61.0, [b"peer1"])])
def test_a_message_waits_as_long_as_it_may(later: float, expired: list[bytes]) -> None:
    store = MessageStore(TTL)
    store.put(DATABASE, b"body", [b"peer1"], now=1000)
    assert list(store.expire(1000 + later)) == [(DATABASE, each) for each in expired]
    assert store.stored == (0 if expired else size(b"body", 1))


def test_only_losses_are_reported() -> None:
    store = MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1", b"peer2", b"peer3"], now=0)
    fetch(store, message_id, b"peer2", now=TTL - 1)
    assert sorted(store.expire(TTL)) == [(DATABASE, b"peer1"), (DATABASE, b"peer3")]
    assert store.stored == 0


def test_a_download_that_another_relay_has_completed_is_no_loss() -> None:
    store, successor = MessageStore(TTL), MessageStore(TTL)
    message_id = store.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    reading = read(store, message_id)
    successor.adopt(store.export(now=1), now=1)
    store.pass_on = lambda key: successor.note_fetched(key, now=2)
    store.finish(reading, now=2)
    successor.note_fetched(reading.key, now=3)
    assert successor.downloaded == 1
    assert list(successor.expire(TTL)) == [(DATABASE, b"peer2")]
    assert successor.stored == 0


def test_a_message_without_recipients_is_an_error() -> None:
    with pytest.raises(ValueError, match="without recipients"):
        MessageStore(TTL).put(DATABASE, b"body", [], now=0)


HALF = b"x" * (REFETCH_BYTES // 2)


def can_be_read(store: MessageStore, message_ids: list[str]) -> list[bool]:
    """Which of the messages can be downloaded."""
    found = []
    for each in message_ids:
        try:
            store.abandon(read(store, each))
        except NotFound:
            found.append(False)
        else:
            found.append(True)
    return found


def test_only_the_last_messages_are_kept_to_be_fetched_again() -> None:
    store = MessageStore(TTL)
    bodies = [HALF, HALF, HALF, b"small", b"unfetched"]
    ids = [store.put(DATABASE, each, [b"peer1"], now=0) for each in bodies]
    assert can_be_read(store, ids) == [True] * 5
    fetch(store, ids[0])
    fetch(store, ids[1])
    assert can_be_read(store, ids) == [True] * 5
    fetch(store, ids[2])
    assert can_be_read(store, ids) == [False, True, True, True, True]
    fetch(store, ids[3])
    assert can_be_read(store, ids) == [False, False, True, True, True]
    assert store.stored == size(HALF, 1) + size(b"small", 1) + size(b"unfetched", 1)


def test_one_message_of_any_size_is_kept_to_be_fetched_again() -> None:
    store = MessageStore(TTL)
    ids = [store.put(DATABASE, each, [b"peer1"], now=0) for each in (b"small", 3 * HALF)]
    for each in ids:
        fetch(store, each)
    assert can_be_read(store, ids) == [False, True]


def test_a_message_that_is_fetched_again_counts_no_more_than_once() -> None:
    store = MessageStore(TTL)
    ids = [store.put(DATABASE, HALF, [b"peer1"], now=0) for _ in range(2)]
    for _ in range(3):
        for each in ids:
            fetch(store, each)
    assert can_be_read(store, ids) == [True, True]


def test_what_another_relay_has_kept_is_kept_within_the_same_limit() -> None:
    former = MessageStore(TTL)
    ids = [former.put(DATABASE, HALF, [b"peer1"], now=0) for _ in range(4)]
    for each in ids[:3]:
        fetch(former, each)
    reading = read(former, ids[3])
    former._fetched[reading.key] = REFETCH_PERIOD  # fetched, and being fetched again
    reading.message.unfetched -= 1
    store = MessageStore(TTL)
    store.adopt(former.export(0), 0)
    assert can_be_read(store, ids) == [False, False, True, True]


@pytest.mark.parametrize("recipients", [1, 100, 5000])
def test_what_is_counted_is_what_is_held(recipients: int) -> None:
    """Within a factor of two, however many recipients a message has."""
    store = MessageStore(TTL)
    ids = [b"p%05d" % each for each in range(recipients)]
    messages = 200_000 // recipients // 4 or 1
    tracemalloc.start()
    try:
        for _ in range(messages):
            store.put(DATABASE, bytes(500), ids, now=0)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / 2 < store.stored < 2 * held


def test_ids_are_unguessable() -> None:
    store = MessageStore(TTL)

    def seeded() -> str:
        random.seed(1)
        return store.put(DATABASE, b"", [b"peer1"], now=0)

    ids = {seeded() for _ in range(1000)}
    assert len(ids) == 1000
    # 6 bits a character: at least the 128 that RFC 4086 asks for.
    assert all(re.fullmatch("[A-Za-z0-9_-]{22,}", each) for each in ids)
    columns = [set(column) for column in zip(*ids, strict=True)]
    assert min(map(len, columns)) > 8


class StoreIsLikeItsModel(RuleBasedStateMachine):
    """The model is a plain dict of what waits for whom, until when, and what it has fetched."""

    databases = st.sampled_from(["one", "two"])
    recipients = st.sampled_from([b"a", b"b", b"c"])
    ids = Bundle("ids")
    readings = Bundle("readings")

    def __init__(self) -> None:
        super().__init__()
        self.store = MessageStore(TTL)
        self.now = 0.0
        self.waiting: dict[Key, float] = {}
        self.fetched: dict[Key, float] = {}
        self.bodies: dict[str, bytes] = {}
        self.open: dict[Key, Reading] = {}

    @rule(
        target=ids,
        database=databases,
        body=st.binary(max_size=9),
        to=st.lists(recipients, min_size=1),
    )
    def put(self, database: str, body: bytes, to: list[bytes]) -> str:
        message_id = self.store.put(database, body, iter(to), self.now)
        self.bodies[message_id] = body
        self.waiting |= {(database, each, message_id): self.now + TTL for each in to}
        return message_id

    @rule(target=readings, database=databases, recipient=recipients, message_id=ids)
    def read(self, database: str, recipient: bytes, message_id: str) -> Any:
        key = (database, recipient, message_id)
        if key not in self.waiting:
            with pytest.raises(NotFound):
                self.store.open(*key, nothing)
            return multiple()
        self.open[key] = self.store.open(*key, nothing)
        assert self.open[key].body == self.bodies[message_id]
        return self.open[key]

    @rule(reading=readings)
    def finish(self, reading: Reading) -> None:
        self.store.finish(reading, self.now)
        if self.open.get(reading.key) is reading:
            del self.open[reading.key]
            if reading.key in self.waiting:
                self.fetched.setdefault(reading.key, self.now + REFETCH_PERIOD)

    @rule(reading=consumes(readings))
    def abandon(self, reading: Reading) -> None:
        self.store.abandon(reading)
        if self.open.get(reading.key) is reading:
            del self.open[reading.key]

    @rule(database=databases, recipient=recipients)
    def forget(self, database: str, recipient: bytes) -> None:
        gone = {each for each in self.waiting if each[:2] == (database, recipient)}
        assert self.store.forget(database, recipient) == len(gone - self.fetched.keys())
        self._drop(gone)

    @rule(seconds=st.sampled_from([0.5, 4.0, REFETCH_PERIOD, TTL]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._drop({each for each, end in self.fetched.items() if end <= self.now})
        gone = {each for each, end in self.waiting.items() if end <= self.now}
        lost = sorted(each[:2] for each in gone - self.fetched.keys())
        assert sorted(self.store.expire(self.now)) == lost
        self._drop(gone)

    @rule()
    def make_room(self) -> None:
        self.store.make_room(0)
        needed = {key[2] for key in self.waiting.keys() - self.fetched.keys()}
        needed |= {key[2] for key in self.open}
        self._drop({each for each in self.waiting if each[2] not in needed})

    def _drop(self, gone: set[Key]) -> None:
        for each in gone:
            self.waiting.pop(each, None)
            self.fetched.pop(each, None)

    @invariant()
    def what_waits_and_what_is_read_is_stored(self) -> None:
        held = {key[2] for key in (*self.waiting, *self.open)}
        bodies = sum(len(self.bodies[each]) for each in held)
        assert self.store.stored == bodies + len(self.waiting) * ENTRY_SIZE


TestModel = StoreIsLikeItsModel.TestCase
TestModel.settings = settings(max_examples=50, stateful_step_count=30)
