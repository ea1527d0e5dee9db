"""The events and closed connections that the admin endpoint of the next relay shows."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acebase_ipc.relay.quiesce import SILENCE
from tests.admin.relay import AdminRelay
from tests.handing_over import Successors
from tests.server.test_restart import STOP_SECONDS

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="this system has no boot id"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


def kinds(relay: AdminRelay) -> list[str]:
    """The kinds of all events that a relay shows."""
    return [each["kind"] for each in relay.see("events?level=debug")["events"]]


def stop(relay: AdminRelay) -> None:
    """Stop a relay, and wait until it has ended."""
    relay.stop()
    relay.pass_time(2 * SILENCE, SILENCE / 5)
    relay.pass_time(STOP_SECONDS)


def busy(directory: Path, **options: Any) -> AdminRelay:
    """A relay to which a peer was connected."""
    relay = AdminRelay(state_dir=str(directory), **options)
    relay.join("alice").leave()
    assert kinds(relay) == ["PeerJoined", "PeerLeft", "ConnectionClosed"]
    return relay


def next_relay(directory: Path, before: AdminRelay, **options: Any) -> AdminRelay:
    """The relay after another one that has stopped."""
    return AdminRelay(reactor=before.reactor, state_dir=str(directory), **options)


@pytest.mark.parametrize("is_connected", [False, True])
def test_the_next_relay_shows_the_events_of_the_one_before(
    directory: Path, is_connected: bool
) -> None:
    relay = busy(directory)
    shown = relay.see("events?level=debug")["events"]
    if is_connected:
        relay.join_acebase("[master]")
    stop(relay)
    assert stat.S_IMODE((directory / "events").stat().st_mode) == 0o600
    successor = next_relay(directory, relay)
    events = successor.see("events?level=debug")["events"]
    assert events[: len(shown)] == shown
    assert successor.see(f"events?level=debug&after={shown[0]['id']}")["events"] == events[1:]
    assert successor.see("connections/closed")["connections"][-1]["peer"] == "alice"
    assert not (directory / "events").exists()
    stop(successor)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"events 1", b"events 9", 1))


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("journal")


def leave_out_all(path: Path) -> None:
    path.write_bytes(b"acebase-ipc events 1\n\0\0\0\0")  # the checksum of nothing


@pytest.mark.parametrize(
    "change", [damage, change_version, make_directory, make_link, leave_out_all]
)
def test_a_file_that_cannot_be_used_does_not_prevent_the_start(
    directory: Path, change: Callable[[Path], None]
) -> None:
    relay = busy(directory)
    stop(relay)
    change(directory / "events")
    successor = next_relay(directory, relay, expect_errors=True)
    assert successor.logged("the events of the relay before this one are not known")
    assert kinds(successor) == []
    successor.join("bobby")
    stop(successor)


@pytest.mark.parametrize("function", ["open", "fsync", "replace"])
def test_without_room_for_them_the_relay_stops_nevertheless(
    directory: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    relay = busy(directory)
    monkeypatch.setattr(os, function, fail)
    stop(relay)
    monkeypatch.undo()
    assert relay.logged("the events cannot be saved", "No space left")
    assert sorted(os.listdir(directory)) == ["journal"]


def test_a_successor_shows_the_events_of_its_predecessor(monkeypatch: pytest.MonkeyPatch) -> None:
    relays = Successors(monkeypatch, AdminRelay, admin=("tcp:0:interface=127.0.0.1",))
    old = relays.relay
    assert isinstance(old, AdminRelay)
    old.join("alice").leave()
    bobby = old.join("bobby")
    departure = old.server.depart()
    told = departure.past(2) + departure.past(100)
    assert departure.past(100) == []
    bobby.leave()
    assert len(departure.take(old.now).content["events"]) == 2
    assert len(told) == 4
    old.join("carol")
    shown = old.see("events?level=debug")["events"]
    relays.hand_over()
    new = relays.relay
    assert isinstance(new, AdminRelay)
    assert new.see("events?level=debug")["events"] == shown
    closed = new.see("connections/closed")["connections"]
    assert [each["peer"] for each in closed] == ["bobby", "alice"]
    relays.close()
