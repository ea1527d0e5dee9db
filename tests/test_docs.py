"""The documents say what the code does."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from urllib.request import urlopen

import pytest

from acebase_ipc.http.channel import CLOSE_TIMEOUT
from acebase_ipc.relay.limits import MIB, Limits
from acebase_ipc.relay.memory import ENTRY_OVERHEAD, MESSAGE_OVERHEAD
from acebase_ipc.relay.store import REFETCH_PERIOD
from acebase_ipc.websocket.incoming import MAX_FRAGMENTS

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / "README.rst"
EMBEDDED = PROJECT / "examples" / "embedded.tac"
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "newsfragments")
    for path in PROJECT.joinpath(folder).glob("*.rst")
)

SPHINX = re.compile(
    r"^\.\. (toctree|auto|literalinclude|include)|:(class|func|doc|ref):`", re.MULTILINE
)
"""Documents with these directives or roles are checked by ``make docs``."""

TWISTD = "from twisted.scripts.twistd import run; run()"

START_SECONDS = 60
"""A cold twistd takes about one second; a loaded machine may take many."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def literal_blocks(document: str) -> Iterator[str]:
    """What stands indented after ``::``, without its indentation."""
    for block in re.findall(r"::\n\n((?:(?: {4}.*)?\n)+)", document):
        yield dedent(block).strip() + "\n"


@pytest.mark.parametrize(
    ("path", "generator"),
    [
        ("contrib/acebase-ipc.toml", "generate_config.py"),
        ("docs/limits.rst", "generate_limits.py"),
        ("docs/metrics.rst", "generate_metrics.py"),
        ("docs/options.rst", "generate_options.py"),
    ],
)
def test_what_is_generated_is_what_the_code_gives(path: str, generator: str) -> None:
    made = subprocess.run(
        [sys.executable, PROJECT / "docs" / generator],
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    assert read(PROJECT / path) == made.stdout, f"outdated: make {path}"


OVERHEAD = f"about {MESSAGE_OVERHEAD + ENTRY_OVERHEAD} bytes"
MAX_MESSAGE = Limits().max_message // MIB


@pytest.mark.parametrize(
    ("document", "fact"),
    [
        ("README.rst", f"client_max_body_size {MAX_MESSAGE}m;"),
        ("README.rst", f"again for {REFETCH_PERIOD:.0f} seconds"),
        ("SECURITY.rst", OVERHEAD),
        ("SECURITY.rst", f"{MAX_FRAGMENTS:,} fragments"),
        ("SECURITY.rst", f"HTTP connection after {CLOSE_TIMEOUT:.0f} seconds"),
        ("docs/architecture.rst", OVERHEAD),
        ("docs/client.rst", f"{MAX_MESSAGE} MiB (``--max-message``)"),
        ("docs/protocol.rst", OVERHEAD),
        ("docs/protocol.rst", f"{MAX_FRAGMENTS:,} fragments"),
        ("docs/protocol.rst", f"{MAX_MESSAGE} MiB by default"),
        ("docs/protocol.rst", f"a complete one for {REFETCH_PERIOD:.0f} seconds"),
        ("docs/protocol.rst", f"aborted after {CLOSE_TIMEOUT:.0f} seconds"),
    ],
)
def test_a_document_states_the_number_of_the_code(document: str, fact: str) -> None:
    assert fact in " ".join(read(PROJECT / document).split())


@pytest.mark.parametrize(
    "path",
    [path for path in DOCUMENTS if not SPHINX.search(read(path))],
    ids=lambda path: str(path.relative_to(PROJECT)),
)
def test_documents_are_valid(path: Path) -> None:
    docutils = importlib.import_module("docutils.core")
    settings = {"halt_level": 2, "report_level": 2, "file_insertion_enabled": False}
    docutils.publish_doctree(
        read(path), source_path=str(path), settings_overrides={**settings, "warning_stream": ""}
    )


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_documents_link_to_files_that_exist(path: Path) -> None:
    for target in re.findall(r"`[^`<]+<([^>:]+)>`_", read(path)):
        assert (path.parent / target).exists(), target


def test_the_readme_shows_the_embedded_relay() -> None:
    assert read(EMBEDDED) in literal_blocks(read(README))


def test_the_embedded_relay_runs(tmp_path: Path) -> None:
    port = "tcp:8080:"
    text = read(EMBEDDED)
    assert port in text
    tac = tmp_path / "embedded.tac"
    tac.write_text(text.replace(port, "tcp:0:"), encoding="utf-8")
    log = tmp_path / "log"
    with log.open("wb") as output:
        twistd = subprocess.Popen(
            [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "-y", tac],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        site = f"http://127.0.0.1:{listening_port(twistd, log)}"
        with urlopen(f"{site}/hello") as page:
            assert page.read() == b"Hello!\n"
        with urlopen(f"{site}/mydb_data/clients?t=change%20me") as clients:
            assert clients.read() == b"[]"
    finally:
        twistd.send_signal(signal.SIGTERM)
        twistd.wait(START_SECONDS)
    # Once it has shut down, twistd lets the signal it got end its process.
    assert twistd.returncode == -signal.SIGTERM, read(log)


def listening_port(twistd: subprocess.Popen[bytes], log: Path) -> int:
    """The port of the Site, as soon as its log tells it."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and twistd.poll() is None:
        found = re.search(r"Site starting on (\d+)", read(log))
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(read(log))
