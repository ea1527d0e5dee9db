"""An attack in a process of its own, while the others' round trips are measured in this one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from bench.attacks.latency import Latency, Pair
from bench.attacks.peers import Address
from bench.processes import BenchError, raise_file_limit
from bench.servers import Server

MIB = 1 << 20
TOKEN = "the-right-token"
"""Required by every relay that is attacked."""

MOST_LATENCY = 50.0
"""Milliseconds that the others' p99 may take during an attack."""

STEP_SECONDS = 300.0
"""Deadline for the preparation of an attack."""

CLOSE_SECONDS = 10.0
"""Deadline for the end of its process."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What an attack reports.

    :ivar ended: connections that the relay has ended.
    :ivar stuck: connections that the relay should have ended and has not.
    :ivar sent: bytes sent; 0 if they do not matter.
    """

    ended: int = 0
    stuck: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """What an attack is told, in its own process.

    :ivar count: connections to open.
    :ivar seconds: how long to go on.
    """

    address: Address
    count: int
    seconds: float
    measuring: Connection

    def ready(self) -> None:
        """Report that the preparation is complete; returns when the measurement has begun."""
        self.measuring.send(None)
        self.measuring.recv()

    def finish(self, tally: Tally) -> None:
        """Report the end of the attack; returns when the measurement is complete.

        The connections that count as the relay's memory have to be open until then.
        """
        self.measuring.send(tally)
        self.measuring.recv()


@dataclass(frozen=True, slots=True)
class Attack:
    """One line of a table of attacks.

    :ivar run: performs it; has to be importable, as another process calls it.
    :ivar count: connections.
    :ivar quick_count: the same for a quick measurement.
    :ivar memory: MiB by which the relay's resident memory may grow.
    :ivar options: of the relay, besides the token.
    :ivar secure: whether it is over TLS.
    :ivar at_admin: whether it is at the admin endpoint, and not at the peers' port.
    """

    name: str
    run: Callable[[Stage], None]
    count: int
    quick_count: int
    memory: int
    options: tuple[str, ...] = ()
    secure: bool = False
    at_admin: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The effects of an attack.

    :ivar opened: connections of the attack.
    :ivar peak: bytes by which the relay's resident memory grew at most.
    :ivar grown: the same at the end of the attack, with its connections still open.
    """

    opened: int
    tally: Tally
    before: Latency
    during: Latency
    peak: int
    grown: int

    def faults(self, attack: Attack) -> list[str]:
        """In which respects the relay did not withstand *attack*."""
        found = []
        if self.during.p99 > MOST_LATENCY:
            found.append(f"p99 of the others {self.during.p99:,.0f} ms, more than {MOST_LATENCY:g}")
        if self.peak > attack.memory * MIB:
            found.append(f"memory +{self.peak / MIB:,.0f} MiB, more than {attack.memory}")
        if self.tally.stuck:
            found.append(f"{self.tally.stuck} of {self.opened} connections do not end")
        return found

    def report(self, attack: Attack) -> Iterator[str]:
        """Lines about it; the last one is the verdict."""
        sent = f", {self.tally.sent / MIB:,.1f} MiB sent" if self.tally.sent else ""
        yield f"{attack.name}: {self.opened:,} connections, {self.tally.ended:,} ended{sent}"
        peak, grown = self.peak / MIB, self.grown / MIB
        yield f"    memory: peak +{peak:,.1f} MiB, at the end +{grown:,.1f} MiB"
        yield f"    others before: {self.before}"
        yield f"    others during: {self.during}"
        yield verdict(self.faults(attack))


def verdict(faults: list[str]) -> str:
    """The last line about an attack."""
    return f"    FAULT: {'; '.join(faults)}" if faults else "    ok"


def measure(
    server: Server, attack: Attack, count: int, seconds: float, target: Address | None = None
) -> Outcome:
    """Attack *server* with *count* connections for so long, and measure the others.

    :param target: what is attacked; default: the peers' port.
    :raises OSError: if a message of the others is lost, or one of their connections ends.
    :raises BenchError: if the attack itself fails.
    """
    with Pair(server.address, TOKEN, secure=attack.secure) as pair:
        before = pair.measure_for(1.0)
        with _running(attack.run, target or server.address, count, seconds) as attacker:
            _keep_alive(pair, attacker)
            _receive(attacker)  # ready
            memory = server.memory()
            server.reset_peak()
            attacker.send(None)
            during = Latency.of(pair.measure(lambda: not attacker.poll()))
            tally = _receive(attacker)
            assert tally is not None
            peak = server.memory("VmHWM") - memory
            grown = server.memory() - memory
            attacker.send(None)
    return Outcome(count, tally, before, during, peak, grown)


@contextmanager
def _running(
    run: Callable[[Stage], None], address: Address, count: int, seconds: float
) -> Iterator[Connection]:
    # Not forked: this process may have threads, and a reactor.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    stage = Stage(address, count, seconds, theirs)
    child = context.Process(target=_perform, args=(run, stage))
    child.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        child.join(CLOSE_SECONDS)
        child.kill()
        child.join()


def _keep_alive(pair: Pair, attacker: Connection) -> None:
    """Exchange messages during the preparation: the relay disconnects peers that are silent."""
    end = time.monotonic() + STEP_SECONDS
    pair.measure(lambda: not attacker.poll() and time.monotonic() < end)


def _receive(attacker: Connection) -> Tally | None:
    if not attacker.poll(STEP_SECONDS):
        raise BenchError("the attack did not go on")
    try:
        received: Tally | BaseException | None = attacker.recv()
    except EOFError as error:
        raise BenchError("the process of the attack ended") from error
    if isinstance(received, BaseException):
        raise BenchError(f"the attack failed: {received!r}")
    return received


def _perform(run: Callable[[Stage], None], stage: Stage) -> None:
    raise_file_limit()
    try:
        run(stage)
    except EOFError:
        pass  # the measurement has failed
    except (OSError, BenchError) as error:
        stage.measuring.send(error)
