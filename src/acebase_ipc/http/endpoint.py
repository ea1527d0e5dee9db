"""The base of all HTTP endpoints of the relay, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.http.admission import Admission
from acebase_ipc.http.auth import Access
from acebase_ipc.http.errors import MethodNotAllowed
from acebase_ipc.http.proxies import TrustedProxies
from acebase_ipc.http.responses import Refusals
from acebase_ipc.http.streams import Streams
from acebase_ipc.http.upload import UploadAdmission
from acebase_ipc.protocol.errors import MessageRefused, RequestRefused
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.relay import Relay
from acebase_ipc.relay.store import MessageStore
from acebase_ipc.rotation import Rotation

PREFLIGHT_MAX_AGE = 600
"""Seconds for which a browser may remember that an origin is allowed."""


class Passage(Protocol):
    """Passes requests on to other relays."""

    def takes(self, request: Request) -> bool:
        """Return whether *request*, whose headers are complete, has to wait or is passed on.

        If so, it is paused, and resumed if it is to be answered here.
        """


@dataclass(slots=True)
class Context:
    """What all resources of one relay share.

    :ivar store: the large messages that can be downloaded.
    :ivar streams: the answers that have no end.
    :ivar proxies: the proxies that are trusted.
    :ivar upgrade: turns a request into the WebSocket of an admitted handshake.
    :ivar clock: monotonic seconds.
    :ivar passage: passes requests on to the relays that serve their databases, in a cluster.
    :ivar pass_on: passes a message of a peer on to a successor, when there is one; fires with the
        status and the text of the answer.
    """

    relay: Relay
    store: MessageStore
    access: Access
    admission: Admission
    refusals: Refusals
    uploads: UploadAdmission
    rotation: Rotation
    streams: Streams
    proxies: TrustedProxies
    upgrade: Callable[[Request, Handshake, tuple[str, ...]], None]
    reactor: IReactorTime
    clock: Callable[[], float]
    warned_of_proxy: bool = field(default=False, init=False)
    passage: Passage | None = field(default=None, init=False)
    pass_on: Callable[[str, str, bytes], Deferred[tuple[int, str]]] | None = field(
        default=None, init=False
    )


class Endpoint(Resource):
    """A path of the relay: checks origin, host and method, and answers refusals."""

    isLeaf = True
    methods: tuple[bytes, ...] = (b"GET",)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def render(self, request: Request) -> bytes | int:
        """Answer a request whose body is complete."""
        self.context.proxies.identify(request)  # of another Site; ours has done it before
        try:
            if request.method == b"OPTIONS":
                return self._options(request)
            self.check(request)
            answer = self.answer(request)
        except (MessageRefused, RequestRefused) as refusal:
            self.context.refusals.refuse(request, refusal)
            return NOT_DONE_YET
        if request.method == b"HEAD" and isinstance(answer, bytes):
            request.setHeader(b"Content-Length", b"%d" % len(answer))
            return b""  # Twisted would warn of a body with the whole URL
        return answer

    def check(self, request: Request) -> None:
        """Refuse what can be refused before the body is received.

        :raises RequestRefused: with the answer to give.
        """
        self.check_page(request)
        if request.method not in self.methods:
            request.setHeader(b"Allow", b", ".join((*self.methods, b"OPTIONS")))
            raise MethodNotAllowed

    def check_page(self, request: Request) -> bytes | None:
        """Refuse a web page that may not use the relay; returns the origin of one that may.

        :raises Unauthorized: for a web page that may not.
        """
        origin = self.context.admission.check_page(request)
        if origin is not None:
            request.setHeader(b"Access-Control-Allow-Origin", origin)
            request.setHeader(b"Vary", b"Origin")
        return origin

    def answer(self, request: Request) -> bytes | int:
        """Answer a request that :meth:`check` has passed."""
        raise NotFound

    def _options(self, request: Request) -> bytes:
        origin = self.check_page(request)
        methods = b", ".join((*self.methods, b"OPTIONS"))
        request.setResponseCode(HTTPStatus.NO_CONTENT)
        request.setHeader(b"Allow", methods)
        if origin is not None:
            request.setHeader(b"Access-Control-Allow-Methods", methods)
            request.setHeader(
                b"Access-Control-Allow-Headers", b"Authorization, Content-Type, Last-Event-ID"
            )
            request.setHeader(b"Access-Control-Max-Age", b"%d" % PREFLIGHT_MAX_AGE)
        return b""
