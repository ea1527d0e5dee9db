"""The benchmark: its workloads, the faults that it finds, and its tables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench.servers
from bench import processes
from bench.comparison import NEW, OLD, Ratios, comparison_table, ratios
from bench.processes import BenchError, Generator, Sample, build_generator
from bench.report import (
    AUTOBAHN,
    BEGIN,
    END,
    OURS,
    PICOWS,
    PURE,
    Results,
    costs_table,
    figures_table,
    is_sound,
    number,
    rst_table,
    text_table,
    update_document,
)
from bench.run import main
from bench.servers import (
    BASELINE,
    THIS_PYTHON,
    Program,
    Server,
    distributions,
    relay,
    require_equal,
    running_server,
)
from bench.workloads import WORKLOADS, Metric, Target, find_workloads
from tests.certificates import make_certificate
from tests.programs import missing

PROGRAMS = {OURS: relay(), AUTOBAHN: BASELINE, PICOWS: bench.servers.PICOWS}

SHORT = ("secs=0.2", "warm=0.05")

SMALL = {
    "directed": "pairs k=3 w=1 batch=0",
    "pipelined": "pairs k=3 w=8",
    "steady": "steady k=3 rate=2000",
    "large frames": "pairs k=2 w=2 s=16000",
    "broadcast": "fanout n=10 w=4",
    "round trip": "rtt k=2",
    "cluster": "mixed n=4 d=4",
    "databases": "mixed n=12 o=5 databases=3",
    "connections": "conns n=25 perdb=10 c=4",
}

WRONG_RELAY = """
from bench import stock_relay

deliver = stock_relay.Database.deliver
bodies = []

def deliver_wrongly(self, peer, body):
    if not body.startswith(b"{"):
        return deliver(self, peer, body)
    %s
    deliver(self, peer, body)

stock_relay.Database.deliver = deliver_wrongly
stock_relay.main()
"""

FAULTS = """
    if peer.client_id != %r:
        return deliver(self, peer, body)
    bodies.append(body)
    number = len(bodies)
    if number == 40:
        return  # lost
    if number == 50:
        deliver(self, peer, body)  # duplicated
    if number == 60:
        return  # reordered:
    if number == 61:
        deliver(self, peer, body)
        body = bodies[59]
    if number == 70:
        body = body[:-3] + b"?" + body[-2:]  # altered
