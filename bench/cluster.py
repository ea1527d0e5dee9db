"""Measures a cluster of relays: the latency and the rate at home, one away and both away.

    python -m bench.cluster [--kills 20]

Starts a Redis and three relays on loopback, each in a process of its own. *At home* both peers are
connected to the relay that serves their database, *one away* one of them to another one, *both
away* both of them to two others. With ``--kills`` a home is killed that often instead, and the
time is measured until a message arrives between two peers at other relays.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater, react

from acebase_ipc import AceBaseIPCServerConfig, IPCClient
from tests.cluster.processes import RelayProcess, relay_processes
from tests.cluster.redis_server import RedisServer, redis_server

ROUND_TRIPS = 5_000
WARM_UP = 500
MESSAGES = 50_000
BODY = "x" * 100

PLACES = {"at home": (0, 0), "one away": (0, 1), "both away": (1, 2)}
"""The relays of the two peers; the first relay is the home."""


class Pair:
    """Two peers of one database."""

    def __init__(self, first: str, second: str, database: str) -> None:
        self.first, self.second = (
            IPCClient(url, database, retry_policy=lambda _: 0.02) for url in (first, second)
        )
        self._waiting: Deferred[None] | None = None
        self._missing = 0
        self.second.on_message(self._answer)
        self.first.on_message(self._arrived)
        self._answers = True

    async def connect(self) -> None:
        for each in (self.first, self.second):
            each.startService()
            await each.when_connected()

    async def stop(self) -> None:
        for each in (self.first, self.second):
            await each.stopService()

    def _answer(self, body: str) -> None:
        if self._answers:
            self.second.send(body, to=self.first.id)
        else:
            self._arrived(body)

    def _arrived(self, _: str) -> None:
        self._missing -= 1
        if self._missing == 0 and self._waiting is not None:
            self._waiting.callback(None)

    async def round_trip(self) -> float:
        began = time.perf_counter()
        self._missing, self._waiting = 1, Deferred()
        self.first.send(BODY, to=self.second.id)
        await self._waiting
        return time.perf_counter() - began

    async def stream(self, messages: int) -> float:
        """Messages per second in one direction."""
        self._answers = False
        self._missing, self._waiting = messages, Deferred()
        began = time.perf_counter()
        for _ in range(messages):
            await self.first.send(BODY, to=self.second.id)
        await self._waiting
        self._answers = True
        return messages / (time.perf_counter() - began)


async def keep_home(relays: Sequence[RelayProcess], database: str) -> IPCClient:
    """Let the first relay, which runs alone, be the home of *database*, and start the others.

    Returns the client because of which it stays the home.
    """
    keeper = IPCClient(relays[0].url, database)
    keeper.startService()
    await keeper.when_connected()
    for each in relays[1:]:
        each.begin()
    for each in relays[1:]:
        each.wait_listening()
    return keeper


async def measure(relays: Sequence[RelayProcess]) -> None:
    """Print the latencies and rates of each place."""
    keeper = await keep_home(relays, "bench_data")
    for name, (first, second) in PLACES.items():
        pair = Pair(relays[first].url, relays[second].url, "bench_data")
        await pair.connect()
        for _ in range(WARM_UP):
            await pair.round_trip()
        times = [await pair.round_trip() for _ in range(ROUND_TRIPS)]
        cuts = quantiles(times, n=100)
        rate = await pair.stream(MESSAGES)
        tell(
            f"{name:10} round trip p50 {median(times) * 1e6:5.0f} us, p99 {cuts[98] * 1e6:5.0f} us;"
            f" {rate:7,.0f} messages/s in one direction"
        )
        await pair.stop()
    await keeper.stopService()


async def kill(config: AceBaseIPCServerConfig, times: int) -> None:
    """Print how long it takes until the peers of a relay that was killed are served."""
    took = []
    for number in range(times):
        with relay_processes([config] * 3, begun=1) as relays:
            keeper = await keep_home(relays, "kill_data")
            pair = Pair(relays[1].url, relays[2].url, "kill_data")
            await pair.connect()
            for _ in range(10 + 37 * number % 50):
                await pair.round_trip()
            cut: set[IPCClient] = set()
            for client in (pair.first, pair.second):
                client.on_disconnected(lambda *_, client=client, cut=cut: cut.add(client))
            killed = relays[0].kill()
            while len(cut) < 2 or not (pair.first.connected and pair.second.connected):
                await pause()
            while not took_over(pair):
                await pause()
            await pair.round_trip()
            took.append(time.monotonic() - killed)
            await keeper.stopService()
            tell(f"kill {number + 1}: {took[-1]:.2f} s")
            await pair.stop()
    took.sort()
    tell(
        f"{times} kills of a home: a message arrives after p50 {median(took):.2f} s,"
        f" max {took[-1]:.2f} s"
    )


def took_over(pair: Pair) -> bool:
    """Whether both peers see each other."""
    return pair.second.id in pair.first.peers and pair.first.id in pair.second.peers


async def pause() -> None:
    """Let the reactor turn."""
    clock: Any = reactor
    await deferLater(clock, 0.005)


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def make_config(redis: RedisServer, directory: Path) -> AceBaseIPCServerConfig:
    secret = directory / "secret"
    secret.write_text("a secret of the benchmark")
    secret.chmod(0o600)
    return AceBaseIPCServerConfig(
        port=0,
        cluster=redis.url,
        cluster_address="127.0.0.1:0",
        cluster_secret_file=str(secret),
    )


async def run(kills: int) -> None:
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as redis:
        config = make_config(redis, Path(name))
        if kills:
            await kill(config, kills)
            return
        with relay_processes([config] * 3, begun=1) as relays:
            await measure(relays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=0, help="how many homes to kill")
    options = parser.parse_args()
    react(lambda _: ensureDeferred(run(options.kills)))


if __name__ == "__main__":
    main()
