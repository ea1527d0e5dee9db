"""Commands that show what the relay does at the moment."""

from __future__ import annotations

import socket
import time
from typing import Any
from urllib.parse import urlsplit

import click
from rich.text import Text

from acebase_ipc.cli.admin import Admin, pass_admin
from acebase_ipc.cli.arguments import database_argument, json_option
from acebase_ipc.cli.output import (
    duration,
    fields,
    show,
    show_json,
    size,
    table,
)
from acebase_ipc.cli.processes import Process, find_processes


@click.command()
@json_option
@pass_admin
def status(admin: Admin, as_json: bool) -> None:
    """Show the relay's state, traffic and memory.

    \b
    Example:
      acebase-ipc status
    """
    answer = admin.get("status")
    if as_json:
        show_json(answer)
    else:
        show(fields(*status_fields(answer)))


def status_fields(status: dict[str, Any]) -> list[tuple[str, object]]:
    """Return what a person wants to know of the relay's *status*."""
    connections, traffic, memory = status["connections"], status["traffic"], status["memory"]
    lag = status["loop_lag"]
    return [
        ("relay", f"acebase-ipc {status['version']}, Python {status['python']}"),
        ("state", f"{status['state']}, started {duration(status['uptime'])} ago"),
        ("process", f"{status['pid']} on {status['hostname']}"),
        ("listens on", ", ".join(status["endpoints"])),
        ("token", "required" if status["token_required"] else "not required"),
        ("databases", f"{status['databases']:,}"),
        ("peers", f"{status['peers']:,}"),
        (
            "connections",
            f"{connections['websockets']:,} WebSockets, {connections['http']:,} HTTP",
        ),
        ("at most", f"{connections['max']:,} connections"),
        ("received", f"{traffic['received']:,} messages, {size(traffic['received_bytes'])}"),
        ("sent", f"{traffic['sent']:,} messages, {size(traffic['sent_bytes'])}"),
        ("messages held", f"{size(memory['used'])} of {size(memory['limit'])}"),
        ("memory", f"{size(memory['resident'])} resident"),
        ("locks", f"{status['locks']:,} held"),
        ("requests", f"{status['requests']:,} open"),
        (
            "event loop",
            f"late by {duration(lag['last'])}, at most {duration(lag['max'])}",
        ),
    ]


@click.command()
@json_option
@pass_admin
def cluster(admin: Admin, as_json: bool) -> None:
    """Show the cluster of relays, as this relay sees it.

    \b
    Example:
      acebase-ipc cluster
    """
    answer = admin.get("cluster")
    if as_json:
        show_json(answer)
        return
    found = answer["cluster"]
    if found is None:
        show(Text("The relay is no member of a cluster."))
        return
    lag = found["store_lag"]
    show(
        fields(
            ("this relay", found["id"]),
            ("serving", "yes" if found["serving"] else "no: Redis does not answer"),
            ("lease", f"{duration(found['lease_left'])} left"),
            ("Redis", "no answer" if not found["store_answers"] else f"answers in {duration(lag)}"),
            ("links", f"{found['links']:,} open, {found['links_total']:,} so far"),
        ),
        Text(""),
        table(
            ("RELAY", "ADDRESS", ">DATABASES", ">FREE", "DRAINING"),
            (
                (
                    each["id"],
                    each["address"],
                    f"{each['databases']:,}",
                    f"{each['free']:,}",
                    "yes" if each["draining"] else "no",
                )
                for each in found["relays"]
            ),
        ),
        Text(""),
        table(
            ("HOME OF", ">EPOCH"), ((each["database"], each["epoch"]) for each in found["homes"])
        ),
    )


@click.command()
@json_option
@pass_admin
def databases(admin: Admin, as_json: bool) -> None:
    """List the databases that have peers.

    \b
    Example:
      acebase-ipc databases
    """
    answer = admin.get("databases")
    if as_json:
        show_json(answer)
    else:
        show(database_table(answer["databases"]))