"""

WORKER, MASTER = "client000000000000000000", "[master]"

ENVELOPES = [
    re.compile(
        re.escape(each)
        .replace("ID", "[0-9a-z]{24}")
        .replace("TEXT", r'(?:[^"\\]|\\")*')
        .replace("BOOL", "(?:true|false)")
        .replace("NUMBER", "[1-9][0-9]*")
    )
    for each in (
        (
            '{"type":"lock-request","id":"ID","from":"ID","to":"[master]",'
            '"data":{"path":"TEXT","tid":"ID","write":BOOL,"comment":"TEXT"}}'
        ),
        (
            '{"type":"lock-result","id":"ID","from":"[master]","to":"ID","ok":true,"data":{"id":NUMBER,'
            '"path":"TEXT","tid":"ID","write":BOOL,"expires":NUMBER,"comment":"TEXT"}}'
        ),
        '{"type":"unlock-request","id":"ID","from":"ID","to":"[master]","data":{"id":NUMBER}}',
        (
            '{"type":"unlock-result","id":"ID","from":"[master]","to":"ID","ok":true,'
            '"data":{"id":NUMBER}}'
        ),
        (
            '{"type":"request","from":"ID","to":"[master]","id":"ID",'
            '"data":{"type":"fst.allocate","records":1}}'
        ),
        (
            '{"type":"result","id":"ID","ok":true,"from":"[master]","to":"ID",'
            '"data":{"ok":true,"allocation":[{"pageNr":0,"recordNr":2,"length":1}]}}'
        ),
        (
            '{"type":"event","from":"ID","to":"[master]","path":"list","event":"child_added",'
            '"data":{"path":"list/ID","val":"TEXT","previous":null,"context":{}}}'
        ),
        (
            '{"type":"event","from":"[master]","to":"ID","path":"list","event":"child_added",'
            '"data":{"path":"list/ID","val":"TEXT","previous":null,"context":{}}}'
        ),
    )
]
"""The messages as the npm package acebase writes them."""

LOCKING = ("lock-request", "lock-result", "unlock-request", "unlock-result")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """The load generator, compiled."""
    if processes.find_compiler() is None:
        missing("the load generator needs a C compiler")
    return build_generator(tmp_path_factory.mktemp("load"))


@pytest.fixture(scope="module", params=sorted(PROGRAMS))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Each of the servers, as a process of its own."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(PROGRAMS[request.param], log) as running:
        yield running
    assert "Traceback" not in log.read_text()


def run(generator: Generator, server: Server, arguments: str) -> Sample:
    """A short run."""
    return generator.run([*arguments.split(), f"url={server.url}", f"pid={server.pid}", *SHORT])


def run_soundly(generator: Generator, server: Server, arguments: str) -> None:
    """A short run in which every message arrives once and in order."""
    sample = run(generator, server, arguments)
    assert "failure" not in sample
    assert sample["errors"] == 0
    assert sample["per_second"] > 0
    assert 0 < sample["p50_us"] <= sample["p99_us"] <= sample["p999_us"]
    assert sample["rss_kb"] > 1000
    if sample["unit"] == "messages":
        assert not sample["stalled"]
        assert (sample["lost"], sample["duplicated"], sample["reordered"]) == (0, 0, 0)
        assert sample["completed_per_second"] > 0
    else:
        assert sample["connections"] == 25


@pytest.mark.parametrize("arguments", SMALL.values(), ids=SMALL)
def test_workload(generator: Generator, server: Server, arguments: str) -> None:
    """All servers are measured with nearly all workloads."""
    run_soundly(generator, server, arguments)


@pytest.mark.parametrize("kind", [each for each in PROGRAMS if PROGRAMS[each].has_http])
def test_posts(generator: Generator, kind: str, tmp_path: Path) -> None:
    """Those with HTTP are also measured with large messages."""
    with running_server(PROGRAMS[kind], tmp_path / "log") as server:
        run_soundly(generator, server, "post k=2 s=1000000")


def test_at_a_constant_rate_a_message_is_late_from_when_it_was_due(
    generator: Generator, tmp_path: Path
) -> None:
    """A relay that stops for 0.2 s delays all that are due meanwhile, and none is left out."""
    stop = """
    bodies.append(body)
    if len(bodies) == 200:
        import time
        time.sleep(0.2)
    """
    with running_server(wrong_relay(stop), tmp_path / "log") as server:
        sample = generator.run(
            ["steady", "k=2", "rate=1000", f"url={server.url}", "secs=0.5", "warm=0.05"]
        )
    assert sample["per_second"] == pytest.approx(1000, rel=0.1)
    assert sample["p99_us"] > 150_000
    assert sample["p50_us"] < 100_000


@pytest.mark.parametrize("kind", sorted(PROGRAMS))
def test_tls(generator: Generator, kind: str, tmp_path: Path) -> None:
    """All servers are also measured over TLS."""
    if not generator.tls:
        missing("OpenSSL's headers are missing")
    pem = make_certificate(tmp_path).pem
    with running_server(PROGRAMS[kind], tmp_path / "log", pem) as server:
        assert server.url.startswith("wss:")
        sample = run(generator, server, "mixed n=4 d=4")
    assert "failure" not in sample
    assert sample["completed_per_second"] > 0
    assert (sample["lost"], sample["duplicated"], sample["reordered"]) == (0, 0, 0)


def wrong_relay(lines: str) -> Program:
    """A relay that executes *lines* for each message that it delivers."""
    return Program(lambda pem: [sys.executable, "-c", WRONG_RELAY % lines.strip()])


@pytest.mark.parametrize(
    ("arguments", "receiver"),
    [
        ("pairs k=1 w=8", "client000000000000000001"),
        ("mixed n=1 d=8", MASTER),
        ("mixed n=1 d=8", WORKER),
    ],
)
def test_faults_are_found(
    generator: Generator, tmp_path: Path, arguments: str, receiver: str
) -> None:
    """Single faults among thousands of messages are counted by kind.

    An altered message is an error, and the original one is lost.
    """
    with running_server(wrong_relay(FAULTS % receiver), tmp_path / "log") as server:
        sample = run(generator, server, arguments)
    assert (sample["lost"], sample["duplicated"], sample["reordered"]) == (2, 1, 1)
    assert sample["errors"] == 1
    assert "received a message that was not sent" in sample["failure"]


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "error"),
    [
        ("lock-result", '"data":{"id":', '"data":{"id":9', "[master] of bench0_data: received a"),
        ("lock-result", '"tid":"trans0', '"tid":"trans1', "received a wrong answer"),
        ("unlock-result", '"data":{"id":', '"data":{"id":9', "received a wrong answer"),
        ("result", '"id":"bench0', '"id":"bench1', "an answer that it has not asked for"),
    ],
    ids=["lock granted", "transaction", "lock released", "request"],
)
def test_wrong_answers_are_found(
    generator: Generator, tmp_path: Path, kind: str, right: str, wrong: str, error: str
) -> None:
    """An answer with another id is an error, and that message gets no right answer."""
    program = wrong_relay(f"""
    if b'"type":"{kind}"' in body:
        bodies.append(body)
        if len(bodies) == 20:
            body = body.replace({right.encode()!r}, {wrong.encode()!r})
    """)
    with running_server(program, tmp_path / "log") as server:
        sample = run(generator, server, "mixed n=2 d=4")
    assert error in sample["failure"]
    assert (sample["errors"], sample["lost"]) == (1, 1)


def test_messages_of_a_cluster(generator: Generator, tmp_path: Path) -> None:
    """They are what AceBase writes; 24 of the 40 of a transaction concern locks.

    The ids of the locks rise in each database.
    """
    log = tmp_path / "log"
    lines = "print(id(self), peer.client_id, body.decode(), flush=True)"
    with running_server(wrong_relay(lines), log) as server:
        sample = run(generator, server, "mixed n=2 d=1 databases=2")
    assert sample["errors"] == 0
    types: dict[str, list[str]] = {}
    granted: dict[str, list[int]] = {}
    delivered = [line.split(" ", 2) for line in log.read_text().splitlines() if line[-1] == "}"]
    for database, receiver, text in delivered:
        assert sum(each.fullmatch(text) is not None for each in ENVELOPES) == 1, text
        message = json.loads(text)
        assert message["to"] == receiver
        types.setdefault(database, []).append(message["type"])
        if message["type"] == "lock-result":
            granted.setdefault(database, []).append(message["data"]["id"])
        if message["type"] == "unlock-request":
            assert message["data"]["id"] in granted[database]
    assert len(types) == 2
    for database, sent in types.items():
        transaction = Counter(sent[:40])
        assert {transaction[each] for each in LOCKING} == {6}
        assert [transaction[each] for each in ("request", "result", "event")] == [4, 4, 8]
        assert granted[database] == list(range(1, len(granted[database]) + 1))


RELEASES = """
    import json
    if b'"type":"unlock-request"' in body:
        request = json.loads(body)
        result = {
            "type": "unlock-result", "id": request["id"], "from": "[master]",
            "to": request["from"], "ok": True, "data": request["data"],
        }
        text = json.dumps(result, separators=(",", ":"))
        deliver(self, self.peers[request["from"]], text.encode())
        body = body.replace(b'"id":"bench', b'"id":"relay')
    elif b'"id":"relay' in body:
        return print(peer.client_id, body.decode(), flush=True)
