"""``make soak``: many peers and much trouble on a real relay, and every message is accounted for.

::

    python -m tests.soak.run --seconds 1200 --seed 7

Half the peers of each database speak TLS, half the published clients' dialect.
What each of them does follows from the seed. In the end, when all have left,
the relay must keep no more than in the beginning. The exit status is 1 if
anything was lost, duplicated, reordered or misdelivered, or is left over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from tests.certificates import make_certificate
from tests.integration.relay_process import Twistd, find_addresses, on_loopback
from tests.soak.ledger import MEMORY, UNSETTLED, Ledger
from tests.soak.link import Door
from tests.soak.member import KEEPALIVE, MAX_PAYLOAD, RECOVERY, TOKEN, Member, Party
from tests.soak.troubles import live, part, talk

DATABASES = 20
PEERS = 10  # of each database
TTL = 30.0
REST = 90.0
"""Seconds after which seats, stored messages and half connections must be gone."""

MORE_MEMORY = 24 << 20
"""Bytes of RSS that may remain above the start: what an allocator cannot give back."""

OPTIONS: dict[str, Any] = {
    "token": TOKEN,
    "limits": {
        "max_payload": MAX_PAYLOAD,
        "max_backlog": 4 << 20,
        "session_timeout": RECOVERY,
        "message_ttl": TTL,
        "keepalive_interval": KEEPALIVE / 2,
        "keepalive_timeout": KEEPALIVE / 2,
        "handshake_timeout": 30,
        "request_timeout": 30,
        "http_idle": 20,
    },
}

TEMPORARY = ("timers", "databases", "peers", "seats", "held for masters", "connections")
STORED = ("stored bytes", "stored messages", "reserved bytes", "peer objects", "connection objects")


class SoakedRelay(Twistd):
    """The relay, and what it needs."""

    def __init__(self, directory: Path) -> None:
        pem = make_certificate(directory).pem
        endpoints = [on_loopback(), on_loopback("ssl", privateKey=pem)]
        options = json.dumps(OPTIONS | {"endpoints": endpoints})
        root = Path(__file__).parents[2]
        super().__init__(
            *("--nodaemon", "--pidfile=", "--python", str(Path(__file__).with_name("relay.py"))),
            environment={"SOAK": options, "PYTHONPATH": str(root)},
        )
        self.wait_for("gauges", lambda log: "gauges at" in log)
        self.ports = [each.port for each in find_addresses(self.log)]
        self._gauges = int(self.log.partition("gauges at ")[2].split()[0])

    async def gauges(self) -> dict[str, Any]:
        """What it keeps, by its own account."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._gauges)
        data = await reader.read()
        writer.close()
        numbers: dict[str, Any] = json.loads(data)
        return numbers

    def fds(self) -> int:
        """How many file descriptors it has."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def rss(self) -> int:
        """The bytes of memory it has."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * 4096


def tell(line: str) -> None:
    """Print a line, now."""
    print(line, flush=True)


async def each_of(members: Iterable[Member], do: Callable[[Member], Awaitable[object]]) -> None:
    """Let all members do something at the same time."""
    await asyncio.gather(*map(do, members))


async def calm(relay: SoakedRelay, start: dict[str, Any], fds: int) -> dict[str, Any]:
    """Wait until the relay keeps no more than in the beginning, or for too long."""
    end = monotonic() + REST
    while True:
        now = await relay.gauges()
        await asyncio.sleep(1)
        same = all(now[each] <= start[each] for each in (*TEMPORARY, *STORED))
        if (same and relay.fds() <= fds) or monotonic() > end:
            return now


