"""Sockets that a service manager holds and passes on: ``systemd:`` endpoints, sd_listen_fds(3).

A socket is looked at before it is used: Twisted takes the given ``domain=`` for its address
family, and with a wrong one reads addresses from uninitialised memory. It also finds no
socket where ``LISTEN_FDNAMES`` is missing, as with service managers other than systemd.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from acebase_ipc.server.endpoints import ParsedEndpoint, parse_endpoint
from acebase_ipc.server.handover.sockets import PEERS, InheritedSockets
from acebase_ipc.server.unix_socket import UnixPort

FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START

_DOMAINS: Final = {"INET": "IP", "INET6": "IP", "UNIX": "unix"}
"""The kinds of sockets that ``domain=`` may name; INET and INET6 are not told apart."""


def initial_environment() -> dict[str, str]:
    """Return the environment with which the process was started.

    Twisted removes ``LISTEN_PID`` and ``LISTEN_FDS`` from ``os.environ``, also where it then
    makes nothing of them.
    """
    try:
        entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    pairs = (os.fsdecode(each).partition("=") for each in entries)
    return {name: value for name, _, value in pairs}


def inherited_descriptors(environ: Mapping[str, str], pid: int) -> dict[int, str]:
    """Return the name of each file descriptor that was passed to the process *pid*."""
    number = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not re.fullmatch("[0-9]{1,4}", number):
        return {}
    count = int(number)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (count - len(names))  # what systemd calls a socket without a name
    return {FIRST_DESCRIPTOR + index: names[index] or "unknown" for index in range(count)}


def find_descriptor(
    descriptors: Mapping[int, str], domain: str | None, index: str | None, name: str | None
) -> int:
    """Return the descriptor that a ``systemd:`` endpoint names.

    :raises ValueError: if there is none, or it is not a listening socket of that *domain*.
    """
    if not descriptors:
        raise ValueError(
            "this process has inherited no socket (LISTEN_PID, LISTEN_FDS): start it by a"
            " systemd unit with a .socket unit, or write 9163 or tcp:9163 in place of systemd:"
        )
    if (index is None) == (name is None):
        raise ValueError("give either index= or name=")
    if domain not in (None, *_DOMAINS):
        raise ValueError(f"domain is one of {', '.join(_DOMAINS)}")
    found = [
        number
        for position, (number, each) in enumerate(descriptors.items())
        if each == name or str(position) == index
    ]
    if len(found) != 1:
        there = (f"{position}: {each}" for position, each in enumerate(descriptors.values()))
        raise ValueError(f"{len(found)} inherited sockets match, of {', '.join(there)}")
    _check_socket(found[0], domain)
    return found[0]


def each_inherited(
    endpoints: Iterable[ParsedEndpoint], predecessor: InheritedSockets | None = None
) -> Iterator[ParsedEndpoint]:
    """Yield the *endpoints*, with one for each inherited socket in place of ``systemd:`` alone.

    Without an inherited socket, ``systemd:`` stays, and fails when it is used.

    :param predecessor: the sockets of a predecessor, from which they are inherited then.
    """
    for endpoint in endpoints:
        if endpoint.kind != "systemd" or endpoint.arguments:
            yield endpoint
            continue
        if predecessor is not None:
            found = predecessor.each_systemd(endpoint, PEERS)
        else:
            inherited = inherited_descriptors(initial_environment(), os.getpid())
            texts = [f"systemd:index={index}" for index, _ in enumerate(inherited)]
            found = [parse_endpoint(":".join((*endpoint.wrappers, each))) for each in texts]
        yield from found or [endpoint]


def _check_socket(descriptor: int, domain: str | None) -> None:
    try:
        with _socket(descriptor) as looked_at:
            family, kind = looked_at.family, looked_at.type
            listens = looked_at.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ValueError(f"file descriptor {descriptor} is no socket: {error.strerror}") from None
    name = family.name.removeprefix("AF_") if isinstance(family, socket.AddressFamily) else "?"
    if kind != socket.SOCK_STREAM or name not in _DOMAINS:
        raise ValueError(f"the inherited socket is not a stream socket of {', '.join(_DOMAINS)}")
    if not listens:
        raise ValueError("the inherited socket does not listen: use Accept=no")
    if domain is not None and _DOMAINS[domain] != _DOMAINS[name]:
        raise ValueError(f"the inherited socket is one of {name}, not {domain}")


def _socket(descriptor: int) -> socket.socket:
    """Return a duplicate whose family and type are the system's word (SO_DOMAIN, SO_TYPE)."""
    return socket.socket(fileno=os.dup(descriptor))


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """Listens on a socket that another process has opened and holds; once.

    :raises ValueError: if there is no such socket.
    """

    def __init__(self, reactor: Any, arguments: Mapping[str, str]) -> None:
        descriptors = inherited_descriptors(initial_environment(), os.getpid())
        unknown = arguments.keys() - {"domain", "index", "name"}
        if unknown:
            raise ValueError(f"unknown arguments: {', '.join(sorted(unknown))}")
        named = (arguments.get(each) for each in ("domain", "index", "name"))
        self._descriptor = find_descriptor(descriptors, *named)
        self._reactor = reactor
        self._used = False

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept the connections of the socket; fails when that has been done before."""
        return maybeDeferred(self._adopt, factory)

    def _adopt(self, factory: IProtocolFactory) -> IListeningPort:
        if self._used:
            raise ValueError("the inherited socket was closed when the server stopped")
        self._used = True
        with _socket(self._descriptor) as adopted:
            adopted.setblocking(False)
            port: IListeningPort = self._reactor.adoptStreamPort(
                adopted.fileno(), adopted.family, factory
            )
            os.close(self._descriptor)
            # The path of a unix port stays: the service manager goes on listening there.
            return UnixPort(port, factory) if adopted.family == socket.AF_UNIX else port
