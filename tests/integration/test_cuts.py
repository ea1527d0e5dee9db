"""Connections of clients that are cut at any byte, over real sockets: the short form of a soak."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.internet import reactor as _reactor

from acebase_ipc.testing import running_relay
from tests.soak.cuts import CONFIG, cut_often

reactor: Any = _reactor

CUTS = 30


@pytest_twisted.ensureDeferred
async def test_every_message_arrives_once_and_in_order() -> None:
    with running_relay(CONFIG) as url:
        outcome = await cut_often(reactor, url, CUTS, seed=20)
    assert outcome.cuts >= CUTS
    assert outcome.deliveries > CUTS
    assert outcome.findings == []
