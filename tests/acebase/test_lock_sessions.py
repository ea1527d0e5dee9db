"""Unmodified AceBase processes whose requests for locks the relay itself answers."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.acebase.cluster import Cluster, Relay, running_relay

WORKERS = 3
TRANSACTIONS = 5  # of each worker and path, at the same time
COUNTERS = ("counters/all", "counters/deep/a/b/c")
"""A node that is there, and one of which the parents are made by one of the transactions."""

KEEP_IDS = """(() => {
    const lock = ipc.lock;
    ipc.ids = [0];
    ipc.lock = async function (details) {
        const granted = await lock.call(this, details);
        ipc.ids.push(granted.id);
        return granted;
    };
})()"""
"""Lets a worker remember the ids of all locks that it is granted."""

OWN = 2**40
"""The relay's own ids of locks begin here."""


def answered(relay: Relay) -> dict[str, int]:
    """How many requests for locks the master has answered, and the relay."""
    (admin,) = re.findall(r"the admin endpoint is (\S+)", relay.text())
    with build_opener(ProxyHandler({})).open(f"{admin.rstrip('/')}/metrics") as response:
        text = response.read().decode()
    found = re.findall(r'acebase_ipc_lock_answers_total\{by="(\w+)"\} (\d+)', text)
    return {by: int(count) for by, count in found}


@pytest.mark.parametrize("options", [(), ("--no-lock-sessions",)], ids=["sessions", "none"])
def test_transactions_and_sets_of_several_workers_come_out_right(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    with (
        running_relay("--admin=tcp:0:interface=127.0.0.1", *options) as relay,
        Cluster(relay.addresses, tmp_path) as cluster,
    ):
        master, workers = cluster.open("counters", "sets", workers=WORKERS)
        for worker in workers:
            worker.evaluate(KEEP_IDS)
        running = [
            worker.begin("increment", path=path, times=TRANSACTIONS)
            for worker in workers
            for path in COUNTERS
        ]
        running += [
            worker.begin(
                "write", items=[(f"sets/{n}/{each}", {"of": n}) for each in range(TRANSACTIONS)]
            )
            for n, worker in enumerate(workers)
        ]
        results = [each.result() for each in running]
        assert results[:-WORKERS] == [{"done": TRANSACTIONS, "failed": []}] * WORKERS * 2
        for worker in workers:
            worker.wait_idle()
        for peer in (master, *workers):
            assert [peer.get(path) for path in COUNTERS] == [WORKERS * TRANSACTIONS] * 2
            sets = peer.get("sets")
            for n in range(WORKERS):
                assert list(sets[str(n)].values()) == [{"of": n}] * TRANSACTIONS
        ids = [worker.evaluate("Math.max(...ipc.ids)") for worker in workers]
        assert all(lock_id >= OWN for lock_id in ids) is not bool(options)
        by = answered(relay)
        assert by["master"] > 0
        assert (by["relay"] > by["master"]) is not bool(options)
