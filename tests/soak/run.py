"""``make soak``: 200 peers provoke faults on a real relay; every message is accounted for.

::

    python -m tests.soak.run --seconds 1200 --seed 7

Half the peers of each database use TLS, half the dialect of the npm package acebase. With
``--hand-over 5`` the relay is handed over to a new process every five seconds, and no peer uses
TLS. With ``--restart 5`` it is stopped as often, and the next one goes on with its state.
The actions of each follow from the seed. At the end, when all have left, the relay
must hold no more than at the beginning. The exit status is 1 if a message was lost,
duplicated, reordered or misdelivered, or if the relay still holds something.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

from tests.soak.ledger import MEMORY, UNSETTLED, Ledger
from tests.soak.link import Port
from tests.soak.member import Member, Scene
from tests.soak.process import Change, SoakedRelay
from tests.soak.troubles import act, come_back, leave_finally, send_some

DATABASES = 20
PEERS = 10  # of each database
REST = 90.0
"""Seconds after which sessions, stored messages and incomplete requests must have ended."""

MORE_MEMORY = 24 << 20
"""Bytes of RSS that may remain above the start: memory that the allocator cannot return."""

TEMPORARY = (
    "timers",
    "databases",
    "peers",
    "suspended sessions",
    "queues for masters",
    "connections",
    "HTTP connections",
)
STORED = (
    "stored bytes",
    "stored messages",
    "reserved bytes",
    "counted bytes",
    "peer objects",
    "connection objects",
)


def show(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


async def for_each(members: Iterable[Member], do: Callable[[Member], Awaitable[object]]) -> None:
    """Run *do* for all members at the same time."""
    await asyncio.gather(*map(do, members))


async def settle(relay: SoakedRelay, start: dict[str, Any], fds: int) -> dict[str, Any]:
    """Wait, at most :data:`REST`, until the relay holds no more than at the start."""
    end = monotonic() + REST
    while True:
        now = await relay.gauges()
        await asyncio.sleep(1)
        same = all(now[each] <= start[each] for each in (*TEMPORARY, *STORED))
        if (same and relay.fds() <= fds) or monotonic() > end:
            return now


class Soak:
    """One run."""

    def __init__(
        self, relay: SoakedRelay, scene: Scene, seconds: float, interval: float | None
    ) -> None:
        """:param interval: seconds between two changes of the relay's process."""
        self.relay = relay
        self.interval = interval
        self.scene = scene
        self.seconds = seconds
        self.members: list[Member] = []
        self.longest_pause = 0.0
        self.peak_rss = self.peak_fds = self.untrimmed_rss = 0
        for number in range(DATABASES):
            name = f"db{number}"
            peers = [Member(scene, name, each, each in (0, 1, 2, 5, 6)) for each in range(PEERS)]
            scene.members[name] = peers
            self.members += peers

    async def run(self) -> list[str]:
        """Run the soak; returns a line for each finding."""
        await self._warm_up()
        cold = await self.relay.gauges()
        start = await settle(self.relay, cold | dict.fromkeys((*TEMPORARY[1:], *STORED), 0), 10_000)
        rss, fds = self.relay.rss(), self.relay.fds()
        show(f"start: {rss >> 20} MiB, {fds} fds, {start['timers']} timers")
        await self._provoke()
        self.untrimmed_rss = self.relay.rss()
        end = await settle(self.relay, start, fds)
        self.scene.ledger.check(UNSETTLED)
        self._report(rss, fds, start, end)
        return self._findings(rss, fds, start, end)

    async def _warm_up(self) -> None:
        """Let each member join, send and leave once, so that all code is loaded."""

        async def visit(member: Member) -> None:
            await member.connect()
            await send_some(member)
            begun = monotonic()
            await leave_finally(member)
            member.gone(begun)

        for first in range(0, len(self.members), PEERS):
            await for_each(self.members[first : first + PEERS], visit)

    async def _provoke(self) -> None:
        end = monotonic() + self.seconds
        watching = asyncio.ensure_future(self._watch())
        changing = asyncio.ensure_future(self._change())
        try:
            await for_each(self.members, lambda member: act(member, end))
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
            # A restart may have closed the connections of members that had ended already. Others
            # still receive while a member leaves: first all confirm, then all leave.
            await for_each(self.members, come_back)
            await for_each(self.members, lambda member: member.confirm())
            await for_each(self.members, leave_finally)
        finally:
            watching.cancel()

    async def _change(self) -> None:
        """Let another process be the relay again and again, if that is asked for."""
        while self.interval is not None:
            await asyncio.sleep(self.interval)
            is_restart = self.relay.change is Change.RESTART
            with self.scene.restart() if is_restart else nullcontext():
                await _completely(asyncio.to_thread(self.relay.follow))

    async def _watch(self) -> None:
        ledger = self.scene.ledger
        tick = 0
        while True:
            before = monotonic()
            await asyncio.sleep(1)
            tick += 1
            pause = monotonic() - before - 1
            self.longest_pause = max(self.longest_pause, pause)
            self.scene.pause = max(pause, self.scene.pause - 1 / PEERS)
            self.peak_rss = max(self.peak_rss, self.relay.rss())
            self.peak_fds = max(self.peak_fds, self.relay.fds())
            if tick % 10 == 0:
                ledger.check(monotonic() - MEMORY)
            if tick % 60 == 0:
                wrong = ", ".join(f"{count} {kind}" for kind, count in ledger.wrong.items())
                show(f"{tick} s: {ledger.sent} sent, {ledger.delivered} delivered, {wrong}")

    def _report(self, rss: int, fds: int, start: dict[str, Any], end: dict[str, Any]) -> None:
        ledger = self.scene.ledger
        show(
            f"{ledger.sent} messages sent, {ledger.delivered} delivered,"
            f" {ledger.required} of these could not be lost"
        )
        show("faults: " + ", ".join(f"{v} {k}" for k, v in sorted(self.scene.faults.items()) if v))
        show("the relay reports: " + ", ".join(f"{v} {k}" for k, v in end["counts"].items()))
        relays = end["longest pause"]
        if self.relay.changes:
            show(f"{self.relay.changes} changes: {self.relay.describe_changes()}")
        show(
            f"longest standstill: {self.longest_pause:.1f} s of the peers,"
            f" {relays:.1f} s of the relay"
        )
        show("wrong: " + ", ".join(f"{v} {k}" for k, v in ledger.wrong.items()))
        levels = (rss, self.peak_rss, self.untrimmed_rss, self.relay.rss())
        numbers = ", ".join(str(each >> 20) for each in levels)
        show(f"RSS in MiB at start, peak, end, and when the allocator has trimmed it: {numbers}")
        show(f"fds at start, peak, end: {fds}, {self.peak_fds}, {self.relay.fds()}")
        for each in (*TEMPORARY, *STORED):
            show(f"{each} at start and end: {start[each]}, {end[each]}")

    def _findings(
        self, rss: int, fds: int, start: dict[str, Any], end: dict[str, Any]
    ) -> list[str]:
        findings = [f"{v} {k}" for k, v in self.scene.ledger.wrong.items() if v]
        findings += [
            f"{each} grew from {start[each]} to {end[each]}"
            for each in (*TEMPORARY, *STORED)
            if end[each] > start[each]
        ]
        if self.relay.fds() > fds:
            findings.append(f"fds grew from {fds} to {self.relay.fds()}")
        if self.relay.rss() > rss + MORE_MEMORY:
            findings.append(f"RSS grew from {rss >> 20} to {self.relay.rss() >> 20} MiB")
        findings += [line for line in self.relay.log.splitlines() if "Traceback" in line]
        return findings


