"""The handshake's checks and the HTTP endpoints: protocol sections 1 and 4."""

from __future__ import annotations

import json
import re
import tracemalloc
from http import HTTPStatus
from urllib.parse import quote

import pytest

from acebase_ipc.testing import (
    DATABASE,
    START,
    MemoryConnection,
    MemoryPeer,
    MemoryRelay,
    Response,
    http_request,
)

OK = HTTPStatus.OK
TOKEN = "c2VjcmV0=="
BODY = "x" * 200
"""Too large for a WebSocket with a max_payload of 100."""


def is_one_line(response: Response) -> bool:
    """Whether a refusal says in one line of text what is wrong."""
    plain = response.headers["content-type"].lower().replace(" ", "") == "text/plain;charset=utf-8"
    return plain and bool(response.text.strip()) and "\n" not in response.text.strip()


def join(relay: MemoryRelay, target: str, **headers: str) -> int:
    """Try to connect; returns the status."""
    wire = relay.upgrade(target, **headers)
    response = wire.response() if wire.writes[0][9:12] != b"101" else None
    if response is None:
        return 101
    assert is_one_line(response)
    return response.status


def announced(peer: MemoryPeer) -> str:
    """The id of the one large message that was announced to *peer* since the last time."""
    (message,) = peer.received()
    assert message.startswith("get:")
    return message.removeprefix("get:")


# The handshake's checks

RIGHT = {"token": f"t={TOKEN}", "version": "v=1.0.0", "id": "id=alice"}
WRONG = {"token": "t=wrong", "version": "v=2.0.0", "id": "id=abc"}


@pytest.mark.parametrize(
    ("wrong", "status", "text"),
    [
        ((), 101, ""),
        (("token",), 403, "Unauthorized"),
        (("token", "version", "id"), 403, "Unauthorized"),
        (("version",), 409, "Unsupported client IPC version"),
        (("version", "id"), 409, "Unsupported client IPC version"),
        (("id",), 500, "Invalid IPC client id"),
    ],
)
def test_a_handshake_is_checked_in_this_order(
    wrong: tuple[str, ...], status: int, text: str
) -> None:
    relay = MemoryRelay(token=TOKEN)
    pairs = {**RIGHT, **{each: WRONG[each] for each in wrong}}
    response = relay.upgrade(f"/{DATABASE}/connect?{'&'.join(pairs.values())}").responses()[0]
    assert response.status == status
    if status != 101:
        assert response.text.strip() == text
        assert is_one_line(response)
    assert len(relay.server.get_clients(DATABASE)) == (status == 101)


@pytest.mark.parametrize("wrong", [(), ("version", "id"), ("token", "version", "id")])
def test_a_foreign_page_is_refused_before_version_and_id_are_looked_at(
    wrong: tuple[str, ...],
) -> None:
    pairs = {**RIGHT, **{each: WRONG[each] for each in wrong}}
    target = f"/{DATABASE}/connect?{'&'.join(pairs.values())}"
    assert join(MemoryRelay(token=TOKEN), target, origin="https://evil.example") == 403


def test_the_limit_on_connections_comes_last() -> None:
    relay = MemoryRelay(max_database_connections=1)
    relay.join_all("alice")
    assert join(relay, f"/{DATABASE}/connect?id=abc&v=1") == 500
    assert join(relay, f"/{DATABASE}/connect?id=bobby&v=1") == 503


def test_a_refused_client_is_no_peer() -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice")
    assert join(relay, f"/{DATABASE}/connect?id=bobby&v=2") == 409
    assert alice.received() == []


@pytest.mark.parametrize("query", ["", "?id=alice&v=1.0.0", "?id=abc"])
@pytest.mark.parametrize("headers", [{}, {"upgrade": "h2c", "connection": "Upgrade"}])
def test_connect_without_upgrade_is_426(query: str, headers: dict[str, str]) -> None:
    response = MemoryRelay().get(f"/{DATABASE}/connect{query}", **headers)
    assert response.status == 426
    assert response.headers["upgrade"].lower() == "websocket"
    assert is_one_line(response)


@pytest.mark.parametrize("upgrade", ["WebSocket", "websocket", "WEBSOCKET"])
def test_upgrade_is_recognised_in_any_case(upgrade: str) -> None:
    assert join(MemoryRelay(), f"/{DATABASE}/connect?id=alice&v=1", upgrade=upgrade) == 101


