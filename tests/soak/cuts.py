"""``make soak-cuts``: clients whose connections are cut at any byte, on a real relay.

::

    python -m tests.soak.cuts --cuts 1000 --seed 7

Each of four clients sends to one other or to all, small messages and such that have to be posted,
while each of its connections, WebSockets and HTTP, breaks after some hundred bytes in one of the
directions. The exit status is 1 if a message was lost, duplicated or reordered without notice.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.task import deferLater, react

from acebase_ipc import AceBaseIPCServerConfig, IPCClient
from acebase_ipc.testing import running_relay
from tests.cutting import NEVER, CuttingEndpoint, Member, check

CONFIG = AceBaseIPCServerConfig(port=0, max_payload=1024)
"""Of the relay: what is larger than 1 KiB has to be posted."""

CLIENTS = 4
MOST_BYTES = 4000
"""A connection breaks after fewer bytes than these, in each direction."""

PAUSE = 0.005
"""Seconds between two rounds of messages."""

RETRY = 0.01
"""Seconds until a client connects again."""

PATIENCE = 90.0
"""Seconds after the last cut within which all has to arrive."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of a run.

    :ivar messages: how many were sent.
    :ivar deliveries: how many were received, by all receivers together.
    :ivar gaps: how many gaps were told.
    :ivar findings: a line for each thing that is wrong.
    """

    cuts: int
    messages: int
    deliveries: int
    gaps: int
    seconds: float
    findings: list[str]

    def __str__(self) -> str:
        return (
            f"{self.cuts} cuts, {self.messages} messages, {self.deliveries} deliveries,"
            f" {self.gaps} gaps told, {len(self.findings)} findings, {self.seconds:.0f} s"
        )


async def cut_often(reactor: Any, url: str, cuts: int, seed: int) -> Outcome:
    """Cut the connections of clients so many times, and account for their messages.

    :param url: of a relay with :data:`CONFIG`.
    """
    generator = random.Random(seed)
    host, _, port = url.removeprefix("ws://").rpartition(":")
    endpoints = [
        CuttingEndpoint(HostnameEndpoint(reactor, host, int(port))) for _ in range(CLIENTS)
    ]
    members = [
        Member(
            IPCClient(
                url,
                "soak",
                f"client{number}",
                endpoint=each,
                reactor=reactor,
                retry_policy=lambda failures: RETRY,
            )
        )
        for number, each in enumerate(endpoints)
    ]
    for each in members:
        each.client.startService()
    await gatherResults([each.client.when_connected() for each in members])
    began = monotonic()
    for endpoint in endpoints:
        endpoint.limits = lambda: (generator.randrange(MOST_BYTES), generator.randrange(MOST_BYTES))
        endpoint.cut()
    while sum(each.cuts for each in endpoints) < cuts:
        sender = generator.choice(members)
        to = generator.choice([None, *(each.id for each in members if each is not sender)])
        for _ in range(generator.randrange(4)):
            padding = "x" * generator.choice([0, 0, 100, 100, 2000])
            sender.send(to, padding, confirm=generator.random() < 0.2)
        await deferLater(reactor, PAUSE)
    for endpoint in endpoints:
        endpoint.limits = lambda: (NEVER, NEVER)
        endpoint.cut_after(NEVER, NEVER)
    await _all_arrived(reactor, members)
    seconds = monotonic() - began
    await gatherResults([each.client.stopService() for each in members])
    return Outcome(
        sum(each.cuts for each in endpoints),
        sum(len(each.sent) for each in members),
        sum(len(each.received) - each.received.count(None) for each in members),
        sum(len(each.gaps) for each in members),
        seconds,
        check(members),
    )


async def _all_arrived(reactor: Any, members: list[Member]) -> None:
    """Wait until the relay has relayed everything, and every client has received it."""
    deadline = monotonic() + PATIENCE
    last: Deferred[Any]
    for each in members:
        last = each.send(None, confirm=True)
        await last.addTimeout(PATIENCE, reactor)
    wanted = [(each.id, len(each.sent) - 1) for each in members]
    while monotonic() < deadline:
        if all(
            each in receiver.received
            for receiver in members
            for each in wanted
            if each[0] != receiver.id
        ):
            break
        await deferLater(reactor, 0.05)


def main() -> None:
    """Run it as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)

    async def run(reactor: Any) -> None:
        with running_relay(CONFIG) as url:
            outcome = await cut_often(reactor, url, options.cuts, options.seed)
        print(outcome, *outcome.findings, sep="\n")
        if outcome.findings:
            sys.exit(1)

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()
