"""The benchmark with AceBase measures a small cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.acebase.__main__ import main
from bench.acebase.results import Case, Results
from bench.processes import find_compiler
from tests.programs import missing

DELAY = 5.0  # ms


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if find_compiler() is None:
        missing("the proxy needs a C compiler")


def test_transactions_with_lock_sessions_and_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.json"
    arguments = ["--workers=1", "--kind=transaction", f"--delay={DELAY}", "--repeats=1"]

    assert main([*arguments, "--seconds=0.3", f"--json={file}"]) == 0

    assert "transactions, 1 worker" in capsys.readouterr().out
    results = Results.from_json(file.read_text())
    assert (results.lost, results.variants) == (0, ["with", "without"])
    case = Case("transaction", 1, DELAY)
    # Messages of one operation, and each way that it waits for takes this long at least.
    for variant, asked, ways in (("with", 1, 10), ("without", 4, 16)):
        (received,) = results.values(case, variant, "received")
        assert received["lock-request"] == asked
        (sent,) = results.values(case, variant, "sent")
        assert sent["lock-request"] == 4
        (took,) = results.values(case, variant, "p50_us")
        assert took >= ways * DELAY * 1000
