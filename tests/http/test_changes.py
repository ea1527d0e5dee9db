"""``GET /<db>/changes``: the stream of changes, as a reader in any language sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from acebase_ipc.testing import AceBaseMemoryPeer, MemoryConnection, MemoryRelay, http_request
from acebase_ipc.testing.relay import DATABASE
from tests.relay.locks import worker_id

URL = f"/{DATABASE}/changes?path=orders"


class Events:
    """A reader of a stream, and what it has not looked at."""

    def __init__(self, relay: MemoryRelay, target: str = URL, **headers: str) -> None:
        self.connection: MemoryConnection = relay.connect()
        self.connection.send(http_request("GET", target, **headers))
        self.head, _, rest = self.connection.take().partition(b"\r\n\r\n")
        self._unread = self._unchunk(rest) if self.status == 200 else b""

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @staticmethod
    def _unchunk(data: bytes) -> bytes:
        text = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            text, data = text + data[: int(size, 16)], data[int(size, 16) + 2 :]
        return text

    def read(self) -> list[dict[str, str]]:
        """The events that have come, each as its fields."""
        self._unread += self._unchunk(self.connection.take())
        *blocks, self._unread = self._unread.split(b"\n\n")
        fields = [
            dict(line.split(": ", 1) for line in block.decode().split("\n") if line[:1] != ":")
            for block in blocks
        ]
        return [each for each in fields if each and "retry" not in each]


def change(worker: AceBaseMemoryPeer, value: Any, to: str, path: str = "orders") -> None:
    data = {"path": path, "val": value, "context": {}}
    worker.say_envelope("event", to=to, path=path, event="mutations", data=data)


class Shop:
    """A relay that keeps a history, and a worker that answers its greetings."""

    def __init__(self, **options: Any) -> None:
        self.relay = MemoryRelay(**{"history_messages": 100, **options})
        self.worker = self.relay.join_acebase(worker_id(1), token=options.get("token", "none"))
        self.worker.envelopes()
        self.id = ""

    def answers(self) -> None:
        (self.id,) = (each["from"] for each in self.worker.envelopes() if each["type"] == "hello")
        self.worker.say_envelope("hello", to=self.id)

    def change(self, value: Any) -> None:
        change(self.worker, value, self.id)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def values(events: list[dict[str, str]]) -> list[Any]:
    return [json.loads(each["data"])["data"]["val"] for each in events]


def test_changes_come_as_they_happen(shop: Shop) -> None:
    reader = Events(shop.relay)
    assert reader.status == 200
    assert b"text/event-stream" in reader.head
    assert reader.read() == []
    shop.answers()
    (ready,) = reader.read()
    assert ready["event"] == "ready"
    shop.change("tea")
    shop.change("a line\nand another")
    events = reader.read()
    assert values(events) == ["tea", "a line\nand another"]
    assert len({ready["id"], *(each["id"] for each in events)}) == 3
    shop.relay.stop()


@pytest.mark.parametrize("header", [False, True])
def test_a_reader_goes_on_from_its_cursor(shop: Shop, header: bool) -> None:
    reader = Events(shop.relay)
    shop.answers()
    shop.change(1)
    _, first = reader.read()
    reader.connection.close()
    for each in (2, 3):
        shop.change(each)
    if header:
        again = Events(shop.relay, URL + "&since=old", **{"Last-Event-ID": first["id"]})
    else:
        again = Events(shop.relay, f"{URL}&since={first['id']}")
    ready, *events = again.read()
    assert ready == {"event": "ready", "id": first["id"], "data": "{}"}
    assert values(events) == [2, 3]
    shop.change(4)
    assert values(again.read()) == [4]


def test_a_reader_is_told_of_a_gap_and_the_stream_ends(shop: Shop) -> None:
    reader = Events(shop.relay)
    shop.answers()
    shop.change(1)
    _, first = reader.read()
    shop.worker.lose()
    assert [each["event"] for each in reader.read()] == ["gap"]
    again = Events(shop.relay, f"{URL}&since={first['id']}")
    assert again.status == 410


def test_a_message_that_is_refused_makes_a_gap() -> None:
    shop = Shop(max_message=20_000)
    reader = Events(shop.relay)
    shop.answers()
    reader.read()
    assert shop.worker.post("x" * 30_000).status == 413
    assert [each["event"] for each in reader.read()] == ["gap"]


def test_a_message_that_is_cut_off_makes_a_gap(shop: Shop) -> None:
    reader = Events(shop.relay)
    shop.answers()
    reader.read()
    connection = shop.relay.connect()
    target = f"/{DATABASE}/send?id={shop.worker.id}"
    connection.send(http_request("POST", target, b"x" * 1000)[:-1])
    assert reader.read() == []
    connection.reset()
    shop.relay.settle()
    assert [each["event"] for each in reader.read()] == ["gap"]


def test_a_large_change_is_written_in_slices_and_whole(shop: Shop) -> None:
    reader = Events(shop.relay)
    shop.answers()
    reader.read()
    data = {"path": "orders", "val": "x" * 1_000_000}
    text = {"type": "event", "from": shop.worker.id, "to": shop.id, "path": "orders"}
    envelope = json.dumps({**text, "event": "mutations", "data": data}, separators=(",", ":"))
    shop.worker.post(f"to:{shop.id};{envelope}")
    assert values(reader.read()) == ["x" * 1_000_000]


def test_a_reader_that_does_not_read_holds_nothing_and_is_told_of_a_gap() -> None:
    shop = Shop(history_bytes=100_000, request_timeout=1000)
    reader = Events(shop.relay)
    shop.answers()
    reader.read()
    reader.connection.stop_reading()
    for _ in range(300):
        shop.change("x" * 10_000)
    assert shop.relay.server._parts.relay.memory.parts()["history"] <= 100_000
    reader.connection.resume_reading()
    events = reader.read()
    assert events[-1]["event"] == "gap"
    assert len(events) < 100


def test_what_readers_hold_is_counted_once() -> None:
    shop = Shop(history_bytes=1000, request_timeout=1000)
    readers = [Events(shop.relay) for _ in range(3)]
    shop.answers()
    text = f'"from":"{shop.worker.id}","to":"{shop.id}","path":"orders","event":"mutations"'
    for each in readers:
        each.connection.stop_reading()
    for size in (3_000_000, 1):
        data = json.dumps({"path": "orders", "val": "x" * size})
        shop.worker.post(f'to:{shop.id};{{"type":"event",{text},"data":{data}}}')
    memory = shop.relay.server._parts.relay.memory
    assert 3_000_000 < memory.parts()["history"] < 3_010_000
    for each in readers:
        each.connection.resume_reading()
        assert values(each.read()[1:]) == ["x" * 3_000_000, "x"]
    assert memory.parts()["history"] < 1000


def test_a_reader_that_reads_nothing_is_cut(shop: Shop) -> None:
    reader = Events(shop.relay)
    shop.answers()
    reader.connection.stop_reading()
    for _ in range(100):
        shop.change("x" * 10_000)
    shop.relay.pass_time(70)
    reader.connection.resume_reading()
    reader.connection.take()
    assert reader.connection.ended is not None


def test_a_reader_hears_from_the_relay_when_nothing_changes(shop: Shop) -> None:
    reader = Events(shop.relay)
    shop.answers()
    reader.connection.take()
    shop.relay.pass_time(31)
    assert reader.connection.take().count(b": the stream goes on\n\n") == 2


def test_the_end_of_the_relay_ends_the_stream(shop: Shop) -> None:
    reader = Events(shop.relay)
    shop.answers()
    shop.relay.stop()
    shop.relay.pass_time(1)
    assert reader.connection.take().endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"/{DATABASE}/changes?path=orders/*", 400),
        (f"/{DATABASE}/changes?path=$id", 400),
        (f"/{DATABASE}/changes?path=a\\b", 400),
        (f"/{DATABASE}/changes?path=orders&since=x", 410),
        (f"/{DATABASE}/changes", 200),
        (f"/{DATABASE}/changes?path=%2Forders%2F", 200),
    ],
)
def test_what_can_be_followed(shop: Shop, target: str, status: int) -> None:
    assert Events(shop.relay, target).status == status


def test_a_relay_without_a_history_says_so() -> None:
    with MemoryRelay() as relay:
        response = relay.get(URL)
        assert (response.status, "--history-messages" in response.text) == (404, True)
        assert relay.post(URL, "").status == 405


def test_a_token_and_an_allowed_page_are_needed() -> None:
    shop = Shop(token="secret")
    assert Events(shop.relay).status == 401
    assert Events(shop.relay, f"{URL}&t=secret").status == 200
    assert Events(shop.relay, URL, Authorization="Bearer secret").status == 200
    assert Events(shop.relay, f"{URL}&t=secret", Origin="https://example.org").status == 403


def test_a_stream_ends_with_its_token(tmp_path: Any) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("first\nsecond\n")
    tokens.chmod(0o600)
    with MemoryRelay(token_file=str(tokens), history_messages=10) as relay:
        reader = Events(relay, f"{URL}&t=first")
        assert reader.status == 200
        tokens.write_text("second\n")
        relay.server.reload()
        relay.settle()
        reader.connection.take()
        assert reader.connection.ended is not None
