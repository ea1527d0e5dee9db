"""``acebase-ipc ping``: how long a message takes through the relay and back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

import click
from rich.progress import Progress

from acebase_ipc.cli import loop
from acebase_ipc.cli.arguments import json_option, read_sizes
from acebase_ipc.cli.output import (
    PATIENCE,
    Failed,
    Unreachable,
    console,
    duration,
    one_line,
    show,
    show_json,
    table,
)
from acebase_ipc.cli.output import size as show_size
from acebase_ipc.cli.pair import connected_pair
from acebase_ipc.client.errors import (
    ClientError,
    ConnectionFailed,
    NotARelay,
    TLSFailed,
)
from acebase_ipc.http.tokens import read_token_file

DATABASE: Final = "acebase-ipc-ping"
"""The wire name of the database that both peers join: nobody else is disturbed."""

TOKEN_VARIABLE: Final = "ACEBASE_IPC_TOKEN"

DEFAULT_SIZE: Final = "200"
"""Bytes: a lock request of AceBase."""

MIN_SIZE: Final = 10
"""Bytes: room for the number that tells one message from the next."""


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """What was measured with messages of one size; times in seconds."""

    size: int
    count: int
    minimum: float
    median: float
    p99: float
    maximum: float


def summarize(size: int, seconds: list[float]) -> RoundTrips:
    """Return the summary of round trips of *seconds*, at least one."""
    ordered = sorted(seconds)

    def percentile(part: float) -> float:
        return ordered[max(0, ceil(part * len(ordered)) - 1)]

    return RoundTrips(
        size, len(ordered), ordered[0], percentile(0.5), percentile(0.99), ordered[-1]
    )


def relay_token(token_file: str | None) -> str | None:
    """Return the relay's token: the first in *token_file*, or that of the environment.

    :raises ConfigError: if the file holds none.
    """
    if token_file is not None:
        return read_token_file(token_file)[0].token.decode()
    return os.environ.get(TOKEN_VARIABLE) or None


relay_token_option = click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Read the relay's token from this file. [environment:"
    f" {TOKEN_VARIABLE} holds the token itself]",
)
ca_option = click.option(
    "--ca",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Trust the certificates in this PEM file. [default: those of the system]",
)


@click.command()
@click.argument("url")
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="Round trips of each size.",
)
@click.option(
    "--size",
    "sizes",
    metavar="SIZE",
    callback=read_sizes,
    multiple=True,
    default=[DEFAULT_SIZE],
    show_default=True,
    help="Bytes of each message, such as 16KiB; may be given more than once.",
)
@click.option(
    "--database",
    metavar="DB",
    default=DATABASE,
    show_default=True,
    help="The wire name of the database of both peers.",
)
@relay_token_option
@ca_option
@json_option
def ping(
    url: str,
    count: int,
    sizes: tuple[int, ...],
    database: str,
    token_file: str | None,
    ca: str | None,
    as_json: bool,
) -> None:
    """Measure round trips through a relay.

    Two peers connect to the relay at URL; what one sends, the other sends back. URL is
    ws://host:port, wss://host:port or ws+unix:/path/of/socket.

    \b
    Example:
      acebase-ipc ping ws://127.0.0.1:9163 --count 1000 --size 200 --size 1MiB
    """
    if min(sizes) < MIN_SIZE:
        raise click.UsageError(f"--size must be at least {MIN_SIZE} bytes")
    token = relay_token(token_file)
    err = console(stderr=True)
    bar = Progress(console=err, transient=True, disable=not err.is_terminal)
    task = bar.add_task("round trips", total=count * len(sizes))
    began = time.monotonic()

    def advance() -> None:
        bar.advance(task)
        if not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    async def main(reactor: Any) -> list[RoundTrips]:
        return await measure(reactor, url, database, token, ca, count, sizes, advance)

    try:
        measured = loop.run(main)
    except (ConnectionFailed, TLSFailed, NotARelay) as error:
        raise Unreachable(one_line(error)) from None
    except ClientError as error:
        raise Failed(one_line(error)) from None
    finally:
        bar.stop()
    if as_json:
        show_json({"round_trips": [asdict(each) for each in measured]})
        return
    show(
        table(
            (">SIZE", ">COUNT", ">MIN", ">P50", ">P99", ">MAX"),
            (
                (
                    show_size(each.size),
                    f"{each.count:,}",
                    duration(each.minimum),
                    duration(each.median),
                    duration(each.p99),
                    duration(each.maximum),
                )
                for each in measured
            ),
        )
    )


async def measure(
    reactor: Any,
    url: str,
    database: str,
    token: str | None,
    ca: str | None,
    count: int,
    sizes: tuple[int, ...],
    advance: Callable[[], object],
) -> list[RoundTrips]:
    """Return the round trips of *count* messages of each of *sizes*, one after the other.

    :param ca: a PEM file with the certificates to trust.
    :param advance: called after each.
    :raises ClientError: if the relay refuses the peers, or a message does not return.
    """
    async with connected_pair(reactor, url, database, token, ca) as pair:
        measured = []
        for size in sizes:
            seconds = []
            for number in range(count):
                seconds.append(await pair.round_trip(str(number).ljust(size, ".")))
                advance()
            measured.append(summarize(size, seconds))
        return measured


COMMANDS = (ping,)
