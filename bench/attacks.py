"""What the relay bears: bad input, stuck peers, idle peers, and attacks; loopback only.

    python -m bench.attacks            # everything, about 3 minutes
    python -m bench.attacks --quick    # with fewer connections, half a minute
    python -m bench.attacks --only attacks

It starts a relay of its own for each measurement. Linux only: it reads ``/proc``.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.attackers import (
    Address,
    Latency,
    Pair,
    Peer,
    Swarm,
    answer_pings,
    frame,
    http,
    raise_file_limit,
    upgrade,
)
from bench.bad_input import BAD_INPUT, answer_to
from bench.processes import BenchError
from bench.servers import START_SECONDS

MIB = 1 << 20
TWISTD = Path(sys.executable).with_name("twistd")
TOKEN = "the-right-token"
LISTENING = re.compile(r"listening on ws://(127\.0\.0\.1):(\d+)")


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay of our own, in a process of its own."""

    address: Address
    pid: int

    def memory(self, kind: str = "VmRSS") -> int:
        """Bytes of memory that it uses now, or (``VmHWM``) used at most."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        if found is None:
            raise BenchError(f"/proc does not tell {kind}")
        return int(found[1]) * 1024

    def forget_peak(self) -> None:
        """Let the memory that is used at most be counted from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        values = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_relay(*options: str) -> Iterator[Relay]:
    """A relay on a free port of loopback, until the end of the block.

    :raises BenchError: if it does not listen in time.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ACEBASE_IPC_")}
    endpoint = "--port=tcp:0:interface=127.0.0.1:backlog=4096"
    command = [str(TWISTD), "-n", "--pidfile=", "acebase-ipc", endpoint, *options]
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not (found := LISTENING.search(_read(log.fileno()))):
                if time.monotonic() > deadline or child.poll() is not None:
                    raise BenchError(f"no relay:\n{_read(log.fileno())}")
                time.sleep(0.02)
            yield Relay((found[1], int(found[2])), child.pid)
        finally:
            child.kill()
            child.wait()


def _read(file: int) -> str:
    return os.pread(file, MIB, 0).decode(errors="replace")


# ---- Attacks


@dataclass(frozen=True, slots=True)
class Attack:
    """What each connection of a swarm does.

    :ivar opening: what it sends at first; it is given its number.
    :ivar then: what it sends next.
    :ivar drip: what it sends again and again after that.
    """

    name: str
    opening: Callable[[int], bytes]
    then: bytes = b""
    drip: bytes = b""


def _post(number: int) -> bytes:
    target = f"POST /honest/send?id=honest-one&t={TOKEN}"
    return http(target, f"Content-Length: {16 * MIB}", body=b"to:nobody;" + bytes(MIB))


def _join(number: int) -> bytes:
    target = f"/swarm{number // 10}/connect?id=swarm-{number}&v=1&t={TOKEN}"
    return upgrade(target)


ATTACKS = (
    Attack("half-open handshakes", lambda _: b""),
    Attack("slowloris: headers bit by bit", lambda _: b"GET / HTTP/1.1\r\n", drip=b"x: y\r\n"),
    Attack(
        "endless headers",
        lambda _: b"GET / HTTP/1.1\r\n",
        drip=b"x: " + b"y" * 4000 + b"\r\n",
    ),
    Attack("idle HTTP connections", lambda _: http("GET /healthz")),
    Attack("wrong tokens", lambda n: http(f"GET /honest/clients?t=wrong{n}")),
    Attack("concurrent POSTs of 16 MiB", _post, drip=bytes(MIB)),
    Attack("frames announced, never sent", _join, frame(b"", length=16_000), b"x"),
    Attack("frames announced as huge", _join, frame(b"", length=1 << 40)),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attack has done.

    :ivar ended: connections of the swarm that the relay has ended.
    :ivar grown: bytes by which the relay's memory grew, at most.
    """

    opened: int
    ended: int
    before: Latency
    during: Latency
    grown: int


