"""The documents say what the code does."""

from __future__ import annotations

import ast
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
import yaml
from docutils import nodes

from acebase_ipc.http.channel import CLOSE_TIMEOUT
from acebase_ipc.relay.limits import MIB, Limits
from acebase_ipc.relay.memory import ENTRY_OVERHEAD, MESSAGE_OVERHEAD
from acebase_ipc.relay.store import REFETCH_PERIOD
from acebase_ipc.websocket.incoming import MAX_FRAGMENTS
from tests.documents import PROJECT, blocks, parse, read

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
        ("docs/proxies.rst", f"client_max_body_size {MAX_MESSAGE}m;"),
        ("docs/original.rst", f"again for {REFETCH_PERIOD:.0f} seconds"),
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


PLAIN = [path for path in DOCUMENTS if not SPHINX.search(read(path))]


def named(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@pytest.mark.parametrize("path", PLAIN, ids=named)
def test_documents_are_valid(path: Path) -> None:
    parse(path)


def test_only_the_reference_of_the_api_and_the_start_page_need_sphinx() -> None:
    """GitHub and the package index show nothing in place of Sphinx's directives and roles."""
    including = {"docs/changelog.rst", "docs/readme.rst", "docs/security.rst"}
    rest = {named(path) for path in DOCUMENTS if path not in PLAIN} - including
    assert {name for name in rest if not name.startswith("docs/api")} == {"docs/index.rst"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_documents_link_to_files_that_exist(path: Path) -> None:
    for target in re.findall(r"`[^`<]+<([^>:]+)>`_", read(path)):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PLAIN, ids=named)
def test_documents_show_pictures_that_exist(path: Path) -> None:
    for picture in parse(path).findall(nodes.image):
        assert urlsplit(picture["uri"]).scheme or (path.parent / picture["uri"]).exists()


COMMAND = re.compile(
    r"\$ |(make|npm|npx|node|curl|openssl|pip|twistd|acebase-ipc|systemctl|docker|kubectl) "
    r"|\.?[\w/-]*/bin/"
)
"""The beginning of a block that is to be typed into a shell."""


@pytest.mark.parametrize("path", PLAIN, ids=named)
def test_commands_are_marked_as_such(path: Path) -> None:
    """So that they are highlighted, and that tests find them."""
    for each in blocks(path):
        if COMMAND.match(each.text):
            assert each.language in ("console", "shell"), each.text


PARSERS: dict[str, Callable[[str], object]] = {
    "console": lambda text: None,
    "javascript": lambda text: None,  # tests/acebase/test_snippets.py
    "json": json.loads,
    "nginx": lambda text: None,  # tests/operation/test_proxy_recipes.py
    "python": ast.parse,
    "shell": lambda text: subprocess.run(
        ["/bin/sh", "-n"], input=text, text=True, check=True, capture_output=True
    ),
    "text": lambda text: None,
    "yaml": yaml.safe_load,
    "": lambda text: None,
}
"""How to see whether a block is well-formed, by its language."""


@pytest.mark.parametrize("path", PLAIN, ids=named)
def test_code_can_be_parsed(path: Path) -> None:
    for each in blocks(path):
        PARSERS[each.language](each.text)


def test_the_readme_is_short() -> None:
    assert len(read(PROJECT / "README.rst").splitlines()) <= 180


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ("client.rst", "client/answer.py"),
        ("client.rst", "client/follow.py"),
        ("client.rst", "client/shop.js"),
        ("client.rst", "client/watch.tac"),
        ("embedding.rst", "embedded.tac"),
    ],
)
def test_a_document_shows_an_example_as_it_is(document: str, path: str) -> None:
    shown = [each.text for each in blocks(PROJECT / "docs" / document)]
    assert read(PROJECT / "examples" / path) in shown


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
