"""No crash stops a cluster or lets two processes write, whatever happens and in whatever order.

A relay serves the processes of :mod:`tests.relay.locker`. Any of them crash, lose their
connections, return, or stop reading at any time. At any time

* no two workers believe to hold locks of which one excludes the other;
* no answer arrives twice, or at a worker that has not asked; no release frees another lock;
* the relay's table has all locks that workers believe to hold;
* what a worker is granted, whether by the master or by the relay itself, AceBase's own locker
  (:func:`could_be_granted`) could have granted;
* the master has a lock that covers each one that the relay has granted itself, and has never
  received an id of the relay's own;
* a lock that a worker has released is released at the master before the master receives the
  worker's next request, unless the master has changed meanwhile.

In the end, when all that still live are connected and read,

* all requests are answered, except for locks that a living worker holds;
* nothing at the master belongs to the dead, or to a transaction that has no lock any more;
* the relay's table has exactly the locks that workers hold, and nothing when they hold none.

What no relay can prevent is excluded:

* the locks of a transaction, after one of its locks has expired (120 s);
* the locks of a worker that was cut off for longer than its session lasts; but it must be
  refused when it returns;
* a request whose message or answer was lost between a worker and the relay: that worker
  hangs, and in the end is killed;
* a lock that the same master granted in a message that was lost, or again because its highest
  known lock id was below 100 when it returned, or to a worker whose session ended together
  with that of everybody else: it is freed when it has expired (*leaked*);
* locks that the master takes for itself.

A few seconds try a hundred histories. To try many more::

    HYPOTHESIS_PROFILE=thorough pytest tests/relay/test_locks_model.py
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import combinations, cycle
from typing import TypeVar

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.lock_sessions import OWN_LOCK_IDS
from acebase_ipc.relay.peers import SessionState
from tests.relay.core import DATABASE, MASTER, Core, bye
from tests.relay.locker import (
    ANSWERS,
    LOCK_TIMEOUT,
    MAX_PAYLOAD,
    Asked,
    Held,
    Line,
    Lock,
    Master,
    Message,
    State,
    Worker,
    granted_id,
    write,
)

SESSION = 15
MAX_BACKLOG = 100_000
SURE = 100
"""From this lock id on the relay can tell whether a master is a new process."""
ALL = 10_000
RELAY = "relay-"
"""Begins the name in which the relay asks for a lock, to see which process a master is."""
A_WHILE = 0.125
"""Seconds after which a moment without messages is a quiet one; exact as a binary number."""
MOST_WORKERS = 4
MOST_ASKED = 5
MOST_LEAKS = 10
"""Leaked locks that wait for each other until each has expired."""
TARGETS = [
    ("val/c", "transactNode"),
    ("val/c[0]", ""),
    ('读/"b"', 'x","to":"[master]","data":{"id":1}'),
]
"""Paths, and what locks there are for."""
ALLOCATE, FREE = "fst.allocate", "fst.release"

_T = TypeVar("_T")

index = st.integers(0, 5)
"""Chooses one of those that can be chosen from."""
few = st.sampled_from([0, 1, 2, ALL])
tids = st.sampled_from([0, 0, 1])
kinds = st.sampled_from([True, True, False])
wishes = st.lists(st.tuples(index, tids, kinds), min_size=1, max_size=3)
"""Locks to request: the worker, its transaction, and whether it wants to write."""
choices = st.lists(st.tuples(index, st.sampled_from([False, False, True])), max_size=2)
"""Locks that are held, and whether to move them instead of releasing them."""


def could_be_granted(wanted: Held, others: Iterable[Held]) -> bool:
    """Whether AceBase's locker grants a lock while there are *others*, whatever their paths."""
    return not any(other.tid != wanted.tid and (other.write or wanted.write) for other in others)


