"""The HTTP side: the relay as a tree of Twisted Web resources.

/<db>/connect    the WebSocket
/<db>/send       POST a message
/<db>/receive    download a large message
/<db>/clients    who is connected
/send, /receive  the same without the database's name, where the id is unique
/healthz         whether the relay answers
"""

from __future__ import annotations

import json
from http import HTTPStatus

from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.addresses import format_address
from acebase_ipc.http.auth import presented_tokens, raw_query
from acebase_ipc.http.download import Download
from acebase_ipc.http.endpoint import Context, Endpoint, respond
from acebase_ipc.http.errors import ConflictingId, RequestTooLarge, UpgradeRequired
from acebase_ipc.protocol.errors import InvalidDatabaseName, InvalidText, RequestRefused
from acebase_ipc.protocol.handshake import accept, check_database_name, parse_query
from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.limits import DEFAULT_MAX_PAYLOAD_TLS
from acebase_ipc.relay.peers import Peer

log = Logger()


class Missing(Endpoint):
    """A path that does not exist, with any method."""

    def check(self, request: Request) -> None:
        """Refuse a foreign web page before all, then everybody."""
        self.check_page(request)
        raise NotFound


class DatabaseEndpoint(Endpoint):
    """A path below a database's name, or, for some, without one."""

    def __init__(self, context: Context, database: str | None) -> None:
        super().__init__(context)
        self._database = database

    def sender(self, request: Request) -> tuple[Peer, dict[str, str]]:
        """The peer that makes the request, and the query.

        :raises WrongToken: if the token is wrong.
        :raises NotAPeer: if the id is not a peer's.
        :raises NotFound: if no database was named and none has this peer.
        :raises AmbiguousPeer: if no database was named and several have it.
        """
        query = parse_query(raw_query(request))
        client_id = query.get("id", "")
        database = self._database
        self.context.access.check_token(request, database, HTTPStatus.UNAUTHORIZED)
        if database is None:
            database = self.context.relay.registry.database_of(client_id, lambda name: True)
            self.context.access.check_token(request, database, HTTPStatus.UNAUTHORIZED)
        return self.context.relay.registry.peer(database, client_id), query


class Connect(Endpoint):
    """``GET /<db>/connect``: a client becomes a peer."""

    def __init__(self, context: Context, database: str) -> None:
        super().__init__(context)
        self._database = database

    def answer(self, request: Request) -> bytes | int:
        """Check the handshake, then let Autobahn take over the connection."""
        if (request.getHeader(b"Upgrade") or b"").lower() != b"websocket":
            request.setHeader(b"Upgrade", b"websocket")
            request.setHeader(b"Connection", b"Upgrade")
            raise UpgradeRequired
        context = self.context
        context.access.check_token(request, self._database, HTTPStatus.FORBIDDEN)
        handshake = accept(self._database, raw_query(request), context.dialect)
        self._warn_of_proxy(request)
        gone: list[object] = []
        request.notifyFinish().addBoth(gone.append)

        def decide(free: bool) -> None:
            if gone:
                return
            try:
                if not free:
                    raise ConflictingId
                context.check_room(request.getClientAddress())
                context.relay.registry.check_room(handshake)
            except RequestRefused as refusal:
                self.refuse(request, refusal)
            else:
                context.upgrade(request, handshake, presented_tokens(request))

        newcomer = format_address(request.getClientAddress())
        context.relay.sessions.check_conflict(handshake, newcomer, context.clock(), decide)
        return NOT_DONE_YET

    def _warn_of_proxy(self, request: Request) -> None:
        context = self.context
        secure = request.isSecure() or request.getHeader(b"X-Forwarded-Proto") == b"https"
        small = context.relay.router.max_payload < DEFAULT_MAX_PAYLOAD_TLS
        if secure and small and not context.warned_of_proxy:
            context.warned_of_proxy = True
            log.warn(
                "Clients connect over TLS, but maxPayload is {max_payload}: published AceBase"
                " clients cannot send larger values over TLS. Set max_payload to 16 MiB"
                " (--max-payload 16MiB).",
                max_payload=context.relay.router.max_payload,
            )


