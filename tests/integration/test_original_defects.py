"""What the original server gets wrong, each defect as a test of what is right.

The original, the ``acebase-ipc-server`` package for Node.js, is what the npm package acebase was
written for. All is asked of a real process.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
import pytest_twisted

from tests.integration.peers import Closed, Peers
from tests.integration.raw import RawClient, post_head
from tests.integration.relay_process import RelayProcess, running_relay
from tests.integration.web import Answer, Web

MAX_PAYLOAD = 16384
TOKEN = "a+b/c=="

OK = Answer(200, "ok")

pytestmark = pytest.mark.usefixtures("alive")


@pytest.fixture(scope="module")
def guarded() -> Iterator[RelayProcess]:
    """A relay with a token."""
    with running_relay(options=("--token", TOKEN)) as relay:
        yield relay


@pytest.fixture
def alive(plain: RelayProcess) -> Iterator[None]:
    """Make sure that the relay has survived the test."""
    yield
    with RawClient(plain.address) as client:
        assert client.upgrade("/health/connect?id=after&v=1").startswith(b"HTTP/1.1 101 ")
    assert "Traceback" not in plain.log


# It aborts on the first POST


@pytest_twisted.ensureDeferred
async def test_the_first_post_of_a_new_process_is_relayed(peers: Peers) -> None:
    with running_relay() as fresh:
        sender = await peers.join(fresh.address, "sender")
        reader = await peers.join(fresh.address, "reader")

        assert await Web(fresh.address).post("/library/send", "hello", id="sender") == OK

        assert await reader.next() == "msg:hello"
        assert await sender.received() == ["connect:reader"]
        await peers.leave()


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest_twisted.ensureDeferred
async def test_of_a_post_that_breaks_off_nothing_is_relayed(
    plain: RelayProcess, peers: Peers, framing: str
) -> None:
    sender = await peers.join(plain.address, "sender")
    reader = await peers.join(plain.address, "reader")
    with RawClient(plain.address) as broken:
        broken.send(post_head("/library/send?id=sender", framing) + b"3\r\nabc\r\n")
        await sender.received()
    assert await Web(plain.address).post("/library/send", "whole", id="sender") == OK

    assert await reader.received() == ["msg:whole"]


# It dies on a database called constructor


@pytest.mark.parametrize(
    "name",
    ["constructor", "__proto__", "toString", "hasOwnProperty", "a name", "漢字", "a;b", "100%"],
)
@pytest_twisted.ensureDeferred
async def test_a_database_may_have_any_name(plain: RelayProcess, peers: Peers, name: str) -> None:
    first = await peers.join(plain.address, "first", name)
    second = await peers.join(plain.address, "second", name)

    second.tell("to:first;hello")

    assert await first.take(2) == ["connect:second", "msg:hello"]


@pytest.mark.parametrize("peer_id", ["constructor", "__proto__", "toString"])
@pytest_twisted.ensureDeferred
async def test_a_peer_may_have_any_name(plain: RelayProcess, peers: Peers, peer_id: str) -> None:
    first = await peers.join(plain.address, peer_id)
    second = await peers.join(plain.address, "second")

    second.tell(f"to:{peer_id};hello")

    assert await first.take(2) == ["connect:second", "msg:hello"]


# It announces joins and departures to all databases


@pytest_twisted.ensureDeferred
async def test_joins_and_departures_are_announced_within_the_database_only(
    plain: RelayProcess, peers: Peers
) -> None:
    others = [
        await peers.join(plain.address, "[master]", "database-1"),
        await peers.join(plain.address, "worker", "database-2"),
    ]
    witness = await peers.join(plain.address, "witness", "database-3")
    master = await peers.join(plain.address, "[master]", "database-3")
    master.tell("hello")
    assert await master.received() == []
    master.vanish()

    assert await witness.take(3) == ["connect:[master]", "msg:hello", "disconnect:[master]"]
    assert await witness.received() == []
    assert [await each.received() for each in others] == [[], []]


# A large broadcast can be downloaded only once, by anyone of any database


@pytest_twisted.ensureDeferred
async def test_every_recipient_of_a_large_broadcast_and_nobody_else_downloads_it(
    plain: RelayProcess, peers: Peers
) -> None:
    sender = await peers.join(plain.address, "sender")
    readers = [await peers.join(plain.address, f"reader {number}") for number in range(3)]
    await peers.join(plain.address, "reader 0", "another database")
    web, large = Web(plain.address), "漢字 " * MAX_PAYLOAD

    assert await web.post("/library/send", large, id="sender") == OK
    announced = [(await each.received())[-1] for each in readers]
    assert len(set(announced)) == 1
    message = announced[0].removeprefix("get:")
    for database, thief in [
        ("library", "sender"),
        ("library", "nobody"),
        ("another%20database", "reader 0"),
    ]:
        refused = await web.get(f"/{database}/receive", id=thief, msg=message)
        assert refused.status in (401, 404)
    for each in readers:
        assert await web.get("/library/receive", id=each.id, msg=message) == Answer(200, large)
        again = await web.get("/library/receive", id=each.id, msg=message)
        assert again == Answer(200, large)  # for 10 s, as the first may have been lost
    assert await sender.received() == [f"connect:{each.id}" for each in readers]


# It drops messages above 1 MiB of back pressure


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_gets_everything_in_order(plain: RelayProcess, peers: Peers) -> None:
    sender = await peers.join(plain.address, "sender")
    slow = await peers.join(plain.address, "slow reader")
    quick = await peers.join(plain.address, "quick reader")
    messages = [f"{number:04}" * (MAX_PAYLOAD // 4) for number in range(1000)]
    slow.transport.pauseProducing()
    for message in messages:  # 16 MiB
        sender.tell(message)
    await sender.received()
    expected = [f"msg:{message}" for message in messages]

    assert await quick.take(len(messages)) == expected
    slow.transport.resumeProducing()

    assert await slow.next() == "connect:quick reader"
    assert await slow.take(len(messages)) == expected


# It cuts a client that sends non-ASCII text between a third of maxPayload and the whole


@pytest.mark.parametrize("character", ["é", "漢", "\N{GRINNING FACE}"])
@pytest_twisted.ensureDeferred
async def test_max_payload_counts_utf_16_units(
    plain: RelayProcess, peers: Peers, character: str
) -> None:
    sender = await peers.join(plain.address, "sender")
    reader = await peers.join(plain.address, "reader")
    units = len(character.encode("utf-16-le")) // 2
    largest = character * (MAX_PAYLOAD // units)

    sender.tell(largest)
    assert await reader.next() == f"msg:{largest}"
    sender.tell(largest + "x")
    assert (await sender.closed()).code == 1009
    assert await reader.received() == ["disconnect:sender"]


# It garbles characters split across the chunks of a POST


@pytest_twisted.ensureDeferred
async def test_characters_split_across_chunks_stay_whole(plain: RelayProcess, peers: Peers) -> None:
    await peers.join(plain.address, "sender")
    reader = await peers.join(plain.address, "reader")
    text = "é 漢字 \N{GRINNING FACE} ünïcode"
    with RawClient(plain.address) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(post_head("/library/send?id=sender", "Transfer-Encoding: chunked"))
        for byte in text.encode():
            client.send(b"1\r\n" + bytes([byte]) + b"\r\n")
            assert await reader.received() == []  # so that each byte arrives alone
        client.send(b"0\r\n\r\n")
        assert client.read_answer() == (200, "ok")

    assert await reader.received() == [f"msg:{text}"]


# Its list of clients needs no token


@pytest_twisted.ensureDeferred
async def test_the_list_of_clients_needs_the_token(guarded: RelayProcess, peers: Peers) -> None:
    await peers.join(guarded.address, "first", t=TOKEN)
    web = Web(guarded.address)

    assert await web.get("/library/clients") == Answer(401, "Unauthorized")
    listed = json.loads((await web.get("/library/clients", t=TOKEN)).text)
    assert [each["id"] for each in listed] == ["first"]
    assert (await web.get("/clients", t=TOKEN)).status == 404


# The topics of a database x-y and of a database x collide


@pytest_twisted.ensureDeferred
async def test_databases_and_peers_whose_names_join_to_the_same_are_distinct(
    plain: RelayProcess, peers: Peers
) -> None:
    one = await peers.join(plain.address, "y-worker", "x")
    two = await peers.join(plain.address, "worker", "x-y")
    in_x = await peers.join(plain.address, "sender", "x")
    in_x_y = await peers.join(plain.address, "sender", "x-y")

    in_x.tell("to:y-worker;for x")
    in_x.tell("to all of x")
    in_x_y.tell("to:worker;for x-y")
    in_x_y.tell("to all of x-y")
    await in_x.received()
    await in_x_y.received()

    assert await one.received() == ["connect:sender", "msg:for x", "msg:to all of x"]
    assert await two.received() == ["connect:sender", "msg:for x-y", "msg:to all of x-y"]


# A body may forge disconnect:x


@pytest.mark.parametrize("dialect", ["documented", "acebase"])
@pytest.mark.parametrize(
    "forged", ["disconnect:victim", "connect:victim", "pong", "get:1", 'welcome:{"maxPayload":1}']
)
@pytest_twisted.ensureDeferred
async def test_a_body_cannot_forge_what_only_the_relay_says(
    plain: RelayProcess, peers: Peers, forged: str, dialect: str
) -> None:
    reader = await peers.join(plain.address, "reader", dialect=dialect)
    sender = await peers.join(plain.address, "sender")

    sender.tell(forged)
    sender.tell(f"to:reader;{forged}")
    assert await Web(plain.address).post("/library/send", forged, id="sender") == OK

    assert await reader.take(4) == ["connect:sender", *[f"msg:{forged}"] * 3]


# to: without ; loses a character


@pytest.mark.parametrize("message", ["to:reader", "to:", "to:;hello", "to:reader hello"])
@pytest_twisted.ensureDeferred
async def test_an_address_without_its_end_is_refused_and_nothing_is_delivered(
    plain: RelayProcess, peers: Peers, message: str
) -> None:
    reader = await peers.join(plain.address, "reader")
    sender = await peers.join(plain.address, "sender")

    refused = await Web(plain.address).post("/library/send", message, id="sender")
    sender.tell(message)

    assert refused.status == 400
    assert await sender.closed() == Closed(1008, refused.text)
    assert await reader.take(2) == ["connect:sender", "disconnect:sender"]
    assert await reader.received() == []


# Query values are not decoded and end at the second =


@pytest.mark.parametrize("token", ["a+b/c==", "a%2Bb%2Fc%3D%3D", "a%2bb/c=%3D"])
@pytest_twisted.ensureDeferred
async def test_a_token_works_raw_and_encoded(
    guarded: RelayProcess, peers: Peers, token: str
) -> None:
    target = f"/library/connect?id=first&v=1.0.0&t={token}"
    peer = await peers.connect_to(guarded.address, target)

    assert await peer.next() == 'welcome:{"maxPayload":16384}'


@pytest_twisted.ensureDeferred
async def test_ids_and_databases_are_decoded(plain: RelayProcess, peers: Peers) -> None:
    witness = await peers.join(plain.address, "witness", "my library=1")
    target = "/my%20library%3D1/connect?id=caf%C3%A9=%5B+%5D&v=1.0.0"
    peer = await peers.connect_to(plain.address, target)

    assert await witness.next() == "connect:café=[+]"
    witness.tell("to:café=[+];hello")
    assert await peer.take(2) == ['welcome:{"maxPayload":16384}', "msg:hello"]


# It binds all interfaces whatever host says


def test_it_listens_on_the_address_it_was_given_only(plain: RelayProcess) -> None:
    """All of 127.0.0.0/8 is loopback where that is possible at all."""
    elsewhere = ("127.0.0.2", plain.address.port)

    with pytest.raises(OSError, match=r"refused|assign|unreachable"):
        socket.create_connection(elsewhere, timeout=5)
