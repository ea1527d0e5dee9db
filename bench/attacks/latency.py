"""The round trips of honest peers, which show what an attack costs the others."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from bench.attacks.peers import Address, Peer

INTERVAL = 0.005
"""Seconds between two messages."""

PATIENCE = 120.0
"""Seconds after which a message that has not arrived is lost."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Times that messages took, in milliseconds."""

    median: float
    p99: float
    maximum: float
    count: int

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latency:
        """The figures of at least one measurement."""
        times = sorted(each * 1e3 for each in seconds)
        middle, late = len(times) // 2, min(len(times) - 1, len(times) * 99 // 100)
        return cls(times[middle], times[late], times[-1], len(times))

    def __str__(self) -> str:
        figures = (("p50", self.median), ("p99", self.p99), ("max", self.maximum))
        return ", ".join(f"{name} {value:,.1f} ms" for name, value in figures)


class Pair:
    """Two honest peers of a database of their own, one of which sends to the other."""

    def __init__(self, address: Address, token: str = "", *, secure: bool = False) -> None:
        self._one = Peer(address, "honest-one", "honest", token, secure=secure)
        self._other = Peer(address, "honest-other", "honest", token, secure=secure)
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._one.socket.close()
        self._other.socket.close()

    def measure(self, go_on: Callable[[], bool]) -> list[float]:
        """Send a message every :data:`INTERVAL` while *go_on* holds; returns how long each took.

        It does not wait for a message before it sends the next one, so that a standstill of
        the relay delays as many messages as it would delay of other peers.

        :returns: seconds from sending to arrival.
        :raises OSError: if a message does not arrive, or a connection ends.
        """
        under_way: dict[bytes, float] = {}
        times: list[float] = []
        due = last_sent = time.perf_counter()
        while (more := go_on()) or under_way:
            now = time.perf_counter()
            if more and now >= due:
                self._sent += 1
                body = b"%d" % self._sent
                under_way[b"msg:" + body] = last_sent = now
                self._one.send(b"to:honest-other;" + body)
                due += INTERVAL
            elif now > last_sent + PATIENCE:
                raise TimeoutError(f"{len(under_way)} messages of the others did not arrive")
            wait = max(0.0, due - time.perf_counter()) if more else INTERVAL
            readable, _, _ = select.select([self._one.socket, self._other.socket], [], [], wait)
            if self._one.socket in readable:
                self._one.receive_available()
            if self._other.socket in readable:
                messages = self._other.receive_available()
                now = time.perf_counter()
                times += [now - under_way.pop(each) for each in messages if each in under_way]
        return times

    def measure_for(self, seconds: float) -> Latency:
        """The figures of so many seconds."""
        end = time.perf_counter() + seconds
        return Latency.of(self.measure(lambda: time.perf_counter() < end))
