"""The CPU time and memory that idle peers take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from bench.attacks.peers import Peer, answer_pings
from bench.servers import Server

PER_DATABASE = 10


def measure_idle_peers(server: Server, count: int, seconds: float) -> Iterator[str]:
    """Connect *count* peers that only answer pings, and measure for so long."""
    with ExitStack() as stack:
        memory = server.memory()
        peers = []
        for each in range(count):
            peer = Peer(server.address, f"idle-{each}", f"database{each // PER_DATABASE}")
            peers.append(stack.enter_context(peer))
            if each % 500 == 0:
                answer_pings(peers, 0.01)
        grown = server.memory() - memory
        answer_pings(peers, 2)
        before = server.cpu()
        answered = answer_pings(peers, seconds)
        used = (server.cpu() - before) / seconds
    yield f"{count:,} idle peers, {answered:,} pings answered in {seconds:g} s"
    yield f"    CPU: {used:.2%} of a core"
    yield f"    memory: {grown / count / 1024:.1f} KiB each"
