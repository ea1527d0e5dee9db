"""What the admin endpoint, the metrics and the command tell of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest_twisted
import treq
from click.testing import CliRunner
from twisted.internet.threads import deferToThread

from acebase_ipc import AceBaseIPCServer
from acebase_ipc.admin.families import METRICS
from acebase_ipc.cli.main import cli
from acebase_ipc.cli.shape import answer_schema, difference
from tests.cluster.redis_server import RedisServer
from tests.cluster.relays import LEASE, Peer, cluster_of, peers, relays, until, within


def admin_of(server: AceBaseIPCServer) -> str:
    """The URL of the admin endpoint."""
    assert server._admin is not None
    return server._admin.describe()


async def shown_by(server: AceBaseIPCServer) -> Any:
    """What the API tells of the cluster."""
    response = await within(treq.get(f"{admin_of(server)}/api/v1/cluster"))
    answer = await response.json()
    assert difference(answer, answer_schema("get", "cluster")) is None
    return answer["cluster"]


async def told_by(server: AceBaseIPCServer, *arguments: str) -> str:
    """What a command prints."""
    runner = CliRunner()
    command = ["--admin", admin_of(server), *arguments]
    result = await deferToThread(runner.invoke, cli, command)
    assert result.exit_code == 0, result.output
    return str(result.output)


@pytest_twisted.ensureDeferred
async def test_relays_homes_epochs_and_links_are_shown(redis: RedisServer, tmp_path: Path) -> None:
    options = {"admin": ("tcp:0:interface=127.0.0.1",)}
    async with (
        relays(redis, tmp_path, 2, **options) as servers,
        peers(*(Peer(each.url, "shop_data") for each in servers)),
    ):
        home, other = sorted(
            servers, key=lambda each: not cluster_of(each).node.may_serve("shop_data")
        )
        shown, seen = await shown_by(home), await shown_by(other)
        (found,) = shown["homes"]
        epoch = cluster_of(home).node.member.homes["shop_data"]
        assert found == {"database": "shop_data", "epoch": epoch}
        assert (shown["links"], seen["links"]) == (0, 1)
        assert seen["links_total"] >= 1
        assert seen["homes"] == []
        assert shown["serving"]
        assert 0 < shown["lease_left"] < LEASE
        assert shown["store_answers"]
        assert 0 < shown["store_lag"] < 5
        ready = await (await within(treq.get(f"{admin_of(other)}/readyz"))).json()
        assert ready["checks"]["lease"] is True
        addresses = {cluster_of(each).address for each in servers}
        assert {each["address"] for each in seen["relays"]} == addresses

        metrics = await (await within(treq.get(f"{admin_of(other)}/metrics"))).text()
        for metric in METRICS:
            if metric.short.startswith("cluster_"):
                assert f"\n{metric.name} " in metrics, metric.name
        assert "\nacebase_ipc_cluster_links 1.0\n" in metrics

        told = await told_by(home, "cluster")
        assert "shop_data" in told
        assert all(each in told for each in addresses)

        await told_by(home, "drain")
        await until(lambda: cluster_of(other).node.may_serve("shop_data"))
        told = await told_by(home, "cluster")
        assert "shop_data" not in told
        await told_by(home, "drain", "--off")


@pytest_twisted.ensureDeferred
async def test_a_relay_alone_says_that_it_is_alone(tmp_path: Path) -> None:
    from acebase_ipc import AceBaseIPCServerConfig

    config = AceBaseIPCServerConfig(port=0, admin=("tcp:0:interface=127.0.0.1",))
    server = AceBaseIPCServer(config)
    await server.start()
    try:
        assert await shown_by(server) is None
        assert "no member of a cluster" in await told_by(server, "cluster")
    finally:
        await server.stop()
