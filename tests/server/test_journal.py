"""The journal in a mapped file: torn, full, of another boot, and without room."""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent

from acebase_ipc import ConfigError
from acebase_ipc.relay.journal import (
    Restored,
    RestoredDatabase,
    RestoredFence,
    RestoredLock,
    RestoredRequest,
    RestoredWorker,
)
from acebase_ipc.server import journal as journal_module
from acebase_ipc.server.journal import FileJournal
from acebase_ipc.server.journal_records import frame, payloads, replay

NOW = 1000.0
HEADER = 59
SMALL = 2048
"""Bytes of a small file."""

needs_boot_id = pytest.mark.skipif(
    not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="this system has no boot id"
)
pytestmark = needs_boot_id


def new_journal(directory: Path) -> FileJournal:
    return FileJournal(str(directory), lambda: NOW)


def killed(directory: Path) -> Path:
    """What a relay on *directory* leaves if it is killed now."""
    copy = directory.with_name(f"{directory.name}+")
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(directory, copy))


def after_crash(directory: Path) -> Restored:
    """What the next relay restores if the one on *directory* is killed now."""
    successor = new_journal(killed(directory))
    restored = successor.open()
    successor.close()
    return restored


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def journal(directory: Path) -> FileJournal:
    made = new_journal(directory)
    made.open()
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_SIZE", SMALL)
    monkeypatch.setattr(journal_module, "_MAX_SIZE", 16 * SMALL)


def fill(journal: FileJournal) -> None:
    """Write each kind of record once."""
    worker = journal.joined("db", "w1", True)
    journal.master_arrived("db")
    journal.asked(worker, b"r1", b"body")
    journal.granted(worker, b"r1", 7)
    journal.locked(worker, 8, 8, b"other")
    journal.confirmed(worker, 8, 9)
    journal.asked(worker, b"r2", b"body 2")
    journal.asked(worker, b"r3", b"body 3")
    journal.closed(worker, b"r3")
    journal.released(worker, 7)
    journal.fenced("db", "w0", NOW + 1)
    journal.left(journal.joined("db", "w2", True))


FILLED = Restored(
    (
        RestoredDatabase(
            "db",
            9,
            0,
            (
                RestoredWorker(
                    1,
                    "w1",
                    True,
                    False,
                    (RestoredLock(8, 9, b"other"),),
                    (RestoredRequest(b"r2", b"body 2"),),
                ),
            ),
        ),
    ),
    (RestoredFence("db", "w0", NOW + 1),),
)


def test_what_was_written_survives_a_crash(journal: FileJournal, directory: Path) -> None:
    fill(journal)
    assert after_crash(directory) == FILLED


def test_the_ids_of_locks_that_were_counted_before_survive(
    journal: FileJournal, directory: Path
) -> None:
    journal.joined("db", "w1", True)
    journal.counted("db", 150, 90)
    (database,) = after_crash(directory).databases
    assert (database.highest, database.former_highest) == (150, 90)


def test_it_survives_a_second_crash(journal: FileJournal, directory: Path) -> None:
    fill(journal)
    successor = new_journal(killed(directory))
    successor.open()
    assert successor.joined("db", "w3", False) == 3, "no number is used twice"
    assert after_crash(killed(directory)) == FILLED


def test_after_a_clean_end_nothing_is_restored(journal: FileJournal, directory: Path) -> None:
    fill(journal)
    journal.close()
    journal.close()
    assert journal.open() == Restored()
    assert after_crash(directory) == Restored()


def test_what_is_noted_before_and_after_is_ignored(directory: Path) -> None:
    journal = new_journal(directory)
    fill(journal)
    journal.open()
    journal.close()
    fill(journal)
    journal.open()
    assert after_crash(directory) == Restored()


def test_another_boot_is_no_crash(
    journal: FileJournal, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal)
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("01234567-89ab-cdef-0123-456789abcdef\n")
    monkeypatch.setattr(journal_module, "_BOOT_ID", str(boot_id))
    assert after_crash(directory) == Restored()


