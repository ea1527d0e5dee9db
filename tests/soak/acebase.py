"""``make soak-acebase``: real AceBase clusters under load while their processes are killed.

::

    python -m tests.soak.acebase --seconds 600 --seed 7

Two databases on one relay, each with a master and four workers, in rounds of a
few seconds. In each round the workers make transactions, write to a list that one
of them has subscribed to, and exchange large values; meanwhile one worker, which is
not writing, is killed and replaced. Once a minute, while no worker writes, a master
is killed and started again.

At the end the counters have to be exact, every event has to have arrived once, every
process has to read all that was written, and no worker may hang or have ended. It
leaves out workers that are killed during their own writes (see the README), and
nodes of more than 100 children (see :data:`CHILDREN`).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acebase.cluster import (
    Cluster,
    Peer,
    Pending,
    Relay,
    digest,
    exchange,
    node,
    running_relay,
)

WORKERS = 4
TRANSACTIONS = 5  # of each worker in a round, at the same time
WRITES = 3  # of each worker in a round
LARGE_EVERY = 3  # rounds
MASTER_EVERY = 60.0  # seconds

PATIENCE = 60.0
"""Seconds after which a worker counts as hanging; a busy machine may need as many for a round."""

CHILDREN = 100
"""Children that a node may have at most.

AceBase keeps more of them in a tree, and adding to a new tree can fail in the client, even
in a single process without a relay: see docs/operations.rst. So the list is emptied before it
has so many.
"""

SUBSCRIPTION = "child_added list"
SEED = {"seed": 0}
NOT_POSSIBLE = 77

LARGE = (
    "".join(f"{number:010}" for number in range(20_000)),
    "".join(chr(0x4E00 + number % 20_000) for number in range(30_000)),
)


class Work:
    """The load on one database.

    :ivar counts: number of actions by kind.
    :ivar wrong: a line for each failure.
    """

    def __init__(self, relay: Relay, directory: Path, database: str, seed: int) -> None:
        self.random = random.Random(f"{seed} {database}")
        self.cluster = Cluster(relay.addresses, directory, database)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._round = 0
        self._list = dict(SEED)

    def run(self, seconds: float) -> None:
        """Work for so long, then check the results."""
        end = time.monotonic() + seconds
        with self.cluster:
            self.master, self.workers = self.cluster.open(
                "counters", "list", "large", workers=WORKERS
            )
            self.subscriber = self.workers[0]
            self.subscriber.subscribe("list", "child_added", [self.master, *self.workers[1:]])
            exchange(self.master, *self.workers)
            restart_at = time.monotonic() + MASTER_EVERY * self.random.uniform(0.3, 1)
            while time.monotonic() < end and not self.wrong:
                if len(self._list) + WORKERS * WRITES > CHILDREN:
                    self._empty_list()
                self._work()
                if time.monotonic() > restart_at:
                    self._restart_master()
                    restart_at = time.monotonic() + MASTER_EVERY
            self._check()

    def _work(self) -> None:
        self._round += 1
        victim = self.random.choice(self.workers[1:])
        writers = [each for each in self.workers if each is not victim]
        victim.wait_idle()
        running = [self._begin(each) for each in writers]
        time.sleep(self.random.uniform(0, 0.3))
        victim.kill()
        self.counts["workers killed"] += 1
        for worker, pending in zip(writers, running, strict=True):
            self._end(worker, pending)
        # Not during writes: it reads the files before it is connected, and would not learn
        # that what it has read is out of date.
        successor = self.cluster.start()
        successor.wait_ready(PATIENCE)
        self.workers[self.workers.index(victim)] = successor
        exchange(self.master, *self.workers)
        if self._round % LARGE_EVERY == 0:
            self._exchange_large(successor)

    def _begin(self, worker: Peer) -> tuple[Pending, Pending]:
        items = {f"{worker.id}-{self._round}-{each}": each for each in range(WRITES)}
        self._list |= items
        return (
            worker.begin("increment", path="counters/total", times=TRANSACTIONS),
            worker.begin("write", items=[(f"list/{key}", value) for key, value in items.items()]),
        )

    def _end(self, worker: Peer, running: tuple[Pending, Pending]) -> None:
        try:
            outcome = running[0].result(PATIENCE)
            written = running[1].result(PATIENCE)
        except TimeoutError as error:
            self.wrong.append(f"{worker.name} hangs: {error}")
            return
        self.counts["transactions"] += outcome["done"]
        self.counts["events"] += written
        if outcome["failed"]:
            self.wrong.append(f"{worker.name}: {outcome['failed']}")

    def _exchange_large(self, writer: Peer) -> None:
        value = self.random.choice(LARGE)
        writer.set("large/value", value, PATIENCE)
        self.counts["large values"] += 1
        for reader in self.workers:
            if reader.get("large/value", PATIENCE) != digest(value):
                self.wrong.append(f"{reader.name} reads another large value")

    def _empty_list(self) -> None:
        self._read_list()
        self.random.choice(self.workers).set("list", SEED, PATIENCE)
        self._list = dict(SEED)
        self.counts["lists read and emptied"] += 1

    def _read_list(self) -> None:
        for peer in (self.master, *self.workers):
            read = peer.get("list", PATIENCE) or {}
            if read != self._list:
                different = sorted({key for key, _ in read.items() ^ self._list.items()})
                self.wrong.append(
                    f"{peer.name} reads {len(different)} wrong children, such as {different[0]}"
                )

    def _restart_master(self) -> None:
        for each in self.workers:
            each.wait_idle()
        self.master.kill()
        self.counts["masters restarted"] += 1
        (self.master,) = self.cluster.join("master")
        exchange(self.master, *self.workers)

    def _check(self) -> None:
        for peer in (self.master, *self.workers):
            total = peer.get("counters/total", PATIENCE) or 0
            if total != self.counts["transactions"]:
                done = self.counts["transactions"]
                self.wrong.append(f"{peer.name} counts {total} of {done} transactions")
        self._read_list()
        received = len(self.subscriber.values(SUBSCRIPTION))
        if received != self.counts["events"]:
            self.wrong.append(f"{received} of {self.counts['events']} events were received")


def soak(seconds: float, seed: int) -> list[str]:
    """Put load on both databases; returns a line for each failure."""
    wrong = []
    with tempfile.TemporaryDirectory() as directory, running_relay() as relay:
        works = []
        for name in ("one", "two"):
            Path(directory, name).mkdir()
            works.append(Work(relay, Path(directory, name), name, seed))
        with ThreadPoolExecutor(len(works)) as threads:
            runs = [threads.submit(each.run, seconds) for each in works]
        for work, run in zip(works, runs, strict=True):
            counts = ", ".join(f"{count} {kind}" for kind, count in work.counts.items())
            print(f"{work.cluster.database}: {counts}", flush=True)
            wrong += [f"{work.cluster.database}: {each}" for each in work.wrong]
            if error := run.exception():
                wrong.append(f"{work.cluster.database}: {type(error).__name__}: {error}")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak and print its failures; returns the exit status."""
    parser = argparse.ArgumentParser(description="Put AceBase clusters on a relay under load.")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: a new one")
    options = parser.parse_args(arguments)
    try:
        node()
    except pytest.skip.Exception as reason:
        print(reason)
        return NOT_POSSIBLE
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    wrong = soak(options.seconds, seed)
    for each in wrong:
        print(each)
    print(f"{'FAILED' if wrong else 'passed'} with seed {seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
