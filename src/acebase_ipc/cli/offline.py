"""Commands that need no relay."""

from __future__ import annotations

import os
import secrets
from typing import Any

import click
from click.shell_completion import get_completion_class

from acebase_ipc.cli.arguments import json_option
from acebase_ipc.cli.output import Failed, show_json

UNPROCESSED: Any = {"ignore_unknown_options": True, "help_option_names": []}

SHELLS = ("bash", "zsh", "fish")

TOKEN_BYTES = 32
"""Random bytes of a new token: more than anybody can guess."""


@click.command("serve", context_settings=UNPROCESSED)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def serve_relay(options: tuple[str, ...]) -> int:
    """Run a relay until SIGTERM or Ctrl-C.

    \b
    Example:
      acebase-ipc serve --port 9163 --token-file token.txt
    """
    from acebase_ipc.serve import serve

    return serve(options)


@click.group()
def token() -> None:
    """Make tokens for the relay.

    \b
    Example:
      acebase-ipc token new
    """


@token.command()
@click.option(
    "--file",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Append the token to this file, which only its owner may read.",
)
@click.option(
    "--database",
    "pattern",
    metavar="PATTERN",
    help="The databases that the token opens, by their wire names, such as 'mydb_*'; with --file."
    " [default: all]",
)
@json_option
def new(path: str | None, pattern: str | None, as_json: bool) -> None:
    """Print a new random token.

    The relay reads the file with --token-file; after a change:  acebase-ipc reload

    \b
    Example:
      acebase-ipc token new --file token.txt --database 'mydb_*'
    """
    if pattern is not None and path is None:
        raise click.UsageError("--database needs --file")
    if pattern is not None and (not pattern.strip() or pattern.lstrip().startswith("#")):
        raise click.UsageError("--database must be a name or a pattern such as 'mydb_*'")
    made = secrets.token_hex(TOKEN_BYTES)
    if path is not None:
        _append(path, made if pattern is None else f"{pattern.strip()} {made}")
    if as_json:
        show_json({"token": made, "file": path, "database": pattern})
    else:
        click.echo(made)


def _append(path: str, line: str) -> None:
    """Append *line* to the file *path*, which only its owner may read from now on."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "r+b") as opened:
            os.fchmod(file, 0o600)
            content = opened.read()
            separator = b"" if not content or content.endswith(b"\n") else b"\n"
            opened.write(separator + line.encode() + b"\n")
    except OSError as error:
        raise Failed(f"cannot write {path!r}: {error.strerror}") from None


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    With it the shell completes commands, options, databases and peers.

    \b
    Example:
      eval "$(acebase-ipc completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = context.find_root().command
    click.echo(kind(root, {}, "acebase-ipc", "_ACEBASE_IPC_COMPLETE").source())


@click.command("supervise", context_settings=UNPROCESSED)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def supervise_relay(command: tuple[str, ...]) -> int:
    """Run a relay, and stay while others take over from it.

    For the first process of a container, and for PM2: they would take the end of a relay that has
    handed over for its failure.

    \b
    Example:
      acebase-ipc supervise acebase-ipc serve --port 9163
    """
    from acebase_ipc.supervise import supervise

    return supervise(command)


COMMANDS = (serve_relay, supervise_relay, token, completion)
