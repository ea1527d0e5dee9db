"""Commands that follow what happens, until Ctrl-C."""

from __future__ import annotations

import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from acebase_ipc.cli.admin import Admin, pass_admin
from acebase_ipc.cli.arguments import database_argument, json_option
from acebase_ipc.cli.output import (
    Unreachable,
    clean,
    console,
    count,
    duration,
    show,
    show_json,
    show_json_line,
    size,
    table,
)

LEVELS: Final = ("debug", "info", "warn", "error")
"""The severities of events, ascending."""

MAX_EVENTS: Final = 1000
"""Events that the relay remembers."""


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds between two updates.",
)
@json_option
@pass_admin
def top(admin: Admin, interval: float, as_json: bool) -> None:
    """Show the busiest databases, live.

    q or Ctrl-C ends it. Without a terminal, and with --json, it prints once.

    \b
    Example:
      acebase-ipc top
    """
    first = _Sample(admin)
    if as_json:
        show_json({"status": first.status, "databases": first.databases})
        return
    out = console()
    if not out.is_terminal:
        show(_top(None, first))
        return
    with (
        suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(_top(None, first), console=out, screen=True, auto_refresh=False) as display,
    ):
        display.refresh()
        last = first
        while pressed(interval) != "q":
            try:
                sample = _Sample(admin)
            except Unreachable as error:
                lost = Text(f"connection lost: {error.message}", style="bold red")
                display.update(Group(lost, _top(None, last)), refresh=True)
            else:
                display.update(_top(last, sample), refresh=True)
                last = sample


class _Sample:
    """The relay at one moment."""

    def __init__(self, admin: Admin) -> None:
        self.status: dict[str, Any] = admin.get("status")
        self.databases: list[dict[str, Any]] = admin.get("databases")["databases"]
        self.at = time.monotonic()

    @property
    def received(self) -> dict[str, int]:
        """The messages that each database has received."""
        return {each["name"]: each["traffic"]["received"] for each in self.databases}


def _top(before: _Sample | None, now: _Sample) -> RenderableType:
    """Return the display, with rates since the sample *before*."""
    status, memory = now.status, now.status["memory"]
    rates: dict[str, float] = {}
    if before is not None and now.at > before.at:
        known = before.received
        seconds = now.at - before.at
        rates = {name: (n - known.get(name, n)) / seconds for name, n in now.received.items()}
    head = Text(
        f"acebase-ipc {status['version']}: {status['state']},"
        f" started {duration(status['uptime'])} ago,"
        f" {count(status['peers'], 'peer')} of {count(status['databases'], 'database')},"
        f" {count(status['locks'], 'lock')}, {count(status['requests'], 'open request')}\n"
        f"{sum(rates.values()):,.0f} messages/s, memory {size(memory['used'])} of"
        f" {size(memory['limit'])}, event loop late by {duration(status['loop_lag']['last'])}\n"
    )
    busiest = sorted(now.databases, key=lambda each: (-rates.get(each["name"], 0), each["name"]))
    return Group(
        head,
        table(
            ("DATABASE", ">MESSAGES/S", ">PEERS", "MASTER", ">LOCKS", ">REQUESTS", ">MEMORY"),
            (
                (
                    each["name"],
                    f"{rates[each['name']]:,.0f}" if rates else None,
                    each["peers"],
                    "yes" if each["has_master"] else "no",
                    each["locks"],
                    each["requests"],
                    size(each["memory"]),
                )
                for each in busiest
            ),
        ),
    )


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits so many seconds for a key, and returns it or an empty text."""
    if sys.stdin is None or not sys.stdin.isatty():  # None: it is closed

        def wait(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield wait
        return

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@click.command()
@database_argument
@click.option("--peer", metavar="ID", help="Only what this peer sends or receives.")
@click.option("--type", "kind", metavar="TYPE", help="Only this type, such as lock-request.")
@click.option(
    "--bodies", is_flag=True, help="Show the bodies; the relay must run with --admin-bodies."
)
@json_option
@pass_admin
def watch(
    admin: Admin, database: str, peer: str | None, kind: str | None, bodies: bool, as_json: bool
) -> None:
    """Show the messages of a database, live.

    Those of the database DB are shown as they are relayed, until Ctrl-C. With --json each is an
    object in a line of its own.

    \b
    Example:
      acebase-ipc watch mydb_data --type lock-request
    """
    query: dict[str, Any] = {"messages": 1, "database": database}
    query |= {key: value for key, value in (("peer", peer), ("type", kind)) if value is not None}
    if bodies:
        query["bodies"] = 1
    with suppress(KeyboardInterrupt):
        for event in admin.stream(**query):
            if event.kind == "skipped":
                note = f"{event.data['messages']:,} messages were not shown: there are too many"
                click.echo(f"acebase-ipc: {note}", err=True)
            elif event.kind == "message" and as_json:
                show_json_line(event.data)
            elif event.kind == "message":
                click.echo(_message_line(event.data))


def _message_line(message: dict[str, Any]) -> str:
    receiver = "all" if message["to"] is None else message["to"]
    parts = [
        message["time"],
        f"{message['from']} -> {receiver}",
        message["type"],
        size(message["size"]),
        message.get("body"),
    ]
    return "  ".join(clean(each) for each in parts if each)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with new events, until Ctrl-C.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_EVENTS),
    default=100,
    show_default=True,
    help="The number of past events.",
)
@click.option(
    "--level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="Only events of this level and above.",
)
@json_option
@pass_admin
def events(admin: Admin, follow: bool, limit: int, level: str, as_json: bool) -> None:
    """Show who came and left, refusals, warnings.

    With --json each event is an object in a line of its own.

    \b
    Example:
      acebase-ipc events --follow
    """

    def print_event(event: dict[str, Any]) -> None:
        if as_json:
            show_json_line(event)
        else:
            click.echo(_event_line(event))

    answer = admin.get("events", limit=limit, level=level)
    for each in answer["events"]:
        print_event(each)
    if not follow:
        return
    shown = LEVELS[LEVELS.index(level) :]
    with suppress(KeyboardInterrupt):
        for event in admin.stream(last_event=answer["last"], events=1):
            if event.kind == "event" and event.data["severity"] in shown:
                print_event(event.data)


def _event_line(event: dict[str, Any]) -> str:
    return clean(f"{event['time']}  {event['severity']:<5}  {event['text']}")


COMMANDS = (top, watch, events)
