"""The workloads, and the figures of each that are lines of the table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class Metric(Enum):
    """A figure of a run. Its value is its name in the generator's JSON."""

    RATE = "per_second"
    MEDIAN_LATENCY = "p50_us"
    LATENCY_OF_99_PERCENT = "p99_us"
    LATENCY_OF_999_PER_MILLE = "p999_us"
    DURATION = "seconds"
    MEMORY = "rss_per_connection"

    @property
    def unit(self) -> str:
        """The unit of the figure."""
        units = {"per_second": "/s", "seconds": "s", "rss_per_connection": "KiB"}
        return units.get(self.value, "µs")

    @property
    def less_is_better(self) -> bool:
        """Whether the smaller figure is the better one."""
        return self is not Metric.RATE


@dataclass(frozen=True, slots=True)
class Target:
    """The figure that a line of the table should reach.

    :ivar ratio: bound of our figure divided by plain Autobahn's: the least, or where
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
    :ivar options: of the server, besides its usual ones.
    """

    name: str
    arguments: tuple[str, ...]
    rows: tuple[Row, ...]
    secure: bool = False
    options: tuple[str, ...] = ()

    @property
    def uses_http(self) -> bool:
        """Whether it sends and downloads messages over HTTP."""
        return self.arguments[0] == "post"

    @property
    def sends(self) -> bool:
        """Whether it sends messages, and does not only connect."""
        return self.arguments[0] != "conns"

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


def _steady(rate: int) -> Workload:
    title = f"at {rate:,} messages a second"
    rows = (
        Row(f"{title}: median latency", Metric.MEDIAN_LATENCY),
        Row(f"{title}: 99th percentile", Metric.LATENCY_OF_99_PERCENT),
        Row(f"{title}: 99.9th percentile", Metric.LATENCY_OF_999_PER_MILLE),
    )
    return Workload(f"steady-{rate}", ("steady", "k=10", f"rate={rate}", "s=200"), rows)


HUGE = ("--max-payload=250000",)
"""Lets messages of 200 KB be sent in a WebSocket frame, instead of being posted."""

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
    _messages("broadcast-10", "fanout n=10 s=200 w=4", "broadcast to 10 peers"),
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
    replace(
        _messages("huge-frames", "pairs k=4 w=1 s=200000", "to one peer, 200 KB messages"),
        options=HUGE,
    ),
    replace(
        _messages("huge-broadcast", "fanout n=10 s=200000 w=1", "broadcast of 200 KB to 10 peers"),
        options=HUGE,
    ),
    *(_steady(each) for each in (1_000, 20_000)),
    _messages("post", "post k=4 s=1000000", "1 MB messages, posted and downloaded"),
    _messages(
        "tls-directed",
        "pairs k=10 w=1 s=200 batch=0",
        "TLS: to one peer, 10 pairs, 1 message under way",
        secure=True,
    ),
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
    _messages(
        "tls-broadcast", "fanout n=100 s=200 w=4", "TLS: broadcast to 100 peers", secure=True
    ),
    _messages(
        "tls-large-frames",
        "pairs k=4 w=2 s=16000",
        "TLS: to one peer, 16 KB messages",
        secure=True,
    ),
    Workload(
        "tls-round-trip",
        ("rtt", "k=1", "s=200"),
        (Row("TLS: round trip of 2 messages", Metric.MEDIAN_LATENCY),),
        secure=True,
    ),
    Workload(
        "joins",
        ("conns", "n=1000", "perdb=1000", "c=32"),
        (Row("connects, 1,000 peers of one database"),),
    ),
    Workload(
        "storm",
        ("conns", "n=5000", "perdb=10", "c=5000"),
        (Row("5,000 peers that connect at once: until all are welcome", Metric.DURATION),),
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
        for name, each in known.items():
            if not each.sends:
                known[name] = each.with_arguments(f"n={QUICK_CONNECTIONS}")
    return [known[name] for name in names] if names else list(known.values())