@pytest.mark.parametrize("v", ["v=1", "v=1.0.0", "v=1.99.3", "v=%31%2E0", "v=2&v=1.0", "v=1."])
def test_a_version_with_major_1_is_accepted(v: str) -> None:
    assert join(MemoryRelay(), f"/{DATABASE}/connect?id=alice&{v}&t=") == 101


@pytest.mark.parametrize("v", ["", "v", "v=", "v=2.0.0", "v=0.1", "v=10.0", "v=1&v=2", "V=1.0"])
def test_another_version_is_409(v: str) -> None:
    assert join(MemoryRelay(), f"/{DATABASE}/connect?id=alice&{v}&t=") == 409


@pytest.mark.parametrize(
    ("raw", "client_id"),
    [
        ("alice", "alice"),
        ("x" * 5, "xxxxx"),
        ("x" * 128, "x" * 128),
        (quote("漢" * 128), "漢" * 128),
        (quote("élève"), "élève"),
        ("%5Bmaster%5D", "[master]"),
        ("[master]", "[master]"),
        ("a+b+c", "a+b+c"),
        ("a%20b%2Bc", "a b+c"),
        ("abc=def==", "abc=def=="),
        ("%61lice", "alice"),
        ("bobby&id=alice", "alice"),
        ("1000%25", "1000%"),
        ("__proto__", "__proto__"),
        ("constructor", "constructor"),
    ],
)
def test_an_id_is_percent_decoded(raw: str, client_id: str) -> None:
    relay = MemoryRelay()
    assert join(relay, f"/{DATABASE}/connect?id={raw}&v=1.0.0&t=") == 101
    assert [each.id for each in relay.server.get_clients(DATABASE)] == [client_id]


@pytest.mark.parametrize(
    "client_id",
    [
        "",
        "id",
        "id=",
        "id=abcd",
        "id=" + "x" * 129,
        "id=abc;def",
        "id=abc%3Bdef",
        "id=abc%00def",
        "id=abc%0Adef",
        "id=abc%7Fdef",
        "id=abc%C2%85def",
        "id=alice&id=bob",
        "id=%C3%A9%C3%A9",
    ],
)
def test_an_id_that_cannot_be_used_is_500(client_id: str) -> None:
    relay = MemoryRelay()
    assert join(relay, f"/{DATABASE}/connect?{client_id}&v=1.0.0") == 500
    assert relay.server.get_clients(DATABASE) == ()


# Tokens


@pytest.mark.parametrize(
    ("token", "presented"),
    [
        ("secret", "secret"),
        ("c2VjcmV0==", "c2VjcmV0=="),
        ("c2VjcmV0==", "c2VjcmV0%3D%3D"),
        ("a+b", "a+b"),
        ("a+b", "a%2Bb"),
        ("a b", "a%20b"),
        ("a&b", "a%26b"),
        ("a/b?c", "a/b?c"),
        ("geheim漢字", quote("geheim漢字")),
    ],
)
def test_a_token_may_be_raw_or_encoded(token: str, presented: str) -> None:
    relay = MemoryRelay(token=token)
    assert join(relay, f"/{DATABASE}/connect?id=alice&v=1.0.0&t={presented}") == 101
    assert relay.get(f"/{DATABASE}/clients?t={presented}").status == OK


@pytest.mark.parametrize(
    "presented", ["", "&t=", "&t=secre", "&t=secrets", "&t=Secret", "&t=secret&t=", "&T=secret"]
)
def test_a_wrong_token_is_403_for_a_handshake_and_401_else(presented: str) -> None:
    relay = MemoryRelay(token="secret")
    alice = MemoryPeer("alice", relay.upgrade(f"/{DATABASE}/connect?id=alice&v=1&t=secret"))
    alice.received()
    assert join(relay, f"/{DATABASE}/connect?id=bobby&v=1.0.0{presented}") == 403
    for response in (
        relay.get(f"/{DATABASE}/clients?{presented}"),
        relay.get(f"/{DATABASE}/receive?id=alice&msg=x{presented}"),
        relay.post(f"/{DATABASE}/send?id=alice{presented}", "hello"),
        relay.post(f"/send?id=alice{presented}", "hello"),
        relay.get(f"/receive?id=alice&msg=x{presented}"),
    ):
        assert (response.status, response.text.strip()) == (401, "Unauthorized")
    assert alice.received() == []


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_may_come_as_a_bearer(scheme: str) -> None:
    relay = MemoryRelay(token=TOKEN)
    authorization = f"{scheme} {TOKEN}"
    assert join(relay, f"/{DATABASE}/connect?id=alice&v=1", authorization=authorization) == 101
    assert relay.get(f"/{DATABASE}/clients", authorization=authorization).status == OK
    sent = relay.post(f"/{DATABASE}/send?id=alice", "ping", authorization=authorization)
    assert sent.status == OK


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Bearer", f"Basic {TOKEN}", TOKEN])
def test_a_wrong_bearer_is_refused(authorization: str) -> None:
    relay = MemoryRelay(token=TOKEN)
    assert join(relay, f"/{DATABASE}/connect?id=alice&v=1", authorization=authorization) == 403
    assert relay.get(f"/{DATABASE}/clients", authorization=authorization).status == 401


