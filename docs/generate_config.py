"""Prints contrib/acebase-ipc.toml from acebase_ipc.server.options: make contrib/acebase-ipc.toml"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby

from acebase_ipc.server.options import OPTIONS, Option

HEAD = """\
# Made by docs/generate_config.py from acebase_ipc.server.options.
#
# The configuration of an AceBase IPC relay. Every option is here, as a comment;
# remove the "#" before its name and set your value. Start the relay with
#
#     acebase-ipc serve --config acebase-ipc.toml
#
# and check the file with
#
#     acebase-ipc check acebase-ipc.toml
#
# Relative paths are those of the directory of this file. The command line and
# environment variables are stronger than this file. "Reloaded" means that
# SIGHUP and "acebase-ipc reload" let a running relay use a new value; all other
# options need a restart.
"""

WIDTH = 78


def entry(option: Option) -> str:
    """Return the comment and the setting of *option*."""
    choices = f" One of: {', '.join(option.choices)}." if option.choices else ""
    default = "" if option.default is None else f" Default: {option.default}."
    reloaded = " Reloaded." if option.reloads else ""
    comment = textwrap.fill(
        f"{option.help}{choices}{default}{reloaded}",
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"{comment}\n#{option.name} = {option.example}\n"


def document() -> str:
    """Return the whole file."""

    def parts() -> Iterator[str]:
        yield HEAD
        for group, options in groupby(OPTIONS, lambda each: each.group):
            yield f"# {f' {group.value} ':=^{WIDTH - 2}}\n"
            yield from map(entry, options)

    return "\n".join(parts())


if __name__ == "__main__":
    sys.stdout.write(document())