"""


def test_a_relay_may_release_locks(generator: Generator, tmp_path: Path) -> None:
    """It may answer in the master's place, and the master answers requests of the relay's own."""
    log = tmp_path / "log"
    with running_server(wrong_relay(RELEASES), log) as server:
        sample = run(generator, server, "mixed n=3 d=3")
    assert "failure" not in sample
    assert [sample[each] for each in ("errors", "lost", "duplicated", "reordered")] == [0] * 4
    assert f'{WORKER} {{"type":"unlock-result","id":"relay' in log.read_text()


def test_whole_bench(
    generator: Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command measures all servers in turn, prints the tables and writes the figures."""
    monkeypatch.setattr("bench.run.build_generator", lambda directory: generator)
    target = tmp_path / "results.json"
    arguments = ["--only=round-trip", "--repeats=1", "--seconds=0.5", f"--json={target}"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "round trip of 2 messages" in printed.out
    runs = [line.split()[-1] for line in printed.err.splitlines() if "round-trip" in line]
    assert runs == [OURS, PURE, AUTOBAHN, PICOWS]
    results = Results.from_json(json.loads(target.read_text()))
    assert results.faults("round-trip") == (0, 0, 0)
    assert (results.ratio("round-trip", "p50_us") or 0) > 0
    assert (results.figure("round-trip", "ours", "server_us") or 0) > 0


def test_comparison(
    generator: Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two versions are measured in turn, and every other repeat begins with the other one."""
    monkeypatch.setattr("bench.run.build_generator", lambda directory: generator)
    sources = {NEW: relay(), OLD: BASELINE}
    monkeypatch.setattr("bench.run.choose_sources", lambda given: sources)
    target = tmp_path / "results.json"
    arguments = ["--only=round-trip", "--repeats=2", "--seconds=0.2", "--against=python"]
    assert main([*arguments, f"--json={target}"]) == 0
    printed = capsys.readouterr()
    runs = [line.split()[-1] for line in printed.err.splitlines() if "round-trip" in line]
    assert runs == [NEW, OLD, OLD, NEW]
    assert "round trip of 2 messages (less is better)" in printed.out
    found = ratios(Results.from_json(json.loads(target.read_text())), "round-trip", "p50_us")
    assert found is not None
    assert len(found.values) == 2


def test_comparison_with_options(
    generator: Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second server is the same relay with the options: here its peers get no hello."""
    monkeypatch.setattr("bench.run.build_generator", lambda directory: generator)
    target = tmp_path / "results.json"
    arguments = ["--only=cluster-10", "--repeats=1", "--seconds=0.2", f"--json={target}"]
    options = "--no-introductions --no-lock-sessions --max-payload 20000"
    assert main([*arguments, f"--against-options={options}"]) == 0
    assert "new/old" in capsys.readouterr().out
    found = Results.from_json(json.loads(target.read_text()))
    with_hello, without = (found.figure("cluster-10", name, "control") for name in (NEW, OLD))
    pairs = 11 * 10 / 2
    assert without == 11 + pairs  # welcome:, and connect: once for each two peers
    assert with_hello is not None
    assert with_hello > 11 + 3 * pairs  # the relay releases locks, too


def test_environments_that_differ_are_not_compared() -> None:
    """Another version of Python or of a dependency would change the figures."""
    here = distributions(THIS_PYTHON)
    there = {"python": here["python"], "acebase-ipc": "0", "twisted": here["twisted"]}
    require_equal(here, there)
    require_equal(here, there | {"pip": "0"})
    for other in ({"twisted": "0"}, {"python": "2.7"}, {"uvloop": "1"}):
        with pytest.raises(BenchError, match="cannot be compared: " + next(iter(other))):
            require_equal(here, there | other)
    with pytest.raises(BenchError, match="acebase-ipc is not installed"):
        require_equal(here, {"python": here["python"]})


def test_an_interpreter_that_cannot_be_run_is_reported(tmp_path: Path) -> None:
    """A wrong path is one clear line."""
    with pytest.raises(BenchError, match="cannot be run"):
        distributions(tmp_path / "python")


def test_generator_stays_on_this_machine(generator: Generator) -> None:
    """Another machine is put under load only with ``anywhere``."""
    refused = generator.run(["pairs", "url=ws://192.0.2.1:9163"])
    assert "another machine" in refused["failure"]


def test_generator_without_tls_compiles(generator: Generator, tmp_path: Path) -> None:
    """It compiles without OpenSSL's headers and without warnings."""
    compiler = processes.find_compiler()
    assert compiler is not None
    sources = [str(each) for each in processes.SOURCES.glob("*.c")]
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "load")]
    subprocess.run([*command, *sources], check=True)


