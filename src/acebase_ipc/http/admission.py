"""Decides which requests are admitted: origin, host, token, id, room, id conflicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from twisted.internet.interfaces import IAddress
from twisted.web.server import Request

from acebase_ipc.addresses import format_address
from acebase_ipc.http.auth import Access, presented_tokens, raw_query
from acebase_ipc.http.errors import ConflictingId
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.protocol.handshake import Handshake, accept, parse_query
from acebase_ipc.relay.errors import Overloaded
from acebase_ipc.relay.peers import Peer
from acebase_ipc.relay.relay import Relay


@dataclass(frozen=True, slots=True)
class Caller:
    """A request by a peer, as it was admitted.

    :ivar database: the wire name of the peer's database.
    :ivar client_id: the peer's id.
    :ivar query: the decoded query of the request.
    """

    database: str
    client_id: str
    query: dict[str, str]


class Admission:
    """Decides which requests are admitted.

    Each method decides about the present moment. A caller that acts later asks
    again, because a token can be revoked and room used up meanwhile.

    :param check_room: raises ``Overloaded`` if there is no room for the connection.
    :param clock: monotonic seconds.
    :param dialect: the dialect of all peers; ``None`` to detect it.
    :param is_running: tells whether the server runs; otherwise nothing is admitted.
    :ivar is_draining: whether only clients are admitted that are peers already.
    """

    is_draining = False

    def __init__(
        self,
        access: Access,
        relay: Relay,
        check_room: Callable[[IAddress | None], None],
        clock: Callable[[], float],
        dialect: Dialect | None,
        is_running: Callable[[], bool],
    ) -> None:
        self._is_running = is_running
        self._access = access
        self._relay = relay
        self._check_room = check_room
        self._clock = clock
        self._dialect = dialect

    def check_page(self, request: Request) -> bytes | None:
        """Refuse a web page that may not use the relay; refuse everything while stopped.

        :returns: the origin of a web page that may.
        :raises Overloaded: while the server does not run.
        :raises Unauthorized: for another web page.
        """
        self._check_open()
        return self._access.check_page(request)

    def _check_open(self) -> None:
        if not self._is_running():
            raise Overloaded("The server is not running")

    def _check_draining(self, handshake: Handshake) -> None:
        registry = self._relay.registry
        if self.is_draining and registry.find(handshake.database, handshake.client_id) is None:
            raise Overloaded("The server accepts no new clients: use another one")

    def check_token(self, request: Request, database: str) -> None:
        """Refuse a request whose token does not open *database*.

        :raises WrongToken: with 401.
        """
        self._access.check_token(presented_tokens(request), database, HTTPStatus.UNAUTHORIZED)

    def caller(self, request: Request, database: str | None) -> Caller:
        """The peer that makes the request.

        :param database: ``None`` if the request names none: then the databases
            that the token opens are searched for the peer.
        :raises WrongToken: with 401.
        :raises NotAPeer: if the id is not a peer's.
        :raises NotFound: if no database was named and none has this peer.
        :raises AmbiguousPeer: if no database was named and several have this peer.
        """
        query = parse_query(raw_query(request))
        client_id = query.get("id", "")
        tokens = presented_tokens(request)
        self._access.check_token(tokens, database, HTTPStatus.UNAUTHORIZED)
        if database is None:
            database = self._relay.registry.database_of(
                client_id, lambda name: self._access.revoked(name, tokens) is None
            )
        caller = Caller(database, client_id, query)
        self.peer(caller)
        return caller

    def peer(self, caller: Caller) -> Peer:
        """The peer of a request that was admitted.

        :raises NotAPeer: if it has left since.
        """
        return self._relay.registry.peer(caller.database, caller.client_id)

    def _handshake(self, request: Request, database: str, tokens: tuple[str, ...]) -> Handshake:
        """The handshake of a request for a WebSocket that presents *tokens*.

        :raises WrongToken: with 403.
        :raises RequestRefused: if the version, the id or the dialect cannot be used.
        """
        self._access.check_token(tokens, database, HTTPStatus.FORBIDDEN)
        return accept(database, raw_query(request), self._dialect)

    def connect(
        self,
        request: Request,
        database: str,
        admitted: Callable[[Handshake, tuple[str, ...]], object],
        refused: Callable[[RequestRefused], object],
    ) -> None:
        """Decide about a request for a WebSocket.

        Calls *admitted*, with the handshake and the tokens that were presented, or
        *refused*: at once, or when the holder of an id that is in conflict has been
        checked: then everything is evaluated again.

        :raises RequestRefused: if the handshake is refused without a check.
        """
        tokens = presented_tokens(request)
        handshake = self._handshake(request, database, tokens)
        newcomer = format_address(request.getClientAddress())
        was_checked = False

        def decide(free: bool) -> None:
            try:
                if was_checked:
                    self._check_open()
                    self._handshake(request, database, tokens)
                if not free:
                    raise ConflictingId
                if self._relay.gate is not None and not self._relay.gate(database):
                    raise Overloaded("The database is not served now: try again")
                self._relay.sessions.check_fence(handshake, newcomer, self._clock())
                self._check_draining(handshake)
                self._check_room(request.getClientAddress())
                self._relay.registry.check_room(handshake)
            except RequestRefused as refusal:
                refused(refusal)
            else:
                admitted(handshake, tokens)

        self._relay.sessions.check_conflict(handshake, newcomer, self._clock(), decide)
        was_checked = True
