"""Usual messages take a short way: what they cause is what the general way does."""

from __future__ import annotations

import re
import secrets
from random import Random
from typing import Any

import pytest

from acebase_ipc.errors import IPCError
from acebase_ipc.relay.lock_sessions import OWN_LOCK_IDS
from acebase_ipc.relay.short_way import ShortWay
from tests.relay.core import MASTER, Core, Process, bye, hello
from tests.relay.locks import answer, body_of, grant, lock, move, released, to_master, unlock

WORKERS = (f"{1:024}", 'wé"\\x')
IDS = (*(f"r{number:023}" for number in range(4)), "short", "x" * 40)
LOCK_IDS = (1, 2, 99, OWN_LOCK_IDS, OWN_LOCK_IDS + 1)

Step = tuple[Any, ...]


def steps(random: Random) -> list[Step]:
    """What happens to a cluster, in this order."""
    made: list[Step] = [("joins", each) for each in (MASTER, *WORKERS)]
    asked: list[str] = []
    for _ in range(random.randrange(10, 50)):
        step = _step(random, asked)
        if made[-1][:2] == step[:2] and step[0] == "says" and random.random() < 0.7:
            made[-1] += step[2:]  # they arrive together
        else:
            made.append(step)
    return made


def _step(random: Random, asked: list[str]) -> Step:
    worker, request_id = random.choice(WORKERS), random.choice(IDS)
    anybody, lock_id = random.choice((MASTER, *WORKERS)), random.choice(LOCK_IDS)
    kind = random.choices(
        ("asks", "answers", "says", "lost", "joins", "full", "reads", "waits", "watched"),
        (40, 20, 9, 4, 6, 3, 5, 8, 4),
    )[0]
    match kind:
        case "asks":
            made = random.choice(
                [
                    lock(worker, request_id, path=random.choice(("a", "b/c" * 400, "c" * 4100))),
                    unlock(worker, request_id, lock_id),
                    unlock(worker, request_id, lock_id).replace("}}", ',"more":1}}'),
                    unlock(worker, request_id, lock_id).replace('{"id":', '{"id": '),
                    move(worker, request_id, lock_id),
                    to_master(worker, "request", {"type": "x"}, request_id),
                    lock(WORKERS[0], request_id),  # perhaps in another's name
                ]
            )
            asked.append(body_of(made))
            return "says", worker, made
        case "answers" if asked:
            request = random.choice(asked)
            given = [answer(request, reason="no"), answer(request, {"ok": True})]
            if "lock" in request:
                given.append(grant(request, lock_id))
            if '"data":{"id"' in request.replace(" ", ""):
                given.append(released(request))
            return "says", MASTER, random.choice(given)
        case "says" | "answers":
            sender = random.choice((worker, worker, MASTER))
            to = random.choice(("", "to:", "to:;", f"to:{MASTER};", f"to:{anybody};"))
            bodies = ("", "{", "x", "ping", '{"a":1}', bye(worker), bye(sender), hello(sender))
            event = (
                f'{{"type":"event","from":"{sender}","data":"{"x" * random.choice((1, 2000))}"}}'
            )
            return "says", sender, to + random.choice((*bodies, event, event, event))
        case "lost":
            return kind, anybody, random.choice((None, 1000, 1006))
        case "waits":
            return kind, random.choice((0.5, 1, 2, 16))
        case "watched":
            return kind, random.random() < 0.5
    return kind, anybody


class Cluster:
    """What happens to a cluster and what comes of it."""

    def __init__(self, master_warmup: float, lock_sessions: bool) -> None:
        self.core = Core(
            introduce=False,
            lock_sessions=lock_sessions,
            max_payload=4000,
            master_warmup=master_warmup,
        )
        self.processes: dict[str, Process] = {}
        self.watched: list[Any] = []

    def follow(self, step: Step) -> None:
        kind, *rest = step
        router = self.core.relay.router
        if kind == "waits":
            self.core.wait(*rest)
        elif kind == "watched":
            router.watch = (lambda *told: self.watched.append(told[1:])) if rest[0] else None
        elif kind == "joins":
            if not self._is_there(rest[0]):
                self.processes[rest[0]] = self.core.join_acebase(rest[0])
        elif self._is_there(rest[0]):
            process = self.processes[rest[0]]
            acts: dict[str, Any] = {
                "says": process.says,
                "lost": process.is_lost,
                "full": process.stops_reading,
                "reads": process.reads_on,
            }
            acts[kind](*rest[1:])

    def _is_there(self, name: str) -> bool:
        process = self.processes.get(name)
        return process is not None and process.peer.connection is process.connection

    def state(self) -> list[Any]:
        """All that can be seen of the relay."""
        seen: list[Any] = [self.core.relay.memory.used, self.core.reports, self.watched]
        for database in self.core.relay.registry.databases.values():
            for peer in database.peers.values():
                seen += [peer.client_id, peer.traffic.received, peer.traffic.received_bytes]
                account = peer.account
                if account is not None:
                    seen += [account.requests, account.granted, account.answered, account.large]
                    seen.append(account.memory)
                    for lock_id, (body, since, cover) in account.own.items():
                        seen += [lock_id, body, since, cover.lock_id, cover.open, cover.is_kept]
        seen += [self.core.relay.lock_waits.counts, self.core.relay.answer_times.counts]
        return seen


def outcome(made: list[Step], master_warmup: float, lock_sessions: bool) -> str:
    cluster = Cluster(master_warmup, lock_sessions)
    told: list[Any] = []
    for step in made:
        try:
            cluster.follow(step)
        except IPCError as refusal:
            told.append(repr(refusal))
        told += [(name, each.hears()) for name, each in cluster.processes.items()]
    # The relay's own requests begin with a number that is different in each process.
    return re.sub("relay-[0-9a-f]{8}", "relay", repr((told, cluster.state())))


@pytest.mark.parametrize("lock_sessions", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_the_short_way_does_what_the_general_way_does(
    monkeypatch: pytest.MonkeyPatch, seed: int, lock_sessions: bool
) -> None:
    monkeypatch.setattr(secrets, "randbelow", lambda _: 0)  # the first id of the relay's own locks
    random = Random(seed)
    made = [steps(random) for _ in range(30)]
    warmup = 1.0 * (seed % 2)
    short = [outcome(each, warmup, lock_sessions) for each in made]
    for name in ("ask", "answer"):
        monkeypatch.setattr(ShortWay, name, lambda *_: 0)
    for each, expected in zip(made, short, strict=True):
        assert outcome(each, warmup, lock_sessions) == expected, each
