"""The relay is killed under a running cluster, and started again by what supervises it.

``crash_figures.py`` repeats it, also without ``--state-dir``, and prints the outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.acebase.cluster import DEADLINE
from tests.acebase.crashes import WORKERS, crash_relay


def test_a_cluster_at_work_survives_a_crash_of_the_relay(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    options = ("--state-dir", str(tmp_path / "state"))

    outcome = crash_relay(tmp_path, *options, patience=2 * DEADLINE)

    record_property("outcome", str(outcome))
    assert outcome.hanging == 0, outcome
    assert outcome.restarted == WORKERS, "each has to start afresh"
    assert outcome.masters == 0
    assert outcome.value is not None
    # What was under way may have been written, but not acknowledged.
    unacknowledged = outcome.value - outcome.acknowledged
    assert 0 <= unacknowledged <= WORKERS, outcome
    said = "the relay has crashed"  # the database's name has "crash" in it, too
    warnings = [each for each in outcome.said.splitlines() if "#warn" in each and said in each]
    assert len(warnings) == 1
    assert f"{WORKERS} worker(s) of 1 database(s)" in warnings[0]
