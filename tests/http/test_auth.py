"""Origins, hosts and tokens; how guessing of tokens is slowed down."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, eventAsText
from twisted.web.resource import Resource
from twisted.web.server import Site

from acebase_ipc.http.auth import Access, parse_origins, presented_tokens
from acebase_ipc.http.errors import Unauthorized, WrongToken
from acebase_ipc.http.responses import FAILURE_DELAY, MAX_DELAYED, Refusals
from acebase_ipc.http.tokens import FREE_FAILURES, Rule, Tokens
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import NotAPeer
from acebase_ipc.relay.events import Refused, RelayEvent, TokenGuessing
from acebase_ipc.testing import (
    DATABASE,
    MemoryConnection,
    MemoryPeer,
    MemoryRelay,
    http_head,
    http_request,
    upgrade_request,
)
from tests.certificates import make_certificate

SECRET = "s3cret"
ORIGIN = "https://app.example"
LOOPBACK = IPv4Address("TCP", "127.0.0.1", 9163)


class Asked:
    """A request, as far as access looks at it."""

    def __init__(
        self,
        uri: bytes = b"/",
        headers: dict[bytes, bytes] | None = None,
        client: str = "192.0.2.1",
        at: IAddress = LOOPBACK,
    ) -> None:
        self.uri = uri
        self._headers = headers or {}
        self._client = client
        self._at = at

    def getHeader(self, name: bytes) -> bytes | None:
        return self._headers.get(name)

    def getClientAddress(self) -> IAddress:
        return IPv4Address("TCP", self._client, 50000)

    def getHost(self) -> IAddress:
        return self._at

    # What answering needs

    answered: Callable[[], object] | None = None

    def notifyFinish(self) -> Deferred[None]:
        return Deferred()

    def setResponseCode(self, code: int) -> None: ...

    def setHeader(self, name: bytes, value: bytes) -> None: ...

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        if self.answered is not None:
            self.answered()


def asked(*arguments: Any, **keywords: Any) -> Any:
    """Such a request, where a whole one is wanted."""
    return Asked(*arguments, **keywords)


class Gate:
    """An Access and Refusals with the time and all that these report.

    :ivar answered: the addresses that have got their answers, in order.
    """

    def __init__(
        self,
        token: str | None = SECRET,
        origins: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
    ) -> None:
        self.clock = Clock()
        self.reports: list[RelayEvent] = []
        self.answered: list[str] = []
        tokens = Tokens(None if token is None else [Rule(token.encode())])
        self.access = Access(tokens, origins, hosts)
        self.refusals = Refusals(self, self.clock, self.clock.seconds)

    def report(self, event: RelayEvent) -> None:
        self.reports.append(event)

    def fail(self, client: str = "192.0.2.1", refusal: RequestRefused | None = None) -> None:
        """Let *client* be refused: by default for a wrong token."""
        request = asked(client=client)
        request.answered = lambda: self.answered.append(client)
        self.refusals.refuse(request, refusal or WrongToken(403))


# Tokens as they are presented


@pytest.mark.parametrize(
    ("uri", "authorization", "tokens"),
    [
        (b"/", None, ()),
        (b"/?t=", b"", ()),
        (b"/?t=one", None, ("one",)),
        (b"/?t=o%6Ee", None, ("one",)),
        (b"/?t=a+b==", None, ("a+b==",)),
        (b"/?t=no&t=one", None, ("one",)),
        (b"/", b"Bearer one", ("one",)),
        (b"/", b"bEARER   one  ", ("one",)),
        (b"/?t=one", b"Bearer two", ("one", "two")),
        (b"/", "Bearer 密碼".encode(), ("密碼",)),
        (b"/", b"Basic b25l", ()),
        (b"/", b"one", ()),
        (b"/?t=%FF", b"Bearer \xff", ("\udcff", "\udcff")),
    ],
)
def test_a_token_is_presented_in_the_query_or_as_a_bearer(
    uri: bytes, authorization: bytes | None, tokens: tuple[str, ...]
) -> None:
    headers = {} if authorization is None else {b"Authorization": authorization}
    assert presented_tokens(asked(uri, headers)) == tokens


# Hosts: a page whose name was bound to this machine's loopback

LOCAL_NAMES = [
    b"localhost",
    b"LocalHost:9163",
    b"app.localhost:80",
    b"127.0.0.1",
    b"127.0.0.1:9163",
    b"127.9.9.9:9163",
    b"[::1]",
    b"[::1]:9163",
    b" localhost ",
]
FOREIGN_NAMES = [
    b"evil.example",
    b"evil.example:9163",
    b"localhost.evil.example",
    b"evillocalhost",
    b"127.0.0.1.evil.example",
    b"192.0.2.1:9163",
    b"0.0.0.0:9163",
    b"[::]:9163",
    b"[2001:db8::1]:9163",
    b"2130706433",
    b"",
    b":9163",
    b"\xff\xfe",
]


def check_host(host: bytes | None, gate: Gate, at: IAddress = LOOPBACK) -> bool:
    """Whether a request for *host* over the socket *at* is accepted."""
    try:
        gate.access.check_host(asked(headers={} if host is None else {b"Host": host}, at=at))
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize("host", [*LOCAL_NAMES, None])
def test_on_loopback_a_local_name_is_accepted(host: bytes | None) -> None:
    assert check_host(host, Gate(token=None))


@pytest.mark.parametrize("host", FOREIGN_NAMES)
@pytest.mark.parametrize("at", [LOOPBACK, IPv6Address("TCP", "::1", 9163)])
def test_on_loopback_a_foreign_name_is_refused(host: bytes, at: IAddress) -> None:
    assert not check_host(host, Gate(token=None), at)


@pytest.mark.parametrize(
    "at",
    [
        IPv4Address("TCP", "192.0.2.9", 9163),
        IPv6Address("TCP", "2001:db8::9", 9163),
        UNIXAddress("/run/relay.sock"),
    ],
)
def test_beyond_loopback_any_name_is_accepted(at: IAddress) -> None:
    """It has other names than those of loopback; and no page reaches a unix socket."""
    assert check_host(b"evil.example", Gate(token=None), at)


def test_where_a_token_is_required_the_name_does_not_matter() -> None:
    assert check_host(b"evil.example", Gate(token=SECRET))


@pytest.mark.parametrize("host", [b"relay.internal", b"RELAY.internal:9163", b"localhost"])
def test_allow_host_adds_a_name(host: bytes) -> None:
    gate = Gate(token=None, hosts=(" Relay.Internal",))
    assert check_host(host, gate)
    assert not check_host(b"x.relay.internal", gate)


@pytest.mark.parametrize(
    "target",
    [
        f"/{DATABASE}/connect?id=bobby&v=1",
        f"/{DATABASE}/send?id=alice",
        f"/{DATABASE}/receive?id=alice&msg=x",
        f"/{DATABASE}/clients",
        "/send?id=alice",
        "/healthz",
        "/nothing",
        "/",
    ],
)
def test_a_rebound_name_is_refused_on_every_path(target: str) -> None:
    relay = MemoryRelay()
    relay.join("alice")
    for method in ("GET", "POST", "OPTIONS"):
        body = b"ping" if method == "POST" else b""
        assert relay.request(method, target, body, host="evil.example:9163").status == 403
        assert relay.request(method, target, body, host="localhost:9163").status != 403
    assert relay.upgrade(target, host="evil.example").response().status == 403


def test_a_rebound_name_relays_nothing() -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice")
    target = f"/{DATABASE}/send?id=alice"
    assert relay.post(target, "to:alice;boo", host="evil.example").status == 403
    assert alice.received() == []
    assert relay.post(target, "to:alice;boo", host="localhost").status == 200
    assert alice.received() == ["msg:boo"]


# Origins


def test_origins_are_compared_as_browsers_write_them() -> None:
    assert parse_origins(["HTTPS://App.Example/ ", "null"]) == {ORIGIN, "null"}


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ((), None, None),
        ((ORIGIN,), ORIGIN.encode(), ORIGIN.encode()),
        (("*",), b"https://evil.example", b"https://evil.example"),
        (("*",), b"null", b"null"),
        (("*",), b"\xff", b"\xff"),
    ],
)
def test_an_origin_is_allowed(
    origins: tuple[str, ...], origin: bytes | None, allowed: bytes | None
) -> None:
    headers = {} if origin is None else {b"Origin": origin}
    assert Gate(origins=origins).access.check_origin(asked(headers=headers)) == allowed


@pytest.mark.parametrize("origin", [b"https://evil.example", b"null", b"", b"\xff"])
@pytest.mark.parametrize("origins", [(), (ORIGIN,)])
def test_an_origin_is_refused(origins: tuple[str, ...], origin: bytes) -> None:
    with pytest.raises(Unauthorized):
        Gate(origins=origins).access.check_origin(asked(headers={b"Origin": origin}))


def test_a_token_does_not_help_a_foreign_page() -> None:
    relay = MemoryRelay(token=SECRET)
    target = f"/{DATABASE}/clients?t={SECRET}"
    assert relay.get(target).status == 200
    assert relay.get(target, origin="https://evil.example").status == 403


# Health


@pytest.mark.parametrize("config", [{}, {"token": SECRET}])
def test_health_needs_no_token_and_discloses_nothing(config: dict[str, Any]) -> None:
    relay = MemoryRelay(**config)
    relay.join("alice", query=f"&t={SECRET}")
    response = relay.get("/healthz")
    assert (response.status, response.text) == (200, "ok")
    assert set(response.headers) == {
        "server",
        "date",
        "content-type",
        "content-length",
        "cache-control",
    }
    assert relay.get("/healthz", origin="https://evil.example").status == 403
    assert relay.post("/healthz", b"").status == 405


# Headers are bytes


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer \xff",
        "Host: \xff",
        "Origin: \xff",
        "Upgrade: \xff",
        "Upgrade: websocket\r\nX-Forwarded-Proto: \xff",
        "Cookie: \xff=\xff",
        "Expect: \xff",
        "Connection: \xff",
    ],
)
@pytest.mark.parametrize(
    "line",
    [
        f"GET /{DATABASE}/connect?id=bobby&v=1 HTTP/1.1",
        f"GET /{DATABASE}/clients HTTP/1.1",
        f"POST /{DATABASE}/send?id=alice HTTP/1.1\r\nContent-Length: 4",
    ],
)
def test_a_header_that_is_not_utf8_is_no_failure(line: str, header: str) -> None:
    relay = MemoryRelay(token=SECRET)  # fails the test if a traceback is logged
    wire = relay.connect()
    wire.send(f"{line}\r\n{header}\r\n\r\npong".encode("latin-1"))
    assert 400 <= next(iter(wire.responses())).status < 500


# TokenGuessing


def test_a_valid_token_is_never_refused() -> None:
    gate = Gate()
    for _ in range(1000):
        gate.fail("192.0.2.1")
        gate.access.check_token([SECRET], DATABASE, 403)  # from the same address


def test_the_eleventh_failure_in_a_minute_is_answered_late() -> None:
    gate = Gate()
    for number in range(1, FREE_FAILURES + 1):
        gate.fail()
        assert len(gate.answered) == number
    gate.fail()
    gate.clock.advance(FAILURE_DELAY - 0.01)
    assert len(gate.answered) == FREE_FAILURES
    gate.clock.advance(0.01)
    assert len(gate.answered) == FREE_FAILURES + 1


def test_failures_are_counted_by_address() -> None:
    gate = Gate()
    for _ in range(FREE_FAILURES + 1):
        gate.fail("192.0.2.1")
    gate.fail("192.0.2.2")
    assert gate.answered == ["192.0.2.1"] * FREE_FAILURES + ["192.0.2.2"]


def test_after_a_minute_an_address_is_answered_at_once_again() -> None:
    gate = Gate()
    for _ in range(FREE_FAILURES + 1):
        gate.fail()
    gate.clock.advance(60)
    gate.answered.clear()
    gate.fail()
    assert len(gate.answered) == 1


def test_at_most_a_hundred_answers_wait() -> None:
    gate = Gate()
    for _ in range(FREE_FAILURES + MAX_DELAYED):
        gate.fail()
    assert len(gate.answered) == FREE_FAILURES
    assert MAX_DELAYED == 100
    gate.fail()
    assert len(gate.answered) == FREE_FAILURES + 1
    gate.clock.advance(FAILURE_DELAY)
    assert len(gate.answered) == FREE_FAILURES + 1 + MAX_DELAYED
    gate.fail()  # there is room again
    assert len(gate.answered) == FREE_FAILURES + 1 + MAX_DELAYED


@pytest.mark.parametrize("refusal", [Unauthorized(), NotAPeer()])
def test_only_wrong_tokens_are_answered_late(refusal: RequestRefused) -> None:
    gate = Gate()
    for _ in range(3 * FREE_FAILURES):
        gate.fail(refusal=refusal)
    assert len(gate.answered) == 3 * FREE_FAILURES


def test_guessing_is_logged_once_a_minute_and_counted_each_time() -> None:
    gate = Gate()
    for _ in range(3):
        for _ in range(5 * FREE_FAILURES):
            gate.fail("192.0.2.1")
            gate.fail("192.0.2.2")
        gate.clock.advance(60)
    for address in ("192.0.2.1", "192.0.2.2"):
        assert gate.reports.count(TokenGuessing(address)) == 3
    assert gate.reports.count(Refused("192.0.2.1:50000", 403, "Unauthorized")) == 15 * FREE_FAILURES


def guess(relay: MemoryRelay, count: int = FREE_FAILURES) -> None:
    for _ in range(count):
        assert relay.get(f"/{DATABASE}/clients?t=wrong").status == 401


def test_a_late_answer_is_that_of_a_handshake() -> None:
    relay = MemoryRelay(token=SECRET)
    guess(relay)
    wire = relay.upgrade(f"/{DATABASE}/connect?id=alice&v=1&t=wrong")
    relay.pass_time(FAILURE_DELAY - 0.1)
    assert wire.take() == b""
    relay.pass_time(0.1)
    assert wire.response().status == 403
    relay.join("alice", query=f"&t={SECRET}")


@pytest.mark.parametrize("early", [0, 5])
def test_a_late_answer_to_a_post_comes_whenever_the_body_does(early: int) -> None:
    relay = MemoryRelay(token=SECRET)
    guess(relay)
    wire = relay.connect()
    request = http_request("POST", f"/{DATABASE}/send?id=alice&t=wrong", b"a body")
    wire.send(request[: len(request) - early])
    relay.pass_time(FAILURE_DELAY - 0.1)
    assert wire.take() == b""
    relay.pass_time(0.1)
    assert wire.response().status == 401
    wire.send(request[len(request) - early :])
    assert wire.ended == "closed"


@pytest.mark.parametrize("end", [MemoryConnection.close, MemoryConnection.reset])
def test_a_client_may_leave_before_a_late_answer(end: Callable[[MemoryConnection], None]) -> None:
    relay = MemoryRelay(token=SECRET)  # fails the test if a traceback is logged
    guess(relay)
    for request in (
        http_head("GET", f"/{DATABASE}/clients"),
        upgrade_request(f"/{DATABASE}/connect?id=alice&v=1"),
        http_request("POST", f"/{DATABASE}/send?id=alice", b"a body"),
    ):
        wire = relay.connect()
        wire.send(request)
        end(wire)
    relay.pass_time(FAILURE_DELAY)
    guess(relay, 0)


# Rotation


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(0o600)
    return path


def join(relay: MemoryRelay, token: str, client_id: str, database: str = DATABASE) -> MemoryPeer:
    return relay.join(client_id, database, query=f"&t={token}")


def status(relay: MemoryRelay, token: str, database: str = DATABASE) -> int:
    return relay.get(f"/{database}/clients?t={token}").status


def test_a_token_is_exchanged_without_a_gap(token_file: Path) -> None:
    token_file.write_text("old\n")
    relay = MemoryRelay(token_file=str(token_file))
    old = join(relay, "old", "alice")
    assert status(relay, "new") == 401

    token_file.write_text("# until Monday\nold\nnew\n")
    relay.server.reload()
    relay.settle()
    assert (status(relay, "old"), status(relay, "new")) == (200, 200)
    new = join(relay, "new", "bobby")
    assert old.received() == ["connect:bobby"]

    token_file.write_text("new\n")
    relay.server.reload()
    relay.settle()
    assert (old.close_code, old.close_reason) == (1008, "the token is not valid any more")
    assert new.close_code is None
    assert new.received() == ["disconnect:alice"]
    assert (status(relay, "old"), status(relay, "new")) == (401, 200)


def test_a_connection_ends_with_what_its_token_opens(token_file: Path) -> None:
    token_file.write_text("shop_* one\nother one\n* two\n")
    relay = MemoryRelay(token_file=str(token_file))
    peers = [join(relay, "one", "alice"), join(relay, "one", "alice", "other")]
    peers.append(join(relay, "two", "bobby", "other"))

    token_file.write_text("shop_* one\n* two\n")
    relay.server.reload()
    relay.settle()
    assert [each.close_code for each in peers] == [None, 1008, None]
    assert status(relay, "one", "other") == 401


def break_bytes(path: Path) -> None:
    path.write_bytes(b"new\n\xff\n")


def empty(path: Path) -> None:
    path.write_text("# nothing but a comment\n")


@pytest.mark.parametrize("spoil", [break_bytes, empty, os.remove])
def test_a_file_that_cannot_be_used_changes_nothing(
    token_file: Path, spoil: Callable[[Path], None]
) -> None:
    token_file.write_text("old\n")
    relay = MemoryRelay(token_file=str(token_file))
    alice = join(relay, "old", "alice")
    spoil(token_file)
    with capturedLogs() as events:
        relay.server.reload()
    relay.settle()
    (line,) = [eventAsText(each) for each in events]
    assert "#error] nothing is reloaded: " in line
    assert "new" not in line
    assert alice.close_code is None
    assert (status(relay, "old"), status(relay, "new")) == (200, 401)


def test_a_reload_without_a_file_changes_nothing() -> None:
    configs: list[dict[str, Any]] = [{}, {"token": SECRET}]
    for config in configs:
        relay = MemoryRelay(**config)
        alice = join(relay, SECRET, "alice")
        relay.server.reload()
        relay.settle()
        assert alice.close_code is None
        assert status(relay, SECRET) == 200


# No token is disclosed


def test_no_token_is_disclosed(token_file: Path) -> None:
    token_file.write_text(f"{SECRET}\nshop_* {SECRET}2\n")
    relay = MemoryRelay(token_file=str(token_file))
    presented = (SECRET, f"{SECRET}2", f"{SECRET}3")
    answers = []
    for each in presented:
        for method in ("GET", "POST", "HEAD", "DELETE"):
            wire = relay.connect()
            wire.send(http_request(method, f"/{DATABASE}/clients?t={each}", b""))
            wire.send(http_request(method, f"/{DATABASE}/{each}?t={each}", b""))
            wire.send(http_head(method, f"/{DATABASE}/connect?t={each}", authorization=each))
            answers.append(wire.take())
    relay.pass_time(70)
    relay.server.reload()
    assert len(answers) == 12
    assert not any(SECRET.encode() in each for each in answers)
    assert relay.logged(SECRET) == []
    assert SECRET not in repr(relay.server.config)
    assert SECRET not in repr(vars(relay.server))


def test_the_own_site_writes_no_access_log() -> None:
    relay = MemoryRelay()
    before = len(relay.log)
    assert relay.get("/healthz").status == 200
    assert len(relay.log) == before


def test_in_a_foreign_site_tokens_open_the_same_databases() -> None:
    relay = MemoryRelay(port=None, token=SECRET)
    root = Resource()
    root.putChild(b"ipc", relay.server.resource())
    relay.port = relay.reactor.listenTCP(8080, Site(root, reactor=relay.reactor))
    assert relay.get(f"/ipc/{DATABASE}/clients?t=wrong").status == 401
    assert relay.get(f"/ipc/{DATABASE}/clients?t={SECRET}").status == 200
    assert relay.get("/ipc/healthz").status == 200


# Files that everybody can read


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_token_file_readable_by_everybody_is_warned_of(
    token_file: Path, mode: int, warned: bool
) -> None:
    token_file.write_text(SECRET)
    token_file.chmod(mode)
    relay = MemoryRelay(token_file=str(token_file))
    assert bool(relay.logged(str(token_file), "readable by all users", "#warn]")) == warned


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o604, True)])
def test_a_key_readable_by_everybody_is_warned_of(tmp_path: Path, mode: int, warned: bool) -> None:
    certificate = make_certificate(tmp_path)
    certificate.key.chmod(mode)
    endpoint = f"ssl:0:privateKey={certificate.key}:certKey={certificate.certificate}"
    relay = MemoryRelay(endpoints=(endpoint,))
    assert bool(relay.logged(str(certificate.key), "readable by all users", "#warn]")) == warned
    assert not relay.logged(str(certificate.certificate), "readable by all users")
