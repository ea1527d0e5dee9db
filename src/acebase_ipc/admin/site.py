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
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from acebase_ipc.admin.api import API
from acebase_ipc.admin.endpoint import AdminRequest, Context, Directory, Endpoint, respond_json
from acebase_ipc.admin.health import readiness
from acebase_ipc.admin.stream import Streams
from acebase_ipc.http.responses import respond
from acebase_ipc.relay.limits import MIB
from acebase_ipc.websocket._autobahn import BadRequestChannel

MAX_CONNECTIONS: Final = 100
"""Connections at the same time: browsers, commands, a monitoring system."""

TIMEOUT: Final = 60
"""Seconds for a complete request, from the start of a connection or the last answer."""

PIECE: Final = 512
"""Bytes of a request that are parsed in one step."""

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
        text = PAGE.joinpath(self._name).read_text("utf-8")
        request.setHeader(b"Content-Security-Policy", POLICY)
        request.setHeader(b"Referrer-Policy", b"no-referrer")
        return respond(request, HTTPStatus.OK, text, TYPES[Path(self._name).suffix])


class AdminChannel(BadRequestChannel):
    """An HTTP connection to the admin endpoint.

    What was received is parsed in small pieces, in turns with other connections, and only when
    the answers before it are read. While it waits, nothing is read.

    :ivar unsent: bytes that the client has not read, at most; not those of the live stream.
    """

    site: Any
    transport: Any
    unsent = 0
    _is_answering = False
    _is_full = False
    _is_streaming = False

    def connectionMade(self) -> None:
        """Count the connection."""
        self._input = b""
        self._is_parsing = False
        self.site.channels[self] = None
        super().connectionMade()

    @property
    def is_waiting(self) -> bool:
        """Whether the client has not sent a complete request."""
        return not self._is_answering

    def resetTimeout(self) -> None:
        """Give no more time to a client that sends its request little by little."""

    def timeoutConnection(self) -> None:
        """End a connection that is idle; Twisted would log that, too."""
        self.abort()

    def dataReceived(self, data: bytes) -> None:
        """Parse *data* when it is its turn."""
        self._input += data
        self._parse_soon()
        if self._input:
            self.transport.pauseProducing()

    def _can_parse(self) -> bool:
        return bool(self._input) and not self._is_answering and not self._is_full

    def _parse_soon(self) -> None:
        if not self._is_parsing and self._can_parse():
            self._is_parsing = True
            self.site.turns.do(self._parse)

    def _parse(self) -> bool:
        self._is_parsing = False
        if self not in self.site.channels or not self._can_parse():
            return False
        piece, self._input = self._input[:PIECE], self._input[PIECE:]
        try:
            super().dataReceived(piece)
        except ValueError:  # a number of thousands of digits
            self.bad_request()
            return False
        if self._is_answering:
            return False  # the rest is parsed after the answer
        if not self._input and not self._is_full:
            self.transport.resumeProducing()
        self._is_parsing = self._can_parse()
        return self._is_parsing

    def setLineMode(self, extra: bytes = b"") -> None:
        """Await the next request, of which *extra* has been received."""
        self._input = extra + self._input
        super().setLineMode()
        if self._input:
            self.transport.pauseProducing()
        self._parse_soon()

    def bad_request(self) -> None:
        """Refuse what cannot be parsed, with a status and no text."""
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.loseConnection()

    def allContentReceived(self) -> None:
        """Answer a complete request, and parse none before that is done."""
        self._is_answering = True
        super().allContentReceived()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let *producer* write an answer at the client's pace."""
        super().registerProducer(producer, streaming)
        self._is_streaming = True

    def unregisterProducer(self) -> None:
        """Let no producer write any more."""
        super().unregisterProducer()
        self._is_streaming = False

    def write(self, data: bytes) -> None:
        """Write a piece of an answer."""
        super().write(data)
        if self._is_full and not self._is_streaming:
            self.unsent += len(data)
            self.site.limit_unsent()

    def pauseProducing(self) -> None:
        """Parse nothing until the client has read what was written."""
        self._is_full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Go on, as the client has read all that was written."""
        self.unsent = 0
        self._is_full = False
        super().resumeProducing()
        if self._input and not self._is_answering:
            self.transport.pauseProducing()
        self._parse_soon()

    def requestDone(self, request: Request) -> None:
        """Give the client time to read the answer, whether or not the connection goes on."""
        self._is_answering = not self.persistent
        super().requestDone(request)
        self.setTimeout(TIMEOUT)

    def abort(self) -> None:
        """End the connection at once."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count the connection no more."""
        self.site.channels.pop(self, None)
        self._input = b""
        super().connectionLost(reason)


class AdminSite(Site):
    """Serves the admin endpoint on any number of ports, apart from those of the peers.

    It writes no access log. A client has :data:`TIMEOUT` seconds for a request, and as many to
    read the answer. When there are too many connections, the oldest one that has no request
    makes way for a new one, so that nobody can lock out the others.

    :param metrics: answers ``/metrics``.
    :ivar channels: the open connections, the oldest one first.
    """

    noisy = False
    protocol = AdminChannel  # type: ignore[assignment]  # no HTTP/2, so no wrapper for it
    requestFactory = AdminRequest

    def __init__(self, context: Context, streams: Streams, metrics: Endpoint) -> None:
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
        super().__init__(Directory(context, children), reactor=context.reactor, timeout=TIMEOUT)
        self.channels: dict[AdminChannel, None] = {}
        self.turns = context.turns

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
