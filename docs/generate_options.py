"""Prints options.rst, the table of options: make docs/options.rst"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby

from acebase_ipc.server.options import CONFIG, OPTIONS, Group, Kind, Option

HEAD = f"""\
.. Made by generate_options.py from acebase_ipc.server.options: make docs/options.rst

=======
Options
=======

Every option of ``acebase-ipc serve`` and ``twistd acebase-ipc``. `configuration.rst
<configuration.rst>`_ explains how they are given: on the command line (``--token-file FILE``), in
the environment (``ACEBASE_IPC_TOKEN_FILE=FILE``), or in the configuration file
(``token_file = "FILE"``), which ``{CONFIG.option}`` or ``{CONFIG.variable}`` names. *Reloaded*
tells whether a running relay uses a new value after SIGHUP or ``acebase-ipc reload``; all other
options need ``acebase-ipc upgrade`` or a restart.

``--version`` prints the version, ``--help`` a list of all options.
"""

TABLE = """
.. list-table::
   :header-rows: 1
   :widths: 26 44 18 12

   * - Option
     - What it does
     - Default
     - Reloaded
"""

LIMITS = """
`limits.rst <limits.rst>`_ says what happens when each is exceeded, and why it exists.
"""


def rows(options: Iterator[Option]) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each option."""
    for each in options:
        names = f"``{each.option}``"
        if each.short:
            names += f", ``-{each.short}``"
        repeated = " Can be repeated." if each.kind.is_list else ""
        help_ = re.sub("'ps'", "``ps``", each.help)
        help_ = re.sub(r"(\*|_(?=\W))", r"\\\1", help_)
        help_ = re.sub(r"(?<![-\w])(--[a-z-]+)", r"``\1``", help_)
        default = each.default or ("off" if each.kind is Kind.FLAG else "none")
        choices = f" One of: {', '.join(f'``{one}``' for one in each.choices)}."
        yield (
            names,
            help_ + repeated + (choices if each.choices else ""),
            f"``{default}``" if ":" in default else default,
            "yes" if each.reloads else "no",
        )


def document() -> str:
    """Return the whole document."""
    lines = [HEAD]
    for group, options in groupby(OPTIONS, lambda each: each.group):
        lines += ["\n", group.value, "\n", "=" * len(group.value), "\n"]
        if group is Group.LIMITS:
            lines.append(LIMITS)
        lines.append(TABLE)
        for row in rows(options):
            lines += [f"   {'  ' if number else '* '}- {cell}\n" for number, cell in enumerate(row)]
    return "".join(lines)


if __name__ == "__main__":
    sys.stdout.write(document())
