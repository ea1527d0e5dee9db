"""The attack bench: what it measures of the others, what it sends, and its verdicts."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from bench.attacks import __main__ as command
from bench.attacks.latency import Latency
from bench.attacks.measurement import MIB, Attack, Outcome, Stage, Tally
from bench.attacks.peers import PING, PONG, frame
from bench.attacks.pump import Pump, Refill, nothing

TURN = 0.02
"""Seconds in which a pump has written and read all that is possible at once."""


def test_latency() -> None:
    """Median, 99th percentile and maximum, in milliseconds."""
    latency = Latency.of([each / 1000 for each in range(1, 201)])
    assert (latency.median, latency.p99, latency.maximum, latency.count) == (101, 199, 200, 200)
    assert str(Latency.of([0.0015])) == "p50 1.5 ms, p99 1.5 ms, max 1.5 ms"


# ---- Verdicts


def do_nothing(stage: Stage) -> None:
    """The attack of these tests."""


ATTACK = Attack("pings", do_nothing, 10, 1, memory=16)
QUIET = Latency(0.2, 1.0, 2.0, 100)
WITHSTOOD = Outcome(10, Tally(), QUIET, replace(QUIET, p99=50.0), 16 * MIB, 1 * MIB)


def test_an_attack_without_effect() -> None:
    """What is just within the bounds is withstood."""
    assert WITHSTOOD.faults(ATTACK) == []
    assert list(WITHSTOOD.report(ATTACK)) == [
        "pings: 10 connections, 0 ended",
        "    memory: peak +16.0 MiB, at the end +1.0 MiB",
        "    others before: p50 0.2 ms, p99 1.0 ms, max 2.0 ms",
        "    others during: p50 0.2 ms, p99 50.0 ms, max 2.0 ms",
        "    ok",
    ]


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (replace(WITHSTOOD, during=replace(QUIET, p99=51.0)), "p99 of the others 51 ms"),
        (replace(WITHSTOOD, peak=17 * MIB), r"memory \+17 MiB, more than 16"),
        (replace(WITHSTOOD, tally=Tally(stuck=3)), "3 of 10 connections do not end"),
    ],
)
def test_an_attack_with_effect(outcome: Outcome, fault: str) -> None:
    """Each bound that is exceeded is in the last line."""
    *_, last = outcome.report(ATTACK)
    assert last.startswith("    FAULT: ")
    with pytest.raises(AssertionError, match=fault):
        assert last == ""


# ---- The pump


class FarEnds:
    """The other ends of a pump's connections, one after the other as they are opened."""

    def __init__(self, stack: ExitStack) -> None:
        self.opened: list[socket.socket] = []
        self._stack = stack

    def connect(self, number: int) -> socket.socket:
        """A connection for the pump."""
        near, far = socket.socketpair()
        far.setblocking(False)
        self.opened.append(self._stack.enter_context(far))
        return near


@contextmanager
def pumping(
    refill: Refill = nothing, *, count: int = 1, reads: bool = True
) -> Iterator[tuple[Pump, list[socket.socket]]]:
    """A pump and the other ends of its connections."""
    with ExitStack() as stack:
        ends = FarEnds(stack)
        pump = stack.enter_context(Pump(ends.connect, refill, reads=reads))
        pump.open(count)
        yield pump, ends.opened


def test_a_pump_repeats_what_each_connection_sends() -> None:
    """A piece that was written in part goes on where it stopped."""
    pieces = [b"abc" * 1000, b"0123456789" * 1000]
    received = [b"", b""]
    with pumping(lambda number: pieces[number], count=2) as (pump, ends):
        for _ in range(10):
            pump.run(TURN)
            for number, end in enumerate(ends):
                received[number] += end.recv(50_001)
    for piece, stream in zip(pieces, received, strict=True):
        assert len(stream) > 100_000
        assert stream == (piece * (len(stream) // len(piece) + 1))[: len(stream)]
    assert pump.sent >= sum(map(len, received))


def test_a_pump_sends_once_what_it_is_fed() -> None:
    """On that connection alone."""
    with pumping(count=2) as (pump, (first, second)):
        pump.feed(1, b"burst")
        pump.run(TURN)
        pump.run(TURN)
        assert second.recv(100) == b"burst"
        with pytest.raises(BlockingIOError):
            first.recv(100)
        assert pump.sent == 5


def test_a_pump_opens_again_what_ends() -> None:
    """As often as it ends."""
    with pumping(lambda number: b"x") as (pump, ends):
        for ended in (1, 2):
            ends[-1].close()
            pump.run(TURN)
            assert (pump.ended, len(ends)) == (ended, ended + 1)
            assert ends[-1].recv(1) == b"x"


def test_a_pump_answers_pings() -> None:
    """Else a relay would end its connections."""
    with pumping() as (pump, (end,)):
        end.send(bytes([0x80 | PING, 0]))
        pump.run(TURN)
        assert end.recv(100) == frame(b"", PONG)


@pytest.mark.parametrize("reads", [True, False])
def test_a_pump_reads_only_if_it_shall(reads: bool) -> None:
    """What a peer does not read fills the system's buffer."""
    with pumping(lambda number: b"x", reads=reads) as (pump, (end,)):
        sent = 0
        for _ in range(20):
            pump.run(TURN)
            end.recv(1 << 20)
            try:
                sent += end.send(bytes(1 << 20))
            except BlockingIOError:
                break
        assert (sent > 2 << 20) is reads


# ---- The command


def test_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One attack on a relay of its own."""
    (attack,) = [each for each in command.ATTACKS if each.name == "ping flood"]
    gentle = replace(attack, quick_count=1)
    monkeypatch.setattr(command, "ATTACKS", (gentle, replace(gentle, name="other")))
    monkeypatch.setattr(command, "QUICK_SECONDS", 0.1)
    status = command.main(["--quick", "--only=attacks", "--attack=Ping"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[3].startswith("  ping flood: 1 connections, 0 ended, ")
    assert [each.split(":")[0].strip() for each in printed[4:7]] == [
        "memory",
        "others before",
        "others during",
    ]
    assert (printed[7].strip() == "ok") is (status == 0)
    assert len(printed) == 8


def test_a_relay_that_does_not_start_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that it does not know, for instance."""
    attack = replace(ATTACK, options=("--no-such-option",))
    monkeypatch.setattr(command, "ATTACKS", (attack,))
    assert command.main(["--quick", "--only=attacks"]) == 1
    assert "FAULT: no server:" in capsys.readouterr().out
