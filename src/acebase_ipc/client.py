"""A client of the relay: a Python program becomes a peer of a database.

::

    client = IPCClient("ws://127.0.0.1:9163", "mydb_data")
    client.on_message(print)
    client.startService()
    await client.whenConnected()
    await client.send("to everybody")
"""

from __future__ import annotations

import secrets
import string
from collections import deque
from collections.abc import Callable
from enum import Enum
from os import PathLike
from random import uniform
from time import monotonic
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

from autobahn.websocket.types import ConnectingRequest
from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client_connection import ClientConnection, ClientConnectionFactory
from acebase_ipc.client_endpoint import Observed, TrustRoot, connect_to, load_trust_root
from acebase_ipc.client_errors import (
    ClientError,
    ClientStopped,
    ConnectionFailed,
    ConnectionProblem,
    Final,
    NotConnected,
    PingTimeout,
    QueueFull,
)
from acebase_ipc.client_events import Callbacks, Messages
from acebase_ipc.client_http import RelayHTTP
from acebase_ipc.client_inbox import Inbox, Item
from acebase_ipc.client_sender import Sender
from acebase_ipc.dialect import DOCUMENTED, Dialect
from acebase_ipc.errors import ConfigError, InvalidClientId, InvalidDatabaseName
from acebase_ipc.handshake import check_client_id, check_database_name
from acebase_ipc.incoming import Announced, Body, Joined, Left, Pong, Unknown, Welcome, read
from acebase_ipc.limits import DEFAULT_MAX_PAYLOAD_TLS, MAX_UTF8_PER_UNIT, MIB
from acebase_ipc.outbox import compose
from acebase_ipc.protocol import PING
from acebase_ipc.urls import parse_url

VERSION = "1.0.0"
"""The version of the IPC protocol that the client speaks."""

DEFAULT_MAX_QUEUE = 16 * MIB
"""Bytes."""

DEFAULT_MAX_MESSAGE = MAX_UTF8_PER_UNIT * DEFAULT_MAX_PAYLOAD_TLS
"""Bytes: the largest message that a relay passes on unless it is told otherwise."""

MAX_RETRY_DELAY = 30.0
"""Seconds."""

STABLE = 10.0
"""Seconds after which a connection counts as good, so that the next delay is short."""

log = Logger()


def random_id() -> str:
    """An id for a peer: 24 characters ``a-z0-9``, as published clients have."""
    alphabet = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(24))


def retry_delay(failures: int) -> float:
    """Seconds to wait after so many *failures* in a row: doubled each time, and random."""
    return min(MAX_RETRY_DELAY, 2.0 ** min(failures - 1, 10)) * uniform(0.5, 1.0)


class State(Enum):
    """What a client does."""

    IDLE = "not started, or stopped"
    CONNECTING = "connecting, or waiting to do so"
    CONNECTED = "welcomed by the relay"
    STOPPING = "saying goodbye"
    FAILED = "refused for good"


