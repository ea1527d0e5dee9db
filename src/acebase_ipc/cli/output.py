"""What commands print, and how they fail."""

from __future__ import annotations

import json
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

FAILED: Final = 1
UNREACHABLE: Final = 3

PATIENCE: Final = 1.0
"""Seconds until a command says what it waits for."""

_WIDE: Final = 10_000
"""Columns that are more than any table has."""

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that a terminal would execute, or that reorder a line."""


class Failed(click.ClickException):
    """The command could not do what it was asked to; the text is one line."""

    exit_code = FAILED


class Unreachable(Failed):
    """No relay answers."""

    exit_code = UNREACHABLE


def console(stderr: bool = False, width: int | None = None) -> Console:
    """Return what writes to standard output, or to standard error.

    What peers have chosen is written as it is: no markup, no emoji.

    :param width: its columns; default: those of the terminal.
    """
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def clean(text: str) -> str:
    """Return *text*, which a peer has chosen, with its control characters escaped."""
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in _INVISIBLE else each
        for each in text
    )


def one_line(error: BaseException) -> str:
    """Return the text of an error, or its type if it has none, in one line."""
    return clean(" ".join(str(error).split())) or type(error).__name__


def show_json(value: Any) -> None:
    """Print *value* as indented JSON, in ASCII: ids may hold what UTF-8 cannot encode."""
    click.echo(json.dumps(value, indent=2))


def show_json_line(value: Any) -> None:
    """Print *value* as JSON in one line, at once."""
    click.echo(json.dumps(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table.

    :param columns: their headings; one that begins with ``>`` is aligned to the right.
    :param rows: their cells; ``None`` becomes ``-``.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for each in columns:
        made.add_column(
            Text(each.removeprefix(">")),
            justify="right" if each.startswith(">") else "left",
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text("-" if cell is None else clean(str(cell))) for cell in row))
    return made


def show(*parts: RenderableType) -> None:
    """Print *parts*, one below the other.

    No row is folded or cut off: a terminal that is too narrow wraps it, and an id can still be
    copied.
    """
    out = console(width=_WIDE)
    for each in parts:
        with out.capture() as captured:
            out.print(each)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def fields(*pairs: tuple[str, object]) -> Table:
    """Return a list of names and values."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(Text(name), Text(clean(str(value))))
    return made


def size(number: float | None) -> str:
    """Return a number of bytes in the unit in which it is easy to read."""
    if number is None:
        return "?"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 10 else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def count(number: int, noun: str) -> str:
    """Return *number* with its *noun*, which takes an s in the plural."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float | None) -> str | None:
    """Return a duration in at most two units."""
    if seconds is None:
        return None
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say *what* is awaited, on a terminal, where that takes longer than :data:`PATIENCE`."""
    err = console(stderr=True)
    if not err.is_terminal:
        yield
        return
    status = err.status(Text(what))
    timer = threading.Timer(PATIENCE, status.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        status.stop()