async def _completely(step: Awaitable[None]) -> None:
    """Wait for a *step* until it is done, also if that is cancelled meanwhile."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def soak(
    seconds: float, seed: int, change: Change | None = None, interval: float | None = None
) -> list[str]:
    """Run a soak against a relay of its own; returns a line for each finding.

    :param change: how another process becomes the relay; ``None``: none does.
    :param interval: seconds between two changes.
    """
    with tempfile.TemporaryDirectory() as name, SoakedRelay(Path(name), change) as relay:
        # The certificate is not what is tested here.
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        second = Port(relay.ports[1], tls if relay.is_secure else None)
        scene = Scene(seed, (Port(relay.ports[0]), second), Ledger(show))
        findings = asyncio.run(Soak(relay, scene, seconds, interval).run())
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a soak and print its findings; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run a soak of a relay on loopback.")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: a new one")
    changes = parser.add_mutually_exclusive_group()
    for each in Change:
        changes.add_argument(
            f"--{each.value}", type=float, metavar="SECONDS", help="default: never"
        )
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    show(f"seed {seed}")
    given = ((each, getattr(options, each.value.replace("-", "_"))) for each in Change)
    change, interval = next((pair for pair in given if pair[1] is not None), (None, None))
    findings = soak(options.seconds, seed, change, interval)
    for finding in findings:
        show(finding)
    show(f"{'FAILED' if findings else 'passed'} with seed {seed}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
