"""A cluster at work does not notice that its relay is handed over to another process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acebase.handover import hand_over_cluster


@pytest.mark.parametrize("tls", [False, True])
def test_a_cluster_goes_on_through_hand_overs(tmp_path: Path, tls: bool) -> None:
    outcome = hand_over_cluster(tmp_path, times=3, workers=3, tls=tls)

    assert (outcome.hanging, outcome.failed, outcome.dead) == (0, 0, 0), outcome
    assert outcome.counter == outcome.acknowledged
    assert outcome.events == outcome.wanted > 0
    assert len(outcome.pauses) == 3
    assert tls or outcome.reconnected == 0
