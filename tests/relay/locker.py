"""The processes of a cluster as the npm package acebase runs them: a lock master, and workers.

They do nothing on their own: whoever owns them decides what they read, ask and answer, and
when their connections break. The locks are those of AceBase 1.29: one writer or many readers
for the whole database, whatever the path; requests of the same transaction always pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import count
from typing import Any

from tests.relay.core import MASTER, Process

MAX_PAYLOAD = 300
"""A process posts what is longer: UTF-16 code units."""

LOCK_TIMEOUT = 120.0
"""Seconds after which the master lets a granted lock expire."""

ASKED = "ask"
"""The beginning of the id of each worker's request."""

Message = dict[str, Any]


def write(message: Message) -> str:
    """*message* as ``JSON.stringify`` writes it."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False)


def parent(path: str) -> str:
    """The path that contains *path*."""
    if path.endswith("]"):
        return path[: path.rindex("[")]
    return path.rpartition("/")[0]


class Line:
    """A process's end of its connection, which it reads at its own pace.

    :ivar is_read: whether it takes what it is sent.
    :ivar asked: the ids of the requests that have come over it.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.is_read = True
        self.asked: set[str] = set()
        self._read = 0

    @property
    def is_open(self) -> bool:
        connection = self.process.connection
        return connection.closed is None and not connection.aborted

    def say(self, text: str) -> bool:
        """Send *text*.

        :returns: whether it has arrived; otherwise it is lost.
        """
        if self.is_open:
            (self.process.posts if len(text) > MAX_PAYLOAD else self.process.says)(text)
        return self.is_open

    def read(self, most: int) -> list[str]:
        """The next messages, at most so many."""
        if not self.is_read:
            return []
        self.process.connection.flush()
        texts = self.unread[:most]
        self._read += len(texts)
        return texts

    @property
    def unread(self) -> list[str]:
        """What is on its way to the process, and lost with the connection."""
        return self.process.connection.written[self._read :]

    def stop_reading(self, unsent: int) -> None:
        self.is_read = False
        self.process.stops_reading(unsent)

    def read_on(self) -> None:
        self.is_read = True
        self.process.reads_on()


class State(Enum):
    """The state of a lock."""

    PENDING = auto()
    LOCKED = auto()
    EXPIRED = auto()


UNKNOWN_LOCK = "Cannot read properties of undefined (reading 'lock')"
"""The reason with which AceBase's master refuses what is about a lock that it does not have."""


@dataclass(eq=False)
class Lock:
    """A lock at the master.

    :ivar owner: the process in whose name it was requested; the master itself has none.
    :ivar request: the request that is answered when it is granted.
    """

    id: int
    owner: str
    request: str
    tid: str
    path: str
    write: bool
    comment: str
    has_priority: bool = False
    state: State = State.PENDING
    expires: float = 0.0


