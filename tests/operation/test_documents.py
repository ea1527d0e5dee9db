"""What the documents of operation and architecture say is so."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import pytest

import acebase_ipc
from acebase_ipc.testing import DATABASE, MemoryPeer, MemoryRelay, http_request
from tests.test_floors import MAY_IMPORT

DOCS = Path(__file__).resolve().parents[2] / "docs"
SOURCE = Path(acebase_ipc.__file__).parent

LARGE = 20_000

Step = tuple[str, str]
"""A file and the qualified name of a function or class in it."""


def test_the_table_of_log_lines_is_what_the_code_gives() -> None:
    made = subprocess.run(
        [sys.executable, DOCS / "generate_events.py"],
        capture_output=True,
        check=True,
        encoding="utf-8",
    )
    assert DOCS.joinpath("events.rst").read_text() == made.stdout, "outdated: make docs/events.rst"


def walk(title: str) -> list[Step]:
    """The steps of a walk in architecture.rst."""
    text = DOCS.joinpath("architecture.rst").read_text(encoding="utf-8")
    _, _, section = text.partition(f"{title}\n{'=' * len(title)}\n")
    section = re.split(r"\n=+\n", section)[0]
    steps = re.findall(r"^\d+\. ``([\w/]+\.py)`` ``([\w.]+)``", section, re.MULTILINE)
    numbers = re.findall(r"^(\d+)\.", section, re.MULTILINE)
    assert list(map(int, numbers)) == list(range(1, len(steps) + 1))
    return steps


MESSAGE, POST = "The walk of one directed message", "The walk of a large POST"


@pytest.mark.parametrize(("file", "name"), [*walk(MESSAGE), *walk(POST)])
def test_each_step_exists(file: str, name: str) -> None:
    module = f"acebase_ipc.{file.removesuffix('.py').replace('/', '.')}"
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    found = getattr(found, "__self__", None) or found  # in Python, of what is in C
    assert found.__module__ == module


def table_of_packages() -> str:
    """The rows of the table of packages in architecture.rst."""
    text = DOCS.joinpath("architecture.rst").read_text(encoding="utf-8")
    _, _, table = text.partition("\n.. The packages begin\n")
    return table.partition("\n.. The packages end\n")[0]


def named_modules() -> list[str]:
    """The modules that the table of packages names, each as often as it does."""
    named = []
    for row in table_of_packages().split("\n   * - ")[2:]:
        package, modules = re.findall(r"^     - (.*(?:\n {7}.*)*)", row, re.MULTILINE)
        name = package.strip("`")
        if name.endswith(".py"):
            named.append(name)
        else:
            named += [f"{name}/{each}" for each in re.findall(r"``([\w/]+\.py)``", modules)]
    return named


def test_the_table_of_packages_names_every_module_once() -> None:
    files = [each.relative_to(SOURCE).as_posix() for each in SOURCE.rglob("*.py")]
    assert sorted(named_modules()) == sorted(
        each for each in files if not each.endswith("__init__.py")
    )


def test_the_table_of_packages_has_every_package_on_its_floor() -> None:
    """No package imports one on a higher floor; tests/test_floors.py has the exact rules."""
    rows = re.findall(r"\n   \* - (\d)\n     - ``(\w+)(?:\.py)?``", table_of_packages())
    floors = {package: int(floor) for floor, package in rows}
    assert floors.keys() == MAY_IMPORT.keys()
    for package, allowed in MAY_IMPORT.items():
        for imported in allowed:
            assert floors[imported.partition(".")[0]] <= floors[package], (package, imported)


def test_the_picture_is_drawn_from_its_source() -> None:
    """Whether the positions are the same cannot be seen without Graphviz."""
    source = DOCS.joinpath("architecture.dot").read_text(encoding="utf-8")
    picture = DOCS.joinpath("architecture.svg").read_text(encoding="utf-8")
    drawn = re.findall(r'class="node[^"]*">\n<title>(\w+)</title>', picture)
    assert sorted(drawn) == sorted(re.findall(r"^ +(\w+) +\[pos=", source, re.MULTILINE)), (
        "outdated: make docs/architecture.svg"
    )


def test_the_picture_shows_modules_that_exist() -> None:
    picture = DOCS.joinpath("architecture.svg").read_text(encoding="utf-8")
    nodes = re.findall(r'class="node module">(.*?)</g>\n</g>', picture, re.DOTALL)
    modules = {each.stem for each in SOURCE.rglob("*.py")} | {
        each.name for each in SOURCE.iterdir()
    }
    shown = [
        name
        for node in nodes
        for text in re.findall(r"<text[^>]*>([^<]+)</text>", node)
        for name in re.findall(r"[a-z_]+", text)
    ]
    assert len(shown) > len(nodes) > 0
    assert set(shown) <= modules


def calls(act: Callable[[], object]) -> list[Step]:
    """The functions of ours that *act* calls, in order; of a class, its methods."""
    called: list[Step] = []

    def profile(frame: FrameType, event: str, argument: object) -> None:
        code: CodeType | None = frame.f_code
        if event == "c_call":
            general = getattr(argument, "__self__", None)  # in Python, of what is in C
            code = getattr(general, "__code__", None)
        if event not in ("call", "c_call") or code is None:
            return
        path = Path(code.co_filename)
        if path.is_relative_to(SOURCE):
            called.append((path.relative_to(SOURCE).as_posix(), code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(before)
    return called


def assert_walked(steps: list[Step], called: list[Step]) -> None:
    """Each step was made, in this order."""
    rest = iter(called)
    for file, name in steps:
        assert any(
            each == (file, name) or (each[0] == file and each[1].startswith(f"{name}."))
            for each in rest
        ), f"{file} {name} is not called at this place"


def test_a_directed_message_takes_this_way() -> None:
    relay = MemoryRelay()

    def acebase_peer(client_id: str) -> MemoryPeer:
        target = f"/{DATABASE}/connect?v=1.0.0&id={client_id}&t=undefined"
        return MemoryPeer(client_id, relay.upgrade(target))

    master, worker = acebase_peer("[master]"), acebase_peer("abcdefghijklmnopqrstuvwx")
    master.received()
    request = '{"type":"lock-request","from":"abcdefghijklmnopqrstuvwx","to":"[master]"}'

    called = calls(lambda: worker.say(f"to:[master];{request}"))

    assert master.received() == [request]
    assert_walked(walk(MESSAGE), called)


def test_a_large_post_takes_this_way() -> None:
    relay = MemoryRelay()
    sender, recipient = relay.join_all("docum1", "docum2")
    body = "x" * LARGE
    message = f"to:{recipient.id};{body}".encode()
    post = http_request("POST", f"/{DATABASE}/send?id={sender.id}", message)
    posting, fetching = relay.connect(), relay.connect()

    called = calls(lambda: posting.send(post[:1000], post[1000:]))
    (announced,) = recipient.received()
    message_id = announced.removeprefix("get:")
    get = http_request("GET", f"/{DATABASE}/receive?id={recipient.id}&msg={message_id}")
    called += calls(lambda: fetching.send(get))

    assert fetching.response().body.decode() == body
    assert_walked(walk(POST), called)
