"""``make soak-acebase``: real AceBase clusters under load while their processes are killed.

::

    python -m tests.soak.acebase --seconds 600 --seed 7

Two databases on one relay, each with a master and four workers, in rounds of a few seconds; for
the first half of the time the relay has lock sessions, for the second half it has none.
In each round all workers make transactions on one counter, and all but one write to a list
that another of them has subscribed to. Meanwhile the one is killed and replaced, and often the
master is killed and started again. All others have to go on within :data:`PATIENCE` seconds.

A worker is killed at any moment of a transaction: while it waits for its lock, holds it, writes
the counter, or releases the lock. At the end each counter has to be exact: it has counted every
acknowledged transaction once, and besides them only some of those that were under way in a
killed worker. Every event has to have arrived once, every process has to read all that was
written, and no process may have ended by itself.

It leaves out what no relay can repair:

* Workers that are killed while they write other nodes than the counter. A node of several
  records may be written in several calls of the system, of which a kill leaves out the last. The
  counter is in a node of a single record that keeps its place: one call of the system writes it.
* Nodes of more than 100 children (see :data:`CHILDREN`).
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acebase.accounts import Account, settle
from tests.acebase.cluster import (
    Cluster,
    Peer,
    PeerDied,
    PeerError,
    Pending,
    Relay,
    Role,
    digest,
    exchange,
    node,
    running_relay,
)
from tests.acebase.same_work import MODES

WORKERS = 4
WRITES = 3  # of each worker in a round
LARGE_EVERY = 3  # rounds
MASTER_EVERY = 4  # rounds, on average
CONCURRENT_EVERY = 3  # rounds, on average
TRANSACTIONS = 5  # of the worker that is killed, at the same time
HOLD = 4.0
"""Milliseconds that a transaction keeps its lock at most, so that kills meet each of its stages."""

WORK = 0.5
"""Seconds from the start of a round to the kill, at most."""

PROGRESS = 2
"""Transactions of each worker after a kill that show that it has gone on."""

RELAY = ("--session-timeout=2", "--session-timeout-closed=2")

PATIENCE = 30.0
"""Seconds after which a worker counts as hanging; a lock of AceBase expires after 120."""

COUNTER = "counters/total"

STAGES = {
    "": "before a transaction",
    "requested": "waiting for a lock",
    "begun": "holding a lock",
    "returned": "writing",
    "acknowledged": "releasing a lock",
}
"""By the stage of a killed worker: what it was doing."""

CHILDREN = 100
"""Children that a node may have at most.

