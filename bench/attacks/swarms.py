"""Attacks by many connections that each send little, and slowly."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from bench.attacks.measurement import MIB, TOKEN, Attack, Stage, Tally
from bench.attacks.peers import DEADLINE, RECEIVE, Address, frame, http, upgrade

DRIP_INTERVAL = 0.01
"""Seconds between two pieces."""


@dataclass
class Swarm:
    """Non-blocking connections.

    :ivar ended: how many of them the relay has ended.
    """

    address: Address
    sockets: dict[int, socket.socket] = field(default_factory=dict)
    ended: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for each in self.sockets.values():
            each.close()

    def open(self, count: int, opening: Callable[[int], bytes]) -> None:
        """Open *count* connections, and send on each what *opening* returns for its number."""
        for number in range(count):
            each = socket.socket()
            each.settimeout(DEADLINE)
            each.connect(self.address)
            each.setblocking(False)
            self.sockets[number] = each
            self._send(number, opening(number))

    def wait_for_answers(self) -> None:
        """Wait until each connection has received something, and discard it."""
        for number in tuple(self.sockets):
            ready = select.poll()
            ready.register(self.sockets[number], select.POLLIN)
            ready.poll(DEADLINE * 1000)
            self._receive(number)

    def send(self, data: bytes) -> None:
        """Send *data*, or as much as there is room for, on every connection; discard answers."""
        for number in tuple(self.sockets):
            self._receive(number)
            self._send(number, data)

    def _receive(self, number: int) -> None:
        with suppress(BlockingIOError):
            try:
                if self.sockets[number].recv(RECEIVE):
                    return
            except ConnectionError:
                pass
            self._drop(number)

    def _send(self, number: int, data: bytes) -> None:
        if data and number in self.sockets:
            with suppress(BlockingIOError):
                try:
                    self.sockets[number].send(data)
                except ConnectionError:
                    self._drop(number)

    def _drop(self, number: int) -> None:
        self.sockets.pop(number).close()
        self.ended += 1


@dataclass(frozen=True, slots=True)
class Script:
    """What each connection of a swarm sends.

    :ivar opening: the first bytes, by the connection's number; importable.
    :ivar then: sent when the opening has been answered on all.
    :ivar drip: sent again and again after that.
    """

    opening: Callable[[int], bytes]
    then: bytes = b""
    drip: bytes = b""

    def __call__(self, stage: Stage) -> None:
        """Go on for the time of *stage*, or until all connections have been ended."""
        with Swarm(stage.address) as swarm:
            stage.ready()
            swarm.open(stage.count, self.opening)
            if self.then:
                swarm.wait_for_answers()
                swarm.send(self.then)
            end = time.monotonic() + stage.seconds
            while swarm.sockets and time.monotonic() < end:
                swarm.send(self.drip)
                time.sleep(DRIP_INTERVAL)
            stage.finish(Tally(swarm.ended))


def _nothing(number: int) -> bytes:
    return b""


def _request_line(number: int) -> bytes:
    return b"GET / HTTP/1.1\r\n"


def _health_check(number: int) -> bytes:
    return http("GET /healthz")


def _wrong_token(number: int) -> bytes:
    return http(f"GET /honest/clients?t=wrong{number}")


def _post(number: int) -> bytes:
    target = f"POST /honest/send?id=honest-one&t={TOKEN}"
    return http(target, f"Content-Length: {16 * MIB}", body=b"to:nobody;" + bytes(MIB))


def _join(number: int) -> bytes:
    return upgrade(f"/swarm{number // 10}/connect?id=swarm-{number}&v=1&t={TOKEN}")


SWARMS = (
    Attack("half-open handshakes", Script(_nothing), 10_000, 2_000, memory=192),
    Attack(
        "slowloris: headers bit by bit", Script(_request_line, drip=b"x: y\r\n"), 1_000, 200, 32
    ),
    Attack(
        "endless headers",
        Script(_request_line, drip=b"x: " + b"y" * 4000 + b"\r\n"),
        1_000,
        200,
        memory=64,
    ),
    Attack("idle HTTP connections", Script(_health_check), 1_000, 200, memory=32),
    Attack("wrong tokens", Script(_wrong_token), 1_000, 200, memory=32),
    Attack("concurrent POSTs of 16 MiB", Script(_post, drip=bytes(MIB)), 1_000, 200, memory=320),
    Attack(
        "frames announced, never sent",
        Script(_join, frame(b"", length=16_000), b"x"),
        1_000,
        200,
        memory=32,
    ),
    Attack(
        "frames announced as huge", Script(_join, frame(b"", length=1 << 40)), 1_000, 200, memory=32
    ),
)
