"""Measures what peers notice when a relay hands them over to its successor.

::

    python -m bench.hand_over --busy 200 --idle 2000 --rounds 10

Busy peers send each other numbered messages in pairs, in a closed loop: the next one follows when
the answer is there. Idle ones only stay connected. The relay hands over again and again. Counted
are messages that were lost, doubled or out of order, and connections that were closed. The pause of
a peer is its longest time without a message around a hand-over; that between two hand-overs is
shown beside it. Descriptors and memory are those of the last process.
"""

from __future__ import annotations

import argparse
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

TWISTD: Final = Path(sys.executable).with_name("twistd")
DEADLINE: Final = 120.0
"""Seconds for each step."""

KEY: Final = b"\0\0\0\0"
ANSWER: Final = re.compile(rb"msg:(\d+)")
HEAD: Final = b"\r\n\r\n"


def frame(text: bytes) -> bytes:
    """Return the frame of a client for a short *text*."""
    return bytes((0x81, 0x80 | len(text))) + KEY + text


@dataclass(eq=False)
class Client:
    """A peer.

    :ivar partner: whom it exchanges messages with; ``None`` if it is idle.
    :ivar expected: the number that it has to receive next.
    :ivar received_at: when it last received a number.
    :ivar longest: its longest time without one.
    """

    sock: socket.socket
    name: str
    partner: str | None
    expected: int = 0
    sent: int = 0
    doubled: int = 0
    missing: int = 0
    received_at: float = 0.0
    longest: float = 0.0
    is_closed: bool = False
    buffer: bytes = field(default=b"", repr=False)

    def send(self) -> None:
        """Send the next number to the partner."""
        self.sock.sendall(frame(b"to:%s;%d" % ((self.partner or "").encode(), self.sent)))
        self.sent += 1

    def receive(self) -> None:
        """Receive what has come, and answer each number."""
        data = self.sock.recv(65536)
        if not data:
            self.is_closed = True
            return
        data = self.buffer + data
        start = 0
        while len(data) - start >= 2:
            size, begin = data[start + 1], start + 2
            if size == 126:
                if len(data) < start + 4:
                    break
                size, begin = int.from_bytes(data[start + 2 : start + 4], "big"), start + 4
            if len(data) < begin + size:
                break
            self._received(data[start], data[begin : begin + size])
            start = begin + size
        self.buffer = data[start:]

    def _received(self, head: int, text: bytes) -> None:
        if head == 0x89:
            self.sock.sendall(bytes((0x8A, 0x80 | len(text))) + KEY + text)
        elif head == 0x88:
            self.is_closed = True
        elif match := ANSWER.fullmatch(text):
            number = int(match[1])
            now = time.perf_counter()
            self.longest = max(self.longest, now - self.received_at)
            self.received_at = now
            if number == self.expected:
                self.expected += 1
                self.send()
            elif number < self.expected:
                self.doubled += 1
            else:
                self.missing += number - self.expected
                self.expected = number + 1