def database_table(databases: list[dict[str, Any]]) -> Any:
    """Return the table of *databases*."""
    return table(
        ("DATABASE", ">PEERS", "MASTER", ">LOCKS", ">REQUESTS", ">RECEIVED", ">SENT", ">MEMORY"),
        (
            (
                each["name"],
                each["peers"],
                "yes" if each["has_master"] else "no",
                each["locks"],
                each["requests"],
                f"{each['traffic']['received']:,}",
                f"{each['traffic']['sent']:,}",
                size(each["memory"]),
            )
            for each in databases
        ),
    )


@click.command()
@database_argument
@json_option
@pass_admin
def peers(admin: Admin, database: str, as_json: bool) -> None:
    """List the peers of a database.

    DB is its wire name: AceBase's mydb is mydb_data. Where the relay runs on this machine, the
    process of each peer that is connected over TCP is shown, too; those of other users only to
    root.

    \b
    Example:
      acebase-ipc peers mydb_data
    """
    found = admin.database(database)["peers"]
    processes: dict[str, Process] = {}
    relay = admin.get("status")
    if relay["hostname"] == socket.gethostname():
        ports = set(map(_port, relay["endpoints"]))
        processes = find_processes((each["address"] for each in found), ports)
    for each in found:
        process = processes.get(each["address"]) if each["state"] == "connected" else None
        each["pid"] = process and process.pid
        each["command"] = process and process.command
    if as_json:
        show_json({"peers": found})
    else:
        show(_peer_table(found))


def _peer_table(peers: list[dict[str, Any]]) -> Any:
    return table(
        (
            "ID",
            "STATE",
            "DIALECT",
            "ADDRESS",
            ">FOR",
            ">LAG",
            ">QUEUED",
            ">RECEIVED",
            ">SENT",
            ">PID",
            "COMMAND",
        ),
        (
            (
                each["id"],
                each["state"],
                each["dialect"],
                each["address"],
                duration(time.time() - each["connected"] / 1000),
                duration(each["lag"]),
                f"{each['queued']:,}",
                f"{each['traffic']['received']:,}",
                f"{each['traffic']['sent']:,}",
                each["pid"],
                each["command"],
            )
            for each in peers
        ),
    )


@click.command()
@database_argument
@json_option
@pass_admin
def locks(admin: Admin, database: str, as_json: bool) -> None:
    """Show who holds locks, and who waits.

    AceBase's locks are global: one writer or many readers of the whole database, whatever
    the path. TRANSACTION tells which requests belong together, BY who has granted a lock: the
    relay grants what the master could not but grant. A lock that is kept was released by its
    holder; it is released at the master after those that the relay has granted because of it.

    \b
    Example:
      acebase-ipc locks mydb_data
    """
    answer = admin.database(database)
    held, waiting = answer["locks"], answer["requests"]
    if as_json:
        show_json({"locks": held, "requests": waiting})
        return
    held_table = table(
        ("HOLDER", ">LOCK", "BY", "TO", "PATH", ">FOR", "COMMENT", "TRANSACTION"),
        (
            (
                each["holder"],
                each["id"],
                f"{each['granted_by']}, kept" if each["is_kept"] else each["granted_by"],
                _purpose(each),
                each["path"],
                duration(each["age"]),
                each["comment"],
                each["tid"],
            )
            for each in held
        ),
    )
    waiting_table = table(
        ("WAITING", "FOR A", "TO", "PATH", ">FOR", "COMMENT", "TRANSACTION"),
        (
            (
                each["worker"],
                each["kind"],
                _purpose(each) if each["kind"] == "lock-request" else None,
                each["path"] or None,
                duration(each["age"]),
                each["comment"] or None,
                each["tid"] or None,
            )
            for each in waiting
        ),
    )
    show(
        held_table if held else Text("No lock is held."),
        Text(""),
        waiting_table if waiting else Text("Nobody waits."),
    )


def _port(url: str) -> int:
    """Return the port in a URL; 0 if there is none, as in that of a unix socket."""
    try:
        return urlsplit(url).port or 0
    except ValueError:
        return 0


def _purpose(lock: dict[str, Any]) -> str:
    return "write" if lock["write"] else "read"


COMMANDS = (status, cluster, databases, peers, locks)
