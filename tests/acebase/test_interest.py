"""Real AceBase processes, and a Python peer, that unsubscribe: what the relay sends them then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acebase.cluster import Cluster, Peer, PythonPeer, Relay, exchange

WRITES = 20

MOST = WRITES // 2
"""Events that may arrive before it is certain that nobody wants them."""


@pytest.fixture(scope="module")
def cluster(
    tcp_relay: Relay, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Peer, Peer, Peer]]:
    """A reader, a writer, and a Python peer."""
    with Cluster(tcp_relay.addresses, tmp_path_factory.mktemp("interest")) as cluster:
        _, (reader, writer) = cluster.open("one", "two", "python", workers=2)
        python = cluster.start(kind=PythonPeer)
        python.wait_ready()
        exchange(reader, writer, python)
        reader.evaluate("(() => { db.calls = {}; db.functions = {}; })()")
        yield reader, writer, python


class Reader:
    """A Node process, its callbacks for ``mutated`` at one path, and what it received since."""

    def __init__(self, peer: Peer, path: str) -> None:
        self.peer = peer
        self.path = path
        self._ref = f"(db.functions.ref_{path} = db.functions.ref_{path} || db.ref('{path}'))"
        self._before = 0

    def on(self, name: str) -> None:
        self.peer.evaluate(
            f"(() => {{ db.calls.{name} = 0;"
            f" db.functions.{name} = () => {{ db.calls.{name} += 1; }};"
            f" {self._ref}.on('mutated', db.functions.{name}); }})()"
        )

    def off(self, name: str) -> None:
        self.peer.evaluate(f"(() => {{ {self._ref}.off('mutated', db.functions.{name}); }})()")

    def calls(self, name: str) -> int:
        count = self.peer.evaluate(f"db.calls.{name}")
        assert isinstance(count, int)
        return count

    def received(self) -> int:
        """The events that have come since it was last asked."""
        total = self.peer.evaluate("wire.received.event || 0")
        assert isinstance(total, int)
        before, self._before = self._before, total
        return total - before


def write(writer: Peer, path: str, reader: Peer) -> None:
    """Let *writer* write, and wait until all that it has sent has arrived."""
    exchange(reader, writer)
    writer.call("write", items=[[f"{path}/{number:03}", number] for number in range(WRITES)])
    writer.call("write", items=[[f"{path}/{number:03}", None] for number in range(WRITES)])
    exchange(reader, writer)


def test_a_node_process_that_unsubscribes(cluster: tuple[Peer, Peer, Peer]) -> None:
    peer, writer, _ = cluster
    reader = Reader(peer, "one")
    reader.on("first")
    write(writer, "one", peer)
    assert (reader.received(), reader.calls("first")) == (2 * WRITES, 2 * WRITES)

    reader.off("first")
    write(writer, "one", peer)
    assert 1 <= reader.received() <= MOST
    assert reader.calls("first") == 2 * WRITES

    reader.on("again")
    write(writer, "one", peer)
    assert (reader.received(), reader.calls("again")) == (2 * WRITES, 2 * WRITES)


def test_a_node_process_that_removes_one_of_two_callbacks(
    cluster: tuple[Peer, Peer, Peer],
) -> None:
    peer, writer, _ = cluster
    reader = Reader(peer, "two")
    reader.received()
    for name in ("second", "third"):
        reader.on(name)
    reader.off("second")
    for times in (1, 2):
        write(writer, "two", peer)
        assert (reader.received(), reader.calls("third")) == (2 * WRITES, times * 2 * WRITES)
    assert reader.calls("second") == 0


def test_a_python_peer_that_unsubscribes(cluster: tuple[Peer, Peer, Peer]) -> None:
    _, writer, python = cluster
    python.subscribe("python", "mutated", [writer])
    write(writer, "python", python)
    assert python.call("received") == len(python.values("mutated python")) == 2 * WRITES
    python.call("unsubscribe", path="python")
    write(writer, "python", python)
    assert 1 <= python.call("received") - 2 * WRITES <= MOST
