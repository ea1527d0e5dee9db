"""Clusters that do the same random work leave the same behind, with lock sessions and without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acebase.cluster import running_relay
from tests.acebase.same_work import MODES, do_work, write_scripts

OPERATIONS = 120
INDEXED = "TEST_ACEBASE" not in os.environ
"""In workers of 1.12.3 and 1.18.0 a query by an index misses what has changed, on any relay."""


@pytest.mark.parametrize("mode", MODES)
def test_the_same_work_has_the_same_result(tmp_path: Path, mode: str) -> None:
    with running_relay(*MODES[mode]) as relay:
        assert do_work(relay, tmp_path, write_scripts(OPERATIONS, seed=1, indexed=INDEXED)) == []
