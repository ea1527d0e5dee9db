"""A Python peer misses no event, however often its connection is cut: the short form."""

from __future__ import annotations

from pathlib import Path

from tests.acebase.cluster import Relay
from tests.acebase.peer_cuts import run

CUTS = 15


def test_every_event_arrives_once_and_in_order(tcp_relay: Relay, tmp_path: Path) -> None:
    figures, *findings = run(tcp_relay, tmp_path, CUTS, seed=20)
    assert findings == []
    assert int(figures.split()[0]) >= CUTS