AceBase keeps more of them in a tree, and adding to a new tree can fail in the client, even
in a single process without a relay: see docs/hangs.rst. So the list is emptied before it
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
    :ivar longest: seconds, by kind of kill, until all others had gone on.
    :ivar wrong: a line for each failure.
    """

    def __init__(self, relay: Relay, directory: Path, database: str, seed: int) -> None:
        self.random = random.Random(f"{seed} {database}")
        self.cluster = Cluster(relay.addresses, directory, database)
        self.counts: Counter[str] = Counter()
        self.longest: dict[str, float] = {}
        self.account = Account()
        self.wrong: list[str] = []
        self._round = 0
        self._list = dict(SEED)

    def run(self, seconds: float) -> None:
        """Work for so long, then check the results."""
        end = time.monotonic() + seconds
        with self.cluster:
            (self.master,) = self.cluster.join("master")
            for key, value in (("counters", {"total": 0}), ("list", SEED), ("large", SEED)):
                self.master.set(key, value)
            roles: list[Role] = ["worker"] * WORKERS
            self.workers = self.cluster.join(*roles)
            self.subscriber = self.workers[0]
            self.subscriber.subscribe("list", "child_added", [self.master, *self.workers[1:]])
            exchange(self.master, *self.workers)
            while time.monotonic() < end and not self.wrong:
                self._round += 1
                try:
                    self._work()
                except (TimeoutError, PeerDied, PeerError) as error:
                    self.wrong.append(f"round {self._round}: {type(error).__name__}: {error}")
            self._check()

    def _work(self) -> None:
        loads = {each: each.begin("load", path=COUNTER, hold=HOLD) for each in self.workers}
        victim = self.random.choice(self.workers[1:])
        if self.random.random() < 1 / CONCURRENT_EVERY:
            victim.begin("increment", path=COUNTER, times=TRANSACTIONS)
        others = [each for each in self.workers if each is not victim]
        writing = [self._write(each) for each in others]
        time.sleep(self.random.uniform(0, WORK))
        if self.random.random() < 1 / MASTER_EVERY:
            self._kill_master(victim, others)
        else:
            self._kill(victim)
            self._wait_progress(STAGES[victim.stage], others)
        for written in writing:
            self.counts["events"] += written.result(PATIENCE)
        # Not during writes that move a node: a process reads the files before it is connected,
        # and does not learn that what it has read is out of date.
        (successor,) = self.cluster.join("worker")
        self.workers[self.workers.index(victim)] = successor
        for each in others:
            each.call("stop", PATIENCE)
            loads[each].result(PATIENCE)
        exchange(self.master, *self.workers)
        if self._round % LARGE_EVERY == 0:
            self._exchange_large(successor)
        if len(self._list) + WORKERS * WRITES > CHILDREN:
            self._empty_list()

    def _write(self, worker: Peer) -> Pending:
        items = {f"{worker.id}-{self._round}-{each}": each for each in range(WRITES)}
        self._list |= items
        return worker.begin("write", items=[(f"list/{key}", n) for key, n in items.items()])

    def _kill(self, victim: Peer) -> None:
        """Kill a worker, preferably in a certain stage: most of the time it waits for a lock."""
        stage = self.random.choice(list(STAGES))
        with contextlib.suppress(TimeoutError):
            victim.wait_for(stage, lambda: victim.stage == stage, WORK)
        victim.kill()
        victim.wait_ended()
        self.counts[f"workers killed while {STAGES[victim.stage]}"] += 1

    def _kill_master(self, victim: Peer, others: list[Peer]) -> None:
        """Kill the master, and the worker before it, after it, or when a new one is there."""
        when = self.random.choice(["before", "without", "after"])
        if when == "before":
            self._kill(victim)
        self.master.kill()
        self.counts["masters killed"] += 1
        if when == "without":
            self._kill(victim)
        (self.master,) = self.cluster.join("master")
        if when == "after":
            self._kill(victim)
        self._wait_progress("master", others)

    def _wait_progress(self, kind: str, workers: list[Peer]) -> None:
        began = time.monotonic()
        goals = [(each, len(each.acknowledged) + PROGRESS) for each in workers]
        hanging = []
        for each, goal in goals:
            try:
                each.wait_acknowledged(goal, max(0.0, began + PATIENCE - time.monotonic()))
            except TimeoutError:
                hanging.append(f"{each.name} ({STAGES[each.stage]})")
        if hanging:
            raise TimeoutError(f"after a kill ({kind}) these hang: {', '.join(hanging)}")
        took = time.monotonic() - began
        self.longest[kind] = max(took, self.longest.get(kind, 0))

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

    def _check(self) -> None:
        self.account = settle(self.master.get(COUNTER, PATIENCE) or 0, self.cluster.peers)
        self.wrong += self.account.wrong
        if self.wrong:
            return
        for peer in (self.master, *self.workers):
            if (total := peer.get(COUNTER, PATIENCE)) != self.account.total:
                self.wrong.append(f"{peer.name} counts {total}, not {self.account.total}")
        self._read_list()
        received = len(self.subscriber.values(SUBSCRIPTION))
        if received != self.counts["events"]:
            self.wrong.append(f"{received} of {self.counts['events']} events were received")


def soak(seconds: float, seed: int, *options: str) -> list[str]:
    """Put load on both databases of a relay; returns a line for each failure."""
    wrong = []
    with tempfile.TemporaryDirectory() as directory, running_relay(*RELAY, *options) as relay:
        works = []
        for name in ("one", "two"):
            Path(directory, name).mkdir()
            works.append(Work(relay, Path(directory, name), name, seed))
        with ThreadPoolExecutor(len(works)) as threads:
            runs = [threads.submit(each.run, seconds) for each in works]
        for work, run in zip(works, runs, strict=True):
            counts = ", ".join(f"{count} {kind}" for kind, count in work.counts.items())
            print(f"{work.cluster.database}: {counts}", flush=True)
            print(f"{work.cluster.database}: transactions: {work.account}", flush=True)
            waits = ", ".join(f"{each:.1f} ({kind})" for kind, each in work.longest.items())
            print(f"{work.cluster.database}: longest waits in s: {waits}", flush=True)
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
    wrong = []
    for mode, relay_options in MODES.items():
        print(f"{mode} lock sessions:", flush=True)
        found = soak(options.seconds / len(MODES), seed, *relay_options)
        print(*found, sep="\n", end="\n" if found else "", flush=True)
        wrong += found
    print(f"{'FAILED' if wrong else 'passed'} with seed {seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
