"""The steps of ``doctor``, in the order of a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from acebase_ipc.cli.diagnosis.exchange import Exchange, examine_exchange
from acebase_ipc.cli.diagnosis.findings import Finding, Level, error, mistaken_port, ok, skipped
from acebase_ipc.cli.diagnosis.handshakes import examine_handshake
from acebase_ipc.cli.diagnosis.probes import NO_HTTP, Target, clients
from acebase_ipc.cli.diagnosis.transport import examine_address, examine_tls
from acebase_ipc.cli.output import count, one_line

MASTER: Final = "[master]"


def examine(
    target: Target, talk: Callable[[], Exchange], idle: float, named: bool
) -> Iterator[Finding]:
    """Yield what is found on the way to *target*; ends where nothing more can be seen.

    :param talk: lets two clients talk to each other.
    :param idle: the seconds of a connection without messages.
    :param named: whether a database was named.
    """
    steps: list[Callable[[], Iterator[Finding]]] = [
        lambda: _examine_port(target),
        lambda: examine_address(target),
        lambda: examine_tls(target),
        lambda: examine_handshake(target),
        lambda: examine_exchange(talk(), idle),
        lambda: _examine_database(target, named),
    ]
    for each in steps:
        failed = False
        for finding in each():
            failed |= finding.level is Level.ERROR
            yield finding
        if failed:
            return


def _examine_port(target: Target) -> Iterator[Finding]:
    finding = None if target.url.socket else mistaken_port(target.url.port)
    if finding is not None:
        yield finding


def _examine_database(target: Target, named: bool) -> Iterator[Finding]:
    """Yield whether the processes of the database are there."""
    name = target.database
    if not named:
        yield skipped("database", "not looked at: name one with --database")
        return
    try:
        present, other = clients(target, name), clients(target, f"{name}_data")
    except NO_HTTP as fault:
        yield error("database", f"its peers cannot be listed: {one_line(fault)}", "try again")
        return
    if not present and other:
        yield error(
            "database",
            f"nobody is connected to {name!r}, but {len(other)} to '{name}_data'",
            f"AceBase's {name} is {name}_data on the wire: use that name where the relay asks for"
            " one, or set AceBase's ipc.dbname",
        )
    elif not present:
        yield error(
            "database",
            f"nobody is connected to {name!r}",
            "start its processes with this relay's host and port in their ipc settings",
        )
    elif MASTER not in present:
        yield error(
            "database",
            f"{name!r} has {count(len(present), 'peer')}, but no master: all requests wait",
            "start the process with role 'master'",
        )
    else:
        yield ok("database", f"{name!r} has a master and {count(len(present) - 1, 'other peer')}")
