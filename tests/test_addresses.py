"""Addresses as text."""

from __future__ import annotations

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from acebase_ipc.addresses import format_address, host_of, is_loopback
from acebase_ipc.loopback import is_loopback_ip


@pytest.mark.parametrize(
    ("address", "text", "host", "loopback"),
    [
        (IPv4Address("TCP", "127.0.0.1", 1), "127.0.0.1:1", "127.0.0.1", True),
        (IPv4Address("TCP", "192.0.2.1", 1), "192.0.2.1:1", "192.0.2.1", False),
        (IPv6Address("TCP", "::1", 1), "[::1]:1", "::1", True),
        (IPv6Address("TCP", "fe80::1%eth0", 1), "[fe80::1%eth0]:1", "fe80::1%eth0", False),
        (IPv6Address("TCP", "::ffff:127.0.0.1", 1), "127.0.0.1:1", "127.0.0.1", True),
        (IPv6Address("TCP", "::ffff:192.0.2.1", 1), "192.0.2.1:1", "192.0.2.1", False),
        (UNIXAddress(b"/run/relay.sock"), "unix:/run/relay.sock", "unix", True),
        (UNIXAddress(None), "unix:", "unix", True),
        (None, "None", "unix", False),
    ],
)
def test_an_address(address: IAddress | None, text: str, host: str, loopback: bool) -> None:
    """A client that reaches a dual-stack port by IPv4 has the address that it has elsewhere."""
    assert (format_address(address), host_of(address)) == (text, host)
    assert is_loopback(address) == loopback


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.8.9.1", True), ("192.0.2.1", False), ("localhost", False), ("", False)],
)
def test_a_host_of_loopback(host: str, loopback: bool) -> None:
    for _ in range(2):
        assert is_loopback_ip(host) == loopback
