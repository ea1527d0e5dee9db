"""Whether the relay is alive and ready."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from acebase_ipc.admin.health import (
    INTERVAL,
    KEPT,
    MAX_CANARY_AGE,
    RECENT,
    Canary,
    LoopLag,
    readiness,
)
from acebase_ipc.relay.relay import Relay
from acebase_ipc.testing import DATABASE
from tests.admin.relay import AdminRelay


def ready(relay: AdminRelay) -> tuple[int, Any]:
    """The status of ``/readyz``, and what is not right."""
    response = relay.ask("GET", "/readyz")
    answer = json.loads(response.text)
    assert answer["ready"] is (response.status == 200)
    failed = [
        name
        for name, check in answer["checks"].items()
        if not (check["ok"] if isinstance(check, dict) else check)
    ]
    return response.status, failed


def test_a_server_is_alive() -> None:
    with AdminRelay() as relay:
        response = relay.ask("GET", "/healthz")
    assert (response.status, response.text) == (200, "ok")


def test_a_server_is_ready_when_a_canary_message_has_arrived() -> None:
    with AdminRelay() as relay:
        assert ready(relay) == (503, ["canary"])
        relay.pass_time(1.5)
        assert ready(relay) == (200, [])


def test_a_server_that_drains_is_alive_but_not_ready() -> None:
    with AdminRelay() as relay:
        relay.pass_time(2)
        relay.do("drain", drain=True)
        assert ready(relay) == (503, ["not_draining"])
        assert relay.ask("GET", "/healthz").status == 200
        assert relay.get("/healthz").status == 200
        relay.do("drain", drain=False)
        assert ready(relay) == (200, [])


def test_a_server_whose_ports_are_closed_is_not_ready() -> None:
    with AdminRelay() as relay:
        relay.pass_time(2)
        relay.server.listeners[0].close()
        assert ready(relay) == (503, ["listening"])


def test_a_server_whose_router_is_stuck_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    with AdminRelay(expect_errors=True) as relay:
        relay.pass_time(2)
        assert ready(relay) == (200, [])
        router = relay.server._parts.relay.router
        monkeypatch.setattr(router, "receive", lambda sender, message: None)
        relay.pass_time(MAX_CANARY_AGE)
        assert ready(relay) == (200, [])
        relay.pass_time(2)
        assert ready(relay) == (503, ["canary"])
        monkeypatch.undo()
        relay.pass_time(2)
        assert ready(relay) == (200, [])


def test_a_server_whose_event_loop_was_late_is_not_ready_for_a_while() -> None:
    with AdminRelay() as relay:
        relay.pass_time(2, 0.25)
        relay.pass_time(1.5, 1.5)  # nothing is called in between
        assert ready(relay) == (503, ["loop_lag"])
        assert relay.see("status")["loop_lag"] == {"last": 1.25, "max": 1.25}
        relay.pass_time(9, 0.25)
        assert ready(relay) == (503, ["loop_lag"])
        relay.pass_time(2, 0.25)
        assert ready(relay) == (200, [])
        assert relay.see("status")["loop_lag"] == {"last": 0, "max": 1.25}


@pytest.mark.parametrize(
    ("lag", "age", "is_ready"),
    [
        (0.0, 0.0, True),
        (0.99, 10.0, True),
        (1.0, 0.0, False),
        (0.0, 10.1, False),
        (0.0, None, False),
    ],
)
def test_readiness_is_all_checks_together(lag: float, age: float | None, is_ready: bool) -> None:
    assert readiness(True, False, lag, age)["ready"] is is_ready
    assert readiness(False, False, lag, age)["ready"] is False
    assert readiness(True, True, lag, age)["ready"] is False


def test_lags_are_measured_and_forgotten_after_a_minute() -> None:
    clock = Clock()
    lag = LoopLag(clock, clock.seconds)
    assert (lag.last, lag.max, lag.recent) == (0, 0, 0)
    lag.start()
    clock.advance(INTERVAL + 0.5)
    assert (lag.last, lag.max, lag.recent) == (0.5, 0.5, 0.5)
    clock.pump([INTERVAL] * RECENT)
    assert (lag.last, lag.max, lag.recent) == (0, 0.5, 0)
    clock.pump([INTERVAL] * (KEPT - RECENT))
    assert lag.max == 0
    assert sum(lag.histogram.counts) == KEPT + 1
    assert lag.histogram.sum == 0.5
    lag.stop()
    assert clock.getDelayedCalls() == []


def test_the_canary_is_seen_by_nobody() -> None:
    with AdminRelay() as relay:
        relay.join("alice")
        before = relay.see("status")
        relay.pass_time(20)
        after = relay.see("status")
        assert ready(relay)[0] == 200
        for name in ("peers", "databases", "traffic", "connections", "locks"):
            assert after[name] == before[name]
        assert [each["name"] for each in relay.see("databases")["databases"]] == [DATABASE]
        assert [each["kind"] for each in relay.see("events")["events"]] == ["PeerJoined"]
        assert relay.ask("GET", "/api/v1/databases/").status == 404
        assert relay.get("//clients").status != 200


class Busy:
    """A rotation in which others have their turns."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], bool]] = []

    def do(self, step: Callable[[], bool]) -> None:
        self.steps.append(step)


def test_the_canary_waits_for_its_turn_as_peers_do() -> None:
    clock, busy = Clock(), Busy()
    canary = Canary(Relay(clock.seconds), busy, clock.seconds)  # type: ignore[arg-type]
    for _ in range(30):
        clock.advance(1)
        canary.tick(clock.seconds())
    assert canary.age is None
    (step,) = busy.steps
    assert step() is False
    assert canary.age == 0
    clock.advance(1)
    canary.tick(clock.seconds())
    assert len(busy.steps) == 2
    assert canary.age == 1
