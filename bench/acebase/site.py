"""One cluster on one relay: what is measured of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.acebase.delay import Proxy, running_proxy
from bench.processes import cpu_seconds
from bench.servers import Program, Server, running_server
from tests.acebase.cluster import Address, Cluster, Peer

KINDS = ("transaction", "set", "get")
"""The operations; tests/acebase/workloads.js has them."""

COUNTER = "counters/total"
SENT, RECEIVED = "wire.sent", "wire.received"
TO_MASTER = {
    "lock-request": "lock-request",
    "unlock-request": "unlock-request",
    "move-lock-request": "move-lock-request",
    "fst.allocate": "request fst.allocate",
    "fst.release": "request fst.release",
    "kit.add": "request kit.add",
}
"""The messages that the master has to answer: their titles, and the keys of peer.js."""

DEADLINE = 60.0
"""Seconds for the end of a measurement, after its time is over."""

Sample = dict[str, Any]
"""The figures of one run: see :meth:`Site.measure`."""


class Site:
    """A master, its workers, and the relay between them.

    :ivar proxy: the network between them and the relay; ``None`` if they connect directly.
    """

    def __init__(
        self, server: Server, proxy: Proxy | None, master: Peer, workers: list[Peer]
    ) -> None:
        self.proxy = proxy
        self._server = server
        self._master = master
        self._workers = workers
        self._transactions = 0

    def measure(self, kind: str, seconds: float) -> Sample:
        """Let all workers do operations of a kind for so long.

        :returns: ``rate``: operations per second; ``p50_us`` and ``p99_us``: how long they took;
            ``master_us``, ``worker_us`` and ``relay_us``: CPU time per operation, ``worker_us`` of
            all workers together; ``sent`` and ``received``: messages per operation that the
            workers have sent to the master, and that it has received, by type.
        """
        before = self._used(), self._counts()
        running = [each.begin("measure", kind=kind, seconds=seconds) for each in self._workers]
        outcomes = [each.result(seconds + DEADLINE) for each in running]
        after = self._used(), self._counts()
        took = sorted(each for outcome in outcomes for each in outcome["took"])
        if kind == "transaction":
            self._transactions += len(took)
        sample: Sample = {
            "rate": round(sum(len(each["took"]) / each["seconds"] for each in outcomes), 2),
            "p50_us": took[len(took) // 2],
            "p99_us": took[len(took) * 99 // 100],
        }
        for name, used in after[0].items():
            sample[f"{name}_us"] = round((used - before[0][name]) * 1e6 / len(took))
        for name, counts in after[1].items():
            sample[name] = {
                title: round((counts[key] - before[1][name][key]) / len(took), 2)
                for title, key in TO_MASTER.items()
            }
        return sample

    def lost(self) -> int:
        """The number of transactions that were acknowledged and are not in the counter."""
        counted: int = self._master.get(COUNTER)
        return self._transactions - counted

    def _used(self) -> dict[str, float]:
        return {
            "master": cpu_seconds(self._master.pid),
            "worker": sum(cpu_seconds(each.pid) for each in self._workers),
            "relay": cpu_seconds(self._server.pid) if self._server.pid else 0.0,
        }

    def _counts(self) -> Mapping[str, Counter[str]]:
        sent: Counter[str] = Counter()
        for each in self._workers:
            sent.update(each.evaluate(SENT))
        return {"sent": sent, "received": Counter(self._master.evaluate(RECEIVED))}


@contextmanager
def running_site(
    source: Program | Server, directory: Path, workers: int, proxy: Path | None
) -> Iterator[Site]:
    """Start a relay, unless it runs already, a master and its *workers*.

    :param directory: for the database; has to be empty.
    :param proxy: the program that stands for the network; ``None``: none.
    """
    with ExitStack() as stack:
        server = source
        if isinstance(server, Program):
            server = stack.enter_context(running_server(server, directory / "relay.log"))
        port = server.address[1]
        link = None if proxy is None else stack.enter_context(running_proxy(proxy, port))
        address = Address(port if link is None else link.port)
        cluster = stack.enter_context(Cluster([address], directory, directory.name))
        master, peers = cluster.open("counters", "list", workers=workers)
        master.set(COUNTER, 0)
        for each in peers:
            each.call("fill")
        yield Site(server, link, master, peers)
