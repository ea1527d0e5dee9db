"""Finds the processes of this machine that are connected to a relay."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine.

    :ivar command: its command line.
    """

    pid: int
    command: str


def find_processes(addresses: Iterable[str], ports: Collection[int]) -> dict[str, Process]:
    """Return the processes whose TCP connections come from *addresses*, by these.

    Without the privilege to see other users' processes, these are missing.

    :param addresses: as a relay reports them: ``host:port`` or ``[host]:port``.
    :param ports: those of the relay. Two connections to different ports may come from one
        address.
    """
    candidates: dict[str, list[Any]] = {each: [] for each in addresses}
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return {}
    for each in connections:
        if each.laddr and each.raddr:
            candidates.get(_format(*each.laddr), []).append(each)
    found = {}
    for address, there in candidates.items():
        to_relay = [each for each in there if each.raddr.port in ports]
        match to_relay or there:  # behind a proxy, the connection is to another port
            case [only] if only.pid is not None:
                try:
                    command = _command(psutil.Process(only.pid).cmdline())
                except psutil.Error:
                    continue  # it has just ended
                found[address] = Process(only.pid, command)
    return found


def _command(arguments: list[str]) -> str:
    """Return a command line, or the title that a process has given itself, as PM2 does.

    Linux shows a title as the first argument, and what is left of the memory of the arguments as
    empty ones.
    """
    first, *others = arguments or [""]
    return shlex.join(arguments) if any(others) else first


def _format(host: str, port: int) -> str:
    """Return an address as a relay reports it."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"[{host}]:{port}"
        address = address.ipv4_mapped
    return f"{address}:{port}"
