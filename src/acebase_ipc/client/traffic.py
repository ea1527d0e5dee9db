"""What a client sends and receives over its link: everything but the public interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from acebase_ipc.client.callouts import Callbacks, Callouts
from acebase_ipc.client.connection import ClientConnection
from acebase_ipc.client.errors import (
    ClientStopped,
    ConnectionProblem,
    NotConnected,
    PingTimeout,
    QueueFull,
)
from acebase_ipc.client.http import RelayHTTP
from acebase_ipc.client.inbox import Inbox, Item
from acebase_ipc.client.iterators import Messages
from acebase_ipc.client.presence import Peers
from acebase_ipc.client.reconnect import ClientState, Link
from acebase_ipc.client.sender import Sender
from acebase_ipc.protocol.messages import (
    Body,
    ConnectNotice,
    DisconnectNotice,
    DownloadNotice,
    Incoming,
    utf8_size,
)

PONG_TIMEOUT = 30.0
"""Seconds that a large message waits until the relay has read all that was sent before it.
A relay lets a POST wait for memory as long, and then refuses it."""

log = Logger()


class Traffic:
    """The queues, callbacks and iterators of a client, which react to its link.

    :param callouts: calls the client's user.
    :param own_id: the client's id.
    :param max_queue: bytes that may wait in each queue.
    :param retry_policy: seconds to wait after so many failures in a row.
    :ivar link: the connection to the relay.
    :ivar http: the relay's HTTP endpoints, once the client was started.
    :ivar peers: the other peers that are connected.
    """

    def __init__(
        self,
        callouts: Callouts,
        own_id: str,
        max_queue: int,
        retry_policy: Callable[[int], float],
    ) -> None:
        self._callouts = callouts
        self._max_queue = max_queue
        self._reactor: Any = None
        self.http: RelayHTTP | None = None
        self.link = Link(self, callouts, retry_policy)
        self.peers = Peers(callouts, own_id)
        self._sender = Sender(callouts, max_queue, self._post, self._pong, self._wait)
        self._inbox = Inbox(callouts, self._download, self._deliver, self._regulate, max_queue)
        # In the order in which they were made; a WeakSet has none.
        self._iterators: WeakKeyDictionary[Messages, None] = WeakKeyDictionary()
        self._awaited: set[Messages] = set()
        self._ended: set[Deferred[None]] = set()
        self.on_message = Callbacks(callouts)
        self.on_connected = Callbacks(callouts)
        self.on_disconnected = Callbacks(callouts)

    def use(self, http: RelayHTTP, reactor: Any) -> None:
        """From now on, use *http* and *reactor*."""
        self.http = http
        self._reactor = reactor

    # What the user asks for

    def send(self, message: bytes) -> Deferred[None]:
        """Send *message*, or fail at once if there will be no connection or no room."""
        refusal = self.link.refusal()
        if refusal is not None:
            return fail(refusal)
        try:
            return self._sender.send(message)
        except QueueFull as error:
            return fail(error)

    def ping(self, timeout: float) -> Deferred[None]:
        """Wait until the relay has read all that was sent, for *timeout* seconds at most."""

        def timed_out(result: object, timeout: float) -> None:
            raise PingTimeout(timeout)

        answer = self.link.ping()
        return answer if answer.called else answer.addTimeout(timeout, self._reactor, timed_out)

    def messages(self) -> Messages:
        """Return an iterator of the messages that arrive from now on."""
        messages = Messages(self._callouts, self._max_queue, self._awaited)
        refusal = self.link.refusal()
        if refusal is not None:
            messages.end(refusal)
        else:
            self._iterators[messages] = None
        return messages

    def when_ended(self) -> Deferred[None]:
        """Wait until the client does not try to connect any more."""
        refusal = self.link.refusal()
        if isinstance(refusal, ClientStopped):
            return succeed(None)
        if refusal is not None:
            return fail(refusal)
        ended: Deferred[None] = Deferred(self._ended.discard)
        self._ended.add(ended)
        return ended

    def fetch_peers(self) -> Deferred[frozenset[str]]:
        """Ask the relay who is connected."""
        if self.link.state is not ClientState.CONNECTED or self.http is None:
            return fail(NotConnected())
        return self.peers.ask(self.http.clients)

    # What the link reports

    def welcomed(self, connection: ClientConnection, max_payload: int) -> None:
        """The relay has welcomed the client."""
        self._sender.connect(connection, max_payload)
        self.on_connected.call()
        self._callouts.call(self._sender.release)
        self._callouts.call(self._learn_peers)

    def received(self, message: Incoming, size: int) -> None:
        """A message has arrived; a message of an unknown kind is ignored."""
        if isinstance(message, ConnectNotice | DisconnectNotice | Body | DownloadNotice):
            self._inbox.put(message, size)
            if self._inbox.is_full:
                self._regulate()

    def drained(self) -> None:
        """There is room again for what is to be sent."""
        self._sender.pump()

    def disconnected(self, problem: ConnectionProblem) -> None:
        """The connection has ended."""
        self._sender.disconnect()
        self._inbox.forget_peers()
        self.peers.forget()
        self.on_disconnected.call(problem)

    def gave_up(self, error: ConnectionProblem | ClientStopped) -> None:
        """There will be no connection any more."""
        ended, self._ended = self._ended, set()
        with self._callouts:
            self._sender.fail(error)
            self._inbox.clear()
            self.peers.forget()
            if self.http is not None:
                self.http.cancel()
            for iterator in tuple(self._iterators):
                iterator.end(error)
            outcome = None if isinstance(error, ClientStopped) else Failure(error)
            self._callouts.settle_all(ended, outcome)

    # What the queues need

    def _post(self, message: bytes) -> Deferred[None]:
        return self.http.post(message) if self.http else fail(NotConnected())

    def _download(self, message_id: str) -> Deferred[str]:
        return self.http.download(message_id) if self.http else fail(NotConnected())

    def _pong(self) -> Deferred[None]:
        return self.ping(PONG_TIMEOUT)

    def _wait(self, seconds: float) -> Deferred[None]:
        return deferLater(self._reactor, seconds)

    def _deliver(self, item: Item) -> None:
        with self._callouts:
            if isinstance(item, Body):
                size = utf8_size(item.text)
                for iterator in tuple(self._iterators):
                    iterator.put(item.text, size)
                self.on_message.call(item.text)
            else:
                self.peers.changed(item.id, isinstance(item, ConnectNotice))

    def _regulate(self) -> None:
        """Read while there is room for what arrives."""
        connection = self.link.connection
        if connection is None:
            return
        if self._inbox.is_full:
            connection.pause_reading()
        else:
            connection.resume_reading()

    def _learn_peers(self) -> None:
        def unknown(failure: Failure) -> None:
            if not failure.check(NotConnected):
                why = failure.getErrorMessage()
                log.warn("cannot ask who is connected: {reason}", reason=why)

        self.fetch_peers().addErrback(unknown)