class Soak:
    """One run."""

    def __init__(self, relay: SoakedRelay, party: Party, seconds: float) -> None:
        self.relay = relay
        self.party = party
        self.seconds = seconds
        self.members: list[Member] = []
        self.longest_pause = 0.0
        self.peak_rss = self.peak_fds = self.untrimmed_rss = 0
        for number in range(DATABASES):
            name = f"db{number}"
            peers = [Member(party, name, each, each in (0, 1, 2, 5, 6)) for each in range(PEERS)]
            party.members[name] = peers
            self.members += peers

    async def run(self) -> list[str]:
        """Let it happen; returns what is wrong, for people to read."""
        await self._warm_up()
        cold = await self.relay.gauges()
        start = await calm(self.relay, cold | dict.fromkeys((*TEMPORARY[1:], *STORED), 0), 10_000)
        rss, fds = self.relay.rss(), self.relay.fds()
        tell(f"start: {rss >> 20} MiB, {fds} fds, {start['timers']} timers")
        await self._trouble()
        self.untrimmed_rss = self.relay.rss()
        end = await calm(self.relay, start, fds)
        self.party.ledger.judge(UNSETTLED)
        self._report(rss, fds, start, end)
        return self._complaints(rss, fds, start, end)

    async def _warm_up(self) -> None:
        """Let everybody come, talk and go once, so that all code is loaded."""

        async def visit(member: Member) -> None:
            await member.connect()
            await talk(member)
            begun = monotonic()
            await part(member)
            member.gone(begun)

        for first in range(0, len(self.members), PEERS):
            await each_of(self.members[first : first + PEERS], visit)

    async def _trouble(self) -> None:
        end = monotonic() + self.seconds
        watching = asyncio.ensure_future(self._watch())
        try:
            await each_of(self.members, lambda member: live(member, end))
            # While somebody leaves, others still receive: first all confirm, then all go.
            await each_of(self.members, lambda member: member.confirm())
            await each_of(self.members, part)
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        ledger = self.party.ledger
        tick = 0
        while True:
            before = monotonic()
            await asyncio.sleep(1)
            tick += 1
            pause = monotonic() - before - 1
            self.longest_pause = max(self.longest_pause, pause)
            self.party.pause = max(pause, self.party.pause - 1 / PEERS)
            self.peak_rss = max(self.peak_rss, self.relay.rss())
            self.peak_fds = max(self.peak_fds, self.relay.fds())
            if tick % 10 == 0:
                ledger.judge(monotonic() - MEMORY)
            if tick % 60 == 0:
                wrong = ", ".join(f"{count} {kind}" for kind, count in ledger.wrong.items())
                tell(f"{tick} s: {ledger.sent} sent, {ledger.delivered} delivered, {wrong}")

    def _report(self, rss: int, fds: int, start: dict[str, Any], end: dict[str, Any]) -> None:
        ledger = self.party.ledger
        tell(
            f"{ledger.sent} messages sent, {ledger.delivered} delivered,"
            f" {ledger.required} of these could not be lost"
        )
        tell("faults: " + ", ".join(f"{v} {k}" for k, v in sorted(self.party.faults.items()) if v))
        tell("the relay reports: " + ", ".join(f"{v} {k}" for k, v in end["counts"].items()))
        relays = end["longest pause"]
        tell(
            f"longest pauses: {self.longest_pause:.1f} s of the peers, {relays:.1f} s of the relay"
        )
        tell("wrong: " + ", ".join(f"{v} {k}" for k, v in ledger.wrong.items()))
        levels = (rss, self.peak_rss, self.untrimmed_rss, self.relay.rss())
        numbers = ", ".join(str(each >> 20) for each in levels)
        tell(f"RSS in MiB at start, peak, end, and when the allocator has trimmed it: {numbers}")
        tell(f"fds at start, peak, end: {fds}, {self.peak_fds}, {self.relay.fds()}")
        for each in (*TEMPORARY, *STORED):
            tell(f"{each} at start and end: {start[each]}, {end[each]}")

    def _complaints(
        self, rss: int, fds: int, start: dict[str, Any], end: dict[str, Any]
    ) -> list[str]:
        complaints = [f"{v} {k}" for k, v in self.party.ledger.wrong.items() if v]
        complaints += [
            f"{each} grew from {start[each]} to {end[each]}"
            for each in (*TEMPORARY, *STORED)
            if end[each] > start[each]
        ]
        if self.relay.fds() > fds:
            complaints.append(f"fds grew from {fds} to {self.relay.fds()}")
        if self.relay.rss() > rss + MORE_MEMORY:
            complaints.append(f"RSS grew from {rss >> 20} to {self.relay.rss() >> 20} MiB")
        complaints += [line for line in self.relay.log.splitlines() if "Traceback" in line]
        return complaints


def soak(seconds: float, seed: int) -> list[str]:
    """Run a soak against a relay of its own; returns what is wrong."""
    with tempfile.TemporaryDirectory() as directory, SoakedRelay(Path(directory)) as relay:
        # Whether its certificate is right is no question here.
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        party = Party(seed, (Door(relay.ports[0]), Door(relay.ports[1], tls)), Ledger(tell))
        complaints = asyncio.run(Soak(relay, party, seconds).run())
    return complaints


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak, and say what came of it; returns the exit status."""
    parser = argparse.ArgumentParser(description="Soak a relay on loopback.")
    parser.add_argument("--seconds", type=float, default=60, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: a new one")
    options = parser.parse_args(arguments)
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    tell(f"seed {seed}")
    complaints = soak(options.seconds, seed)
    for each in complaints:
        tell(each)
    tell(f"{'FAILED' if complaints else 'passed'} with seed {seed}")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
