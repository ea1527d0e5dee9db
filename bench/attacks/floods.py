"""Attacks by connections that send as much as they can, or all at once."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from bench.attacks.measurement import TOKEN, Attack, Stage, Tally
from bench.attacks.peers import DEADLINE, PING, Address, Peer, frame, http, insecure_tls, upgrade
from bench.attacks.pump import LINGER_AND_RESET, Connect, Pump, Refill
from bench.processes import BenchError

READ = 1 << 16
"""Bytes that the relay reads at a time."""

SMALL_BUFFER = 2304
"""Bytes of a receive buffer that is soon full, with the least that Linux allows."""

PINGS = frame(b"", PING) * (READ // 6)
LONG_PINGS = frame(bytes(125), PING) * (READ // 131)
REQUEST = http("GET /")
REQUESTS = REQUEST * (READ // len(REQUEST))
BROADCAST = frame(b"x")
BURST = BROADCAST * (READ // len(BROADCAST))
"""9,362 broadcasts."""

BURST_INTERVAL = 3.0
"""Seconds between two bursts."""

ENOUGH = 128 << 20
"""Bytes of pings or requests that are not read any more well before that."""

LONG_SECONDS = 30.0
"""Seconds in which to send them."""

STANDSTILL = 6.0
"""Seconds without a byte read after which the relay reads no more."""

OPERATOR_INTERVAL = 0.1
"""Seconds between two questions of an operator."""

SESSION_SECONDS = 15.0
"""Default lifetime of a session whose connection is lost."""

MARGIN = 4.0
"""Seconds after which what is due has to have happened."""

LITTLE_MEMORY = ("--max-memory=16MiB", "--max-backlog=8MiB")

SHORT_DEADLINES = (
    "--handshake-timeout=2",
    "--request-timeout=3",
    "--http-idle=2",
    "--keepalive-interval=3",
    "--keepalive-timeout=2",
)
ABORT_SECONDS = 24.0
"""More than these deadlines and the 15 s that Twisted waits at most for a connection to end."""


def _id(number: int) -> str:
    return f"{number:024}"  # as many characters as AceBase's ids have


def _messages(number: int) -> bytes:
    message = frame(f"to:{_id(number ^ 1)};".encode() + b"x" * 200)
    return message * (READ // len(message))


def _joining(
    stage: Stage, dialect: str = "documented", receive_buffer: int | None = None
) -> Connect:
    def connect(number: int) -> socket.socket:
        return Peer(
            stage.address,
            _id(number),
            "flooded",
            TOKEN,
            dialect=dialect,
            receive_buffer=receive_buffer,
        ).socket

    return connect


def _calling(stage: Stage, receive_buffer: int | None = None) -> Connect:
    def connect(number: int) -> socket.socket:
        each = socket.socket()
        if receive_buffer is not None:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        each.settimeout(DEADLINE)
        each.connect(stage.address)
        return each

    return connect


def _flood(stage: Stage, connect: Connect, refill: Refill) -> None:
    stage.ready()
    with Pump(connect, refill) as pump:
        pump.open(stage.count)
        pump.run(stage.seconds)
        stage.finish(Tally(pump.ended, sent=pump.sent))


def _flood_without_reading(stage: Stage, connect: Connect, refill: Refill) -> None:
    """Go on until enough was sent to fill the relay's memory, or the relay reads no more."""
    stage.ready()
    with Pump(connect, refill, reads=False) as pump:
        pump.open(stage.count)
        end = time.monotonic() + LONG_SECONDS
        sent = -1
        while sent < pump.sent < ENOUGH and time.monotonic() < end:
            sent = pump.sent
            pump.run(STANDSTILL)
        stage.finish(Tally(pump.ended, sent=pump.sent))


def unread_pongs(stage: Stage) -> None:
    """Send pings, and read no pong."""
    connect = _joining(stage, receive_buffer=SMALL_BUFFER)
    _flood_without_reading(stage, connect, lambda _: LONG_PINGS)


def ping_flood(stage: Stage) -> None:
    """Send pings without end, and read the pongs."""
    _flood(stage, _joining(stage), lambda _: PINGS)


def pipelined_requests(stage: Stage) -> None:
    """Send requests without a token and without end, and read the answers."""
    _flood(stage, _calling(stage), lambda _: REQUESTS)


def unread_answers(stage: Stage) -> None:
    """Send requests without a token, and read no answer."""
    _flood_without_reading(stage, _calling(stage, SMALL_BUFFER), lambda _: REQUESTS)


