"""Commands that change what the relay does."""

from __future__ import annotations

from typing import Final

import click

from acebase_ipc.cli.admin import Admin, NotFound, pass_admin
from acebase_ipc.cli.arguments import database_argument, json_option, peer_argument
from acebase_ipc.cli.output import show_json
from acebase_ipc.cli.place import quoted

UPGRADE_TIMEOUT: Final = 90.0
"""Seconds for a new process to take over: it may wait for a quiet moment."""


@click.command()
@database_argument
@peer_argument
@click.option(
    "--end-process",
    is_flag=True,
    help="Refuse the peer when it connects again, which ends a process of the npm package"
    " acebase. A process manager then starts it afresh.",
)
@json_option
@pass_admin
def kick(admin: Admin, database: str, peer: str, end_process: bool, as_json: bool) -> None:
    """Close the connection of a peer.

    It is that of the peer ID of the database DB. Without --end-process the peer may connect
    again at once, and an AceBase process does.

    \b
    Example:
      acebase-ipc kick mydb_data jz1k0s8h2m4q6w8e0r2t4y6u --end-process
    """
    path = f"databases/{quoted(database)}/peers/{quoted(peer)}/kick"
    try:
        answer = admin.post(path, {"end_process": end_process})
    except NotFound:
        admin.database(database)  # says so if it is the database that is unknown
        raise NotFound(f"{database!r} has no peer {peer!r}: see  acebase-ipc peers") from None
    if as_json:
        show_json(answer)
    else:
        click.echo(f"The connection of {peer} was closed.")


@click.command()
@click.option("--off", is_flag=True, help="Accept new peers again.")
@json_option
@pass_admin
def drain(admin: Admin, off: bool, as_json: bool) -> None:
    """Accept no new peers.

    Those that are connected stay. Load balancers see it at /readyz of the admin endpoint.

    \b
    Example:
      acebase-ipc drain
    """
    answer = admin.post("drain", {"drain": not off})
    if as_json:
        show_json(answer)
    elif answer["draining"]:
        click.echo("The relay accepts no new peers:  acebase-ipc drain --off  ends this.")
    else:
        click.echo("The relay accepts new peers.")


@click.command()
@json_option
@pass_admin
def reload(admin: Admin, as_json: bool) -> None:
    """Let the relay read its configuration again.

    That is its configuration file, its tokens and its certificates. Peers whose token is gone are
    disconnected. SIGHUP does the same.

    \b
    Example:
      acebase-ipc reload
    """
    answer = admin.post("reload")
    if as_json:
        show_json(answer)
    else:
        click.echo("The relay has read its configuration again: its log says what has changed.")


@click.command()
@json_option
@pass_admin
def upgrade(admin: Admin, as_json: bool) -> None:
    """Let a new process take over the relay, and all connections.

    It is started with the same command, so that a new version, changed options and renewed
    certificates take effect, and no client notices. If it cannot start, the relay goes on, and its
    log says why. SIGUSR2 does the same.

    \b
    Example:
      acebase-ipc upgrade
    """
    answer = admin.post("upgrade", timeout=UPGRADE_TIMEOUT)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"The relay is the process {answer['pid']} now.")


COMMANDS = (kick, drain, reload, upgrade)
