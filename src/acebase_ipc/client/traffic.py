"""What a client sends and receives over its link: everything but the public interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
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
    ProtocolError,
    QueueFull,
)
from acebase_ipc.client.http import RelayHTTP
from acebase_ipc.client.inbox import Inbox, Item
from acebase_ipc.client.iterators import Messages
from acebase_ipc.client.presence import Peers
from acebase_ipc.client.reconnect import ClientState, Link
from acebase_ipc.client.sender import Sender
from acebase_ipc.client.session import Gap, Session
from acebase_ipc.protocol.errors import InvalidNumber, MessageRefused
from acebase_ipc.protocol.messages import (
    Acknowledgement,
    Body,
    ConnectNotice,
    DisconnectNotice,
    DownloadNotice,
    Incoming,
    Numbered,
    Plain,
    Unknown,
    Welcome,
    utf8_size,
)
from acebase_ipc.protocol.numbers import ACK_AFTER

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
    :param resume: whether to ask for a resumable session.
    :ivar session: what outlasts a connection.
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
        resume: bool,
    ) -> None:
        self._callouts = callouts
        self._max_queue = max_queue
        self._reactor: Any = None
        self.http: RelayHTTP | None = None
        self.session = Session(resume)
        self._acknowledging: IDelayedCall | None = None
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
        self.on_gap = Callbacks(callouts)

    def use(self, http: RelayHTTP, reactor: Any) -> None:
        """From now on, use *http* and *reactor*."""
        self.http = http
        self._reactor = reactor

    # What the user asks for

    def send(self, message: bytes, confirm: bool) -> Deferred[None]:
        """Send *message*, or fail at once if there will be no connection or no room."""
        refusal = self.link.refusal()
        if refusal is not None:
            return fail(refusal)
        try:
            return self._sender.send(message, confirm)
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

    def welcomed(self, connection: ClientConnection, welcome: Welcome) -> None:
        """The relay has welcomed the client."""
        gap = self.session.welcomed(welcome)
        self._sender.connect(connection, welcome.max_payload)
        if self.session.is_resumed:
            try:
                self._sender.resume(welcome.received)
            except MessageRefused:
                connection.fail(ProtocolError(1002, "the relay has received what was not sent"))
                return
        else:
            unconfirmed = self._sender.begin(self.session.is_active)
            self._inbox.forget_peers()
            self.peers.is_known = False
            if gap is not None:
                self._inbox.put(Gap(gap, unconfirmed), 0)
        self.on_connected.call()
        self._callouts.call(self._sender.release)
        if not self.peers.is_known:
            self._callouts.call(self._learn_peers)

    def received(self, message: Incoming, size: int) -> None:
        """A message has arrived; a message of an unknown kind is ignored."""
        if self.session.is_active:
            try:
                taken = self._take(message)
            except MessageRefused as error:
                if self.link.connection is not None:
                    self.link.connection.fail(ProtocolError(1002, str(error)))
                return
            if taken is None:
                return
            message = taken
        if isinstance(message, ConnectNotice | DisconnectNotice | Body | DownloadNotice):
            self._inbox.put(message, size)
            if self._inbox.is_full:
                self._regulate()

    def _take(self, message: Incoming) -> Plain | None:
        """Take a message of a resumable session.

        :returns: the message without its number; ``None`` if there is nothing to deliver.
        :raises MessageRefused: if its number cannot be right.
        """
        match message:
            case Acknowledgement(number):
                self._sender.acknowledge(number)
            case Numbered(number, plain):
                received = self.session.received
                is_new = received.accept(number)
                if received.is_due:
                    self._acknowledge()
                elif self._acknowledging is None:
                    self._acknowledging = self._reactor.callLater(ACK_AFTER, self._acknowledge)
                return plain if is_new else None
            case Unknown():
                pass
            case _:
                raise InvalidNumber
        return None

    def _acknowledge(self) -> None:
        """Acknowledge what has arrived, if the connection has room now."""
        self._acknowledge_no_more()
        connection, received = self.link.connection, self.session.received
        if received.is_untold and connection is not None and connection.ready:
            connection.send(received.acknowledgement())

    def _acknowledge_no_more(self) -> None:
        acknowledging, self._acknowledging = self._acknowledging, None
        if acknowledging is not None and acknowledging.active():
            acknowledging.cancel()

    def drained(self) -> None:
        """There is room again for what is to be sent."""
        self._acknowledge()
        self._sender.pump()

    def disconnected(self, problem: ConnectionProblem) -> None:
        """The connection has ended."""
        self._sender.disconnect()
        self._acknowledge_no_more()
        if not self.session.is_active:
            self._inbox.forget_peers()
        self.peers.forget()
        self.on_disconnected.call(problem)

    def gave_up(self, error: ConnectionProblem | ClientStopped) -> None:
        """There will be no connection any more."""
        ended, self._ended = self._ended, set()
        with self._callouts:
            self.session.clear()
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
        return self.http.post(self.session.posted(message)) if self.http else fail(NotConnected())

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
            elif isinstance(item, Gap):
                self.on_gap.call(item)
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
