"""Real processes for the tests: the relay under twistd, and AceBase processes around it.

Everything here waits for events with a deadline and never sleeps. It uses threads and no
reactor, so that a test is a plain list of steps.

* :class:`Relay`: one ``twistd -n acebase-ipc``.
* :class:`Peer`: one Node process with the npm package acebase (``peer.js``).
* :class:`PythonPeer`: one Python process with an ``AceBasePeer`` (``python_peer.py``).
* :class:`Cluster`: a ``[master]`` and its workers on the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal, Self

from tests.programs import missing, program

HERE = Path(__file__).parent

# Seconds. Ten times what a loaded two-core machine needed for the slowest single step.
DEADLINE = 20.0

# AceBase clients take these digits in a refused port number for an HTTP status (client bug 7).
UNLUCKY_PORT = re.compile("403|409|500")
PORT = re.compile(r"(wss?)://127\.0\.0\.1:(\d+)")

Role = Literal["master", "worker"]


class PeerError(Exception):
    """A peer answered a call with an error; the text is the peer's."""


class PeerDied(Exception):
    """A peer's process ended before it had answered."""


@dataclass(frozen=True, slots=True)
class Address:
    """The port of a relay, and what a client needs to connect to it."""

    port: int
    tls: bool = False
    token: str | None = None
    certificate: Path | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """The arguments of a subscription's callback, texts above 1000 units as their digest."""

    subscription: str
    path: str
    value: Any
    origin: str


