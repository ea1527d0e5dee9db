"""Which addresses are those of a loopback interface; loads nothing of Twisted."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address


@lru_cache(256)  # it is asked for each request, and parsing takes as long as a message
def is_loopback_ip(host: str) -> bool:
    """Return whether *host* is the address of a loopback interface; of a name, ``False``."""
    try:
        ip = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
