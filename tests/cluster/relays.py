"""Several relays of one cluster in this process, on loopback, and their clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from acebase_ipc import AceBaseIPCServer, AceBaseIPCServerConfig, IPCClient
from acebase_ipc.server.cluster import Cluster
from tests.cluster.redis_server import RedisServer

reactor: Any = _reactor

LEASE = 3.0
"""Seconds: a process of the tests may be busy for two of them."""

DEADLINE = 20.0
"""Seconds for what takes fractions of one; a loaded machine may take longer."""


def write_secret(directory: Path, text: str = "a secret of the tests") -> str:
    """Write the secret of a cluster to a file; returns its path."""
    path = directory / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def cluster_config(
    redis: RedisServer, directory: Path, lease: float = LEASE, **options: Any
) -> AceBaseIPCServerConfig:
    """The configuration of a relay of a cluster, on free ports."""
    values: dict[str, Any] = {
        "port": 0,
        "cluster": redis.url,
        "cluster_address": "127.0.0.1:0",
        "cluster_secret_file": write_secret(directory),
        "cluster_lease": lease,
        **options,
    }
    return AceBaseIPCServerConfig(**values)


def cluster_of(server: AceBaseIPCServer) -> Cluster:
    """What makes *server* a member."""
    cluster = server._parts.cluster
    assert cluster is not None
    return cluster


async def until(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Wait until *condition* is true, looking each time the reactor has turned."""
    end = reactor.seconds() + deadline
    while not condition():
        assert reactor.seconds() < end, "it takes too long"
        await deferLater(reactor, 0.005)


async def within(waiting: Deferred[Any], deadline: float = DEADLINE) -> Any:
    """Wait for *waiting*, but not longer than the deadline."""
    waiting.addTimeout(deadline, reactor)
    return await waiting


class Peer:
    """A documented peer, which keeps what it receives."""

    def __init__(self, url: str, database: str, **options: Any) -> None:
        self.client = IPCClient(url, database, retry_policy=lambda _: 0.05, **options)
        self.bodies: list[str] = []
        self.client.on_message(self.bodies.append)

    async def connect(self) -> Peer:
        """Connect, and wait for that."""
        self.client.startService()
        await within(self.client.when_connected())
        return self

    async def receives(self, body: str) -> None:
        """Wait until it has received *body*."""
        await until(lambda: body in self.bodies)


@asynccontextmanager
async def relays(
    redis: RedisServer, directory: Path, count: int = 3, **options: Any
) -> AsyncIterator[list[AceBaseIPCServer]]:
    """Run relays of one cluster until the end of the block."""
    servers = [
        AceBaseIPCServer(cluster_config(redis, directory, **options), reactor) for _ in range(count)
    ]
    try:
        await gatherResults([each.start() for each in servers])
        await until(lambda: all(len(cluster_of(each).node.relays) == count for each in servers))
        yield servers
    finally:
        await gatherResults([each.stop() for each in servers])


@asynccontextmanager
async def peers(*made: Peer) -> AsyncIterator[None]:
    """Connect peers, one after the other, until the end of the block."""
    try:
        for each in made:
            await each.connect()
        yield
    finally:
        await gatherResults([each.client.stopService() for each in made])
