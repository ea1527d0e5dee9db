"""What a program that embeds the relay can tell its clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, fail, succeed

from acebase_ipc.errors import IPCError
from acebase_ipc.http.errors import RequestTooLarge
from acebase_ipc.protocol.dialect import DOCUMENTED
from acebase_ipc.relay.errors import NotAPeer
from acebase_ipc.relay.peers import Peer, SessionState
from acebase_ipc.server.composition import Parts

_GONE = frozenset({SessionState.ENDING, SessionState.RESTORED, SessionState.GONE})


@dataclass(frozen=True, slots=True)
class Client:
    """A connected client, as :meth:`.AceBaseIPCServer.get_clients` returns it.

    :ivar id: the client's id.
    :ivar dbname: the wire name of its database.
    :ivar connected: when it connected, in milliseconds since 1970.
    """

    id: str
    dbname: str
    connected: int
    _send: Callable[[str, str, str], Deferred[None]] = field(repr=False, compare=False)

    def send_message(self, body: str) -> Deferred[None]:
        """Send *body* to this client, as a message of the relay itself.

        It receives what a message of another peer would be: ``msg:<body>``; ``get:<id>`` if it
        has to download a large one; or, if it is an AceBase process, the body as it is where
        that begins with ``{``.

        :returns: a Deferred that fires when the message was handed to the client's connection,
            or waits for it in the relay. It fails with ``acebase_ipc.relay.errors.NotAPeer`` if
            the client has left or cannot take it any more, with
            ``acebase_ipc.http.errors.RequestTooLarge`` above ``max_message``, and with
            ``acebase_ipc.relay.errors.Overloaded`` where there is no room for it. Nothing was
            sent then.
        :raises TypeError: if *body* is no text.
        :raises ValueError: if it is not valid Unicode.
        """
        return self._send(self.dbname, self.id, body)


class Speech:
    """Sends messages of the relay itself.

    :param clock: returns monotonic seconds.
    """

    def __init__(self, parts: Parts, clock: Callable[[], float]) -> None:
        self._parts = parts
        self._clock = clock

    def clients(self, dbname: str) -> tuple[Client, ...]:
        """Return the connected clients of a database, as they joined."""
        return tuple(
            Client(each.id, each.dbname, each.connected, self.send)
            for each in self._parts.relay.registry.clients(dbname)
        )

    def send(self, dbname: str, client_id: str, body: str) -> Deferred[None]:
        """Send *body* to one client; see :meth:`Client.send_message`."""
        message = _encode(body)
        try:
            peer = self._parts.relay.registry.peer(dbname, client_id)
            self._send([peer], message)
            if peer.state in _GONE:
                raise NotAPeer
        except IPCError as error:
            return fail(error)
        return succeed(None)

    def broadcast(self, dbname: str, body: str) -> Deferred[int]:
        """Send *body* to all clients of a database, and tell how many these are."""
        message = _encode(body)
        database = self._parts.relay.registry.databases.get(dbname)
        peers = [] if database is None else list(database.peers.values())
        try:
            if peers:
                self._send(peers, message)
        except IPCError as error:
            return fail(error)
        return succeed(sum(each.state not in _GONE for each in peers))

    def _send(self, peers: Sequence[Peer], message: bytes) -> None:
        relay, uploads = self._parts.relay, self._parts.uploads
        if len(message) > uploads.max_message:
            raise RequestTooLarge(uploads.max_message)
        if len(message) > relay.router.max_payload:
            uploads.check_room(len(message), any(each.dialect is DOCUMENTED for each in peers))
        relay.router.send_own(peers, message, self._clock())


def _encode(body: str) -> bytes:
    if not isinstance(body, str):
        raise TypeError(f"a message is text, not {type(body).__name__}")
    try:
        return body.encode()
    except UnicodeEncodeError:
        raise ValueError("a message is text: it must not hold lone surrogates") from None