class LocksMachine(RuleBasedStateMachine):
    """A cluster whose processes and connections fail.

    :ivar lock_sessions: whether the relay answers requests about locks itself.
    """

    lock_sessions = True

    @initialize(introduce=st.booleans(), batching=st.booleans(), last_id=st.sampled_from([0, 500]))
    def begin(self, introduce: bool, batching: bool, last_id: int) -> None:
        self.core = Core(
            introduce,
            lock_sessions=self.lock_sessions,
            session_timeout=SESSION,
            max_backlog=MAX_BACKLOG,
            max_payload=MAX_PAYLOAD,
        )
        self.batching = batching
        self.workers: list[Worker] = []
        self.master: Master | None = None
        self.own: Lock | None = None
        self.expired: set[str] = set()
        self.leaks = False
        self.targets = cycle(TARGETS)
        self.freed: set[str] = set()
        self.masters = 0
        self.start_master(last_id, False)
        for _ in range(3):
            self.start_worker()

    # What the machine knows

    @property
    def living(self) -> list[Worker]:
        return [each for each in self.workers if each.lives]

    @property
    def connected(self) -> list[Worker]:
        return [each for each in self.living if each.line]

    def worker(self, client_id: str) -> Worker:
        return next(each for each in self.workers if each.id == client_id)

    def has_session(self, worker: Worker) -> bool:
        """Whether the relay still counts on it."""
        peer = self.core.relay.registry.find(DATABASE, worker.id)
        return peer is not None and peer.state is not SessionState.ENDING

    def holds(self, worker: Worker) -> list[Held]:
        """The locks of *worker* that have not expired."""
        return [each for each in worker.held if each.tid not in self.expired]

    def connect(self, client_id: str) -> Line:
        if self.workers and DATABASE not in self.core.relay.registry.databases:
            self.leaks = True
        line = Line(self.core.join_acebase(client_id))
        if client_id == MASTER:
            self.masters += 1
            for worker in self.workers:
                worker.masters = self.masters
        line.process.connection.batching = self.batching
        return line

    # The master

    @rule(is_new=st.booleans(), last_id=st.integers(0, 20), moves_by_queue=st.booleans())
    def master_arrives(self, is_new: bool, last_id: int, moves_by_queue: bool) -> None:
        """A master starts; or the same connects again, perhaps while its connection is open."""
        if is_new or not self.master:
            self.start_master(last_id, moves_by_queue)
        else:
            self.return_master(self.master)

    def start_master(self, last_id: int, moves_by_queue: bool) -> None:
        """A new process is the master; the one that was, if it is connected, is replaced."""
        replaced = self.master
        self.master = Master(last_id, moves_by_queue, self.check_release)
        self.master.line = self.connect(MASTER)
        self.own = None
        if replaced and replaced.line:
            replaced.line.process.is_lost()

    @rule(
        reads=few,
        arrive=few,
        crashes=st.booleans(),
        close_code=st.sampled_from([None, None, None, 1000]),
        returns=st.booleans(),
        last_id=st.integers(0, 20),
    )
    def lose_master(
        self,
        reads: int,
        arrive: int,
        crashes: bool,
        close_code: int | None,
        returns: bool,
        last_id: int,
    ) -> None:
        """The master loses its connection and what is on its way, or crashes; it may return."""
        self.work(reads, arrive)
        if not self.master or not self.master.line:
            return
        line, self.master.line = self.master.line, None
        if crashes:
            self.master = self.own = None
            if close_code:
                line.say(bye(MASTER))
        line.process.is_lost(close_code if crashes else None)
        if returns and crashes:
            self.start_master(last_id, False)
        elif returns and self.master:
            self.return_master(self.master)

    def return_master(self, master: Master) -> None:
        """The same process connects again; what it has sent meanwhile is lost."""
        granted = any(granted_id(text) for text in master.outbox)
        locked = any(each.owner and each.state is State.LOCKED for each in master.locks)
        self.leaks |= granted or (locked and master.highest < SURE)
        master.outbox.clear()
        replaced, master.line = master.line, self.connect(MASTER)
        if replaced:
            replaced.process.is_lost()

    def work(self, reads: int, arrive: int) -> int:
        """The master reads, and its answers arrive; returns how many messages that are."""
        if not self.master:
            return 0
        texts = self.master.line.read(reads) if self.master.line else []
        for text in texts:
            self.check_request(text)
            self.master.hear(text, self.core.now)
        return len(texts) + self.master.flush(arrive)

    @rule(many=st.sampled_from([1, 100, 1000]))
    def master_locks(self, many: int) -> None:
        """The master takes locks, but not so many before it has answered; or releases its last."""
        if not self.master:
            return
        if self.master.highest:
            self.master.takes_locks(many)
        if not self.own:
            self.own = self.master.lock(self.core.now, "m" * 24, "val", True)
        elif self.own.state is not State.PENDING:
            self.master.unlock(self.own, self.core.now)
            self.own = None

    # The relay

    @rule(wanted=wishes, is_quiet=st.booleans(), returns=st.booleans())
    def restart_relay(
        self, wanted: list[tuple[int, int, bool]], is_quiet: bool, returns: bool
    ) -> None:
        """Another relay goes on with the state of this one, perhaps in a quiet moment.

        Each process reads all that it was sent, and all that it has sent has arrived.
        """
        relay = self.core.relay
        if is_quiet:
            relay.quiesce.begin(relay.registry.databases.values(), self.core.now)
        self.lock(wanted, False)
        for each in (self.master, *self.living):
            if each and each.line and not each.line.is_read:
                each.line.read_on()
        self.end_turn()
        if is_quiet:
            self.become_quiet()
        for worker in self.connected:
            self.note_cut(worker)
        if self.master and self.master.line:
            line, self.master.line = self.master.line, None
            line.process.is_lost(1012)
        self.core.restart()
        if returns:
            self.connect_all()

    def become_quiet(self) -> None:
        """Let all transactions end, and no other one begin."""
        quiesce = self.core.relay.quiesce
        began = self.core.now
        for _ in range(100):
            for worker in self.living:
                for held in free(worker):
                    worker.release(held)
            self.end_turn()
            self.core.now += A_WHILE
            if quiesce.is_quiet(self.core.now):
                break
        if self.core.now < began + 5 and self.connected:
            for worker in self.connected:
                assert not worker.held, "it has a lock"
                kinds = {each.kind for each in worker.asked.values() if not each.is_lost}
                assert kinds <= {"lock-request", "request"}, "what is withheld"
            event("it is quiet")

    # The workers

    def start_worker(self) -> None:
        if len(self.living) < MOST_WORKERS:
            self.workers.append(Worker(len(self.workers), self.masters))
            self.workers[-1].line = self.connect(self.workers[-1].id)

    @rule(wanted=wishes, turns=st.sampled_from([True, True, False]))
    def lock(self, wanted: list[tuple[int, int, bool]], turns: bool) -> None:
        for which, tid, writes in wanted:
            worker = pick(self.living, which)
            if worker and len(worker.asked) < MOST_ASKED:
                path, comment = next(self.targets)
                worker.lock(worker.tids[tid], path, writes, comment)
        if turns:
            self.end_turn()

    @rule(
        which=index,
        kinds=st.lists(kinds, min_size=2, max_size=4),
        chosen=st.lists(index, max_size=4),
        wanted=wishes,
    )
    def transact(
        self, which: int, kinds: list[bool], chosen: list[int], wanted: list[tuple[int, int, bool]]
    ) -> None:
        """A worker takes several locks of one transaction, and releases some of its own."""
        for writes in kinds:
            self.lock([(which, 0, writes)], True)
        worker = pick(self.living, which)
        for each in chosen:
            held = pick(free(worker), each) if worker else None
            if worker and held:
                worker.release(held)
        self.lock(wanted, True)

    @rule(chosen=choices, turns=st.booleans())
    def release_or_move(self, chosen: list[tuple[int, bool]], turns: bool) -> None:
        for which, moves in chosen:
            found = pick([(each, held) for each in self.living for held in free(each)], which)
            if found and moves and found[1].path:
                found[0].move(found[1])
            elif found:
                found[0].release(found[1])
        if turns:
            self.end_turn()

    @rule(
        wanted=wishes,
        chosen=choices,
        reads=few,
        arrive=few,
        crashes=st.booleans(),
        meanwhile=choices,
        last_id=st.integers(0, 20),
    )
    def work_through_a_crash(
        self,
        wanted: list[tuple[int, int, bool]],
        chosen: list[tuple[int, bool]],
        reads: int,
        arrive: int,
        crashes: bool,
        meanwhile: list[tuple[int, bool]],
        last_id: int,
    ) -> None:
        """Workers take locks, and go on while the master crashes, or is cut off, and returns."""
        self.lock(wanted, True)
        self.ask(last_id, FREE, 0)
        self.release_or_move(chosen, False)
        self.lose_master(reads, arrive, crashes, None, False, 0)
        self.release_or_move(meanwhile, False)
        self.lock(wanted, False)
        self.master_arrives(crashes, last_id, False)

    @rule(
        wanted=wishes,
        turns=st.booleans(),
        which=index,
        reads=few,
        returns=st.booleans(),
        seconds=st.sampled_from([0, SESSION]),
    )
    def be_lost_at_work(
        self,
        wanted: list[tuple[int, int, bool]],
        turns: bool,
        which: int,
        reads: int,
        returns: bool,
        seconds: float,
    ) -> None:
        """Workers take locks, and one of them dies, or is cut off and returns."""
        self.lock(wanted, turns)
        if returns:
            self.cut(which, reads)
        else:
            self.restart(which, reads, None, turns, False)
        self.pass_time(seconds)
        if returns:
            self.return_worker(which, True)

    @rule(
        which=index,
        kind=st.sampled_from([ALLOCATE, FREE]),
        padding=st.sampled_from([0, MAX_PAYLOAD]),
    )
    def ask(self, which: int, kind: str, padding: int) -> None:
        worker = pick(self.living, which)
        if worker and len(worker.asked) < MOST_ASKED:
            worker.ask("request", {"type": kind, "for": "读" * padding})

    @rule(which=index, many=few, is_master=st.booleans(), arrive=few)
    def read(self, which: int, many: int, is_master: bool, arrive: int) -> None:
        """A worker reads; or the master does, it answers any request, and answers arrive."""
        worker = pick(self.connected, which)
        if is_master:
            self.work(many, 0)
            self.answer(which)
            self.work(0, arrive)
        elif worker:
            self.hear(worker, many)

    def answer(self, which: int) -> None:
        """The master answers a request that is not about locks."""
        if self.master and self.master.asked:
            self.master.answer(which % len(self.master.asked))

    def hear(self, worker: Worker, many: int) -> int:
        """*worker* reads; returns how many messages."""
        texts = worker.line.read(many) if worker.line else []
        for text in texts:
            failed = worker.hear(text)
            if failed:
                self.check_failure(failed, text)
            self.check_grants(worker)
        return len(texts)

    @rule(
        which=index,
        reads=few,
        close_code=st.sampled_from([None, None, 1000]),
        has_ended=st.booleans(),
        says_bye=st.sampled_from([False, False, True]),
    )
    def restart(
        self, which: int, reads: int, close_code: int | None, has_ended: bool, says_bye: bool
    ) -> None:
        """A worker ends, and another one starts."""
        worker = pick(self.living, which)
        if worker:
            self.hear(worker, reads)
            if says_bye:
                worker.say(bye(worker.id))
            self.end(worker, close_code, has_ended)
        self.start_worker()

    def end(self, worker: Worker, close_code: int | None = None, has_ended: bool = False) -> None:
        worker.lives = False
        if worker.line:
            worker.line.process.is_lost(close_code, has_ended)
            worker.line = None

    @rule(which=index, reads=few)
    def cut(self, which: int, reads: int) -> None:
        """A worker loses its connection, and what is on its way to it."""
        worker = pick(self.connected, which)
        if worker:
            self.hear(worker, reads)
            self.note_cut(worker)

    def note_cut(self, worker: Worker) -> None:
        assert worker.line
        process = worker.line.process
        worker.lose()
        process.is_lost()

    @rule(which=index, is_noticed=st.booleans())
    def return_worker(self, which: int, is_noticed: bool) -> None:
        """A worker connects again, perhaps before its connection is known to be lost."""
        away = [each for each in self.living if not each.line or not each.line.is_open]
        worker = pick(away or self.living, which)
        if worker:
            self.come_back(worker, is_noticed)

    def come_back(self, worker: Worker, is_noticed: bool = True) -> None:
        replaced = worker.line
        if replaced and is_noticed:
            self.note_cut(worker)
        elif replaced:
            worker.lose()
        continues = self.has_session(worker)
        asked = [each for each in worker.asked.values() if each.is_about_lock]
        try:
            line = self.connect(worker.id)
        except RequestRefused as refusal:
            self.check_refusal(refusal)
            assert not continues, "the session goes on"
            assert worker.held or asked, "it had no locks, and has not asked for any"
            self.end(worker)
        else:
            owed = [each for each in asked if self.is_owed(each)]
            assert continues or not (self.holds(worker) or owed), "its locks were freed"
            worker.line = line
            for each in worker.asked.values():
                each.is_lost |= not continues
        if replaced and not is_noticed:
            replaced.process.is_lost()

    def is_owed(self, asked: Asked) -> bool:
        """Whether the relay owes a worker a lock, or knows that it holds one."""
        tid = asked.held.tid if asked.held else asked.data["tid"]
        is_released = asked.kind == "unlock-request"
        return not (is_released or asked.is_lost or tid in self.expired)

    # Connections and the clock

    @rule(which=index, unsent=st.sampled_from([0, 0, MAX_BACKLOG]))
    def congest_or_drain(self, which: int, unsent: int) -> None:
        """A worker, or the master, stops reading or goes on."""
        lines = [each.line for each in (self.master, *self.living) if each and each.line]
        line = pick([each for each in lines if each.is_open], which)
        if line and line.is_read:
            line.stop_reading(unsent)
        elif line:
            line.read_on()

    @rule()
    def end_turn(self) -> None:
        """Everybody reads and answers what there is, until there is nothing."""
        for _ in range(100):
            read = self.work(ALL, ALL)
            while self.master and self.master.asked:
                self.answer(0)
                read += 1
            if not read + sum([self.hear(each, ALL) for each in self.connected]):
                return
        raise AssertionError("there is always something to read")

    @rule(seconds=st.sampled_from([0, 1, 4, SESSION, SESSION, 50]))
    def pass_time(self, seconds: float) -> None:
        self.core.wait(seconds)
        if self.master:
            self.master.expire(self.core.now)
            self.expired |= self.master.expired

    # What is checked where it happens

    def check_request(self, text: str) -> None:
        """A request that reaches the master is one of a worker's, or the relay's own."""
        message: Message = json.loads(text) if text.startswith("{") else {"type": ""}
        if message["type"] not in ANSWERS:
            return
        assert self.master
        assert self.master.line
        assert message["id"] not in self.master.line.asked, f"it was asked twice: {text}"
        self.master.line.asked.add(message["id"])
        assert message["data"].get("id", 0) < OWN_LOCK_IDS, text
        if message["from"].startswith(RELAY):
            assert message["type"] in ("lock-request", "unlock-request", "move-lock-request"), text
            return
        worker = self.worker(message["from"])
        asked = worker.history.get(message["id"])
        if asked is None:
            assert message["type"] != "request", text
            tids = [message["data"]["tid"]] if message["type"] == "lock-request" else []
            assert set(tids) <= set(worker.tids), text
            return
        self.check_released(worker, asked)
        if asked.held:
            message["data"]["id"] = asked.data["id"]
            assert write(message) == asked.text
        else:
            assert text == asked.text
            if asked.data.get("type") == FREE:
                assert message["id"] not in self.freed, "space must not be freed twice"
                self.freed.add(message["id"])

    def check_released(self, worker: Worker, asked: Asked) -> None:
        """The master has released what *worker* had released before it asked this."""
        assert self.master
        released = {tid for tid, masters in asked.free.items() if masters == self.masters}
        locked = {
            each.tid
            for each in self.master.locks
            if each.owner == worker.id
            and each.state is State.LOCKED
            and not each.request.startswith(RELAY)  # to see which process the master is
        }
        assert self.leaks or not released & locked, (asked, locked)

    def check_grants(self, worker: Worker) -> None:
        """What *worker* holds now, AceBase's locker could have granted."""
        if self.has_session(worker):
            others = [each for each in self.living if each is not worker and self.has_session(each)]
            held = [held for each in others for held in self.holds(each)]
            for each in self.holds(worker):
                assert could_be_granted(each, held), (each, held)

    def check_release(self, lock: Lock, message: Message) -> None:
        """What the master is asked to release was granted to the one who asks."""
        assert lock.owner == message["from"], (lock, message)
        if lock.owner.startswith(RELAY):
            return
        asked = self.worker(lock.owner).history.get(message["id"])
        assert asked is None or asked.held is None or asked.held.tid == lock.tid, (lock, message)

    def check_failure(self, asked: Asked, text: str) -> None:
        """The request *asked* has failed: one about a lock may, after one has expired."""
        tid = asked.held.tid if asked.held else asked.data.get("tid")
        may_fail = asked.kind == "lock-request" or (asked.kind == "move-lock-request")
        assert may_fail, text
        has_expired = asked.held is not None and asked.held.expires <= self.core.wall
        assert tid in self.expired or has_expired or (self.leaks and asked.held), text

    def check_refusal(self, refusal: RequestRefused) -> None:
        assert refusal.status == 500
        event("a worker is refused")

    # What has to be true at any time

    @invariant()
    def no_two_workers_hold_what_excludes_the_other(self) -> None:
        holders = [
            held for each in self.living if self.has_session(each) for held in self.holds(each)
        ]
        for one, other in combinations(holders, 2):
            assert could_be_granted(one, [other]), (one, other)

    @invariant()
    def the_master_has_what_covers_the_locks_of_the_relay(self) -> None:
        database = self.core.relay.registry.databases.get(DATABASE)
        if not database or not self.master or not self.master.line:
            return
        known = {each.id: each for each in self.master.locks if each.state is not State.PENDING}
        for peer in database.peers.values():
            account = peer.account
            for _, _, cover in account.own.values() if account else ():
                assert account
                assert cover.lock_id in {**account.granted, **account.locks}, cover.lock_id
                if cover.lock_id in account.granted:
                    lock = known[cover.lock_id]
                    assert (lock.owner, lock.tid) == (peer.client_id, cover.tid.decode())
                    assert lock.write == cover.is_write

    @invariant()
    def the_table_has_what_workers_hold(self) -> None:
        table = {
            (each.holder, each.tid, each.write, each.comment, each.id, each.path)
            for each in self.core.relay.locks(DATABASE).locks
        }
        for worker in self.living:
            for held in worker.held if self.has_session(worker) else ():
                known = (worker.id, held.tid, held.write, held.comment, held.id, held.path)
                size = 4 if held.is_moving else 6
                assert known[:size] in {each[:size] for each in table}, (known, table)

    # What has to be true in the end

    def teardown(self) -> None:
        if hasattr(self, "core") and sys.exc_info()[0] is None:
            self.settle()
            self.check_settled()
            self.release_all()
            self.check_empty()

    def settle(self) -> None:
        """All that live are connected and read; what hangs is ended; the dead are known to be."""
        if self.master and self.own:
            self.master.unlock(self.own, self.core.now)
            self.own = None
        self.connect_all()
        for worker in self.living:
            if worker.is_hung:
                self.end(worker)
        self.pass_time(SESSION + 1)
        self.connect_all()

    def connect_all(self) -> None:
        for each in (self.master, *self.living):
            if each and each.line and not each.line.is_read:
                each.line.read_on()
        if not self.master:
            self.start_master(0, False)
        elif not self.master.line or not self.master.line.is_open:
            self.return_master(self.master)
        for worker in self.living:
            if not worker.line or not worker.line.is_open:
                self.come_back(worker)
        self.end_turn()

    def check_settled(self) -> None:
        assert self.master
        table = self.core.relay.locks(DATABASE).locks
        by_relay = {(each.holder, each.id) for each in table if each.granted_by == "relay"}
        held = Counter((w.id, each.tid, each.write) for w in self.living for each in w.held)
        kept = Counter((each.holder, each.tid, each.write) for each in table if each.is_kept)
        asked = Counter(
            (worker.id, each.data["tid"], each.data["write"])
            for worker in self.living
            for each in worker.asked.values()
            if each.kind == "lock-request"
        )
        for worker in self.living:
            for each in worker.asked.values():
                assert each.kind == "lock-request" or self.is_blocked(each), each
        locked = Counter(self.at_master(State.LOCKED))
        valid = Counter(
            (w.id, each.tid, each.write)
            for w in self.living
            for each in self.holds(w)
            if (w.id, each.id) not in by_relay
        )
        assert valid <= locked, (valid, locked)
        covered = {key[:2] for key in locked}
        writable = {key[:2] for key in locked if key[2]}
        for worker in self.living:
            for lock in self.holds(worker):
                assert (worker.id, lock.tid) in (writable if lock.write else covered), lock
        if not self.leaks:
            assert locked <= held + kept, (held, kept, locked)
        pending = Counter(self.at_master(State.PENDING))
        assert asked <= pending, (asked, pending)
        self.check_table()

    def is_blocked(self, asked: Asked) -> bool:
        """Whether it waits for a lock of others: to move to, or to show who the master is."""
        waiting = {tid for _, tid, _ in self.at_master(State.PENDING)}
        return asked.held is not None and asked.held.tid in waiting

    def at_master(self, state: State) -> list[tuple[str, str, bool]]:
        assert self.master
        locks = [each for each in self.master.locks if each.owner and each.state is state]
        return [(each.owner, each.tid, each.write) for each in locks]

    def check_table(self) -> None:
        table = self.core.relay.locks(DATABASE)
        assert Counter(
            (each.holder, each.id, each.tid, each.path, each.write, each.comment)
            for each in table.locks
            if not each.is_kept
        ) == Counter(
            (worker.id, each.id, each.tid, each.path, each.write, each.comment)
            for worker in self.living
            for each in worker.held
        )
        needed = {(each.holder, each.tid) for each in table.locks if each.granted_by == "relay"}
        assert needed >= {(each.holder, each.tid) for each in table.locks if each.is_kept}
        assert Counter((each.worker, each.id) for each in table.requests) == Counter(
            (worker.id, request) for worker in self.living for request in worker.asked
        )

    def release_all(self) -> None:
        """Workers release what they hold, until they have been granted all that they asked for."""
        for _ in range(MOST_LEAKS):
            while any(free(each) for each in self.living):
                for worker in self.living:
                    for held in free(worker):
                        worker.release(held)
                self.end_turn()
            if not self.leaks:
                return
            self.pass_time(LOCK_TIMEOUT)
            self.end_turn()

    def check_empty(self) -> None:
        for worker in self.living:
            assert not worker.asked, (worker, worker.asked)
        assert not self.at_master(State.LOCKED)
        assert not self.at_master(State.PENDING)
        self.check_table()


