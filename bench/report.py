"""Tables of samples: one for the terminal, one for the documentation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.processes import Sample
from bench.workloads import WORKLOADS, Metric, Row, Workload

BEGIN = ".. The results begin: written by bench/run.py"
END = ".. The results end"
BUSY = 0.5
"""Load average above which other programs disturb the figures."""

FAULTS = ("lost", "duplicated", "reordered")


@dataclass(frozen=True, slots=True)
class Results:
    """The samples of one run of the benchmark.

    :ivar environment: the system and the versions that were measured.
    :ivar settings: number and length of the runs.
    :ivar arguments: of the generator, by workload.
    :ivar samples: by workload and server, in the order of the repeats.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    arguments: dict[str, list[str]]
    samples: dict[str, dict[str, list[Sample]]]

    def to_json(self) -> str:
        """The results as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Results:
        """The results in a value parsed from :meth:`to_json`."""
        return cls(**value)

    def figure(self, workload: str, server: str, name: str) -> float | None:
        """The median of a figure over the runs of *server*; ``None`` if none of them has it."""
        samples = self.samples.get(workload, {}).get(server, [])
        values = [each[name] for each in samples if name in each]
        return median(values) if values else None

    def ratios(self, workload: str, name: str, server: str, other: str) -> list[float]:
        """One figure of *server* divided by that of *other*, for each repeat that has both."""
        samples = self.samples.get(workload, {})
        return [
            one[name] / two[name]
            for one, two in zip(samples.get(server, []), samples.get(other, []), strict=False)
            if one.get(name) and two.get(name)
        ]

    def ratio(self, workload: str, name: str) -> float | None:
        """The median of our figure divided by that of plain Autobahn in the same repeat."""
        ratios = self.ratios(workload, name, OURS, AUTOBAHN)
        return median(ratios) if ratios else None

    @property
    def servers(self) -> list[str]:
        """The names of all servers, in the order in which they were given."""
        return list(dict.fromkeys(name for runs in self.samples.values() for name in runs))

    def workloads(self) -> list[Workload]:
        """The workloads that were run, in the order of the table."""
        return [each for each in WORKLOADS if each.name in self.samples]

    def rows(self) -> Iterator[tuple[Workload, Row]]:
        """Each line of the table, with its workload."""
        for workload in self.workloads():
            for row in workload.rows:
                yield workload, row

    def faults(self, workload: str) -> tuple[int, ...]:
        """Numbers of messages lost, duplicated and reordered, over all runs of all servers."""
        samples = [each for runs in self.samples[workload].values() for each in runs]
        return tuple(sum(each.get(name, 0) for each in samples) for name in FAULTS)

    def failures(self, workload: str) -> list[str]:
        """The reasons of runs that failed."""
        return [
            f"{workload}, {server}: {each.get('failure', 'stalled, or a broken message')}"
            for server, runs in self.samples[workload].items()
            for each in runs
            if "failure" in each or each.get("stalled") or each.get("errors")
        ]


def is_sound(results: Results) -> bool:
    """Whether every message arrived once and in order, and no run failed."""
    return not any(any(results.faults(w)) or results.failures(w) for w in results.samples)


# ---- Cells


OURS, PURE, AUTOBAHN, PICOWS = "ours", "pure", "baseline", "picows"
"""Names of servers in the results: acebase-ipc, the same without its C extension, and what it is
compared with."""

TITLES = {
    OURS: "acebase-ipc",
    PURE: "pure Python",
    AUTOBAHN: "plain Autobahn",
    PICOWS: "picows",
}

RATIOS = ((OURS, AUTOBAHN), (OURS, PICOWS), (PURE, PICOWS))
"""The columns with ratios; the target is one of the first."""


def number(value: float | None) -> str:
    """A figure rounded to three digits, or a dash."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def value_cell(metric: Metric, value: float | None) -> str:
    """A figure and its unit."""
    if value is None:
        return "–"
    scaled = value / 1024 if metric is Metric.MEMORY else value
    return f"{number(scaled)} {metric.unit}".replace(" /s", "/s")


def target_cell(row: Row, ours: float | None, ratio: float | None) -> str:
    """The target, and whether it is reached."""
    target = row.target
    if target is None:
        return ""
    sign = "≤" if row.metric.less_is_better else "≥"
    if target.ratio is not None:
        text, known = f"{sign} {target.ratio:g}", ratio is not None
    else:
        text, known = f"{sign} {value_cell(row.metric, target.limit)}", ours is not None
    if not known:
        return text
    met = target.is_met(row.metric, ours or 0.0, ratio or 0.0)
    return f"{text} {'✓' if met else '✗'}"


