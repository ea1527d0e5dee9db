"""Commands that find out why a relay does not start, or clients cannot use it."""

from __future__ import annotations

from typing import Any, Final

import click

from acebase_ipc.cli import loop
from acebase_ipc.cli.arguments import json_option
from acebase_ipc.cli.diagnosis.exchange import Exchange, exchange
from acebase_ipc.cli.diagnosis.findings import report
from acebase_ipc.cli.diagnosis.probes import Target
from acebase_ipc.cli.diagnosis.steps import examine
from acebase_ipc.cli.ping import ca_option, relay_token, relay_token_option
from acebase_ipc.client.url import parse_url
from acebase_ipc.errors import ConfigError

DATABASE: Final = "acebase-ipc-doctor"
"""The wire name of the database that is used if none is named."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="CONFIG | OPTIONS")
@json_option
def check(options: tuple[str, ...], as_json: bool) -> None:
    """Check a configuration without starting a relay.

    CONFIG is a configuration file; OPTIONS are those of "acebase-ipc serve". It looks at every
    value, also at those of the environment, at files, certificates and ports, and at the number of
    files that the process may open. Nothing stays open. The exit status is 1 if a relay would not
    start, or if clients would not accept its certificate. Run it as the user that the relay runs
    as.

    \b
    Example:
      acebase-ipc check /etc/acebase-ipc/acebase-ipc.toml
      acebase-ipc check --port 9163 --token-file token.txt
    """
    from acebase_ipc.cli.diagnosis.configuration import examine_options

    if options and not options[0].startswith("-"):
        options = ("--config", *options)
    report(examine_options(options), as_json)


@click.command()
@click.argument("url")
@click.option(
    "--database",
    metavar="DB",
    help="The wire name of a database, to see whether its processes are there.",
)
@click.option(
    "--idle",
    type=click.FloatRange(min=0),
    default=0,
    metavar="SECONDS",
    help="Hold a connection without messages for so long, to find time-outs of proxies.",
)
@relay_token_option
@ca_option
@json_option
def doctor(
    url: str,
    database: str | None,
    idle: float,
    token_file: str | None,
    ca: str | None,
    as_json: bool,
) -> None:
    """Find out why clients cannot use a relay.

    It takes every step on the way to the relay at URL, and says what to do where one fails. URL is
    ws://host:port, wss://host:port or ws+unix:/path/of/socket, as clients are given it. The exit
    status is 1 if something is wrong.

    \b
    Example:
      acebase-ipc doctor wss://relay.example.org --database mydb_data --idle 90
    """
    try:
        parsed = parse_url(url)
    except ConfigError as fault:
        raise click.UsageError(str(fault)) from None
    target = Target(parsed, database or DATABASE, relay_token(token_file), ca)

    def talk() -> Exchange:
        async def main(reactor: Any) -> Exchange:
            return await exchange(reactor, url, target, idle)

        return loop.run(main)

    report(examine(target, talk, idle, database is not None), as_json)


COMMANDS = (check, doctor)
