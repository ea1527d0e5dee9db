"""The command with its global options; every failure is one line and a status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

import click

from acebase_ipc.cli import INTERRUPTED, control, diagnose, live, offline, ping, show
from acebase_ipc.cli.admin import TOKEN_VARIABLE, Admin
from acebase_ipc.cli.output import FAILED, one_line
from acebase_ipc.cli.place import VARIABLE
from acebase_ipc.errors import IPCError


class Command(click.Group):
    """A group that prints each error as one line, and never a traceback."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command, and end the process."""
        options["standalone_mode"] = False
        run: Any = super().main
        _run(lambda: run(*args, **options))


def _run(command: Callable[[], Any]) -> NoReturn:
    """Run *command*, which returns a status or ``None``, and end the process."""
    try:
        status = command()
    except click.exceptions.NoArgsIsHelpError as usage:
        usage.show()
        sys.exit(usage.exit_code)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "acebase-ipc"
        text = one_line(Exception(error.format_message())).rstrip(".")
        _complain(f"{text} (see  {path} --help)")
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _complain(one_line(Exception(error.format_message())))
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(INTERRUPTED)
    except IPCError as error:
        _complain(one_line(error))
        sys.exit(FAILED)
    except OSError as error:  # a full disk, say
        _complain(one_line(error))
        sys.exit(FAILED)
    except Exception as error:
        _complain(f"a defect of this command: {type(error).__name__}: {one_line(error)}")
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _complain(text: str) -> None:
    click.echo(f"acebase-ipc: {text}", err=True)


@click.group(
    cls=Command,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 3 the relay cannot be reached,"
    " 130 interrupted.",
)
@click.option(
    "--admin",
    metavar="URL",
    envvar=VARIABLE,
    help="The relay's admin endpoint: http://host:port, https://host:port or"
    f" unix:/path/of/socket. [environment: {VARIABLE}; default: the first that answers of"
    " http://127.0.0.1:9164 and unix:/run/acebase-ipc/admin.sock]",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help=f"Read the admin endpoint's token from this file. [environment: {TOKEN_VARIABLE} holds"
    " the token itself]",
)
@click.version_option(version("acebase-ipc"), message="acebase-ipc %(version)s")
@click.pass_context
def cli(context: click.Context, admin: str | None, token_file: str | None) -> None:
    """Show and steer a running relay, and find out why clients cannot use one.

    \b
    Example:
      acebase-ipc --admin http://127.0.0.1:9164 status --json
    """
    context.obj = Admin(admin, token_file)


for _module in (show, live, control, ping, diagnose, offline):
    for _command in _module.COMMANDS:
        cli.add_command(_command)
