"""A Python program as a member of an AceBase cluster.

::

    peer = AceBasePeer.at("ws://127.0.0.1:9163", "mydb_data")
    peer.subscribe("users", "child_added", lambda event: print(event.path, event.value))
    peer.on_notification(lambda data, sender: print(sender, data))
    peer.on_request("statistics", lambda data, sender: {"users": 7})
    peer.startService()
    await peer.notify({"type": "here I am"})
    answer = await peer.request({"type": "how are you"})

It is no database: it never acts as the master, and neither reads nor writes database
files. It is told what the Node processes change, and talks with them.

What to know of the published client (all measured with npm ``acebase`` 1.29.13):

* **Who raises events.** Each process raises the events of its own writes, for the
  subscriptions that it knows of. So a peer announces its own to everybody when it
  connects, and to each process that joins or greets it later. Nothing is answered to
  that: what was written in the moment before is missed.
* **Order.** The events of one writing process come in the order of its writes. Nothing
  orders the writes of different processes.
* **Wildcards.** ``users/*`` and ``users/$id`` are served alike: one event for each path
  that fits, with :attr:`.Event.path` as it is. ``mutated`` and ``mutations`` at such a path
  may miss what is set above its wildcard (a defect of the published client):
  subscribe to the parent instead.
* **Scalars.** ``child_…`` events at a path that holds a text come for its characters.
* **unsubscribe** has no effect in published clients, by a defect. They go on sending
  until the peer leaves or they end; what comes is dropped here.
* **Requests** to a Node process are answered by AceBase itself first, and with an error
  if it does not know their type. See :meth:`AceBasePeer.request`.
* **Notifications** of a type that AceBase does not know are printed by each Node process
  as an error (``Unknown ipc notification``). It does no harm.
* **Typed values**: see :mod:`acebase_ipc.protocol.values`.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any, Final, Protocol, Self

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from acebase_ipc.client.endpoint import TrustRoot
from acebase_ipc.client.service import DEFAULT_MAX_QUEUE, IPCClient, random_id
from acebase_ipc.errors import ConfigError
from acebase_ipc.peer.requests import Answer, Answers, PendingRequests
from acebase_ipc.peer.subscriptions import Callback, Subscriptions, checked_event, normal_path
from acebase_ipc.protocol.dialect import ACEBASE, Dialect
from acebase_ipc.protocol.envelopes import (
    MASTER,
    Bye,
    Event,
    Hello,
    InvalidEnvelope,
    Notification,
    Other,
    Request,
    Result,
    bye,
    hello,
    notification,
    parse,
    request,
    request_type,
    subscribe,
    unsubscribe,
)
from acebase_ipc.relay.limits import Limits

log = Logger()

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds for the result of a request."""

DEFAULT_GRACE: Final = 1.0
"""Seconds for an application's answer after AceBase's own that a request is unknown."""

MAX_PEERS: Final = Limits().max_database_connections
"""Processes that a peer knows at a time: as many as a relay lets into one database."""

INTERNAL_NOTIFICATIONS: Final = frozenset(
    {
        "cache.invalidate",
        "cache.update",
        "index.created",
        "index.deleted",
        "kit.new_key",
        "root.update",
    }
)
"""What AceBase processes tell each other of their files, after almost every write."""

INTERNAL_REQUESTS: Final = frozenset({"fst.allocate", "fst.release", "index.update"})
"""Requests with which a process that writes files changes those of the master."""

Notified = Callable[[Any, str], object]
"""Given the data of a notification and the id of its sender; may return a Deferred or a
coroutine."""


class PeerClient(Protocol):
    """What a peer needs of an :class:`~acebase_ipc.client.service.IPCClient`."""

    id: str
    dialect: Dialect

    @property
    def connected(self) -> bool: ...
    def startService(self) -> None: ...
    def stopService(self) -> Deferred[None]: ...
    def whenConnected(self, failAfterFailures: int | None = None) -> Deferred[None]: ...
    def whenEnded(self) -> Deferred[None]: ...
    def send(self, body: str, to: str | None = None) -> Deferred[None]: ...
    def on_message(self, callback: Callable[[str], object]) -> Callable[[], None]: ...
    def on_connected(self, callback: Callable[[], object]) -> Callable[[], None]: ...
    def on_peer_joined(self, callback: Callable[[str], object]) -> Callable[[], None]: ...
    def on_peer_left(self, callback: Callable[[str], object]) -> Callable[[], None]: ...