class Master:
    """The process that grants locks; it keeps its state when its connection breaks.

    :ivar line: its connection; ``None`` while it has none.
    :ivar locks: all locks, in the order of their requests.
    :ivar outbox: what it has sent and has not arrived at the relay.
    :ivar asked: the requests, other than those about locks, that it has not answered.
    :ivar highest: the highest lock id that has arrived at the relay.
    :ivar expired: the transactions that had a lock which expired.
    :param last_id: the number of locks that it has taken before.
    :param moves_by_queue: whether a lock gets a new id when its holder moves it to the parent.
    :param released: called with each lock that is released and the message that asks for it.
    """

    def __init__(
        self, last_id: int, moves_by_queue: bool, released: Callable[[Lock, Message], object]
    ) -> None:
        self.line: Line | None = None
        self.locks: list[Lock] = []
        self.outbox: list[str] = []
        self.asked: list[Message] = []
        self.highest = 0
        self.expired: set[str] = set()
        self._last_id = last_id
        self._moves_by_queue = moves_by_queue
        self._released = released

    def takes_locks(self, many: int) -> None:
        """Take and release locks of its own, which nobody else learns of."""
        self._last_id += many

    def lock(
        self, now: float, tid: str, path: str, write: bool, owner: str = "", request: str = ""
    ) -> Lock:
        """Request a lock, for itself if there is no *owner*."""
        lock = self._add(owner, request, tid, path, write, "")
        self._process(now)
        return lock

    def unlock(self, lock: Lock, now: float) -> None:
        self.locks.remove(lock)
        self._process(now)

    def expire(self, now: float) -> None:
        """Let the locks expire that were held too long."""
        for lock in self.locks:
            if lock.state is State.LOCKED and lock.expires <= now:
                lock.state = State.EXPIRED
                self.expired.add(lock.tid)
        self._process(now)

    def hear(self, text: str, now: float) -> None:
        """Process a message, if it is a request."""
        if not text.startswith("{"):
            return
        message = json.loads(text)
        kind = message["type"]
        if kind in ("lock-request", "unlock-request", "move-lock-request", "request"):
            assert message["to"] == MASTER
            assert len(message["id"]) == 24
        match kind:
            case "lock-request":
                self._hear_lock(message, now)
            case "unlock-request":
                self._hear_unlock(message, now)
            case "move-lock-request":
                self._hear_move(message, now)
            case "request":
                self.asked.append(message)

    def answer(self, which: int) -> None:
        """Answer one of the requests that are not about locks."""
        message = self.asked.pop(which)
        head = {"type": "result", "id": message["id"], "ok": True, "from": MASTER}
        to, data = message["from"], message["data"]
        self.outbox.append(f"to:{to};" + write({**head, "to": to, "data": data}))

    def flush(self, most: int) -> int:
        """Let what it has sent arrive at the relay, at most so many; returns how many."""
        arrived = 0
        while arrived < most and self.outbox and self.line and self.line.is_open:
            text = self.outbox.pop(0)
            self.highest = max(self.highest, granted_id(text))
            self.line.say(text)
            arrived += 1
        return arrived

    def _hear_lock(self, message: Message, now: float) -> None:
        data = message["data"]
        assert data.keys() == {"path", "tid", "write", "comment"}
        if any(each.state is State.EXPIRED and each.tid == data["tid"] for each in self.locks):
            self._fail("lock-result", message, f"lock on tid {data['tid']} has expired")
            return
        self._add(message["from"], message["id"], **data)
        self._process(now)

    def _hear_unlock(self, message: Message, now: float) -> None:
        lock = self._granted(message)
        if not lock:
            self._fail("unlock-result", message, UNKNOWN_LOCK)
            return
        self._released(lock, message)
        self.unlock(lock, now)
        self._send("unlock-result", message["id"], message["from"], {"id": lock.id})

    def _hear_move(self, message: Message, now: float) -> None:
        lock = self._granted(message)
        if not lock:
            self._fail("lock-result", message, UNKNOWN_LOCK)
            return
        lock.request = message["id"]
        by_queue = self._moves_by_queue and message["id"].startswith(ASKED)
        if self._is_allowed(lock) and not by_queue:
            lock.path = parent(lock.path)
            self._send_lock(lock, message["from"])
            return
        self.locks.remove(lock)
        path = parent(lock.path)
        self._add(lock.owner, lock.request, lock.tid, path, lock.write, lock.comment, True)
        self._process(now)

    def _granted(self, message: Message) -> Lock | None:
        found = (each for each in self.locks if each.id == message["data"]["id"])
        return next((each for each in found if each.state is not State.PENDING), None)

    def _add(
        self,
        owner: str,
        request: str,
        tid: str,
        path: str,
        write: bool,
        comment: str,
        has_priority: bool = False,
    ) -> Lock:
        self._last_id += 1
        lock = Lock(self._last_id, owner, request, tid, path, write, comment, has_priority)
        self.locks.append(lock)
        return lock

    def _is_allowed(self, lock: Lock) -> bool:
        return not any(
            other.tid != lock.tid and other.state is State.LOCKED and (lock.write or other.write)
            for other in self.locks
        )

    def _process(self, now: float) -> None:
        """Grant the pending locks that can be granted, in order."""
        pending = [each for each in self.locks if each.state is State.PENDING]
        for lock in sorted(pending, key=lambda each: not each.has_priority):
            if self._is_allowed(lock):
                lock.state, lock.expires = State.LOCKED, now + LOCK_TIMEOUT
                if lock.owner:
                    self._send_lock(lock, lock.owner)

    def _send_lock(self, lock: Lock, to: str) -> None:
        data = {"id": lock.id, "path": lock.path, "tid": lock.tid, "write": lock.write}
        data |= {"expires": 1_600_000_000_000 + round(lock.expires * 1000), "comment": lock.comment}
        self._send("lock-result", lock.request, to, data)

    def _send(self, kind: str, request: str, to: str, data: Message) -> None:
        head = {"type": kind, "id": request, "from": MASTER, "to": to}
        self.outbox.append(f"to:{to};" + write({**head, "ok": True, "data": data}))

    def _fail(self, kind: str, message: Message, reason: str) -> None:
        head = {"type": kind, "id": message["id"], "from": MASTER, "to": message["from"]}
        self.outbox.append(
            f"to:{message['from']};" + write({**head, "ok": False, "reason": reason})
        )


def granted_id(text: str) -> int:
    """The lock id that an answer of the master tells; 0 if it tells none."""
    message = json.loads(text.partition(";")[2])
    is_grant = message["type"] == "lock-result" and message["ok"]
    return int(message["data"]["id"]) if is_grant else 0


@dataclass(eq=False)
class Held:
    """A lock that a worker believes to hold.

    :ivar expires: until when, in milliseconds since 1970.
    :ivar is_moving: whether it has asked for its move to the parent.
    """

    id: int
    tid: str
    path: str
    write: bool
    comment: str
    expires: int
    is_moving: bool = False


@dataclass(eq=False)
class Asked:
    """A request that a worker has not been answered.

    :ivar held: the lock that it is about.
    :ivar is_lost: whether it, or its answer, was lost with the worker's connection.
    :ivar free: the worker's, when it was made.
    """

    kind: str
    text: str
    data: Message
    held: Held | None = None
    is_lost: bool = False
    free: dict[str, int] = field(default_factory=dict)

    @property
    def is_about_lock(self) -> bool:
        return self.kind != "request"


