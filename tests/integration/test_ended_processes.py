"""The sessions of processes that have ended, as the operating system tells of their end."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import pytest_twisted

from acebase_ipc.testing import AceBaseMemoryPeer, upgrade_request
from tests.certificates import Certificate
from tests.integration.peers import Peers
from tests.integration.raw import RawClient
from tests.integration.relay_process import Address, on_loopback, running_relay
from tests.relay.locks import worker_id

PROXIED, ENDED = worker_id(1), worker_id(2)
PLAIN, TLS = 0, 1


def finish(client: RawClient) -> None:
    """Send FIN; over TLS, without a close_notify."""
    client.socket.shutdown(socket.SHUT_WR)  # to close it with unread data would send RST


def reset(client: RawClient) -> None:
    """Send RST."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def notify(client: RawClient) -> None:
    """Send the close_notify of TLS, then FIN."""
    assert isinstance(client.socket, ssl.SSLSocket)
    with suppress(ssl.SSLError):  # for unread data, after it was sent
        client.socket.unwrap()
    finish(client)


def open_websocket(address: Address, database: str, client_id: str, **headers: Any) -> RawClient:
    """The connection of an acebase peer."""
    client = RawClient(address)
    client.send(upgrade_request(AceBaseMemoryPeer.target(client_id, database, "none"), **headers))
    client.read_until(b"welcome:")
    return client


@pytest.fixture(scope="module")
def addresses(self_signed: Certificate) -> Iterator[list[Address]]:
    """Where a relay listens without and with TLS."""
    ports = (on_loopback(), on_loopback("ssl", privateKey=self_signed.pem))
    options = ("--session-timeout=600", "--session-timeout-closed=0")
    with running_relay(*ports, options=options, root=self_signed.root) as relay:
        yield relay.addresses


@pytest.mark.parametrize(
    ("port", "end"), [(PLAIN, finish), (PLAIN, reset), (TLS, finish), (TLS, reset), (TLS, notify)]
)
@pytest_twisted.ensureDeferred
async def test_the_session_of_a_process_that_has_ended_is_short(
    addresses: list[Address], peers: Peers, port: int, end: Callable[[RawClient], None]
) -> None:
    address, database = addresses[port], f"library{port}{end.__name__}"
    observer = await peers.join(address, "observer", database)
    with (
        open_websocket(address, database, PROXIED, via="1.1 proxy") as proxied,
        open_websocket(address, database, ENDED) as ended,
    ):
        assert await observer.take(2) == [f"connect:{PROXIED}", f"connect:{ENDED}"]
        end(proxied)
        end(ended)
        assert await observer.next() == f"disconnect:{ENDED}"
        assert await observer.received() == []
