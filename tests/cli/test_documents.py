"""docs/cli.rst describes every command and option, and its examples can be run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from acebase_ipc.cli.main import cli
from tests.cli.test_command import COMMANDS, find

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cli.rst").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(r"^([^\n]+)\n=+\n\n(.*?)(?=^[^\n]+\n=+\n|\Z)", TEXT, re.MULTILINE | re.DOTALL)
)


def options_of(command: click.Command) -> set[str]:
    """The options of a command, without those that all have."""
    options = {
        option for each in command.params if isinstance(each, click.Option) for option in each.opts
    }
    return options - {"--json", "--version"}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_section_describes_the_options_of_its_command(path: tuple[str, ...]) -> None:
    section = SECTIONS[" ".join(path)]
    described = {
        option
        for line in re.findall(r"^``-.*``$", section, re.MULTILINE)
        for option in re.findall(r"``(--?[a-z-]+)", line)
    }

    assert described == options_of(find(path))


def test_the_global_options_are_described() -> None:
    described = set(re.findall(r"^``(--[a-z-]+) ", SECTIONS["Where the relay is"], re.MULTILINE))

    assert described == options_of(cli)


def examples() -> Iterator[list[str]]:
    for line in re.findall(r"^    \$ acebase-ipc (.*)$", TEXT, re.MULTILINE):
        yield shlex.split(line)


@pytest.mark.parametrize("arguments", list(examples()), ids=" ".join)
def test_an_example_is_valid(arguments: list[str]) -> None:
    context = cli.make_context("acebase-ipc", list(arguments), resilient_parsing=False)
    command: click.Command = cli
    rest = list(arguments)
    while isinstance(command, click.Group):
        command = command.commands[rest.pop(0)]
        if not isinstance(command, click.Group):
            command.make_context(command.name, rest, parent=context)


def test_every_command_has_an_example_that_was_run() -> None:
    shown = {tuple(each[:2]) if each[0] == "token" else (each[0],) for each in examples()}

    assert shown == {*COMMANDS} - {("completion",)}
