"""A client of the relay: with it a Python program becomes a peer of a database.

::

    client = IPCClient("ws://127.0.0.1:9163", "mydb_data")
    client.on_message(print)
    client.startService()
    await client.when_connected()
    await client.send("to all peers")
    await client.stopService()

What can go wrong, and what to do then, is in :mod:`acebase_ipc.client.errors`.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from math import isfinite
from os import PathLike
from time import monotonic
from typing import Any
from urllib.parse import quote

from autobahn.websocket.types import ConnectingRequest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IStreamClientEndpoint

from acebase_ipc.client.callouts import Callouts
from acebase_ipc.client.changes import Changes
from acebase_ipc.client.endpoint import TrustRoot, connect_to, load_trust_root
from acebase_ipc.client.errors import ConnectionProblem, NotConnected
from acebase_ipc.client.http import RelayHTTP
from acebase_ipc.client.iterators import Messages
from acebase_ipc.client.reconnect import ClientState, Route, retry_delay
from acebase_ipc.client.session import Gap
from acebase_ipc.client.traffic import Traffic
from acebase_ipc.client.url import parse_url
from acebase_ipc.errors import ConfigError
from acebase_ipc.protocol.dialect import DOCUMENTED, Dialect
from acebase_ipc.protocol.errors import InvalidClientId, InvalidDatabaseName
from acebase_ipc.protocol.handshake import check_client_id, check_database_name
from acebase_ipc.protocol.messages import compose
from acebase_ipc.protocol.paths import path_to_follow
from acebase_ipc.relay.limits import MIB

VERSION = "1.0.0"
"""The version of the IPC protocol that the client speaks."""

DEFAULT_MAX_QUEUE = 16 * MIB
"""Bytes; as much as a relay holds for a suspended session."""

DEFAULT_MAX_MESSAGE = 64 * MIB
"""Bytes: the largest message that a relay accepts by default."""

PING_TIMEOUT = 10.0
"""Seconds."""


class IPCClient(Service):
    """A peer of one database, which stays connected.

    It is an ``IService``: give it a parent, or call :meth:`startService` and
    :meth:`stopService` yourself. When its connection is lost, it connects again, after a
    delay that grows, with the same id. Only a permanent refusal ends it (see
    :mod:`acebase_ipc.client.errors`): :meth:`when_connected` and what waits to be sent
    fail with it, and so does everything that is tried later.

    Callbacks and the Deferreds that a client returns are called one after the other,
    never within each other, and may call any method of the client. Each message goes to the
    iterators of :meth:`messages`, in the order in which they were made, then to the callbacks of
    :meth:`on_message`, in the order in which they were added, and only then comes the next one.
    So a coroutine that waits for an iterator goes on with a message before a callback is called
    with it. An iterator or a callback that is added meanwhile begins with the next message.

    :param url: ``ws://host:port``, ``wss://host:port`` or ``ws+unix:/path/of/socket``;
        see :mod:`acebase_ipc.client.url`.
    :param dbname: the database's wire name: AceBase's ``mydb`` is ``mydb_data``.
    :param id: 5 to 128 characters, without ``;``. By default 24 random ones. Each
        process needs its own.
    :param token: the relay's token, if it asks for one.
    :param dialect: what other peers are: programs after the documentation, or AceBase.
    :param reactor: by default the global one, which is looked up by :meth:`startService`.
    :param trust_root: for ``wss``: the path of a PEM file with the certificates to trust,
        or one of Twisted's trust roots. By default, those of the system.
    :param max_queue: bytes that may wait to be sent; also, that may wait in each
        iterator of :meth:`messages`, and behind a message that is being downloaded.
    :param max_message: bytes that an incoming message may have.
    :param resume: ask the relay for a resumable session, so that no message is lost and none
        arrives twice while connections are lost for a time: see :meth:`on_gap`.
    :param endpoint: where to connect, instead of what *url* names; TLS included.
    :param retry_policy: returns the seconds to wait after so many failures in a row (from
        1). If it fails or returns no delay, that is logged and 0.5 s is used.
    :param clock: returns monotonic seconds.
    :ivar id: its id.
    :ivar dbname: the database's wire name.
    :ivar dialect: its dialect.
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
        resume: bool = True,
        endpoint: IStreamClientEndpoint | None = None,
        retry_policy: Callable[[int], float] = retry_delay,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._url = parse_url(url)
        self.dbname = _checked_database(dbname)
        self.id = random_id() if id is None else _check_id(id, ConfigError)
        self._headers = _headers(token)
        try:
            self.dialect = Dialect(dialect)
        except ValueError:
            raise ConfigError("dialect is either documented or acebase") from None
        if not all(isinstance(each, int) and each >= 1 for each in (max_queue, max_message)):
            raise ConfigError("max_queue and max_message are numbers of bytes, at least 1")
        if not callable(retry_policy) or not callable(clock):
            raise ConfigError("retry_policy and clock are functions")
        self._reactor = reactor
        self._clock = clock
        if isinstance(trust_root, str | PathLike):
            trust_root = load_trust_root(trust_root)
        self._trust_root = trust_root
        self._endpoint = endpoint
        self._max_message = max_message
        self._max_queue = max_queue
        self._retry_policy = retry_policy
        self._changes: set[Changes] = set()
        self._callouts = Callouts()
        self._traffic = Traffic(self._callouts, self.id, max_queue, retry_policy, resume)
        self._link = self._traffic.link

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.dbname}: {self._link.state.value}>"

    # Starting and stopping

    def startService(self) -> None:
        """Connect, and stay connected; then send what was given to :meth:`send` before.

        A client that is being stopped connects when that is done; one that was refused
        permanently tries again.
        """
        if self.running and not self.failed:
            return
        super().startService()
        endpoint, http = self._relay()
        self._traffic.use(http, self._reactor)
        route = Route(endpoint, self._handshake, self._max_message, self._reactor, self._clock)
        self._link.start(route)

    def _relay(self) -> tuple[IStreamClientEndpoint, RelayHTTP]:
        """Return where to connect, and new connections to the relay's HTTP endpoints."""
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        endpoint = self._endpoint or connect_to(self._url, self._reactor, self._trust_root)
        http = RelayHTTP(
            self._url,
            self.dbname,
            self.id,
            self._headers,
            endpoint,
            self._max_message,
            self._reactor,
        )
        return endpoint, http

    def _handshake(self) -> ConnectingRequest:
        query = f"id={quote(self.id, safe='')}&v={VERSION}&dialect={self.dialect.value}"
        query += self._traffic.session.query
        target = f"{self._url.prefix}/{quote(self.dbname, safe='')}/connect?{query}"
        return ConnectingRequest(
            self._url.host_header, self._url.port, target, headers=self._headers
        )

    def stopService(self) -> Deferred[None]:
        """Close the connection with 1000.

        What was handed to the transport is sent before. What still waits fails with
        :class:`~acebase_ipc.client.errors.ClientStopped`: wait for the Deferreds of
        :meth:`send` before. The client may be started again.

        :returns: a Deferred that fires when the connection has ended, after 10 seconds
            at most.
        """
        super().stopService()
        for each in tuple(self._changes):
            each.end(StopAsyncIteration())
        http = self._traffic.http  # another start would replace it
        stopped: Deferred[None] = Deferred()
        closing = self._link.stop().addCallback(lambda _: http.close() if http else None)
        closing.addBoth(lambda outcome: self._callouts.settle(stopped, outcome))
        return stopped

    @property
    def connected(self) -> bool:
        """Whether the relay has welcomed the client, and the connection lasts."""
        return self._link.state is ClientState.CONNECTED

    @property
    def problem(self) -> ConnectionProblem | None:
        """Why the client is not connected: the last problem, if there was one."""
        return self._link.problem

    @property
    def failed(self) -> bool:
        """Whether :attr:`problem` is final: the client will not connect again."""
        return self._link.state is ClientState.FAILED

    def when_connected(self, fail_after_failures: int | None = None) -> Deferred[None]:
        """Wait for the relay's welcome.

        :param fail_after_failures: fail when so many attempts to connect have failed (1 or
            more); by default, only with a permanent refusal. The client keeps trying.
        :returns: a Deferred that fires at once if the client is connected now. It fails
            with a :class:`~acebase_ipc.client.errors.ConnectionProblem`, or with
            :class:`~acebase_ipc.client.errors.ClientStopped`.
        :raises ValueError: if *fail_after_failures* is less than 1.
        """
        if fail_after_failures is not None and not fail_after_failures >= 1:
            raise ValueError("fail_after_failures is 1 or more")
        return self._link.when_connected(fail_after_failures)

    def when_ended(self) -> Deferred[None]:
        """Wait until the client does not try to connect any more.

        :returns: a Deferred that fires when the client is stopped. It fails with the
            :class:`~acebase_ipc.client.errors.ConnectionProblem` that is final.
        """
        return self._traffic.when_ended()

    def on_connected(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* each time the relay has welcomed the client.

        What it sends goes before what has waited. (An ``async def`` is run, too, but
        what it sends after its first ``await`` goes after that.)

        :returns: a function that ends this.
        :raises TypeError: if *callback* cannot be called; so do the other ``on_…``.
        """
        return self._traffic.on_connected.add(callback)

    def on_disconnected(
        self, callback: Callable[[ConnectionProblem], object]
    ) -> Callable[[], None]:
        """Call *callback* each time a connection has ended, with the reason.

        :meth:`when_ended` tells whether there will be another one.

        :returns: a function that ends this.
        """
        return self._traffic.on_disconnected.add(callback)

    # Sending

    def send(self, body: str, to: str | None = None, *, confirm: bool = False) -> Deferred[None]:
        """Send *body* to the peer *to*, or to all others.

        Messages arrive in the order they were sent, and never twice. While there is no connection
        they wait. What was handed over when a connection is lost is sent again, if the relay has
        not relayed it. Only where the client's session has ended meanwhile it may be lost:
        :meth:`on_gap` tells so. (With ``resume=False`` that is whenever a connection is lost.)

        :param confirm: fire only when the relay has relayed the message.
        :returns: a Deferred that fires when the message was handed to the transport;
            or, if it is too large for the WebSocket and was posted, when the relay has
            relayed it. Cancelling it takes back a message that still waits. It fails
            with a :class:`~acebase_ipc.client.errors.ClientError`:
            :class:`~acebase_ipc.client.errors.QueueFull` if too much waits,
            :class:`~acebase_ipc.client.errors.RequestFailed` if it could not be posted,
            :class:`~acebase_ipc.client.errors.PingTimeout` if the relay did not read in
            time what was sent before (nothing was posted then),
            :class:`~acebase_ipc.client.errors.Unconfirmed` if it may or may not have been relayed
            (only with *confirm* or a POST), ``ClientStopped``, or the problem that has ended the
            client.
        :raises ValueError: if *to* is no id, or *body* not valid Unicode.
        :raises TypeError: if *body* is no text.
        """
        if to is not None:
            _check_id(to, ValueError)
        return self._traffic.send(compose(body, to), confirm)

    def ping(self, timeout: float = PING_TIMEOUT) -> Deferred[float]:
        """Ask the relay whether it has read all that was sent.

        :param timeout: seconds, more than 0.
        :returns: a Deferred with the seconds that it took. It fails with
            :class:`~acebase_ipc.client.errors.NotConnected` or
            :class:`~acebase_ipc.client.errors.PingTimeout`.
        :raises ValueError: if *timeout* is no such number.
        """
        if not (timeout > 0 and isfinite(timeout)):
            raise ValueError("timeout is a number of seconds, more than 0")
        if not self.connected:
            return fail(NotConnected())
        began = self._clock()
        answer = self._traffic.ping(timeout).addCallback(lambda _: self._clock() - began)
        return self._callouts.expose(answer)

    # Receiving

    def on_message(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with each message of another peer, in order.

        What it raises is logged. (An ``async def`` is run, too, but nothing waits for
        it: the next message may come before it is done.)

        :returns: a function that ends this.
        """
        return self._traffic.on_message.add(callback)

    def messages(self) -> Messages:
        """Return an asynchronous iterator of the messages that arrive from now on.

        Each iterator receives all of them. It ends when the client is stopped, and
        raises a final problem. If it is read so slowly that more than ``max_queue`` bytes
        wait, it raises :class:`~acebase_ipc.client.errors.SlowReader` after them and
        receives no more; the connection and other iterators are not affected.
        """
        return self._traffic.messages()

    def changes(self, path: str, since: str | None = None) -> Changes:
        """Follow the changes under a *path*: see :meth:`.AceBasePeer.changes`.

        :raises ValueError: for a path that AceBase does not have, or with wildcards.
        """
        path = path_to_follow(path)
        changes = Changes(
            self._relay()[1],
            path,
            since,
            self._callouts,
            self._reactor,
            self._retry_policy,
            self._max_queue,
            self._max_message,
            self._changes.discard,
        )
        self._changes.add(changes)
        return changes

    def on_gap(self, callback: Callable[[Gap], object]) -> Callable[[], None]:
        """Call *callback* with a :class:`~acebase_ipc.client.session.Gap` at each gap.

        There messages may be lost, and nowhere else. It is called after the messages before the
        gap and before those that follow; after a reconnect also before the callbacks of
        :meth:`on_connected`. There is a gap when the client comes back too late
        (``--session-timeout``, 15 s), when too much has waited for it (``--max-session-queue``),
        when the relay was restarted without its state, when a large message cannot be downloaded,
        and at every reconnect if the client has no resumable session.

        :returns: a function that ends this.
        """
        return self._traffic.on_gap.add(callback)

    # Peers

    @property
    def peers(self) -> frozenset[str]:
        """The ids of the other peers that are connected.

        They are known soon after the client has connected (wait for
        :meth:`fetch_peers` to know them for sure). While it is not connected, they are
        as they were last.
        """
        return self._traffic.peers.ids

    def fetch_peers(self) -> Deferred[frozenset[str]]:
        """Ask the relay who is connected, and set :attr:`peers`.

        The client does this by itself whenever it has connected.

        :returns: a Deferred with the ids of the other peers. It fails with
            :class:`~acebase_ipc.client.errors.RequestFailed` or ``NotConnected``.
        """
        return self._traffic.fetch_peers()

    def on_peer_joined(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with the id of each peer that is new in :attr:`peers`.

        :returns: a function that ends this.
        """
        return self._traffic.peers.joined.add(callback)

    def on_peer_left(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with the id of each peer that is no longer in :attr:`peers`.

        :returns: a function that ends this.
        """
        return self._traffic.peers.left.add(callback)


_ID_RULE = "an id has 5 to 128 characters, without ';' and control characters"


def random_id() -> str:
    """Return an id for a peer: 24 characters ``a-z0-9``, like those of the npm package acebase."""
    alphabet = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(24))


def _checked_database(name: str) -> str:
    try:
        if isinstance(name, str):
            return check_database_name(name)
    except InvalidDatabaseName:
        pass
    raise ConfigError("a database's name has 1 to 200 characters, without control characters")


def _check_id(client_id: str, error: type[ValueError]) -> str:
    try:
        if isinstance(client_id, str):
            return check_client_id(client_id)
    except InvalidClientId:
        pass
    raise error(_ID_RULE)


def _headers(token: str | None) -> dict[str, str]:
    """Return the headers that present *token*: a URL would be logged on the way."""
    if token is None:
        return {}
    if not isinstance(token, str) or not token:
        raise ConfigError("the token is empty or no text: leave it out where there is none")
    if token != token.strip() or not token.isprintable():
        raise ConfigError("the token holds control characters, or spaces at its ends")
    return {"Authorization": f"Bearer {token}"}
