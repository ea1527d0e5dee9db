"""Whether the relay is alive, and whether it is ready for peers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from acebase_ipc.protocol.dialect import DOCUMENTED
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.protocol.messages import Message
from acebase_ipc.relay.connection import Connection, send_one_by_one
from acebase_ipc.relay.histogram import Histogram
from acebase_ipc.relay.peers import Database, Peer
from acebase_ipc.relay.relay import Relay
from acebase_ipc.rotation import Rotation

INTERVAL: Final = 0.25
"""Seconds between two measurements of the event loop's lag."""

KEPT: Final = 240
"""Measurements of a minute."""

RECENT: Final = 40
"""Measurements of ten seconds."""

MAX_LAG: Final = 1.0
"""Seconds by which the event loop of a relay that is ready may be late."""

CANARY_INTERVAL: Final = 1.0
"""Seconds between two canary messages."""

MAX_CANARY_AGE: Final = 10.0
"""Seconds since the arrival of a canary message, of a relay that is ready."""

CANARY_DATABASE: Final = ""
"""The name of the canary's database: no client can ask for one of this name."""


class LoopLag:
    """Measures by how much the event loop is late.

    :param clock: returns monotonic seconds.
    :ivar last: seconds of the last measurement.
    :ivar histogram: all measurements.
    """

    def __init__(self, reactor: IReactorTime, clock: Callable[[], float]) -> None:
        self._reactor = reactor
        self._clock = clock
        self._kept = deque[float](maxlen=KEPT)
        self._call: IDelayedCall | None = None
        self._due = 0.0
        self.last = 0.0
        self.histogram = Histogram()

    @property
    def max(self) -> float:
        """The highest lag of a minute, in seconds."""
        return max(self._kept, default=0.0)

    @property
    def recent(self) -> float:
        """The highest lag of ten seconds, in seconds."""
        return max(list(self._kept)[-RECENT:], default=0.0)

    def start(self) -> None:
        """Begin to measure."""
        self._due = self._clock() + INTERVAL
        self._call = self._reactor.callLater(INTERVAL, self._measure)

    def stop(self) -> None:
        """Measure no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _measure(self) -> None:
        self.last = max(0.0, self._clock() - self._due)
        self._kept.append(self.last)
        self.histogram.observe(self.last)
        self.start()


class Canary:
    """Sends messages from one peer to another, through the rotation, the router and delivery.

    The two are peers of the core, in a database of their own that is not in the registry. So
    neither they nor their messages are listed, counted or reported. What a peer outside needs
    beside the core, a listening port and a reactor that turns, is needed by the request for
    ``/readyz``, too.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, relay: Relay, rotation: Rotation, clock: Callable[[], float]) -> None:
        self._relay = relay
        self._rotation = rotation
        self._clock = clock
        self._next = 0.0
        self._sent = 0
        self._waits = False
        self._arrived: float | None = None
        database = Database(CANARY_DATABASE, relay.memory)
        self._sender, self._receiver = (
            Peer(
                Handshake(CANARY_DATABASE, name, DOCUMENTED, True),
                database,
                _Ear(self._received),
                0,
                relay.memory,
            )
            for name in ("sender", "receiver")
        )
        database.peers = {each.id: each for each in (self._sender, self._receiver)}

    @property
    def age(self) -> float | None:
        """Seconds since a message arrived; ``None`` before the first one."""
        return None if self._arrived is None else self._clock() - self._arrived

    def tick(self, now: float) -> None:
        """Send a message if that is due; to be called about once a second."""
        if now >= self._next and not self._waits:
            self._next = now + CANARY_INTERVAL
            self._waits = True
            self._rotation.do(self._send)

    def _send(self) -> bool:
        self._waits = False
        self._sent += 1
        self._relay.router.receive(self._sender, [b"to:receiver;%d" % self._sent])
        return False

    def _received(self, text: bytes) -> None:
        if text == b"msg:%d" % self._sent:
            self._arrived = self._clock()


class _Ear:
    """The connection of a peer of the canary's database."""

    is_full = False
    address = "canary"
    silence = 0.0
    lag = None
    unsent = 0
    memory = 0

    def __init__(self, received: Callable[[bytes], object]) -> None:
        self._received = received

    def send(self, message: Message) -> None:
        self._received(message.text)

    def send_text(self, text: bytes) -> None:
        self._received(text)

    def send_texts(self, texts: Sequence[bytes]) -> None:
        for text in texts:
            self._received(text)

    def send_each(
        self, message: Message, connections: Sequence[Connection], but: Connection | None
    ) -> None:
        send_one_by_one(message, connections, but)

    def reclaim(self) -> list[Message]:
        return []

    def check(self, timeout: float, answer: Callable[[bool], object]) -> None:
        answer(True)

    def close(self, code: int, reason: str) -> None:
        pass

    def suspend(self, code: int, reason: str) -> None:
        pass

    def abort(self) -> None:
        pass


def readiness(
    is_listening: bool,
    is_draining: bool,
    lag: float,
    age: float | None,
    has_lease: bool | None = None,
) -> dict[str, Any]:
    """Return whether a relay is ready for peers, and each check.

    :param lag: the event loop's highest lag of the last seconds.
    :param age: seconds since a canary message arrived; ``None`` if none has.
    :param has_lease: whether a member of a cluster may serve; ``None`` if it is none.
    """
    checks: dict[str, Any] = {
        "listening": is_listening,
        "not_draining": not is_draining,
        "loop_lag": {"ok": lag < MAX_LAG, "seconds": lag},
        "canary": {"ok": age is not None and age <= MAX_CANARY_AGE, "seconds_ago": age},
    }
    if has_lease is not None:
        checks["lease"] = has_lease
    ready = all(each["ok"] if isinstance(each, dict) else each for each in checks.values())
    return {"ready": ready, "checks": checks}
