"""The base of all resources of the admin endpoint, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request

from acebase_ipc.admin.access import AdminAccess
from acebase_ipc.admin.census import LatestCensus
from acebase_ipc.admin.control import Server
from acebase_ipc.admin.health import Canary, LoopLag
from acebase_ipc.admin.history import History
from acebase_ipc.admin.turns import Turns
from acebase_ipc.http.errors import MethodNotAllowed, RequestTooLarge, WrongToken
from acebase_ipc.http.responses import Refusals
from acebase_ipc.protocol.errors import RequestRefused
from acebase_ipc.relay.errors import NotFound
from acebase_ipc.relay.relay import Relay

MAX_BODY: Final = 4096
"""Bytes of the body of a request: the longest one has about 30."""

READ: Final = (b"GET", b"HEAD")


@dataclass(frozen=True, slots=True)
class Context:
    """What all resources of the admin endpoint share.

    :ivar turns: divides the time among all that is asked for here.
    :ivar census: the figures of all peers.
    :ivar clock: monotonic seconds.
    :ivar allows_bodies: whether the bodies of messages may be shown.
    """

    relay: Relay
    server: Server
    access: AdminAccess
    refusals: Refusals
    history: History
    lag: LoopLag
    canary: Canary
    turns: Turns
    census: LatestCensus
    reactor: IReactorTime
    clock: Callable[[], float]
    allows_bodies: bool


class AdminRequest(Request):
    """A request of which no more than :data:`MAX_BODY` bytes of a body are kept.

    :ivar received: bytes of the body so far.
    """

    received = 0

    def gotLength(self, length: int | None) -> None:
        """Make room for a body, in memory."""
        super().gotLength(min(length or 0, MAX_BODY))

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a piece of the body, up to the limit."""
        super().handleContentChunk(data[: max(0, MAX_BODY - self.received)])
        self.received += len(data)


class Endpoint(Resource):
    """A path of the admin endpoint: checks who asks, and how, and answers refusals.

    :cvar needs_token: whether a token is needed where one is required.
    """

    needs_token = True

    def __init__(self, context: Context, methods: tuple[bytes, ...] = READ) -> None:
        super().__init__()
        self.context = context
        self._methods = methods

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Refuse every path below."""
        return Missing(self.context)

    def render(self, request: Request) -> bytes | int:
        """Answer a request whose body is complete."""
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        try:
            answer = self._checked(request)
        except RequestRefused as refusal:
            if isinstance(refusal, WrongToken):
                request.setHeader(b"WWW-Authenticate", b"Bearer")
            self.context.refusals.refuse(request, refusal)
            return NOT_DONE_YET
        if request.method == b"HEAD" and isinstance(answer, bytes):
            request.setHeader(b"Content-Length", b"%d" % len(answer))
            return b""
        return answer

    def _checked(self, request: Request) -> bytes | int:
        access = self.context.access
        access.check_page(request)
        if self.needs_token:
            access.check_token(request)
        self._check_method(request)
        if request.method == b"OPTIONS":
            request.setResponseCode(HTTPStatus.NO_CONTENT)
            return b""
        if isinstance(request, AdminRequest) and request.received > MAX_BODY:
            raise RequestTooLarge(MAX_BODY)
        if request.method == b"POST":
            access.check_intent(request)
        return self.answer(request)

    def _check_method(self, request: Request) -> None:
        methods = (*self._methods, b"OPTIONS")
        if request.method == b"OPTIONS" or request.method not in methods:
            request.setHeader(b"Allow", b", ".join(methods))
        if request.method not in methods:
            raise MethodNotAllowed

    def answer(self, request: Request) -> bytes | int:
        """Answer a request that has passed all checks.

        :raises RequestRefused: with the answer to give.
        """
        raise NotImplementedError


class Missing(Endpoint):
    """A path that does not exist, with any method."""

    def _check_method(self, request: Request) -> None:
        """Refuse every request.

        :raises NotFound: always.
        """
        raise NotFound


class Directory(Resource):
    """A path with others below it, and nothing else."""

    def __init__(self, context: Context, children: Mapping[str, IResource]) -> None:
        super().__init__()
        self._context = context
        for name, child in children.items():
            self.putChild(name.encode(), child)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Refuse every other path."""
        return Missing(self._context)

    def render(self, request: Request) -> bytes | int:
        """Refuse a request for the path itself."""
        return Missing(self._context).render(request)
