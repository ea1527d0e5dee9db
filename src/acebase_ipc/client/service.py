"""A client of the relay: with it a Python program becomes a peer of a database.

::

    client = IPCClient("ws://127.0.0.1:9163", "mydb_data")
    client.on_message(print)
    client.startService()
    await client.whenConnected()
    await client.send("to everybody")
    await client.stopService()

What can go wrong, and what to do then, is in :mod:`acebase_ipc.client.errors`.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from os import PathLike
from time import monotonic
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

from autobahn.websocket.types import ConnectingRequest
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.connection import ClientConnection
from acebase_ipc.client.endpoint import TrustRoot, connect_to, load_trust_root
from acebase_ipc.client.errors import (
    ClientStopped,
    ConnectionProblem,
    NotConnected,
    PingTimeout,
    QueueFull,
)
from acebase_ipc.client.http import RelayHTTP
from acebase_ipc.client.inbox import Inbox, Item
from acebase_ipc.client.iterators import Callbacks, Messages, settle
from acebase_ipc.client.presence import Peers
from acebase_ipc.client.reconnect import Link, State, retry_delay
from acebase_ipc.client.sender import Sender
from acebase_ipc.client.url import parse_url
from acebase_ipc.errors import ConfigError
from acebase_ipc.protocol.dialect import DOCUMENTED, Dialect
from acebase_ipc.protocol.errors import InvalidClientId, InvalidDatabaseName
from acebase_ipc.protocol.handshake import check_client_id, check_database_name
from acebase_ipc.protocol.messages import (
    Body,
    ConnectNotice,
    DisconnectNotice,
    DownloadNotice,
    Incoming,
    compose,
    utf8_size,
)
from acebase_ipc.relay.limits import DEFAULT_MAX_PAYLOAD_TLS, MAX_UTF8_PER_UNIT, MIB

VERSION = "1.0.0"
"""The version of the IPC protocol that the client speaks."""

DEFAULT_MAX_QUEUE = 16 * MIB
"""Bytes; as much as a relay holds for a peer that is away."""

DEFAULT_MAX_MESSAGE = MAX_UTF8_PER_UNIT * DEFAULT_MAX_PAYLOAD_TLS
"""Bytes: the largest message that a relay passes on unless it is told otherwise."""

PING_TIMEOUT = 10.0
"""Seconds."""

log = Logger()


class IPCClient(Service):
    """A peer of one database, which stays connected.

    It is an ``IService``: give it a parent, or call :meth:`startService` and
    :meth:`stopService` yourself. When its connection is lost, it connects again, after a
    delay that grows, with the same id. Only a refusal that is final ends it (see
    :mod:`acebase_ipc.client.errors`): :meth:`whenConnected` and what waits to be sent
    fail with it, and so does everything that is tried later.

    :param url: ``ws://host:port``, ``wss://host:port`` or ``ws+unix:/path/of/socket``;
        see :mod:`acebase_ipc.client.url`.
    :param dbname: the database's wire name: AceBase's ``mydb`` is ``mydb_data``.
    :param id: 5 to 128 characters, without ``;``. By default 24 random ones. Each
        process needs one of its own.
    :param token: what the relay asks for, if it does.
    :param dialect: what other peers are: programs after the documentation, or AceBase.
    :param reactor: by default the global one, which is looked up by :meth:`startService`.
    :param trust_root: for ``wss``: the path of a PEM file with the certificates to trust,
        or one of Twisted's trust roots. By default, what the system trusts.
    :param max_queue: bytes that may wait to be sent; also, that may wait in each
        iterator of :meth:`messages`, and behind a message that is being downloaded.
    :param max_message: bytes that an incoming message may have.
    :param endpoint: where to connect, instead of what *url* names; TLS included.
    :param retry_policy: seconds to wait after so many failures in a row (from 1).
    :param clock: seconds of a clock that never jumps.
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
        endpoint: IStreamClientEndpoint | None = None,
        retry_policy: Callable[[int], float] = retry_delay,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._url = parse_url(url)
        self.dbname = _checked_database(dbname)
        self.id = random_id() if id is None else _checked_id(id)
        self._headers = _headers(token)
        try:
            self.dialect = Dialect(dialect)
        except ValueError:
            raise ConfigError("dialect is either documented or acebase") from None
        if min(max_queue, max_message) < 1:
            raise ConfigError("max_queue and max_message are numbers of bytes, at least 1")
        self._reactor = reactor
        self._clock = clock
        if isinstance(trust_root, str | PathLike):
            trust_root = load_trust_root(trust_root)
        self._trust_root = trust_root
        self._endpoint = endpoint
        self._max_queue = max_queue
        self._max_message = max_message
        self._http: RelayHTTP | None = None
        self._link = Link(self, retry_policy)
        self._sender = Sender(max_queue, self._post, self._link.ask)
        self._inbox = Inbox(self._download, self._deliver, max_queue)
        self._peers = Peers(self.id)
        self._iterators: WeakSet[Messages] = WeakSet()
        self._awaited: set[Messages] = set()
        self._ended: set[Deferred[None]] = set()
        self._on_message = Callbacks()
        self._on_connected = Callbacks()
        self._on_disconnected = Callbacks()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.dbname}: {self._link.state.value}>"

    # Living

    def startService(self) -> None:
        """Connect, and stay connected; what was sent already goes then.

        A client that is being stopped connects when that is done; one that was refused
        for good tries again.
        """
        if self.running and not self.failed:
            return
        super().startService()
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        endpoint = self._endpoint or connect_to(self._url, self._reactor, self._trust_root)
        self._http = RelayHTTP(
            self._url,
            self.dbname,
            self.id,
            self._headers,
            endpoint,
            self._max_message,
            self._reactor,
        )
        self._link.start(endpoint, self._handshake(), self._max_message, self._reactor, self._clock)

    def _handshake(self) -> ConnectingRequest:
        query = f"id={quote(self.id, safe='')}&v={VERSION}&dialect={self.dialect.value}"
        target = f"{self._url.prefix}/{quote(self.dbname, safe='')}/connect?{query}"
        return ConnectingRequest(
            self._url.host_header, self._url.port, target, headers=self._headers
        )

    def stopService(self) -> Deferred[None]:
        """Close the connection with 1000.

        What was handed to the transport is sent before. What still waits fails with
        :class:`~acebase_ipc.client.errors.ClientStopped`: wait for the Deferreds of
        :meth:`send` before. The client may be started again.

        :returns: a Deferred that fires when the connection has ended, after 5 seconds
            at most.
        """
        super().stopService()
        http = self._http  # another start would replace it
        stopped = self._link.stop()
        return stopped.addCallback(lambda _: http.close() if http else None)

    @property
    def connected(self) -> bool:
        """Whether the relay has welcomed the client, and the connection lasts."""
        return self._link.state is State.CONNECTED

    @property
    def problem(self) -> ConnectionProblem | None:
        """Why the client is not connected: the last thing that went wrong, if something did."""
        return self._link.problem

    @property
    def failed(self) -> bool:
        """Whether :attr:`problem` is final: the client will not connect again."""
        return self._link.state is State.FAILED

    def whenConnected(self, failAfterFailures: int | None = None) -> Deferred[None]:
        """Wait for the relay's welcome.

        :param failAfterFailures: fail when so many attempts to connect have failed;
            by default, only with what is final. The client goes on trying.
        :returns: a Deferred that fires at once if the client is connected now. It fails
            with a :class:`~acebase_ipc.client.errors.ConnectionProblem`, or with
            :class:`~acebase_ipc.client.errors.ClientStopped`.
        """
        return self._link.when_connected(failAfterFailures)

    def whenEnded(self) -> Deferred[None]:
        """Wait until the client does not try to connect any more.

        :returns: a Deferred that fires when the client is stopped. It fails with the
            :class:`~acebase_ipc.client.errors.ConnectionProblem` that is final.
        """
        refusal = self._link.refusal()
        if isinstance(refusal, ClientStopped):
            return succeed(None)
        if refusal is not None:
            return fail(refusal)
        ended: Deferred[None] = Deferred(self._ended.discard)
        self._ended.add(ended)
        return ended

    def on_connected(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call *callback* each time the relay has welcomed the client.

        What it sends goes before what has waited. (An ``async def`` is run, too, but
        what it sends after its first ``await`` goes after that.)

        :returns: a function that ends this.
        """
        return self._on_connected.add(callback)

    def on_disconnected(
        self, callback: Callable[[ConnectionProblem], object]
    ) -> Callable[[], None]:
        """Call *callback* each time a connection has ended, with what has ended it.

        Whether there will be another one, :meth:`whenEnded` tells.

        :returns: a function that ends this.
        """
        return self._on_disconnected.add(callback)

    # Sending

    def send(self, body: str, to: str | None = None) -> Deferred[None]:
        """Send *body* to the peer *to*, or to all others.

        Messages arrive in the order they were sent. While there is no connection they
        wait. What was handed over when a connection is lost may be lost with it: the
        protocol has no acknowledgements. Nothing is ever sent twice.

        :returns: a Deferred that fires when the message was handed to the transport;
            or, if it is too large for the WebSocket and was posted, when the relay has
            relayed it. Cancelling it takes back a message that still waits. It fails
            with a :class:`~acebase_ipc.client.errors.ClientError`:
            :class:`~acebase_ipc.client.errors.QueueFull` if too much waits,
            :class:`~acebase_ipc.client.errors.RequestFailed` if it could not be posted,
            ``ClientStopped``, or what has ended the client.
        :raises ConfigError: if *to* is no id, or *body* not valid Unicode.
        """
        if to is not None:
            _checked_id(to)
        message = compose(body, to)
        refusal = self._link.refusal()
        if refusal is not None:
            return fail(refusal)
        try:
            return self._sender.send(message)
        except QueueFull as error:
            return fail(error)

    def ping(self, timeout: float = PING_TIMEOUT) -> Deferred[float]:
        """Ask the relay for a sign of life.

        :param timeout: seconds.
        :returns: a Deferred with the seconds that it took. It fails with
            :class:`~acebase_ipc.client.errors.NotConnected` or
            :class:`~acebase_ipc.client.errors.PingTimeout`.
        """
        if not self.connected:
            return fail(NotConnected())
        began = self._clock()

        def timed_out(result: object, timeout: float) -> None:
            raise PingTimeout(timeout)

        answer = self._link.ask().addTimeout(timeout, self._reactor, timed_out)
        return answer.addCallback(lambda _: self._clock() - began)

    def _post(self, message: bytes) -> Deferred[None]:
        return self._http.post(message) if self._http else fail(NotConnected())

    # Receiving

    def on_message(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with each message of another peer, in order.

        What it raises is logged. (An ``async def`` is run, too, but nobody waits for
        it: the next message may come before it is done.)

        :returns: a function that ends this.
        """
        return self._on_message.add(callback)

    def messages(self) -> Messages:
        """An asynchronous iterator of the messages that come from now on.

        Each iterator receives all of them. It ends when the client is stopped, and
        raises what is final. If it is read so slowly that more than ``max_queue`` bytes
        wait, it raises :class:`~acebase_ipc.client.errors.SlowReader` after them and
        receives no more; the connection and other iterators are not concerned.
        """
        messages = Messages(self._max_queue, self._awaited)
        refusal = self._link.refusal()
        if refusal is not None:
            messages.end(refusal)
        else:
            self._iterators.add(messages)
        return messages

    def _download(self, message_id: str) -> Deferred[str]:
        return self._http.download(message_id) if self._http else fail(NotConnected())

    def _deliver(self, item: Item) -> None:
        if isinstance(item, Body):
            size = utf8_size(item.text)
            for iterator in tuple(self._iterators):
                iterator.put(item.text, size)
            self._on_message.call(item.text)
        else:
            self._peers.changed(item.id, isinstance(item, ConnectNotice))
        connection = self._link.connection
        if connection is not None and not self._inbox.is_full:
            connection.go_on()

    # Peers

    @property
    def peers(self) -> frozenset[str]:
        """The ids of the other peers that are connected.

        They are known soon after the client has connected (wait for
        :meth:`fetch_peers` to know them for sure). While it is not connected, they are
        as they were last.
        """
        return self._peers.ids

    def fetch_peers(self) -> Deferred[frozenset[str]]:
        """Ask the relay who is connected, and set :attr:`peers`.

        The client does this by itself whenever it has connected.

        :returns: a Deferred with the ids of the other peers. It fails with
            :class:`~acebase_ipc.client.errors.RequestFailed` or ``NotConnected``.
        """
        http = self._http
        if not self.connected or http is None:
            return fail(NotConnected())
        return self._peers.ask(http.clients)

    def on_peer_joined(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with the id of each peer that is new in :attr:`peers`.

        :returns: a function that ends this.
        """
        return self._peers.joined.add(callback)

    def on_peer_left(self, callback: Callable[[str], object]) -> Callable[[], None]:
        """Call *callback* with the id of each peer that is no longer in :attr:`peers`.

        :returns: a function that ends this.
        """
        return self._peers.left.add(callback)

    def _peers_unknown(self, failure: Failure) -> None:
        if not failure.check(NotConnected):
            log.warn("cannot ask who is connected: {reason}", reason=failure.getErrorMessage())

    # Called by the link

    def linked(self, connection: ClientConnection, max_payload: int) -> None:
        """The relay has welcomed us."""
        self._sender.connected(connection, max_payload, self._on_connected.call)
        if self.connected:
            self.fetch_peers().addErrback(self._peers_unknown)

    def heard(self, message: Incoming, size: int) -> None:
        """A message has come; what is none that we know is left alone."""
        if isinstance(message, ConnectNotice | DisconnectNotice | Body | DownloadNotice):
            self._inbox.put(message, size)
            if self._inbox.is_full and self._link.connection is not None:
                self._link.connection.hold()

    def drained(self) -> None:
        """There is room again for what is to be sent."""
        self._sender.go_on()

    def unlinked(self, problem: ConnectionProblem) -> None:
        """The connection has ended."""
        self._sender.disconnected()
        self._inbox.forget_peers()
        self._peers.forget()
        self._on_disconnected.call(problem)

    def over(self, error: ConnectionProblem | ClientStopped) -> None:
        """There will be no connection any more."""
        self._sender.fail(error)
        self._inbox.clear()
        self._peers.forget()
        if self._http is not None:
            self._http.cancel()
        for iterator in tuple(self._iterators):
            iterator.end(error)
        ended, self._ended = self._ended, set()
        settle(ended, None if isinstance(error, ClientStopped) else Failure(error))


def random_id() -> str:
    """An id for a peer: 24 characters ``a-z0-9``, as published clients have."""
    alphabet = string.ascii_lowercase + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(24))


def _checked_database(name: str) -> str:
    try:
        return check_database_name(name)
    except InvalidDatabaseName:
        raise ConfigError(
            "a database's name has 1 to 200 characters, without control characters"
        ) from None


def _checked_id(client_id: str) -> str:
    try:
        return check_client_id(client_id)
    except InvalidClientId:
        raise ConfigError(
            "an id has 5 to 128 characters, without ';' and control characters"
        ) from None


def _headers(token: str | None) -> dict[str, str]:
    """The headers that present *token*: a URL would be logged on the way."""
    if not token:
        return {}
    if token != token.strip() or not token.isprintable():
        raise ConfigError("the token holds control characters, or spaces at its ends")
    return {"Authorization": f"Bearer {token}"}
