"""What the documents name exists: options, commands, metrics, files, sections and more."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from docutils import nodes
from twisted.scripts._twistd_unix import ServerOptions

from acebase_ipc.admin.counts import KINDS
from acebase_ipc.admin.families import METRICS
from acebase_ipc.cli.main import cli
from acebase_ipc.relay.limits import MIB, Limits
from acebase_ipc.server.options import CONFIG, OPTIONS
from acebase_ipc.testing import pytest as fixtures
from tests.documents import DOCS, PROJECT, parse, read
from tests.test_docs import DOCUMENTS, PLAIN, named

TEXTS = [each for each in DOCUMENTS if each.parent.name != "newsfragments"]
"""The documents; news are of the past."""

SOURCES = "\n".join(
    each.read_text(encoding="utf-8", errors="replace")
    for folder in ("examples", "contrib", "bench", "tests")
    for each in sorted(PROJECT.joinpath(folder).rglob("*"))
    if each.is_file()
    and "node_modules" not in each.parts
    and each.suffix in ("", ".sh", ".py", ".js", ".yml", ".yaml", ".conf", ".toml")
)
"""The programs and files beside the package, which have options and variables of their own."""

PACKAGE = "\n".join(map(read, PROJECT.joinpath("src").rglob("*.py")))

FOREIGN = {
    *("--fail", "--no-buffer", "--unix-socket"),  # curl
    *("--detach", "--wait"),  # docker compose up
    "--no-save",  # npm
    *("--dist", "--pdb"),  # pytest
}
"""Options of other programs."""


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command of ``acebase-ipc``."""
    yield path
    if isinstance(group, click.Group):
        for name, each in group.commands.items():
            yield from commands(each, (*path, name))


def options(group: click.Command) -> Iterator[str]:
    """The options of ``acebase-ipc`` and its commands."""
    for parameter in group.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(group, click.Group):
        for each in group.commands.values():
            yield from options(each)


COMMANDS = {" ".join(each) for each in commands(cli)}
KNOWN_OPTIONS = {
    *(each.option for each in (*OPTIONS, CONFIG)),
    *(f"--{each.rstrip('=')}" for each in ServerOptions().longOpt),
    *options(cli),
    *("--help", "--version"),
    *FOREIGN,
}


@cache
def literals(path: Path) -> list[str]:
    """What a document shows as code, in the text and in blocks."""
    if path not in PLAIN:
        return re.findall(r"``(.+?)``", read(path), re.DOTALL)
    kinds = (nodes.literal, nodes.literal_block)
    return [each.astext() for kind in kinds for each in parse(path).findall(kind)]


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_options_exist(path: Path) -> None:
    text = "\n".join(literals(path))
    unknown = {*re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)} - KNOWN_OPTIONS
    assert {each for each in unknown if f'"{each}"' not in SOURCES} == set()


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_variables_exist(path: Path) -> None:
    known = {each.variable for each in (*OPTIONS, CONFIG)} | {"ACEBASE_IPC_ADMIN_TOKEN"}
    unknown = {*re.findall(r"\bACEBASE_IPC_[A-Z_]*[A-Z]\b", read(path))} - known
    assert {each for each in unknown if each not in SOURCES} == set()


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_commands_exist(path: Path) -> None:
    for text in literals(path):
        for word in re.findall(r"(?<![\w:-])acebase-ipc ([a-z]+)(?=\s|$)", text):
            assert word in COMMANDS


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_targets_of_make_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w./-]*):", read(PROJECT / "Makefile"), re.MULTILINE))
    for text in literals(path):
        assert {*re.findall(r"^(?:\$ )?make ([a-z][\w./-]*)", text, re.MULTILINE)} <= targets


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_metrics_exist(path: Path) -> None:
    known = {each.name for each in METRICS}
    known |= {each.removesuffix("_total") for each in known}
    for name in re.findall(r"\bacebase_ipc_\w+", "\n".join(literals(path))):
        if hasattr(fixtures, name):
            continue
        assert re.sub(r"_(bucket|sum|count)$", "", name) in known, name


FILES = re.compile(r"(?:docs|contrib|examples|tests|src|bench|\.ci)/[\w./-]*[\w/]")


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_files_exist(path: Path) -> None:
    for text in literals(path):
        if FILES.fullmatch(text):
            assert (PROJECT / text).exists(), text


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_modules_exist(path: Path) -> None:
    for text in literals(path):
        for module in re.findall(r"python -m ([\w.]+)", text):
            assert find_spec(module) is not None, module


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_paths_of_the_admin_endpoint_exist(path: Path) -> None:
    described = json.loads(read(PROJECT / "src" / "acebase_ipc" / "admin" / "openapi.json"))
    patterns = [re.sub(r"\{\w+\}", "[^/]+", each) for each in described["paths"]]
    patterns.append("/api/v1/openapi.json")
    for text in literals(path):
        for found in re.findall(r"/api/v1/[\w/<>{}.-]*\w", text):
            assert any(re.fullmatch(each, found) for each in patterns), found


OF_OTHERS = {
    *("AceBase", "AceBaseServer", "WebSocket", "WebSocketServerProtocol"),
    *(
        "ReadWriteMany",
        "ReadWriteOnce",
        "RollingUpdate",
        "TestCase",
        "TypeError",
        "WebSocketResource",
    ),
}
"""Names of other programs."""


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_events_and_classes_exist(path: Path) -> None:
    for text in literals(path):
        if re.fullmatch(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+", text):
            known = {*KINDS, *OF_OTHERS, *vars(builtins)}
            assert text in known or f"class {text}" in PACKAGE, text


NUMBERS = {"five": "5", "ten": "10"}

DEFAULT = re.compile(
    r"(\w+) (seconds|MiB)(?: \w+)*? \(``--([a-z-]+)``[;)]|``--([a-z-]+)`` \((\d+) MiB\)"
)
"""``15 seconds (--option)``, ``64 MiB (--option)`` and ``--option (64 MiB)``."""


def test_the_documents_state_the_defaults_of_options() -> None:
    found = 0
    for path in TEXTS:
        for number, unit, after, before, size in DEFAULT.findall(" ".join(read(path).split())):
            option = (after or before).replace("-", "_")
            default = getattr(Limits(), option)
            stated = float(NUMBERS.get(number, number) or size)
            assert default == stated * (1 if unit == "seconds" else MIB), (path, option)
            found += 1
    assert found > 10


def titles(path: Path) -> set[str]:
    return {each.astext() for each in parse(path).findall(nodes.title)}


SECTION = re.compile(
    r'<([\w-]+\.rst)>`_,\s+"([^"]+)"'  # a link and a title in quotation marks
    r"|(?:\*([^*]+)\*|``([^`]+)``)\s+in\s+`?([\w-]+\.rst)"
)


@pytest.mark.parametrize("path", TEXTS, ids=named)
def test_sections_exist(path: Path) -> None:
    for linked, title, *others in SECTION.findall(read(path)):
        emphasised, literal, file = others
        target = linked or file
        wanted = " ".join((title or emphasised or literal).split())
        assert wanted in titles(DOCS / target), f"{target}: {wanted}"
