"""Cuts the connection of a Python peer while real AceBase processes write.

::

    python -m tests.acebase.peer_cuts --cuts 200 --seed 7

Two workers write, one after the other, values that the peer has subscribed to; each of the peer's
connections breaks after some bytes. The exit status is 1 unless it has received each event once, in
the order of the writes, and was told of no gap.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.acebase.cluster import Cluster, PythonPeer, Relay, running_relay
from tests.acebase.link import NEVER, Link

WORKERS = 2
ROUND = 25
"""Writes of each worker in a round."""

MOST_BYTES = 3000
"""A connection breaks after fewer bytes than these in one of the directions."""

SUBSCRIPTION = "child_changed cut"


def run(relay: Relay, directory: Path, cuts: int, seed: int) -> list[str]:
    """Cut a peer's connections so many times; returns what is wrong, after a line of figures."""
    generator = random.Random(seed)
    began = time.monotonic()
    with Link(relay.address.port) as link, Cluster(relay.addresses, directory) as cluster:
        _, writers = cluster.open("cut", workers=WORKERS)
        for number, writer in enumerate(writers):
            writer.set(f"cut/{number}", -1)
        cluster.addresses = [replace(relay.address, port=link.port)]
        python = cluster.start(kind=PythonPeer)
        python.wait_ready()
        for writer in writers:
            writer.until(f"ipc.peers.some((each) => each.id === {json.dumps(python.id)})")
        python.subscribe("cut", "child_changed", writers)
        link.limits = lambda: (generator.randrange(MOST_BYTES), generator.randrange(MOST_BYTES))
        link.cut()
        steps = 0
        while link.cuts < cuts:
            running = [
                writer.begin(
                    "write", items=[[f"cut/{number}", steps + each] for each in range(ROUND)]
                )
                for number, writer in enumerate(writers)
            ]
            for each in running:
                each.result()
            steps += ROUND
        link.limits = lambda: (NEVER, NEVER)
        total = link.cuts
        link.cut()
        python.wait_values(SUBSCRIPTION, WORKERS * steps)
        found = [python.values(SUBSCRIPTION, each) for each in writers]
        gaps = python.values("gap")
    findings = [
        f"worker {number}: {len(each)} events of {steps}, or not in their order"
        for number, each in enumerate(found)
        if each != list(range(steps))
    ]
    findings += [f"a gap was told: {each}" for each in gaps]
    seconds = time.monotonic() - began
    figures = f"{total} cuts, {WORKERS * steps} writes, {sum(map(len, found))} events"
    return [f"{figures}, {len(gaps)} gaps told, {seconds:.0f} s", *findings]


def main() -> None:
    """Run it as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    sys.stdout.write(f"seed {options.seed}\n")
    with running_relay() as relay, tempfile.TemporaryDirectory() as directory:
        lines = run(relay, Path(directory), options.cuts, options.seed)
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(len(lines) > 1)


if __name__ == "__main__":
    main()
