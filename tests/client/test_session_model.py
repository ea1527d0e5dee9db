"""Clients lose nothing that they are not told of, whatever happens to their connections.

An account of every message, while connections are cut at any byte, clients stay away for too long
or too much waits for them, and the relay is restarted with and without its state, or handed over.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from twisted.internet.defer import Deferred

from acebase_ipc import Dialect
from acebase_ipc.client.session import GapReason
from acebase_ipc.server.quiet_stop import INTERVAL
from acebase_ipc.testing import MemoryRelay
from tests.clients import RelayNetwork
from tests.cutting import NEVER, CuttingEndpoint, Member, check
from tests.handing_over import Successors

NAMES = ["alice", "bobby", "carol"]
SESSION_TIMEOUT = 15
MAX_SESSION_QUEUE = 20_000
RETRY = 0.125
STOP_SECONDS = 8.0

_T = TypeVar("_T")

names = st.sampled_from(NAMES)
some_bytes = st.integers(0, 1500) | st.just(NEVER)


class Stage:
    """A relay, its successors, and three clients.

    :param keeps_state: whether relays have a state directory; otherwise they are handed over.
    :ivar members: the clients by name.
    """

    def __init__(self, keeps_state: bool, resume: bool = True) -> None:
        self._patch = pytest.MonkeyPatch()
        self._directory = Path(tempfile.mkdtemp())
        self.keeps_state = keeps_state
        options: dict[str, Any] = {
            "max_payload": 100,
            "session_timeout": SESSION_TIMEOUT,
            "max_session_queue": MAX_SESSION_QUEUE,
            "introductions": False,
        }
        if keeps_state:
            options["state_dir"] = str(self._directory / "state")
        self._relays = Successors(self._patch, **options)
        self.network = RelayNetwork(self._relays.relay)
        self.endpoints = {each: CuttingEndpoint(self.network) for each in NAMES}
        self.members = {
            each: Member(
                self.network.client(
                    each,
                    endpoint=self.endpoints[each],
                    retry_policy=lambda failures: RETRY,
                    dialect=Dialect.ACEBASE if each == "carol" else Dialect.DOCUMENTED,
                    resume=resume,
                )
            )
            for each in NAMES
        }
        self.network.start(*[each.client for each in self.members.values()])

    def say(self, name: str, to: str | None, padding: str, confirm: bool) -> Deferred[None]:
        """Let a client send a message."""
        return self.members[name].send(to, padding, confirm)

    def restart(self, with_state: bool) -> None:
        """Stop the relay, and start another one."""
        if with_state and not self.keeps_state:
            self._relays.hand_over()
            self.network.relay = self._relays.relay
            self.network.settle()
            return
        self.network.refuses = True
        stopped: list[object] = []
        self.network.relay.stop().addBoth(stopped.append)
        waited = 0.0
        while not stopped and waited < STOP_SECONDS:
            self.network.pass_time(10 * INTERVAL, INTERVAL)
            waited += 10 * INTERVAL
        assert stopped == [None]
        if not with_state and self.keeps_state:
            shutil.rmtree(self._directory / "state")
        relay = MemoryRelay(reactor=self.network.relay.reactor, **self._relays.options)
        self.network.relay = self._relays.relay = relay
        self.network.refuses = False

    def settle(self) -> list[str]:
        """Let nothing happen any more until all has arrived; returns what is wrong then."""
        for each in self.endpoints.values():
            each.is_away = False
            each.limits = lambda: (NEVER, NEVER)
            each.cut_after(NEVER, NEVER)
        self.network.pass_time(2 * SESSION_TIMEOUT, 1)
        while self._is_busy():
            self.network.pass_time(10, 1)
        return check(list(self.members.values()))

    def _is_busy(self) -> bool:
        clients = [each.client._traffic for each in self.members.values()]
        return any(
            len(each._sender._outbox)
            or each._sender._kept
            or each._inbox._waiting
            or each._inbox._downloading
            for each in clients
        )

    def close(self) -> None:
        """Clean up."""
        self._relays.close()
        self._patch.undo()
        shutil.rmtree(self._directory, ignore_errors=True)


class SessionMachine(RuleBasedStateMachine):
    """Lets anything happen, and accounts for all messages in the end."""

    @initialize(keeps_state=st.booleans())
    def begin(self, keeps_state: bool) -> None:
        self.stage = Stage(keeps_state)

    @rule(
        name=names,
        to=st.sampled_from([None, *NAMES]),
        padding=st.sampled_from(["", "", "x" * 60, "語" * 90, "y" * 400]),
        confirm=st.booleans(),
        times=st.sampled_from([1, 3, 100]),
    )
    def send(self, name: str, to: str | None, padding: str, confirm: bool, times: int) -> None:
        for _ in range(times):
            self.stage.say(name, None if to == name else to, padding, confirm)

    @rule(name=names)
    def cut(self, name: str) -> None:
        self.stage.endpoints[name].cut()

    @rule(name=names, up=some_bytes, down=some_bytes, seed=st.integers(0, 1 << 20))
    def cut_often(self, name: str, up: int, down: int, seed: int) -> None:
        """Each of the next connections breaks after some bytes."""
        generator = random.Random(seed)
        endpoint = self.stage.endpoints[name]
        endpoint.cut_after(up, down)
        endpoint.limits = lambda: (generator.randrange(3000), generator.randrange(3000))

    @rule(name=names)
    def cut_no_more(self, name: str) -> None:
        self.stage.endpoints[name].limits = lambda: (NEVER, NEVER)

    @rule(name=names, seconds=st.sampled_from([1, SESSION_TIMEOUT - 1, SESSION_TIMEOUT + 2]))
    def be_away(self, name: str, seconds: float) -> None:
        endpoint = self.stage.endpoints[name]
        endpoint.is_away = True
        endpoint.cut()
        self.pass_time(seconds)
        endpoint.is_away = False

    @rule(name=names, by=names)
    def be_away_while_much_is_sent(self, name: str, by: str) -> None:
        endpoint = self.stage.endpoints[name]
        endpoint.is_away = True
        endpoint.cut()
        if by != name:
            self.send(by, name, "x" * 60, False, 100)
        self.pass_time(2)
        endpoint.is_away = False

    @rule(seconds=st.sampled_from([0.0625, 0.25, 1]))
    def pass_time(self, seconds: float) -> None:
        self.stage.network.pass_time(seconds, max(0.0625, seconds / 10))

    @rule(with_state=st.sampled_from([True, True, False]))
    def restart(self, with_state: bool) -> None:
        self.stage.restart(with_state)

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        try:
            assert self.stage.settle() == []
            for member in self.stage.members.values():
                for each in member.gaps:
                    event(each.reason.name)
        finally:
            self.stage.close()


TestSessions = SessionMachine.TestCase
TestSessions.settings = settings(
    settings.default, max_examples=10, stateful_step_count=15, deadline=None
)


def stages(do: Callable[[Stage], object], **options: bool) -> Stage:
    """Return a stage on which something was done, when all has arrived."""
    stage = Stage(**options)
    try:
        stage.network.settle()
        do(stage)
        assert stage.settle() == []
    finally:
        stage.close()
    return stage


@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_lost_by_cuts_alone(seed: int) -> None:
    generator = random.Random(seed)

    def do(stage: Stage) -> None:
        for each in stage.endpoints.values():
            each.limits = lambda: (generator.randrange(900), generator.randrange(900))
            each.cut()
        for _ in range(40):
            name = generator.choice(NAMES)
            to = generator.choice([None, *(each for each in NAMES if each != name)])
            for _ in range(generator.randrange(5)):
                stage.say(name, to, generator.choice(["", "x" * 60]), generator.random() < 0.3)
            stage.network.pass_time(0.125, 0.0625)

    stage = stages(do, keeps_state=False)
    assert sum(each.cuts for each in stage.endpoints.values()) > 20
    assert [each.gaps for each in stage.members.values()] == [[], [], []]


def test_an_account_finds_what_is_lost() -> None:
    """Without sessions messages are lost, and the account says so unless clients are told."""

    def lose(stage: Stage) -> None:
        endpoint = stage.endpoints["bobby"]
        endpoint.is_away = True
        endpoint.cut()
        stage.say("alice", "bobby", "", False)
        stage.network.settle()
        endpoint.is_away = False

    stage = stages(lose, keeps_state=False, resume=False)
    alice, bobby = stage.members["alice"], stage.members["bobby"]
    assert [each.reason for each in bobby.gaps] == [GapReason.NO_SESSION]
    bobby.received.clear()
    assert check([alice, bobby]) == ["alice -> bobby: 0 is missing"]
    bobby.received = [("alice", 0), ("alice", 0)]
    assert check([alice, bobby]) == ["alice -> bobby: 0 after 0"]
