"""HTTP connections that go on in another relay."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acebase_ipc.testing import http_request, upgrade_request
from acebase_ipc.testing.http import http_head
from tests.handing_over import Successors

CLIENTS = http_request("GET", "/shop_data/clients")


@pytest.fixture
def successors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Successors]:
    """A relay in memory, and those that take over from it."""
    relays = Successors(monkeypatch)
    yield relays
    relays.close()


@pytest.mark.parametrize("before", ["", "a request"])
def test_a_head_can_be_handed_over_at_every_byte(successors: Successors, before: str) -> None:
    for cut in range(0, len(CLIENTS), 7):
        connection = successors.relay.connect()
        if before:
            connection.send(CLIENTS)
            assert connection.response().status == 200
        connection.send(CLIENTS[:cut])
        successors.hand_over()
        connection.send(CLIENTS[cut:])
        assert connection.response().body == b"[]"
        connection.send(CLIENTS)
        assert connection.response().body == b"[]"
        connection.close()


def test_a_handshake_that_has_begun_is_completed_by_the_successor(successors: Successors) -> None:
    request = upgrade_request("/shop_data/connect?id=newcomer&v=1.0.0")
    connection = successors.relay.connect()
    connection.send(request[:40])
    successors.hand_over()
    assert connection.ended is None
    connection.send(request[40:])
    assert connection.take().startswith(b"HTTP/1.1 101 ")
    assert [each.id for each in successors.relay.server.get_clients("shop_data")] == ["newcomer"]


def test_requests_that_follow_each_other_are_answered_once(successors: Successors) -> None:
    connection = successors.relay.connect()
    connection.send(CLIENTS * 3, settle=False)
    successors.relay.turn()
    successors.hand_over()
    assert [each.status for each in connection.responses()] == [200, 200, 200]


@pytest.mark.parametrize(
    ("how", "body"),
    [
        ({"content_length": "5"}, b"hello"),
        ({"transfer_encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_a_body_in_part_stays(successors: Successors, how: dict[str, str], body: bytes) -> None:
    successors.relay.join("poster")
    connection = successors.relay.connect()
    connection.send(http_head("POST", "/shop_data/send?id=poster", **how) + body[:2])
    (channel,) = successors.relay.server._parts.site.channels
    assert not successors.hand_over().channels
    assert channel.unanswered is None
    connection.send(body[2:])
    assert connection.response().status == 200


def test_an_answer_in_part_stays(successors: Successors) -> None:
    connection = successors.relay.connect()
    connection.stop_reading(20)
    connection.send(CLIENTS)
    assert not successors.hand_over().channels


def test_the_client_of_a_proxy_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    successors = Successors(
        monkeypatch,
        endpoints=("haproxy:tcp:0:interface=127.0.0.1",),
        trust_proxy=("127.0.0.1",),
        token="secret",
    )
    header = b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 9163\r\n"
    request = upgrade_request("/shop_data/connect?id=newcomer&v=1.0.0&t=secret")
    for cut in (0, 10, len(header), len(header) + 10):
        stream = header + request
        connection = successors.relay.connect()
        connection.send(stream[:cut])
        successors.hand_over()
        connection.send(stream[cut:])
        assert connection.take().startswith(b"HTTP/1.1 101 "), cut
        for _ in range(2):
            (websocket,) = successors.relay.server._parts.connections.factory.connections
            assert websocket.address == "192.0.2.7:5000", cut
            successors.hand_over()
        connection.close()
        successors.relay.pass_time(20)
    successors.close()