def besiege(relay: Relay, attack: Attack, count: int, seconds: float, messages: int) -> Outcome:
    """Let *count* connections attack, while a pair exchanges *messages* and more.

    :param seconds: for how long, unless all have been ended before.
    """
    with Pair(relay.address, TOKEN) as pair, Swarm(relay.address) as swarm:
        before = Latency.of(pair.talk(messages))
        relay.forget_peak()
        memory = relay.memory()
        swarm.open(count, attack.opening)
        times = pair.talk(messages)
        swarm.send(attack.then)
        end = time.monotonic() + seconds
        while swarm.sockets and time.monotonic() < end:
            swarm.send(attack.drip)
            times += pair.talk(messages // 10)
        grown = relay.memory("VmHWM") - memory
        return Outcome(count, swarm.ended, before, Latency.of(times), grown)


# ---- The measurements


def measure_attacks(quick: bool) -> Iterator[str]:
    """Memory and latency under each attack."""
    count, seconds = (200, 1.0) if quick else (1000, 6.0)
    for attack in ATTACKS:
        with running_relay("--token", TOKEN) as relay:
            many = 10 * count if attack.name.startswith("half-open") else count
            result = besiege(relay, attack, many, seconds, 500)
            yield f"{attack.name}: {many:,} connections, {result.ended:,} ended by the relay"
            yield f"    memory: +{result.grown / MIB:,.1f} MiB at most"
            yield f"    others before: {result.before}"
            yield f"    others during: {result.during}"


class Crowd:
    """A speaker, and readers of what it broadcasts."""

    def __init__(self, address: Address, readers: int, size: int) -> None:
        """:param size: the bytes of each broadcast."""
        self._stack = ExitStack()
        self._address = address
        self._speaker = self.join("speaker")
        self._readers = [self.join(f"reader{each}") for each in range(readers)]
        for each in self._readers[:-1]:
            each.hear_until(b"connect:" + self._readers[-1].id.encode())
        self._body = b"x" * size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def join(self, client_id: str, receive_buffer: int | None = None) -> Peer:
        """One more peer, which the readers do not know of."""
        peer = Peer(self._address, client_id, "crowd", receive_buffer=receive_buffer)
        return self._stack.enter_context(peer)

    def join_stuck(self) -> None:
        """One more peer, which reads nothing."""
        self.join("stuck", receive_buffer=4096)
        for each in self._readers:
            each.hear_until(b"connect:stuck")

    def broadcast(self, count: int) -> list[float]:
        """Broadcast *count* times, or until a peer is cut; how long the first reader waited."""
        times: list[float] = []
        cut = 0
        while len(times) < count and not cut:
            message = b"%d " % len(times) + self._body
            begin = time.perf_counter()
            self._speaker.say(message)
            first, *others = self._readers
            cut = first.hear_until(b"msg:" + message)
            times.append(time.perf_counter() - begin)
            for each in others:
                each.hear_until(b"msg:" + message)
        return times


def measure_stuck_peer(quick: bool) -> Iterator[str]:
    """Latency of a broadcast to ten readers, without and with one peer that reads nothing."""
    size, backlog = 8_000, 4 if quick else 64
    rounds = backlog * MIB // size
    with (
        running_relay(f"--max-backlog={backlog}MiB") as relay,
        Crowd(relay.address, 10, size) as crowd,
    ):
        crowd.broadcast(100)
        before = Latency.of(crowd.broadcast(rounds // 4))
        crowd.join_stuck()
        during = Latency.of(crowd.broadcast(2 * rounds))
        after = Latency.of(crowd.broadcast(rounds // 4))
    yield f"a broadcast of {size:,} bytes to 10 readers, {before.count:,} times: {before}"
    yield f"with one peer that reads nothing, until it is cut, {during.count:,} times: {during}"
    yield f"after that, {after.count:,} times: {after}"
    yield f"p99 with it: {during.p99 / before.p99:.2f} times that without"


def measure_idle_peers(quick: bool) -> Iterator[str]:
    """CPU of idle peers that are pinged and answer."""
    count, seconds = (1000, 30.0) if quick else (10_000, 50.0)
    with running_relay() as relay, ExitStack() as stack:
        memory = relay.memory()
        peers = []
        for each in range(count):
            peer = Peer(relay.address, f"idle-{each}", f"database{each // 10}")
            peers.append(stack.enter_context(peer))
            if each % 500 == 0:
                answer_pings(peers, 0.01)
        grown = relay.memory() - memory
        answer_pings(peers, 2)
        before = relay.cpu()
        answered = answer_pings(peers, seconds)
        used = (relay.cpu() - before) / seconds
        yield f"{count:,} idle peers, {answered:,} pings answered in {seconds:g} s:"
        yield f"    CPU: {used:.2%} of a core"
        yield f"    memory: {grown / count / 1024:.1f} KiB each"


def measure_bad_input(quick: bool) -> Iterator[str]:
    """Bad input by its kind, and how much of it was refused as it should be."""
    sent: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    with (
        running_relay("--token", TOKEN) as guarded,
        running_relay() as unguarded,
        Pair(guarded.address, TOKEN),
        Pair(unguarded.address),
    ):
        for each in BAD_INPUT:
            relay = guarded if each.guarded else unguarded
            sent[each.kind] += 1
            refused[each.kind] += answer_to(relay.address, each) == each.answer
    for kind, number in sent.items():
        yield f"{kind}: {refused[kind]} of {number} refused"
    yield f"all: {refused.total()} of {sent.total()}"


MEASUREMENTS: dict[str, Callable[[bool], Iterator[str]]] = {
    "bad-input": measure_bad_input,
    "stuck-peer": measure_stuck_peer,
    "attacks": measure_attacks,
    "idle-peers": measure_idle_peers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer connections, half a minute")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="may be repeated")
    options = parser.parse_args(arguments)
    files = raise_file_limit()
    print(f"up to {files:,} open files for each process")
    for name in options.only or MEASUREMENTS:
        print(f"\n{name}")
        for line in MEASUREMENTS[name](options.quick):
            print(f"  {line}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
