"""A server that is stopped at a quiet moment, and the next one that goes on with its state."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from acebase_ipc.relay.quiesce import SILENCE
from acebase_ipc.relay.relay import Relay
from acebase_ipc.server.service import State
from acebase_ipc.testing import (
    AceBaseMemoryPeer,
    HandshakeRefused,
    MemoryRelay,
    Opcode,
    upgrade_request,
)
from tests.relay.core import MASTER
from tests.relay.locks import body_of, grant, lock, new_id, released, unlock, worker_id
from tests.server.test_state_dir import after_crash

W1, W2 = worker_id(1), worker_id(2)
STOP_SECONDS = 10.0

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="this system has no boot id"
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@contextmanager
def running(
    directory: Path, before: MemoryRelay | None = None, **options: Any
) -> Iterator[MemoryRelay]:
    """A relay on a state directory, after the one before."""
    options = {"state_dir": str(directory), "introductions": False, **options}
    if before is None:
        with MemoryRelay(**options) as relay:
            yield relay
    else:
        relay = MemoryRelay(reactor=before.reactor, **options)
        yield relay
        relay.stop()
        relay.pass_time(STOP_SECONDS)


def stop(relay: MemoryRelay) -> list[object]:
    """Stop a relay, and wait for a quiet moment."""
    stopped: list[object] = []
    relay.stop().addBoth(stopped.append)
    relay.pass_time(2 * SILENCE, SILENCE / 5)
    return stopped


def cluster(relay: MemoryRelay) -> tuple[AceBaseMemoryPeer, AceBaseMemoryPeer, AceBaseMemoryPeer]:
    """A master and two workers."""
    master, first, second = (relay.join_acebase(each) for each in (MASTER, W1, W2))
    for each in (master, first, second):
        each.received()
    return master, first, second


def test_all_are_closed_with_1012_and_resume_silently_at_the_next_relay(directory: Path) -> None:
    with running(directory) as relay:
        peers = cluster(relay)
        assert stop(relay) == [None]
        assert [each.close_code for each in peers] == [1012] * 3
        with running(directory, relay) as successor:
            first, second = successor.join_acebase(W1), successor.join_acebase(W2)
            assert first.received() == second.received() == []
            assert successor.logged("is restored")


def test_a_request_that_has_waited_reaches_the_master_and_the_answer_the_worker(
    directory: Path,
) -> None:
    request = lock(W1, new_id())
    with running(directory) as relay:
        master, first, _ = cluster(relay)
        relay.stop()
        first.say(request)
        assert master.received() == []
        relay.pass_time(2 * SILENCE, SILENCE / 5)
        assert relay.server.state is State.STOPPED
        with running(directory, relay) as successor:
            first = successor.join_acebase(W1)
            master = successor.join_acebase(MASTER)
            assert master.received() == [body_of(request)]
            master.say(grant(body_of(request), 7))
            assert "lock-result" in first.received()[-1]


def test_a_transaction_ends_before_the_connections_are_closed(directory: Path) -> None:
    with running(directory) as relay:
        master, first, _ = cluster(relay)
        first.say(lock(W1, new_id()))
        master.say(grant(master.received()[-1], 7))
        relay.stop()
        relay.pass_time(1)
        assert first.close_code is None
        late = relay.join_acebase(worker_id(3))
        first.say(unlock(W1, new_id(), 7))
        master.say(released(master.received()[-1]))
        relay.pass_time(2 * SILENCE, SILENCE / 5)
        assert [each.close_code for each in (first, master, late)] == [1012] * 3
        assert relay.server.state is State.STOPPED


def test_a_transaction_that_takes_too_long_is_named_and_goes_on_at_the_next_relay(
    directory: Path,
) -> None:
    with running(directory, quiesce_timeout=2) as relay:
        master, first, _ = cluster(relay)
        first.say(lock(W1, new_id()))
        master.say(grant(master.received()[-1], 7))
        relay.stop()
        relay.pass_time(2.5)
        assert relay.logged(W1, "1 lock(s)", "transactNode")
        with running(directory, relay) as successor:
            successor.join_acebase(W1)
            (held,) = successor.server.locks("shop_data").locks
            assert (held.holder, held.id) == (W1, 7)


def test_what_clients_send_until_they_have_closed_arrives(directory: Path) -> None:
    with running(directory) as relay:
        _, first, second = cluster(relay)
        first.answers = False
        stopped = stop(relay)
        assert first.close_code == 1012
        first.say("{1}", f"to:{W2};{{2}}")
        first.send(b"{3", 1, final=False)
        first.send(b"}", 0)
        first.say("{4}")
        assert stopped == []
        first.leave(1000)  # as Autobahn's clients answer any code
        relay.settle()
        assert stopped == [None]
        with running(directory, relay) as successor:
            second = successor.join_acebase(W2)
            assert second.received() == ["{1}", "{2}", "{3}", "{4}"]
            successor.join_acebase(W1)
            assert second.received() == []


@pytest.mark.parametrize("leaves", [False, True])
def test_what_clients_have_sent_arrives_if_the_relay_has_no_time_to_read_it(
    directory: Path, leaves: bool
) -> None:
    with running(directory) as relay:
        _, first, _ = cluster(relay)
        first.answers = False
        stopped = stop(relay)
        (connection,) = relay.server._parts.connections.factory.connections
        connection.factory.pause_reading(connection, connection._source)
        many = [f"{{{number}}}" for number in range(2000)]  # more than a slice of work
        for each in many:
            first.say(each)
        first.send(b"{in part", 1, final=False)
        if leaves:
            first.leave(1000)
        relay.pass_time(1.5)
        assert stopped == []
        relay.pass_time(1.0)
        assert stopped == [None]
        with running(directory, relay) as successor:
            assert successor.join_acebase(W2).received() == many
            assert successor.join_acebase(W1).received() == []


def test_nothing_is_sent_after_the_close_frame(directory: Path) -> None:
    with running(directory, keepalive_interval=1, keepalive_timeout=1) as relay:
        _, first, second = cluster(relay)
        first.answers = second.answers = False
        stop(relay)
        assert first.frames()[-1].close_code == 1012
        second.say(f"to:{W1};{{1}}", "{2}")
        first.say("ping")
        first.send(b"?", Opcode.PING)
        relay.pass_time(1.5, 0.1)
        assert first.frames() == []
        first.leave()
        second.leave()
        relay.settle()
        with running(directory, relay) as successor:
            assert successor.join_acebase(W1).received() == ["{1}", "{2}", "pong"]


def test_a_client_that_connects_while_others_close_is_closed_with_1012_too(directory: Path) -> None:
    with running(directory) as relay:
        _, first, _ = cluster(relay)
        first.answers = False
        waiting = relay.connect()
        relay.stop()
        relay.pass_time(2 * SILENCE, SILENCE / 5)
        request = AceBaseMemoryPeer.target(worker_id(3), "shop_data", "none")
        waiting.send(upgrade_request(request))
        late = AceBaseMemoryPeer(worker_id(3), waiting)
        assert late.close_code == 1012
        first.leave()
        relay.settle()
        with running(directory, relay) as successor:
            assert successor.join_acebase(worker_id(3)).received() == []
            assert successor.join_acebase(W2).received() == [f"connect:{worker_id(3)}"]


def test_a_master_that_connects_while_others_close_is_asked_by_the_next_relay(
    directory: Path,
) -> None:
    with running(directory, quiesce_timeout=0) as relay:
        master, first, _ = cluster(relay)
        first.answers = False
        master.lose()
        request = lock(W1, new_id())
        first.say(request)
        waiting = relay.connect()
        relay.stop()
        waiting.send(upgrade_request(AceBaseMemoryPeer.target(MASTER, "shop_data", "none")))
        master = AceBaseMemoryPeer(MASTER, waiting)
        assert master.welcome()
        assert (master.received(), master.close_code) == ([], 1012)
        first.leave()
        relay.settle()
        with running(directory, relay) as successor:
            assert successor.join_acebase(MASTER).received() == [body_of(request)]


def test_a_documented_peer_joins_again(directory: Path) -> None:
    with running(directory) as relay:
        relay.join_acebase(W1)
        reader = relay.join("reader")
        stop(relay)
        assert reader.close_code == 1012
        with running(directory, relay) as successor:
            first = successor.join_acebase(W1)
            assert first.received() == ["disconnect:reader"]
            successor.join("reader")
            assert first.received() == ["connect:reader"]


def test_without_a_state_directory_a_request_that_waits_fails() -> None:
    with MemoryRelay(introductions=False) as relay:
        master, first, _ = cluster(relay)
        relay.stop()
        first.say(lock(W1, new_id()))
        relay.pass_time(2 * SILENCE, SILENCE / 5)
        (failed,) = first.envelopes()
        assert (failed["type"], failed["ok"]) == ("lock-result", False)
        assert (first.close_code, master.close_code) == (1001, 1001)


def test_a_stop_with_nobody_connected_is_immediate_and_leaves_no_state(directory: Path) -> None:
    with running(directory) as relay:
        relay.join_acebase(W1).leave()
        stopped: list[object] = []
        relay.stop().addBoth(stopped.append)
        assert stopped == [None]
        assert not directory.joinpath("state").exists()


def test_a_second_signal_ends_it_at_once_and_the_state_is_saved(directory: Path) -> None:
    with running(directory) as relay:
        master, first, _ = cluster(relay)
        first.answers = False
        first.say(lock(W1, new_id()))
        master.say(grant(master.received()[-1], 7))
        relay.stop()
        relay.server.hurry()
        relay.pass_time(0.05, 0.01)
        assert relay.server.state is State.STOPPED
        with running(directory, relay) as successor:
            assert successor.server.locks("shop_data").locks


def test_a_second_signal_while_clients_close_ends_it_at_once(directory: Path) -> None:
    with running(directory) as relay:
        _, first, _ = cluster(relay)
        first.answers = False
        stopped = stop(relay)
        assert stopped == []
        relay.server.hurry()
        relay.settle()
        assert stopped == [None]


def test_a_server_that_is_started_again_goes_on(directory: Path) -> None:
    with running(directory) as relay:
        cluster(relay)
        stop(relay)
        assert relay.server.get_clients("shop_data") == ()
        relay.server.start()
        relay.port = relay.reactor.ports[-1]
        assert relay.join_acebase(W1).received() == []
        assert not directory.joinpath("state").exists()


def test_the_journal_begins_with_the_state(directory: Path) -> None:
    with running(directory, quiesce_timeout=0) as relay:
        master, first, _ = cluster(relay)
        first.say(lock(W1, new_id()))
        master.say(grant(master.received()[-1], 7))
        stop(relay)
        with running(directory, relay) as successor, after_crash(directory) as last:
            assert successor.logged("is restored")
            with pytest.raises(HandshakeRefused, match="500"):
                last.join_acebase(W1)
            with pytest.raises(HandshakeRefused, match="500"):
                last.join_acebase(W2)
            asked = last.join_acebase(MASTER).received()
            assert any("move-lock-request" in each and '"id":7' in each for each in asked)


def test_after_a_crash_a_state_that_was_used_is_not_used_again(directory: Path) -> None:
    with running(directory) as relay:
        cluster(relay)
        stop(relay)
        with running(directory, relay), after_crash(directory) as last:
            assert not last.logged("is restored")
            assert last.logged("has crashed")


@pytest.mark.parametrize(("seconds", "is_used"), [(14.95, True), (15.05, False)])
def test_a_state_whose_sessions_have_expired_is_discarded(
    directory: Path, seconds: float, is_used: bool
) -> None:
    with running(directory) as relay:
        cluster(relay)
        stop(relay)
        relay.reactor.advance(seconds)
        with running(directory, relay) as successor:
            assert bool(successor.logged("is restored")) is is_used
            assert bool(successor.logged("have expired")) is not is_used
            successor.join_acebase(W1)
            assert not directory.joinpath("state").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1],
        lambda data: data[:30],
        lambda data: b"",
        lambda data: b"nonsense",
        lambda data: data.replace(b"restart 1", b"restart 2"),
        lambda data: data.replace(b"state 2", b"state 1"),
        lambda data: data.replace(W1.encode(), W2.encode()),
    ],
)
def test_a_file_that_cannot_be_used_is_kept_and_one_warning_says_so(
    directory: Path, change: Callable[[bytes], bytes]
) -> None:
    with running(directory) as relay:
        cluster(relay)
        stop(relay)
        path = directory.joinpath("state")
        data = change(path.read_bytes())
        path.write_bytes(data)
        with running(directory, relay) as successor:
            (line,) = successor.logged("cannot be used")
            assert "state.unusable" in line
            assert directory.joinpath("state.unusable").read_bytes() == data
            assert not path.exists()
            assert successor.join_acebase(W1).received() == []
            assert len(successor.server.get_clients("shop_data")) == 1


def test_a_file_of_another_user_is_not_believed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(directory) as relay:
        cluster(relay)
        stop(relay)
        me, another = os.geteuid(), 4711
        if me == 0:
            os.chown(directory / "state", another, -1)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: another)
        with running(directory, relay) as successor:
            (line,) = successor.logged("cannot be used")
            assert "it belongs to another user" in line


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("journal"))


@pytest.mark.parametrize(
    "make", [make_fifo, make_link, Path.mkdir], ids=["fifo", "link", "directory"]
)
def test_what_is_no_file_does_not_prevent_the_start(
    directory: Path, make: Callable[[Path], None]
) -> None:
    directory.mkdir(mode=0o700)
    make(directory / "state")
    with running(directory) as relay:
        assert relay.logged("cannot")
        cluster(relay)


def test_a_defect_does_not_prevent_the_start(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(relay: Relay, now: float) -> None:
        raise LookupError("a defect")

    with running(directory) as relay:
        cluster(relay)
        stop(relay)
        monkeypatch.setattr(Relay, "resume", fail)
        with running(directory, relay, expect_errors=True) as successor:
            assert successor.logged("adopting the state failed")
            assert directory.joinpath("state.unusable").exists()
            assert successor.join_acebase(W1).received() == []
            assert len(successor.server.get_clients("shop_data")) == 1


def test_only_the_owner_can_read_it(directory: Path) -> None:
    with running(directory) as relay:
        cluster(relay)
        stop(relay)
        assert stat.S_IMODE(directory.joinpath("state").stat().st_mode) == 0o600


class Disk:
    """Fails in one step of saving a state.

    :ivar failures: how often it has failed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, function: str, time: int) -> None:
        self.failures = 0
        self._times = time
        self._real = getattr(os, function)
        monkeypatch.setattr(f"acebase_ipc.server.private_file.os.{function}", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._times -= 1
        if self._times == 0:
            self.failures += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._real(*arguments, **options)


@pytest.mark.parametrize("function", ["open", "fsync"])
def test_if_there_is_no_room_requests_that_wait_fail_and_the_stop_goes_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    with running(directory) as relay:
        _, first, _ = cluster(relay)
        relay.stop()
        first.say(lock(W1, new_id()))
        disk = Disk(monkeypatch, function, 1)
        relay.pass_time(2 * SILENCE, SILENCE / 5)
        assert disk.failures == 1
        assert relay.server.state is State.STOPPED
        assert relay.logged("cannot be saved", "No space left")
        assert [each["ok"] for each in first.envelopes()] == [False]
        assert first.close_code == 1001
        assert sorted(os.listdir(directory)) == ["journal"]


@pytest.mark.parametrize(("function", "time"), [("open", 2), ("fsync", 2), ("replace", 1)])
def test_a_failure_after_that_is_logged_and_the_stop_goes_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch, function: str, time: int
) -> None:
    with running(directory) as relay:
        cluster(relay)
        disk = Disk(monkeypatch, function, time)
        assert stop(relay) == [None]
        assert disk.failures == 1
        assert relay.logged("cannot be saved", "No space left")
        assert sorted(os.listdir(directory)) == ["journal"]
        with running(directory, relay) as successor:
            assert successor.join_acebase(W1).received() == []


@pytest.mark.parametrize(("function", "time"), [("open", 3), ("fsync", 3)])
def test_a_failure_when_it_is_saved_already_is_logged(
    directory: Path, monkeypatch: pytest.MonkeyPatch, function: str, time: int
) -> None:
    with running(directory) as relay:
        cluster(relay)
        Disk(monkeypatch, function, time)
        assert stop(relay) == [None]
        assert relay.logged("cannot be saved")
        with running(directory, relay) as successor:
            assert successor.logged("is restored")
