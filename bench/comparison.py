"""Two versions of acebase-ipc, or one with and without options, measured in turn.

There is one line for each figure, new against old.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from bench.report import Results, align, latency_cell, number, value_cell
from bench.workloads import Metric, Row, Workload

NEW, OLD = "new", "old"

LEAST_RATIO = 0.97
"""Median new/old that a rate has to reach; for a latency or memory, old/new."""

HEADERS = (
    "workload",
    "new",
    "old",
    "new/old",
    "min",
    "max",
    "",
    "CPU µs, new",
    "CPU µs, old",
    "CPU new/old",
    "p50 / p99 µs, new",
    "p50 / p99 µs, old",
    "lost / dup. / reord.",
)


@dataclass(frozen=True, slots=True)
class Ratios:
    """A figure of the new version divided by the old one's, within each repeat."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    def is_kept(self, metric: Metric) -> bool:
        """Whether the new version is as good as the old one, but for :data:`LEAST_RATIO`."""
        ratio = 1 / self.median if metric.less_is_better else self.median
        return ratio >= LEAST_RATIO


def ratios(results: Results, workload: str, name: str) -> Ratios | None:
    """The ratios of one figure; ``None`` if no repeat has it from both versions."""
    values = tuple(results.ratios(workload, name, NEW, OLD))
    return Ratios(values) if values else None


def _cells(results: Results, workload: Workload, row: Row) -> tuple[str, ...]:
    name, figure = workload.name, row.metric.value
    new, old = (results.figure(name, server, figure) for server in (NEW, OLD))
    ratio = ratios(results, name, figure)
    cpu = ratios(results, name, "server_us")
    values = (
        ("–", "–", "–", "")
        if ratio is None
        else (
            f"{ratio.median:.3f}",
            f"{min(ratio.values):.3f}",
            f"{max(ratio.values):.3f}",
            "✓" if ratio.is_kept(row.metric) else "✗",
        )
    )
    return (
        f"{row.title}{' (less is better)' if row.metric.less_is_better else ''}",
        value_cell(row.metric, new),
        value_cell(row.metric, old),
        *values,
        *(number(results.figure(name, server, "server_us") or None) for server in (NEW, OLD)),
        "–" if cpu is None else f"{cpu.median:.3f}",
        *(latency_cell(results, name, server) for server in (NEW, OLD)),
        " / ".join(map(str, results.faults(name))) if workload.sends else "",
    )


def comparison_table(results: Results) -> str:
    """The table for a terminal, followed by the failures of runs."""
    text = align([HEADERS, *(_cells(results, *each) for each in results.rows())])
    text += [failure for workload in results.samples for failure in results.failures(workload)]
    return "\n".join(text)