@pytest.mark.parametrize("presented", ["", "&t=", "&t=undefined", "&t=whatever"])
def test_without_a_configured_token_any_is_accepted(presented: str) -> None:
    relay = MemoryRelay()
    assert join(relay, f"/{DATABASE}/connect?id=alice&v=1.0.0{presented}") == 101
    assert relay.get(f"/{DATABASE}/clients?{presented}").status == OK
    assert relay.post(f"/{DATABASE}/send?id=alice{presented}", "ping").status == OK


# Database names


@pytest.mark.parametrize(
    ("segment", "name"),
    [
        ("x", "x"),
        ("shop_data", "shop_data"),
        ("constructor", "constructor"),
        ("__proto__", "__proto__"),
        ("hasOwnProperty", "hasOwnProperty"),
        ("my%20db", "my db"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("a%2Fb", "a/b"),
        ("100%25", "100%"),
        ("send", "send"),
        ("connect", "connect"),
        ("..", ".."),
        ("%E6%BC%A2%F0%9F%8E%89", "漢🎉"),
        ("x" * 200, "x" * 200),
        (quote("漢" * 200), "漢" * 200),
    ],
)
def test_a_database_may_have_any_name(segment: str, name: str) -> None:
    relay = MemoryRelay()
    (other,) = relay.join_all("other", database="other_data")
    alice, bobby = relay.join_all("alice", "bobby", database=segment)
    assert [each.id for each in relay.server.get_clients(name)] == ["alice", "bobby"]
    alice.say("hello")
    assert bobby.received() == ["msg:hello"]
    assert relay.post(f"/{segment}/send?id=alice", "to:bobby;posted").status == OK
    assert bobby.received() == ["msg:posted"]
    clients = json.loads(relay.get(f"/{segment}/clients").text)
    assert [each["id"] for each in clients] == ["alice", "bobby"]
    bobby.leave()
    assert alice.received() == ["disconnect:bobby"]
    assert other.received() == []


@pytest.mark.parametrize("name", ["°C", "café"])
def test_a_name_may_come_in_raw_latin_1_as_node_posts_it(name: str) -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice", database=quote(name))
    wire = relay.connect()
    wire.send(
        http_request("POST", "/NAME/send?id=alice", b"ping").replace(
            b"NAME", name.encode("latin-1")
        )
    )
    assert wire.response().status == OK
    assert alice.received() == ["pong"]


@pytest.mark.parametrize("segment", ["x" * 201, "a%00b", "a%0Ab", "%7F", "%C2%85", "%FF", ""])
def test_a_name_that_no_database_can_have_is_refused(segment: str) -> None:
    relay = MemoryRelay()
    assert join(relay, f"/{segment}/connect?id=alice&v=1") == 400
    for response in (
        relay.get(f"/{segment}/clients"),
        relay.post(f"/{segment}/send?id=alice", "hello"),
        relay.get(f"/{segment}/receive?id=alice&msg=x"),
    ):
        assert response.status == 400
        assert is_one_line(response)


@pytest.mark.parametrize(("one", "two"), [("x", "x-y"), ("shop", "Shop"), ("x", "x%20")])
def test_databases_with_similar_names_are_apart(one: str, two: str) -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby", database=one)
    carol, david = relay.join_all("carol", "david", database=two)
    alice.say("hello")
    carol.say("to:bobby;hello")
    relay.post(f"/{one}/send?id=alice", "y" * 20_000)
    assert bobby.received()[0] == "msg:hello"
    assert carol.received() == david.received() == []


# POST /<db>/send


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ("hello", {"bobby": ["msg:hello"], "carol": ["msg:hello"]}),
        ("to:all;hello", {"bobby": ["msg:hello"], "carol": ["msg:hello"]}),
        ("to:bobby;hello", {"bobby": ["msg:hello"]}),
        ("to:alice;to myself", {"alice": ["msg:to myself"]}),
        ("to:nobody;hello", {}),
        ("ping", {"alice": ["pong"]}),
        ("漢字 🎉", {"bobby": ["msg:漢字 🎉"], "carol": ["msg:漢字 🎉"]}),
        ("", {"bobby": ["msg:"], "carol": ["msg:"]}),
    ],
)
def test_a_posted_message_is_relayed_like_any_other(
    message: str, heard: dict[str, list[str]]
) -> None:
    relay = MemoryRelay()
    peers = relay.join_all("alice", "bobby", "carol")
    response = relay.post(f"/{DATABASE}/send?id=alice", message)
    assert (response.status, response.text) == (OK, "ok")
    assert {each.id: each.received() for each in peers} == {
        each.id: heard.get(each.id, []) for each in peers
    }


