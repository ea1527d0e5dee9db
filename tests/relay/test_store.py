"""Large messages that wait to be downloaded, compared with a model of them."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.store import MessageStore

DATABASE = "mydb_data"
TTL = 60.0


def test_a_message_waits_for_each_recipient() -> None:
    mailbox = MessageStore(TTL)
    message_id = mailbox.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    for recipient in (b"peer1", b"peer2"):
        assert mailbox.get(DATABASE, recipient, message_id) == b"body"


def test_a_broken_download_may_be_repeated() -> None:
    mailbox = MessageStore(TTL)
    message_id = mailbox.put(DATABASE, b"body", [b"peer1"], now=0)
    assert [mailbox.get(DATABASE, b"peer1", message_id) for _ in range(3)] == [b"body"] * 3


def test_a_message_is_taken_once_and_waits_on_for_the_others() -> None:
    mailbox = MessageStore(TTL)
    message_id = mailbox.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    mailbox.taken(DATABASE, b"peer1", message_id)
    mailbox.taken(DATABASE, b"peer1", message_id)
    with pytest.raises(NotFound):
        mailbox.get(DATABASE, b"peer1", message_id)
    assert mailbox.get(DATABASE, b"peer2", message_id) == b"body"
    assert mailbox.stored == 4


def test_the_message_goes_with_its_last_recipient() -> None:
    mailbox = MessageStore(TTL)
    message_id = mailbox.put(DATABASE, b"body", [b"peer1", b"peer2"], now=0)
    mailbox.taken(DATABASE, b"peer1", message_id)
    assert mailbox.forget(DATABASE, b"peer2") == 1
    assert mailbox.stored == 0


@pytest.mark.parametrize(
    ("database", "recipient"),
    [(DATABASE, b"peer2"), ("other", b"peer1"), ("other", b"peer2"), ("", b"peer1")],
)
def test_nobody_else_gets_it(database: str, recipient: bytes) -> None:
    mailbox = MessageStore(TTL)
    message_id = mailbox.put(DATABASE, b"body", [b"peer1"], now=0)
    mailbox.put("other", b"another body", [b"peer1", b"peer2"], now=0)
    with pytest.raises(NotFound) as caught:
        mailbox.get(database, recipient, message_id)
    assert caught.value.status == 404
    mailbox.taken(database, recipient, message_id)
    assert mailbox.get(DATABASE, b"peer1", message_id) == b"body"


@pytest.mark.parametrize(("later", "expired"), [(59.9, []), (60.0, [b"peer1"]), (61.0, [b"peer1"])])
def test_a_message_waits_as_long_as_it_may(later: float, expired: list[bytes]) -> None:
    mailbox = MessageStore(TTL)
    mailbox.put(DATABASE, b"body", [b"peer1"], now=1000)
    assert list(mailbox.expire(1000 + later)) == [(DATABASE, each) for each in expired]
    assert mailbox.stored == (0 if expired else 4)


def test_only_those_who_have_not_taken_it_are_told_of() -> None:
    mailbox = MessageStore(TTL)
    message_id = mailbox.put(DATABASE, b"body", [b"peer1", b"peer2", b"peer3"], now=0)
    mailbox.taken(DATABASE, b"peer2", message_id)
    assert sorted(mailbox.expire(TTL)) == [(DATABASE, b"peer1"), (DATABASE, b"peer3")]


def test_ids_are_unguessable() -> None:
    mailbox = MessageStore(TTL)

    def seeded() -> str:
        random.seed(1)
        return mailbox.put(DATABASE, b"", [b"peer1"], now=0)

    ids = {seeded() for _ in range(1000)}
    assert len(ids) == 1000
    # 6 bits a character: at least the 128 that RFC 4086 asks for.
    assert all(re.fullmatch("[A-Za-z0-9_-]{22,}", each) for each in ids)
    columns = [set(column) for column in zip(*ids, strict=True)]
    assert min(map(len, columns)) > 8


class MailboxIsLikeItsModel(RuleBasedStateMachine):
    """The model is a plain list of what waits for whom."""

    databases = st.sampled_from(["one", "two"])
    recipients = st.sampled_from([b"a", b"b", b"c"])
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.mailbox = MessageStore(TTL)
        self.now = 0.0
        self.waiting: dict[tuple[str, bytes, str], tuple[bytes, float]] = {}

    @rule(
        target=ids,
        database=databases,
        body=st.binary(max_size=9),
        to=st.lists(recipients, min_size=1),
    )
    def put(self, database: str, body: bytes, to: list[bytes]) -> str:
        message_id = self.mailbox.put(database, body, iter(to), self.now)
        for each in to:
            self.waiting[database, each, message_id] = (body, self.now + TTL)
        return message_id

    @rule(database=databases, recipient=recipients, message_id=ids)
    def get(self, database: str, recipient: bytes, message_id: str) -> None:
        if (database, recipient, message_id) in self.waiting:
            body = self.mailbox.get(database, recipient, message_id)
            assert body == self.waiting[database, recipient, message_id][0]
        else:
            with pytest.raises(NotFound):
                self.mailbox.get(database, recipient, message_id)

    @rule(database=databases, recipient=recipients, message_id=ids)
    def taken(self, database: str, recipient: bytes, message_id: str) -> None:
        self.mailbox.taken(database, recipient, message_id)
        self.waiting.pop((database, recipient, message_id), None)

    @rule(database=databases, recipient=recipients)
    def forget(self, database: str, recipient: bytes) -> None:
        gone = [each for each in self.waiting if each[:2] == (database, recipient)]
        assert self.mailbox.forget(database, recipient) == len(gone)
        for each in gone:
            del self.waiting[each]

    @rule(seconds=st.sampled_from([0.5, 20.0, TTL]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        gone = [each for each, (_, end) in self.waiting.items() if end <= self.now]
        assert sorted(self.mailbox.expire(self.now)) == sorted(each[:2] for each in gone)
        for each in gone:
            del self.waiting[each]

    @invariant()
    def only_what_waits_is_stored(self) -> None:
        bodies = {message_id: body for (_, _, message_id), (body, _) in self.waiting.items()}
        assert self.mailbox.stored == sum(map(len, bodies.values()))


TestModel = MailboxIsLikeItsModel.TestCase
TestModel.settings = settings(max_examples=30, stateful_step_count=20)
