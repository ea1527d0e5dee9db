"""The relay as a tree of Twisted Web resources.

/<db>/connect    the WebSocket
/<db>/send       POST a message
/<db>/receive    download a large message
/<db>/clients    the connected peers
/<db>/changes    the changes under a path, as they happen
/send, /receive  the same without the database's name, where the id is unique
/healthz         the health check
"""

from __future__ import annotations

import json
from http import HTTPStatus
from io import BytesIO

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.http.admission import Caller
from acebase_ipc.http.changes import Changes
from acebase_ipc.http.download import Download
from acebase_ipc.http.endpoint import Context, Endpoint
from acebase_ipc.http.errors import RequestTooLarge
from acebase_ipc.http.responses import LateAnswer, respond
from acebase_ipc.http.upgrade import check_upgrade
from acebase_ipc.protocol.errors import InvalidDatabaseName, InvalidText, RequestRefused
from acebase_ipc.protocol.handshake import Handshake, check_database_name
from acebase_ipc.relay.errors import NotFound, Overloaded
from acebase_ipc.relay.limits import DEFAULT_MAX_PAYLOAD_TLS

log = Logger()


class Missing(Endpoint):
    """A path that does not exist, with any method."""

    def check(self, request: Request) -> None:
        """Refuse every request, and a foreign web page before it learns that."""
        self.check_page(request)
        raise NotFound


class DatabaseEndpoint(Endpoint):
    """A path below a database's name, or, for some, without one."""

    def __init__(self, context: Context, database: str | None) -> None:
        super().__init__(context)
        self._database = database


class Connect(Endpoint):
    """``GET /<db>/connect``: a client becomes a peer."""

    def __init__(self, context: Context, database: str) -> None:
        super().__init__(context)
        self._database = database

    def answer(self, request: Request) -> bytes | int:
        """Turn the connection of an admitted handshake into a WebSocket."""
        check_upgrade(request)
        context = self.context
        gone: list[object] = []
        request.notifyFinish().addBoth(gone.append)
        getattr(request.channel, "need_client", lambda: None)()  # of another Site: has no such

        def admitted(handshake: Handshake, tokens: tuple[str, ...]) -> None:
            if not gone:
                self._warn_of_proxy(request)
                context.upgrade(request, handshake, tokens)

        def refused(refusal: RequestRefused) -> None:
            if not gone:
                context.refusals.refuse(request, refusal)

        context.admission.connect(request, self._database, admitted, refused)
        return NOT_DONE_YET

    def _warn_of_proxy(self, request: Request) -> None:
        context = self.context
        secure = request.isSecure() or request.getHeader(b"X-Forwarded-Proto") == b"https"
        small = context.relay.router.max_payload < DEFAULT_MAX_PAYLOAD_TLS
        if secure and small and not context.warned_of_proxy:
            context.warned_of_proxy = True
            log.warn(
                "Clients connect over TLS, but maxPayload is {max_payload}: the npm package"
                " acebase cannot send larger values over TLS. Set max_payload to 16 MiB"
                " (--max-payload 16MiB).",
                max_payload=context.relay.router.max_payload,
            )