@pytest.mark.parametrize("message", ["to:", "to:bobby", "to:;hello", "to:" + "x" * 300])
def test_a_posted_message_with_a_malformed_address_is_400(message: str) -> None:
    relay = MemoryRelay(max_payload=100)
    alice, bobby = relay.join_all("alice", "bobby")
    response = relay.post(f"/{DATABASE}/send?id=alice", message)
    assert response.status == 400
    assert is_one_line(response)
    assert alice.frames() == bobby.frames() == []
    assert alice.connection.ended is None


@pytest.mark.parametrize("message", [b"\xff", b"hello \xc3", b"x" * 200 + b"\xed\xa0\x80"])
def test_a_posted_message_that_is_not_utf8_is_400(message: bytes) -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    response = relay.post(f"/{DATABASE}/send?id=alice", message)
    assert response.status == 400
    assert is_one_line(response)
    assert bobby.received() == []


@pytest.mark.parametrize("query", ["", "?id=", "?id=bob", "?id=other", "?id=%FF%FF%FF%FF%FF"])
def test_an_id_that_is_no_peer_of_the_database_is_401(query: str) -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    relay.join_all("other", database="other_data")
    separator = "&" if query else "?"
    for response in (
        relay.post(f"/{DATABASE}/send{query}", "hello"),
        relay.get(f"/{DATABASE}/receive{query}{separator}msg=x"),
        relay.post(f"/unknown_data/send{query}", "hello"),
    ):
        assert (response.status, response.text.strip()) == (401, "Unauthorized")
    assert bobby.received() == []


def test_a_peer_that_has_left_is_401() -> None:
    relay = MemoryRelay()
    alice, _ = relay.join_all("alice", "bobby")
    alice.leave()
    assert relay.post(f"/{DATABASE}/send?id=alice", "hello").status == 401


def test_a_post_may_exceed_max_payload_and_others_download_it() -> None:
    relay = MemoryRelay(max_payload=100)
    alice, bobby = relay.join_all("alice", "bobby")
    assert relay.post(f"/{DATABASE}/send?id=alice", BODY).status == OK
    response = relay.get(f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}")
    assert (response.status, response.text) == (OK, BODY)
    assert response.headers["content-type"].lower().replace(" ", "") == "text/plain;charset=utf-8"
    assert response.headers["content-length"] == str(len(BODY))
    assert alice.received() == []


@pytest.mark.parametrize(
    ("body", "large"),
    [
        ("x" * 100, False),
        ("x" * 101, True),
        ("漢" * 100, False),
        ("漢" * 101, True),
        ("🎉" * 50, False),
        ("🎉" * 50 + "x", True),
    ],
)
@pytest.mark.parametrize("prefix", ["", "to:bobby;"])
def test_a_body_above_max_payload_is_announced_and_others_are_sent(
    body: str, large: bool, prefix: str
) -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", prefix + body)
    if large:
        target = f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}"
        assert relay.get(target).text == body
    else:
        assert bobby.received() == [f"msg:{body}"]


def test_an_acebase_peer_receives_a_large_body_inline() -> None:
    relay = MemoryRelay(max_payload=100, introductions=False)
    alice, bobby = relay.join_all("alice", "bobby")
    carol = relay.join("carol", query="&dialect=acebase")
    bobby.received()
    relay.post(f"/{DATABASE}/send?id=alice", "{" + BODY)
    assert carol.received() == ["{" + BODY]
    assert len(announced(bobby)) > 20
    assert alice.received() == ["connect:carol"]


def test_a_large_message_to_nobody_is_accepted_and_dropped() -> None:
    relay = MemoryRelay(max_payload=100, max_stored=1000)
    (alice,) = relay.join_all("alice")
    for message in [BODY, f"to:nobody;{BODY}"] * 10:
        assert relay.post(f"/{DATABASE}/send?id=alice", message).status == OK
    assert alice.received() == []