DONE = {"ok": True}
"""What the master answers when there is nothing to tell."""

ANSWERS = {
    "lock-request": "lock-result",
    "move-lock-request": "lock-result",
    "unlock-request": "unlock-result",
    "request": "result",
}


class Worker:
    """A process that asks the master.

    :ivar line: its connection; ``None`` while it has none.
    :ivar lives: whether it runs.
    :ivar tids: its transactions.
    :ivar held: the locks that it believes to hold.
    :ivar asked: the requests that wait for an answer, by id.
    :ivar history: all requests, by id.
    :ivar masters: how many masters have arrived.
    :ivar free: the transactions that have no lock any more, and wait for none; of each, how many
        masters had arrived when it released the last.
    """

    def __init__(self, serial: int, masters: int) -> None:
        self.id = f"w{serial:023}"
        self.line: Line | None = None
        self.lives = True
        self.tids = [f"t{serial:011}x{each:011}" for each in range(2)]
        self.held: list[Held] = []
        self.asked: dict[str, Asked] = {}
        self.history: dict[str, Asked] = {}
        self.masters = masters
        self.free: dict[str, int] = {}
        self._serials = count(1)
        self._serial = serial

    def __repr__(self) -> str:
        return f"<Worker {self._serial}>"

    @property
    def is_hung(self) -> bool:
        """Whether it waits for an answer that cannot come any more."""
        return any(each.is_lost for each in self.asked.values())

    def ask(self, kind: str, data: Message, held: Held | None = None) -> Asked:
        """Send a request to the master; it is lost if there is no connection."""
        request = f"{ASKED}{self._serial:09}x{next(self._serials):011}"
        message = {"type": kind, "id": request, "from": self.id, "to": MASTER, "data": data}
        if kind == "request":
            message = {"type": kind, "from": self.id, "to": MASTER, "id": request, "data": data}
        asked = Asked(kind, write(message), data, held, free=dict(self.free))
        self.asked[request] = self.history[request] = asked
        asked.is_lost = not self.say(f"to:{MASTER};{asked.text}")
        return asked

    def say(self, text: str) -> bool:
        """Send *text*; it is lost if there is no connection.

        :returns: whether there is one.
        """
        return self.line is not None and self.line.say(text)

    def lock(self, tid: str, path: str, write: bool, comment: str) -> None:
        self.free.pop(tid, None)
        self.ask("lock-request", {"path": path, "tid": tid, "write": write, "comment": comment})

    def release(self, held: Held) -> None:
        self.held.remove(held)
        asked = self.ask("unlock-request", {"id": held.id}, held)
        needed = [each.tid for each in self.held]
        needed += [each.data["tid"] for each in self.asked.values() if "tid" in each.data]
        if not asked.is_lost and held.tid not in needed:
            self.free[held.tid] = self.masters

    def move(self, held: Held) -> None:
        held.is_moving = True
        self.ask("move-lock-request", {"id": held.id, "move_to": "parent"}, held)

    def lose(self) -> None:
        """Lose the connection, and what is on its way to here."""
        assert self.line
        for text in self.line.unread:
            if text.startswith("{"):
                message = json.loads(text)
                if message["type"] in ANSWERS.values():
                    assert message["id"] in self.asked, f"not asked, or already answered: {text}"
                    self.asked[message["id"]].is_lost = True
        self.line = None

    def hear(self, text: str) -> Asked | None:
        """Process a message.

        :returns: the request that it answers, if it answers one with a failure.
        """
        if not text.startswith("{"):
            return None
        message = json.loads(text)
        kind = message["type"]
        assert kind not in ANSWERS, f"a worker is asked: {text}"
        if kind not in ANSWERS.values():
            return None
        assert message["id"] in self.asked, f"it ends the process: {text}"
        asked = self.asked.pop(message["id"])
        assert (message["from"], message["to"]) == (MASTER, self.id), text
        assert kind == ANSWERS[asked.kind], text
        if not message["ok"]:
            if asked.kind == "move-lock-request" and asked.held:
                self.held.remove(asked.held)
            return asked
        self._settle(asked, message["data"])
        return None

    def _settle(self, asked: Asked, data: Message) -> None:
        match asked.kind:
            case "lock-request":
                got = {name: data[name] for name in asked.data}
                assert got == asked.data, (asked.data, data)
                self._hold(data)
            case "move-lock-request":
                assert asked.held
                self.held.remove(asked.held)
                assert data["tid"] == asked.held.tid
                assert data["write"] == asked.held.write
                self._hold(data)
            case "unlock-request":
                assert data == asked.data, (asked.data, data)
            case "request":
                assert data in (asked.data, DONE), (asked.data, data)

    def _hold(self, data: Message) -> None:
        known = [each.id for each in self.held]
        assert data["id"] not in known, f"it knows another lock as {data['id']}: {known}"
        wanted = ("id", "tid", "path", "write", "comment", "expires")
        self.held.append(Held(**{name: data[name] for name in wanted}))
