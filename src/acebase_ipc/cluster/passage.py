"""Passes requests that have reached another relay than the home of their database on to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from acebase_ipc.cluster.handshake import Ticket
from acebase_ipc.cluster.links import ClientEnd, LinkFailed, LinkRefused, Links
from acebase_ipc.cluster.node import Node, Place
from acebase_ipc.http.auth import Access, presented_tokens, raw_query
from acebase_ipc.http.resources import database_name
from acebase_ipc.protocol.errors import InvalidClientId, InvalidDatabaseName, RequestRefused
from acebase_ipc.protocol.handshake import check_client_id, parse_query
from acebase_ipc.relay.errors import AmbiguousPeer, Overloaded
from acebase_ipc.websocket.upgrade import take_transport

_NOT_REPLAYED: Final = frozenset({b"connection", b"expect", b"forwarded", b"x-forwarded-for"})
"""Headers that the relay of the client has used: it tells the home the client's address."""

_CLAIMING: Final = frozenset({b"connect", b"changes"})
"""The endpoints whose clients stay, and need a home for their database."""

log = Logger()


class Passage:
    """Decides for each request whether it is passed on, and passes it on.

    :param search: returns the databases that have a peer of an id here.
    :param clock: returns monotonic seconds.
    """

    def __init__(
        self,
        node: Node,
        links: Links,
        access: Access,
        search: Callable[[str], list[str]],
        reactor: Any,
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._links = links
        self._access = access
        self._search = search
        self._reactor = reactor
        self._clock = clock

    def takes(self, request: Any) -> bool:
        """Return whether *request*, whose headers are complete, has to wait or is passed on.

        If so, it is paused, and goes on later, or not at all.
        """
        database, endpoint = _target(request)
        if endpoint is None or (database is not None and self._node.may_admit(database)):
            return False
        tokens = presented_tokens(request)
        if not self._is_allowed(request, database, tokens):
            return False  # it is refused here
        request.pause()
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        routing = Deferred.fromCoroutine(
            self._ask_all(request, tokens, gone)
            if database is None
            else self._route(request, database, endpoint in _CLAIMING, gone)
        )
        routing.addErrback(self._failed, request, gone)
        return True

    def _is_allowed(self, request: Any, database: str | None, tokens: tuple[str, ...]) -> bool:
        access = self._access
        try:
            access.check_page(request)
        except RequestRefused:
            return False
        is_served = database is None or access.serves(database)
        return is_served and access.tokens.allow(database, tokens)

    @staticmethod
    def _failed(failure: Failure, request: Any, gone: list[object]) -> None:
        log.failure("passing on a request failed", failure)
        if not gone:
            request.expire(Overloaded("The request cannot be passed on"))

    async def _ask_all(self, request: Any, tokens: tuple[str, ...], gone: list[object]) -> None:
        """Find the only database that has a peer of the request's id, at whichever relay."""
        peer = parse_query(raw_query(request)).get("id", "")
        try:
            check_client_id(peer)
        except InvalidClientId:
            request.resume()  # no peer has such an id
            return
        own = self._node.member.id
        others = [about for relay, about in self._node.relays.items() if relay != own]
        answers = await gatherResults(
            [Deferred.fromCoroutine(self._ask(each.address, peer)) for each in others]
        )
        found = {*self._search(peer), *(name for each in answers if each for name in each)}
        found = {each for each in found if self._access.revoked(each, tokens) is None}
        if gone:
            return
        if len(found) > 1:
            request.expire(AmbiguousPeer())
        elif not found and None in answers:
            request.expire(Overloaded("A relay of the cluster does not answer"))
        elif not found:
            request.resume()
        else:
            (database,) = found
            path = b"/" + quote(database, safe="").encode()
            request.uri, request.path = path + request.uri, path + request.path
            await self._route(request, database, False, gone)

    async def _ask(self, address: str, peer: str) -> frozenset[str] | None:
        try:
            return await self._links.search(address, peer)
        except LinkFailed:
            return None

    async def _route(self, request: Any, database: str, claims: bool, gone: list[object]) -> None:
        is_linked = getattr(request.channel.transport, "is_linked", False)
        deadline = self._clock() + self._node.patience
        while not gone:
            try:
                place = await self._node.find(database, claims)
            except RequestRefused as refusal:
                if not gone:
                    request.expire(refusal)
                return
            if gone:
                return
            if place is None or place.relay is None:
                request.resume()  # it is answered here
                return
            if is_linked:
                request.expire(Overloaded("The database has moved: try again"))
                return
            try:
                await self._pass_on(request, database, place, gone)
            except LinkFailed as error:
                self._node.shun(place.relay, database, isinstance(error, LinkRefused))
                if self._clock() >= deadline:
                    log.warn(
                        "a client of {database} is not passed on: {reason}",
                        database=database,
                        reason=str(error),
                    )
                    if not gone:
                        request.expire(Overloaded("The relay of this database does not answer"))
                    return
                await deferLater(self._reactor, self._node.timing.tick)
            else:
                return

    async def _pass_on(self, request: Any, database: str, place: Place, gone: list[object]) -> None:
        client, server = request.getClientAddress(), request.getHost()
        ticket = Ticket(database, place.epoch)
        link = await self._links.open(place.address, ticket, client, server, replay(request))
        link.relay = place.relay
        if gone:
            link.transport.abortConnection()
            return
        end = ClientEnd()
        rest = request.channel.upgraded()
        transport = take_transport(request, end)
        link.pass_on(end, transport)
        if rest:
            link.transport.write(rest)


def _target(request: Request) -> tuple[str | None, bytes | None]:
    """Return the database that a request names, if any, and the name of the endpoint.

    The latter is ``None`` for a request that every relay can answer.
    """
    segments = [unquote_to_bytes(each) for each in request.path[1:].split(b"/")]
    if segments in ([b"send"], [b"receive"]):
        return None, segments[0]
    if len(segments) != 2:
        return None, None
    try:
        return database_name(segments[0]), segments[1]
    except InvalidDatabaseName:
        return None, None


def replay(request: Any) -> bytes:
    """Return the head of a request as the home is to receive it.

    A request that is none for a WebSocket is the last one of its connection: the next one may be
    for another database.
    """
    lines = [b"%b %b %b" % (request.method, request.uri, request.clientproto)]
    is_upgrade = request.requestHeaders.hasHeader(b"Upgrade")
    for name, values in request.requestHeaders.getAllRawHeaders():
        if name.lower() not in _NOT_REPLAYED:
            lines += [b"%b: %b" % (name, each) for each in values]
    lines.append(b"Connection: Upgrade, close" if is_upgrade else b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"
