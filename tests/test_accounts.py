"""A counter is exact if each of its values has one transaction."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.acebase.accounts import settle


@dataclass
class Process:
    begun: list[int]
    acknowledged: list[int]


def test_each_value_was_acknowledged_once() -> None:
    account = settle(4, [Process([1, 3], [1, 3]), Process([2, 4], [2, 4])])

    assert account.wrong == []
    assert (account.acknowledged, account.counted, account.uncounted) == (4, 0, 0)


def test_values_in_doubt_may_be_counted_or_not() -> None:
    written, not_written = Process([1, 2], [1]), Process([4], [])
    account = settle(4, [written, not_written, Process([3, 4], [3, 4])])

    assert account.wrong == []
    assert (account.acknowledged, account.counted, account.uncounted) == (3, 1, 1)


@pytest.mark.parametrize(
    ("total", "processes", "error"),
    [
        (1, [Process([1], [1]), Process([1], [1])], "1 written by two transactions (1)"),
        (1, [Process([1, 2], [1, 2])], "1 acknowledged, but the counter is at 1 (2)"),
        (2, [Process([1], [1])], "1 counted, but by no transaction (2)"),
        (9, [], "9 counted, but by no transaction (1, 2, 3, 4, 5, …)"),
    ],
)
def test_an_error_is_found(total: int, processes: list[Process], error: str) -> None:
    assert settle(total, processes).wrong == [error]