def full_speed(stage: Stage) -> None:
    """Send messages to the neighbour without end, and read the neighbour's."""
    _flood(stage, _joining(stage), _messages)


def broadcast_burst(stage: Stage) -> None:
    """Broadcast one byte 9,362 times in one write, to peers that read."""
    with Pump(_joining(stage)) as pump:
        pump.open(stage.count)
        pump.run(1.0)  # reads what the joins have caused
        stage.ready()
        end = time.monotonic() + stage.seconds
        while time.monotonic() < end:
            pump.feed(0, BURST)
            pump.run(BURST_INTERVAL)
        stage.finish(Tally(pump.ended, sent=pump.sent))


def sessions_ending_together(stage: Stage) -> None:
    """Lose the connections of AceBase workers, and let their sessions expire."""
    with Pump(_joining(stage, "acebase")) as pump:
        pump.open(stage.count)
        pump.run(1.0)
        stage.ready()
        pump.reset()
        time.sleep(SESSION_SECONDS + MARGIN)
        stage.finish(Tally())


def admin_connections(stage: Stage) -> None:
    """Open connections and reset them, as fast as possible, while an operator asks for the status.

    :raises BenchError: if the operator has no answer.
    """
    operator = Operator(stage.address)
    stage.ready()
    operator.start()
    end = time.monotonic() + stage.seconds
    opened = 0
    while time.monotonic() < end:
        batch = [socket.socket() for _ in range(stage.count)]
        for each in batch:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(stage.address)
        for each in batch:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_AND_RESET)
            each.close()
        opened += len(batch)
    operator.finish()
    stage.finish(Tally(opened))


class Operator(threading.Thread):
    """Asks an admin endpoint for the status again and again."""

    def __init__(self, address: Address) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._goes_on = True
        self._failure: OSError | None = None

    def run(self) -> None:
        """Ask, until :meth:`finish`; once at least."""
        try:
            while self._ask() and self._goes_on:
                time.sleep(OPERATOR_INTERVAL)
        except OSError as error:
            self._failure = error

    def _ask(self) -> bool:
        with socket.create_connection(self._address, DEADLINE) as connection:
            connection.sendall(http("GET /api/v1/status", "Connection: close"))
            answer = b"".join(iter(lambda: connection.recv(READ), b""))
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"the answer is {answer[:20]!r}")
        return True

    def finish(self) -> None:
        """Wait for the last answer.

        :raises BenchError: if there was none, once.
        """
        self._goes_on = False
        self.join(DEADLINE)
        if self._failure is not None or self.is_alive():
            raise BenchError(f"the operator has no answer: {self._failure or 'it takes too long'}")


def tls_without_close_notify(stage: Stage) -> None:
    """Let the relay end TLS connections, and answer none of its ends."""
    requests = (
        http("GET /healthz", "Connection: close"),
        b"GET /healthz HTTP/1.0\r\n\r\n",
        http("POST /flooded/send?id=nobody&t=wrong", "Content-Length: 1", body=b"x"),
        upgrade("/flooded/connect?id=nobody&v=1&t=wrong"),
    )
    context = insecure_tls()
    stage.ready()
    raw = []
    for number in range(stage.count):
        connection = socket.create_connection(stage.address, DEADLINE)
        secure = context.wrap_socket(connection)
        secure.sendall(requests[number % len(requests)])
        # From now on nothing speaks TLS on it.
        raw.append(socket.socket(fileno=secure.detach()))
    time.sleep(ABORT_SECONDS)
    stuck = sum(map(_is_open, raw))
    stage.finish(Tally(stage.count - stuck, stuck))


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(READ):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return False


FLOODS = (
    Attack("pongs that are not read", unread_pongs, 2, 2, 40, LITTLE_MEMORY),
    Attack("ping flood", ping_flood, 20, 20, memory=32),
    Attack("pipelined requests", pipelined_requests, 20, 20, memory=32),
    Attack("answers that are not read", unread_answers, 2, 2, 40, LITTLE_MEMORY),
    Attack("broadcast burst", broadcast_burst, 1_000, 1_000, memory=256),
    Attack("peers at full speed", full_speed, 200, 200, memory=256),
    Attack(
        "TLS without close_notify",
        tls_without_close_notify,
        200,
        40,
        memory=32,
        options=SHORT_DEADLINES,
        secure=True,
    ),
    Attack("sessions that end together", sessions_ending_together, 1_200, 300, memory=64),
    Attack(
        "new connections to the admin endpoint",
        admin_connections,
        50,
        50,
        memory=32,
        at_admin=True,
    ),
)
