"""Endpoint strings that stand for several sockets."""

from __future__ import annotations

import pytest

from acebase_ipc.server import expansion
from acebase_ipc.server.endpoints import parse_endpoint
from acebase_ipc.server.expansion import expand

IPV6 = "tcp6:port={}:interface=\\:\\:1"


@pytest.mark.parametrize(
    ("has_ipv6", "given", "expected"),
    [
        (True, ["9163"], ["9163", IPV6.format(9163)]),
        (False, ["9163"], ["9163"]),
        (True, ["0"], ["0"]),
        (True, ["tcp:9163:interface=127.0.0.1"], ["tcp:9163:interface=127.0.0.1"]),
        (True, ["9163", IPV6.format(9163)], ["9163", IPV6.format(9163)]),
        (
            True,
            ["9163", IPV6.format(9164)],
            ["9163", IPV6.format(9163), IPV6.format(9164)],
        ),
    ],
)
def test_a_number_is_the_port_of_both_addresses_of_loopback(
    monkeypatch: pytest.MonkeyPatch, has_ipv6: bool, given: list[str], expected: list[str]
) -> None:
    """``localhost`` may be either: Node.js 18 tries only the first one, often ::1."""
    monkeypatch.setattr(expansion, "has_ipv6_loopback", lambda: has_ipv6)
    parsed = [parse_endpoint(each) for each in given]

    assert [each.text for each in expand(parsed)] == expected


PFX = "pfx:port=systemd:path=/a:passphrase=b\\:c:index={}"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, ["haproxy:systemd:", "pfx:systemd:path=/a:passphrase=b\\:c"]),
        (1, ["haproxy:systemd:index=0", PFX.format(0)]),
        (2, [*(f"haproxy:systemd:index={each}" for each in (0, 1)), PFX.format(0), PFX.format(1)]),
    ],
)
def test_systemd_alone_is_every_inherited_socket(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: list[str]
) -> None:
    monkeypatch.setattr(
        expansion, "inherited_descriptors", lambda *_: dict.fromkeys(range(3, 3 + number), "x")
    )
    expanded = ("haproxy:systemd:", "pfx:systemd:path=/a:passphrase=b\\:c")
    others = ("tcp:1", "systemd:name=x", "ssl:systemd:/a:index=5")
    given = [parse_endpoint(each) for each in (*expanded, *others)]

    assert [each.text for each in expand(given)] == [*expected, *others]
