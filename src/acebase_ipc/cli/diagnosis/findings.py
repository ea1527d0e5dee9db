"""What ``check`` and ``doctor`` find."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

import click
from rich.text import Text

from acebase_ipc.cli.output import FAILED, clean, show, show_json, waiting

MISTAKEN_STATUSES: Final = ("403", "409", "500")
"""The npm package acebase searches the text of a connection's error, which names the port, for
these statuses of a refusal, and then gives up."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


_STYLES: Final = {
    Level.OK: "green",
    Level.SKIPPED: "dim",
    Level.WARNING: "yellow",
    Level.ERROR: "bold red",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :ivar subject: what was looked at.
    :ivar text: what was found.
    :ivar advice: what to do; empty if nothing.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    """Return that all is as it should be."""
    return Finding(Level.OK, subject, text)


def skipped(subject: str, text: str) -> Finding:
    """Return that something was not looked at, and why."""
    return Finding(Level.SKIPPED, subject, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    """Return what may become a fault."""
    return Finding(Level.WARNING, subject, text, advice)


def error(subject: str, text: str, advice: str) -> Finding:
    """Return a fault."""
    return Finding(Level.ERROR, subject, text, advice)


def report(findings: Iterable[Finding], as_json: bool) -> None:
    """Print *findings*, each as soon as it is known; ends with status 1 if one is an error."""
    found = []
    remaining = iter(findings)
    while (each := _next(remaining)) is not None:
        found.append(each)
        if not as_json:
            _print(each)
    failed = any(each.level is Level.ERROR for each in found)
    if as_json:
        show_json({"ok": not failed, "findings": [asdict(each) for each in found]})
    if failed:
        raise click.exceptions.Exit(FAILED)


def _next(findings: Iterator[Finding]) -> Finding | None:
    with waiting("looking ..."):
        return next(findings, None)


def _print(finding: Finding) -> None:
    level = (f"{finding.level:<8}", _STYLES[finding.level])
    show(Text.assemble(level, f"{finding.subject}: {clean(finding.text)}"))
    if finding.advice:
        show(Text(f"{'':<8}-> {clean(finding.advice)}"))


def without_ipc() -> Finding:
    """Return what becomes of AceBase processes that are refused at their start."""
    return warning(
        "processes",
        "a process of the npm package acebase that is refused like this at its start goes on"
        " without the relay, and uses the files without locks",
        "stop such processes, and start them again when this is corrected",
    )


def mistaken_port(port: int) -> Finding | None:
    """Return a warning about a *port* whose number AceBase takes for a status."""
    for status in MISTAKEN_STATUSES:
        if status in str(port):
            return warning(
                "port",
                f"the number {port} contains {status}: the npm package acebase takes a refused"
                f" connection for the status {status}, and does not try again",
                "use a port whose number contains none of 403, 409 and 500",
            )
    return None