def test_where_the_boot_is_not_known_nothing_is_restored_and_it_says_so(
    journal: FileJournal, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(journal)
    monkeypatch.setattr(journal_module, "_BOOT_ID", str(tmp_path / "missing"))
    with capturedLogs() as logged:
        assert after_crash(directory) == Restored()
    assert ["no boot id" in formatEvent(each) for each in logged] == [True]


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 4096, b"acebase-ipc journal 2\n" * 99])
def test_another_file_is_ignored(directory: Path, content: bytes) -> None:
    directory.mkdir()
    directory.joinpath("journal").write_bytes(content)
    assert new_journal(directory).open() == Restored()


def test_only_its_user_may_read_it(journal: FileJournal, directory: Path) -> None:
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.joinpath("journal").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rest", [b"", b"\0", b"\xff"])
def test_a_record_that_is_cut_anywhere_is_ignored_with_all_that_follow(rest: bytes) -> None:
    records = [bytes([4]) + name for name in (b"one", b"two", b"three")]
    whole = b"".join(map(frame, records))
    ends = [0, *itertools.accumulate(len(frame(each)) for each in records)]
    for cut in range(len(whole)):
        torn = whole[:cut] + rest * (len(whole) - cut)
        if torn == whole:
            continue
        complete = sum(torn[:end] == whole[:end] for end in ends) - 1
        assert list(payloads(torn, 0)) == records[:complete], cut


def test_every_state_of_the_file_can_be_read(journal: FileJournal, directory: Path) -> None:
    fill(journal)
    path = directory / "journal"
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0"))
    copy = killed(directory)
    for cut in range(HEADER, used):
        torn = whole[:cut].ljust(len(whole), b"\0")
        copy.joinpath("journal").write_bytes(torn)
        restored = new_journal(copy)
        assert restored.open() == replay(payloads(torn, HEADER)).restored()
        restored.close()


@pytest.mark.usefixtures("small")
def test_a_full_file_is_replaced_by_a_smaller_one(journal: FileJournal, directory: Path) -> None:
    worker = journal.joined("db", "w1", True)
    journal.locked(worker, 1, 1, b"kept")
    for number in range(2, 1000):
        journal.asked(worker, b"r%d" % number, b"body")
        journal.granted(worker, b"r%d" % number, number)
        journal.released(worker, number)
    assert directory.joinpath("journal").stat().st_size == SMALL
    (database,) = after_crash(directory).databases
    assert (database.highest, database.workers[0].locks) == (999, (RestoredLock(1, 1, b"kept"),))
    assert os.listdir(directory) == ["journal"]


@pytest.mark.usefixtures("small")
def test_it_grows_with_what_has_to_be_kept_up_to_its_limit(
    journal: FileJournal, directory: Path
) -> None:
    worker = journal.joined("db", "w1", True)
    with capturedLogs() as logged:
        for number in range(100):
            journal.locked(worker, number, number, b"body")
        (database,) = after_crash(directory).databases
        assert len(database.workers[0].locks) == 100
        assert directory.joinpath("journal").stat().st_size > SMALL
        assert not logged
        for number in range(10_000):
            journal.locked(worker, number, number, b"body")
    assert [formatEvent(each) for each in logged] == [
        f"the journal in {directory} is not written any more: it exceeds {16 * SMALL} bytes"
    ]
    assert after_crash(directory) == Restored(), "what it says is not true any more"
    assert directory.joinpath("journal").stat().st_size <= 16 * SMALL


def test_a_second_relay_is_refused(journal: FileJournal, directory: Path) -> None:
    fill(journal)
    with pytest.raises(ConfigError, match="another relay uses it"):
        new_journal(directory).open()
    assert after_crash(directory) == FILLED
    journal.close()
    new_journal(directory).open()


# Failures of the system

CALLS: dict[str, tuple[Any, str]] = {
    "make the directory": (os, "mkdir"),
    "open": (os, "open"),
    "allocate": (os, "posix_fallocate"),
    "map": (mmap, "mmap"),
    "replace": (os, "replace"),
}


