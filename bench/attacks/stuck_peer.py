"""The latency of broadcasts while one of the peers reads nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Self

from bench.attacks.latency import Latency
from bench.attacks.peers import Address, Peer

READERS = 10
SIZE = 8_000
"""Bytes of a broadcast."""


class Crowd:
    """A sender, and readers of what it broadcasts.

    :param size: the bytes of each broadcast.
    """

    def __init__(self, address: Address, readers: int, size: int) -> None:
        self._stack = ExitStack()
        self._address = address
        self._sender = self._join("sender")
        self._readers = [self._join(f"reader{each}") for each in range(readers)]
        for each in self._readers[:-1]:
            each.receive_until(b"connect:" + self._readers[-1].id.encode())
        self._body = b"x" * size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def join_stuck(self) -> None:
        """Add a peer that reads nothing."""
        self._join("stuck", receive_buffer=4096)
        for each in self._readers:
            each.receive_until(b"connect:stuck")

    def broadcast(self, count: int) -> list[float]:
        """Broadcast *count* times, or until a peer is disconnected.

        :returns: seconds until the first reader had each broadcast.
        """
        times: list[float] = []
        disconnected = 0
        while len(times) < count and not disconnected:
            message = b"%d " % len(times) + self._body
            begin = time.perf_counter()
            self._sender.send(message)
            first, *others = self._readers
            disconnected = first.receive_until(b"msg:" + message)
            times.append(time.perf_counter() - begin)
            for each in others:
                each.receive_until(b"msg:" + message)
        return times

    def _join(self, client_id: str, receive_buffer: int | None = None) -> Peer:
        peer = Peer(self._address, client_id, "crowd", receive_buffer=receive_buffer)
        return self._stack.enter_context(peer)


def measure_stuck_peer(address: Address, max_backlog: int) -> Iterator[str]:
    """Compare broadcasts to ten readers with and without a peer that reads nothing.

    :param max_backlog: the relay's, in bytes.
    """
    rounds = max_backlog // SIZE
    with Crowd(address, READERS, SIZE) as crowd:
        crowd.broadcast(100)
        before = Latency.of(crowd.broadcast(rounds // 4))
        crowd.join_stuck()
        during = Latency.of(crowd.broadcast(2 * rounds))
        after = Latency.of(crowd.broadcast(rounds // 4))
    yield f"{SIZE:,} bytes to {READERS} readers, {before.count:,} broadcasts: {before}"
    yield f"until a peer that reads nothing is disconnected, {during.count:,}: {during}"
    yield f"after that, {after.count:,}: {after}"
    yield f"p99 with the peer that reads nothing: {during.p99 / before.p99:.2f} times"
