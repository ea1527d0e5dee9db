"""The benchmark with AceBase: its proxy, and its tables."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bench.acebase.__main__ import is_complete, parse_arguments
from bench.acebase.delay import build_proxy, measure_exactness, running_proxy
from bench.acebase.results import Case, Results, rst_table, text_table
from bench.acebase.site import TO_MASTER, Sample
from bench.processes import find_compiler
from tests.documents import parse
from tests.programs import missing

DATA = bytes(range(256)) * 4096  # more than one read of the proxy, and than a socket buffers
DEADLINE = 20.0


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled proxy."""
    if find_compiler() is None:
        missing("the proxy needs a C compiler")
    return build_proxy(tmp_path_factory.mktemp("proxy"))


@contextmanager
def echo() -> Iterator[int]:
    """A server that returns what it receives, until the end of the stream; yields its port."""

    def serve() -> None:
        sock, _ = listener.accept()
        with closing(sock):
            while data := sock.recv(65536):
                sock.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_the_proxy_passes_everything_on_in_order_and_the_end(proxy: Path) -> None:
    with echo() as target, running_proxy(proxy, target) as link:
        link.delay(2)
        with socket.create_connection(("127.0.0.1", link.port), DEADLINE) as sock:
            sender = threading.Thread(target=sock.sendall, args=(DATA,), daemon=True)
            sender.start()
            received = b""
            while len(received) < len(DATA):
                received += sock.recv(65536)
            sender.join(DEADLINE)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
    assert received == DATA


def test_the_proxy_delays_each_direction(proxy: Path) -> None:
    with (
        echo() as target,
        running_proxy(proxy, target) as link,
        socket.create_connection(("127.0.0.1", link.port), DEADLINE) as sock,
    ):
        link.delay(30)
        assert link.lateness()["pieces"] == 0  # so it has read the commands
        began = time.monotonic()
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert time.monotonic() - began >= 0.06

        late = link.lateness()
        assert late["pieces"] == 2
        assert 0 <= late["p50_ns"] <= late["p99_ns"] <= late["max_ns"]


def test_the_exactness_is_measured(proxy: Path) -> None:
    exact = measure_exactness(proxy, 5, probes=20)

    # A proxy that delays nothing, or twice as long, would be wrong by 10,000 µs.
    assert -4000 < exact.median < 4000
    assert exact.median <= exact.p99


# ---- Tables


def sample(variant: str, rate: float, received: float) -> Sample:
    counts = dict.fromkeys(TO_MASTER, 0.0)
    return {
        "variant": variant,
        "kind": "set",
        "workers": 4,
        "delay": 0.0,
        "rate": rate,
        "p50_us": 4000,
        "p99_us": 9000,
        "master_us": 1000.0,
        "worker_us": 2000.0,
        "relay_us": 500.0,
        "sent": {**counts, "lock-request": 8.0},
        "received": {**counts, "lock-request": received},
    }


RESULTS = Results(
    environment={
        "acebase": "1.2.3",
        "node": "Node.js v20",
        "acebase-ipc": "0.1",
        "python": "CPython 3",
        "system": "Linux",
        "machine": "x86_64",
        "cores": 2,
        "load before": 0.1,
    },
    settings={"repeats": 3, "seconds": 2.0},
    variants=["with", "without"],
    exactness={"1": [15.0, 40.0]},
    lateness={"1": [{"pieces": 9, "p50_ns": 2000, "p99_ns": 30000, "max_ns": 50000}]},
    runs=[
        *(sample("with", rate, 1.0) for rate in (100, 180, 150)),
        *(sample("without", rate, 8.0) for rate in (100, 120, 50)),
    ],
    lost=0,
)


def test_the_table_compares_the_relays_within_each_repeat() -> None:
    line = next(each for each in text_table(RESULTS).splitlines() if each.startswith("sets"))

    for cell in ("sets, 4 workers", "150 (100–180)", "100 (50–120)", "1.50 (1.00–3.00)"):
        assert cell in line
    assert "4 / 9" in line
    assert "1 / 2 / 0.5" in line


def test_the_table_shows_the_messages_of_an_operation() -> None:
    lines = text_table(RESULTS).splitlines()

    (line,) = (each for each in lines if each.startswith("set, with: received by the master"))
    assert line.split()[-7:] == ["1.00", *["0.00"] * 5, "1.00"]


def test_results_are_read_again() -> None:
    assert Results.from_json(RESULTS.to_json()).cases == [Case("set", 4, 0.0)]
    assert text_table(Results.from_json(RESULTS.to_json())) == text_table(RESULTS)


def test_the_tables_of_the_documentation_are_valid(tmp_path: Path) -> None:
    text = rst_table(RESULTS)

    assert "15 µs (p99 40) at 1 ms" in text
    assert "later than due by 2 µs (p99 30) at 1 ms" in text
    document = tmp_path / "table.rst"
    document.write_text(text)
    parse(document)


@pytest.mark.parametrize(
    ("arguments", "complete"),
    [([], True), (["--quick"], False), (["--delay=1"], False), (["--against-options="], False)],
)
def test_only_a_complete_run_is_for_the_documentation(arguments: list[str], complete: bool) -> None:
    assert is_complete(parse_arguments(arguments)) == complete
