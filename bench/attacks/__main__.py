"""Measure what the relay withstands, each on a fresh relay; loopback only.

    python -m bench.attacks            # everything, about 5 minutes
    python -m bench.attacks --quick    # fewer connections, about 2 minutes
    python -m bench.attacks --only attacks --attack ping
    python -m bench.attacks --python /other/environment/bin/python

An attack runs in a process of its own while two honest peers of another database exchange
messages. It fails if their p99 or the relay's memory exceeds its bound. Linux only: memory is
read from /proc.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.attacks.bad_input import BAD_INPUT, answer_to
from bench.attacks.floods import FLOODS
from bench.attacks.idle_peers import measure_idle_peers
from bench.attacks.latency import Pair
from bench.attacks.measurement import MIB, TOKEN, Attack, measure, verdict
from bench.attacks.stuck_peer import measure_stuck_peer
from bench.attacks.swarms import SWARMS
from bench.processes import BenchError, raise_file_limit
from bench.servers import BACKLOG, THIS_PYTHON, Server, relay, running_server
from tests.certificates import make_certificate
from tests.ports import free_port

ATTACKS = (*SWARMS, *FLOODS)

SECONDS, QUICK_SECONDS = 6.0, 3.0
"""How long an attack goes on."""

SAMPLE = 200
"""Bytes of an invalid input that are shown if the answer to it is another than expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a command line.

    :ivar python: the interpreter whose acebase-ipc is measured.
    :ivar attack: a part of the names of the attacks to perform.
    :ivar directory: for logs and a certificate.
    """

    python: Path
    quick: bool
    attack: str
    directory: Path

    @contextmanager
    def running_relay(self, *options: str, secure: bool = False) -> Iterator[Server]:
        """A fresh relay, until the end of the block."""
        program = relay(self.python, *options)
        pem = make_certificate(self.directory).pem if secure else None
        with running_server(program, self.directory / "relay.log", pem) as server:
            yield server


def attacks(settings: Settings) -> Iterator[str]:
    """Memory and the others' latency under each attack, with a verdict."""
    seconds = QUICK_SECONDS if settings.quick else SECONDS
    for attack in ATTACKS:
        if settings.attack.lower() in attack.name.lower():
            count = attack.quick_count if settings.quick else attack.count
            yield from _perform(attack, settings, count, seconds)


def _perform(attack: Attack, settings: Settings, count: int, seconds: float) -> Iterator[str]:
    options = ("--token", TOKEN, *attack.options)
    target = None
    if attack.at_admin:
        target = "127.0.0.1", free_port()
        options = (*options, f"--admin=tcp:{target[1]}:interface={target[0]}:backlog={BACKLOG}")
    try:
        with settings.running_relay(*options, secure=attack.secure) as server:
            outcome = measure(server, attack, count, seconds, target)
    except (OSError, BenchError) as error:
        yield f"{attack.name}: {count:,} connections"
        yield verdict([str(error) or repr(error)])
    else:
        yield from outcome.report(attack)


def stuck_peer(settings: Settings) -> Iterator[str]:
    """Latency of a broadcast to ten readers, without and with one peer that reads nothing."""
    backlog = 4 if settings.quick else 64
    with settings.running_relay(f"--max-backlog={backlog}MiB") as server:
        yield from measure_stuck_peer(server.address, backlog * MIB)


def idle_peers(settings: Settings) -> Iterator[str]:
    """CPU time of idle peers that are pinged and answer."""
    count, seconds = (1_000, 30.0) if settings.quick else (10_000, 50.0)
    with settings.running_relay() as server:
        yield from measure_idle_peers(server, count, seconds)


def bad_input(settings: Settings) -> Iterator[str]:
    """Invalid input by its kind, and how much of it was answered as it should be."""
    sent: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    faults: list[str] = []
    for guarded in (True, False):
        options = ("--token", TOKEN) if guarded else ()
        with settings.running_relay(*options) as server, Pair(server.address, TOKEN):
            for each in BAD_INPUT:
                if each.guarded == guarded:
                    sent[each.kind] += 1
                    answer = answer_to(server.address, each)
                    refused[each.kind] += answer == each.answer
                    if answer != each.answer:
                        sample = (each.data + each.frames)[:SAMPLE]
                        faults.append(f"{answer}, not {each.answer}, to {sample!r}")
    for kind, number in sent.items():
        yield f"{kind}: {refused[kind]} of {number} refused"
    yield f"all: {refused.total()} of {sent.total()}"
    if faults:
        yield verdict(faults)


MEASUREMENTS: dict[str, Callable[[Settings], Iterator[str]]] = {
    "bad-input": bad_input,
    "stuck-peer": stuck_peer,
    "attacks": attacks,
    "idle-peers": idle_peers,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the results.

    :returns: 0 if the relay withstood everything.
    """
    parser = argparse.ArgumentParser(
        prog="bench.attacks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer connections, less time")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="may be repeated")
    parser.add_argument(
        "--attack", default="", metavar="TEXT", help="only attacks whose names contain this"
    )
    parser.add_argument(
        "--python",
        type=Path,
        default=THIS_PYTHON,
        help="the interpreter whose acebase-ipc is measured; default: this one",
    )
    given = parser.parse_args(arguments)
    print(f"at most {raise_file_limit():,} open files for each process")
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(given.python.absolute(), given.quick, given.attack, Path(directory))
        for name in given.only or MEASUREMENTS:
            print(f"\n{name}")
            for line in MEASUREMENTS[name](settings):
                failed |= "FAULT" in line
                print(f"  {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
