"""The workloads, and the figures of each that are lines of the table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Metric(Enum):
    """A figure of a run. Its value is its name in the generator's JSON."""

    RATE = "per_second"
    MEDIAN_LATENCY = "p50_us"
    MEMORY = "rss_per_connection"

    @property
    def unit(self) -> str:
        """The unit of the figure."""
        return {"per_second": "/s", "p50_us": "µs", "rss_per_connection": "KiB"}[self.value]

    @property
    def less_is_better(self) -> bool:
        """Whether the smaller figure is the better one."""
        return self is not Metric.RATE


@dataclass(frozen=True, slots=True)
class Target:
    """The figure that a line of the table should reach.

    :ivar ratio: bound of our figure divided by the baseline's: the least, or where
        less is better the greatest.
    :ivar limit: bound of our figure, in the generator's unit.
    """

    ratio: float | None = None
    limit: float | None = None

    def is_met(self, metric: Metric, ours: float, ratio: float) -> bool:
        """Whether the figures reach the target."""
        value, bound = (ratio, self.ratio) if self.ratio is not None else (ours, self.limit)
        assert bound is not None
        return value <= bound if metric.less_is_better else value >= bound


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    title: str
    metric: Metric = Metric.RATE
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """One run of the generator.

    :ivar name: as in ``--only`` and in the JSON.
    :ivar arguments: of the generator.
    :ivar secure: whether it is over TLS.
    """

    name: str
    arguments: tuple[str, ...]
    rows: tuple[Row, ...]
    secure: bool = False

    def with_arguments(self, *changed: str) -> Workload:
        """A copy with other values for some arguments."""
        names = {each.partition("=")[0] for each in changed}
        kept = [each for each in self.arguments if each.partition("=")[0] not in names]
        return replace(self, arguments=(*kept, *changed))


def _messages(
    name: str, arguments: str, title: str, ratio: float | None = None, secure: bool = False
) -> Workload:
    target = None if ratio is None else Target(ratio=ratio)
    return Workload(name, tuple(arguments.split()), (Row(title, target=target),), secure)


IDLE_CONNECTIONS = 10_000
QUICK_CONNECTIONS = 1_000
OUTSTANDING = 10
"""Requests under way, of all workers together, where the cost of more peers is measured."""

CLUSTER_SIZES = {
    "workers-10": 10,
    "workers-100": 100,
    "workers-1000": 1000,
}
DATABASES = {
    "workers-100": 1,
    "databases-10": 10,
    "databases-100": 100,
}
"""Number of databases of a hundred workers."""

WORKLOADS = (
    _messages(
        "directed",
        "pairs k=10 w=1 s=200 batch=0",
        "to one peer, 10 pairs, 1 message under way",
        ratio=3.0,
    ),
    _messages(
        "pipelined", "pairs k=10 w=8 s=200", "to one peer, 10 pairs, 8 messages under way", 5.0
    ),
    _messages("broadcast", "fanout n=100 s=200 w=4", "broadcast to 100 peers", ratio=5.6),
    Workload(
        "round-trip",
        ("rtt", "k=1", "s=200"),
        (Row("round trip of 2 messages", Metric.MEDIAN_LATENCY, Target(ratio=0.6)),),
    ),
    _messages(
        "cluster-10", "mixed n=10 d=4 s=200", "cluster: 10 workers, 4 transactions each", 5.0
    ),
    _messages("cluster-50", "mixed n=50 d=1 s=200", "cluster: 50 workers, 1 transaction each", 4.0),
    _messages("large-frames", "pairs k=4 w=2 s=16000", "to one peer, 16 KB messages", ratio=2.1),
    _messages("post", "post k=4 s=1000000", "1 MB messages, posted and downloaded"),
    _messages(
        "tls-pipelined",
        "pairs k=10 w=8 s=200",
        "TLS: to one peer, 10 pairs, 8 messages under way",
        secure=True,
    ),
    _messages(
        "tls-cluster",
        "mixed n=10 d=4 s=200",
        "TLS: cluster: 10 workers, 4 transactions each",
        secure=True,
    ),
    Workload(
        "connections",
        ("conns", f"n={IDLE_CONNECTIONS}", "perdb=10", "c=32"),
        (
            Row("connects", target=Target(ratio=1.2)),
            Row("memory of an idle connection", Metric.MEMORY, Target(limit=5 * 1024)),
        ),
    ),
    *(
        _messages(
            name, f"mixed n={workers} o={OUTSTANDING} s=200", f"cluster growth: {workers:,} workers"
        )
        for name, workers in CLUSTER_SIZES.items()
    ),
    *(
        _messages(
            name,
            f"mixed n=100 o={OUTSTANDING} databases={databases} s=200",
            f"cluster growth: 100 workers in {databases} databases",
        )
        for name, databases in DATABASES.items()
        if databases > 1
    ),
)


def find_workloads(names: list[str], quick: bool) -> list[Workload]:
    """The workloads with these names, or all; for a *quick* run with fewer connections.

    :raises KeyError: for an unknown name.
    """
    known = {each.name: each for each in WORKLOADS}
    if quick:
        name = "connections"
        known[name] = known[name].with_arguments(f"n={QUICK_CONNECTIONS}")
    return [known[name] for name in names] if names else list(known.values())
