"""What the system knows of the network between the relay and a peer."""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

_RTT: Final = struct.Struct("@68xI76xI")
"""``tcpi_rtt`` and ``tcpi_min_rtt``, in microseconds, in Linux' ``struct tcp_info``
(linux/tcp.h; the second since 4.6)."""


def round_trip(transport: Any) -> float | None:
    """Return the shortest time that the network has lately taken to the other end and back.

    That is the kernel's minimum of the last minutes (``tcp_min_rtt_wlen``). Its smoothed time
    is not used: the system of an idle peer confirms a ping together with its process's answer,
    within 40 ms, so that it includes what is to be told apart from it.

    :returns: seconds, 0 for a Unix socket; ``None`` if the system does not tell.
    """
    handle = _socket_of(transport)
    if handle is None or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RTT.size)
    except OSError:
        return 0.0 if handle.family == socket.AF_UNIX else None
    if len(info) < _RTT.size:
        return None
    smoothed, shortest = _RTT.unpack(info)
    return float(min(smoothed, shortest)) / 1e6  # the second is 2^32 - 1 if there is none


def _socket_of(transport: Any) -> socket.socket | None:
    """Return the socket of *transport*, below TLS if there is any."""
    while transport is not None:
        handle = getattr(transport, "getHandle", lambda: None)()
        if isinstance(handle, socket.socket):
            return handle
        transport = getattr(transport, "transport", None)
    return None
