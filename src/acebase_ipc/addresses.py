"""Network addresses: as text, and what they mean."""

from __future__ import annotations

from ipaddress import IPv6Address as IPv6

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from acebase_ipc.loopback import is_loopback_ip


def format_address(address: IAddress | None) -> str:
    """Return *address* as ``host:port``, ``[host]:port`` or ``unix:path``.

    The port 0 stands for one that is not known; then the host is returned alone.
    """
    if isinstance(address, IPv4Address | IPv6Address):
        host = host_of(address)
        if not address.port:
            return host
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    if isinstance(address, UNIXAddress):
        return f"unix:{(address.name or b'').decode(errors='replace')}"
    return str(address)


def host_of(address: IAddress | None) -> str:
    """Return the host of *address*, or ``unix``; an IPv4 client of an IPv6 port is the same."""
    if not isinstance(address, IPv4Address | IPv6Address):
        return "unix"
    host: str = address.host
    if host.startswith("::ffff:"):
        mapped = IPv6(host.partition("%")[0]).ipv4_mapped
        return host if mapped is None else str(mapped)
    return host


def is_loopback(address: IAddress | None) -> bool:
    """Return whether only processes of this machine can connect to *address*."""
    if isinstance(address, IPv4Address | IPv6Address):
        return is_loopback_ip(address.host)
    return isinstance(address, UNIXAddress)
