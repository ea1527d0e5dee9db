"""The handshake of a link, and links whose relays have gone."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from acebase_ipc.cluster import handshake
from acebase_ipc.cluster.handshake import HandshakeFailed, Ticket
from acebase_ipc.cluster.leases import Member, Timing, Verb
from acebase_ipc.cluster.links import CLOSE_TIMEOUT, Link, Links, Tls
from acebase_ipc.errors import ConfigError

SECRET = b"a secret of at least 16 bytes"
ASKS, HOME = b"a" * handshake.NONCE, b"h" * handshake.NONCE


def proved(text: bytes) -> bytes:
    """What a relay that knows the secret sends as its ticket."""
    body = len(text).to_bytes(2, "big") + text
    return body + hmac.digest(SECRET, b"asks" + ASKS + HOME + body, sha256)


def test_a_ticket_arrives_as_it_was_written() -> None:
    ticket = Ticket("shop_data", 7, "worker", 9)
    data = handshake.render_ticket(SECRET, ASKS, HOME, ticket)
    for size in range(len(data)):
        assert handshake.parse_ticket(SECRET, ASKS, HOME, data[:size]) is None
    assert handshake.parse_ticket(SECRET, ASKS, HOME, data + b"rest") == (ticket, len(data))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'["a",1]', b'[1,2,"",0]', b'["a","1","",0]', b'["a",1,null,0]']
)
def test_a_ticket_that_is_none_is_refused_although_it_is_proved(text: bytes) -> None:
    with pytest.raises(HandshakeFailed, match="malformed"):
        handshake.parse_ticket(SECRET, ASKS, HOME, proved(text))


def test_a_ticket_of_another_secret_or_another_link_is_refused() -> None:
    data = handshake.render_ticket(SECRET, ASKS, HOME, Ticket("shop_data", 1))
    for secret, nonce in ((b"another secret, as long", ASKS), (SECRET, HOME)):
        with pytest.raises(HandshakeFailed, match="another secret"):
            handshake.parse_ticket(secret, nonce, HOME, data)


def test_a_ticket_that_is_too_long_is_refused_before_it_has_arrived() -> None:
    with pytest.raises(HandshakeFailed, match="too long"):
        handshake.parse_ticket(SECRET, ASKS, HOME, (handshake.MAX_TICKET + 1).to_bytes(2, "big"))


def test_what_is_no_greeting_is_refused_at_its_first_byte() -> None:
    with pytest.raises(HandshakeFailed, match="no relay"):
        handshake.parse_greeting(b"G")
    assert handshake.parse_greeting(handshake.VERSION + ASKS) == ASKS


def test_a_certificate_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Tls(str(tmp_path / "missing.pem"))
    path = tmp_path / "empty.pem"
    path.write_text(json.dumps({}))
    with pytest.raises(ConfigError, match="no key and certificate"):
        Tls(str(path))


class Transport:
    """Counts how often it was aborted."""

    aborted = 0

    def abortConnection(self) -> None:
        self.aborted += 1


@pytest.fixture
def clock() -> Clock:
    return Clock()


def link_to(links: Links, relay: str | None) -> Transport:
    link = Link(SECRET, Ticket("shop_data", 1), b"", links)
    link.transport = transport = Transport()
    link.relay = relay
    links.begun(link)
    return transport


def test_links_to_relays_that_stay_away_end(clock: Clock) -> None:
    links = Links(SECRET, clock, None)
    gone, known, unknown = link_to(links, "a"), link_to(links, "b"), link_to(links, None)
    links.end_to_others({"b"})
    assert gone.aborted == 0, "it may join a Redis that was restarted"
    links.end_to_others({"b"})
    assert (gone.aborted, known.aborted, unknown.aborted) == (1, 0, 0)


def test_a_link_to_a_relay_that_was_missing_once_stays(clock: Clock) -> None:
    links = Links(SECRET, clock, None)
    transport = link_to(links, "a")
    for relays in (set(), {"a"}, set(), {"a"}):
        links.end_to_others(relays)
    assert transport.aborted == 0


def test_a_client_that_reads_nothing_is_ended_in_time(clock: Clock) -> None:
    client = Transport()
    Links(SECRET, clock, None).end_in_time(client)
    clock.advance(CLOSE_TIMEOUT - 0.1)
    assert client.aborted == 0
    clock.advance(0.2)
    assert client.aborted == 1


def test_each_wish_to_join_is_a_sign_of_life() -> None:
    names = iter("ab")
    member = Member(Timing(), lambda: next(names), lambda: "")
    first, second = member.due(0.0), member.due(0.1)
    assert [each.verb for each in (*first, *second)] == [Verb.JOIN] * 2
    assert int(second[0].arguments[0]) > int(first[0].arguments[0])
