"""Every metric of the relay: its name, type, labels and meaning.

Names and units follow https://prometheus.io/docs/practices/naming/. There is never a label for a
peer or an address. The label ``database`` has the names of the first 200 databases, then
``other``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)

from acebase_ipc.relay.histogram import Histogram

PREFIX: Final = "acebase_ipc_"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    :ivar kind: ``gauge``, ``counter`` or ``histogram``.
    :ivar short: its name without :data:`PREFIX` and, of a counter, ``_total``.
    :ivar text: what it means.
    :ivar labels: the names of its labels.
    """

    kind: str
    short: str
    text: str
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that is used in queries; for a histogram without ``_bucket`` and the like."""
        return f"{PREFIX}{self.short}{'_total' if self.kind == 'counter' else ''}"

    def family(self, *samples: tuple[tuple[str, ...], float]) -> Family:
        """Return a gauge or a counter with *samples*: the values of its labels, and its own."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        family = kind(f"{PREFIX}{self.short}", self.text, labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family

    def histogram(self, counted: Histogram) -> Family:
        """Return a histogram without labels."""
        family = HistogramMetricFamily(f"{PREFIX}{self.short}", self.text)
        buckets = [
            ("+Inf" if bound == float("inf") else str(bound), count)
            for bound, count in counted.cumulative()
        ]
        family.add_metric((), buckets, counted.sum)
        return family


def _gauge(short: str, text: str, *labels: str) -> Metric:
    return Metric("gauge", short, text, labels)


def _counter(short: str, text: str, *labels: str) -> Metric:
    return Metric("counter", short, text, labels)


def _histogram(short: str, text: str) -> Metric:
    return Metric("histogram", short, text)


BUILD = _gauge("build_info", "1; the labels tell versions.", "version", "python", "twisted")
START_TIME = _gauge("start_time_seconds", "When the server was started, in seconds since 1970.")
CONNECTIONS = _gauge("connections", "Open connections of the peers' ports.", "kind")
DATABASES = _gauge("databases", "Databases with at least one peer.")
CERTIFICATE_BEGIN = _gauge(
    "certificate_not_before_timestamp_seconds",
    "From when on the certificate of a port is valid, in seconds since 1970.",
    "path",
)
CERTIFICATE_END = _gauge(
    "certificate_not_after_timestamp_seconds",
    "Until when the certificate of a port is valid, in seconds since 1970; with a chain, until its"
    " first one expires.",
    "path",
)
PEERS = _gauge("peers", "Peers, connected or not.", "database", "dialect", "state")

RECEIVED = _counter(
    "messages_received", "Messages received from peers, over WebSockets and posted.", "database"
)
RECEIVED_BYTES = _counter("received_bytes", "Bytes of the messages received.", "database")
SENT = _counter(
    "messages_sent", "Deliveries over WebSockets: a message counts for each recipient.", "database"
)
SENT_BYTES = _counter("sent_bytes", "Bytes of the messages sent, with their frames.", "database")
DROPPED = _counter("messages_dropped", "Messages that were not delivered.", "reason")

QUEUED = _gauge(
    "queued_messages", "Messages that wait for peers: suspended ones, or slow ones.", "database"
)
QUEUED_BYTES = _gauge("queued_bytes", "Bytes of memory that these use.", "database")
BACKLOG = _gauge(
    "max_peer_backlog_bytes",
    "Bytes that the slowest peer has not read; max_backlog disconnects it.",
    "database",
)
AWAITING = _gauge("awaiting_master_messages", "Messages that wait for a master.", "database")
ABSENT = _gauge(
    "master_absent_seconds",
    "Seconds for which messages have waited for a master that is not there; 0 if none waits.",
    "database",
)
MASTER_LAG = _gauge(
    "master_event_loop_lag_seconds",
    "Seconds that the master's process has taken to answer the last ping, without the network.",
    "database",
)

LOCKS = _gauge("locks", "Locks that are held.", "database")
REQUESTS = _gauge("open_requests", "Requests that the master has not answered yet.", "database")
LOCK_WAIT = _histogram("lock_wait_seconds", "From the request for a lock to the master's answer.")
LOCK_ANSWERS = _counter(
    "lock_answers",
    "Requests for a lock, or to move one, that the master has answered, or the relay itself.",
    "by",
)
ANSWER_TIME = _histogram(
    "master_answer_seconds", "From any other request to the master to its answer."
)

MEMORY = _gauge(
    "memory_bytes",
    "Bytes that the relay holds for its peers; all parts together may hold max_memory.",
    "part",
)
LIMITS = {
    "bytes": _gauge("limit_bytes", "A configured limit.", "limit"),
    "seconds": _gauge("limit_seconds", "A configured limit.", "limit"),
    "connections": _gauge("limit_connections", "A configured limit.", "limit"),
    "databases": _gauge("limit_databases", "A configured limit.", "limit"),
    "UTF-16 code units": _gauge("limit_code_units", "A configured limit.", "limit"),
}

LARGE = _counter("large_messages", "Large messages that were stored for their recipients.")
LARGE_DOWNLOADS = _counter("large_message_downloads", "Downloads of large messages.")
LARGE_LOST = _counter(
    "large_messages_lost",
    "Large messages that a recipient has not downloaded in time, or that exceed max_message.",
    "reason",
)
LARGE_WAITING = _gauge("large_messages_stored", "Large messages that are stored now.")

EVENTS = _counter("events", "Events of each kind, as they are logged.", "kind", "reason")
REFUSALS = _counter("refusals", "Requests and handshakes that were refused.", "status")
CLOSES = _counter("connections_closed", "WebSockets that have ended, by close code.", "code")
SUSPENDED = _counter("sessions_suspended", "Sessions whose connection was lost.")
RESUMED = _counter("sessions_resumed", "Sessions that were resumed.")
EXPIRED = _counter("sessions_expired", "Suspended sessions that have expired.", "reason")

PEER_LAG = _histogram(
    "peer_event_loop_lag_seconds",
    "How long peers have taken to answer a ping, without the network.",
)
LOOP_LAG = _histogram("event_loop_lag_seconds", "By how much the relay's event loop was late.")

CLUSTER_RELAYS = _gauge("cluster_relays", "Relays of the cluster, this one too.")
CLUSTER_SERVING = _gauge("cluster_serving", "1 while the relay's lease is valid, 0 else.")
CLUSTER_STORE = _gauge("cluster_store_up", "1 if Redis has answered the last command, 0 else.")
CLUSTER_LAG = _gauge("cluster_store_lag_seconds", "What Redis has taken for its last answer.")
CLUSTER_HOMES = _gauge("cluster_homes", "Databases whose home the relay is.")
CLUSTER_EPOCH = _gauge("cluster_epoch", "The highest epoch of these; it rises with each claim.")
CLUSTER_LINKS = _gauge("cluster_links", "Clients' connections that are passed on to other relays.")
CLUSTER_LINKS_OPENED = _counter("cluster_links_opened", "How many there have been.")

METRICS: Final = tuple(
    each
    for value in tuple(vars().values())
    for each in (value.values() if isinstance(value, dict) else (value,))
    if isinstance(each, Metric)
)
"""All of them, in the order of the documentation."""
