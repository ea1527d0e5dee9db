"""``/metrics``: what a relay is doing, for Prometheus.

The text is made by prometheus_client, from the figures that the relay keeps anyway: nothing is
counted for it when a message is relayed. An answer is made in steps, in rotation with the work
of the peers. The text of a metric is kept until one of its figures changes, since to make it takes
most of the time: with 100 databases and one request a second, 2.4 % of a core were used otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from twisted.web.server import Request

import twisted
from acebase_ipc.admin import families as f
from acebase_ipc.admin.answers import Pieces, answer_with_census
from acebase_ipc.admin.census import Figures, RelayCensus
from acebase_ipc.admin.control import ClusterFacts, Facts
from acebase_ipc.admin.counts import MetricsObserver
from acebase_ipc.admin.endpoint import Context, Endpoint
from acebase_ipc.relay.events import OversizedMessage, SessionExpired
from acebase_ipc.relay.histogram import Histogram
from acebase_ipc.relay.limits import describe_limits
from acebase_ipc.relay.relay import Relay

_EOF: Final = b"# EOF\n"
"""How a text of OpenMetrics ends."""


class RelayMetrics:
    """The metrics of one relay.

    :param facts: returns what its server knows of itself.
    :param counts: has counted its events.
    :param peer_lag: how long peers take to answer a ping.
    :param loop_lag: by how much the relay's event loop was late.
    """

    def __init__(
        self,
        relay: Relay,
        facts: Callable[[], Facts],
        counts: MetricsObserver,
        peer_lag: Histogram,
        loop_lag: Histogram,
    ) -> None:
        self._relay = relay
        self._facts = facts
        self._counts = counts
        self._peer_lag = peer_lag
        self._loop_lag = loop_lag

    def families(self, census: RelayCensus) -> Iterator[Family]:
        """Return all metrics, with the figures of a complete *census*."""
        facts = self._facts()
        yield f.BUILD.family(((facts.version, facts.python, twisted.__version__), 1))
        yield f.START_TIME.family(((), facts.started / 1000))
        yield f.CONNECTIONS.family((("websocket",), facts.websockets), (("http",), facts.http))
        valid = facts.certificates.items()
        yield f.CERTIFICATE_BEGIN.family(*(((path,), begin) for path, (begin, _) in valid))
        yield f.CERTIFICATE_END.family(*(((path,), end) for path, (_, end) in valid))
        if facts.cluster is not None:
            yield from _cluster(facts.cluster)
        yield f.DATABASES.family(((), len(census.databases)))
        yield from _by_database(census.labels)
        yield from self._memory(facts)
        yield from self._events()
        relay = self._relay
        yield f.LARGE.family(((), relay.store.received))
        yield f.LARGE_DOWNLOADS.family(((), relay.store.downloaded))
        yield f.LARGE_WAITING.family(((), len(relay.store)))
        yield f.LOCK_WAIT.histogram(relay.lock_waits)
        by_master = sum(relay.lock_waits.counts)
        answered = (("master", by_master), ("relay", relay.lock_sessions.answered))
        yield f.LOCK_ANSWERS.family(*(((by,), count) for by, count in answered))
        yield f.ANSWER_TIME.histogram(relay.answer_times)
        yield f.PEER_LAG.histogram(self._peer_lag)
        yield f.LOOP_LAG.histogram(self._loop_lag)

    def _memory(self, facts: Facts) -> Iterator[Family]:
        memory = self._relay.memory
        yield f.MEMORY.family(*(((part,), size) for part, size in memory.parts().items()))
        units = {name: limit.unit for name, limit in describe_limits().items()}
        for unit, metric in f.LIMITS.items():
            yield metric.family(
                *(
                    ((name,), value)
                    for name, value in facts.limits.items()
                    if units[name] == unit and value is not None
                )
            )

    def _events(self) -> Iterator[Family]:
        counts = self._counts
        events, dropped = counts.events, counts.dropped
        yield f.EVENTS.family(*events.items())
        yield f.REFUSALS.family(*(((str(each),), n) for each, n in counts.refusals.items()))
        yield f.CLOSES.family(*(((each,), n) for each, n in counts.closes.items()))
        yield f.DROPPED.family(*(((each,), n) for each, n in dropped.items()))
        yield f.SUSPENDED.family(((), events["SessionSuspended", ""]))
        yield f.RESUMED.family(((), events["SessionResumed", ""]))
        expired = SessionExpired.__name__
        yield f.EXPIRED.family(
            *(((reason,), n) for (kind, reason), n in events.items() if kind == expired)
        )
        yield f.LARGE_LOST.family(
            (("expired",), dropped["expired"]),
            (("too_large",), events[OversizedMessage.__name__, ""]),
        )


def _cluster(facts: ClusterFacts) -> Iterator[Family]:
    yield f.CLUSTER_RELAYS.family(((), len(facts.relays)))
    yield f.CLUSTER_SERVING.family(((), facts.serving))
    yield f.CLUSTER_STORE.family(((), facts.store_answers))
    yield f.CLUSTER_LAG.family(*() if facts.store_lag is None else [((), facts.store_lag)])
    yield f.CLUSTER_HOMES.family(((), len(facts.homes)))
    yield f.CLUSTER_EPOCH.family(((), max(facts.homes.values(), default=0)))
    yield f.CLUSTER_LINKS.family(((), facts.links))
    yield f.CLUSTER_LINKS_OPENED.family(((), facts.links_total))


def _by_database(figures: dict[str, Figures]) -> Iterator[Family]:
    for metric, value in _TRAFFIC.items():
        yield metric.family(*(((label,), value(each)) for label, each in figures.items()))
    present = {label: each for label, each in figures.items() if each.peers}
    yield f.PEERS.family(
        *(
            ((label, *kind), count)
            for label, each in present.items()
            for kind, count in each.peers.items()
        )
    )
    for metric, value in _PRESENT.items():
        yield metric.family(*(((label,), value(each)) for label, each in present.items()))
    lags = ((label, each.master_lag) for label, each in present.items())
    yield f.MASTER_LAG.family(*(((label,), lag) for label, lag in lags if lag is not None))


_TRAFFIC: Final[dict[f.Metric, Callable[[Figures], float]]] = {
    f.RECEIVED: lambda each: each.traffic.received,
    f.RECEIVED_BYTES: lambda each: each.traffic.received_bytes,
    f.SENT: lambda each: each.traffic.sent,
    f.SENT_BYTES: lambda each: each.traffic.sent_bytes,
}

_PRESENT: Final[dict[f.Metric, Callable[[Figures], float]]] = {
    f.QUEUED: lambda each: each.queued,
    f.QUEUED_BYTES: lambda each: each.queued_bytes,
    f.BACKLOG: lambda each: each.backlog,
    f.AWAITING: lambda each: each.awaiting,
    f.ABSENT: lambda each: each.absent,
    f.LOCKS: lambda each: each.locks,
    f.REQUESTS: lambda each: each.requests,
}


class Metrics(Endpoint):
    """``GET /metrics``.

    :param metrics: of the relay.
    """

    def __init__(self, context: Context, metrics: RelayMetrics) -> None:
        super().__init__(context)
        self._metrics = metrics
        self._process = ProcessCollector(registry=None)
        self._texts: dict[tuple[str, str], tuple[Family, bytes]] = {}

    def answer(self, request: Request) -> bytes | int:
        """Begin to make the answer."""

        def make(census: RelayCensus) -> Pieces:
            return self._make(request, census)

        return answer_with_census(self.context, request, make, "collecting metrics")

    def _make(self, request: Request, census: RelayCensus) -> Pieces:
        """Yield the pieces of the text, each after a step of the work."""
        accepted = request.requestHeaders.getRawHeaders(b"accept", [])
        encode, content_type = choose_encoder(b",".join(accepted).decode("latin-1"))
        request.setHeader(b"Content-Type", content_type.encode())
        request.setHeader(b"Cache-Control", b"no-store")
        piece = b""
        for family in chain(self._metrics.families(census), self._process.collect()):
            key = content_type, family.name
            known = self._texts.get(key)
            if known is None or known[0] != family:
                known = self._texts[key] = family, encode(_One(family))
            piece = known[1]
            yield piece.removesuffix(_EOF)
        return _EOF if piece.endswith(_EOF) else b""


class _One(Collector):
    """A registry of one metric, which is encoded alone."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return (self._family,)
