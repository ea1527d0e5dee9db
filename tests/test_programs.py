"""A test that cannot run is skipped, and fails where everything is to be installed."""

from __future__ import annotations

import pytest

from tests.programs import missing, program


def test_the_first_program_that_is_installed_is_used() -> None:
    assert program("no-such-program", "sh").endswith("/sh")


@pytest.mark.parametrize(
    ("value", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_what_is_missing_fails_a_test_in_ci_only(
    monkeypatch: pytest.MonkeyPatch, value: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", value)
    with pytest.raises(outcome, match="no-such-program or neither-this is not installed"):
        program("no-such-program", "neither-this")
    with pytest.raises(outcome, match="a reason"):
        missing("a reason")