def test_posts_one_after_the_other_arrive_in_order_with_the_messages_between() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    for number in range(0, 20, 2):
        assert relay.post(f"/{DATABASE}/send?id=alice", str(number)).status == OK
        alice.say(str(number + 1))
    assert bobby.received() == [f"msg:{each}" for each in range(20)]


# GET /<db>/receive


@pytest.mark.parametrize("key", ["msg", "msgId"])
def test_each_recipient_can_download_a_message_and_repeat_that_for_10_s(key: str) -> None:
    relay = MemoryRelay(max_payload=100)
    relay.join_all("alice", "bobby", "carol")
    _, bobby, carol = relay.join_all("alice", "bobby", "carol")
    relay.post(f"/{DATABASE}/send?id=alice", BODY)
    for peer in (bobby, carol):
        target = f"/{DATABASE}/receive?id={peer.id}&{key}={announced(peer)}"
        assert relay.get(target).text == BODY
        relay.pass_time(9)
        assert relay.get(target).text == BODY  # the first may have been lost on its way
        relay.pass_time(2)
        again = relay.get(target)
        assert again.status == 404
        assert is_one_line(again)


def begin_download(relay: MemoryRelay, target: str, room: int = 0) -> MemoryConnection:
    """A download of which *room* bytes are read."""
    wire = relay.connect()
    wire.stop_reading(room)
    wire.send(http_request("GET", target))
    return wire


def test_of_several_downloads_at_once_a_peer_gets_one() -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", "x" * 2_000_000)
    target = f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}"
    wires = [begin_download(relay, target) for _ in range(5)]
    assert [each.ended for each in wires] == ["reset"] * 4 + [None]
    wires[-1].resume_reading()
    assert wires[-1].response().text == "x" * 2_000_000


def test_downloads_share_their_body() -> None:
    """What each holds of its own is bounded by what the transport buffers."""
    relay = MemoryRelay()
    names = [f"peer{each}" for each in range(20)]
    _, *peers = relay.join_all("alice", *names)
    body = b"x" * 4_000_000
    relay.post(f"/{DATABASE}/send?id=alice", body)
    targets = [f"/{DATABASE}/receive?id={each.id}&msg={announced(each)}" for each in peers]
    tracemalloc.start()
    try:
        wires = [begin_download(relay, each) for each in targets]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * 300_000
    for each in wires:
        each.resume_reading()
        assert each.response().body == body


def test_a_body_counts_until_its_last_download_has_ended() -> None:
    relay = MemoryRelay(message_ttl=10)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", "x" * 2_000_000)
    target = f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}"
    wire = begin_download(relay, target)
    relay.pass_time(12)
    assert relay.get(target).status == 404
    assert relay.server._parts.relay.store.stored == 2_000_000
    wire.reset()
    assert relay.server._parts.relay.store.stored == 0


def test_nobody_else_can_download_a_message() -> None:
    relay = MemoryRelay(max_payload=100)
    alice, bobby, carol = relay.join_all("alice", "bobby", "carol")
    (foreign,) = relay.join_all("bobby", database="other_data")
    relay.post(f"/{DATABASE}/send?id=alice", f"to:bobby;{BODY}")
    message = announced(bobby)
    for database, client_id in [
        (DATABASE, "alice"),
        (DATABASE, "carol"),
        ("other_data", "bobby"),
    ]:
        response = relay.get(f"/{database}/receive?id={client_id}&msg={message}")
        assert response.status == 404
        assert BODY not in response.text
    assert alice.received() == carol.received() == foreign.received() == []
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={message}").text == BODY


@pytest.mark.parametrize("query", ["", "&msg=", "&msg=unknown", "&msg=%FF", "&msgId=unknown"])
def test_an_unknown_message_is_404(query: str) -> None:
    relay = MemoryRelay()
    relay.join_all("alice")
    response = relay.get(f"/{DATABASE}/receive?id=alice{query}")
    assert response.status == 404
    assert is_one_line(response)


def test_ids_of_messages_are_unguessable() -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    messages = set()
    for _ in range(20):
        relay.post(f"/{DATABASE}/send?id=alice", BODY)
        messages.add(announced(bobby))
    assert len(messages) == 20
    assert all(re.fullmatch(r"[\w-]{22,}", each, re.ASCII) for each in messages)


