"""Measures what peers notice when a relay stops at a quiet moment and the next one goes on.

::

    python -m bench.restart --idle 10000 --rounds 3

Peers of AceBase's dialect, ten in each database, only stay connected. The relay is stopped with
SIGTERM and started again, with the same ``--state-dir``, on a port that stays open. Each peer
answers the relay's close frame, and connects again when its connection has ended. Its pause is the
time from the close frame until it is welcomed. *Told* are messages that peers have received beside
their welcome: none if all sessions are resumed. CPU time is that of the relays: of one until it has
ended, of the next one until all peers are welcomed.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bench.hand_over import DEADLINE, HEAD, KEY, TWISTD, milliseconds
from bench.processes import cpu_seconds
from tests.activation import BACKLOG, activated

PER_DATABASE: Final = 10

SOURCES: Final = 50
"""Addresses of the peers. A connection that has ended keeps its port for a minute, and an address
has 28,000 of them."""

CONNECTING: Final = 1000
"""Peers that connect at the same time at the beginning."""

CLOSE: Final = 0x88
PING: Final = 0x89
PONG: Final = 0x8A


@dataclass(eq=False)
class Client:
    """A peer.

    :ivar closed_at: when it last received a close frame.
    :ivar welcomed_at: when it was last welcomed.
    :ivar told: how many messages it has received after the first welcome, but for later ones.
    """

    name: str
    database: str
    source: str
    sock: socket.socket = field(init=False, repr=False)
    has_asked: bool = False
    is_welcomed: bool = False
    buffer: bytes = field(default=b"", repr=False)
    closed_at: float = 0.0
    welcomed_at: float = 0.0
    told: int = 0

    def connect(self, port: int) -> None:
        """Begin to connect."""
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((self.source, 0))
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))
        self.has_asked = self.is_welcomed = False
        self.buffer = b""

    def ask(self) -> None:
        """Send the handshake."""
        self.sock.sendall(
            f"GET /{self.database}/connect?v=1.0.0&id={self.name}&t=undefined HTTP/1.1\r\n"
            "Host: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "\r\n".encode()
        )
        self.has_asked = True

    def receive(self) -> bool:
        """Receive what has come; returns whether the connection has ended."""
        try:
            data = self.sock.recv(65536)
        except OSError:
            return True
        self.buffer += data
        if self.buffer.startswith(b"HTTP"):
            head, found, rest = self.buffer.partition(HEAD)
            if not found:
                return False
            assert head.startswith(b"HTTP/1.1 101"), head
            self.buffer = rest
        while len(self.buffer) >= 2 and len(self.buffer) >= 2 + self.buffer[1]:
            end = 2 + self.buffer[1]  # all frames are short
            self._received(self.buffer[0], self.buffer[2:end])
            self.buffer = self.buffer[end:]
        return not data

    def _received(self, head: int, payload: bytes) -> None:
        if head == CLOSE:
            self.closed_at = time.perf_counter()
            self._answer(CLOSE, payload[:2])
        elif head == PING:
            self._answer(PONG, payload)
        elif payload.startswith(b"welcome:"):
            self.welcomed_at = time.perf_counter()
            self.is_welcomed = True
        else:
            self.told += 1

    def _answer(self, head: int, payload: bytes) -> None:
        self.sock.sendall(bytes((head, 0x80 | len(payload))) + KEY + payload)


class Clients:
    """All peers; one thread serves them.

    :ivar all_welcomed: set while all are.
    """

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._poll = select.epoll()
        self._by_descriptor: dict[int, Client] = {}
        self._missing = count
        self.all_welcomed = threading.Event()
        self.all = [
            Client(
                f"{number:024}", f"db{number // PER_DATABASE}", f"127.0.1.{number % SOURCES + 1}"
            )
            for number in range(count)
        ]
        self._waiting = self.all[::-1]

    def run(self, until: threading.Event) -> None:
        """Serve the peers until an event."""
        while not until.is_set():
            while self._waiting and self._missing - len(self._waiting) < CONNECTING:
                self._connect(self._waiting.pop())
            for descriptor, _ in self._poll.poll(0.05):
                self._serve(descriptor, self._by_descriptor[descriptor])

    def _connect(self, client: Client) -> None:
        client.connect(self._port)
        self._by_descriptor[client.sock.fileno()] = client
        self._poll.register(client.sock, select.EPOLLOUT)

    def _serve(self, descriptor: int, client: Client) -> None:
        if not client.has_asked:
            client.ask()
            self._poll.modify(descriptor, select.EPOLLIN)
            return
        was_welcomed = client.is_welcomed
        if client.receive():
            self._poll.unregister(descriptor)
            client.sock.close()
            self._missing += client.is_welcomed
            self.all_welcomed.clear()
            self._connect(client)
        elif client.is_welcomed and not was_welcomed:
            self._missing -= 1
            if not self._missing:
                self.all_welcomed.set()


class Relay:
    """A relay on a socket that listens already; returns when it serves."""

    def __init__(self, listening: socket.socket, directory: str) -> None:
        relay = (TWISTD, "-n", "--pidfile=", "acebase-ipc", "--port", "systemd:")
        self._process = subprocess.Popen(
            activated([listening], *relay, "--state-dir", directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[listening.fileno()],
        )
        self._lines: list[str] = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if "] ready" in line:
                break
        else:
            raise RuntimeError("".join(self._lines))
        self._reading = threading.Thread(
            target=self._lines.extend, args=(self._process.stdout,), daemon=True
        )
        self._reading.start()

    def cpu(self) -> float:
        """Return the seconds of CPU time that it has used."""
        return cpu_seconds(self._process.pid)

    def stop(self) -> float:
        """Stop it, and wait until it has ended; returns the CPU time that this has taken."""
        before = self.cpu()
        self._process.send_signal(signal.SIGTERM)
        _, _, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = 0
        return usage.ru_utime + usage.ru_stime - before


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--between", type=float, default=1.0, help="seconds between two")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    with (
        tempfile.TemporaryDirectory() as name,
        socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening,
    ):
        relay = Relay(listening, f"{name}/state")
        clients = Clients(listening.getsockname()[1], options.idle)
        thread = threading.Thread(target=clients.run, args=(stop,))
        thread.start()
        try:
            if not clients.all_welcomed.wait(DEADLINE):
                raise TimeoutError("the peers are not welcomed")
            for _ in range(options.rounds):
                time.sleep(options.between)
                relay = restart(relay, listening, f"{name}/state", clients)
        finally:
            stop.set()
            thread.join()
            relay.stop()
    return 0


def restart(relay: Relay, listening: socket.socket, directory: str, clients: Clients) -> Relay:
    """Restart the relay once, and print what that has taken; returns the next one."""
    for each in clients.all:
        each.told = 0
    began = time.perf_counter()
    stopping = relay.stop()
    ended = time.perf_counter()
    relay = Relay(listening, directory)
    served = time.perf_counter()
    if not clients.all_welcomed.wait(DEADLINE):
        raise TimeoutError("the peers are not welcomed again")
    welcomed = max(each.welcomed_at for each in clients.all)
    pauses = [each.welcomed_at - each.closed_at for each in clients.all]
    closed = [each.closed_at - began for each in clients.all]
    print(f"{len(clients.all)} idle peers: pause {milliseconds(pauses)}", end="; ")
    print(f"told {sum(each.told for each in clients.all)}")
    print(f"  closed {milliseconds(closed)} after SIGTERM, ended after {ended - began:.2f} s")
    print(f"  started within {served - ended:.2f} s, all welcomed {welcomed - served:.2f} s later")
    print(f"  CPU time: {stopping:.2f} s and {relay.cpu():.2f} s", flush=True)
    return relay


if __name__ == "__main__":
    sys.exit(main())
