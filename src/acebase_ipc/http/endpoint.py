"""What all HTTP endpoints of the relay have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.http.auth import Access
from acebase_ipc.http.errors import MethodNotAllowed
from acebase_ipc.http.upload import UploadAdmission
from acebase_ipc.protocol.dialect import Dialect
from acebase_ipc.protocol.errors import MessageRefused, RequestRefused
from acebase_ipc.protocol.handshake import Handshake
from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.relay import Relay

PREFLIGHT_MAX_AGE = 600
"""Seconds for which a browser may remember that an origin is allowed."""


def respond(
    request: Request,
    status: int,
    text: str,
    content_type: bytes = b"text/plain; charset=utf-8",
) -> bytes:
    """Set the status and headers of a response of one piece; returns its body."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Cache-Control", b"no-store")
    return text.encode()


@dataclass(slots=True)
class Context:
    """What all resources of one relay share.

    :ivar check_room: refuses a request for which there is no connection left.
    :ivar upgrade: turns a request into the WebSocket of an accepted handshake.
    :ivar clock: seconds of a clock that never jumps.
    :ivar max_message: bytes of the largest message that can be posted.
    :ivar dialect: the dialect of all peers; ``None`` to recognise it.
    """

    relay: Relay
    access: Access
    intake: UploadAdmission
    check_room: Callable[[IAddress | None], None]
    upgrade: Callable[[Request, Handshake, tuple[str, ...]], None]
    reactor: IReactorTime
    clock: Callable[[], float]
    max_message: int
    dialect: Dialect | None = None
    warned_of_proxy: bool = field(default=False, init=False)


class Endpoint(Resource):
    """A path of the relay: checks origin, host and method, and answers refusals."""

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
            answer = self.answer(request)
        except (MessageRefused, RequestRefused) as refusal:
            self.refuse(request, refusal)
            return NOT_DONE_YET
        if request.method == b"HEAD" and isinstance(answer, bytes):
            request.setHeader(b"Content-Length", b"%d" % len(answer))
            return b""  # Twisted would warn of a body with the whole URL
        return answer

    def check(self, request: Request) -> None:
        """Whatever can be refused before the body has come.

        :raises RequestRefused: with what the client is to be told.
        """
        self.check_page(request)
        if request.method not in self.methods:
            request.setHeader(b"Allow", b", ".join((*self.methods, b"OPTIONS")))
            raise MethodNotAllowed

    def check_page(self, request: Request) -> bytes | None:
        """Refuse web pages that may not use the relay; returns the origin of one that may.

        :raises Unauthorized: if it may not.
        """
        origin = self.context.access.check_origin(request)
        self.context.access.check_host(request)
        if origin is not None:
            request.setHeader(b"Access-Control-Allow-Origin", origin)
            request.setHeader(b"Vary", b"Origin")
        return origin

    def answer(self, request: Request) -> bytes | int:
        """Answer a request that :meth:`check` has passed."""
        raise NotFound

    def refuse(self, request: Request, refusal: MessageRefused | RequestRefused) -> None:
        """Answer *request* with *refusal*, at once or after a while."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        def answer() -> None:
            if not gone:
                body = respond(request, refusal.status, str(refusal))
                request.setHeader(b"Content-Length", b"%d" % len(body))
                request.write(body)
                request.finish()

        self.context.access.refuse(request, refusal, answer)

    def _options(self, request: Request) -> bytes:
        origin = self.check_page(request)
        methods = b", ".join((*self.methods, b"OPTIONS"))
        request.setResponseCode(HTTPStatus.NO_CONTENT)
        request.setHeader(b"Allow", methods)
        if origin is not None:
            request.setHeader(b"Access-Control-Allow-Methods", methods)
            request.setHeader(b"Access-Control-Allow-Headers", b"Authorization, Content-Type")
            request.setHeader(b"Access-Control-Max-Age", b"%d" % PREFLIGHT_MAX_AGE)
        return b""
