"""The programs in examples/client work as in docs/client.rst, with real AceBase processes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acebase.cluster import (
    HERE,
    Address,
    Cluster,
    Peer,
    PeerError,
    Process,
    Relay,
    node,
    running_relay,
)

EXAMPLES = HERE.parents[1] / "examples" / "client"
TOKEN = "open sesame"
TWISTD = ["-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", "-y"]

WATCH = [sys.executable, *TWISTD, str(EXAMPLES / "watch.tac")]
FOLLOW = [sys.executable, str(EXAMPLES / "follow.py"), "orders"]
ANSWER = [sys.executable, str(EXAMPLES / "answer.py")]


class Program(Process):
    """An example as its user runs it; a context manager that kills it at the end."""

    def __init__(self, command: list[str], address: Address, **environment: str) -> None:
        (name,) = (Path(each).name for each in command if each.startswith(str(EXAMPLES)))
        super().__init__(
            name,
            command,
            {
                "ACEBASE_IPC_URL": f"ws://127.0.0.1:{address.port}",
                "ACEBASE_IPC_TOKEN": address.token or "",
                **environment,
            },
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *failure: object) -> None:
        self.kill()

    def wait_printed(self, *words: str) -> None:
        self.wait_for(f"{words}", lambda: all(each in self.text() for each in words))


@dataclass(frozen=True)
class Shop:
    """A cluster with the database of the examples, and the three programs."""

    address: Address
    workers: list[Peer]
    watch: Program
    follow: Program


def knows(event: str) -> str:
    """A JavaScript expression: whether a process has received a subscription to the orders."""
    known = "ipc.remoteSubscriptions.filter((each) => each.path === 'orders')"
    return f"{known}.some((each) => each.event === '{event}')"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("shop")
    with (
        running_relay(token=TOKEN) as relay,
        Cluster(relay.addresses, directory, "shop") as cluster,
    ):
        _, workers = cluster.open("orders", workers=2)
        with (
            Program(WATCH, relay.address) as watch,
            Program(FOLLOW, relay.address) as follow,
            Program(ANSWER, relay.address) as answer,
        ):
            watch.wait_printed("watching the orders")
            follow.wait_printed("following orders")
            answer.wait_printed("answering")
            for worker in workers:
                worker.until(knows("child_added"))
                worker.until(knows("mutated"))
            yield Shop(relay.address, workers, watch, follow)


def order(pieces: int) -> dict[str, object]:
    return {"item": "tea", "pieces": pieces}


def test_the_service_and_the_asyncio_program_receive_every_write_in_order(shop: Shop) -> None:
    written = [[f"orders/{writer}-{number}" for number in range(20)] for writer in range(2)]

    for answered in [
        worker.begin("write", items=[[path, order(7)] for path in paths])
        for worker, paths in zip(shop.workers, written, strict=True)
    ]:
        answered.result()

    lasts = [paths[-1] for paths in written]
    shop.watch.wait_printed(*(f"{path}: 7 x tea" for path in lasts))
    shop.follow.wait_printed(*(f'"{path}"' for path in lasts))
    watched = [line.rpartition("] ")[2] for line in shop.watch.output]
    followed = [json.loads(line) for line in shop.follow.output if line.startswith("{")]
    for writer, paths in enumerate(written):
        mine = [line for line in watched if line.startswith(f"orders/{writer}-")]
        assert mine == [f"{path}: 7 x tea" for path in paths]
        assert [change for change in followed if change["path"] in paths] == [
            {"path": path, "value": order(7), "previous": None} for path in paths
        ]


def test_requests_of_node_processes_are_answered(shop: Shop) -> None:
    for worker in shop.workers:
        price = {"type": "price", "item": "coffee", "pieces": 2}
        assert worker.call("request", value=price, to="shop-prices") == 840


def test_a_function_that_fails_fails_the_request(shop: Shop) -> None:
    price = {"type": "price", "item": "milk", "pieces": 2}
    with pytest.raises(PeerError, match="there is no milk"):
        shop.workers[0].call("request", value=price, to="shop-prices")


def test_the_orders_of_the_shop_reach_all_programs_with_prices(tmp_path: Path) -> None:
    shop = [node(), str(EXAMPLES / "shop.js"), "3"]
    environment = {"NODE_PATH": str(HERE / "node_modules"), "SHOP_PATH": str(tmp_path)}
    with (
        running_relay() as relay,
        Program(WATCH, relay.address) as watch,
        Program(FOLLOW, relay.address) as follow,
        Program(ANSWER, relay.address) as answer,
    ):
        watch.wait_printed("watching the orders")
        follow.wait_printed("following orders")
        answer.wait_printed("answering")
        with Program(shop, relay.address, **environment) as process:
            assert process.wait_ended() == 0, process.text()
        watch.wait_printed(": 1 x tea", ": 2 x tea", ": 3 x tea")
        follow.wait_printed('"price": 350', '"price": 700', '"price": 1050')
    assert process.output == [
        "ordered: 1 x tea for 350 cents",
        "ordered: 2 x tea for 700 cents",
        "ordered: 3 x tea for 1050 cents",
    ]


@pytest.mark.parametrize("command", [FOLLOW, ANSWER], ids=["follow.py", "answer.py"])
def test_a_program_with_a_wrong_token_ends_and_prints_the_reason(
    shop: Shop, command: list[str]
) -> None:
    with Program(command, Address(shop.address.port, token="wrong")) as program:
        assert program.wait_ended() == 1
    (line,) = program.output
    assert line.startswith(f"{program.name}: the relay answered 403")
    assert "check the token" in line


def test_of_two_with_one_id_the_earlier_ends_and_prints_the_reason(tcp_relay: Relay) -> None:
    with Program(ANSWER, tcp_relay.address) as earlier:
        earlier.wait_printed("answering")
        with Program(ANSWER, tcp_relay.address) as later:
            later.wait_printed("answering")
            assert earlier.wait_ended() == 1
            assert "another process has connected with this id" in earlier.output[-1]

            later.signal(signal.SIGTERM)
            assert later.wait_ended() == 0
    assert later.output == ["answering"]


def test_the_asyncio_program_ends_when_it_is_interrupted(tcp_relay: Relay) -> None:
    # The name is looked up in a thread, which must end, too.
    by_name = {"ACEBASE_IPC_URL": f"ws://localhost:{tcp_relay.address.port}"}
    with Program(FOLLOW, tcp_relay.address, **by_name) as follow:
        follow.wait_printed("following orders")
        follow.signal(signal.SIGINT)
        assert follow.wait_ended() == 0
    assert follow.output == ["following orders"]


def test_the_asyncio_program_reports_that_there_is_no_relay(tmp_path: Path) -> None:
    address = Address(0)
    nowhere = {"ACEBASE_IPC_URL": f"ws+unix:{tmp_path}/no-relay"}
    with Program(FOLLOW, address, **nowhere) as follow:
        assert follow.wait_ended() == 1
    assert follow.output[-1].startswith("follow.py: cannot connect to the relay")


def test_the_service_shuts_down_cleanly(tcp_relay: Relay) -> None:
    with Program(WATCH, tcp_relay.address) as watch:
        watch.wait_printed("watching the orders")
        watch.signal(signal.SIGTERM)
        # After its shutdown twistd lets the signal end its process.
        assert watch.wait_ended() == -signal.SIGTERM
    assert "Server Shut Down." in watch.text()
    assert "Traceback" not in watch.text()