def test_a_message_is_gone_60_s_after_it_was_announced() -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", BODY)
    first = announced(bobby)
    relay.pass_time(30)
    relay.post(f"/{DATABASE}/send?id=alice", BODY)
    second = announced(bobby)
    relay.pass_time(29)
    # A download that is not complete does not prolong it.
    assert relay.get(f"/{DATABASE}/clients").status == OK
    relay.pass_time(2)
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={first}").status == 404
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={second}").status == OK


def test_a_message_waits_for_message_ttl() -> None:
    relay = MemoryRelay(max_payload=100, message_ttl=10)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", BODY)
    relay.post(f"/{DATABASE}/send?id=alice", BODY)
    first, second = (each.removeprefix("get:") for each in bobby.received())
    relay.pass_time(8.5)
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={first}").status == OK
    relay.pass_time(3)
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={second}").status == 404


def test_a_message_goes_with_its_recipient() -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", BODY)
    message = announced(bobby)
    bobby.leave()
    relay.join("bobby")
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={message}").status == 404


def test_a_message_survives_its_sender() -> None:
    relay = MemoryRelay(max_payload=100)
    alice, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", BODY)
    message = announced(bobby)
    alice.leave()
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={message}").text == BODY


def test_a_large_download_comes_whole() -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    body = "漢字🎉x" * 100_000  # 1.1 MB
    relay.post(f"/{DATABASE}/send?id=alice", body)
    assert relay.get(f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}").text == body


def test_others_are_served_while_a_download_waits_for_its_client() -> None:
    relay = MemoryRelay()
    alice, bobby = relay.join_all("alice", "bobby")
    body = "x" * 2_000_000
    relay.post(f"/{DATABASE}/send?id=alice", body)
    wire = relay.connect()
    wire.stop_reading()
    target = f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}"
    wire.send(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    alice.say("hello")
    assert bobby.received() == ["msg:hello"]
    assert relay.get(f"/{DATABASE}/clients").status == OK
    for _ in range(30):
        wire.resume_reading(room=50_000)
    wire.resume_reading()
    assert wire.response().text == body


@pytest.mark.parametrize(("size", "read"), [(2_000_000, 0), (2_000_000, 300_000), (20_000, 1000)])
def test_a_broken_download_may_be_repeated(size: int, read: int) -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    body = "x" * size
    relay.post(f"/{DATABASE}/send?id=alice", body)
    target = f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}"
    for _ in range(3):
        begin_download(relay, target, read).reset()
        relay.pass_time(3)
    assert relay.get(target).text == body


def test_a_download_that_breaks_in_the_kernels_buffer_may_be_repeated() -> None:
    """All of it was written, though the client has not read it."""
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    relay.post(f"/{DATABASE}/send?id=alice", "x" * 300_000)
    target = f"/{DATABASE}/receive?id=bobby&msg={announced(bobby)}"
    wire = relay.connect()
    wire.send(http_request("GET", target))
    wire.reset()
    assert relay.get(target).text == "x" * 300_000


@pytest.mark.parametrize("size", [200, 100_000, 700_000])
def test_a_connection_is_of_use_after_a_download(size: int) -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    for character in "xyz":
        relay.post(f"/{DATABASE}/send?id=alice", character * size)
    messages = [each.removeprefix("get:") for each in bobby.received()]
    targets = [f"/{DATABASE}/receive?id=bobby&msg={each}" for each in messages]
    wire = relay.connect()
    wire.send(http_request("GET", targets[0]))
    assert wire.response().text == "x" * size
    wire.send(b"".join(http_request("GET", each) for each in (*targets, f"/{DATABASE}/clients")))
    first, second, third, clients = wire.responses()
    assert (first.text, second.text, third.text) == ("x" * size, "y" * size, "z" * size)
    assert clients.status == OK
    assert wire.ended is None


# Without the database's name


def test_the_database_need_not_be_named_if_the_id_is_unique() -> None:
    relay = MemoryRelay(max_payload=100)
    _, bobby = relay.join_all("alice", "bobby")
    relay.join_all("other", database="other_data")
    response = relay.post("/send?id=alice", f"to:bobby;{BODY}")
    assert (response.status, response.text) == (OK, "ok")
    assert relay.get(f"/receive?id=bobby&msg={announced(bobby)}").text == BODY


def test_without_a_name_an_unknown_id_is_404_and_an_ambiguous_one_409() -> None:
    relay = MemoryRelay()
    one, _ = relay.join_all("alice", "bobby")
    two, _ = relay.join_all("alice", "carol", database="other_data")
    for client_id, status in [("nobody", 404), ("", 404), ("alice", 409), ("bobby", 200)]:
        response = relay.post(f"/send?id={client_id}", "hello")
        assert response.status == status
        assert status == OK or is_one_line(response)
        status = 404 if status == OK else status
        assert relay.get(f"/receive?id={client_id}&msg=x").status == status
    assert one.received() == ["msg:hello"]
    assert two.received() == []