def digest(text: str) -> dict[str, Any]:
    """What a peer reports in place of a text of more than 1000 UTF-16 units."""
    return {
        "length": len(text.encode("utf-16-le")) // 2,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def node() -> str:
    """The Node executable; without one, skip the test, or fail it where ``CI`` is set."""
    executable = program("node")
    if not (HERE / "node_modules" / "acebase").is_dir():
        missing("the AceBase client is not installed: run 'npm ci' in tests/acebase")
    return executable


class Process:
    """A child process whose output lines are read by threads; base of the two kinds we start."""

    started: ClassVar[list[Process]] = []
    changed: ClassVar[threading.Condition] = threading.Condition()
    """Held while a line is processed, then notified; one for all processes, to wait for any."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        inherited: Sequence[int] = (),
    ) -> None:
        """``inherited`` are file descriptors for the child besides the usual three."""
        self.name = name
        self.output: list[str] = []
        self.killed = False
        self._unfinished_streams = 2
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            pass_fds=inherited,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._stdin: IO[str] = self._child.stdin
        for stream, take in (
            (self._child.stdout, self.take_line),
            (self._child.stderr, self.output.append),
        ):
            threading.Thread(target=self._read, args=(stream, take), daemon=True).start()
        self.started.append(self)

    def _read(self, stream: IO[str], take: Callable[[str], None]) -> None:
        for line in stream:
            with self.changed:
                take(line.rstrip("\n"))
                self.changed.notify_all()
        stream.close()
        with self.changed:
            self._unfinished_streams -= 1
            self.changed.notify_all()

    def take_line(self, line: str) -> None:
        """Process one line of standard output; called with :attr:`changed` held."""
        self.output.append(line)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def ended(self) -> bool:
        """Whether the process has closed its output, and all of it has been read."""
        return self._unfinished_streams == 0

    def text(self) -> str:
        """The output so far, without answers."""
        return "\n".join(self.output)

    def wait_for(self, what: str, holds: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait until ``holds()``, which is called after every line of output.

        Raises :exc:`PeerDied` when the process ends first, :exc:`TimeoutError` after
        ``deadline`` seconds; the error names ``what`` was awaited, and has the last output.
        """
        with self.changed:
            self.changed.wait_for(
                lambda: holds() or self.ended, DEADLINE if deadline is None else deadline
            )
            if holds():
                return
            error = PeerDied if self.ended else TimeoutError
            raise error(f"{self.name}: {what}: {self.text()[-2000:]}")

    def wait_ended(self, deadline: float | None = None) -> int:
        """Wait until the process has ended; returns its exit status."""
        status = self._child.wait(deadline or DEADLINE)
        self.wait_for("end of its output", lambda: self.ended)
        return status

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL the process and wait for its end. Does nothing if it has ended already."""
        self.killed = True
        self._child.kill()
        self._child.wait(DEADLINE)
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()


class Relay(Process):
    """One ``twistd -n acebase-ipc``. Read :attr:`addresses`: one for each of ``endpoints``."""

    def __init__(
        self,
        *options: str,
        endpoints: Sequence[str] = ("tcp:0:interface=127.0.0.1",),
        token: str | None = None,
        certificate: Path | None = None,
    ) -> None:
        self._token = token
        self._certificate = certificate
        self.addresses: list[Address] = []
        super().__init__(
            "relay",
            [
                sys.executable,
                "-c",
                "from twisted.scripts.twistd import run; run()",
                "--nodaemon",
                "--pidfile=",
                "acebase-ipc",
                *(f"--port={endpoint}" for endpoint in endpoints),
                *options,
            ],
            {} if token is None else {"ACEBASE_IPC_TOKEN": token},
        )
        try:
            self.wait_for("listening", lambda: len(self.addresses) == len(endpoints))
        except Exception:
            self.kill()
            raise

    def take_line(self, line: str) -> None:
        super().take_line(line)
        for scheme, port in PORT.findall(line.partition("listening on ")[2]):
            tls = scheme == "wss"
            certificate = self._certificate if tls else None
            self.addresses.append(Address(int(port), tls, self._token, certificate))

    @property
    def address(self) -> Address:
        """The first address."""
        return self.addresses[0]

    def stop(self, seconds: float = 10) -> None:
        """End the relay with SIGTERM, and check that it shut down cleanly and in time.

        After its shutdown twistd lets the signal end its process.
        """
        self.signal(signal.SIGTERM)
        try:
            status = self.wait_ended(seconds)
        finally:
            self.kill()
        said = self.text()
        assert status in (0, -signal.SIGTERM), f"the relay ended with {status}: {said[-4000:]}"
        assert "stopped" in said
        assert "Traceback" not in said, said


@contextlib.contextmanager
def running_relay(
    *options: str,
    endpoints: Sequence[str] = ("tcp:0:interface=127.0.0.1",),
    token: str | None = None,
    certificate: Path | None = None,
) -> Iterator[Relay]:
    """Run a relay on free ports, and end it with SIGTERM."""
    for _ in range(10):
        relay = Relay(*options, endpoints=endpoints, token=token, certificate=certificate)
        if not any(UNLUCKY_PORT.search(str(address.port)) for address in relay.addresses):
            break
        relay.kill()  # it may listen already, but not yet handle signals
    try:
        yield relay
    except BaseException:
        relay.kill()
        raise
    relay.stop()


class Pending:
    """A call that a peer may not have answered yet."""

    def __init__(self, peer: Peer, number: int, what: str) -> None:
        self._peer = peer
        self._number = number
        self._what = what

    @property
    def answered(self) -> bool:
        return self._number in self._peer.answers

    def result(self, deadline: float | None = None) -> Any:
        """Wait for the answer. Raises :exc:`PeerError`, :exc:`PeerDied`, :exc:`TimeoutError`."""
        self._peer.wait_for(self._what, lambda: self.answered, deadline)
        answer = self._peer.answers[self._number]
        if "error" in answer:
            raise PeerError(f"{self._peer.name}: {self._what}: {answer['error']}")
        return answer["result"]


class Peer(Process):
    """One AceBase process. ``peer.js`` lists the commands for :meth:`call`.

    :ivar stage: stage of the latest transaction: requested, begun, returned or acknowledged.
    :ivar begun: the value that each transaction set out to write.
    :ivar acknowledged: the value that each completed transaction has written.
    :ivar acknowledged_at: when each was told, in monotonic seconds.
    """

    def __init__(
        self,
        address: Address,
        database: str,
        directory: Path,
        role: Role = "worker",
        *,
        name: str | None = None,
        away: bool = False,
        opens_after: float = 0,
        survives: bool = False,
    ) -> None:
        self.id = ""
        self.opened = False
        self.answers: dict[int, dict[str, Any]] = {}
        self.events: list[Event] = []
        self.stage = ""
        self.begun: list[int] = []
        self.acknowledged: list[int] = []
        self.acknowledged_at: list[float] = []
        self.fatal: str | None = None
        self.ipc_exit: int | None = None
        self.welcomes = 0
        self._calls = 0
        ipc: dict[str, Any] = {"host": "127.0.0.1", "port": address.port, "ssl": address.tls}
        if address.token is not None:
            ipc["token"] = address.token
        options = {
            "name": database,
            "path": str(directory),
            "role": role,
            "ipc": ipc,
            "away": away,
            "opensAfter": opens_after * 1000,
            "survives": survives,
        }
        trust = {"NODE_EXTRA_CA_CERTS": str(address.certificate)} if address.certificate else {}
        super().__init__(name or role, [*self.program(), json.dumps(options)], trust)

    @staticmethod
    def program() -> list[str]:
        """The command line, without the peer's options."""
        return [node(), str(HERE / "peer.js")]

    def take_line(self, line: str) -> None:
        match json.loads(line):
            case {"answer": int(number)} as answer:
                self.answers[number] = answer
            case {"event": dict(event)}:
                self.events.append(Event(**event))
            case {"transaction": str(stage), "value": int(value)}:
                self.stage = stage
                if stage == "begun":
                    self.begun.append(value)
                elif stage == "acknowledged":
                    self.acknowledged.append(value)
                    self.acknowledged_at.append(time.monotonic())
            case {"opened": {"id": str(own_id)}}:
                self.id = own_id
                self.opened = True
            case {"welcomed": int(number), "id": str(own_id)}:
                self.id = own_id
                self.welcomes = number
            case {"ipcExit": code}:
                self.ipc_exit = code or 0
            case {"fatal": {"text": str(text)}}:
                self.fatal = text
                self.output.append(text)
            case _:
                self.output.append(line)

    def wait_ready(self, deadline: float | None = None) -> None:
        """Wait until the database is open and the relay's welcome has been processed."""
        self.wait_for("joining", lambda: self.opened and self.welcomes > 0, deadline)

    def wait_opened(self) -> None:
        """Wait until the database is open, whether or not the relay can be reached."""
        self.wait_for("opening the database", lambda: self.opened)

    def begin(self, do: str, **parameters: Any) -> Pending:
        """Send a command to the peer, without waiting for the answer."""
        self._calls += 1
        request = {"call": self._calls, "do": do, **parameters}
        try:
            self._stdin.write(json.dumps(request) + "\n")
            self._stdin.flush()
        except BrokenPipeError:
            self.wait_for("end of its output", lambda: self.ended)
            raise PeerDied(f"{self.name}: before {do}: {self.text()[-2000:]}") from None
        return Pending(self, self._calls, do)

    def call(self, do: str, deadline: float | None = None, **parameters: Any) -> Any:
        """Send a command to the peer, and wait for its answer."""
        return self.begin(do, **parameters).result(deadline)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression over ``db``, ``ipc`` and ``wire``."""
        return self.call("evaluate", expression=expression)

    def until(self, expression: str, deadline: float | None = None) -> None:
        """Wait until a JavaScript expression over ``db``, ``ipc`` and ``wire`` holds."""
        self.begin("until", expression=expression).result(deadline)

    def set(self, path: str, value: Any, deadline: float | None = None) -> None:
        self.call("set", deadline, path=path, value=value)

    def get(self, path: str, deadline: float | None = None) -> Any:
        return self.call("get", deadline, path=path)

    def subscribe(self, path: str, event: str, writers: Sequence[Peer] = ()) -> None:
        """Subscribe, and wait until each of ``writers`` has received the subscription."""
        self.call("subscribe", path=path, event=event)
        known = (
            f"ipc.remoteSubscriptions.some((each) => each.for === {json.dumps(self.id)}"
            f" && each.path === {json.dumps(path)} && each.event === {json.dumps(event)})"
        )
        for answer in [writer.begin("until", expression=known) for writer in writers]:
            answer.result()

    def values(self, subscription: str, origin: Peer | None = None) -> list[Any]:
        """The values of a subscription ("event path"), in order of arrival."""
        with self.changed:
            return [
                event.value
                for event in self.events
                if event.subscription == subscription
                and (origin is None or event.origin == origin.id)
            ]

    def wait_values(self, subscription: str, count: int, origin: Peer | None = None) -> list[Any]:
        """Wait for at least ``count`` values of a subscription; returns all values."""
        self.wait_for(
            f"{count} of {subscription!r}", lambda: len(self.values(subscription, origin)) >= count
        )
        return self.values(subscription, origin)

    def wait_acknowledged(self, count: int, deadline: float | None = None) -> None:
        """Wait until at least ``count`` transactions have completed, since its start."""
        self.wait_for(f"transaction {count}", lambda: len(self.acknowledged) >= count, deadline)

    def wait_notified(self, word: str, others: Sequence[Peer]) -> None:
        """Wait until the notification ``word`` of each of ``others`` has arrived."""
        self.wait_for(
            f"the others' {word!r}",
            lambda: all(word in self.values("notification", other) for other in others),
        )

    def wait_gone(self, other: Peer, deadline: float | None = None) -> None:
        """Wait until the relay has announced that the other process has left."""
        gone = f"([kind, id]) => kind === 'disconnect' && id === {json.dumps(other.id)}"
        self.until(f"wire.announced.some({gone})", deadline)

    def wait_idle(self) -> None:
        """Wait until the peer has no lock and no open request."""
        self.until("ipc._requests.size === 0 && ipc._locks.length === 0")


class PythonPeer(Peer):
    """One process with :class:`acebase_ipc.peer.peer.AceBasePeer`, without database files.

    ``python_peer.py`` lists the commands for :meth:`call`.
    """

    @staticmethod
    def program() -> list[str]:
        return [sys.executable, str(HERE / "python_peer.py")]


def exchange(*peers: Peer) -> None:
    """Send a notification from each peer to all others, twice; earlier messages have then arrived.

    After the first round all peers have received a newcomer's hello, which the relay sent before;
    after the second the answers have arrived, too.
    """
    for _ in range(2):
        word = f"word {next(_words)}"
        for answer in [peer.begin("notify", value=word) for peer in peers]:
            answer.result()
        for peer in peers:
            peer.wait_notified(word, [other for other in peers if other is not peer])


_words = itertools.count(1)


class Cluster:
    """The processes of one database: at most one ``[master]``, and workers, on the same files.

    A context manager: all processes are killed at its end, and none that the test did not kill
    may have ended before. With several ``addresses``, the processes use them in turn.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        directory: Path,
        database: str = "cluster",
        survives: bool = False,
    ) -> None:
        """:param survives: whether the processes catch exceptions that nothing else catches."""
        self.addresses = addresses
        self.directory = directory
        self.database = database
        self.survives = survives
        self.peers: list[Peer] = []

    def start(
        self,
        role: Role = "worker",
        *,
        away: bool = False,
        opens_after: float = 0,
        kind: type[Peer] = Peer,
    ) -> Peer:
        """Start one more process, without waiting for it.

        If ``away``, it does not connect before the command ``return``. Its disk takes
        ``opens_after`` seconds until it has read the file.
        """
        peer = kind(
            self.addresses[len(self.peers) % len(self.addresses)],
            self.database,
            self.directory,
            role,
            name=f"{self.database} {role} {len(self.peers)}",
            away=away,
            opens_after=opens_after,
            survives=self.survives,
        )
        self.peers.append(peer)
        return peer

    def join(self, *roles: Role) -> list[Peer]:
        """Start processes at the same time, and wait until all are ready."""
        peers = [self.start(role) for role in roles]
        for peer in peers:
            peer.wait_ready()
        return peers

    def open(self, *keys: str, workers: int) -> tuple[Peer, list[Peer]]:
        """Start a master, let it create the top-level ``keys``, then let the workers join.

        In this order, because the root record moves when it grows, after which clients may
        broadcast its address endlessly (client bug 6).
        """
        (master,) = self.join("master")
        for key in keys:
            master.set(key, {"seed": 0})
        roles: list[Role] = ["worker"] * workers
        return master, self.join(*roles)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        dead = [peer for peer in self.peers if peer.ended and not peer.killed]
        for peer in self.peers:
            peer.kill()
        if error is None:
            assert not dead, "\n".join(f"{peer.name} died: {peer.text()}" for peer in dead)