class Send(DatabaseEndpoint):
    """``POST /<db>/send``: a message of any size up to ``max_message``."""

    methods = (b"POST",)

    def check(self, request: Request) -> None:
        """Refuse who is not a peer before the body has come."""
        super().check(request)
        self.sender(request)

    def answer(self, request: Request) -> bytes | int:
        """Relay the body; its place in the order is this moment."""
        sender, _ = self.sender(request)
        content = request.content
        assert content is not None
        message = content.read(self.context.max_message + 1)
        if len(message) > self.context.max_message:
            raise RequestTooLarge(self.context.max_message)
        try:
            message.isascii() or message.decode()
        except UnicodeDecodeError:
            raise InvalidText from None
        self.context.intake.admit(request, sender, len(message))
        self.context.relay.router.post(sender, message, self.context.clock())
        return respond(request, HTTPStatus.OK, "ok")


class Receive(DatabaseEndpoint):
    """``GET /<db>/receive``: download a large message that was announced."""

    def answer(self, request: Request) -> bytes | int:
        """Begin the download; it counts when all of it is written."""
        recipient, query = self.sender(request)
        message_id = query.get("msg", query.get("msgId", ""))
        database = recipient.database.name
        body = self.context.relay.store.get(database, recipient.id, message_id)

        def complete() -> None:
            self.context.relay.store.taken(database, recipient.id, message_id)
            self.context.intake.retry()

        respond(request, HTTPStatus.OK, "")
        request.setHeader(b"Content-Length", b"%d" % len(body))
        request.registerProducer(Download(request, body, self.context.reactor, complete), True)
        return NOT_DONE_YET


class Clients(Endpoint):
    """``GET /<db>/clients``: who is connected."""

    methods = (b"GET", b"HEAD")

    def __init__(self, context: Context, database: str) -> None:
        super().__init__(context)
        self._database = database

    def answer(self, request: Request) -> bytes | int:
        """The peers as JSON, in the order they came."""
        self.context.access.check_token(request, self._database, HTTPStatus.UNAUTHORIZED)
        clients = [
            {"id": each.id, "connected": each.connected}
            for each in self.context.relay.registry.clients(self._database)
        ]
        text = json.dumps(clients, ensure_ascii=False)
        return respond(request, HTTPStatus.OK, text, b"application/json")


class Health(Endpoint):
    """``GET /healthz``: whether the relay answers; discloses nothing else."""

    methods = (b"GET", b"HEAD")

    def answer(self, request: Request) -> bytes | int:
        """It does."""
        return respond(request, HTTPStatus.OK, "ok")


class InvalidDatabase(Endpoint):
    """A path below a name that no database can have."""

    def check(self, request: Request) -> None:
        """Refuse a foreign web page before all, then everybody."""
        self.check_page(request)
        raise InvalidDatabaseName


class DatabaseResource(Resource):
    """``/<db>/``"""

    def __init__(self, context: Context, name: str) -> None:
        super().__init__()
        self._context = context
        self._name = name

    def getChild(self, path: bytes, request: Request) -> Resource:
        """One of the four endpoints of a database."""
        if not request.postpath:
            if path == b"connect":
                return Connect(self._context, self._name)
            if path == b"send":
                return Send(self._context, self._name)
            if path == b"receive":
                return Receive(self._context, self._name)
            if path == b"clients":
                return Clients(self._context, self._name)
        return Missing(self._context)


class Root(Resource):
    """The relay, to be served or mounted below any path of a Site."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def getChild(self, path: bytes, request: Request) -> Resource:
        """A database, or an endpoint without one."""
        if not request.postpath:
            if path == b"send":
                return Send(self._context, None)
            if path == b"receive":
                return Receive(self._context, None)
            if path == b"healthz":
                return Health(self._context)
            return Missing(self._context)
        try:
            return DatabaseResource(self._context, database_name(path))
        except InvalidDatabaseName:
            return InvalidDatabase(self._context)

    def render(self, request: Request) -> bytes | int:
        """The bare path where the relay is mounted."""
        return Missing(self._context).render(request)


def database_name(segment: bytes) -> str:
    """The name in a decoded path segment.

    :raises InvalidDatabaseName: if no database can have that name.
    """
    try:
        return check_database_name(segment.decode())
    except UnicodeDecodeError:
        raise InvalidDatabaseName from None
