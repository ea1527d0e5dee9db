"""The HTTP side: the relay as a tree of Twisted Web resources.

/<db>/connect    the WebSocket
/<db>/send       POST a message
/<db>/receive    download a large message
/<db>/clients    who is connected
/send, /receive  the same without the database's name, where the id is unique
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

from autobahn.twisted.resource import WebSocketResource
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from acebase_ipc.addresses import format_address
from acebase_ipc.dialect import Dialect
from acebase_ipc.errors import (
    ContestedId,
    InvalidDatabaseName,
    InvalidText,
    MessageRefused,
    MethodNotAllowed,
    NotAPeer,
    NotFound,
    RequestRefused,
    RequestTooLarge,
    Unauthorized,
    UpgradeRequired,
)
from acebase_ipc.handshake import Handshake, accept, check_database_name, parse_query
from acebase_ipc.intake import Intake
from acebase_ipc.limits import DEFAULT_MAX_PAYLOAD_TLS, KIB
from acebase_ipc.peers import Peer
from acebase_ipc.relay import Relay
from acebase_ipc.tokens import Tokens
from acebase_ipc.websocket import RelayServerFactory, RelayServerProtocol

DOWNLOAD_CHUNK = 256 * KIB
"""Bytes of a download written in one reactor turn, so that others get theirs."""

PREFLIGHT_MAX_AGE = 600
"""Seconds for which a browser may remember that an origin is allowed."""

log = Logger()


def respond(
    request: Request,
    status: int,
    text: str,
    content_type: bytes = b"text/plain; charset=utf-8",
    **headers: bytes,
) -> bytes:
    """Set the status and headers of a response of one piece; returns its body."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Cache-Control", b"no-store")
    for name, value in headers.items():
        request.setHeader(name.replace("_", "-").encode(), value)
    return text.encode()