# ---- The report


def sample(rate: float, **more: float | str) -> Sample:
    """Output of the generator."""
    measured = {"per_second": rate, "server_us": 1e6 / rate, "p50_us": 100.0, "p99_us": 12_345.0}
    shares = {"server_cpu": 1.0, "generator_cpu": 0.25}
    return {**measured, **shares, "lost": 0, "duplicated": 0, "reordered": 0, **more}


def results(**samples: dict[str, list[Sample]]) -> Results:
    """Results without a known environment."""
    on = ("system", "machine", "cores", "python", "acebase-ipc", "Twisted", "autobahn", "pyOpenSSL")
    return Results(
        environment=dict.fromkeys(on, "?"),
        settings={"repeats": 3, "seconds": 2.0, "warm_up": 0.5},
        arguments={},
        samples=samples,
    )


DIRECTED = {
    OURS: [sample(40_000.0), sample(60_000.0), sample(50_000.0)],
    AUTOBAHN: [sample(10_000.0), sample(20_000.0), sample(10_000.0)],
}


def test_line_of_the_table() -> None:
    """Figures are medians; the ratio is the median of the repeats' ratios 4, 3 and 5."""
    heads, line = figures_table(results(directed=DIRECTED))
    assert heads == (
        *("workload", "acebase-ipc", "plain Autobahn", "target"),
        "acebase-ipc / plain Autobahn",
    )
    assert line == (
        "to one peer, 10 pairs, 1 message under way",
        *("50,000/s", "10,000/s", "≥ 3 ✓", "4.00"),
    )


