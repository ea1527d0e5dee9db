"""What is public: what help() and the reference show, and how a program's types see it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pydoc import plain, render_doc

import pytest
from twisted.application.service import Service

import acebase_ipc
from acebase_ipc import testing
from tests.documents import DOCS, PROJECT, read

PROGRAM = PROJECT / "tests" / "typed_program.py"

REFERENCE = "\n".join(read(each) for each in sorted(DOCS.glob("api*.rst")))

DIRECTIVE = re.compile(
    r"^\.\. (?:auto|py:)?(?:class|exception|function|data)::[ ]+([\w.]+)(?:\(\))?\n"
    r"((?:[ ]+.*\n|\n)*)",
    re.MULTILINE,
)


def documented() -> dict[str, set[str] | None]:
    """The members of each class that the reference shows, by the class's name; ``None``: all."""
    found: dict[str, set[str] | None] = {}
    for name, body in DIRECTIVE.findall(REFERENCE):
        options = re.search(r":members:((?:.*\n)(?:[ ]{8,}.*\n)*)", body)
        listed = {each.strip() for each in (options[1] if options else "").split(",")} - {""}
        listed |= set(re.findall(r"\.\. attribute:: (\w+)", body))
        found[name.rpartition(".")[2]] = None if options and not options[1].strip() else listed
    return found


DOCUMENTED = documented()


def own_members(of: type) -> Iterator[str]:
    """The names of the members that a public class adds to what it inherits of others."""
    inherited = {*dir(Service), *dir(tuple), *dir(Exception)}
    for name in dir(of):
        if not name.startswith("_") and name not in inherited:
            yield name


PUBLIC = [getattr(acebase_ipc, each) for each in acebase_ipc.__all__]


@pytest.mark.parametrize("public", PUBLIC, ids=lambda each: each.__name__)
def test_help_shows_what_the_reference_shows(public: type) -> None:
    shown = {*re.findall(r"^ \|  (\w+)", plain(render_doc(public)), re.MULTILINE)}
    members = {each for each in own_members(public) if each in shown}
    if issubclass(public, Exception):
        assert f"{public.__module__}" in REFERENCE
        return
    listed = DOCUMENTED[public.__name__]
    values = {*getattr(public, "__dataclass_fields__", ())} | {*getattr(public, "__members__", ())}
    assert members - values <= (members if listed is None else listed)


def test_help_names_each_public_class_and_no_other() -> None:
    text = plain(render_doc(acebase_ipc))
    classes = re.findall(r"^    class (\w+)\(", text, re.MULTILINE)
    assert sorted(classes) == sorted(acebase_ipc.__all__)
    assert "\nFUNCTIONS" not in text


@pytest.mark.parametrize("module", [acebase_ipc, testing], ids=lambda each: each.__name__)
def test_the_reference_has_each_public_name(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert {each for each in names if each not in DOCUMENTED} <= {
        name for name in names if not inspect.isclass(getattr(module, name, None))
    } | {"ClientError", "ConfigError", "IPCError", "PeerError"}


def test_the_reference_shows_nothing_that_does_not_exist() -> None:
    for name, listed in DOCUMENTED.items():
        public = getattr(acebase_ipc, name, None) or getattr(testing, name, None)
        if inspect.isclass(public) and listed:
            source = inspect.getsource(public)
            assert {each for each in listed if not re.search(rf"\b{each}\b", source)} == set(), name


def test_what_is_constructed_alike_has_the_same_parameters() -> None:
    client = inspect.signature(acebase_ipc.IPCClient).parameters
    peer = inspect.signature(acebase_ipc.AceBasePeer).parameters
    shared = {name: each for name, each in client.items() if name != "dialect"}
    assert {name: each for name, each in peer.items() if name != "client"} == shared
    assert [*peer][: len(shared)] == [*shared]


def test_the_program_that_make_lint_checks_uses_all_of_it() -> None:
    used = {*re.findall(r"\w+", read(PROGRAM))}
    assert {each for each in acebase_ipc.__all__ if each not in used} == set()
