"""Which proxies are trusted, and whom they name as their clients.

A proxy names its client in ``X-Forwarded-For`` or ``Forwarded`` (RFC 7239). It appends the
address from which it was asked to what it has received, so that only the entries that a
trusted proxy has written count: those on the right. The client is the rightmost address that
is not a trusted proxy's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.web.server import Request

from acebase_ipc.addresses import host_of

UNIX: Final = "unix"
"""Stands for all processes that connect to a Unix socket of the relay."""

MAX_PROXIES: Final = 16
"""Trusted proxies in a row whose entries are read."""

_NODE = re.compile(
    r"(?:(?P<v4>[0-9.]{7,15})|\[(?P<bracketed>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?"
    r"|(?P<v6>[0-9A-Fa-f:.]{2,45})"
)
_FOR = re.compile(r'(?:^|;)[ \t]*for=(?:"([^"\\]*)"|([^;"]*))[ \t]*(?=;|$)', re.IGNORECASE)


def parse_node(text: str) -> IAddress | None:
    """Return the address that *text* names, ``None`` if it names none.

    :param text: such as ``192.0.2.1``, ``192.0.2.1:5000``, ``2001:db8::1``, ``[2001:db8::1]:5000``.
    :returns: an address whose port is 0 if *text* has none.
    """
    match = _NODE.fullmatch(text.strip(" \t"))
    if match is None or int(match["port"] or 0) > 65535:
        return None
    try:
        ip = ip_address(match["v4"] or match["bracketed"] or match["v6"])
    except ValueError:
        return None
    kind = IPv4Address if isinstance(ip, IPv4) else IPv6Address
    return kind("TCP", str(ip), int(match["port"] or 0))


class TrustedProxies:
    """The proxies that are trusted.

    :param networks: addresses and networks of trusted proxies, and :data:`UNIX`.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        given = frozenset(networks)
        self._trusts_unix = UNIX in given
        self._networks = tuple(map(ip_network, given - {UNIX}))

    def __bool__(self) -> bool:
        return self._trusts_unix or bool(self._networks)

    def __contains__(self, address: object) -> bool:
        if isinstance(address, IPv4Address | IPv6Address) and self._networks:
            ip: IPv4 | IPv6 = ip_address(host_of(address))
            return any(ip in network for network in self._networks)
        return self._trusts_unix and isinstance(address, UNIXAddress)

    def identify(self, request: Request) -> None:
        """Let *request* have the address of its client, if a trusted proxy has made it.

        Nothing changes where the proxy does not tell it in a form that is understood.
        """
        if not self or request.client not in self:
            return
        client: IAddress | None = None
        for entry in islice(_entries(request), MAX_PROXIES):
            client = parse_node(entry)
            if client not in self:
                break
        if client is not None:
            request.client = client


def _entries(request: Request) -> Iterator[str]:
    """Yield what the proxies have written, the last one's entry first.

    ``Forwarded`` counts only without ``X-Forwarded-For``: most proxies write the second, and
    pass on a ``Forwarded`` that their client has made up.
    """
    lines = request.requestHeaders.getRawHeaders(b"X-Forwarded-For", [])
    if lines:
        yield from reversed(_join(lines).split(","))
        return
    lines = request.requestHeaders.getRawHeaders(b"Forwarded", [])
    for element in reversed(_join(lines).split(",") if lines else []):
        match = _FOR.search(element)
        yield "" if match is None else match[1] or match[2]


def _join(lines: Iterable[bytes]) -> str:
    return ",".join(each.decode("latin-1") for each in lines)
