"""What docs/nodejs.rst says about acebase-server: where it takes its settings for IPC from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.acebase.cluster import DEADLINE, HERE, Cluster, Process, Relay, node
from tests.documents import DOCS, blocks
from tests.programs import missing

PROGRAM = """
process.chdir(process.argv[1]);
console.log = () => {};
const http = require('node:http');
const { listen } = http.Server.prototype;
http.Server.prototype.listen = function (...given) { // it does not tell its port
    this.once('listening', () => console.info(`port ${this.address().port}`));
    return listen.apply(this, given);
};
const { AceBaseServer } = require('acebase-server');
"""

PORT = re.compile(r"^port (\d+)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _acebase_server() -> None:
    """Skip the tests, or fail them where ``CI`` is set, if acebase-server is missing."""
    if not (HERE / "node_modules" / "acebase-server").is_dir():
        missing("acebase-server is not installed: run 'npm ci' in tests/acebase")


def snippet(relay: Relay, path: Path) -> str:
    """The program of the document, on a free port, without users."""
    (text,) = (
        each.text for each in blocks(DOCS / "nodejs.rst") if "new AceBaseServer(" in each.text
    )
    for shown, ours in (
        ("port: 9163", f"port: {relay.address.port}"),
        ("port: 5757", "port: 0, authentication: { enabled: false }, logLevel: 'error'"),
        ("'/srv/data'", json.dumps(str(path))),
    ):
        assert text.count(shown) == 1
        text = text.replace(shown, ours)
    return text


@contextmanager
def running(program: str, directory: Path) -> Iterator[Process]:
    command = [node(), "-e", PROGRAM + program, str(directory)]
    process = Process("acebase-server", command, {"NODE_PATH": str(HERE / "node_modules")})
    try:
        yield process
    finally:
        process.kill()


def put(port: int, path: str, value: object) -> None:
    """Write a value as a web client of acebase-server does."""
    body = json.dumps({"val": value}).encode()
    request = Request(
        f"http://127.0.0.1:{port}/data/mydb/{path}",
        body,
        {"Content-Type": "application/json"},
        method="PUT",
    )
    with urlopen(request, timeout=DEADLINE) as answer:
        assert json.load(answer) == {"success": True}


def test_it_is_a_worker_of_the_cluster(tcp_relay: Relay, tmp_path: Path) -> None:
    """What is written through it takes the master's locks, and the master hears of it."""
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    with Cluster(tcp_relay.addresses, data, "mydb") as cluster:
        master, _ = cluster.open("counter", workers=0)
        master.subscribe("counter", "value")
        with running(snippet(tcp_relay, data), elsewhere) as server:
            server.wait_for("start", lambda: PORT.search(server.text()) is not None)
            (port,) = PORT.findall(server.text())
            master.until("wire.announced.some(([kind]) => kind === 'connect')")
            put(int(port), "counter/seed", 7)
            master.wait_for(
                "the value", lambda: master.values("value counter")[-1:] == [{"seed": 7}]
            )
        assert not list(elsewhere.iterdir())


def test_ipc_within_storage_ignores_the_path(tcp_relay: Relay, tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.joinpath("mydb.acebase").mkdir(parents=True)  # of the rules; without it, it crashes
    elsewhere.mkdir()
    right = snippet(tcp_relay, data)
    (ipc,) = re.findall(r"ipc: \{.*\}", right)
    wrong = right.replace(ipc, f"storage: {{ {ipc.replace('worker', 'master')} }}")
    with running(wrong, elsewhere) as server:
        server.wait_for("start", lambda: PORT.search(server.text()) is not None)
    files = [each.relative_to(tmp_path) for each in tmp_path.rglob("data.db")]
    assert files == [Path("elsewhere/mydb.acebase/data.db")]
