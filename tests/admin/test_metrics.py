"""``/metrics``: every figure changes when its cause happens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import cbor2
import pytest
from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from acebase_ipc.admin.census import RelayCensus
from acebase_ipc.admin.counts import KINDS, MetricsObserver, reasons_of
from acebase_ipc.admin.families import METRICS, PREFIX
from acebase_ipc.admin.metrics import _One
from acebase_ipc.relay.events import RelayEvent
from acebase_ipc.testing import Opcode, client_frame, close_payload, http_head
from tests.admin.relay import HOST, AdminRelay
from tests.certificates import make_certificate, make_chain, make_pfx
from tests.integration.relay_process import on_loopback
from tests.relay.core import MASTER
from tests.relay.locks import body_of, grant, lock, new_id, worker_id

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Figures:
    """The metrics of a relay at a moment."""

    def __init__(self, text: str) -> None:
        self.families = {each.name: each for each in text_string_to_metric_families(text)}
        self.samples = {
            (each.name, tuple(sorted(each.labels.items()))): each.value
            for family in self.families.values()
            for each in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """The value of a sample; 0 if there is none."""
        return self.samples.get((f"{PREFIX}{name}", tuple(sorted(labels.items()))), 0.0)


def scrape(relay: AdminRelay) -> Figures:
    response = relay.ask("GET", "/metrics")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Figures(response.text)


DB = {"database": "shop_data"}


def say(relay: AdminRelay) -> None:
    alice, bobby, _ = relay.join_all("alice", "bobby", "carol")
    alice.say("hello")
    assert bobby.received() == ["msg:hello"]


def leave(relay: AdminRelay) -> None:
    relay.join("alice").leave(1001)


def close_with_a_code_of_its_own(relay: AdminRelay) -> None:
    relay.join("alice").send(close_payload(3999), Opcode.CLOSE)


def is_refused(relay: AdminRelay) -> None:
    assert relay.get("/shop_data/connect").status == 426


def lose(relay: AdminRelay) -> None:
    relay.join_acebase(worker_id(1)).lose()


def come_back(relay: AdminRelay) -> None:
    lose(relay)
    relay.join_acebase(worker_id(1))


def expire(relay: AdminRelay) -> None:
    lose(relay)
    relay.pass_time(16)


def send_to_nobody(relay: AdminRelay) -> None:
    relay.join("alice").say("to:nobody;x", "to:nobody;y")


def post_a_large_message(relay: AdminRelay) -> None:
    alice, bobby = relay.join_all("alice", "bobby")
    alice.post("to:bobby;" + "x" * 20_000)
    (announced,) = bobby.received()
    bobby.download(announced)
    alice.post("to:bobby;" + "x" * 20_000)


def do_not_download(relay: AdminRelay) -> None:
    post_a_large_message(relay)
    relay.pass_time(61)


def post_too_large_a_message(relay: AdminRelay) -> None:
    assert relay.join("alice").post("x" * 300_000).status == 413


def ask_for_a_lock(relay: AdminRelay, *, answer: bool = True, more: int = 0) -> None:
    worker, master = relay.join_acebase(worker_id(1)), relay.join_acebase(MASTER)
    asked = lock(worker.id, new_id())
    worker.say(asked)
    relay.pass_time(0.5)
    if answer:
        master.say(grant(body_of(asked), 1))
    for _ in range(more):
        worker.say(lock(worker.id, new_id()))


def ask_for_three_locks(relay: AdminRelay) -> None:
    ask_for_a_lock(relay, more=2)


def wait_for_a_lock(relay: AdminRelay) -> None:
    ask_for_a_lock(relay, answer=False)


def ask_an_absent_master(relay: AdminRelay) -> None:
    worker = relay.join_acebase(worker_id(1))
    worker.say_envelope("request", to=MASTER, id="r1", data={})
    relay.pass_time(3)


def do_not_read(relay: AdminRelay) -> None:
    alice, bobby = relay.join_all("alice", "bobby")
    bobby.stop_reading()
    for _ in range(20):
        alice.say("to:bobby;" + "x" * 16_000)


def stay_connected(relay: AdminRelay) -> None:
    relay.join("alice")
    relay.pass_time(30)


CAUSES: list[tuple[Callable[[AdminRelay], object], str, dict[str, str], float]] = [
    (say, "connections", {"kind": "websocket"}, 3),
    (say, "databases", {}, 1),
    (say, "peers", DB | {"dialect": "documented", "state": "connected"}, 3),
    (say, "messages_received_total", DB, 1),
    (say, "received_bytes_total", DB, 5),
    (say, "messages_sent_total", DB, 8),  # three welcomes, three connects, two messages
    (say, "events_total", {"kind": "PeerJoined", "reason": ""}, 3),
    (leave, "connections_closed_total", {"code": "1001"}, 1),
    (leave, "events_total", {"kind": "PeerLeft", "reason": ""}, 1),
    (close_with_a_code_of_its_own, "connections_closed_total", {"code": "other"}, 1),
    (is_refused, "refusals_total", {"status": "426"}, 1),
    (lose, "sessions_suspended_total", {}, 1),
    (lose, "peers", DB | {"dialect": "acebase", "state": "suspended"}, 1),
    (come_back, "sessions_resumed_total", {}, 1),
    (expire, "sessions_expired_total", {"reason": "time"}, 1),
    (send_to_nobody, "messages_dropped_total", {"reason": "unknown_addressee"}, 2),
    (
        send_to_nobody,
        "events_total",
        {"kind": "MessageDropped", "reason": "unknown_addressee"},
        2,
    ),
    (post_a_large_message, "large_messages_total", {}, 2),
    (post_a_large_message, "large_message_downloads_total", {}, 1),
    (post_a_large_message, "large_messages_stored", {}, 2),  # one may be fetched again
    (do_not_download, "large_messages_lost_total", {"reason": "expired"}, 1),
    (post_too_large_a_message, "large_messages_lost_total", {"reason": "too_large"}, 1),
    (ask_for_a_lock, "locks", DB, 1),
    (ask_for_a_lock, "lock_wait_seconds_count", {}, 1),
    (ask_for_a_lock, "lock_wait_seconds_bucket", {"le": "0.5"}, 1),
    (ask_for_a_lock, "lock_wait_seconds_sum", {}, 0.5),
    (ask_for_three_locks, "locks", DB, 3),
    (ask_for_three_locks, "lock_answers_total", {"by": "master"}, 1),
    (ask_for_three_locks, "lock_answers_total", {"by": "relay"}, 2),
    (wait_for_a_lock, "open_requests", DB, 1),
    (wait_for_a_lock, "lock_wait_seconds_count", {}, 0),
    (ask_an_absent_master, "awaiting_master_messages", DB, 1),
    (ask_an_absent_master, "master_absent_seconds", DB, 3),
    (stay_connected, "peer_event_loop_lag_seconds_count", {}, 1),
    (stay_connected, "event_loop_lag_seconds_count", {}, 60),
]


@pytest.mark.parametrize(
    ("cause", "name", "labels", "value"),
    CAUSES,
    ids=[f"{cause.__name__}-{name}" for cause, name, _, _ in CAUSES],
)
def test_a_figure_changes_when_its_cause_happens(
    cause: Callable[[AdminRelay], object], name: str, labels: dict[str, str], value: float
) -> None:
    with AdminRelay(max_message=200_000) as relay:
        before = scrape(relay)(name, **labels)
        cause(relay)
        assert scrape(relay)(name, **labels) - before == pytest.approx(value)


def test_what_a_slow_peer_has_not_read_is_told_with_the_limit() -> None:
    with AdminRelay() as relay:
        do_not_read(relay)
        figures = scrape(relay)
        backlog = figures("max_peer_backlog_bytes", **DB)
        queued = figures("queued_bytes", **DB)
        assert 20 * 16_000 < backlog < figures("limit_bytes", limit="max_backlog")
        assert 0 < queued < backlog
        assert 0 < figures("queued_messages", **DB) < 20
        assert figures("memory_bytes", part="queues") == queued


def test_the_parts_of_the_memory_are_those_of_the_budget() -> None:
    with AdminRelay() as relay:
        post_a_large_message(relay)
        parts = scrape(relay).families[f"{PREFIX}memory_bytes"].samples
        assert {each.labels["part"]: each.value for each in parts}["stored"] > 40_000
        assert {"queues", "stored", "ledger", "connections", "uploads", "http"} <= {
            each.labels["part"] for each in parts
        }


def test_the_certificates_of_all_ports_are_told(tmp_path: Path) -> None:
    for_peers, for_admin = make_certificate(tmp_path), make_chain(tmp_path, name="admin")
    with AdminRelay(
        endpoints=(on_loopback("ssl", privateKey=for_peers.pem),) * 2,
        admin=(on_loopback("pfx", path=make_pfx(for_admin)),),
    ) as relay:
        begin, end = (
            {
                sample.labels["path"]: datetime.fromtimestamp(sample.value, UTC).isoformat()
                for sample in scrape(relay).families[f"{PREFIX}{name}"].samples
            }
            for name in (
                "certificate_not_before_timestamp_seconds",
                "certificate_not_after_timestamp_seconds",
            )
        )
    paths = {str(for_peers.pem), str(for_admin.pem.with_suffix(".pfx"))}
    assert begin == dict.fromkeys(paths, "2020-01-01T00:00:00+00:00")
    assert end == dict.fromkeys(paths, "2100-01-01T00:00:00+00:00")


def test_counters_stay_when_a_database_has_left() -> None:
    with AdminRelay() as relay:
        say(relay)
        relay.cut_connections()
        relay.pass_time(2)
        figures = scrape(relay)
        assert figures("databases") == 0
        assert figures("messages_received_total", **DB) == 1
        assert figures("peers", database="shop_data", dialect="documented", state="connected") == 0


def test_no_counter_falls_at_a_hand_over() -> None:
    with AdminRelay() as relay, AdminRelay() as successor:
        relay.pass_time(30)
        for cause in (say, leave, is_refused, close_with_a_code_of_its_own, stay_connected):
            cause(relay)
        relay.cut_connections()
        relay.pass_time(2)
        relay.server.take_snapshot(relay.server.depart())
        state = relay.server.export()
        successor.server.adopt(
            successor.server.arrive(), cbor2.loads(cbor2.dumps(state)), journal_lock=None
        )
        before, after = scrape(relay), scrape(successor)
        counted = {
            name: value
            for name, value in before.samples.items()
            if name[0].endswith(("_total", "_bucket", "_sum", "_count"))
            and not name[0].startswith("process_")
        }
        assert {f"{PREFIX}events_total", f"{PREFIX}refusals_total"} < {name for name, _ in counted}
        assert {name: after.samples.get(name) for name in counted} == counted


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "日本語", "a{b}=,c", "%25"])
def test_a_database_may_have_any_name(name: str) -> None:
    with AdminRelay() as relay:
        relay.join("alice", name).say("x")
        known = name.replace("%25", "%")
        assert scrape(relay)("messages_received_total", database=known) == 1


def test_every_metric_is_there_and_nothing_else() -> None:
    with AdminRelay(tls=True) as relay:
        stay_connected(relay)
        relay.join_acebase(MASTER)
        relay.pass_time(30)
        is_refused(relay)
        families = scrape(relay).families
        process = {each.name for each in ProcessCollector(registry=None).collect()}
        assert "process_resident_memory_bytes" in families
        found = {name: each for name, each in families.items() if name not in process}
        alone = [each for each in METRICS if not each.short.startswith("cluster_")]
        assert set(found) == {each.name.removesuffix("_total") for each in alone}
        for metric in alone:
            family = found[metric.name.removesuffix("_total")]
            assert family.type == metric.kind
            assert family.documentation == metric.text
            assert family.samples, "an empty family proves nothing"
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels)


def test_names_follow_the_conventions() -> None:
    units = r"(_bytes|_seconds|_info|_messages|_stored|_connections|_databases|_requests)"
    for metric in METRICS:
        assert re.fullmatch(r"acebase_ipc_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        if metric.kind == "histogram":
            assert metric.name.endswith("_seconds")
        assert not re.search(rf"{units}_(?!total)[a-z]+$", metric.name) or metric.kind == "gauge"
        assert not {"peer", "address", "id"} & set(metric.labels)


def test_openmetrics_is_spoken_to_who_accepts_it() -> None:
    with AdminRelay() as relay:
        say(relay)
        response = relay.ask("GET", "/metrics", accept=f"{OPENMETRICS},text/plain;q=0.5")
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        families = openmetrics_parser.text_string_to_metric_families(response.text)
        assert f"{PREFIX}messages_received" in {each.name for each in families}
        assert response.text.count("# EOF") == 1


def test_only_a_metric_whose_figures_have_changed_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    collect = _One.collect

    def note(one: _One) -> Iterable[Family]:
        (family,) = collect(one)
        written.append(family.name)
        return (family,)

    monkeypatch.setattr(_One, "collect", note)
    with AdminRelay() as relay:
        scrape(relay)
        assert f"{PREFIX}large_messages_stored" in written
        written.clear()
        say(relay)
        figures = scrape(relay)
    assert figures("messages_received_total", **DB) == 1
    assert f"{PREFIX}messages_received" in written
    assert not {f"{PREFIX}large_messages_stored", f"{PREFIX}limit_bytes"} & {*written}
    assert "acebase_ipc_limit_bytes" in figures.families


def test_every_kind_of_event_and_reason_is_counted_from_the_beginning() -> None:
    counts = MetricsObserver()
    assert {kind for kind, _ in counts.events} == set(KINDS)
    assert RelayEvent.__name__ not in KINDS
    assert reasons_of(KINDS["SessionExpired"]) == ["time", "size"]
    assert set(counts.events.values()) == {0}


def test_an_answer_is_made_in_steps_between_which_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with AdminRelay() as relay:
        alice, bobby = relay.join_all("alice", "bobby")
        heard: list[int] = []
        step = RelayCensus.step

        def long_step(census: RelayCensus) -> bool:
            heard.append(len(bobby.received()))
            alice.connection.send(client_frame(b"x"), settle=False)
            return step(census) or len(heard) < 100

        monkeypatch.setattr(RelayCensus, "step", long_step)
        assert scrape(relay)("databases") == 1
        assert len(heard) == 100
        assert 0 < sum(heard) < 100


def test_a_reader_that_leaves_is_forgotten() -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            connection = relay.connect()
        connection.send(http_head("GET", "/metrics", host=HOST), settle=False)
        relay.turn()
        connection.reset()
        relay.settle()
        assert scrape(relay)("databases") == 0


def test_a_failure_is_answered_with_500(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(census: RelayCensus) -> bool:
        raise ZeroDivisionError

    with AdminRelay(expect_errors=True) as relay:
        monkeypatch.setattr(RelayCensus, "step", fail)
        assert relay.ask("GET", "/metrics").status == 500
        (error,) = relay.errors
        assert "collecting metrics failed" in error
        monkeypatch.undo()
        assert scrape(relay)("databases") == 0


def test_web_pages_do_not_read_the_metrics() -> None:
    with AdminRelay() as relay:
        assert relay.ask("GET", "/metrics", host="attacker.example").status == 403
        assert relay.ask("POST", "/metrics").status == 405


def test_a_head_has_no_body() -> None:
    with AdminRelay() as relay:
        with relay.at_admin():
            connection = relay.connect()
        connection.send(http_head("HEAD", "/metrics", host=HOST))
        head, end, body = connection.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (end, body) == (b"\r\n\r\n", b"")
