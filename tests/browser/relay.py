"""A relay with its admin endpoint, which can be started again on the same ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.integration.relay_process import Twistd, endpoint
from tests.ports import free_port


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a relay listens on loopback.

    :ivar peers: the port of the peers.
    :ivar admin: the port of the status page.
    """

    peers: int
    admin: int

    @property
    def page(self) -> str:
        """The URL of the status page."""
        return f"http://127.0.0.1:{self.admin}/"


def free_ports() -> Ports:
    """Return two ports that nobody uses."""
    peers = admin = free_port()
    while admin == peers:
        admin = free_port()
    return Ports(peers, admin)


@contextmanager
def running_relay(ports: Ports, *options: str) -> Iterator[Twistd]:
    """Run a relay until the end of the block."""
    with Twistd(
        *("--nodaemon", "--pidfile=", "acebase-ipc"),
        *("--port", endpoint("tcp", ports.peers, interface="127.0.0.1")),
        *("--admin", endpoint("tcp", ports.admin, interface="127.0.0.1")),
        *options,
    ) as relay:
        listening = [f"127.0.0.1:{each}" for each in (ports.peers, ports.admin)]
        relay.wait_for("ports", lambda log: all(each in log for each in listening))
        yield relay