def test_line_of_costs() -> None:
    """Of each server the CPU time and the latencies, and the faults of all."""
    heads, line = costs_table(results(directed=DIRECTED))
    assert len(heads) == len(line)
    assert line[1:] == ("20", "100", "100 / 12,300", "100 / 12,300", "0 / 0 / 0")


def test_each_is_compared_with_each_baseline() -> None:
    """The pure Python and the C extension are compared with picows, too."""
    rates = {OURS: 50.0, PURE: 30.0, AUTOBAHN: 10.0, PICOWS: 40.0}
    measured = {name: [sample(rate)] for name, rate in rates.items()}
    heads, line = figures_table(results(directed=measured))
    assert dict(zip(heads, line, strict=True)) == {
        "workload": "to one peer, 10 pairs, 1 message under way",
        "acebase-ipc": "50/s",
        "pure Python": "30/s",
        "plain Autobahn": "10/s",
        "picows": "40/s",
        "target": "≥ 3 ✓",
        "acebase-ipc / plain Autobahn": "5.00",
        "acebase-ipc / picows": "1.25",
        "pure Python / picows": "0.75",
    }


def test_a_server_that_cannot_be_measured_has_no_figures() -> None:
    """A bare relay has no HTTP: nothing is posted to it."""
    both = {OURS: [sample(50.0)], PICOWS: [sample(40.0)]}
    found = results(directed=both, post={OURS: [sample(5.0)]})
    post = next(line for line in figures_table(found) if line[0].startswith("1 MB"))
    assert post[1:] == ("5/s", "–", "", "–")


def test_missed_target() -> None:
    """A ratio below its target is marked."""
    _, line = figures_table(results(directed={OURS: [sample(2.0)], AUTOBAHN: [sample(1.0)]}))
    assert line[3:] == ("≥ 3 ✗", "2.00")


def test_memory_is_measured_against_its_limit() -> None:
    """Connecting makes two lines, and one of costs, without faults."""
    ours = sample(2000.0, rss_per_connection=4608.0)
    autobahn = sample(1000.0, rss_per_connection=15_360.0)
    found = results(connections={OURS: [ours], AUTOBAHN: [autobahn]})
    _, connects, memory = figures_table(found)
    assert connects[1:] == ("2,000/s", "1,000/s", "≥ 1.2 ✓", "2.00")
    assert memory[1:] == ("4.5 KiB", "15 KiB", "≤ 5 KiB ✓", "0.30")
    _, costs = costs_table(found)
    assert costs[-1] == ""


def test_line_of_a_comparison() -> None:
    """Median, least and greatest ratio of the repeats, of the figure and of its CPU time."""
    measured = {
        NEW: [sample(98.0), sample(120.0), sample(100.0)],
        OLD: [sample(100.0), sample(100.0), sample(100.0)],
    }
    line = comparison_table(results(directed=measured)).splitlines()[2]
    assert "1 message under way  100/s  100/s    1.000  0.980  1.200  ✓" in line
    assert "  10,000       10,000        1.000" in line


@pytest.mark.parametrize(
    ("metric", "ratio", "kept"),
    [
        (Metric.RATE, 0.97, True),
        (Metric.RATE, 0.969, False),
        (Metric.MEDIAN_LATENCY, 1.03, True),
        (Metric.MEDIAN_LATENCY, 1.04, False),
        (Metric.MEMORY, 0.5, True),
    ],
)
def test_a_slower_version_is_marked(metric: Metric, ratio: float, kept: bool) -> None:
    """One slow repeat of three is noise."""
    assert Ratios((ratio, 0.5, 1.5)).is_kept(metric) is kept


