"""The Site of the admin endpoint.

/                the status page
/page/…          its files
/healthz         alive?
/readyz          ready for peers?
/metrics         for Prometheus
/api/v1/…        the status as JSON, and what changes it
"""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from twisted.internet.interfaces import IAddress
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from acebase_ipc.admin.access import INTENT
from acebase_ipc.admin.answers import encode, respond_json
from acebase_ipc.admin.api import API
from acebase_ipc.admin.endpoint import AdminRequest, Context, Directory, Endpoint
from acebase_ipc.admin.health import readiness
from acebase_ipc.admin.stream import Streams
from acebase_ipc.http.channel import PARSING, SteppedChannel
from acebase_ipc.http.head import KEPT
from acebase_ipc.http.responses import respond
from acebase_ipc.relay.events import Observer
from acebase_ipc.relay.limits import MIB

MAX_CONNECTIONS: Final = 100
"""Connections at the same time: browsers, commands, a monitoring system."""

TIMEOUT: Final = 60.0
"""Seconds that a client has for each of its parts."""

MAX_UNSENT: Final = 32 * MIB
"""Bytes of answers that all clients together may leave unread; a single one that is larger, as
that of a database with very many peers, needs a client that reads."""

PAGE: Final = files(__package__).joinpath("page")
"""The files of the status page."""

TYPES: Final = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
}
"""Their types."""

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
            facts.is_listening,
            facts.state != "serving",
            context.lag.recent,
            context.canary.age,
            None if facts.cluster is None else facts.cluster.serving,
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
        text = PAGE.joinpath(self._name).read_text("utf-8")
        request.setHeader(b"Content-Security-Policy", POLICY)
        request.setHeader(b"Referrer-Policy", b"no-referrer")
        return respond(request, HTTPStatus.OK, text, TYPES[Path(self._name).suffix])


class AdminChannel(SteppedChannel):
    """An HTTP connection to the admin endpoint.

    :ivar unsent: bytes that the client has not read, at most; not those of the live stream.
    """

    kept = KEPT | {b"accept", b"last-event-id", INTENT.lower()}
    error_type = "application/json"
    unsent = 0

    def error_body(self, text: str) -> str:
        """Return an error as an object."""
        return encode({"error": text})

    @property
    def is_waiting(self) -> bool:
        """Whether the client has not sent a complete request."""
        return self.phase in PARSING

    def write(self, data: bytes) -> None:
        """Write a piece of an answer that is made as a whole."""
        super().write(data)
        if self.read_deadline is not None:
            self.unsent += len(data)
            self.site.limit_unsent()

    def resumeProducing(self) -> None:
        """Go on, as the client has read all that was written."""
        self.unsent = 0
        super().resumeProducing()


class AdminSite(Site):
    """Serves the admin endpoint on any number of ports, apart from those of the peers.

    It writes no access log. A client has :data:`TIMEOUT` seconds for the head of a request, for
    its body, and to read the answer. When there are too many connections, the oldest one that
    has no request makes way for a new one, so that nobody can lock out the others.

    :param observer: receives the events of its connections.
    :param metrics: answers ``/metrics``.
    :ivar channels: the open connections, the oldest one first.
    """

    noisy = False
    protocol = AdminChannel  # type: ignore[assignment]  # no HTTP/2, so no wrapper for it
    requestFactory = AdminRequest
    handshake_timeout = request_timeout = http_idle = TIMEOUT
    is_closing = False

    def __init__(
        self, context: Context, observer: Observer, streams: Streams, metrics: Endpoint
    ) -> None:
        names = (each.name for each in PAGE.iterdir() if Path(each.name).suffix in TYPES)
        pages = {name: File(context, name) for name in names}
        children: dict[str, IResource] = {
            "": pages.pop("index.html"),
            "page": Directory(context, pages),
            "healthz": Healthz(context),
            "readyz": Readyz(context),
            "metrics": metrics,
            "api": Directory(context, {"v1": API(context, streams)}),
        }
        super().__init__(Directory(context, children), reactor=context.reactor, timeout=None)
        self.context = context
        self.observer = observer
        self.rotation = context.turns
        self.channels: dict[AdminChannel, None] = {}

    def acceptableProtocols(self) -> list[bytes]:
        """What may be negotiated over TLS."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Accept a connection, unless there are too many that are in use."""
        if len(self.channels) >= MAX_CONNECTIONS:
            waiting = next((each for each in self.channels if each.is_waiting), None)
            if waiting is None:
                return None
            del self.channels[waiting]  # it ends only after this turn
            waiting.abort()
        return super().buildProtocol(addr)

    def opened(self, channel: AdminChannel) -> None:
        """A connection was opened."""
        self.channels[channel] = None

    def closed(self, channel: AdminChannel) -> None:
        """A connection has ended."""
        self.channels.pop(channel, None)

    def sweep(self, now: float) -> None:
        """End the connections whose client is late; to be called about once a second."""
        for channel in tuple(self.channels):
            channel.expire(now)

    def limit_unsent(self) -> None:
        """End the connections that leave most unread, while all leave too much."""
        excess = sum(each.unsent for each in self.channels) - MAX_UNSENT
        if excess > 0:
            for channel in sorted(self.channels, key=lambda each: each.unsent, reverse=True):
                if excess <= 0:
                    return
                excess -= channel.unsent
                channel.abort()

    def close(self) -> None:
        """End every connection at once."""
        for channel in tuple(self.channels):
            channel.abort()

    def log(self, request: Any) -> None:
        """Write nothing."""