@pytest.fixture(params=CALLS)
def fail(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let a call fail from now on, as on a full disk."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr(*CALLS[request.param], full)


def open_files() -> list[str]:
    return sorted(
        os.readlink(f"/proc/self/fd/{each}")
        for each in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{each}")
    )


def test_a_failure_at_the_start_is_one_clear_error(
    directory: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]
) -> None:
    with monkeypatch.context():
        fail()
        with pytest.raises(ConfigError) as caught:
            new_journal(directory).open()
        monkeypatch.undo()
    assert str(caught.value) == (
        f"cannot use the state directory {str(directory)!r}: No space left on device"
    )
    assert str(directory) not in "".join(open_files())
    assert not directory.exists() or not list(directory.iterdir())
    new_journal(directory).open()


def test_a_failure_at_the_start_keeps_what_the_crash_has_left(
    journal: FileJournal, directory: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None]
) -> None:
    fill(journal)
    copy = killed(directory)
    fail()
    try:
        new_journal(copy).open()
    except ConfigError:
        monkeypatch.undo()
        assert new_journal(copy).open() == FILLED
    else:
        monkeypatch.undo()  # the directory is there already


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("call", ["open", "allocate", "map", "replace"])
def test_a_failure_later_on_is_logged_once_and_the_relay_goes_on(
    journal: FileJournal, directory: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    worker = journal.joined("db", "w1", True)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, capturedLogs() as logged:
        patched.setattr(*CALLS[call], full)
        for number in range(1000):
            journal.fenced("db", f"w{number}", NOW + 1)
            journal.left(worker)
    assert [formatEvent(each) for each in logged] == [
        f"the journal in {directory} is not written any more: No space left on device"
    ]
    assert os.listdir(directory) == ["journal"]
    assert after_crash(directory) == Restored()
    journal.close()
    assert journal.open() == Restored()


def test_a_directory_that_cannot_be_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:  # as to another user than root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    directory.mkdir()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        new_journal(directory).open()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        new_journal(tmp_path / "missing" / "state").open()


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    tmp_path.joinpath("state").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        new_journal(tmp_path / "state").open()


def test_without_fallocate_the_blocks_are_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    journal = new_journal(directory)
    journal.open()
    fill(journal)
    assert directory.joinpath("journal").stat().st_blocks * 512 >= journal_module._SIZE
    assert after_crash(directory) == FILLED


# Against a model

names = st.sampled_from(["db", "größer"])
ids = st.sampled_from(["w1", "w2", "w3"])
numbers = st.integers(1, 4)
lock_ids = st.integers(1, 5)
request_ids = st.sampled_from([b"r1", b"r2", b"r3"])
bodies = st.binary(max_size=40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("joined"), names, ids, st.booleans()),
        st.tuples(st.just("left"), numbers),
        st.tuples(st.just("fenced"), names, ids, st.sampled_from([NOW - 1, NOW + 1])),
        st.tuples(st.just("asked"), numbers, request_ids, bodies),
        st.tuples(st.just("closed"), numbers, request_ids),
        st.tuples(st.just("granted"), numbers, request_ids, lock_ids),
        st.tuples(st.just("locked"), numbers, lock_ids, lock_ids, bodies),
        st.tuples(st.just("confirmed"), numbers, lock_ids, lock_ids),
        st.tuples(st.just("released"), numbers, lock_ids),
        st.tuples(st.just("crash")),
    ),
    max_size=60,
)


class Model:
    """What a journal has to restore, in dictionaries."""

    def __init__(self) -> None:
        self.workers: dict[int, tuple[str, str, bool]] = {}
        self.gone: set[int] = set()
        self.locks: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.requests: dict[tuple[int, bytes], bytes] = {}
        self.fences: dict[tuple[str, str], float] = {}

    def note(self, kind: str, *values: Any) -> None:
        if kind == "joined":
            self.workers[values[3]] = values[0], values[1], values[2]
            self.gone.discard(values[3])
            self.fences.pop(values[:2], None)
        elif kind == "fenced":
            self.fences[values[:2]] = values[2]
        elif values[0] in self.alive():
            self._note_worker(kind, *values)

    def _note_worker(self, kind: str, number: int, *values: Any) -> None:
        if kind == "left":
            self.gone.add(number)
        elif kind == "asked":
            self.requests[number, values[0]] = values[1]
        elif kind == "closed":
            self.requests.pop((number, values[0]), None)
        elif kind == "granted":
            request = self.requests.pop((number, values[0]), None)
            if request is not None:
                self.locks[number, values[1]] = values[1], request
        elif kind == "locked":
            self.locks[number, values[0]] = values[1], values[2]
        elif kind == "confirmed" and (number, values[0]) in self.locks:
            self.locks[number, values[0]] = values[1], self.locks[number, values[0]][1]
        elif kind == "released":
            self.locks.pop((number, values[0]), None)

    def alive(self) -> set[int]:
        """The workers of which something has to be known."""
        busy = {number for number, _ in (*self.locks, *self.requests)}
        return (self.workers.keys() - self.gone) | busy

    def view(self) -> object:
        alive = self.alive()
        return (
            {each: (*self.workers[each], each in self.gone) for each in alive},
            self.locks,
            self.requests,
            {key for key, until in self.fences.items() if until > NOW},
        )


