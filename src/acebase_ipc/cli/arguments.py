"""Options and arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from acebase_ipc.cli.admin import Admin
from acebase_ipc.errors import ConfigError, IPCError
from acebase_ipc.relay.limits import parse_size

COMPLETION_TIMEOUT: Final = 2.0
"""Seconds that a shell waits for names."""


def _complete_database(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    return _matching(incomplete, lambda: _admin(context).get("databases")["databases"], "name")


def _complete_peer(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    database = context.params["database"]
    return _matching(incomplete, lambda: _admin(context).database(database)["peers"], "id")


def _admin(context: click.Context) -> Admin:
    """Return the admin endpoint; while a shell completes, no group has made one."""
    options = context.find_root().params
    return Admin(options.get("admin"), options.get("token_file"), COMPLETION_TIMEOUT)


def _matching(
    incomplete: str, ask: Callable[[], list[dict[str, Any]]], key: str
) -> list[CompletionItem]:
    """Return what begins with *incomplete*; nothing if the relay cannot tell."""
    try:
        names = [each[key] for each in ask()]
    except (click.ClickException, IPCError):
        return []
    return [CompletionItem(each) for each in names if each.startswith(incomplete)]


def read_sizes(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[int, ...]:
    """Return numbers of bytes, given as 200, 16KiB or 2MiB.

    :raises click.BadParameter: if one is no size.
    """
    try:
        return tuple(map(parse_size, values))
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
database_argument = click.argument("database", metavar="DB", shell_complete=_complete_database)
peer_argument = click.argument("peer", metavar="ID", shell_complete=_complete_peer)
