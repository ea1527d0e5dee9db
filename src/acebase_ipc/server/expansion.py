"""Endpoint strings that stand for several sockets: each becomes as many endpoints."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

from acebase_ipc.server.endpoints import OF_SOCKET, ParsedEndpoint, parse_endpoint, render
from acebase_ipc.server.handover.sockets import PEERS, InheritedSockets
from acebase_ipc.server.inherited import inherited_descriptors, initial_environment

IPV6_LOOPBACK = "::1"


def expand(
    endpoints: Sequence[ParsedEndpoint],
    predecessor: InheritedSockets | None = None,
    role: str = PEERS,
) -> Iterator[ParsedEndpoint]:
    """Yield *endpoints*, with several in place of those that stand for several sockets.

    ``systemd:`` alone is every inherited socket, and so are ``ssl:systemd:…`` and the like that
    name none. Without an inherited socket they stay, and fail when they are used. A number is the
    port of 127.0.0.1 and of ::1, as ``localhost`` may be either, if this system has both.

    :param predecessor: the sockets of a predecessor, from which they are inherited then.
    :param role: whom the endpoints are for: ``PEERS`` or ``ADMIN``.
    """
    for each in endpoints:
        if each.is_inherited and not each.arguments.keys() & {*OF_SOCKET}:
            if predecessor is None:
                found = tuple(_each_inherited(each))
            else:
                found = tuple(predecessor.each_systemd(each, role))
            yield from found or (each,)
            continue
        yield each
        if each.is_number and each.arguments["port"] != "0":  # two free ports would be two numbers
            yield from _also_ipv6(each, endpoints)


def _each_inherited(endpoint: ParsedEndpoint) -> Iterator[ParsedEndpoint]:
    descriptors = inherited_descriptors(initial_environment(), os.getpid())
    for index, _ in enumerate(descriptors):
        inner = render(endpoint.kind, {**endpoint.arguments, "index": str(index)})
        yield parse_endpoint(":".join((*endpoint.wrappers, inner)))


def _also_ipv6(
    endpoint: ParsedEndpoint, others: Iterable[ParsedEndpoint]
) -> Iterator[ParsedEndpoint]:
    address = {"port": endpoint.arguments["port"], "interface": IPV6_LOOPBACK}
    if has_ipv6_loopback() and not any(
        address.items() <= each.arguments.items() for each in others
    ):
        yield parse_endpoint(render("tcp6", address))


def has_ipv6_loopback() -> bool:
    """Return whether this system has the address ::1."""
    try:
        with closing(socket.socket(socket.AF_INET6)) as trial:
            trial.bind((IPV6_LOOPBACK, 0))
    except OSError:
        return False
    return True
