"""Messages that are posted to a relay while a successor takes over."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from acebase_ipc.server.handover.posted import Answer, PostsOfPredecessor, PostsToSuccessor
from acebase_ipc.server.handover.wire import HandOverError, Kind, Wire


class Descriptors:
    """The part of a reactor that watches descriptors."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.addReader = self.readers.append

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)


class Ends:
    """Both ends: that of the process that hands over, and that of its successor."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        self.old, self.new = Descriptors(), Descriptors()
        self.received: list[tuple[str, str, bytes]] = []
        self.answer: Answer | Exception = (200, "ok")
        self.wires = [Wire(each, lambda: 0.0) for each in (here, there)]
        self.posts = PostsToSuccessor(self.wires[0], self.old)
        self.fetched: list[tuple[str, bytes, str]] = []
        self.posted = PostsOfPredecessor(
            self.wires[1], self.new, self._receive, self.fetched.append
        )

    def _receive(self, database: str, client_id: str, body: bytes) -> Answer:
        self.received.append((database, client_id, body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def post(self, body: bytes = b"hello") -> list[Any]:
        """Post a message; returns what its answer is, as soon as there is one."""
        answers: list[Any] = []
        answer: Deferred[Any] = self.posts.post("shop_data", "alice", body)
        answer.addBoth(answers.append)
        return answers

    @staticmethod
    def turn(descriptors: Descriptors) -> None:
        for each in tuple(descriptors.readers):
            assert each.logPrefix() == "hand-over"
            each.doRead()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    for each in made.wires:
        each.close()


def test_a_message_reaches_the_successor_and_its_answer_the_client(ends: Ends) -> None:
    first, second = ends.post(), ends.post(b"x" * 300)
    ends.turn(ends.new)
    ends.answer = 404, "No such peer"
    ends.turn(ends.new)
    assert ends.received == [("shop_data", "alice", b"hello"), ("shop_data", "alice", b"x" * 300)]
    ends.turn(ends.old)
    assert (first, second) == ([(200, "ok")], [])
    ends.turn(ends.old)
    assert second == [(404, "No such peer")]


def test_the_successor_is_told_of_downloads_that_are_complete(ends: Ends) -> None:
    ends.posts.fetched(("shop_data", b"alice", "x"))
    answers = ends.post()
    ends.turn(ends.new)
    ends.turn(ends.new)
    assert ends.fetched == [("shop_data", b"alice", "x")]
    ends.turn(ends.old)
    assert answers == [(200, "ok")]
    ends.posted.close()
    ends.posts.fetched(("shop_data", b"alice", "y"))
    assert ends.old.readers == []


def test_what_is_not_answered_fails_when_the_successor_ends(ends: Ends) -> None:
    answers = ends.post()
    ends.posted.close()
    assert ends.new.readers == []
    ends.turn(ends.old)
    assert ends.old.readers == []
    (failure,) = answers
    assert failure.check(HandOverError)


def test_a_message_cannot_be_posted_after_the_end(ends: Ends) -> None:
    ends.posted.close()
    (failure,) = ends.post()
    assert failure.check(HandOverError)


def test_the_end_of_the_predecessor_is_noticed(ends: Ends) -> None:
    ends.posts.close()
    ends.turn(ends.new)
    assert ends.new.readers == []


def test_something_else_than_a_message_ends_it(ends: Ends) -> None:
    ends.wires[0].send(Kind.GO)
    ends.turn(ends.new)
    assert (ends.new.readers, ends.received) == ([], [])


def test_a_failure_of_the_relay_is_logged_and_ends_it(ends: Ends) -> None:
    ends.answer = LookupError("a mistake")
    answers = ends.post()
    with capturedLogs() as logged:
        ends.turn(ends.new)
    assert [each["log_format"] for each in logged] == ["passing on a message failed"]
    ends.turn(ends.old)
    assert answers[0].check(HandOverError)