class AceBasePeer(Service):
    """A member of an AceBase cluster, without database files.

    :meth:`at` makes one from a URL.

    :param client: its connection to the relay, in the ``acebase`` dialect. The peer
        starts it and stops it.
    :param reactor: for timeouts; by default the global one, which is looked up by the
        first request.
    :ivar client: the same.
    :ivar ignored: how many messages have been ignored because they were not
        meaningful: malformed, of unknown types, or results nobody waits for.
    :raises ConfigError: if the client's dialect is another, or its id ``[master]``.
    """

    def __init__(self, client: PeerClient, reactor: IReactorTime | None = None) -> None:
        if client.dialect is not ACEBASE:
            raise ConfigError("A peer needs a client of the dialect acebase")
        if client.id == MASTER:
            raise ConfigError(f"A peer never acts as {MASTER}: give it another id")
        self.client = client
        self._reactor = reactor
        self.ignored = 0
        self._peers: set[str] = set()
        self._subscriptions = Subscriptions()
        self._notified: list[tuple[Notified, bool]] = []
        self._pending = PendingRequests(self._clock)
        self._answers = Answers(client.id, self._send)
        client.on_connected(self._connected)
        client.on_message(self._received)
        client.on_peer_joined(self._joined)
        client.on_peer_left(self._left)

    @classmethod
    def at(
        cls,
        url: str,
        dbname: str,
        id: str | None = None,
        token: str | None = None,
        *,
        reactor: Any = None,
        trust_root: TrustRoot | str | PathLike[str] | None = None,
        max_queue: int = DEFAULT_MAX_QUEUE,
    ) -> Self:
        """Make a peer with a client of its own.

        :param url: of the relay: ``ws://host:port``, ``wss://host:port`` or what else
            :class:`~acebase_ipc.client.service.IPCClient` takes.
        :param dbname: the wire name of the database: of ``new AceBase("mydb", …)`` it is
            ``mydb_data``.
        :param id: of this process; by default 24 random characters.
        :param token: of the relay, if it asks for one.
        :param reactor: the global one by default.
        :param trust_root: for ``wss``, as for the client.
        :param max_queue: bytes that may wait to be sent.
        :raises ConfigError: if one of them cannot be used.
        """
        client = IPCClient(
            url,
            dbname,
            id,
            token,
            dialect=ACEBASE,
            reactor=reactor,
            trust_root=trust_root,
            max_queue=max_queue,
        )
        return cls(client, reactor)

    @property
    def id(self) -> str:
        """The id by which the others know this process."""
        return self.client.id

    @property
    def peers(self) -> frozenset[str]:
        """The ids of the AceBase processes that have greeted and not left."""
        return frozenset(self._peers)

    def _clock(self) -> IReactorTime:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = IReactorTime(reactor)
        return self._reactor

    def startService(self) -> None:
        """Connect, and stay connected."""
        super().startService()
        self.client.startService()

    def stopService(self) -> Deferred[None]:
        """Say goodbye and close the connection. Requests that wait for a result, and
        functions at work to answer one, are cancelled.

        :returns: a Deferred that fires when the connection has ended.
        """
        super().stopService()
        self._pending.cancel()
        self._answers.cancel()
        if self.client.connected:
            self._send(bye(self.id))
        self._peers.clear()
        return self.client.stopService()

    def whenConnected(self, failAfterFailures: int | None = None) -> Deferred[None]:
        """Wait for the relay's welcome: see :meth:`.IPCClient.whenConnected`."""
        return self.client.whenConnected(failAfterFailures)

    def whenEnded(self) -> Deferred[None]:
        """Wait for the end of all attempts: see :meth:`.IPCClient.whenEnded`."""
        return self.client.whenEnded()

    # Events

    def subscribe(self, path: str, event: str, callback: Callback) -> Callable[[], None]:
        """Call *callback* with an :class:`~acebase_ipc.protocol.envelopes.Event` for each *event*.

        The subscription outlasts reconnects. An exception of the callback is logged.

        :param path: as in ``db.ref(path)``; ``*`` and ``$name`` stand for any key.
        :param event: one of :data:`acebase_ipc.peer.subscriptions.EVENTS`: ``value``,
            ``child_added``, ``child_changed``, ``child_removed``, ``mutated``,
            ``mutations``, or one of them after ``notify_``, which comes without values.
        :param callback: may be ``async``; the next event does not wait for it.
        :returns: a function that ends this subscription.
        :raises ValueError: for a path or event that AceBase does not have.
        """
        path, event = normal_path(path), checked_event(event)
        if self._subscriptions.add(path, event, callback) and self.client.connected:
            self._send(subscribe(self.id, path, event))
        active = [callback]

        def stop() -> None:
            while active:
                self._discard(path, event, active.pop())

        return stop

    def unsubscribe(
        self, path: str, event: str | None = None, callback: Callback | None = None
    ) -> None:
        """End the subscriptions at exactly this *path*: all, or those of one kind of
        *event*, or of one *callback*.

        :raises ValueError: for a path that AceBase does not have.
        """
        path = normal_path(path)
        for kind, each in self._subscriptions.found(path, event, callback):
            self._discard(path, kind, each)

    def _discard(self, path: str, event: str, callback: Callback) -> None:
        if self._subscriptions.discard(path, event, callback) and self.client.connected:
            self._send(unsubscribe(self.id, path, event))

    # Notifications and requests

    def notify(self, data: Any, to: str | None = None) -> Deferred[None]:
        """Let the process *to*, or all others, know.

        :param data: JSON and typed values (:func:`acebase_ipc.protocol.values.encode`); best a dict
            with a ``type`` of your own.
        :returns: a Deferred that fires when it was handed to the transport. It fails like
            :meth:`.IPCClient.send`.
        :raises TypeError, ValueError: for data that cannot be sent, and for what AceBase
            processes would take as news of their files (:data:`INTERNAL_NOTIFICATIONS`).
        """
        if request_type(data) in INTERNAL_NOTIFICATIONS:
            raise ValueError(f"{data['type']!r} is AceBase's own, and would damage the database")
        return self.client.send(notification(self.id, data, to), to)

    def on_notification(self, callback: Notified, *, internal: bool = False) -> Callable[[], None]:
        """Call *callback* with the data and the sender's id of each notification.

        :param internal: also for AceBase's own (:data:`INTERNAL_NOTIFICATIONS`).
        :returns: a function that ends this.
        """
        entry = callback, internal
        self._notified.append(entry)

        def stop() -> None:
            self._notified = [each for each in self._notified if each is not entry]

        return stop

    def request(
        self,
        data: Any,
        to: str = MASTER,
        timeout: float = DEFAULT_TIMEOUT,
        grace: float = DEFAULT_GRACE,
    ) -> Deferred[Any]:
        """Ask the process *to* for something.

        A Node process knows some requests of AceBase's own, such as ``index.create`` and
        ``kit.add``. It answers others when its application calls ``replyRequest`` for
        them, but AceBase answers first that they are unknown. So the application's answer
        is awaited for *grace* seconds more.

        :param data: JSON and typed values; best a dict with a ``type``.
        :param timeout: seconds, more than 0.
        :param grace: seconds, 0 or more.
        :returns: a Deferred with the data of the result. It fails with a
            :class:`~acebase_ipc.peer.errors.PeerError`:
            :class:`~acebase_ipc.peer.errors.RequestTimedOut`,
            :class:`~acebase_ipc.peer.errors.PeerGone`,
            :class:`~acebase_ipc.peer.errors.RemoteError` or
            :class:`~acebase_ipc.peer.errors.UnknownRequest`; or like
            :meth:`.IPCClient.send`. Cancel it to stop waiting.
        :raises TypeError, ValueError: for data that cannot be sent, and for requests
            that change database files (:data:`INTERNAL_REQUESTS`).
        """
        if request_type(data) in INTERNAL_REQUESTS:
            raise ValueError(f"{data['type']!r} is for processes that write database files")
        id = random_id()
        sent = self.client.send(request(self.id, to, id, data), to)
        result = self._pending.add(id, to, timeout, grace)
        sent.addErrback(lambda reason: self._pending.fail(id, reason))

        def take_back(outcome: Any) -> Any:
            sent.cancel()  # if it still waits: nobody wants the result any more
            return outcome

        return result.addBoth(take_back)

    def on_request(self, type: str, function: Answer) -> Callable[[], None]:
        """Let *function* answer the requests whose data has this ``type``.

        It is called with the data and the id of who asks, and returns the result: JSON
        and typed values, or a Deferred or coroutine of that. An exception makes the request
        fail with its text. Requests of other types are answered as published
        clients do: ``{"ok": false, "reason": "Unknown ipc request …"}``.

        A Node application asks a process other than the master with ``ipc.request(…)``.

        :returns: a function that ends this.
        :raises ValueError: if another function answers this type.
        """
        return self._answers.register(type, function)

    # What the relay brings

    def _connected(self) -> None:
        # Not only where a seat was lost: whether that is so is not known here, and
        # processes that know a subscription already take no notice of it. The relay's
        # own introductions do not exist everywhere.
        self._send(hello(self.id))
        for path, event in self._subscriptions:
            self._send(subscribe(self.id, path, event))

    def _joined(self, peer: str) -> None:
        # Published clients do not greet when they join. Where the relay does not do it for
        # them, this is how they learn the subscriptions.
        if peer not in self._peers:
            self._introduce(peer)

    def _left(self, peer: str) -> None:
        self._peers.discard(peer)
        self._pending.leave(peer)
        self._answers.leave(peer)

    def _received(self, text: str) -> None:
        try:
            envelope = parse(text)
        except InvalidEnvelope as error:
            self._ignore(str(error))
            return
        match envelope:
            case Hello():
                self._greeted(envelope)
            case Bye(sender):
                self._left(sender)
            case Event():
                for callback in self._subscriptions.callbacks(envelope):
                    _call(callback, envelope)
            case Notification(sender, data):
                internal = request_type(data) in INTERNAL_NOTIFICATIONS
                for notified, takes_internal in tuple(self._notified):
                    if takes_internal or not internal:
                        _call(notified, data, sender)
            case Request(sender, to):
                # One that everybody received must not be answered by everybody.
                if to == self.id:
                    self._answers.answer(envelope)
                else:
                    self._ignore(f"a request of {sender} to somebody else")
            case Result(sender):
                if not self._pending.resolve(envelope):
                    self._ignore(f"a result of {sender} that nobody waits for")
            case Other("subscribe" | "unsubscribe"):
                pass  # of events of writes, and nothing is written here
            case _:
                self._ignore(f"{envelope.type!r} of {envelope.sender}")

    def _greeted(self, greeting: Hello) -> None:
        if greeting.sender == self.id:
            return
        if len(self._peers) >= MAX_PEERS and greeting.sender not in self._peers:
            self._ignore(f"the greeting of {greeting.sender}: there are too many")
            return
        self._peers.add(greeting.sender)
        if greeting.to != self.id:
            self._introduce(greeting.sender)

    def _introduce(self, peer: str) -> None:
        self._send(hello(self.id, peer), peer)
        for path, event in self._subscriptions:
            self._send(subscribe(self.id, path, event, peer), peer)

    def _ignore(self, what: str) -> None:
        self.ignored += 1
        log.debug("ignored: {what}", what=what)

    def _send(self, text: str, to: str | None = None) -> None:
        sent = self.client.send(text, to)
        sent.addErrback(lambda reason: log.warn("not sent: {why}", why=reason.getErrorMessage()))


def _call(callback: Callable[..., object], *arguments: object) -> None:
    calling = maybeDeferred(callback, *arguments)
    calling.addErrback(lambda reason: log.failure("a callback failed", reason))