def view(restored: Restored) -> object:
    """What was restored, as the model shows it."""
    workers = [(base.name, each) for base in restored.databases for each in base.workers]
    return (
        {
            each.number: (name, each.client_id, each.restarts, each.is_gone)
            for name, each in workers
        },
        {(w.number, each.id): (each.master_id, each.body) for _, w in workers for each in w.locks},
        {(w.number, each.id): each.body for _, w in workers for each in w.requests},
        {(each.database, each.client_id) for each in restored.fences if each.until > NOW},
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(STEPS)
def test_it_restores_what_a_model_has(tmp_path: Path, steps: list[tuple[Any, ...]]) -> None:
    directory = tmp_path / "model"
    shutil.rmtree(directory, ignore_errors=True)
    model = Model()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal_module, "_SIZE", 300)
        patched.setattr(journal_module, "_SLACK", 2)
        journal = new_journal(directory)
        journal.open()
        for kind, *values in steps:
            if kind == "crash":
                directory = killed(directory)
                journal.close()
                journal = new_journal(directory)
                assert view(journal.open()) == model.view()
            else:
                number = getattr(journal, kind)(*values)
                model.note(kind, *values, *([number] if kind == "joined" else []))
        assert view(after_crash(directory)) == model.view()
        journal.close()


# Handing over


def test_a_successor_begins_beside_its_predecessor(tmp_path: Path) -> None:
    predecessor, successor = new_journal(tmp_path), new_journal(tmp_path)
    predecessor.open()
    predecessor.joined("db", "worker1", restarts=True)
    assert predecessor.lock is not None
    assert successor.begin(os.dup(predecessor.lock))
    successor.joined("db", "worker2", restarts=True)
    predecessor.joined("db", "worker3", restarts=True)  # it goes on until the other one commits

    def workers() -> list[str]:
        restored = after_crash(tmp_path)
        return [worker.client_id for each in restored.databases for worker in each.workers]

    assert workers() == ["worker1", "worker3"]
    successor.commit()
    assert workers() == ["worker2"]
    predecessor.release(is_taken=True)
    assert workers() == ["worker2"]
    with pytest.raises(ConfigError, match="another relay uses it"):
        new_journal(tmp_path).open()
    successor.close()
    assert workers() == []


def test_a_successor_that_ends_before_it_commits_changes_nothing(tmp_path: Path) -> None:
    predecessor = new_journal(tmp_path)
    predecessor.open()
    predecessor.joined("db", "worker1", restarts=True)
    for _ in range(2):
        successor = new_journal(tmp_path)
        assert predecessor.lock is not None
        successor.begin(os.dup(predecessor.lock))
        successor.joined("db", "worker2", restarts=True)
        successor._close()
    restored = after_crash(tmp_path)
    assert [each.client_id for each in restored.databases[0].workers] == ["worker1"]
    predecessor.close()


def test_a_successor_with_another_directory_takes_no_journal(tmp_path: Path) -> None:
    predecessor, successor = new_journal(tmp_path / "one"), new_journal(tmp_path / "two")
    predecessor.open()
    predecessor.joined("db", "worker1", restarts=True)
    assert predecessor.lock is not None
    assert not successor.begin(os.dup(predecessor.lock))
    successor.commit()
    predecessor.release(is_taken=False)
    assert after_crash(tmp_path / "one").databases == ()
    new_journal(tmp_path / "one").open()
    successor.close()
