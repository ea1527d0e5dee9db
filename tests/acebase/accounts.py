"""Which of the transactions that add one were counted.

Each transaction reports the value it sets out to write when it begins, under the write lock, and
again when it is acknowledged. So every value up to the counter's has to have been acknowledged
once. An exception is a value whose transaction was cut short, by a killed process or a lost
connection: it is *in doubt*, and may have been written or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tests.acebase.cluster import Peer

SHOWN = 5  # values of a kind


class Transactions(Protocol):
    """The transactions of a process; see :class:`~tests.acebase.cluster.Peer`."""

    begun: list[int]
    acknowledged: list[int]


@dataclass(slots=True)
class Account:
    """What has become of the transactions.

    :ivar total: the counter.
    :ivar acknowledged: number of transactions that were acknowledged.
    :ivar counted: how many that were in doubt have been counted.
    :ivar uncounted: how many that were in doubt have not been counted.
    :ivar wrong: a line for each kind of error; empty if the counter is exact.
    """

    total: int = 0
    acknowledged: int = 0
    counted: int = 0
    uncounted: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} acknowledged, in doubt {self.counted} counted and"
            f" {self.uncounted} not: {'; '.join(self.wrong) or 'exact'}"
        )


def settle(total: int, processes: Iterable[Transactions]) -> Account:
    """Compare the counter with the transactions of all processes that have ever written to it."""
    acknowledged: Counter[int] = Counter()
    in_doubt: Counter[int] = Counter()
    with Peer.changed:
        for process in processes:
            done = Counter(process.acknowledged)
            acknowledged += done
            in_doubt += Counter(process.begun) - done
    gaps = {value for value in range(1, total + 1) if value not in acknowledged}
    account = Account(
        total=total,
        acknowledged=acknowledged.total(),
        counted=sum(value in in_doubt for value in gaps),
        uncounted=in_doubt.total() - sum(value in in_doubt for value in gaps),
    )
    for error, values in (
        ("written by two transactions", (each for each, n in acknowledged.items() if n > 1)),
        (f"acknowledged, but the counter is at {total}", (v for v in acknowledged if v > total)),
        ("counted, but by no transaction", gaps - in_doubt.keys()),
    ):
        if found := sorted(values):
            shown = ", ".join(map(str, found[:SHOWN]))
            account.wrong.append(f"{len(found)} {error} ({shown}{', …' * (len(found) > SHOWN)})")
    return account
