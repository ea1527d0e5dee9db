"""What docs/nodejs.rst says about names of databases and hosts: some end a real AceBase process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acebase.cluster import HERE, Process, node, running_relay

PROGRAM = """
console.log = () => {};
const { AceBase } = require('acebase');
const http = require('node:http');
const { name, path, ipc } = JSON.parse(process.argv[1]);
const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const look = () => new Promise((resolve) => {
    const request = http.get({ hostname: ipc.host, port: ipc.port, path: "/healthz" }, resolve);
    request.on("error", resolve);
});
(async () => {
    const db = new AceBase(name, { logLevel: 'error', storage: { path, ipc } });
    await db.ready();
    while (db.api.storage.ipc.ws?.readyState !== 1) { await sleep(10); }
    await db.ref('small').set(1);
    console.info('works');
    db.api.storage.ipc.sendNotification({ text: 'x'.repeat(20000) });
    await look(); // what becomes of the POST is known by then
    await db.ref('small').set(2);
    console.info('goes on');
    process.kill(process.pid, 'SIGKILL');
})();
"""
"""Writes, and sends a notification above the default maximum payload of 16 KiB."""

SPACE, UNICODE = "my shop", "\u5546\u5e97"
UNESCAPED, NOT_FOUND = "Request path contains unescaped characters", "getaddrinfo ENOTFOUND [::1]"


def run(directory: Path, name: str, port: int, **ipc: str) -> str:
    """Run a master to its end; returns what it has printed."""
    settings = {
        "name": name,
        "path": str(directory),
        "ipc": {"port": port, "role": "master", **ipc},
    }
    command = [node(), "-e", PROGRAM, json.dumps(settings)]
    process = Process(name, command, {"NODE_PATH": str(HERE / "node_modules")})
    try:
        process.wait_ended()
    finally:
        process.kill()
    assert "works" in process.text()
    return process.text()


@pytest.mark.parametrize("name", [SPACE, UNICODE])
def test_a_large_message_ends_a_process_whose_database_has_such_a_name(
    tmp_path: Path, name: str
) -> None:
    with running_relay() as relay:
        printed = run(tmp_path, name, relay.address.port, host="127.0.0.1")
    assert UNESCAPED in printed
    assert "goes on" not in printed


def test_another_wire_name_helps(tmp_path: Path) -> None:
    with running_relay() as relay:
        printed = run(tmp_path, SPACE, relay.address.port, host="127.0.0.1", dbname="shop_data")
        assert "shop_data: [master] joined" in relay.text()
    assert "goes on" in printed


def test_a_larger_payload_helps(tmp_path: Path) -> None:
    with running_relay("--max-payload=16MiB") as relay:
        assert "goes on" in run(tmp_path, UNICODE, relay.address.port, host="127.0.0.1")


def test_a_large_message_ends_a_process_that_writes_the_host_in_brackets(tmp_path: Path) -> None:
    with running_relay("--port=tcp6:0:interface=\\:\\:1", endpoints=()) as relay:
        relay.wait_for("start", lambda: "] ready" in relay.text())
        _, _, rest = relay.text().partition("listening on ws://[::1]:")
        printed = run(tmp_path, "six", int(rest.split()[0]), host="[::1]")
    assert NOT_FOUND in printed
    assert "goes on" not in printed
