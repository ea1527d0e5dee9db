"""The Site of the admin endpoint.

/                the status page
/page/…          its files
/healthz         alive?
/readyz          ready for peers?
/api/v1/…        the status as JSON, and what changes it
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any, Final

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site

from acebase_ipc.admin.api import API
from acebase_ipc.admin.endpoint import AdminRequest, Context, Endpoint, respond_json
from acebase_ipc.admin.health import readiness
from acebase_ipc.admin.stream import Streams
from acebase_ipc.http.responses import respond
from acebase_ipc.relay.errors import NotFound

MAX_CONNECTIONS: Final = 100
"""Connections at the same time: browsers, commands, a monitoring system."""

PAGE: Final = {
    "index.html": b"text/html; charset=utf-8",
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
}
"""The files of the status page, with their types."""

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    b" img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: only its own files, and the API."""


class Healthz(Endpoint):
    """``GET /healthz``: needs no token and discloses nothing."""

    needs_token = False

    def answer(self, request: Request) -> bytes | int:
        """Return ``ok``: the relay is alive, as it answers."""
        return respond(request, HTTPStatus.OK, "ok")


class Readyz(Endpoint):
    """``GET /readyz``: needs no token."""

    needs_token = False

    def answer(self, request: Request) -> bytes | int:
        """Return whether peers should be sent here, and why not."""
        context, facts = self.context, self.context.server.facts()
        answer = readiness(
            facts.is_listening, facts.state != "serving", context.lag.recent, context.canary.age
        )
        status = HTTPStatus.OK if answer["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return respond_json(request, status, answer)


class File(Endpoint):
    """A file of the status page. It holds no secret, and asks for the token itself."""

    needs_token = False

    def __init__(self, context: Context, name: str) -> None:
        super().__init__(context)
        self._name = name

    def answer(self, request: Request) -> bytes | int:
        """Return the file."""
        file = files(__package__).joinpath("page", self._name)
        if not file.is_file():
            raise NotFound
        request.setHeader(b"Content-Security-Policy", POLICY)
        request.setHeader(b"Referrer-Policy", b"no-referrer")
        return respond(request, HTTPStatus.OK, file.read_text("utf-8"), PAGE[self._name])


class Files(Resource):
    """``/page/``."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        for name in PAGE:
            self.putChild(name.encode(), File(context, name))

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Refuse every other path."""
        return Endpoint(self._context)


class Root(Resource):
    """All paths of the admin endpoint."""

    def __init__(self, context: Context, children: Mapping[bytes, IResource]) -> None:
        super().__init__()
        self._context = context
        for name, child in children.items():
            self.putChild(name, child)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Refuse every other path."""
        return Endpoint(self._context)


class AdminChannel(HTTPChannel):
    """An HTTP connection to the admin endpoint."""

    site: Any

    def connectionMade(self) -> None:
        """Count the connection."""
        self.site.channels.add(self)
        super().connectionMade()

    def timeoutConnection(self) -> None:
        """End a connection that is idle; Twisted would log that, too."""
        self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count the connection no more."""
        self.site.channels.discard(self)
        super().connectionLost(reason)


class AdminSite(Site):
    """Serves the admin endpoint on any number of ports, apart from those of the peers.

    It writes no access log. Twisted's own timeouts end idle connections.

    :ivar channels: the open connections.
    """

    noisy = False
    protocol = AdminChannel  # type: ignore[assignment]  # no HTTP/2, so no wrapper for it
    requestFactory = AdminRequest

    def __init__(self, context: Context, streams: Streams) -> None:
        children: dict[bytes, IResource] = {
            b"": File(context, "index.html"),
            b"page": Files(context),
            b"healthz": Healthz(context),
            b"readyz": Readyz(context),
            b"api": _below(context, b"v1", API(context, streams)),
        }
        super().__init__(Root(context, children), reactor=context.reactor)
        self.channels: set[AdminChannel] = set()

    def acceptableProtocols(self) -> list[bytes]:
        """What may be negotiated over TLS."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Accept a connection, unless there are too many."""
        return None if len(self.channels) >= MAX_CONNECTIONS else super().buildProtocol(addr)

    def close(self) -> None:
        """End every connection at once."""
        for channel in tuple(self.channels):
            channel.abort()

    def log(self, request: Any) -> None:
        """Write nothing."""


def _below(context: Context, name: bytes, child: IResource) -> Root:
    return Root(context, {name: child})
