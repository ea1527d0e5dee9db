"""A link to the relay: connects, and connects again until a permanent refusal.

::

    NEW ── start ──> CONNECTING ── welcome ──> CONNECTED
                      ^   |  ^                     |
                      |   |  └──── it is lost ─────┘
                      |   └── a permanent refusal ──> FAILED ── start ──> CONNECTING
                      |
    any ── stop ──> STOPPING ── the connection has ended ──> STOPPED ── start ──> CONNECTING
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import isfinite
from random import uniform
from typing import Any, Protocol

from autobahn.websocket.types import ConnectingRequest
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callouts
from acebase_ipc.client.connection import ClientConnection, ClientConnectionFactory
from acebase_ipc.client.errors import (
    ClientStopped,
    ConnectionFailed,
    ConnectionProblem,
    Finality,
    NotARelay,
    NotConnected,
)
from acebase_ipc.protocol.messages import PING, Incoming, Pong, Welcome, read

MAX_RETRY_DELAY = 30.0
"""Seconds."""

CONNECT_TIMEOUT = 40.0
"""Seconds for one attempt to connect a transport: more than the 30 s of Twisted's own
endpoints, so that their text is the one that is seen."""

FALLBACK_DELAY = 0.5
"""Seconds, where a retry policy does not return a delay: the shortest of the default."""

STABLE = 10.0
"""Seconds after which a connection counts as good, so that the next delay is short."""

log = Logger()


def retry_delay(failures: int) -> float:
    """Seconds to wait after so many *failures* in a row: doubled each time, and random.

    At first half a second to one second, in the end 15 to 30 seconds: when a relay
    returns, its clients do not all connect at the same moment.
    """
    return min(MAX_RETRY_DELAY, 2.0 ** min(failures - 1, 10)) * uniform(0.5, 1.0)


class ClientState(Enum):
    """What a link does."""

    NEW = "not started"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "refused for good"


@dataclass(frozen=True, slots=True)
class Route:
    """How to connect to the relay.

    :ivar request: returns the request of the next handshake.
    :ivar max_message: bytes that an incoming message may have.
    :ivar clock: returns monotonic seconds.
    """

    endpoint: IStreamClientEndpoint
    request: Callable[[], ConnectingRequest]
    max_message: int
    reactor: Any
    clock: Callable[[], float]


class LinkObserver(Protocol):
    """What a link reports to."""

    def welcomed(self, connection: ClientConnection, welcome: Welcome) -> None:
        """The relay has welcomed the client."""

    def received(self, message: Incoming, size: int) -> None:
        """A message of *size* bytes has arrived."""

    def drained(self) -> None:
        """There is room again for what is to be sent."""

    def disconnected(self, problem: ConnectionProblem) -> None:
        """A connection on which the relay had welcomed the client has ended."""

    def gave_up(self, error: ConnectionProblem | ClientStopped) -> None:
        """There will be no other connection."""


class Link:
    """A connection to the relay, which is made again when it is lost.

    :param retry_policy: seconds to wait after so many failures in a row (from 1).
    :ivar state: what it does.
    :ivar problem: why there is no connection now; ``None`` if there is one.
    :ivar connection: the connection, from when its transport is connected.
    """

    def __init__(
        self,
        observer: LinkObserver,
        callouts: Callouts,
        retry_policy: Callable[[int], float],
    ) -> None:
        self._observer = observer
        self._callouts = callouts
        self._retry_policy = retry_policy
        self.state = ClientState.NEW
        self.problem: ConnectionProblem | None = None
        self.connection: ClientConnection | None = None
        self._route: Route | None = None
        self._next_route: Route | None = None
        self._factory: ClientConnectionFactory | None = None
        self._attempt: Deferred[Any] | None = None
        self._retry: IDelayedCall | None = None
        self._pongs: deque[Deferred[None]] = deque()
        self._waiting: dict[Deferred[None], int | None] = {}
        self._stopping: list[Deferred[None]] = []
        self._failures = 0
        self._welcomed_at: float | None = None
        self._ever_welcomed = False

    # Starting and stopping

    def start(self, route: Route) -> None:
        """Connect, and stay connected; if it is being stopped, when that is done."""
        if self.state is ClientState.STOPPING:
            self._next_route = route
            return
        with self._callouts:
            self.problem = None
            self._route = route
            self._failures = 0
            self._ever_welcomed = False
            self._connect(route)

    def stop(self) -> Deferred[None]:
        """Close the connection with 1000, and make no other.

        :returns: a Deferred that fires when the connection has ended.
        """
        stopped: Deferred[None] = Deferred()
        with self._callouts:
            self._stopping.append(stopped)
            self._next_route = None
            self.state = ClientState.STOPPING
            self._cancel_attempt()
            self._give_up(ClientStopped())
            if self.connection is None:
                self._end()
            else:
                self.connection.close()
        return stopped

    def _end(self) -> None:
        self.state = ClientState.STOPPED
        stopping, self._stopping = self._stopping, []
        route, self._next_route = self._next_route, None
        if route is not None:
            self.start(route)
        self._callouts.settle_all(stopping)

    def _give_up(self, error: ConnectionProblem | ClientStopped) -> None:
        waiting, self._waiting = self._waiting, {}
        self._callouts.settle_all(waiting, Failure(error))
        self._observer.gave_up(error)

    # Connecting

    def _connect(self, route: Route) -> None:
        self.state = ClientState.CONNECTING
        self._retry = None
        self._factory = ClientConnectionFactory(
            self, route.request(), route.max_message, route.reactor, route.clock
        )
        attempt = maybeDeferred(route.endpoint.connect, self._factory)
        self._attempt = attempt
        attempt.addTimeout(CONNECT_TIMEOUT, route.reactor, _attempt_timed_out)
        attempt.addBoth(self._attempted, attempt)

    def _cancel_attempt(self) -> None:
        attempt, self._attempt = self._attempt, None
        retry, self._retry = self._retry, None
        self._factory = None
        if attempt is not None:
            attempt.cancel()
        if retry is not None:
            retry.cancel()

    def _attempted(self, result: object, attempt: Deferred[Any]) -> None:
        if attempt is not self._attempt:
            return
        self._attempt = None
        if isinstance(result, Failure):
            self._factory = None
            error = result.value
            if not isinstance(error, ConnectionProblem):
                error = ConnectionFailed(result.getErrorMessage() or type(error).__name__)
            with self._callouts:
                self._failed(error)

    def _failed(self, problem: ConnectionProblem) -> None:
        self.problem = problem
        self._failures += 1
        if problem.finality is Finality.ALWAYS or (
            problem.finality is Finality.AT_FIRST and not self._ever_welcomed
        ):
            log.error("the client gives up: {problem}", problem=str(problem))
            self.state = ClientState.FAILED
            self._give_up(problem)
            return
        log.info("{problem}", problem=str(problem))
        self.state = ClientState.CONNECTING
        remaining = {each: count and count - 1 for each, count in self._waiting.items()}
        self._waiting = {each: count for each, count in remaining.items() if count != 0}
        impatient = [each for each, count in remaining.items() if count == 0]
        self._callouts.settle_all(impatient, Failure(problem))
        self._callouts.call(self._retry_later)

    @property
    def _idle(self) -> bool:
        """Whether it has to connect and nothing is under way."""
        return self.state is ClientState.CONNECTING and not (
            self._attempt or self._retry or self.connection
        )

    def _retry_later(self) -> None:
        route = self._route
        if not self._idle or route is None:
            return
        delay = self._next_delay()
        if self._idle:  # the policy is user code, too
            self._retry = route.reactor.callLater(delay, self._connect, route)

    def _next_delay(self) -> float:
        try:
            delay = self._retry_policy(self._failures)
            if isinstance(delay, int | float) and isfinite(delay) and delay >= 0:
                return delay
        except Exception:
            log.failure("retry_policy failed; the client connects again in 0.5 s")
        else:
            log.error("retry_policy returned {delay}, no delay; 0.5 s is used", delay=delay)
        return FALLBACK_DELAY

    # Waiting for a connection

    def refusal(self) -> ConnectionProblem | ClientStopped | None:
        """Why there will be no connection any more, if that is so."""
        if self.state is ClientState.FAILED:
            return self.problem
        stopping = self.state is ClientState.STOPPING and self._next_route is None
        if stopping or self.state is ClientState.STOPPED:
            return ClientStopped()
        return None

    def when_connected(self, fail_after_failures: int | None) -> Deferred[None]:
        """Wait for the relay's welcome; see ``IPCClient.when_connected``."""
        refusal = self.refusal()
        if refusal is not None:
            return fail(refusal)
        if self.state is ClientState.CONNECTED:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._wait_no_longer)
        self._waiting[waiting] = fail_after_failures
        return waiting

    def _wait_no_longer(self, waiting: Deferred[None]) -> None:
        self._waiting.pop(waiting, None)

    # What the connection reports

    def connection_made(self, connection: ClientConnection) -> None:
        """The transport is connected; the handshake begins."""
        if connection.factory is self._factory and self.connection is None:
            self.connection = connection
        else:
            connection.abort()  # of an attempt that was cancelled

    def text_received(self, connection: ClientConnection, text: str, size: int) -> None:
        """A text message has arrived."""
        if connection is not self.connection:
            return
        message = read(text)
        if self.state is ClientState.CONNECTING:
            if isinstance(message, Welcome):
                self._welcome(connection, message)
            else:
                connection.fail(NotARelay("its first message is no welcome"))
        elif self.state is ClientState.CONNECTED:
            if not isinstance(message, Pong):
                self._observer.received(message, size)
            elif self._pongs:
                self._callouts.settle(self._pongs.popleft())

    def _welcome(self, connection: ClientConnection, welcome: Welcome) -> None:
        with self._callouts:
            connection.watch()
            self.state = ClientState.CONNECTED
            self.problem = None
            self._ever_welcomed = True
            self._welcomed_at = connection.factory.clock()
            waiting, self._waiting = self._waiting, {}
            self._observer.welcomed(connection, welcome)
            self._callouts.settle_all(waiting)

    def drained(self, connection: ClientConnection) -> None:
        """The transport has room again."""
        if connection is self.connection:
            self._observer.drained()

    def connection_lost(self, connection: ClientConnection, problem: ConnectionProblem) -> None:
        """The connection has ended, or the handshake has failed."""
        if connection is not self.connection:
            return
        with self._callouts:
            self.connection = None
            welcomed_at, self._welcomed_at = self._welcomed_at, None
            pongs, self._pongs = self._pongs, deque()
            self._callouts.settle_all(pongs, Failure(NotConnected()))
            if welcomed_at is not None:
                self._observer.disconnected(problem)
                if connection.factory.clock() - welcomed_at >= STABLE:
                    self._failures = 0
            if self.state is ClientState.STOPPING:
                self._end()
            else:
                self._failed(problem)

    # Asking the relay

    def ping(self) -> Deferred[None]:
        """Send ``ping``.

        :returns: a Deferred that fires when the relay has read it, and fails with
            :class:`~acebase_ipc.client.errors.NotConnected`.
        """
        connected = self.state is ClientState.CONNECTED
        if not connected or self.connection is None or not self.connection.established:
            return fail(NotConnected())
        answer: Deferred[None] = Deferred()
        self._pongs.append(answer)
        self.connection.send(PING)
        return answer


def _attempt_timed_out(result: object, timeout: float) -> None:
    raise ConnectionFailed(f"no connection within {timeout:g} s")