# GET /<db>/clients


def test_clients_are_listed_with_the_time_they_connected() -> None:
    relay = MemoryRelay()
    relay.pass_time(1.5)
    relay.join_all("alice")
    relay.pass_time(2)
    relay.join_all(quote("élève"))
    relay.join_all("other", database="other_data")
    response = relay.get(f"/{DATABASE}/clients")
    assert response.status == OK
    assert response.headers["content-type"].startswith("application/json")
    assert json.loads(response.text) == [
        {"id": "alice", "connected": START * 1000 + 1500},
        {"id": "élève", "connected": START * 1000 + 3500},
    ]


def test_a_database_without_clients_has_an_empty_list() -> None:
    relay = MemoryRelay()
    (alice,) = relay.join_all("alice")
    alice.leave()
    for name in (DATABASE, "never_seen"):
        response = relay.get(f"/{name}/clients")
        assert (response.status, response.text) == (OK, "[]")


# Unknown paths and methods


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/nothing",
        "/clients",
        "/connect",
        "/connect?id=alice&v=1",
        f"/{DATABASE}",
        f"/{DATABASE}/",
        f"/{DATABASE}/nothing",
        f"/{DATABASE}/send/",
        f"/{DATABASE}/send/more",
        f"/{DATABASE}/connect/more",
        f"/{DATABASE}/a/b/c",
        f"/{DATABASE}/SEND",
        "/favicon.ico",
    ],
)
def test_an_unknown_path_is_404(target: str) -> None:
    relay = MemoryRelay()
    for method, body in [("GET", b""), ("POST", b"body"), ("DELETE", b""), ("PUT", b"body")]:
        response = relay.request(method, target, body)
        assert response.status == 404
        assert is_one_line(response)


@pytest.mark.parametrize(
    ("target", "right"),
    [
        (f"/{DATABASE}/connect?id=alice&v=1", "GET"),
        (f"/{DATABASE}/send?id=alice", "POST"),
        (f"/{DATABASE}/receive?id=alice&msg=x", "GET"),
        (f"/{DATABASE}/clients", "GET"),
        ("/send?id=alice", "POST"),
        ("/receive?id=alice&msg=x", "GET"),
    ],
)
def test_a_wrong_method_is_405_with_allow(target: str, right: str) -> None:
    relay = MemoryRelay()
    _, bobby = relay.join_all("alice", "bobby")
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "BREW"} - {right}:
        response = relay.request(method, target, b"hello" if method != "GET" else b"")
        assert response.status == 405
        assert right in re.split(", *", response.headers["allow"])
        assert method not in re.split(", *", response.headers["allow"])
        assert is_one_line(response)
    assert bobby.received() == []


