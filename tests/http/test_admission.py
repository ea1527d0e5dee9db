"""Which requests are admitted, and when that is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from twisted.web.resource import Resource
from twisted.web.server import Site

from acebase_ipc.http.admission import Admission
from acebase_ipc.http.auth import Access
from acebase_ipc.http.tokens import Tokens
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.testing import (
    DATABASE,
    MemoryConnection,
    MemoryPeer,
    MemoryRelay,
    chunk,
    http_head,
    http_request,
    upgrade_request,
)
from tests.http.test_auth import asked

SEND = f"/{DATABASE}/send?id=alice&t=secret"


class CountedTokens(Tokens):
    """Tokens that count how often they are checked."""

    checks = 0

    def allow(self, database: str | None, presented: Iterable[str | None]) -> bool:
        self.checks += 1
        return super().allow(database, presented)


def count_checks(relay: MemoryRelay) -> CountedTokens:
    """Let *relay* count from now on how often it checks a token."""
    tokens = CountedTokens(relay.server.config.rules())
    relay.server._parts.access.tokens = tokens
    return tokens


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(0o600)
    return path


# Once per request


@pytest.mark.parametrize(
    "pieces",
    [
        [http_request("POST", SEND, b"hello")],
        [http_request("POST", SEND, b"ping"), http_request("POST", SEND, b"")],
        [http_head("POST", SEND, content_length="5"), b"hel", b"lo"],
        [http_head("POST", SEND, transfer_encoding="chunked"), chunk(b"hello"), chunk(b"")],
    ],
)
def test_a_post_is_admitted_once(pieces: list[bytes]) -> None:
    relay = MemoryRelay(token="secret")
    relay.join_all("alice", "bobby", query="&t=secret")
    tokens = count_checks(relay)
    wire = relay.connect()
    wire.send(*pieces)
    answers = wire.responses()
    assert {each.status for each in answers} == {200}
    assert tokens.checks == len(answers)


def test_a_post_in_a_foreign_site_is_admitted_once() -> None:
    relay = MemoryRelay(token="secret")
    relay.join_all("alice", "bobby", query="&t=secret")
    root = Resource()
    root.putChild(b"ipc", relay.server.resource())
    relay.port = relay.reactor.listenTCP(8080, Site(root, reactor=relay.reactor))
    tokens = count_checks(relay)
    assert relay.post(f"/ipc{SEND}", "hello").status == 200
    assert tokens.checks == 1


def test_a_sender_that_leaves_before_its_body_is_complete_is_401() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    wire = relay.connect()
    wire.send(http_head("POST", SEND, content_length="5"), b"hel")
    alice.leave()
    wire.send(b"lo")
    assert wire.response().status == 401
    assert bobby.received() == ["disconnect:alice"]


# Again, where the decision comes later


def conflicting(relay: MemoryRelay, token: str) -> tuple[MemoryPeer, MemoryConnection]:
    """A silent holder of an id that is in conflict, and a newcomer that waits for the check."""
    target = f"/{DATABASE}/connect?v=1.0.0&id=[master]&t={token}"
    first, holder = (MemoryPeer("[master]", relay.upgrade(target)) for _ in range(2))
    assert first.close_code == 4001
    holder.answers = False
    newcomer = relay.connect()
    newcomer.send(upgrade_request(f"/{DATABASE}/connect?v=1.0.0&id=[master]&t=old"))
    assert newcomer.take() == b""
    return holder, newcomer


def test_a_newcomer_is_admitted_after_the_check_of_a_silent_holder(token_file: Path) -> None:
    token_file.write_text("old\nnew\n")
    relay = MemoryRelay(token_file=str(token_file))
    _, newcomer = conflicting(relay, "new")
    relay.pass_time(3)
    assert newcomer.take().startswith(b"HTTP/1.1 101 ")


def test_a_newcomer_that_sends_nothing_more_is_taken_for_gone(token_file: Path) -> None:
    token_file.write_text("old\nnew\n")
    relay = MemoryRelay(token_file=str(token_file))
    _, newcomer = conflicting(relay, "new")
    newcomer.stop_sending()
    assert newcomer.ended == "reset"
    relay.pass_time(3)
    assert newcomer.take() == b""


def test_a_token_revoked_during_the_check_is_refused(token_file: Path) -> None:
    token_file.write_text("old\nnew\n")
    relay = MemoryRelay(token_file=str(token_file))
    holder, newcomer = conflicting(relay, "new")
    token_file.write_text("new\n")
    relay.server.reload()
    relay.pass_time(3)
    assert newcomer.response().status == 403
    assert holder.close_code is None


class SlowRelay:
    """A relay in which each id is in conflict, until :attr:`decide` is called."""

    gate = None

    def __init__(self) -> None:
        self.sessions = self.registry = self

    def check_conflict(
        self, handshake: Handshake, newcomer: str, now: float, decide: Callable[[bool], object]
    ) -> None:
        self.decide = decide

    def check_room(self, handshake: Handshake) -> None: ...

    def check_fence(self, handshake: Handshake, newcomer: str, now: float) -> None: ...


def test_room_used_up_during_the_check_is_refused() -> None:
    full: list[RequestRefused] = []
    decisions: list[object] = []

    def check_room(request: object) -> None:
        for each in full:
            raise each

    relay: Any = SlowRelay()
    access = Access(Tokens(None), (), ())
    admission = Admission(access, relay, check_room, lambda: 0.0, None, lambda: True)
    admission.connect(
        asked(b"/?id=alice&v=1"),
        DATABASE,
        lambda handshake, tokens: decisions.append(handshake),
        decisions.append,
    )
    assert decisions == []
    full.append(Overloaded("Too many connections"))
    relay.decide(True)
    assert decisions == full


# Without the database's name


def test_only_databases_that_the_token_opens_are_searched(token_file: Path) -> None:
    token_file.write_text("a_* one\nb_* two\n")
    relay = MemoryRelay(token_file=str(token_file))
    worker = relay.join("worker", "a_data", query="&t=one")
    relay.join("worker", "b_data", query="&t=two")
    relay.join("secret", "b_data", query="&t=two")
    assert relay.post("/send?id=worker&t=one", "ping").status == 200
    assert worker.received() == ["pong"]
    assert relay.get("/receive?id=secret&msg=x&t=one").status == 404
    assert relay.get("/receive?id=nobody&msg=x&t=one").status == 404
