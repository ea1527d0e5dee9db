"""What keeps a client connected: it connects, again and again, until it is refused for good."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from functools import partial
from random import uniform
from typing import Any, Protocol

from autobahn.websocket.types import ConnectingRequest
from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.connection import ClientConnection, ClientConnectionFactory
from acebase_ipc.client.endpoint import Observed
from acebase_ipc.client.errors import (
    ClientStopped,
    ConnectionFailed,
    ConnectionProblem,
    Finality,
    NotARelay,
    NotConnected,
)
from acebase_ipc.client.iterators import settle
from acebase_ipc.protocol.messages import PING, Incoming, Pong, Welcome, read

MAX_RETRY_DELAY = 30.0
"""Seconds."""

STABLE = 10.0
"""Seconds after which a connection counts as good, so that the next delay is short."""

log = Logger()


def retry_delay(failures: int) -> float:
    """Seconds to wait after so many *failures* in a row: doubled each time, and random.

    At first half a second to one second, in the end 15 to 30 seconds: when a relay
    returns, its clients do not all come at once.
    """
    return min(MAX_RETRY_DELAY, 2.0 ** min(failures - 1, 10)) * uniform(0.5, 1.0)


class State(Enum):
    """What a link does."""

    NEW = "not started"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "refused for good"


class Listener(Protocol):
    """Whom a link serves."""

    def linked(self, connection: ClientConnection, max_payload: int) -> None:
        """The relay has welcomed us."""

    def heard(self, message: Incoming, size: int) -> None:
        """A message of *size* bytes has come."""

    def drained(self) -> None:
        """There is room again for what is to be sent."""

    def unlinked(self, problem: ConnectionProblem) -> None:
        """A connection on which we were welcomed has ended."""

    def over(self, error: ConnectionProblem | ClientStopped) -> None:
        """There will be no connection any more."""


class Link:
    """A connection to the relay, which is made again when it is lost.

    :param retry_policy: seconds to wait after so many failures in a row (from 1).
    :ivar state: what it does.
    :ivar problem: why there is no connection now; ``None`` if there is one.
    :ivar connection: the transport, from when it is connected.
    """

    def __init__(self, listener: Listener, retry_policy: Callable[[int], float]) -> None:
        self._listener = listener
        self._retry_policy = retry_policy
        self.state = State.NEW
        self.problem: ConnectionProblem | None = None
        self.connection: ClientConnection | None = None
        self._service: ClientService | None = None
        self._pongs: deque[Deferred[None]] = deque()
        self._waiting: list[tuple[Deferred[None], int | None]] = []
        self._stopping: list[Deferred[None]] = []
        self._restart: Callable[[], None] | None = None
        self._failures = 0
        self._welcomed_at: float | None = None
        self._ever_welcomed = False

    # Starting and stopping

    def start(
        self,
        endpoint: IStreamClientEndpoint,
        request: ConnectingRequest,
        max_message: int,
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        """Connect, and stay connected; if it is being stopped, when that is done.

        :param request: what every handshake asks for.
        """
        if self.state is State.STOPPING:
            again = partial(self.start, endpoint, request, max_message, reactor, clock)
            self._restart = again
            return
        self.state = State.CONNECTING
        self.problem = None
        self._failures = 0
        self._ever_welcomed = False
        self._clock = clock
        self._service = ClientService(
            Observed(endpoint, self._could_not_connect),
            ClientConnectionFactory(self, request, max_message, reactor, clock),
            lambda _: self._retry_policy(self._failures),
            reactor,
        )
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """Close the connection with 1000, and make no other.

        :returns: a Deferred that fires when the connection has ended.
        """
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        self.state = State.STOPPING
        self._restart = None
        self._give_up(ClientStopped())
        if self.connection is not None:
            self.connection.leave()
        else:
            self._end()
        return stopped

    def _end(self) -> None:
        """Make no other connection; in the midst of a connection's end, too."""
        service = self._service
        ended = succeed(None) if service is None else service.stopService()
        ended.addCallback(lambda _: self._ended(service))

    def _ended(self, service: ClientService | None) -> None:
        if service is not self._service:
            return  # it has been told already
        self._service = None
        if self.state is State.STOPPING:
            self.state = State.STOPPED
        stopping, self._stopping = self._stopping, []
        restart, self._restart = self._restart, None
        if restart is not None:
            restart()
        settle(stopping)

    def _give_up(self, error: ConnectionProblem | ClientStopped) -> None:
        waiting, self._waiting = self._waiting, []
        settle((each for each, _ in waiting), Failure(error))
        self._listener.over(error)

    # Waiting for it

    def refusal(self) -> ConnectionProblem | ClientStopped | None:
        """Why there will be no connection any more, if that is so."""
        if self.state is State.FAILED:
            return self.problem
        if self.state is State.STOPPED or (self.state is State.STOPPING and not self._restart):
            return ClientStopped()
        return None

    def when_connected(self, fail_after_failures: int | None) -> Deferred[None]:
        """Wait for the relay's welcome; see ``IPCClient.whenConnected``."""
        refusal = self.refusal()
        if refusal is not None:
            return fail(refusal)
        if self.state is State.CONNECTED:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._wait_no_longer)
        self._waiting.append((waiting, fail_after_failures))
        return waiting

    def _wait_no_longer(self, waiting: Deferred[None]) -> None:
        self._waiting = [each for each in self._waiting if each[0] is not waiting]

    # What happens to it

    def _could_not_connect(self, failure: Failure) -> None:
        if self.state is State.CONNECTING:
            reason = failure.getErrorMessage() or type(failure.value).__name__
            self._failed(ConnectionFailed(reason))

    def made(self, connection: ClientConnection) -> None:
        """There is a transport; the handshake begins."""
        self.connection = connection

    def received(self, connection: ClientConnection, text: str, size: int) -> None:
        """A text message has come."""
        if connection is not self.connection:
            return
        message = read(text)
        if self.state is State.CONNECTING:
            if isinstance(message, Welcome):
                self._welcome(connection, message.max_payload)
            else:
                connection.fail(NotARelay("its first message is no welcome"))
        elif self.state is State.CONNECTED:
            if not isinstance(message, Pong):
                self._listener.heard(message, size)
            elif self._pongs:
                self._pongs.popleft().callback(None)

    def _welcome(self, connection: ClientConnection, max_payload: int) -> None:
        connection.watch()
        self.state = State.CONNECTED
        self.problem = None
        self._ever_welcomed = True
        self._welcomed_at = self._clock()
        waiting, self._waiting = self._waiting, []
        self._listener.linked(connection, max_payload)
        settle(each for each, _ in waiting)

    def drained(self, connection: ClientConnection) -> None:
        """The transport has room again."""
        if connection is self.connection:
            self._listener.drained()

    def ended(self, connection: ClientConnection, problem: ConnectionProblem) -> None:
        """The connection has ended, or was refused."""
        if connection is not self.connection:
            return
        self.connection = None
        welcomed_at, self._welcomed_at = self._welcomed_at, None
        pongs, self._pongs = self._pongs, deque()
        if self.state is State.STOPPING:
            self._end()
        else:
            self.state = State.CONNECTING
            if welcomed_at is not None and self._clock() - welcomed_at >= STABLE:
                self._failures = 0
            self._failed(problem)
        settle(pongs, Failure(NotConnected()))
        if welcomed_at is not None:
            self._listener.unlinked(problem)

    def _failed(self, problem: ConnectionProblem) -> None:
        self.problem = problem
        self._failures += 1
        if problem.finality is Finality.ALWAYS or (
            problem.finality is Finality.AT_FIRST and not self._ever_welcomed
        ):
            log.error("the client gives up: {problem}", problem=str(problem))
            self.state = State.FAILED
            self._end()
            self._give_up(problem)
            return
        log.info("{problem}", problem=str(problem))
        remaining = [(each, count and count - 1) for each, count in self._waiting]
        self._waiting = [each for each in remaining if each[1] != 0]
        settle((each for each, count in remaining if count == 0), Failure(problem))

    # Asking the relay

    def ask(self) -> Deferred[None]:
        """Send ``ping``.

        :returns: a Deferred that fires when the relay has read it, and fails with
            :class:`~acebase_ipc.client.errors.NotConnected`.
        """
        if self.state is not State.CONNECTED or not self.connection:
            return fail(NotConnected())
        if not self.connection.established:
            return fail(NotConnected())  # it is about to end
        answer: Deferred[None] = Deferred()
        self._pongs.append(answer)
        self.connection.send(PING)
        return answer
