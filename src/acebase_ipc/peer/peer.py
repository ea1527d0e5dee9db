"""A Python program as a peer of an AceBase cluster.

::

    peer = AceBasePeer("ws://127.0.0.1:9163", "mydb_data")
    peer.subscribe("users", "child_added", lambda event: print(event.path, event.value))
    peer.on_notification(lambda data, sender: print(sender, data))
    peer.on_request("statistics", lambda data, sender: {"users": 7})
    peer.startService()
    await peer.notify({"type": "here I am"})
    answer = await peer.request({"type": "how are you"})

It is no database: it never acts as the master, and neither reads nor writes database
files. It receives events of what the Node processes change, and exchanges messages with
them.

What to know of the npm package acebase (all measured with 1.29.13):

* **Who raises events.** Each process raises the events of its own writes, for the
  subscriptions that it knows of. So a peer announces its own to all processes when it
  connects, and to each process that joins or greets it later. Nothing is answered to
  that: events of writes in the moment before are missed.
* **Order.** The events of one writing process arrive in the order of its writes. There is
  no order between the writes of different processes.
* **Wildcards.** ``users/*`` and ``users/$id`` are served alike: one event for each path
  that fits, with :attr:`.Event.path` as it is. ``mutated`` and ``mutations`` at such a path
  may miss what is set above its wildcard (a defect of the npm package):
  subscribe to the parent instead.
* **Scalars.** ``child_…`` events at a path that holds a text come for its characters.
* **unsubscribe** has no effect in Node processes, by a defect: they keep sending until the peer
  leaves or they end. The relay drops the events as soon as the peer has told it all its
  subscriptions; those that come before are dropped here.
* **Requests** to a Node process are answered by AceBase itself first, and with an error
  if it does not know their type. See :meth:`AceBasePeer.request`.
* **Notifications** of a type that AceBase does not know are printed by each Node process
  as an error (``Unknown ipc notification``), which does no harm.
* **Typed values**: see :mod:`acebase_ipc.protocol.values`.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from time import monotonic
from typing import Any, Final, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from acebase_ipc.client.callouts import Callouts, checked_callable
from acebase_ipc.client.changes import Changes
from acebase_ipc.client.endpoint import TrustRoot
from acebase_ipc.client.reconnect import retry_delay
from acebase_ipc.client.service import (
    DEFAULT_MAX_MESSAGE,
    DEFAULT_MAX_QUEUE,
    IPCClient,
    random_id,
)
from acebase_ipc.errors import ConfigError
from acebase_ipc.peer.introductions import Introductions
from acebase_ipc.peer.requests import Answer, Answers, PendingRequests, check_times
from acebase_ipc.peer.subscriptions import (
    Callback,
    Subscription,
    Subscriptions,
    checked_event,
)
from acebase_ipc.protocol.dialect import ACEBASE
from acebase_ipc.protocol.envelopes import (
    MASTER,
    Bye,
    Envelope,
    Event,
    Hello,
    InvalidEnvelope,
    Notification,
    Other,
    Request,
    Result,
    bye,
    notification,
    parse,
    request,
    request_type,
    subscribe,
    unsubscribe,
)
from acebase_ipc.protocol.messages import utf8_size
from acebase_ipc.protocol.paths import normal_path

log = Logger()

DEFAULT_TIMEOUT: Final = 30.0
"""Seconds for the result of a request."""

DEFAULT_GRACE: Final = 1.0
"""Seconds for an application's answer after AceBase's own that a request is unknown."""

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
"""Notifications of AceBase processes about their files, after almost every write."""

INTERNAL_REQUESTS: Final = frozenset({"fst.allocate", "fst.release", "index.update"})
"""Requests with which a process that writes files changes those of the master."""

Notified = Callable[[Any, str], object]
"""Is given the data of a notification and the id of its sender; may return a Deferred or
a coroutine."""


class RelayClient(Protocol):
    """What a peer needs of an :class:`~acebase_ipc.client.service.IPCClient`."""

    id: str

    @property
    def connected(self) -> bool: ...
    def startService(self) -> None: ...
    def stopService(self) -> Deferred[None]: ...
    def when_connected(self, fail_after_failures: int | None = None) -> Deferred[None]: ...
    def when_ended(self) -> Deferred[None]: ...
    def send(self, body: str, to: str | None = None) -> Deferred[None]: ...
    def ping(self) -> Deferred[float]: ...
    def changes(self, path: str, since: str | None = None) -> Changes: ...
    def on_message(self, callback: Callable[[str], object]) -> Callable[[], None]: ...
    def on_connected(self, callback: Callable[[], object]) -> Callable[[], None]: ...
    def on_peer_joined(self, callback: Callable[[str], object]) -> Callable[[], None]: ...
    def on_peer_left(self, callback: Callable[[str], object]) -> Callable[[], None]: ...


class AceBasePeer(Service):
    """A peer of an AceBase cluster, without database files.

    It takes what an :class:`~acebase_ipc.client.service.IPCClient` takes, which it uses in
    the ``acebase`` dialect.

    :param url: of the relay: ``ws://host:port``, ``wss://host:port`` or
        ``ws+unix:/path/of/socket``.
    :param dbname: the wire name of the database: of ``new AceBase("mydb", …)`` it is
        ``mydb_data``.
    :param id: of this process; by default 24 random characters. Not ``[master]``.
    :param token: the relay's token, if it asks for one.
    :param reactor: by default the global one, which is looked up when it is needed.
    :param trust_root: as for the client; so are *max_queue*, *max_message*, *endpoint*,
        *retry_policy* and *clock*.
    :param client: makes the client of these arguments.
    :ivar client: its connection to the relay. The peer starts and stops it.
    :ivar ignored: how many messages have been ignored because they were not
        meaningful: malformed, of unknown types, or results that no request waits for.
    :raises ConfigError: if an argument cannot be used.
    """

    def __init__(
        self,
        url: str,
        dbname: str,
        id: str | None = None,
        token: str | None = None,
        *,
        reactor: Any = None,
        trust_root: TrustRoot | str | PathLike[str] | None = None,
        max_queue: int = DEFAULT_MAX_QUEUE,
        max_message: int = DEFAULT_MAX_MESSAGE,
        endpoint: IStreamClientEndpoint | None = None,
        retry_policy: Callable[[int], float] = retry_delay,
        clock: Callable[[], float] = monotonic,
        client: Callable[..., RelayClient] = IPCClient,
    ) -> None:
        if id == MASTER:
            raise ConfigError(f"A peer never acts as {MASTER}: give it another id")
        self.client = client(
            url,
            dbname,
            id,
            token,
            dialect=ACEBASE,
            reactor=reactor,
            trust_root=trust_root,
            max_queue=max_queue,
            max_message=max_message,
            endpoint=endpoint,
            retry_policy=retry_policy,
            clock=clock,
        )
        self._reactor = reactor
        self.ignored = 0
        self._callouts = Callouts()
        self._subscriptions = Subscriptions()
        self._introductions = Introductions(self.id, self.client, self._subscriptions, self._send)
        self._notified: dict[object, tuple[Notified, bool]] = {}
        self._pending = PendingRequests(self._callouts, self._clock)
        self._answers = Answers(self._callouts, self.id, self.client.send)
        self.client.on_connected(self._introductions.announce)
        self.client.on_message(self._received)
        self.client.on_peer_joined(self._introductions.joined)
        self.client.on_peer_left(self._left)

    @property
    def id(self) -> str:
        """The id under which the other processes know this one."""
        return self.client.id

    @property
    def peers(self) -> frozenset[str]:
        """The ids of the AceBase processes that have greeted and not left."""
        return frozenset(self._introductions.known)

    def _clock(self) -> IReactorTime:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor
        return IReactorTime(self._reactor)

    def startService(self) -> None:
        """Connect, and stay connected."""
        super().startService()
        self.client.startService()

    def stopService(self) -> Deferred[None]:
        """Tell the other processes and close the connection. Requests that wait for a
        result, and functions that work at an answer, are cancelled.

        :returns: a Deferred that fires when the connection has ended.
        """
        super().stopService()
        self._introductions.clear()
        with self._callouts:
            self._pending.cancel()
            self._answers.cancel()
            if self.client.connected:
                self._send(bye(self.id))
            return self.client.stopService()

    def when_connected(self, fail_after_failures: int | None = None) -> Deferred[None]:
        """Wait for the relay's welcome: see :meth:`.IPCClient.when_connected`."""
        return self.client.when_connected(fail_after_failures)

    def when_ended(self) -> Deferred[None]:
        """Wait for the end of all attempts: see :meth:`.IPCClient.when_ended`."""
        return self.client.when_ended()

    # Events

    def subscribe(self, path: str, event: str, callback: Callback) -> Callable[[], None]:
        """Call *callback* with an :class:`~acebase_ipc.protocol.envelopes.Event` for each *event*.

        The subscription outlasts reconnects. An exception of the callback is logged.

        :param path: as in ``db.ref(path)``; ``*`` and ``$name`` stand for any key.
        :param event: one of :data:`acebase_ipc.peer.subscriptions.EVENTS`: ``value``,
            ``child_added``, ``child_changed``, ``child_removed``, ``mutated``,
            ``mutations``, or one of them after ``notify_``, which comes without values.
        :param callback: may be ``async``; the next event does not wait for it.
        :returns: a function that ends this subscription, and no other of the same callback.
        :raises ValueError: for a path or event that AceBase does not have.
        :raises TypeError: if *callback* cannot be called.
        """
        path, event = normal_path(path), checked_event(event)
        checked_callable(callback)
        subscription = Subscription(path, event, callback)
        if self._subscriptions.add(subscription) and self.client.connected:
            self._send(subscribe(self.id, path, event))
        return lambda: self._discard(subscription)

    def unsubscribe(
        self, path: str, event: str | None = None, callback: Callback | None = None
    ) -> None:
        """End the subscriptions at exactly this *path*: all, or those of one kind of
        *event*, or of one *callback*.

        :raises ValueError: for a path that AceBase does not have.
        """
        for each in self._subscriptions.found(normal_path(path), event, callback):
            self._discard(each)

    def changes(self, path: str, since: str | None = None) -> Changes:
        """Follow what changes under a *path*, from now on or from a cursor on.

        ::

            changes = peer.changes("orders", since=load_cursor())
            async for change in changes:
                apply(change.mutations)
                store_cursor(change.cursor)

        Unlike a subscription it misses nothing silently, also while the program does not run: the
        relay keeps the changes, if it was started with ``--history-messages``, and asks the
        writers for them itself, whether or not this peer is connected. Where something may be
        missing, the iterator raises :exc:`~acebase_ipc.client.errors.HistoryGap`: read the
        database, and begin without a cursor. To begin, wait for :meth:`.Changes.when_ready`, and
        read the database then.

        :param path: as in ``db.ref(path)``, without wildcards.
        :param since: a cursor that was stored.
        :returns: an asynchronous iterator of :class:`.Change`, which begins at once. It ends when
            the peer is stopped.
        :raises ValueError: for a path that AceBase does not have, or with wildcards.
        """
        return self.client.changes(path, since)

    def _discard(self, subscription: Subscription) -> None:
        if self._subscriptions.discard(subscription) and self.client.connected:
            self._send(unsubscribe(self.id, subscription.path, subscription.event))

    # Notifications and requests

    def notify(self, data: Any, to: str | None = None) -> Deferred[None]:
        """Notify the process *to*, or all others.

        :param data: JSON and typed values (:func:`acebase_ipc.protocol.values.encode`); best a dict
            with a ``type`` of your own.
        :returns: a Deferred that fires when it was handed to the transport. It fails like
            :meth:`.IPCClient.send`.
        :raises TypeError, ValueError: for data that cannot be sent, and for notifications
            about database files (:data:`INTERNAL_NOTIFICATIONS`).
        """
        if request_type(data) in INTERNAL_NOTIFICATIONS:
            raise ValueError(f"{data['type']!r} is AceBase's own, and would damage the database")
        return self.client.send(notification(self.id, data, to), to)

    def on_notification(self, callback: Notified, *, internal: bool = False) -> Callable[[], None]:
        """Call *callback* with the data and the sender's id of each notification.

        :param internal: also for AceBase's own (:data:`INTERNAL_NOTIFICATIONS`).
        :returns: a function that ends this.
        """
        checked_callable(callback)
        key = object()
        self._notified[key] = callback, internal

        def stop() -> None:
            self._notified.pop(key, None)

        return stop

    def request(
        self,
        data: Any,
        to: str = MASTER,
        timeout: float = DEFAULT_TIMEOUT,
        grace: float = DEFAULT_GRACE,
    ) -> Deferred[Any]:
        """Send a request to the process *to*.

        A Node process knows some requests of AceBase's own, such as ``index.create`` and
        ``kit.add``. It answers others when its application calls ``replyRequest`` for
        them, but AceBase answers first that they are unknown. So the application's answer
        is awaited for *grace* seconds more.

        :param data: JSON and typed values; best a dict with a ``type``.
        :param timeout: seconds for the result, more than 0.
        :param grace: seconds, 0 or more.
        :returns: a Deferred with the data of the result. It fails with a
            :class:`~acebase_ipc.peer.errors.PeerError`:
            :class:`~acebase_ipc.peer.errors.RequestTimedOut`,
            :class:`~acebase_ipc.peer.errors.PeerGone`,
            :class:`~acebase_ipc.peer.errors.RemoteError` or
            :class:`~acebase_ipc.peer.errors.UnknownRequest`; or like
            :meth:`.IPCClient.send`. Cancel it to stop waiting.
        :raises TypeError, ValueError: for data that cannot be sent, and for requests
            that change database files (:data:`INTERNAL_REQUESTS`). Nothing is sent then.
        """
        check_times(timeout, grace)
        if request_type(data) in INTERNAL_REQUESTS:
            raise ValueError(f"{data['type']!r} is for processes that write database files")
        id = random_id()
        sent = self.client.send(request(self.id, to, id, data), to)
        result = self._pending.add(id, to, timeout, grace)
        sent.addErrback(lambda reason: self._pending.fail(id, reason))

        def take_back(outcome: Any) -> Any:
            sent.cancel()  # if it still waits: the result is not needed any more
            return outcome

        return result.addBoth(take_back)

    def on_request(self, type: str, function: Answer) -> Callable[[], None]:
        """Let *function* answer the requests whose data has this ``type``.

        It is called with the data and the id of the process that asks, and returns the
        result: JSON and typed values, or a Deferred or coroutine of that. An exception makes
        the request fail with its text; so do more than 1,000 requests of one process, or
        10,000 of all, at a time. Requests of other types are answered as the npm package
        does: ``{"ok": false, "reason": "Unknown ipc request …"}``.

        A Node application asks a process other than the master with ``ipc.request(…)``.

        :returns: a function that ends this.
        :raises ValueError: if another function answers this type.
        """
        return self._answers.register(type, function)

    # What the relay sends

    def _left(self, peer: str) -> None:
        self._introductions.left(peer)
        with self._callouts:
            self._pending.leave(peer)
            self._answers.leave(peer)

    def _received(self, text: str) -> None:
        try:
            envelope = parse(text)
        except InvalidEnvelope as error:
            self._ignore(str(error))
            return
        with self._callouts:
            self._handle(envelope, utf8_size(text))

    def _handle(self, envelope: Envelope, size: int) -> None:
        match envelope:
            case Hello(sender):
                if not self._introductions.greeted(envelope):
                    self._ignore(f"the greeting of {sender}: there are too many")
            case Bye(sender):
                self._left(sender)
            case Event():
                for subscription in self._subscriptions.of(envelope):
                    self._callouts.call(self._call_subscriber, subscription, envelope)
            case Notification(sender, data):
                internal = request_type(data) in INTERNAL_NOTIFICATIONS
                for key in tuple(self._notified):
                    self._callouts.call(self._call_notified, key, data, sender, internal)
            case Request(sender, to):
                # A request to all must not be answered by all.
                if to == self.id:
                    self._answers.answer(envelope, size)
                else:
                    self._ignore(f"a request of {sender} to another process")
            case Result(sender):
                if not self._pending.resolve(envelope):
                    self._ignore(f"a result of {sender} that no request waits for")
            case Other("subscribe" | "unsubscribe"):
                pass  # of events of writes, and nothing is written here
            case _:
                self._ignore(f"{envelope.type!r} of {envelope.sender}")

    def _call_subscriber(self, subscription: Subscription, event: Event) -> object:
        return subscription.callback(event) if subscription in self._subscriptions else None

    def _call_notified(self, key: object, data: Any, sender: str, internal: bool) -> object:
        notified, takes_internal = self._notified.get(key, (None, False))
        if notified is None or (internal and not takes_internal):
            return None
        return notified(data, sender)

    def _ignore(self, what: str) -> None:
        self.ignored += 1
        log.debug("ignored: {what}", what=what)

    def _send(self, text: str, to: str | None = None) -> None:
        sent = self.client.send(text, to)
        sent.addErrback(lambda reason: log.warn("not sent: {why}", why=reason.getErrorMessage()))
