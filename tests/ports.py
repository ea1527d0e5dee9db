"""Ports of loopback that a test may listen on more than once."""

from __future__ import annotations

import random
import socket

_RANGE = range(20_000, 30_000)
"""Systems give clients, and those who ask for any port, higher ones. So no other connection gets
the port of a server that is started again."""

_random = random.SystemRandom()


def free_port() -> int:
    """Return a port that nobody uses."""
    while True:
        port = _random.choice(_RANGE)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
