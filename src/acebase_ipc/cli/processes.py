"""Finds the processes of this machine that are connected to a relay."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

import psutil


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine.

    :ivar command: its command line.
    """

    pid: int
    command: str


def find_processes(addresses: Iterable[str]) -> dict[str, Process]:
    """Return the processes whose TCP connections come from *addresses*, by these.

    Without the privilege to see other users' processes, these are missing.

    :param addresses: as a relay reports them: ``host:port`` or ``[host]:port``.
    """
    wanted = set(addresses)
    found = {}
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return {}
    for each in connections:
        if each.pid is None or not each.laddr or not each.raddr:
            continue
        address = _format(*each.laddr)
        if address in wanted:
            try:
                command = shlex.join(psutil.Process(each.pid).cmdline())
            except psutil.Error:
                continue  # it has just ended
            found[address] = Process(each.pid, command)
    return found


def _format(host: str, port: int) -> str:
    """Return an address as a relay reports it."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"[{host}]:{port}"
        address = address.ipv4_mapped
    return f"{address}:{port}"