@pytest.mark.parametrize(
    ("metric", "target", "ours", "ratio", "met"),
    [
        (Metric.RATE, Target(ratio=3.0), 0.0, 3.0, True),
        (Metric.RATE, Target(ratio=3.0), 9.0, 2.9, False),
        (Metric.MEDIAN_LATENCY, Target(ratio=0.6), 0.0, 0.6, True),
        (Metric.MEDIAN_LATENCY, Target(ratio=0.6), 0.0, 0.7, False),
        (Metric.MEMORY, Target(limit=5120.0), 5120.0, 9.0, True),
        (Metric.MEMORY, Target(limit=5120.0), 5121.0, 0.1, False),
    ],
)
def test_target(metric: Metric, target: Target, ours: float, ratio: float, met: bool) -> None:
    """More messages are better, less time and memory are."""
    assert target.is_met(metric, ours, ratio) is met


def test_url_alone() -> None:
    """A server given by URL is compared with no other, and its CPU time is not known."""
    unknown = results(directed={"url": [sample(30_000.0) | {"server_us": 0.0}]})
    assert figures_table(unknown)[1][1:] == ("30,000/s", "≥ 3")
    assert costs_table(unknown)[1][1] == "–"


def test_faults_are_summed_and_reported() -> None:
    """One lost message in one of three runs makes the results unsound."""
    assert is_sound(results(directed=DIRECTED))
    faulty = {**DIRECTED, OURS: [sample(1.0), sample(1.0, lost=1), sample(1.0, reordered=2)]}
    assert costs_table(results(directed=faulty))[1][-1] == "1 / 0 / 2"
    assert not is_sound(results(directed=faulty))


def test_failures_are_reported() -> None:
    """The reason of a failed run is below the table; it has no figure."""
    failed = results(directed={**DIRECTED, OURS: [{"failure": "cannot connect"}]})
    assert not is_sound(failed)
    text = text_table(failed)
    assert "directed, ours: cannot connect" in text
    assert figures_table(failed)[1][1:] == ("–", "10,000/s", "≥ 3", "–")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.123456, "0.123"),
        (4.25, "4.25"),
        (99.96, "100"),
        (123.4, "123"),
        (1234.0, "1,230"),
        (98_765.0, "98,800"),
        (204_700.0, "205,000"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    """Figures have three significant digits."""
    assert number(value) == text


def test_document_is_updated_in_place() -> None:
    """The text around the table is not changed, even if the table is written again."""
    document = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"
    once = update_document(document, results(directed=DIRECTED))
    assert once.startswith(f"before\n\n{BEGIN}\n\nacebase-ipc ?")
    assert once.endswith(f"{END}\n\nafter\n")
    assert "old" not in once
    assert "     - 50,000/s" in once
    assert update_document(once, results(directed=DIRECTED)) == once
    with pytest.raises(ValueError, match="needs two lines"):
        update_document("no place", results(directed=DIRECTED))


def test_figures_of_a_busy_machine_are_provisional() -> None:
    """The table of a busy machine says that its figures are provisional."""
    quiet = results(directed=DIRECTED)
    assert "provisional" not in rst_table(quiet)
    quiet.environment["load before"] = 3.0
    assert "provisional" in rst_table(quiet)


def test_rst_rows_are_complete() -> None:
    """Every row of the two list-tables has as many cells as its header."""
    table = rst_table(results(directed=DIRECTED))
    assert table.count("   * - ") == 4
    assert table.count("     -") == 2 * 4 + 2 * 5


def test_json_can_be_read_back() -> None:
    """--redraw needs only the file."""
    before = results(directed=DIRECTED)
    assert Results.from_json(json.loads(before.to_json())) == before


def test_plot_is_deterministic(tmp_path: Path) -> None:
    """The same results give the same file, so that a diff shows real changes."""
    pytest.importorskip("matplotlib")
    from bench.plot import write_plot

    every = results(**{each.name: DIRECTED for each in WORKLOADS})
    first, second = tmp_path / "first.svg", tmp_path / "second.svg"
    write_plot(every, first)
    write_plot(every, second)
    assert first.read_bytes() == second.read_bytes()
    assert "acebase-ipc" in first.read_text()


def test_selection_of_workloads() -> None:
    """--only names workloads; --quick makes fewer connections."""
    (one,) = find_workloads(["broadcast"], quick=False)
    assert one.arguments[0] == "fanout"
    for each in find_workloads(["connections", "storm"], quick=True):
        assert [argument for argument in each.arguments if argument[:2] == "n="] == ["n=1000"]
    assert find_workloads([], quick=False) == list(WORKLOADS)
