"""The soak's members know what they may have lost when the relay restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.soak.ledger import ALL, UNSETTLED, Ledger
from tests.soak.link import Link, Port
from tests.soak.member import RESTARTED_TIMEOUT, Member, Scene
from tests.soak.run import Soak
from tests.soak.troubles import RESTART, come_back, freeze, leave

_sleep = asyncio.sleep


@dataclass(eq=False)
class MemoryLink:
    """A connection that the relay has welcomed."""

    alive: bool = True
    answers: bool = True
    close_code: int | None = None
    status: int = 101
    has_rest: bool = True
    pings: int = 0
    pongs: int = 0

    def send(self, message: str) -> None:
        self.pongs += message == "ping"

    def stop_reading(self) -> None:
        """What the relay sends waits."""

    def resume_reading(self) -> None:
        self.end_as_at_a_restart()

    def end_as_at_a_restart(self) -> None:
        self.alive, self.close_code = False, RESTART

    def cut(self) -> None:
        self.alive = False

    async def leave(self) -> None:
        self.alive = False


class LeftInARestart(MemoryLink):
    """A connection whose two ends close at the same time."""

    async def leave(self, code: int = 1000) -> None:
        self.end_as_at_a_restart()


class Stage:
    """A database with two members, whose messages do not arrive.

    :ivar now: in monotonic seconds.
    :ivar is_open: whether the relay listens.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, acebase: bool = True) -> None:
        self.now = 100.0
        self.is_open = True
        for name in ("member", "run", "troubles"):
            monkeypatch.setattr(f"tests.soak.{name}.monotonic", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", lambda _: _sleep(0))
        monkeypatch.setattr(Link, "open", self._open)
        self.scene = Scene(1, (Port(1), Port(2)), Ledger())
        self.member = Member(self.scene, "db", 1, acebase)
        self.other = Member(self.scene, "db", 2, acebase=True)
        for each in (self.member, self.other):
            link: Any = MemoryLink()
            each._welcomed(link)
            each.receiver.presences[-1].until = self.pass_time()

    async def _open(self, port: object, target: str, receive: Any, source: str) -> Any:
        if not self.is_open:
            raise ConnectionRefusedError
        link: Any = LeftInARestart()
        receive.__self__._welcomed(link)
        return link

    def pass_time(self, seconds: float = 1.0) -> float:
        self.now += seconds
        return self.now

    def send(self, sender: Member, addressee: str) -> None:
        """Send a message that the relay processes, and delivers to nobody."""
        self.pass_time()
        sender.send(addressee, 10)
        sender._unsettled[-1].settled = self.pass_time()

    def end_all(self) -> None:
        """End all connections as a relay does that restarts."""
        for each in (self.member, self.other):
            link: Any = each.link
            link.end_as_at_a_restart()

    def come_back(self, member: Member) -> None:
        """Let a member come back, and stay."""
        self.pass_time()
        asyncio.run(come_back(member))
        member.receiver.presences[-1].until = UNSETTLED

    def lost(self) -> int:
        self.scene.ledger.check()
        return self.scene.ledger.wrong["lost"]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.fixture(params=[leave, freeze])
def leave_in_a_restart(
    request: pytest.FixtureRequest, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Lets the member leave in one of these ways, while the relay closes all connections."""
    action: Callable[[Member], Awaitable[None]] = request.param
    monkeypatch.setattr(Member, "noticed", lambda _: _sleep(0))

    def perform() -> None:
        link: Any = LeftInARestart()
        stage.member.link, stage.is_open = link, False
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(action(stage.member))  # type: ignore[arg-type]
        stage.is_open = True

    return perform


@pytest.mark.parametrize("addressee", ["it", ALL])
def test_a_member_that_resumes_its_session_must_not_lose_a_message(
    stage: Stage, addressee: str
) -> None:
    link: Any = stage.member.link
    link.end_as_at_a_restart()
    stage.send(stage.other, addressee if addressee == ALL else stage.member.id)
    stage.come_back(stage.member)
    assert stage.lost() == 1


def test_a_member_that_comes_back_too_late_may_lose_messages(stage: Stage) -> None:
    stage.end_all()
    stage.send(stage.other, stage.member.id)
    stage.pass_time(RESTARTED_TIMEOUT)
    stage.come_back(stage.member)
    assert stage.lost() == 0


def test_a_member_that_leaves_while_the_relay_restarts_resumes_no_session(
    stage: Stage, leave_in_a_restart: Callable[[], None]
) -> None:
    leave_in_a_restart()
    stage.send(stage.other, ALL)
    stage.come_back(stage.member)
    assert stage.lost() == 0


def test_what_waits_of_a_member_that_leaves_while_the_relay_restarts_may_be_lost(
    stage: Stage, leave_in_a_restart: Callable[[], None]
) -> None:
    stage.end_all()
    stage.send(stage.member, stage.other.id)
    leave_in_a_restart()
    stage.come_back(stage.member)
    stage.come_back(stage.other)
    assert stage.lost() == 0


class NoRelay:
    """The numbers of a relay that are watched during a soak."""

    def rss(self) -> int:
        return 0

    fds = rss


def test_what_waits_of_a_documented_member_may_be_lost_also_in_the_last_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch, acebase=False)
    stage.end_all()
    stage.send(stage.member, stage.other.id)
    relay: Any = NoRelay()
    soak = Soak(relay, stage.scene, 0, None)
    stage.scene.members, soak.members = {"db": [stage.member, stage.other]}, [stage.member]
    asyncio.run(soak._provoke())
    stage.come_back(stage.other)
    assert stage.lost() == 0
