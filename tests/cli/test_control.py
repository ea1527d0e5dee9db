"""Commands that change what a real relay does."""

from __future__ import annotations

from pathlib import Path

from tests.cli.cluster import DATABASE, PlayedPeer, Served, served
from tests.cli.conftest import Command
from tests.relay.locks import worker_id


def test_kick(command: Command, relay: Served) -> None:
    with PlayedPeer(relay.port, worker_id(7)) as peer:
        done = command("--admin", relay.admin, "kick", DATABASE, peer.id)

        assert done.output == f"The connection of {peer.id} was closed.\n"
        assert peer.closed() >= 1000
        PlayedPeer(relay.port, peer.id).__exit__()


def test_kick_and_end_the_process(command: Command, relay: Served) -> None:
    with PlayedPeer(relay.port, worker_id(8)) as peer:
        done = command("--admin", relay.admin, "kick", DATABASE, peer.id, "--end-process", "--json")
        assert done.json == {"kicked": True}
        peer.closed()

    assert "500" in PlayedPeer.refused(relay.port, peer.id)


def test_kick_an_unknown_peer(command: Command, relay: Served) -> None:
    with PlayedPeer(relay.port, worker_id(9)):
        done = command("--admin", relay.admin, "kick", DATABASE, "nobody")
        elsewhere = command("--admin", relay.admin, "kick", "mydb", "nobody")

    assert (done.status, elsewhere.status) == (1, 1)
    assert f"{DATABASE!r} has no peer 'nobody'" in done.error
    assert "mydb_data on the wire" in elsewhere.error


def test_drain(command: Command, relay: Served) -> None:
    peer_id = worker_id(10)
    command("--admin", relay.admin, "drain")
    assert command("--admin", relay.admin, "status", "--json").json["state"] == "draining"
    assert "503" in PlayedPeer.refused(relay.port, peer_id)

    ended = command("--admin", relay.admin, "drain", "--off")
    assert ended.output == "The relay accepts new peers.\n"
    PlayedPeer(relay.port, peer_id).__exit__()


def test_reload(command: Command, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("old\n")
    with served(f"--token-file={tokens}") as relay:
        tokens.write_text("new\n")
        done = command("--admin", relay.admin, "reload", "--json")
        assert (done.status, done.errors) == (0, "")
        assert done.json == {"reloaded": True}
        assert "403" in PlayedPeer.refused(relay.port, worker_id(1), "&t=old")

        tokens.unlink()
        failed = command("--admin", relay.admin, "reload")
        assert failed.status == 1
        assert "Nothing is reloaded" in failed.error