class Send(DatabaseEndpoint):
    """``POST /<db>/send``: a message of any size up to ``max_message``."""

    methods = (b"POST",)

    def admit(self, request: Request) -> Caller:
        """Admit a request whose body is still to come.

        :raises RequestRefused: if it is refused.
        """
        self.check(request)
        return self.context.admission.caller(request, self._database)

    def answer(self, request: Request) -> bytes | int:
        """Relay the body; its place in the order is this moment."""
        admission = self.context.admission
        caller = getattr(request, "caller", None) or admission.caller(request, self._database)
        sender = admission.peer(caller)
        content = request.content
        assert content is not None
        if isinstance(content, BytesIO):
            message = content.getvalue()  # not a copy
        else:
            message = content.read(self.context.uploads.max_message + 1)
        if len(message) > self.context.uploads.max_message:
            raise RequestTooLarge(self.context.uploads.max_message)
        try:
            message.isascii() or message.decode()
        except UnicodeDecodeError:
            raise InvalidText from None
        if self.context.pass_on is not None:
            return self._pass_on(
                request, self.context.pass_on(caller.database, caller.client_id, message)
            )
        try:
            self.context.uploads.admit(request, sender, len(message))
        except Overloaded:
            self.context.relay.histories.interrupted(sender)
            raise
        self.context.relay.router.post(sender, message, self.context.clock())
        return respond(request, HTTPStatus.OK, "ok")

    def _pass_on(self, request: Request, answered: Deferred[tuple[int, str]]) -> int:
        """Answer with what the successor of this relay answers."""
        late = LateAnswer(request)

        def answer(result: tuple[int, str]) -> None:
            if late.is_awaited:
                late.give(respond(request, *result))

        def failed(failure: Failure) -> None:
            if late.is_awaited:
                self.context.refusals.refuse(request, Overloaded(str(failure.value)))

        answered.addCallbacks(answer, failed)
        return NOT_DONE_YET


class Receive(DatabaseEndpoint):
    """``GET /<db>/receive``: download a large message that was announced."""

    def answer(self, request: Request) -> bytes | int:
        """Begin the download; it may be repeated for a while when all of it is written."""
        context = self.context
        caller = context.admission.caller(request, self._database)
        query = caller.query
        message_id = query.get("msg", query.get("msgId", ""))
        key = (caller.database, caller.client_id.encode(), message_id)
        download = Download(request, context.store, key, context.rotation, context.clock)
        request.notifyFinish().addBoth(lambda _: context.uploads.retry())
        respond(request, HTTPStatus.OK, "")
        download.begin()
        return NOT_DONE_YET


class Clients(Endpoint):
    """``GET /<db>/clients``: the connected peers."""

    methods = (b"GET", b"HEAD")

    def __init__(self, context: Context, database: str) -> None:
        super().__init__(context)
        self._database = database

    def answer(self, request: Request) -> bytes | int:
        """Return the peers as JSON, in the order they connected."""
        self.context.admission.check_token(request, self._database)
        clients = [
            {"id": each.id, "connected": each.connected}
            for each in self.context.relay.registry.clients(self._database)
        ]
        self.context.relay.work.units += len(clients)
        text = json.dumps(clients, ensure_ascii=False)
        return respond(request, HTTPStatus.OK, text, b"application/json")


class Health(Endpoint):
    """``GET /healthz``: the health check; needs no token and discloses nothing."""

    methods = (b"GET", b"HEAD")

    def answer(self, request: Request) -> bytes | int:
        """Return ``ok``: that the relay answers is all that a health check asks."""
        return respond(request, HTTPStatus.OK, "ok")


class InvalidDatabase(Endpoint):
    """A path below a name that no database can have."""

    def check(self, request: Request) -> None:
        """Refuse every request, and a foreign web page before it learns that."""
        self.check_page(request)
        raise InvalidDatabaseName


class DatabaseResource(Resource):
    """``/<db>/``"""

    def __init__(self, context: Context, name: str) -> None:
        super().__init__()
        self._context = context
        self._name = name

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return one of the five endpoints of a database."""
        if not request.postpath:
            if path == b"connect":
                return Connect(self._context, self._name)
            if path == b"send":
                return Send(self._context, self._name)
            if path == b"receive":
                return Receive(self._context, self._name)
            if path == b"clients":
                return Clients(self._context, self._name)
            if path == b"changes":
                return Changes(self._context, self._name)
        return Missing(self._context)


class Root(Resource):
    """The relay, to be served or mounted below any path of a Site."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Return a database, or an endpoint without one."""
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
        """Refuse a request for the bare path where the relay is mounted."""
        return Missing(self._context).render(request)


def database_name(segment: bytes) -> str:
    """Return the name in a decoded path segment.

    :raises InvalidDatabaseName: if no database can have that name.
    """
    try:
        return check_database_name(segment.decode())
    except UnicodeDecodeError:
        raise InvalidDatabaseName from None
