"""The reports of the Autobahn TestSuite, in one table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GOOD = "OK"
TOLERATED = ("NON-STRICT", "INFORMATIONAL")
"""What is no failure, if Autobahn alone does it, too."""

SECTIONS = {
    "1": "Framing",
    "2": "Pings and pongs",
    "3": "Reserved bits",
    "4": "Opcodes",
    "5": "Fragmentation",
    "6": "UTF-8",
    "7": "Closing",
    "9": "Limits and performance",
    "10": "Automatic fragmentation",
}

TITLES = {
    "private": "the relay's WebSocket with its fast path",
    "public": "the same with public names of Autobahn only",
    "stock": "Autobahn alone",
}

HEAD = """\
===========
Conformance
===========

.. Written by "make conformance": do not edit.

Results of the Autobahn TestSuite (``{suite}``): its fuzzing client tests an echo server
that uses the relay's own WebSocket (``tests/conformance``), with Autobahn {autobahn}. ``make
conformance`` runs it again and writes this page.

"""

TAIL = """\

A case passes if it is OK, or if it is NON-STRICT or INFORMATIONAL and is so for Autobahn alone.
Anything else is a failure, and ``make conformance`` then fails. Cases 12 and 13 test compression,
which the relay does not support.
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What the suite says of one agent.

    :ivar behaviour: its verdict by case, in order; where that for closing is worse, that.
    """

    behaviour: dict[str, str]

    @property
    def counts(self) -> Counter[str]:
        """How many cases have each verdict."""
        return Counter(self.behaviour.values())

    def section(self, number: str) -> Counter[str]:
        """How many cases of a section have each verdict."""
        return Counter(
            verdict for case, verdict in self.behaviour.items() if case.split(".")[0] == number
        )


def read_reports(index: Path, agent: str) -> Report:
    """The report of *agent* in the suite's ``index.json``."""
    cases = json.loads(index.read_text())[agent]
    by_number = sorted(cases, key=lambda case: [int(part) for part in case.split(".")])
    return Report({case: _verdict(cases[case]) for case in by_number})


def _verdict(case: Mapping[str, str]) -> str:
    behaviour, close = case["behavior"], case["behaviorClose"]
    return behaviour if close in (GOOD, "INFORMATIONAL") else f"{behaviour}, close {close}"


def worse_than(other: Report, report: Report) -> list[str]:
    """The cases in which a *report* says neither OK nor what is tolerable of the *other*."""
    return [
        case
        for case, verdict in report.behaviour.items()
        if verdict != GOOD and not (verdict in TOLERATED and other.behaviour.get(case) == verdict)
    ]


def describe(counts: Counter[str]) -> str:
    """Verdicts with their numbers, the most frequent first."""
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())


def render(reports: Mapping[str, Report], versions: Mapping[str, str]) -> str:
    """The page about the *reports* of all agents."""
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 25 25 25 25", ""]
    rows = [["Cases", *(TITLES[each] for each in reports)]]
    for number, title in SECTIONS.items():
        verdicts = [describe(each.section(number)) for each in reports.values()]
        rows.append([f"{number} {title}", *verdicts])
    rows.append(["All", *(describe(each.counts) for each in reports.values())])
    for row in rows:
        lines += [f"   {'*' if not at else ' '} - {cell}" for at, cell in enumerate(row)]
    lines.append("")
    different = sorted(
        {c for each in reports.values() for c, v in each.behaviour.items() if v != GOOD}
    )
    if different:
        lines += ["Cases that are not OK:", ""]
        for case in different:
            said = [f"{kind} {each.behaviour.get(case)}" for kind, each in reports.items()]
            lines.append(f"* {case}: {'; '.join(said)}")
    return HEAD.format(**versions) + "\n".join(lines) + "\n" + TAIL