class Clients:
    """All peers, served by one thread."""

    def __init__(self, port: int, busy: int, idle: int) -> None:
        self._selector = selectors.DefaultSelector()
        self.busy = [
            self._join(port, "busy", f"busy{number:05}", f"busy{number ^ 1:05}")
            for number in range(busy)
        ]
        self.idle = [
            self._join(port, f"idle{number // 10}", f"idle{number:05}", None)
            for number in range(idle)
        ]

    def _join(self, port: int, database: str, name: str, partner: str | None) -> Client:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = (
            f"GET /{database}/connect?id={name}&v=1.0.0 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        sock.sendall(request.encode())
        data = b""
        while HEAD not in data:
            data += sock.recv(65536)
        client = Client(sock, name, partner, buffer=data.partition(HEAD)[2])
        self._selector.register(sock, selectors.EVENT_READ, client)
        self._serve(0)
        return client

    def _serve(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            client: Client = key.data
            client.receive()
            if client.is_closed:
                self._selector.unregister(client.sock)

    def run(self, until: threading.Event) -> None:
        """Exchange messages until an event."""
        while not until.is_set():
            self._serve(0.05)

    def begin(self) -> None:
        """Let one of each pair send its first number."""
        now = time.perf_counter()
        for client in self.busy:
            client.received_at = now
        for client in self.busy:
            client.send()

    def take_longest(self) -> list[float]:
        """Return the longest time without a message of each busy peer since the last call."""
        longest = [each.longest for each in self.busy]
        for each in self.busy:
            each.longest = 0.0
        return longest


class Relays:
    """The relay, and each of its successors; their log."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._first = subprocess.Popen(
            [TWISTD, "-n", "--pidfile=", "acebase-ipc", "--port", "tcp:0:interface=127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._first.pid
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.wait_for(r"listening on ws://127\.0\.0\.1:(\d+)", 1)[0])
        self.wait_for(r"#info\] (ready)", 1)

    def _read(self) -> None:
        assert self._first.stdout is not None
        for line in self._first.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()

    def wait_for(self, pattern: str, count: int) -> list[str]:
        """Wait until the log has *count* matches; returns them."""

        def found() -> list[str]:
            return re.findall(pattern, "".join(self._lines))

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, DEADLINE):
                raise TimeoutError(f"no {pattern}: {''.join(self._lines[-20:])}")
            return found()

    def hand_over(self, count: int) -> float:
        """Hand over for the *count*th time; returns what the successor says of the pause in ms."""
        os.kill(self.pid, signal.SIGUSR2)
        self.pid = int(self.wait_for(r"the process (\d+) has taken over", count)[-1])
        pauses = self.wait_for(r"are taken over, in (\d+) ms", count)
        self.wait_for(r"#info\] (ready)", count + 1)
        return float(pauses[-1])

    def files(self) -> int:
        """Return the open descriptors of the present process."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self) -> float:
        """Return its resident memory in MiB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096 / (1 << 20)

    def stop(self) -> None:
        """End the present process."""
        os.kill(self.pid, signal.SIGTERM)


def milliseconds(seconds: Sequence[float]) -> str:
    """Return the median and the maximum."""
    return f"p50 {median(seconds) * 1000:.1f} max {max(seconds) * 1000:.1f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--busy", type=int, default=200)
    parser.add_argument("--idle", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--between", type=float, default=1.0, help="seconds between two")
    options = parser.parse_args(arguments)
    relays = Relays()
    stop = threading.Event()
    try:
        clients = Clients(relays.port, options.busy, options.idle)
        files, memory = relays.files(), relays.memory()
        thread = threading.Thread(target=clients.run, args=(stop,))
        clients.begin()
        thread.start()
        pauses: list[float] = []
        others: list[float] = []
        frozen: list[float] = []
        for number in range(1, options.rounds + 1):
            time.sleep(options.between)
            others += clients.take_longest()
            frozen.append(relays.hand_over(number) / 1000)
            time.sleep(0.2)
            pauses += clients.take_longest()
        time.sleep(options.between)
        stop.set()
        thread.join()
        after = f"{relays.files()}, memory {memory:.0f} -> {relays.memory():.0f} MiB"
    finally:
        stop.set()
        relays.stop()
    every = [*clients.busy, *clients.idle]
    print(f"{options.busy} busy and {options.idle} idle peers, {options.rounds} hand-overs")
    print(f"sent {sum(each.sent for each in clients.busy)}", end=", ")
    print(f"received {sum(each.expected for each in clients.busy)}", end=", ")
    end = max(each.received_at for each in clients.busy) if clients.busy else 0.0
    stuck = sum(end - each.received_at > options.between / 2 for each in clients.busy)
    print(f"lost {sum(each.missing for each in clients.busy)}, stuck {stuck}", end=", ")
    print(f"doubled {sum(each.doubled for each in clients.busy)}", end=", ")
    print(f"closed {sum(each.is_closed for each in every)}")
    if clients.busy:
        print(f"pause of a peer: {milliseconds(pauses)}; between: {milliseconds(others)}")
    print(f"pause of the relay: {milliseconds(frozen)}")
    print(f"descriptors {files} -> {after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