def latency_cell(results: Results, workload: str, server: str) -> str:
    """Median and 99th percentile."""
    median_us = results.figure(workload, server, "p50_us")
    if median_us is None:
        return "–"
    return f"{number(median_us)} / {number(results.figure(workload, server, 'p99_us'))}"


def cpu_cell(results: Results, workload: str, server: str) -> str:
    """CPU time of the server per message; unknown for a server given by URL."""
    return number(results.figure(workload, server, "server_us") or None)


def ratio_cell(results: Results, row: Row, workload: str, server: str, other: str) -> str:
    """The median of the ratios of two servers."""
    ratios = results.ratios(workload, row.metric.value, server, other)
    return f"{median(ratios):.2f}" if ratios else "–"


Cells = tuple[str, ...]


def figures_table(results: Results) -> list[Cells]:
    """The heads and lines of the table with the figures of each server, and their ratios."""
    names = results.servers
    compared = [pair for pair in RATIOS if {*pair} <= {*names}]
    heads = [f"{TITLES[one]} / {TITLES[other]}" for one, other in compared]
    rows = [("workload", *(TITLES.get(each, each) for each in names), "target", *heads)]
    for workload, row in results.rows():
        figures = [results.figure(workload.name, each, row.metric.value) for each in names]
        rows.append(
            (
                row.title,
                *(value_cell(row.metric, each) for each in figures),
                target_cell(row, figures[0], results.ratio(workload.name, row.metric.value)),
                *(ratio_cell(results, row, workload.name, *pair) for pair in compared),
            )
        )
    return rows


def costs_table(results: Results) -> list[Cells]:
    """The heads and lines of the table with CPU times, latencies and faults."""
    names = results.servers
    titles = [TITLES.get(each, each) for each in names]
    rows: list[Cells] = [
        (
            "workload",
            *(f"CPU µs, {each}" for each in titles),
            *(f"p50 / p99 µs, {each}" for each in titles),
            "lost / dup. / reord.",
        )
    ]
    for workload in results.workloads():
        name = workload.name
        faults = " / ".join(map(str, results.faults(name))) if workload.sends else ""
        rows.append(
            (
                workload.rows[0].title,
                *(cpu_cell(results, name, each) for each in names),
                *(latency_cell(results, name, each) for each in names),
                faults,
            )
        )
    return rows


# ---- Tables


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text: the first of *rows*, a rule, and the others, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    text.insert(1, "-" * max(map(len, text)))
    return text


def text_table(results: Results) -> str:
    """The tables for a terminal, followed by the failures of runs."""
    text = [*align(figures_table(results)), "", *align(costs_table(results))]
    text += [failure for workload in results.samples for failure in results.failures(workload)]
    return "\n".join(text)


def describe(results: Results) -> str:
    """A paragraph about the system, the versions and the runs."""
    on, how = results.environment, results.settings
    versions = ", ".join(f"{name} {on[name]}" for name in ("Twisted", "autobahn", "pyOpenSSL"))
    load = on.get("load before", 0.0)
    doubt = (
        f" **Other programs kept this machine busy (load average {load:g}), so the figures are"
        " provisional**: compare the CPU times, not the rates."
    )
    return (
        f"acebase-ipc {on['acebase-ipc']} on {on['system']} ({on['machine']}, {on['cores']} cores),"
        f" {on['python']}, {versions}. Each figure is the median of {how['repeats']} runs of"
        f" {how['seconds']:g} s, after {how['warm_up']:g} s that are not counted."
        f"{doubt if load > BUSY else ''}"
    )


def rst_table(results: Results) -> str:
    """The paragraph and the tables as reStructuredText."""
    tables = [list_table(figures_table(results)), list_table(costs_table(results))]
    return "\n".join([describe(results), "", *tables[0], "", *tables[1]])


def update_document(document: str, results: Results) -> str:
    """*document* with the table between its two comments replaced.

    :raises ValueError: if a comment is missing.
    """
    return replace_between(document, BEGIN, END, rst_table(results))


def replace_between(document: str, begin: str, end: str, text: str) -> str:
    """*document* with what is between its lines *begin* and *end* replaced by *text*.

    :raises ValueError: if one of the lines is missing.
    """
    before, found, rest = document.partition(begin)
    _, last, after = rest.partition(end)
    if not (found and last):
        raise ValueError(f"the document needs two lines: {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def list_table(rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in reStructuredText, of which the first of *rows* is the head."""
    text = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        text += [
            f"   {'  ' if column else '* '}- {cell}".rstrip() for column, cell in enumerate(row)
        ]
    return text
