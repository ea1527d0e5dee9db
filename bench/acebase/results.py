"""The figures of all runs, and their tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.acebase.site import KINDS, TO_MASTER, Sample
from bench.report import BUSY, align, list_table, number

BEGIN = ".. The results of AceBase begin: written by bench/acebase"
END = ".. The results of AceBase end"

TITLES = {"transaction": "transactions", "set": "sets", "get": "gets"}


@dataclass(frozen=True, slots=True)
class Case:
    """What one line of the table is about.

    :ivar delay: milliseconds that are added each way.
    """

    kind: str
    workers: int
    delay: float

    @property
    def title(self) -> str:
        """For the first columns."""
        return f"{TITLES[self.kind]}, {self.workers} worker{'s'[: self.workers > 1]}"


@dataclass(frozen=True, slots=True)
class Results:
    """The samples of all runs.

    :ivar environment: the system and the versions.
    :ivar settings: number and length of the runs.
    :ivar variants: the names of the two relays that are compared, the first being the subject.
    :ivar exactness: by delay in ms: how much longer than twice the delay and one without a round
        trip through the proxy takes, in µs; p50 and p99.
    :ivar lateness: of the proxy during the measurements, by delay; p50, p99 and maximum in ns.
    :ivar runs: ``variant``, ``kind``, ``workers`` and ``delay``, and the figures.
    :ivar lost: transactions that were acknowledged and not counted, in all runs.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    variants: Sequence[str]
    exactness: dict[str, list[float]]
    lateness: dict[str, list[dict[str, Any]]]
    runs: list[Sample]
    lost: int

    def to_json(self) -> str:
        """The results as JSON, with one line for each run."""
        rest = asdict(self)
        runs = ",\n  ".join(map(json.dumps, rest.pop("runs")))
        text = json.dumps(rest, indent=1, ensure_ascii=False).removesuffix("\n}")
        return f'{text},\n "runs": [\n  {runs}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Results:
        """The results in the text of :meth:`to_json`."""
        return cls(**json.loads(text))

    @property
    def cases(self) -> list[Case]:
        """What was measured, by operation, size of the cluster and delay."""
        cases = {Case(each["kind"], each["workers"], each["delay"]) for each in self.runs}
        return sorted(cases, key=lambda each: (KINDS.index(each.kind), each.workers, each.delay))

    def values(self, case: Case, variant: str, figure: str) -> list[Any]:
        """One figure of each repeat."""
        return [
            each[figure]
            for each in self.runs
            if each["variant"] == variant
            and (each["kind"], each["workers"], each["delay"])
            == (case.kind, case.workers, case.delay)
        ]

    def ratios(self, case: Case, figure: str) -> list[float]:
        """The first variant's figure divided by the other's, within each repeat."""
        if len(self.variants) < 2:
            return []
        new, old = (self.values(case, variant, figure) for variant in self.variants)
        return [one / two for one, two in zip(new, old, strict=True) if two]

    def messages(self, kind: str, variant: str, figure: str) -> dict[str, float]:
        """Messages per operation, by type: ``sent`` by the workers or ``received`` by the master.

        Of the medium size of the cluster without a delay: neither should change them.
        """
        cases = [each for each in self.cases if each.kind == kind and each.delay == 0]
        case = cases[len(cases) // 2]
        samples = self.values(case, variant, figure)
        return {each: median(sample[each] for sample in samples) for each in TO_MASTER}


# ---- Tables


def spread(values: list[float]) -> str:
    """The median with the least and the greatest."""
    return f"{number(median(values))} ({number(min(values))}–{number(max(values))})"


def headers(results: Results) -> tuple[str, ...]:
    """The head of the table."""
    names = results.variants
    return (
        "operation",
        "added each way, ms",
        *(f"per second, {each}" for each in names),
        "ratio",
        *(f"p50 / p99 ms, {each}" for each in names),
        *(f"CPU ms: master / workers / relay, {each}" for each in names),
    )


def lines(results: Results) -> Iterator[tuple[str, ...]]:
    """All lines of the table."""
    for case in results.cases:

        def figure(variant: str, name: str, case: Case = case) -> str:
            return number(median(results.values(case, variant, name)) / 1000)

        ratios = results.ratios(case, "rate")
        yield (
            case.title,
            f"{case.delay:g}",
            *(spread(results.values(case, each, "rate")) for each in results.variants),
            f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if ratios else "–",
            *(f"{figure(each, 'p50_us')} / {figure(each, 'p99_us')}" for each in results.variants),
            *(
                " / ".join(figure(each, f"{side}_us") for side in ("master", "worker", "relay"))
                for each in results.variants
            ),
        )


def message_lines(results: Results) -> Iterator[tuple[str, ...]]:
    """The table of the messages per operation."""
    yield (
        "messages per operation",
        *TO_MASTER,
        "all",
    )
    for kind in KINDS:
        if any(each.kind == kind and each.delay == 0 for each in results.cases):
            for variant in results.variants:
                for figure, title in (("sent", "sent"), ("received", "received by the master")):
                    counts = results.messages(kind, variant, figure)
                    yield (
                        f"{kind}, {variant}: {title}",
                        *(f"{each:.2f}" for each in counts.values()),
                        f"{sum(counts.values()):.2f}",
                    )


def describe(results: Results) -> str:
    """A paragraph about the system, the versions and the runs."""
    on, how = results.environment, results.settings
    exact = ", ".join(
        f"{number(p50)} µs (p99 {number(p99)}) at {delay} ms"
        for delay, (p50, p99) in results.exactness.items()
    )
    late = ", ".join(
        f"{number(median(each['p50_ns'] for each in reports) / 1000)} µs"
        f" (p99 {number(median(each['p99_ns'] for each in reports) / 1000)}) at {delay} ms"
        for delay, reports in results.lateness.items()
    )
    doubt = (
        f" **Other programs kept this machine busy (load average {on['load before']:g}).**"
        if on["load before"] > BUSY
        else ""
    )
    proxy = (
        " A round trip through the delaying proxy takes longer than twice the delay and a round"
        f" trip without a delay by {exact}; while the clusters worked it delivered later than due"
        f" by {late}."
        if exact
        else ""
    )
    return (
        f"acebase {on['acebase']} on {on['node']}, acebase-ipc {on['acebase-ipc']} on"
        f" {on['python']}, {on['system']} ({on['machine']}, {on['cores']} cores). Medians of"
        f" {how['repeats']} runs of {how['seconds']:g} s (least–greatest).{proxy}"
        f" Transactions lost: {results.lost}.{doubt}"
    )


def text_table(results: Results) -> str:
    """Everything for a terminal."""
    table = align([headers(results), *lines(results)])
    return "\n".join([*table, "", *align(list(message_lines(results))), "", describe(results)])


def rst_table(results: Results) -> str:
    """Everything as reStructuredText."""
    table = list_table([headers(results), *lines(results)])
    return "\n".join([describe(results), "", *table, "", *list_table(message_lines(results))])