def free(worker: Worker) -> list[Held]:
    """The locks of *worker* that it may release."""
    return [each for each in worker.held if not each.is_moving]


def pick(choices: list[_T], which: int) -> _T | None:
    """One of the *choices*, if there are any."""
    return choices[which % len(choices)] if choices else None


class WithoutSessions(LocksMachine):
    """The same where the master answers all requests about locks."""

    lock_sessions = False


TestLocksModel = LocksMachine.TestCase
TestLocksModelWithoutSessions = WithoutSessions.TestCase


def test_without_recovery_all_is_passed_through_and_the_table_stays() -> None:
    core = Core(introduce=False, lock_recovery=False, session_timeout=SESSION)
    released: list[Lock] = []
    master = Master(500, False, lambda lock, message: released.append(lock))
    master.line = Line(core.join_acebase(MASTER))
    holder, waiting = Worker(0, 1), Worker(1, 1)
    for worker in (holder, waiting):
        worker.line = Line(core.join_acebase(worker.id))
        worker.lock(worker.tids[0], "val", True, "transactNode")

    def read() -> list[str]:
        assert master.line
        texts = [text for text in master.line.read(ALL) if text.startswith("{")]
        for text in texts:
            master.hear(text, core.now)
        master.flush(ALL)
        return texts

    assert read() == [asked.text for each in (holder, waiting) for asked in each.history.values()]
    (lock,) = core.relay.locks(DATABASE).locks
    (request,) = core.relay.locks(DATABASE).requests
    assert (lock.holder, lock.id, request.worker) == (holder.id, 501, waiting.id)
    assert holder.line
    holder.line.process.is_lost(1000)
    assert read() == []
    assert core.relay.locks(DATABASE).locks == ()
    master.line.process.is_lost()
    master.line = Line(core.join_acebase(MASTER))
    assert read() == []
    assert released == []
    assert len(core.relay.locks(DATABASE).requests) == 1
    assert not core.join_acebase(holder.id).connection.closed
