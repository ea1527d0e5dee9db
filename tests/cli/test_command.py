"""The command as a whole: its help, its errors, what it needs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from acebase_ipc.__main__ import REQUIRED
from acebase_ipc.cli.main import cli
from acebase_ipc.cli.output import show_json_line
from tests.cli.conftest import Command, finish, start
from tests.integration.relay_process import clean_environment


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command that does something."""
    for name, each in group.commands.items():
        if isinstance(each, click.Group):
            yield from commands(each, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(commands())


def find(path: tuple[str, ...]) -> click.Command:
    """The command of these words."""
    found: click.Command = cli
    for name in path:
        assert isinstance(found, click.Group)
        found = found.commands[name]
    return found


WITHOUT_JSON = {("completion",), ("serve",), ("supervise",)}
OTHER_HELP = {("serve",), ("supervise",)}


@pytest.mark.parametrize(
    "path", [each for each in COMMANDS if each not in OTHER_HELP], ids=" ".join
)
def test_help_has_an_example(command: Command, path: tuple[str, ...]) -> None:
    shown = command(*path, "--help")

    assert shown.status == 0
    assert "Example:" in shown.output
    text, _, example = shown.output.partition("Example:")
    assert f"acebase-ipc {' '.join(path)}" in example
    paragraphs = text.partition("\n\n")[2].splitlines()
    assert not [each for each in paragraphs if re.match(" {3}", each) or re.search(r"\S {3}", each)]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    for each in find(path).params:
        if isinstance(each, click.Option):
            assert each.help, each.name


def test_a_relay_is_served_with_its_own_help(command: Command) -> None:
    shown = command("serve", "--help")

    assert shown.status == 0
    assert shown.output.startswith("Usage: acebase-ipc serve [options]\n")


@pytest.mark.parametrize(
    "path", [each for each in COMMANDS if each not in WITHOUT_JSON], ids=" ".join
)
def test_every_command_can_print_json(path: tuple[str, ...]) -> None:
    assert "--json" in [option for each in find(path).params for option in each.opts]


def test_help_tells_the_statuses_and_whole_sentences(command: Command) -> None:
    shown = command("--help")

    assert "3 the relay cannot be reached" in " ".join(shown.output.split())
    assert "..." not in shown.output.partition("Commands:")[2]


def test_no_command_is_wrong_usage(command: Command) -> None:
    shown = command()

    assert shown.status == 2
    assert "Commands:" in shown.errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("statsu",), "No such command 'statsu'"),
        (("status", "--jsn"), "No such option"),
        (("peers",), "Missing argument 'DB' (see  acebase-ipc peers --help)"),
        (("--token-file", "missing", "status"), "does not exist"),
        (("ping", "ws://localhost:1", "--size", "many"), "'many' is not a size"),
        (("ping", "ws://localhost:1", "--size", "9"), "--size must be at least 10 bytes"),
        (("doctor", "http://localhost"), "write ws://host:port"),
    ],
)
def test_wrong_usage(command: Command, arguments: tuple[str, ...], says: str) -> None:
    shown = command(*arguments)

    assert (shown.status, shown.output) == (2, "")
    assert says in shown.error


def test_a_defect_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setitem(cli.commands, "fail", click.command("fail")(fail))
    shown = command("fail")

    assert shown.status == 1
    assert shown.error == "acebase-ipc: a defect of this command: RuntimeError: first second"


def test_a_full_disk_is_no_defect() -> None:
    with open("/dev/full", "w") as full:
        outcome = finish(start("token", "new", stdout=full))
    assert outcome.status == 1
    assert "No space left on device" in outcome.error
    assert "defect" not in outcome.error


def test_nothing_is_printed_where_there_is_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    show_json_line({})


def test_ctrl_c_ends_it_without_a_word() -> None:
    """While it waits for an answer."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        process = start("--admin", f"http://127.0.0.1:{silent.getsockname()[1]}", "status")
        connection, _ = silent.accept()
        process.send_signal(signal.SIGINT)
        ended = finish(process)
        connection.close()

    assert (ended.status, ended.output, ended.errors.strip()) == (130, "", "")


@pytest.mark.parametrize("missing", [*[(each,) for each in REQUIRED], REQUIRED], ids=" ".join)
def test_missing_packages(missing: tuple[str, ...]) -> None:
    block = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))"
    run = "from acebase_ipc.__main__ import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", f"{block}\n{run}"],
        capture_output=True,
        text=True,
        env=clean_environment(),
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert " and ".join(missing) in line
    assert "pip install 'acebase-ipc[cli]'" in line


def test_the_console_script_is_declared() -> None:
    declared = (Path(__file__).resolve().parents[2] / "setup.cfg").read_text()

    assert "acebase-ipc = acebase_ipc.__main__:main" in declared


def test_what_talks_to_the_admin_endpoint_does_not_load_twisted() -> None:
    """It is what takes most of the time of a start."""
    code = "import sys, acebase_ipc.cli.main; print('twisted' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )

    assert ended.stdout == "False\n"