@pytest.mark.parametrize(
    "target", [f"/{DATABASE}/clients", f"/{DATABASE}/nothing", f"/{DATABASE}/send?id=alice"]
)
def test_a_head_request_is_answered_without_a_body(target: str) -> None:
    wire = MemoryRelay().connect()
    wire.send(f"HEAD {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head, end, body = wire.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    assert (end, body) == (b"\r\n\r\n", b"")


# Browsers

ORIGIN = "https://app.example"
PATHS = [
    "/",
    "/nothing",
    f"/{DATABASE}/nothing",
    f"/{DATABASE}/connect?id=bobby&v=1",
    f"/{DATABASE}/send?id=alice",
    f"/{DATABASE}/receive?id=alice&msg=x",
    f"/{DATABASE}/clients",
    "/send?id=alice",
    "/receive?id=alice&msg=x",
    "/a%00b/clients",
    f"/{DATABASE}",
]


@pytest.mark.parametrize("target", PATHS)
@pytest.mark.parametrize("origins", [(), (ORIGIN,)])
def test_a_foreign_page_is_refused_on_every_path(target: str, origins: tuple[str, ...]) -> None:
    relay = MemoryRelay(allow_origins=origins)
    alice, carol = relay.join_all("alice", "carol")
    for method in ("GET", "POST", "OPTIONS", "DELETE"):
        for origin in ("https://evil.example", "null"):
            response = relay.request(method, target, b"x" * (method == "POST"), origin=origin)
            assert response.status == 403
            assert "access-control-allow-origin" not in response.headers
            assert is_one_line(response)
    assert alice.received() == carol.received() == []


@pytest.mark.parametrize(
    ("configured", "origin"),
    [
        (ORIGIN, ORIGIN),
        (ORIGIN + "/", ORIGIN),
        ("HTTPS://App.Example", ORIGIN),
        ("http://localhost:8080", "http://localhost:8080"),
        ("*", "https://any.example:8443"),
        ("*", "null"),
        ("null", "null"),
    ],
)
def test_an_allowed_page_may_send_and_read_answers(configured: str, origin: str) -> None:
    relay = MemoryRelay(allow_origins=(configured, "https://another.example"))
    relay.join_all("alice")
    for response in (
        relay.get(f"/{DATABASE}/clients", origin=origin),
        relay.post(f"/{DATABASE}/send?id=alice", "ping", origin=origin),
    ):
        assert response.status == OK
        assert response.headers["access-control-allow-origin"] == origin
        assert "origin" in response.headers["vary"].lower()


@pytest.mark.parametrize("configured", [ORIGIN, "*"])
def test_an_allowed_page_may_connect(configured: str) -> None:
    relay = MemoryRelay(allow_origins=(configured,))
    assert join(relay, f"/{DATABASE}/connect?id=alice&v=1", origin=ORIGIN) == 101


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evil.example/https://app.example",
        "https://app.example, https://evil.example",
    ],
)
def test_an_origin_must_match_as_a_whole(origin: str) -> None:
    relay = MemoryRelay(allow_origins=(ORIGIN,))
    assert relay.get(f"/{DATABASE}/clients", origin=origin).status == 403
    assert join(relay, f"/{DATABASE}/connect?id=alice&v=1", origin=origin) == 403


def test_a_page_hears_why_it_was_refused() -> None:
    relay = MemoryRelay(allow_origins=(ORIGIN,))
    for response in (
        relay.post(f"/{DATABASE}/send?id=nobody", "hello", origin=ORIGIN),
        relay.get(f"/{DATABASE}/send", origin=ORIGIN),
        relay.get("/nothing", origin=ORIGIN),
    ):
        assert response.status in (401, 404, 405)
        assert response.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize(
    ("target", "method"),
    [
        (f"/{DATABASE}/send?id=alice", "POST"),
        (f"/{DATABASE}/receive?id=alice&msg=x", "GET"),
        (f"/{DATABASE}/clients", "GET"),
        ("/send?id=alice", "POST"),
    ],
)
def test_a_preflight_is_answered(target: str, method: str) -> None:
    relay = MemoryRelay(allow_origins=(ORIGIN,), token=TOKEN)
    response = relay.request(
        "OPTIONS",
        target,
        origin=ORIGIN,
        access_control_request_method=method,
        access_control_request_headers="authorization",
    )
    assert response.status in (200, 204)
    headers = response.headers
    assert headers["access-control-allow-origin"] == ORIGIN
    assert method in re.split(", *", headers["access-control-allow-methods"])
    assert "authorization" in re.split(", *", headers["access-control-allow-headers"].lower())
    assert "origin" in headers["vary"].lower()


def test_options_without_an_origin_tell_the_methods() -> None:
    response = MemoryRelay().request("OPTIONS", f"/{DATABASE}/send")
    assert response.status in (200, 204)
    assert "POST" in re.split(", *", response.headers["allow"])
    assert "access-control-allow-origin" not in response.headers


def test_a_client_without_an_origin_gets_no_cors_headers() -> None:
    relay = MemoryRelay(allow_origins=("*",))
    response = relay.get(f"/{DATABASE}/clients")
    assert not [each for each in response.headers if each.startswith("access-control")]


# Behind a proxy


def test_tls_at_a_proxy_with_a_small_max_payload_is_warned_of_once() -> None:
    relay = MemoryRelay()
    for _ in range(2):
        join(relay, f"/{DATABASE}/connect?id=alice&v=1", x_forwarded_proto="https")
    (line,) = relay.logged("16 MiB")
    assert "16384" in line


@pytest.mark.parametrize(
    ("max_payload", "headers"), [(16 << 20, {"x_forwarded_proto": "https"}), (None, {})]
)
def test_there_is_no_warning_without_need(max_payload: int | None, headers: dict[str, str]) -> None:
    relay = MemoryRelay(max_payload=max_payload)
    assert join(relay, f"/{DATABASE}/connect?id=alice&v=1", **headers) == 101
    assert relay.logged("16 MiB") == []
