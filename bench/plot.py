"""The plot of the results: docs/performance.svg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot
from matplotlib.ticker import NullLocator

from bench import report
from bench.report import Results
from bench.workloads import CLUSTER_SIZES, DATABASES, WORKLOADS, Row, Workload

OURS = "#2a6f97"
BASELINE = "#a6a6a6"
PICOWS = "#e09f3e"
STYLE = {
    "svg.hashsalt": "acebase-ipc",  # without it the ids of its elements are random
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def improvement(results: Results, workload: Workload, row: Row) -> float | None:
    """The factor by which we are better than plain Autobahn."""
    ratio = results.ratio(workload.name, row.metric.value)
    if ratio is None:
        return None
    return 1 / ratio if row.metric.less_is_better else ratio


def aim(row: Row) -> float | None:
    """The factor to reach, where the target is a ratio."""
    if row.target is None or row.target.ratio is None:
        return None
    return 1 / row.target.ratio if row.metric.less_is_better else row.target.ratio


def draw_ratios(axes: Any, results: Results) -> None:
    """Draw a bar for each line of the table, and a mark at its target."""
    growth = {*CLUSTER_SIZES, *DATABASES}
    rows = [(w, row) for w in WORKLOADS if w.name not in growth for row in w.rows]
    drawn = [(row, value) for w, row in rows if (value := improvement(results, w, row))]
    for place, (row, value) in enumerate(drawn):
        axes.barh(place, value, color=OURS, height=0.6)
        axes.text(value - 0.06, place, f"{value:.1f}", va="center", ha="right", color="white")
        if (aimed := aim(row)) is not None:
            axes.plot([aimed, aimed], [place - 0.4, place + 0.4], color="black", linewidth=1.5)
    axes.axvline(1, color=BASELINE, linewidth=1.5)
    titles = [row.title + (" (inverse)" if row.metric.less_is_better else "") for row, _ in drawn]
    axes.set_yticks(range(len(drawn)), titles)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("times plain Autobahn (grey line); black marks: targets")


def draw_growth(axes: Any, results: Results, series: dict[str, int], label: str) -> None:
    """Draw the CPU time per message over the size of a cluster."""
    sizes = list(series.values())
    for server, name, color in (
        (report.AUTOBAHN, "plain Autobahn", BASELINE),
        (report.PICOWS, "bare picows", PICOWS),
        (report.OURS, "acebase-ipc", OURS),
    ):
        costs = [results.figure(workload, server, "server_us") for workload in series]
        known = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if cost]
        xs, ys = [size for size, _ in known], [cost for _, cost in known]
        axes.plot(xs, ys, "o-", color=color, label=name)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("server's CPU time\nper message, µs")


def write_plot(results: Results, path: Path) -> None:
    """Draw *results* into an SVG file; the same results give the same file."""
    with mpl.rc_context(STYLE):
        figure = pyplot.figure(figsize=(9, 12), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=[3, 1])
        draw_ratios(top.subplots(), results)
        left, right = bottom.subplots(1, 2)
        draw_growth(left, results, CLUSTER_SIZES, "workers of one database")
        draw_growth(right, results, DATABASES, "databases of 100 workers in all")
        left.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
