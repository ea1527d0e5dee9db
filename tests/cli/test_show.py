"""Commands that show the state of a real relay."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.cli.cluster import DATABASE, Cluster, PlayedPeer, Served, served
from tests.cli.conftest import Command
from tests.relay.core import MASTER


def test_status(command: Command, relay: Served, played: Cluster) -> None:
    shown = command("--admin", relay.admin, "status")

    assert shown.status == 0
    values = dict(line.split(maxsplit=1) for line in shown.lines)
    assert re.fullmatch(r"serving, started .+ ago", values["state"])
    assert values["process"].startswith(f"{relay.process.pid} on ")
    assert values["peers"] == "3"
    assert values["token"] == "not required"
    assert values["requests"] == "1 open"
    assert f"ws://127.0.0.1:{relay.port}" in shown.output
    assert not any(line.endswith(" ") for line in shown.lines)


def test_status_as_json(command: Command, relay: Served, played: Cluster) -> None:
    status = command("--admin", relay.admin, "status", "--json").json

    assert (status["state"], status["peers"], status["locks"]) == ("serving", 3, 1)


def test_databases(command: Command, relay: Served, played: Cluster) -> None:
    with PlayedPeer(relay.port, "lonely", "other\u202e"):
        shown = command("--admin", relay.admin, "databases")
        listed = command("--admin", relay.admin, "databases", "--json").json["databases"]

    assert [each["name"] for each in listed] == [DATABASE, "other\u202e"]
    _, first, second = (line.split() for line in shown.lines)
    assert first[:4] == [DATABASE, "3", "yes", "1"]
    assert second[:3] == [r"other\u202e", "1", "no"], "what reorders a line is escaped"


def test_peers_with_their_processes(command: Command, relay: Served, played: Cluster) -> None:
    shown = command("--admin", relay.admin, "peers", DATABASE)
    listed = command("--admin", relay.admin, "peers", DATABASE, "--json").json["peers"]

    assert [each["id"] for each in listed] == [MASTER, played.holder.id, played.waiter.id]
    assert {each["pid"] for each in listed} == {os.getpid()}, "all are played by this process"
    assert listed[1]["address"] == played.holder.address
    assert Path(sys.executable).name[:6] in listed[1]["command"]
    (line,) = (line for line in shown.lines if line.startswith(played.holder.id))
    assert f" {os.getpid()} " in line


def test_peers_of_another_host_have_no_processes(
    command: Command, relay: Served, played: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address of loopback may be that of another machine, behind a tunnel."""
    monkeypatch.setattr("socket.gethostname", lambda: "another host")
    listed = command("--admin", relay.admin, "peers", DATABASE, "--json").json["peers"]

    assert {each["pid"] for each in listed} == {None}


def test_locks(command: Command, relay: Served, played: Cluster) -> None:
    shown = command("--admin", relay.admin, "locks", DATABASE)
    table = command("--admin", relay.admin, "locks", DATABASE, "--json").json

    held = next(line for line in shown.lines if line.startswith(played.holder.id)).split()
    assert held[1:5] == ["5", "master", "write", "books/[1]"]
    assert held[-2:] == ["transactNode", "t1"]
    waits = next(line for line in shown.lines if line.startswith(played.waiter.id)).split()
    assert waits[1:4] == ["lock-request", "write", "authors"]
    assert [each["holder"] for each in table["locks"]] == [played.holder.id]
    assert [each["worker"] for each in table["requests"]] == [played.waiter.id]


def test_a_database_without_locks(command: Command, relay: Served) -> None:
    with PlayedPeer(relay.port, "lonely", "other"):
        shown = command("--admin", relay.admin, "locks", "other")

    assert shown.output == "No lock is held.\n\nNobody waits.\n"


@pytest.mark.parametrize("name", ["peers", "locks"])
def test_the_wire_name_is_told(command: Command, relay: Served, played: Cluster, name: str) -> None:
    shown = command("--admin", relay.admin, name, "mydb")

    assert shown.status == 1
    assert "AceBase's mydb is mydb_data on the wire" in shown.error


def test_an_unknown_database(command: Command, relay: Served) -> None:
    shown = command("--admin", relay.admin, "peers", "books")

    assert (shown.status, shown.output) == (1, "")
    assert shown.error == "acebase-ipc: the relay has no database 'books': nobody is connected"


def test_a_unix_socket_needs_no_token(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with served(admin=f"unix:{path}"):
        shown = command("databases", "--json", environment={"ACEBASE_IPC_ADMIN": f"unix:{path}"})

    assert shown.json == {"databases": []}


def test_a_token(command: Command, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("right\n")
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    with served(f"--admin-token-file={tokens}") as relay:
        without = command("--admin", relay.admin, "status")
        refused = command("--admin", relay.admin, "--token-file", str(wrong), "status")
        accepted = command("--admin", relay.admin, "--token-file", str(tokens), "status")
        variable = {"ACEBASE_IPC_ADMIN_TOKEN": "right"}
        from_variable = command("--admin", relay.admin, "status", environment=variable)

    assert without.status == refused.status == 1
    assert "requires a token" in without.error
    assert "does not accept the token" in refused.error
    assert accepted.status == from_variable.status == 0
