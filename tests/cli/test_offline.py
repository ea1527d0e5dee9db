"""Commands that need no relay: tokens and completion."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from acebase_ipc.http.tokens import Tokens, read_token_file
from tests.cli.cluster import DATABASE, Cluster, Served
from tests.cli.conftest import Command, finish, start
from tests.integration.relay_process import clean_environment


def test_a_new_token(command: Command) -> None:
    first, second = command("token", "new").output, command("token", "new", "--json").json["token"]

    assert len(first.strip()) == len(second) == 64
    assert first.strip() != second


def test_tokens_are_appended(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# ours\nold")
    path.chmod(0o644)
    new = command("token", "new", "--file", str(path), "--database", "books_*").output.strip()
    tokens = Tokens(read_token_file(path))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("# ours\nold\n")
    assert tokens.allow("books_data", [new])
    assert not tokens.allow("other", [new])
    assert tokens.allow("other", ["old"])


def test_a_new_token_file(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    new = command("token", "new", "--file", str(path)).output.strip()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"{new}\n"


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--database", "a"), 2, "--database needs --file"),
        (("--file", "x", "--database", " "), 2, "--database must be a name"),
        (("--file", "x", "--database", "#a"), 2, "--database must be a name"),
        (("--file", "missing/tokens"), 1, "No such file or directory"),
    ],
)
def test_a_token_that_cannot_be_made(
    command: Command, arguments: tuple[str, ...], status: int, says: str
) -> None:
    made = command("token", "new", *arguments)

    assert (made.status, made.output) == (status, "")
    assert says in made.error
    assert not Path("x").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(command: Command, shell: str) -> None:
    made = command("completion", shell)

    assert made.status == 0
    assert f"_ACEBASE_IPC_COMPLETE={shell}_complete" in made.output
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=made.output, text=True, capture_output=True)
        assert (checked.returncode, checked.stderr) == (0, "")


def complete(relay: Served | None, *words: str) -> list[str]:
    """What bash offers for the last of *words*."""
    environment = {
        "_ACEBASE_IPC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("acebase-ipc", *words)),
        "COMP_CWORD": str(len(words)),
        "ACEBASE_IPC_ADMIN": "http://127.0.0.1:1" if relay is None else relay.admin,
    }
    ended = finish(start(env={**clean_environment(), **environment}))
    assert ended.errors == ""
    return [line.partition(",")[2] for line in ended.lines if line]


def test_completion(relay: Served, played: Cluster) -> None:
    assert complete(relay, "dat") == ["databases"]
    assert complete(relay, "kick", "my") == [DATABASE]
    assert complete(relay, "kick", DATABASE, played.holder.id[:-1]) == [
        played.holder.id,
        played.waiter.id,
    ]
    assert complete(None, "kick", "my") == []
