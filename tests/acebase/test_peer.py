"""A Python peer among real AceBase processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acebase_ipc.protocol.values import decode, encode
from tests.acebase.cluster import (
    Cluster,
    Peer,
    PeerError,
    Pending,
    PythonPeer,
    Relay,
    digest,
    running_relay,
)
from tests.acebase.python_peer import TYPED

WRITES = 100  # of each of the two workers

INTRODUCTIONS: list[list[str]] = [[], ["--no-introductions"]]

TRANSPORT = "const { Transport, PathReference } = process.mainModule.require('acebase-core');"


class Running(Cluster):
    """A master, two workers and a Python peer, all of them ready and introduced."""

    master: Peer
    workers: list[Peer]
    python: Peer

    def join_python(self) -> Peer:
        """Start one more Python peer, and wait until the Node processes know of it."""
        others = list(self.peers)
        python = self.start(kind=PythonPeer)
        python.wait_ready()
        for other in others:
            other.until(f"ipc.peers.some((each) => each.id === {json.dumps(python.id)})")
        return python


@pytest.fixture(scope="module")
def cluster(tcp_relay: Relay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tcp_relay.addresses, tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.master, cluster.workers = cluster.open(
            "steady", "cut", "users", "typed", "more", workers=2
        )
        cluster.python = cluster.join_python()
        yield cluster


def execute(peer: Peer, script: str) -> Any:
    """Run JavaScript statements in a Node process, and return what they return."""
    return peer.evaluate(f"(() => {{ {script} }})()")


def known_to(peer: Peer, path: str, event: str) -> str:
    """A JavaScript expression: this process serves that subscription of *peer*."""
    return (
        f"ipc.remoteSubscriptions.some((each) => each.for === {json.dumps(peer.id)}"
        f" && each.path === {json.dumps(path)} && each.event === {json.dumps(event)})"
    )


@pytest.mark.parametrize("key", ["steady", "cut"])
def test_every_write_of_two_workers_arrives_in_order(cluster: Running, key: str) -> None:
    """Also across a cut connection."""
    python, writers = cluster.python, cluster.workers
    python.subscribe(key, "child_added", writers)
    subscription = f"child_added {key}"

    def begin(first: int, last: int) -> list[Pending]:
        return [
            writer.begin(
                "write",
                items=[[f"{key}/{number}-{step:03}", step] for step in range(first, last)],
            )
            for number, writer in enumerate(writers)
        ]

    for each in begin(0, WRITES // 2):
        each.result()
    python.wait_values(subscription, WRITES)
    if key == "cut":
        python.call("cut")
    sent = [writer.evaluate("wire.sent.event") for writer in writers]
    running = begin(WRITES // 2, WRITES)
    for writer, before in zip(writers, sent, strict=True):
        writer.until(f"wire.sent.event >= {before + WRITES // 5}")
    if key == "cut":
        assert len(python.values(subscription)) == WRITES
        python.call("return")
    for each in running:
        each.result()
    python.wait_values(subscription, 2 * WRITES)

    for writer in writers:
        assert python.values(subscription, writer) == list(range(WRITES))
    assert len(python.values(subscription)) == 2 * WRITES


@pytest.mark.parametrize("options", INTRODUCTIONS, ids=["introduced", "alone"])
def test_a_peer_that_lost_its_seat_subscribes_again(tmp_path: Path, options: list[str]) -> None:
    with (
        running_relay("--session-timeout=0", *options) as relay,
        Running(relay.addresses, tmp_path) as cluster,
    ):
        _, (writer,) = cluster.open("users", workers=1)
        python = cluster.join_python()
        python.subscribe("users", "child_added", [writer])

        python.call("cut")
        writer.until(f"!{known_to(python, 'users', 'child_added')}")
        writer.set("users/lost", 0)
        python.call("return")
        writer.until(known_to(python, "users", "child_added"))
        writer.set("users/found", 1)

        assert python.wait_values("child_added users", 1) == [1]


@pytest.mark.parametrize("options", INTRODUCTIONS, ids=["introduced", "alone"])
def test_a_process_that_joins_late_serves_the_subscriptions(
    tmp_path: Path, options: list[str]
) -> None:
    with (
        running_relay(*options) as relay,
        Running(relay.addresses, tmp_path) as cluster,
    ):
        cluster.open("users", workers=0)
        python = cluster.join_python()
        python.call("subscribe", path="users", event="child_added")

        (late,) = cluster.join("worker")
        late.until(known_to(python, "users", "child_added"))
        late.call("write", items=[[f"users/{step}", step] for step in range(5)])
        assert python.wait_values("child_added users", 5) == list(range(5))

        # And forgets them when the peer leaves in good order.
        python.call("close")
        late.until(f"!{known_to(python, 'users', 'child_added')}")
        assert ["bye", python.id] in late.evaluate("wire.announced")
        late.until("ipc.peers.every((each) => each.id === '[master]')")


def test_wildcards_stand_for_any_key(cluster: Running) -> None:
    python, (writer, _) = cluster.python, cluster.workers
    for path in ("users/*/name", "users/$id/name"):
        python.subscribe(path, "value", [writer])

    writer.set("users/a/name", "A")
    writer.set("users/b", {"name": "B", "age": 7})

    for path in ("users/*/name", "users/$id/name"):
        assert python.wait_values(f"value {path}", 2) == ["A", "B"]
    paths = {event.path for event in python.events if event.subscription == "value users/*/name"}
    assert paths == {"users/a/name", "users/b/name"}


def test_each_kind_of_event_is_told(cluster: Running) -> None:
    python, (writer, _) = cluster.python, cluster.workers
    kinds = ["value", "child_added", "child_changed", "child_removed", "mutated", "mutations"]
    for kind in kinds:
        python.subscribe("more", kind, [writer])
        python.subscribe("more", f"notify_{kind}", [writer])

    writer.set("more/a", {"x": 1})
    writer.set("more/a/x", 2)
    writer.set("more/a", None)

    expected: dict[str, list[Any]] = {
        "value": [{"seed": 0, "a": {"x": 1}}, {"seed": 0, "a": {"x": 2}}, {"seed": 0}],
        "child_added": [{"x": 1}],
        "child_changed": [{"x": 2}],
        "child_removed": [None],
        "mutated": [{"x": 1}, 2, None],
        "mutations": [
            [{"target": ["a"], "prev": None, "val": {"x": 1}}],
            [{"target": ["a", "x"], "prev": 1, "val": 2}],
            [{"target": ["a"], "prev": {"x": 2}, "val": None}],
        ],
    }
    for kind, values in expected.items():
        assert python.wait_values(f"{kind} more", len(values)) == values
        notes = python.wait_values(f"notify_{kind} more", len(values))
        assert notes == [None] * len(values)


def test_a_published_client_goes_on_sending_what_was_unsubscribed(cluster: Running) -> None:
    """Its defect, and the reason why the peer drops what nobody is subscribed to."""
    python, (writer, _) = cluster.python, cluster.workers
    python.subscribe("more/left", "value", [writer])
    writer.set("more/left", 1)
    python.wait_values("value more/left", 1)
    sent = writer.evaluate("wire.sent.event")

    python.call("unsubscribe", path="more/left")
    writer.until("wire.received.unsubscribe === 1")
    writer.set("more/left", 2)
    writer.call("notify", value="written")
    python.wait_notified("written", [writer])

    assert writer.evaluate("wire.sent.event") > sent
    assert writer.evaluate(known_to(python, "more/left", "value"))
    assert python.values("value more/left") == [1]


def test_notifications_go_both_ways(cluster: Running) -> None:
    python, nodes = cluster.python, [cluster.master, *cluster.workers]

    python.call("notify", value="from Python")
    for node in nodes:
        node.wait_notified("from Python", [python])

    for node in nodes:
        node.call("notify", value=f"from {node.name}")
    for node in nodes:
        python.wait_notified(f"from {node.name}", [node])


def test_large_notifications_go_both_ways(cluster: Running) -> None:
    python, (node, _) = cluster.python, cluster.workers
    text = "漢字" * 20_000

    python.call("notify", value=text)
    node.wait_for("the text", lambda: digest(text) in node.values("notification", python))
    node.call("notify", value=text)
    python.wait_for("the text", lambda: digest(text) in python.values("notification", node))


def test_requests_are_answered_by_node_processes(cluster: Running) -> None:
    python, (worker, _) = cluster.python, cluster.workers

    answer = python.call("request", value={"type": "kit.add", "key": "surname"})
    assert answer.startswith("{'ok': True, 'index': ")

    unknown = 'UnknownRequest: .*: Unknown ipc request "nonsense"'
    for to in ("[master]", worker.id):
        with pytest.raises(PeerError, match=unknown):
            python.call("request", value={"type": "nonsense"}, to=to, grace=0.1)

    # The application answers after AceBase's own storage has said that it cannot.
    execute(
        worker,
        "ipc.on('request', (message) => { if (message.data.type === 'mine') {"
        " setTimeout(() => ipc.replyRequest(message, { hi: message.data.name }), 20); } });",
    )
    answer = python.call("request", value={"type": "mine", "name": "Ada"}, to=worker.id)
    assert answer == "{'hi': 'Ada'}"

    with pytest.raises(PeerError, match="RequestTimedOut: nobody"):
        python.call("request", value={"type": "mine"}, to="nobody", timeout=0.1)


def test_requests_of_node_processes_are_answered(cluster: Running) -> None:
    python = cluster.python
    for node in (cluster.master, *cluster.workers):
        answer = node.call("request", value={"type": "double", "number": 21}, to=python.id)
        assert answer == {"double": 42}
        with pytest.raises(PeerError, match="Error: nothing of the kind"):
            node.call("request", value={"type": "fail"}, to=python.id)
        # In the words of a Node process.
        answer = node.call("request", value={"type": "nonsense"}, to=python.id)
        assert answer == {"ok": False, "reason": 'Unknown ipc request "nonsense"'}
    assert cluster.workers[0].call("request", value={"type": "nonsense"}) == answer


def test_typed_values_go_both_ways(cluster: Running) -> None:
    python, (node, _) = cluster.python, cluster.workers
    execute(
        node,
        f"""{TRANSPORT}
        globalThis.seen = [];
        const check = (value) => seen.push(
            value.when instanceof Date && value.when.toISOString() === '2022-04-22T07:49:23.456Z'
            && value.bytes instanceof ArrayBuffer
            && Buffer.from(value.bytes).toString() === '\\0\\0\\0\\0hi'
            && value.ref instanceof PathReference && value.ref.path === 'users/x'
            && value.re instanceof RegExp && String(value.re) === '/a(b)/gi'
            && value.big === 12345678901234567890n
            && value.list[0] === 1 && value.list[1][0].byteLength === 0
        );
        ipc.on('notification', ({{ data }}) => {{
            if (data.type === 'typed') {{ check(Transport.deserialize2(data.value)); }}
        }});
        globalThis.ask = async (value) => check(Transport.deserialize2(await ipc.request({{
            type: 'request', from: ipc.id, to: {json.dumps(python.id)}, id: 'typed',
            data: {{ type: 'typed', value }},
        }})));
        globalThis.typed = {{
            when: new Date('2022-04-22T07:49:23.456Z'),
            bytes: Uint8Array.from([0, 0, 0, 0, 104, 105]).buffer,
            ref: new PathReference('users/x'),
            re: /a(b)/gi,
            big: 12345678901234567890n,
            list: [1, [new ArrayBuffer(0)]],
        }};""",
    )

    python.call("notify_typed")
    node.until("seen.length === 1")
    for number, serialize in enumerate(("serialize", "serialize2")):
        execute(
            node,
            f"{TRANSPORT} ask(Transport.{serialize}(typed));"
            f"ipc.sendNotification({{ type: 'typed', value: Transport.{serialize}(typed) }});",
        )
        node.until(f"seen.length === {number + 2}")

    assert node.evaluate("seen") == [True, True, True]
    assert python.wait_values("typed request", 2) == [repr(TYPED)] * 2
    notified = python.wait_values("other notification", 2)
    assert notified[-2:] == [repr({"type": "typed", "value": TYPED})] * 2


@pytest.mark.parametrize("length", range(10))
def test_binary_data_is_written_as_acebase_writes_it(cluster: Running, length: int) -> None:
    node = cluster.workers[0]
    data = bytes((7 * index * index) % 256 for index in range(length))
    written = execute(
        node,
        f"{TRANSPORT} return Transport.serialize2(Uint8Array.from({list(data)}).buffer);",
    )
    assert written == encode(data)
    assert decode(written) == data
    read = execute(
        node,
        f"{TRANSPORT} return Array.from(new Uint8Array("
        f"Transport.deserialize2({json.dumps(encode(data))})));",
    )
    assert bytes(read) == data


def test_typed_values_lose_their_type_in_events(cluster: Running) -> None:
    """Between Node processes they do so, too."""
    python, (node, other) = cluster.python, cluster.workers
    for subscriber in (python, other):
        subscriber.subscribe("typed/x", "value", [node])
    execute(
        node,
        f"""{TRANSPORT} db.ref('typed/x').set({{
            when: new Date('2022-04-22T07:49:23.456Z'),
            bytes: Uint8Array.from([1, 2, 3]),
            buffer: Buffer.from('hi'),
            ref: new PathReference('users/x'),
            list: ['x', [new Date(0)]],
            none: null,
        }});""",
    )
    expected = {
        "when": "2022-04-22T07:49:23.456Z",
        "bytes": {},
        "buffer": {},
        "ref": {"path": "users/x"},
        "list": ["x", ["1970-01-01T00:00:00.000Z"]],
    }
    for subscriber in (python, other):
        assert subscriber.wait_values("value typed/x", 1) == [expected]