@dataclass(slots=True)
class Context:
    """What all resources of one relay share.

    :ivar clock: seconds of a monotonic clock.
    :ivar max_message: bytes of the largest message that can be posted.
    :ivar origins: web origins whose pages may use the relay; ``*`` for all.
    :ivar dialect: the dialect of all peers; ``None`` to recognise it.
    """

    relay: Relay
    factory: RelayServerFactory
    intake: Intake
    tokens: Tokens
    reactor: IReactorTime
    clock: Callable[[], float]
    max_message: int
    origins: frozenset[str] = frozenset()
    dialect: Dialect | None = None
    warned_of_proxy: bool = field(default=False, init=False)

    def allow_origin(self, request: Request) -> bytes | None:
        """The request's web origin if it has one and may use the relay.

        :raises Unauthorized: if it may not.
        """
        origin: bytes | None = request.getHeader(b"Origin")
        if origin is None:
            return None
        if "*" in self.origins or origin.decode("latin-1").lower() in self.origins:
            return origin
        raise Unauthorized("This web origin is not allowed")

    def allow_token(self, request: Request, query: dict[str, str]) -> bool:
        """Whether the request presents a right token, where one is required."""
        presented = [query.get("t")]
        scheme, _, bearer = (request.getHeader("Authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            presented.append(bearer.strip())
        return self.tokens.allow(presented)


def raw_query(request: Request) -> bytes:
    """The query as it was sent: not yet decoded."""
    query: bytes = request.uri.partition(b"?")[2]
    return query


class Endpoint(Resource):
    """A path of the relay: checks origin and method, and answers refusals."""

    isLeaf = True
    methods: tuple[bytes, ...] = (b"GET",)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def render(self, request: Request) -> bytes | int:
        """Answer a request whose body is complete."""
        try:
            if request.method == b"OPTIONS":
                return self._options(request)
            self.check(request)
            return self.answer(request)
        except (RequestRefused, MessageRefused) as refusal:
            return respond(request, refusal.status, str(refusal))

    def check(self, request: Request) -> None:
        """Whatever can be refused before the body has come.

        :raises RequestRefused: with what the client is to be told.
        """
        origin = self.context.allow_origin(request)
        if origin is not None:
            request.setHeader(b"Access-Control-Allow-Origin", origin)
            request.setHeader(b"Vary", b"Origin")
        if request.method not in self.methods:
            request.setHeader(b"Allow", b", ".join((*self.methods, b"OPTIONS")))
            raise MethodNotAllowed

    def answer(self, request: Request) -> bytes | int:
        """Answer a request that :meth:`check` has passed."""
        raise NotFound

    def _options(self, request: Request) -> bytes:
        origin = self.context.allow_origin(request)
        methods = b", ".join((*self.methods, b"OPTIONS"))
        request.setResponseCode(HTTPStatus.NO_CONTENT)
        request.setHeader(b"Allow", methods)
        if origin is not None:
            request.setHeader(b"Access-Control-Allow-Origin", origin)
            request.setHeader(b"Access-Control-Allow-Methods", methods)
            request.setHeader(b"Access-Control-Allow-Headers", b"Authorization, Content-Type")
            request.setHeader(b"Access-Control-Max-Age", b"%d" % PREFLIGHT_MAX_AGE)
            request.setHeader(b"Vary", b"Origin")
        return b""


class Missing(Endpoint):
    """A path that does not exist, with any method."""

    def check(self, request: Request) -> None:
        """Refuse a foreign web page before all, then everybody."""
        self.context.allow_origin(request)
        raise NotFound


class DatabaseEndpoint(Endpoint):
    """A path below a database's name, or, for some, without one."""

    def __init__(self, context: Context, database: str | None) -> None:
        super().__init__(context)
        self._database = database

    def sender(self, request: Request) -> tuple[Peer, dict[str, str]]:
        """The peer that makes the request, and the query.

        :raises NotAPeer: if the token is wrong or the id is not a peer's.
        :raises NotFound: if no database was named and none has this peer.
        :raises AmbiguousPeer: if no database was named and several have it.
        """
        query = parse_query(raw_query(request))
        if not self.context.allow_token(request, query):
            raise NotAPeer
        client_id = query.get("id", "")
        database = self._database
        if database is None:
            database = self.context.relay.database_of(client_id)
        return self.context.relay.peer(database, client_id), query


class Connect(Endpoint):
    """``GET /<db>/connect``: a client becomes a peer."""

    def __init__(self, context: Context, database: str) -> None:
        super().__init__(context)
        self._database = database

    def answer(self, request: Request) -> bytes | int:
        """Check the handshake, then let Autobahn take over the connection."""
        if (request.getHeader("Upgrade") or "").lower() != "websocket":
            request.setHeader(b"Upgrade", b"websocket")
            request.setHeader(b"Connection", b"Upgrade")
            raise UpgradeRequired
        context = self.context
        query = raw_query(request)
        if not context.allow_token(request, parse_query(query)):
            raise Unauthorized
        handshake = accept(self._database, query, context.dialect)
        self._warn_of_proxy(request)
        gone: list[object] = []
        request.notifyFinish().addBoth(gone.append)

        def decide(free: bool) -> None:
            if gone:
                return
            if free:
                WebSocketResource(_Upgrade(context.factory, handshake)).render(request)
                return
            refusal = ContestedId()
            request.write(respond(request, refusal.status, str(refusal)))
            request.finish()

        newcomer = format_address(request.getClientAddress())
        context.relay.challenge(handshake, newcomer, context.clock(), decide)
        return NOT_DONE_YET

    def _warn_of_proxy(self, request: Request) -> None:
        context = self.context
        secure = request.isSecure() or request.getHeader("X-Forwarded-Proto") == "https"
        small = context.relay.max_payload < DEFAULT_MAX_PAYLOAD_TLS
        if secure and small and not context.warned_of_proxy:
            context.warned_of_proxy = True
            log.warn(
                "Clients connect over TLS, but maxPayload is {max_payload}: published AceBase"
                " clients cannot send larger values over TLS. Set max_payload to 16 MiB"
                " (--max-payload 16MiB).",
                max_payload=context.relay.max_payload,
            )


class _Upgrade:
    """The factory that a WebSocketResource wants, for one accepted handshake."""

    def __init__(self, factory: RelayServerFactory, handshake: Handshake) -> None:
        self._factory = factory
        self._handshake = handshake

    def buildProtocol(self, address: IAddress) -> RelayServerProtocol:
        return self._factory.build(self._handshake, address)


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
        self.context.relay.post(sender, message, self.context.clock())
        return respond(request, HTTPStatus.OK, "ok")


class Receive(DatabaseEndpoint):
    """``GET /<db>/receive``: download a large message that was announced."""

    def answer(self, request: Request) -> bytes | int:
        """Begin the download; it counts when all of it is written."""
        recipient, query = self.sender(request)
        message_id = query.get("msg", query.get("msgId", ""))
        database = recipient.database.name
        body = self.context.relay.mailbox.get(database, recipient.id, message_id)

        def complete() -> None:
            self.context.relay.mailbox.taken(database, recipient.id, message_id)
            self.context.intake.retry()

        respond(request, HTTPStatus.OK, "")
        request.setHeader(b"Content-Length", b"%d" % len(body))
        request.registerProducer(Download(request, body, self.context.reactor, complete), True)
        return NOT_DONE_YET


@implementer(IPushProducer)
class Download:
    """Writes a response body as fast as the transport takes it.

    *complete* is called when the last piece has been handed over and the
    client is still there; not when the download breaks.
    """

    def __init__(
        self, request: Request, body: bytes, reactor: IReactorTime, complete: Callable[[], None]
    ) -> None:
        self._request = request
        self._body = memoryview(body)
        self._reactor = reactor
        self._complete = complete
        self._written = 0
        self._step = reactor.callLater(0, self._write)

    def _write(self) -> None:
        if self._written < len(self._body):
            piece = self._body[self._written : self._written + DOWNLOAD_CHUNK]
            self._written += len(piece)
            self._step = self._reactor.callLater(0, self._write)
            self._request.write(bytes(piece))
        else:
            self._request.unregisterProducer()
            self._request.finish()
            self._complete()

    def pauseProducing(self) -> None:
        """The transport is full."""
        if self._step.active():
            self._step.cancel()

    def resumeProducing(self) -> None:
        """The transport has room."""
        if not self._step.active():
            self._step = self._reactor.callLater(0, self._write)

    def stopProducing(self) -> None:
        """The client is gone."""
        self.pauseProducing()


class Clients(Endpoint):
    """``GET /<db>/clients``: who is connected."""

    methods = (b"GET", b"HEAD")

    def __init__(self, context: Context, database: str) -> None:
        super().__init__(context)
        self._database = database

    def answer(self, request: Request) -> bytes | int:
        """The peers as JSON, in the order they came."""
        if not self.context.allow_token(request, parse_query(raw_query(request))):
            raise NotAPeer
        clients = [
            {"id": each.id, "connected": each.connected}
            for each in self.context.relay.clients(self._database)
        ]
        text = json.dumps(clients, ensure_ascii=False)
        return respond(request, HTTPStatus.OK, text, b"application/json")


class InvalidDatabase(Endpoint):
    """A path below a name that no database can have."""

    def check(self, request: Request) -> None:
        """Refuse a foreign web page before all, then everybody."""
        self.context.allow_origin(request)
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
            return Missing(self._context)
        try:
            return DatabaseResource(self._context, database_name(path, request))
        except InvalidDatabaseName:
            return InvalidDatabase(self._context)

    def render(self, request: Request) -> bytes | int:
        """The bare path where the relay is mounted."""
        return Missing(self._context).render(request)


def database_name(segment: bytes, request: Request) -> str:
    """The name in a decoded path segment.

    Node's HTTP client, unlike its WebSocket client, sends ``café`` as raw
    Latin-1: that is accepted where nothing was percent-encoded.

    :raises InvalidDatabaseName: if no database can have that name.
    """
    try:
        return check_database_name(segment.decode())
    except UnicodeDecodeError:
        if segment in request.path:
            return check_database_name(segment.decode("latin-1"))
        raise InvalidDatabaseName from None


def parse_origins(origins: Iterable[str]) -> frozenset[str]:
    """Origins as browsers send them: lower case, without a slash at the end."""
    return frozenset(each.strip().rstrip("/").lower() for each in origins)