class IPCClient(Service):
    """A peer of one database, which stays connected.

    :param url: see :mod:`acebase_ipc.urls`.
    :param dbname: the database's wire name: AceBase's ``mydb`` is ``mydb_data``.
    :param id: 5 to 128 characters, without ``;``; a random one by default.
    :param token: what the relay asks for, if it does.
    :param dialect: what other peers' messages look like.
    :param reactor: the global one by default, when the client is started.
    :param trust_root: for ``wss``: the path of a PEM file, or one of Twisted's trust
        roots. By default, those that the system trusts.
    :param max_queue: bytes that may wait to be sent, and also to be read from one
        iterator of :meth:`messages`.
    :param max_message: bytes that an incoming message may have.
    :param endpoint: where to connect instead of what *url* says; TLS included.
    :param retry_policy: seconds to wait after so many failures in a row (from 1).
    :param clock: seconds of a clock that never jumps.
    :ivar id: its id, which it keeps when it connects again.
    :ivar failure: why the client has ended, if it was refused for good.
    :raises ConfigError: if an argument cannot be used.
    """

    def __init__(
        self,
        url: str,
        dbname: str,
        id: str | None = None,
        token: str | None = None,
        *,
        dialect: Dialect = DOCUMENTED,
        reactor: Any = None,
        trust_root: TrustRoot | str | PathLike[str] | None = None,
        max_queue: int = DEFAULT_MAX_QUEUE,
        max_message: int = DEFAULT_MAX_MESSAGE,
        endpoint: IStreamClientEndpoint | None = None,
        retry_policy: Callable[[int], float] = retry_delay,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._url = parse_url(url)
        self.dbname = _checked_database(dbname)
        self.id = random_id() if id is None else _checked_id(id)
        self._headers = _headers(token)
        self.dialect = dialect
        self._reactor = reactor
        if isinstance(trust_root, str | PathLike):
            trust_root = load_trust_root(trust_root)
        self._trust_root = trust_root
        self.max_message = max_message
        self._endpoint = endpoint
        self._retry_policy = retry_policy
        self._clock = clock
        self._state = State.IDLE
        self.failure: ClientError | None = None
        self._peers: frozenset[str] = frozenset()
        self._changed: dict[str, bool] | None = None
        self._sender = Sender(max_queue, self._post, self._ask)
        self._inbox = Inbox(self._download, self._deliver)
        self._max_queue = max_queue
        self._pongs: deque[Deferred[None]] = deque()
        self._waiting: list[Deferred[None]] = []
        self._iterators: WeakSet[Messages] = WeakSet()
        self._message_callbacks = Callbacks()
        self._connected_callbacks = Callbacks()
        self._disconnected_callbacks = Callbacks()
        self._joined_callbacks = Callbacks()
        self._left_callbacks = Callbacks()
        self._service: ClientService | None = None
        self._http: RelayHTTP | None = None
        self._connection: ClientConnection | None = None
        self._when_stopped: list[Deferred[None]] = []
        self._failures = 0
        self._welcomed_at: float | None = None
        self._was_welcomed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.dbname}: {self._state.value}>"

    # Living

    def startService(self) -> None:
        """Connect, and stay connected."""
        if self._state not in (State.IDLE, State.FAILED):
            return
        super().startService()
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        self._state = State.CONNECTING
        self.failure = None
        self._failures = 0
        endpoint = self._endpoint or connect_to(self._url, self._reactor, self._trust_root)
        self._http = RelayHTTP(
            self._url,
            self.dbname,
            self.id,
            self._headers,
            endpoint,
            self.max_message,
            self._reactor,
        )
        factory = ClientConnectionFactory(
            self, self._handshake(), self.max_message, self._reactor, self._clock
        )
        self._service = ClientService(
            Observed(endpoint, self._could_not_connect),
            factory,
            lambda _: self._retry_policy(self._failures),
            self._reactor,
        )
        self._service.startService()

    def _handshake(self) -> ConnectingRequest:
        query = f"id={quote(self.id, safe='')}&v={VERSION}&dialect={self.dialect.value}"
        target = f"{self._url.prefix}/{quote(self.dbname, safe='')}/connect?{query}"
        host, port = self._url.host_header, self._url.port
        return ConnectingRequest(host, port, target, headers=self._headers)

    def stopService(self) -> Deferred[None]:
        """Close the connection with 1000.

        What waits to be sent fails with
        :class:`~acebase_ipc.client_errors.ClientStopped`.

        :returns: a Deferred that fires when the connection has ended.
        """
        if self._state is State.STOPPING:
            waiting: Deferred[None] = Deferred()
            self._when_stopped.append(waiting)
            return waiting
        super().stopService()
        if self._state is State.IDLE:
            return succeed(None)
        self._state = State.STOPPING
        self._give_up(ClientStopped())
        stopped: Deferred[None] = Deferred()
        self._when_stopped = [stopped]
        if self._connection is not None:
            self._connection.leave()
        else:
            self._end_service()
        return stopped

    def _end_service(self) -> None:
        assert self._service is not None
        assert self._http is not None
        http = self._http
        ending = self._service.stopService()
        ending.addCallback(lambda _: http.close())
        ending.addCallback(self._ended_service)

    def _ended_service(self, _: object) -> None:
        if self._state is State.STOPPING:
            self._state = State.IDLE
            for each in self._when_stopped:
                each.callback(None)

    def _give_up(self, error: ClientError) -> None:
        failure = Failure(error)
        self._sender.fail(failure)
        self._inbox.clear()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(failure)
        for iterator in tuple(self._iterators):
            iterator.end(None if isinstance(error, ClientStopped) else error)

    # Connections

    @property
    def connected(self) -> bool:
        """Whether the relay has welcomed the client, and the connection lasts."""
        return self._state is State.CONNECTED

    @property
    def peers(self) -> frozenset[str]:
        """The ids of the other peers that are connected, as far as is known.

        While the client is not connected, as it was last.
        """
        return self._peers

    def whenConnected(self) -> Deferred[None]:
        """Wait for the relay's welcome.

        :returns: a Deferred that fires when connected, at once if that is so now. It
            fails with the :class:`~acebase_ipc.client_errors.ConnectionProblem` that
            has ended the client, or with ``ClientStopped``.
        """
        if self._state is State.CONNECTED:
            return succeed(None)
        if self.failure is not None:
            return fail(self.failure)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def _could_not_connect(self, failure: Failure) -> None:
        if self._state is State.CONNECTING:
            self._failures += 1
            reason = failure.getErrorMessage() or type(failure.value).__name__
            log.info("{problem}", problem=str(ConnectionFailed(reason)))

    def made(self, connection: ClientConnection) -> None:
        """There is a transport; the handshake begins."""
        self._connection = connection

    def ended(self, connection: ClientConnection, problem: ConnectionProblem) -> None:
        """The connection has ended, or was refused."""
        was_welcomed, self._welcomed_at = self._welcomed_at, None
        self._connection = None
        self._sender.disconnected()
        while self._pongs:
            self._pongs.popleft().errback(Failure(NotConnected()))
        if self._state is State.STOPPING:
            self._end_service()
            return
        self._state = State.CONNECTING
        if was_welcomed is not None and self._clock() - was_welcomed >= STABLE:
            self._failures = 0
        self._failures += 1
        if problem.final is Final.ALWAYS or (
            problem.final is Final.AT_FIRST and not self._was_welcomed
        ):
            log.error("the client gives up: {problem}", problem=str(problem))
            self._state = State.FAILED
            self.failure = problem
            self._end_service()
            self._give_up(problem)
        else:
            log.info("{problem}", problem=str(problem))
        if was_welcomed is not None:
            self._disconnected_callbacks.call(problem)

    def received(self, connection: ClientConnection, text: str) -> None:
        """A text message has come from the relay."""
        message = read(text, self.dialect)
        match message:
            case Welcome(max_payload):
                self._welcome(connection, max_payload)
            case Pong():
                if self._pongs:
                    self._pongs.popleft().callback(None)
            case Joined() | Left() | Body() | Announced():
                self._inbox.put(message, len(text))
                if self._inbox.size > self._max_queue:
                    connection.hold()
            case Unknown():
                log.debug("the relay sent what this client does not know")

    def _welcome(self, connection: ClientConnection, max_payload: int) -> None:
        connection.welcomed()
        self._state = State.CONNECTED
        self._was_welcomed = True
        self._welcomed_at = self._clock()
        self._sender.connected(connection, max_payload, self._connected_callbacks.call)
        self.fetch_peers().addErrback(self._no_peers)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def on_connected(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* each time the relay has welcomed the client.

        What it sends goes before what has waited. An ``async def`` is run, too; only
        what it sends before its first ``await`` goes before.

        :returns: a function that ends this.
        """
        return self._connected_callbacks.add(callback)

    def on_disconnected(
        self, callback: Callable[[ConnectionProblem], object]
    ) -> Callable[[], None]:
        """Call *callback* with the reason each time a connection has ended.

        :returns: a function that ends this.
        """
        return self._disconnected_callbacks.add(callback)

    # Sending

    def send(self, body: str, to: str | None = None) -> Deferred[None]:
        """Send *body* to the peer *to*, or to all others.

        Messages are sent in order. While there is no connection they wait. What was
        handed over just before a connection is lost may be lost with it.

        :returns: a Deferred that fires when the message was handed to the transport,
            or, if it was too large for the WebSocket, when the relay has relayed it. It
            fails with a :class:`~acebase_ipc.client_errors.ClientError`.
        :raises ConfigError: if *body* or *to* cannot be sent.
        """
        if to is not None:
            _checked_id(to)
        message = compose(body, to)
        if self.failure is not None:
            return fail(self.failure)
        if self._state is State.STOPPING:
            return fail(ClientStopped())
        try:
            return self._sender.send(message)
        except QueueFull as error:
            return fail(error)

    def ping(self, timeout: float = 10.0) -> Deferred[float]:
        """Ask the relay for a sign of life.

        :param timeout: seconds.
        :returns: a Deferred with the seconds until the answer came. It fails with
            ``NotConnected`` or ``PingTimeout``.
        """
        started = self._clock()
        answer: Deferred[Any] = self._ask()
        answer.addCallback(lambda _: self._clock() - started)

        def timed_out(result: object, timeout: float) -> float:
            raise PingTimeout(timeout)

        return answer.addTimeout(timeout, self._reactor, timed_out) if self._reactor else answer

    def _ask(self) -> Deferred[None]:
        if self._connection is None or self._state is not State.CONNECTED:
            return fail(NotConnected())
        answer: Deferred[None] = Deferred()
        self._pongs.append(answer)
        self._connection.send(PING)
        return answer

    def drained(self, connection: ClientConnection) -> None:
        """The transport has room again."""
        self._sender.go_on()

    def _post(self, message: bytes) -> Deferred[None]:
        assert self._http is not None
        return self._http.post(message)

    # Receiving

    def on_message(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with each message of another peer, in order.

        :returns: a function that ends this.
        """
        return self._message_callbacks.add(callback)

    def messages(self) -> Messages:
        """The messages that come from now on.

        The iterator ends when the client is stopped, and raises what ends the client.
        If more than ``max_queue`` characters wait in it, it raises ``SlowReader`` after
        them: nothing is left out silently.
        """
        messages = Messages(self._max_queue)
        if self.failure is not None:
            messages.end(self.failure)
        self._iterators.add(messages)
        return messages

    def _download(self, message_id: str) -> Deferred[str]:
        assert self._http is not None
        return self._http.download(message_id)

    def _deliver(self, item: Item) -> None:
        if self._connection is not None and self._inbox.size <= self._max_queue:
            self._connection.go_on()
        match item:
            case Body(text):
                for iterator in tuple(self._iterators):
                    iterator.put(text)
                self._message_callbacks.call(text)
            case Joined(peer_id):
                if self._changed is not None:
                    self._changed[peer_id] = True
                self._set_peers(self._peers | {peer_id})
            case Left(peer_id):
                if self._changed is not None:
                    self._changed[peer_id] = False
                self._set_peers(self._peers - {peer_id})

    # Peers

    def on_peer_joined(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with the id of each peer that comes, or is found.

        :returns: a function that ends this.
        """
        return self._joined_callbacks.add(callback)

    def on_peer_left(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with the id of each peer that goes, or has gone meanwhile.

        :returns: a function that ends this.
        """
        return self._left_callbacks.add(callback)

    def fetch_peers(self) -> Deferred[frozenset[str]]:
        """Ask the relay who is connected, and set :attr:`peers`.

        The client does so by itself each time it is connected.

        :returns: a Deferred with the ids of the other peers.
        """
        if self._http is None:
            return fail(NotConnected())
        if self._changed is None:
            self._changed = {}
        return self._http.clients().addBoth(self._fetched)

    def _fetched(self, result: frozenset[str] | Failure) -> frozenset[str] | Failure:
        changed, self._changed = self._changed or {}, None
        if isinstance(result, Failure):
            return result
        came = {each for each, is_there in changed.items() if is_there}
        self._set_peers(((result - {self.id}) | came) - (changed.keys() - came))
        return self._peers

    def _no_peers(self, failure: Failure) -> None:
        log.info("cannot ask who is connected: {reason}", reason=failure.getErrorMessage())

    def _set_peers(self, peers: frozenset[str]) -> None:
        before, self._peers = self._peers, peers
        for peer_id in sorted(before - peers):
            self._left_callbacks.call(peer_id)
        for peer_id in sorted(peers - before):
            self._joined_callbacks.call(peer_id)


def _checked_database(name: str) -> str:
    try:
        return check_database_name(name)
    except InvalidDatabaseName:
        raise ConfigError(
            "dbname must have 1 to 200 characters, without control characters"
        ) from None


def _checked_id(client_id: str) -> str:
    try:
        return check_client_id(client_id)
    except InvalidClientId:
        raise ConfigError(
            "an id must have 5 to 128 characters, without ';' and control characters"
        ) from None


def _headers(token: str | None) -> dict[str, str]:
    if not token:
        return {}
    if token != token.strip() or not token.isprintable():
        raise ConfigError("the token must not hold spaces at its ends, nor control characters")
    return {"Authorization": f"Bearer {token}"}
